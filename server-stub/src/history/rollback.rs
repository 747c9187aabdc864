//! Making old code live again: a new publish of old content.

use std::sync::{Arc, PoisonError};

use direct_puppet_transport::protocol::{CodeId, Digest, EntryKind, Environment, Manifest, VersionCounter};
use serde::{Deserialize, Serialize};

use super::VersionName;
use crate::blocking;
use crate::code::{Author, Code, Effect, Version};
use crate::error::{ServerError, chain};
use crate::publish::{
    ATTEMPTS, EnvironmentResult, answer_given, author_of, check_request_id, check_words, refuse_other_than, unchanged,
};
use crate::server::{OWN, Server, now};

/// What to make live again.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// The environment.
    pub environment: Environment,
    /// The version.
    pub to: VersionName,
    /// Why, at most 4096 bytes; what it goes back to is said by itself.
    #[serde(default)]
    pub message: String,
    /// Who; name and address at most 256 bytes each.
    #[serde(default)]
    pub author: Author,
    /// An id of the request, as that of a publish, at most 256 bytes: asked again with the same, the server answers the same and goes back once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Go back only if this is what is live now: what another has published since is not undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_live: Option<CodeId>,
    /// Verify and check, but make nothing live.
    #[serde(default)]
    pub dry_run: bool,
}

impl RollbackRequest {
    /// Returns the request to go back to `to`, without a word.
    #[must_use]
    pub fn new(environment: Environment, to: VersionName) -> Self {
        let (message, author) = (String::new(), Author::default());
        Self { environment, to, message, author, request_id: None, if_live: None, dry_run: false }
    }

    fn check(&self) -> Result<(), ServerError> {
        check_words(&self.message, &self.author)?;
        check_request_id(self.request_id.as_deref())
    }
}

impl Server {
    /// Makes the code of an old version live again, as a new version: counters only grow. All its contents are read and verified
    /// before.
    ///
    /// # Errors
    ///
    /// When this is not the primary, other code is live than `if_live` says, the message, the author or the id is too long, the version is not
    /// there any more, a content is missing or damaged, or it does not compile.
    ///
    /// # Cancel safety
    ///
    /// When it is dropped, the rollback may be made all the same.
    pub async fn rollback(self: &Arc<Self>, request: RollbackRequest) -> Result<EnvironmentResult, ServerError> {
        self.rollback_as(request, OWN).await
    }

    /// As [`Server::rollback`], for `who`: the peer as it was authenticated.
    ///
    /// # Errors
    ///
    /// As [`Server::rollback`].
    pub async fn rollback_as(self: &Arc<Self>, request: RollbackRequest, who: &str) -> Result<EnvironmentResult, ServerError> {
        self.refuse_as_replica()?;
        self.cleared().await?;
        request.check()?;
        // Where servers share a store, contents are brought from there in this request's turn.
        if self.shared.is_none() {
            // Before anything is brought: what it went back to may not be here any more.
            let (server, asked) = (Arc::clone(self), request.clone());
            if let Some(answer) = blocking::run(move || server.went_back(&asked)).await?? {
                return Ok(answer);
            }
            // Others go on meanwhile, however long a server that is asked takes.
            self.mend_version(&request.environment, request.to).await?;
        }
        let who = who.to_owned();
        self.in_turn(move |server| server.go_back(&request, &who)).await
    }

    fn go_back(&self, request: &RollbackRequest, who: &str) -> Result<EnvironmentResult, ServerError> {
        let _turn = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        self.refuse_as_replica()?;
        request.check()?;
        self.refuse_behind(&request.environment)?;
        if !request.dry_run {
            self.end_promotion();
        }
        for _ in 0..ATTEMPTS {
            let is_orphan = self.catch_up(&request.environment)?;
            self.learn(&request.environment)?;
            if let Some(result) = self.go_back_from_here(request, who, is_orphan)? {
                return Ok(result);
            }
        }
        Err(ServerError::Outrun { environment: request.environment.clone() })
    }

    /// Returns how this very request was answered before. Blocking.
    fn went_back(&self, request: &RollbackRequest) -> Result<Option<EnvironmentResult>, ServerError> {
        let Some(request_id) = request.request_id.as_deref().filter(|_| !request.dry_run) else { return Ok(None) };
        let environment = &request.environment;
        self.learn(environment)?;
        let live = self.environments.live(environment);
        let answer = answer_given(self, environment, request_id, live.as_ref().map(|code| &code.version))?;
        let wanted = match request.to {
            VersionName::Code(code_id) => Some(code_id),
            // What that was then is not known.
            VersionName::Live => None,
            to => match self.find_version(environment, to) {
                Ok(version) => Some(version.code_id),
                Err(ServerError::NoVersion { .. }) => None,
                Err(error) => return Err(error),
            },
        };
        let Some(answer) = answer else { return Ok(None) };
        let is_other = match request.to {
            // To go back to what is live makes no other code live.
            VersionName::Live => answer.changed && self.has_replaced_another(environment, &answer)?,
            _ => wanted.is_some() && answer.code_id != wanted,
        };
        if is_other {
            return Err(ServerError::OtherRequest { environment: environment.clone(), made: answer.code_id });
        }
        Ok(Some(answer))
    }

    /// Whether the version that an answer tells of has replaced other code, as far as the history tells. Blocking.
    fn has_replaced_another(&self, environment: &Environment, answer: &EnvironmentResult) -> Result<bool, ServerError> {
        let history = self.environments.history(environment)?;
        let made = VersionCounter { epoch: answer.epoch, sequence: answer.sequence };
        let Some(at) = history.iter().position(|version| version.version == made) else { return Ok(true) };
        // What a promotion left out was not live before it.
        let before = history[..at].iter().rev().find(|version| !version.is_left_out_of(&history[at]));
        Ok(before.is_none_or(|before| Some(before.code_id) != answer.code_id))
    }

    /// As a publish: `None` when another server that shares the store was faster. `is_orphan`: what is live here is not in the store.
    fn go_back_from_here(
        &self,
        request: &RollbackRequest,
        who: &str,
        is_orphan: bool,
    ) -> Result<Option<EnvironmentResult>, ServerError> {
        let environment = &request.environment;
        let base = self.environments.live(environment);
        if let Some(answer) = self.went_back(request)? {
            return Ok(Some(answer));
        }
        let (old, manifest) = self.find_manifest(environment, request.to)?;
        // What was live when it was damaged is served to nobody: to go back to that makes it live.
        let live = match &base {
            Some(base) => base.version.clone(),
            None => self.find_version(environment, VersionName::Live)?,
        };
        refuse_other_than(request.if_live, environment, Some(&live))?;
        if base.is_some() && !is_orphan && live.code_id == old.code_id {
            if !request.dry_run {
                let done = Version { request_id: request.request_id.clone(), ..live.clone() };
                self.environments.answers.add(&done, self.role.epoch(), Effect::Unchanged)?;
            }
            return Ok(Some(unchanged(environment.clone(), Some(&live))));
        }
        self.leftovers.discard(true);
        self.bring_contents(&manifest)?;
        for (path, digest) in contents(&manifest) {
            if !self.store.has_verified(&digest)? {
                let reason = format!("content of {path} is missing: version {} cannot be made live again", old.version);
                return Err(ServerError::Damaged { path: self.store.path_of(&digest), reason });
            }
        }
        let next = self.environments.next(environment, self.role.epoch());
        let message = match request.message.as_str() {
            "" => format!("rollback to {}", old.version),
            message => format!("rollback to {}: {message}", old.version),
        };
        let version = Version {
            version: next.version,
            time_unix_seconds: now(),
            author: author_of(&request.author, who),
            message,
            request_id: request.request_id.clone(),
            new_contents: 0,
            lineage: next.lineage,
            ..old
        };
        let code = Code::new(version.clone(), manifest, self.store.clone());
        self.options.compiler.check(&code)?;
        let result = EnvironmentResult { changed: true, ..unchanged(environment.clone(), Some(&version)) };
        if request.dry_run {
            return Ok(Some(result));
        }
        let what = format!("{environment} {} as {}", version.code_id, version.version);
        self.audit_work("rollback", who, Some(&request.author), &what)?;
        let Some(noted) = self.go_live(base.as_deref(), code)?.noted(result) else { return Ok(None) };
        if let Err(error) = self.environments.answers.add(&version, self.role.epoch(), Effect::Changed) {
            // As of a publish: the history has it.
            tracing::warn!("{}", chain(&error));
        }
        Ok(Some(noted))
    }
}

/// Returns the files of a manifest with their contents.
pub(super) fn contents(manifest: &Manifest) -> impl Iterator<Item = (String, Digest)> {
    manifest.entries().filter_map(|entry| match entry.kind {
        EntryKind::File { digest, .. } => Some((entry.path.to_string(), digest)),
        _ => None,
    })
}
