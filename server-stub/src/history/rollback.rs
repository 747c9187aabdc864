//! Making old code live again: a new publish of old content.

use std::sync::{Arc, PoisonError};

use direct_puppet_transport::protocol::{Digest, EntryKind, Environment, Manifest};
use serde::{Deserialize, Serialize};

use super::VersionName;
use crate::code::{Author, Code, Version};
use crate::error::ServerError;
use crate::publish::{ATTEMPTS, EnvironmentResult, author_of, check_words, unchanged};
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
}

impl Server {
    /// Makes the code of an old version live again, as a new version: counters only grow. All its contents are read and verified
    /// before.
    ///
    /// # Errors
    ///
    /// When this is not the primary, the message or the author is too long, the version is not there any more, a content is missing or damaged, or it does not compile.
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
        check_words(&request.message, &request.author)?;
        // Each holds a thread that waits: those whose turn it is not shall not.
        let turn = self.turn().await;
        self.mend_version(&request.environment, request.to).await?;
        let who = who.to_owned();
        self.in_this_turn(turn, move |server| server.go_back(&request, &who)).await
    }

    fn go_back(&self, request: &RollbackRequest, who: &str) -> Result<EnvironmentResult, ServerError> {
        let _turn = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        self.refuse_as_replica()?;
        check_words(&request.message, &request.author)?;
        self.refuse_behind(&request.environment)?;
        self.end_promotion();
        for _ in 0..ATTEMPTS {
            self.catch_up(&request.environment)?;
            if let Some(result) = self.go_back_from_here(request, who)? {
                return Ok(result);
            }
        }
        Err(ServerError::Outrun { environment: request.environment.clone() })
    }

    /// As a publish: `None` when another server that shares the store was faster.
    fn go_back_from_here(&self, request: &RollbackRequest, who: &str) -> Result<Option<EnvironmentResult>, ServerError> {
        let environment = &request.environment;
        let (old, manifest) = self.find_manifest(environment, request.to)?;
        let base = self.environments.live(environment);
        let live = self.find_version(environment, VersionName::Live)?;
        if live.code_id == old.code_id {
            return Ok(Some(unchanged(environment.clone(), Some(&live))));
        }
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
            request_id: None,
            new_contents: 0,
            lineage: next.lineage,
            ..old
        };
        let code = Code::new(version.clone(), manifest, self.store.clone());
        self.options.compiler.check(&code)?;
        let what = format!("{environment} {} as {}", version.code_id, version.version);
        self.audit_work("rollback", who, Some(&request.author), &what)?;
        let result = EnvironmentResult { changed: true, ..unchanged(environment.clone(), Some(&version)) };
        Ok(self.go_live(base.as_deref(), code)?.noted(result))
    }
}

/// Returns the files of a manifest with their contents.
pub(super) fn contents(manifest: &Manifest) -> impl Iterator<Item = (String, Digest)> {
    manifest.entries().filter_map(|entry| match entry.kind {
        EntryKind::File { digest, .. } => Some((entry.path.to_string(), digest)),
        _ => None,
    })
}
