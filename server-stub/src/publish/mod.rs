//! Publishing: staging becomes an immutable version, and that version becomes live.
//!
//! Staging is copied into the store file by file, by descriptor and hashed while copied, so what is published is what was
//! read and nothing that changes later. Then staging is listed again: if anything changed meanwhile, nothing is published.
//! `.git` directories (and files, which name one elsewhere) are left out, but for those below `files`, which are contents, and so is
//! what r10k and g10k write about a deploy. Extended attributes, and with them ACLs and capabilities, are not published. Setuid and setgid bits are published as they are; devices, sockets and fifos are refused,
//! and so are links that lead out of the environment.

mod asked_again;
mod copy;
mod index;
mod limits;
mod listing;
mod revision;
mod room;
mod together;

use std::sync::PoisonError;

use direct_puppet_transport::protocol::{CodeId, EntryKind, Environment, Manifest, TreePath};
use serde::{Deserialize, Serialize};

use self::asked_again::answered_before;
use self::index::StagingIndex;
use crate::code::{Author, Code, Effect, Version};
use crate::error::{ServerError, chain};
use crate::server::{OWN, Server, Staging, now};
use crate::shared;

pub(crate) use asked_again::{answer_given, refuse_other_than};
pub(crate) use limits::{MAX_MESSAGE_BYTES, check_request_id, check_text, check_words};
pub(crate) use room::STATE_BYTES;

/// How often a publish is begun anew because another server was faster.
pub(crate) const ATTEMPTS: usize = 8;

/// What to publish.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PublishRequest {
    /// Which environments; all that are staged if none is named.
    pub environments: Vec<Environment>,
    /// Why; at most 4096 bytes.
    pub message: String,
    /// Who; name and address at most 256 bytes each.
    pub author: Author,
    /// The revision of its source, at most 200 bytes. Default: what the deploy tool or git left in staging.
    pub revision: Option<String>,
    /// An id of the request, at most 256 bytes: asked again with the same, the server answers the same and publishes once.
    pub request_id: Option<String>,
    /// Publish only if this is what is live now, in the one environment that is named: who looked at it before, and does not want to
    /// replace what another has published since, is told so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub if_live: Option<CodeId>,
    /// Copy and check, but publish nothing.
    pub dry_run: bool,
}

/// What became of one environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentResult {
    /// The environment.
    pub environment: Environment,
    /// The code that is live now; in a dry run that would be.
    pub code_id: Option<CodeId>,
    /// Where it stands.
    pub epoch: u64,
    /// Where it stands.
    pub sequence: u64,
    /// Whether it is another than before.
    pub changed: bool,
    /// Files in it.
    pub files: u64,
    /// Contents that the store did not have; a dry run leaves there what it copied.
    pub new_contents: u64,
    /// Files that were read; the others are as they were when they were last read.
    pub files_read: u64,
    /// Why it was not published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<PublishError>,
    /// What else the administrator should know of a publish that was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// It was told of beside those that were asked for.
    #[serde(skip)]
    pub(crate) is_beside: bool,
}

/// Why an environment was not published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishError {
    /// The stable code, as `unstable`, `compile`, `unpublishable`.
    pub code: String,
    /// For people.
    pub message: String,
    /// The paths that it is about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
}

/// Publishes each environment by itself. Blocking; one publish at a time.
pub(crate) fn publish(server: &Server, request: &PublishRequest, who: &str) -> Result<Vec<EnvironmentResult>, ServerError> {
    let _turn = server.publishing.lock().unwrap_or_else(PoisonError::into_inner);
    // It may have stepped down while this waited.
    server.refuse_as_replica()?;
    limits::check_request(request)?;
    if let Some(text) = request.revision.as_ref().filter(|text| !revision::is_revision(text)) {
        return Err(ServerError::Unpublishable { paths: vec![format!("{text:?} names no revision of a source")] });
    }
    if !request.dry_run {
        server.end_promotion();
    }
    // Environments that are live and not staged, and whether they cannot be published for that.
    let mut left = Vec::new();
    // What is staged and is no environment.
    let mut passed_over = Vec::new();
    let environments = match request.environments.as_slice() {
        [] => {
            let staged = server.options.staging.environments();
            let is_staged = staged.is_ok();
            let environments = match staged {
                Ok((environments, others)) => {
                    passed_over = others;
                    environments
                }
                Err(error) => answered_before(server, request)?.ok_or(error)?,
            };
            let of_others = live_anywhere(server, is_staged).into_iter();
            let of_others = of_others.filter(|live| !environments.contains(&live.environment));
            left.extend(of_others.map(|live| not_staged(&live, is_staged)));
            environments
        }
        named => named.to_vec(),
    };
    let result = |environment: Environment| {
        publish_one(server, request, who, &environment).unwrap_or_else(|error| {
            let live = server.environments.live(&environment).map(|code| code.version.clone());
            let error = PublishError { code: error.code().to_owned(), paths: error.paths().to_vec(), message: chain(&error) };
            EnvironmentResult { error: Some(error), ..unchanged(environment, live.as_ref()) }
        })
    };
    let mut results: Vec<EnvironmentResult> = environments.into_iter().map(result).collect();
    if let Some(first) = results.first_mut().filter(|_| !passed_over.is_empty()) {
        let told = first.note.take().into_iter().chain(passed_over).collect::<Vec<_>>();
        first.note = Some(told.join("; "));
    }
    results.extend(left);
    Ok(results)
}

/// Returns what is live; of servers that share a store what is live there, since what this one has of it may be old.
fn live_anywhere(server: &Server, is_staged: bool) -> Vec<Version> {
    let Some(shared) = &server.shared else { return server.live_versions() };
    if !is_staged {
        // What a request that was answered before was for is in the history that all have.
        return Vec::new();
    }
    shared::wait(async { Ok(shared.live_versions().await?) }).unwrap_or_else(|error| {
        // Each environment is refused for that itself.
        tracing::warn!("which environments are live and not staged here is not told: {}", chain(&error));
        Vec::new()
    })
}

/// Tells of an environment that is live and was not published with the others. Where nothing is staged, and others were answered from what
/// is remembered, that is an error: whether it was to be published is not known.
fn not_staged(live: &Version, is_staged: bool) -> EnvironmentResult {
    let result = unchanged(live.environment.clone(), Some(live));
    if is_staged {
        let note = "it is not staged here, and stays live as it was published last".to_owned();
        return EnvironmentResult { note: Some(note), is_beside: true, ..result };
    }
    let error = ServerError::NoStaging;
    let error = PublishError { code: error.code().to_owned(), paths: Vec::new(), message: chain(&error) };
    EnvironmentResult { error: Some(error), ..result }
}

pub(crate) fn unchanged(environment: Environment, live: Option<&Version>) -> EnvironmentResult {
    EnvironmentResult {
        environment,
        code_id: live.map(|live| live.code_id),
        epoch: live.map_or(0, |live| live.version.epoch),
        sequence: live.map_or(0, |live| live.version.sequence),
        changed: false,
        files: live.map_or(0, |live| live.files),
        new_contents: 0,
        files_read: 0,
        error: None,
        note: None,
        is_beside: false,
    }
}

/// Says of files that run with another's rights, which are published as they are, where they are new.
fn privileged(manifest: &Manifest, base: &Manifest) -> Option<String> {
    let paths: Vec<&TreePath> = manifest
        .changed_since(base)
        .filter(|entry| entry.mode & 0o6000 != 0 && matches!(entry.kind, EntryKind::File { .. }))
        .map(|entry| &entry.path)
        .collect();
    Some(format!("published with set-user-ID or set-group-ID bits: {}", first_of(&paths)?))
}

/// Returns a note on links that are new since `base` and absolute: they are taken as they are, and point at what is on the node.
fn leads_away(manifest: &Manifest, base: &Manifest) -> Option<String> {
    let is_absolute = |kind: &EntryKind| matches!(kind, EntryKind::Link { target } if target.starts_with(b"/"));
    let paths: Vec<&TreePath> =
        manifest.changed_since(base).filter(|entry| is_absolute(&entry.kind)).map(|entry| &entry.path).collect();
    Some(format!("published with links to absolute paths, which are those of the node: {}", first_of(&paths)?))
}

fn first_of(paths: &[&TreePath]) -> Option<String> {
    let first = paths.first()?;
    let others = if paths.len() > 1 { format!(", and {} others", paths.len() - 1) } else { String::new() };
    Some(format!("{first}{others}"))
}

/// Returns who is told to have published: whom the request names, or else who was authenticated.
pub(crate) fn author_of(named: &Author, who: &str) -> Author {
    match *named == Author::default() && who != OWN {
        true => Author { name: who.to_owned(), email: String::new() },
        false => named.clone(),
    }
}

fn publish_one(
    server: &Server,
    request: &PublishRequest,
    who: &str,
    environment: &Environment,
) -> Result<EnvironmentResult, ServerError> {
    server.refuse_behind(environment)?;
    for _ in 0..ATTEMPTS {
        let is_orphan = server.catch_up(environment)?;
        server.learn(environment)?;
        if let Some(result) = attempt(server, request, who, environment, is_orphan)? {
            return Ok(result);
        }
    }
    Err(ServerError::Outrun { environment: environment.clone() })
}

/// Publishes on top of what is live here; `None` when another server that shares the store was faster. `is_orphan`: what is live here
/// is not in the store.
fn attempt(
    server: &Server,
    request: &PublishRequest,
    who: &str,
    environment: &Environment,
    is_orphan: bool,
) -> Result<Option<EnvironmentResult>, ServerError> {
    let live = server.environments.live(environment);
    let before = live.as_ref().map(|code| &code.version);
    // Who only wants to know what would happen is told that, whatever was published under the same id.
    if let Some(request_id) = request.request_id.as_deref().filter(|_| !request.dry_run)
        && let Some(answer) = answer_given(server, environment, request_id, before)?
    {
        return Ok(Some(answer));
    }
    refuse_other_than(request.if_live, environment, before)?;
    if matches!(server.options.staging, Staging::Nowhere) {
        return Err(ServerError::NoStaging);
    }
    let dir = server.options.staging.dir_of(environment).filter(|dir| dir.is_dir());
    let Some(dir) = dir else {
        let path = server.options.staging.dir_of(environment).unwrap_or_default();
        return Err(ServerError::NoEnvironment { environment: environment.clone(), path });
    };
    // A tool may stage beside, and then turn a link over to it.
    let named = dir.clone();
    let dir = dir.canonicalize().map_err(|source| ServerError::Staging { path: dir, source })?;
    revision::refuse_failed_deploy(&dir)?;
    let base = live.as_ref().map(|code| code.manifest.clone()).unwrap_or_default();
    let copied = copy::copy(server, environment, &dir, &base)?;
    let code_id = match before {
        Some(before) if !copied.is_changed => before.code_id,
        _ => copied.manifest.code_id(),
    };
    if let Some(before) = before.filter(|before| !is_orphan && before.code_id == code_id) {
        // It was published before, so it is no mixture, whatever changes in staging meanwhile. What was damaged is whole again.
        server.store.sync()?;
        save_index(copied.index);
        if !request.dry_run {
            // Asked again when staging is another, it is answered the same.
            let done = Version { request_id: request.request_id.clone(), ..before.clone() };
            server.environments.answers.add(&done, server.role.epoch(), Effect::Unchanged)?;
        }
        return Ok(Some(EnvironmentResult { files_read: copied.files_read, ..unchanged(environment.clone(), Some(before)) }));
    }
    copied.refuse_unstable(&dir)?;
    limits::check_manifest(&copied.manifest)?;
    let next = server.environments.next(environment, server.role.epoch());
    let version = Version {
        environment: environment.clone(),
        code_id,
        version: next.version,
        time_unix_seconds: now(),
        author: author_of(&request.author, who),
        message: request.message.clone(),
        revision: request.revision.clone().or_else(|| revision::revision(&dir, &named)),
        request_id: request.request_id.clone(),
        files: copied.files,
        new_contents: copied.new_contents,
        lineage: next.lineage,
    };
    let notes: Vec<String> =
        [privileged(&copied.manifest, &base), leads_away(&copied.manifest, &base)].into_iter().flatten().collect();
    let note = (!notes.is_empty()).then(|| notes.join("; "));
    let code = Code::new(version.clone(), copied.manifest, server.store.clone());
    server.options.compiler.check(&code)?;
    let mut result = EnvironmentResult {
        note,
        changed: true,
        new_contents: copied.new_contents,
        files_read: copied.files_read,
        ..unchanged(environment.clone(), Some(&version))
    };
    if !request.dry_run {
        server.store.sync()?;
        // Before it is live: nothing is ever live of which the log does not say who wanted it.
        let what = format!("{environment} {code_id} as {}", version.version);
        server.audit_work("publish", who, Some(&request.author), &what)?;
        let Some(noted) = server.go_live(live.as_deref(), code)?.noted(result) else { return Ok(None) };
        result = noted;
        if let Err(error) = server.environments.answers.add(&version, server.role.epoch(), Effect::Changed) {
            // The history has it: only a server that is promoted in this one's place does not hear of it.
            tracing::warn!("{}", chain(&error));
        }
        save_index(copied.index);
    }
    Ok(Some(result))
}

/// Saves what staging was; where that fails only the next publish is slower.
fn save_index(index: StagingIndex) {
    if let Err(error) = index.save() {
        tracing::warn!("{}", chain(&error));
    }
}
