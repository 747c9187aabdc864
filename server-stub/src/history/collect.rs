//! Collecting what nothing refers to any more.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use direct_puppet_transport::protocol::{CodeId, Digest, Environment};
use serde::{Deserialize, Serialize};

use super::rollback::contents;
use crate::code::Version;
use crate::error::ServerError;
use crate::role::Others;
use crate::server::{Server, now};
use crate::shared::{self, Rules};

/// How long a collection waits for a moment in which nothing is being brought.
const BRINGS_END_WITHIN: Duration = Duration::from_secs(120);

/// How often it looks for one.
const BRINGS_LOOK_EVERY: Duration = Duration::from_millis(20);

/// What may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollectRequest {
    /// Versions stay for so many seconds after another took their place, whether a catalog refers to them or not.
    pub grace_seconds: u64,
    /// Tell, but remove nothing.
    #[serde(default)]
    pub dry_run: bool,
}

impl Default for CollectRequest {
    /// A week.
    fn default() -> Self {
        Self { grace_seconds: 7 * 24 * 3600, dry_run: false }
    }
}

/// What went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// Versions that are no longer there.
    pub collected: Vec<(Environment, CodeId)>,
    /// How many versions stay.
    pub kept: u64,
    /// Contents removed.
    pub contents: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What went from the store that this server shares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_store: Option<InStore>,
}

/// What went from a store that servers share. Contents go a day after they were last put or looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InStore {
    /// Versions whose contents nothing needs any more.
    pub collected: Vec<(Environment, CodeId)>,
    /// How many versions stay.
    pub kept: u64,
    /// Contents removed.
    pub contents: u64,
}

impl Server {
    /// As [`Server::collect`], for `who`, which is recorded; publishes that wait meanwhile hold no threads.
    ///
    /// # Errors
    ///
    /// As [`Server::collect`].
    ///
    /// # Cancel safety
    ///
    /// When it is dropped, the collection may be made all the same.
    pub async fn collect_as(self: &Arc<Self>, request: CollectRequest, who: &str) -> Result<Collected, ServerError> {
        let who = who.to_owned();
        self.in_turn(move |server| {
            let what = format!("grace {} s{}", request.grace_seconds, if request.dry_run { ", dry run" } else { "" });
            server.audit_if_possible("gc", &who, &what)
        })
        .await?;
        let begun = Instant::now();
        loop {
            match self.in_turn(move |server| server.collect_now(request)).await? {
                Some(collected) => return Ok(collected),
                None if begun.elapsed() >= BRINGS_END_WITHIN => return Err(ServerError::Working),
                // Whoever publishes does not wait for what is being brought.
                None => tokio::time::sleep(BRINGS_LOOK_EVERY).await,
            }
        }
    }

    /// Removes versions that are not live, that no catalog of any node refers to, here or at a replica as it said last, and that were replaced longer ago than the grace
    /// period; then the contents that no version left has. Publishes and compiles wait meanwhile, other answers to nodes do not. Killed
    /// half way, it leaves contents that the next collection removes. Blocking.
    ///
    /// # Errors
    ///
    /// When a manifest that stays cannot be read, or an environment is damaged: then no content is removed; nor when versions are being brought
    /// all the time.
    pub fn collect(&self, request: CollectRequest) -> Result<Collected, ServerError> {
        let begun = Instant::now();
        loop {
            match self.collect_now(request)? {
                Some(collected) => return Ok(collected),
                None if begun.elapsed() >= BRINGS_END_WITHIN => return Err(ServerError::Working),
                None => std::thread::sleep(BRINGS_LOOK_EVERY),
            }
        }
    }

    /// As [`Server::collect`]; `None` while anything is being brought, which is in the store before anything refers to it.
    fn collect_now(&self, request: CollectRequest) -> Result<Option<Collected>, ServerError> {
        let _turn = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let no_bringing = match self.upstream.as_ref().map(|upstream| upstream.hold_brings()) {
            Some(None) => return Ok(None),
            held => held.flatten(),
        };
        // A compile puts contents into the store before the catalog that names them is kept.
        let no_compile = self.collecting.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(lost) = self.environments.all_lost().first() {
            // What its versions need is not known.
            let path = self.environments.dir(&lost.environment);
            let reason = format!(
                "environment {} was damaged: publish it again, or roll back, before anything is collected",
                lost.environment
            );
            return Err(ServerError::Damaged { path, reason });
        }
        if let Some(path) = self.nodes.damaged()?.into_iter().next() {
            let reason = "which code that node has is not known: wait until it asks again, or remove the file when it is gone, before anything \
                          is collected";
            return Err(ServerError::Damaged { path, reason: reason.to_owned() });
        }
        let mut used = self.nodes.codes();
        let of_replicas = self.followers.nodes(&self.options.replicas);
        used.extend(of_replicas.values().flat_map(|told| told.by_code.values()).flat_map(BTreeMap::keys));
        let horizon = now().saturating_sub(request.grace_seconds);
        let mut done = Collected::default();
        // Compiling makes contents too: those of templates.
        let mut reachable: HashSet<Digest> = self.nodes.all_contents();
        for live in self.environments.all_live() {
            let environment = &live.version.environment;
            let collected = self.environments.collected(environment)?;
            let history = self.environments.history(environment)?;
            // Times are whole seconds: without a grace period nothing that was replaced is kept for its time.
            let fresh = if request.grace_seconds == 0 { HashSet::new() } else { fresh(&history, horizon, now()) };
            let codes: BTreeSet<CodeId> = history.iter().map(|version| version.code_id).collect();
            let named: HashSet<CodeId> = codes.iter().copied().collect();
            for code_id in codes.into_iter().filter(|code_id| !collected.contains(code_id)) {
                if code_id != live.version.code_id && !fresh.contains(&code_id) && !used.contains(&code_id) {
                    if !request.dry_run {
                        self.environments.forget(environment, code_id)?;
                    }
                    done.collected.push((environment.clone(), code_id));
                    continue;
                }
                done.kept += 1;
                let manifest = self.environments.manifest(environment, code_id).inspect_err(|error| {
                    if matches!(error, ServerError::Damaged { .. }) {
                        self.mending.want_manifest(environment, code_id);
                    }
                })?;
                if manifest.is_none() && self.role.others() == Others::Store && code_id != live.version.code_id {
                    // It was live elsewhere.
                    continue;
                }
                let manifest = manifest.ok_or_else(|| ServerError::Damaged {
                    path: self.environments.dir(environment),
                    reason: format!("the manifest of {code_id} is missing: run verify before anything is collected"),
                })?;
                reachable.extend(contents(&manifest).map(|(_, digest)| digest));
                reachable.extend(self.environments.manifest_parts(environment, code_id)?);
            }
            // Where the history does not tell, what it may have told of stays; else what an unfinished publish left goes like a version.
            let is_told = self.environments.damaged_lines(environment)?.is_empty();
            for (code_id, written) in self.environments.unnamed(environment, &named)? {
                if is_told && !used.contains(&code_id) && (request.grace_seconds == 0 || written < horizon) {
                    if !request.dry_run {
                        self.environments.forget(environment, code_id)?;
                    }
                    continue;
                }
                done.kept += 1;
                if let Some(manifest) = self.environments.manifest(environment, code_id)? {
                    reachable.extend(contents(&manifest).map(|(_, digest)| digest));
                }
                reachable.extend(self.environments.manifest_parts(environment, code_id)?);
            }
        }
        if !request.dry_run {
            (done.contents, done.bytes) = self.store.retain(&|digest| reachable.contains(digest))?;
        }
        // In the store age protects what nothing refers to yet: nobody here waits for that.
        drop((no_bringing, no_compile));
        if let Some(shared) = &self.shared {
            let rules = Rules {
                horizon: (request.grace_seconds > 0).then_some(horizon),
                min_age: self.options.shared_contents_stay_for,
                dry_run: request.dry_run,
            };
            done.in_store = Some(shared::wait(shared.collect(rules))?);
        }
        Ok(Some(done))
    }
}

/// The code of versions that were live at `horizon` or later, or for which nobody can say it: what took their place was published under a
/// clock that was behind. They stay until something is published under one that is not.
pub(crate) fn fresh(history: &[Version], horizon: u64, now: u64) -> HashSet<CodeId> {
    // Of a clock that was ahead nothing is known that counts for those that come after.
    let mut since = 0;
    let is_fresh = |(at, version): &(usize, &Version)| {
        since = since.max(Some(version.time_unix_seconds).filter(|time| *time <= now).unwrap_or_default());
        let mut later = history[at + 1..].iter().map(|next| next.time_unix_seconds);
        later.find(|time| *time >= since).is_none_or(|replaced| replaced >= horizon)
    };
    history.iter().enumerate().filter(is_fresh).map(|(_, version)| version.code_id).collect()
}
