//! Answers to replicas: what is live, what is in it, its contents.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use direct_puppet_transport::protocol::limits::MAX_MANIFEST_BYTES;
use direct_puppet_transport::protocol::{
    Digest, EntryKind, Fetch, Manifest, Refusal, RefusalCode, SyncConfirm, SyncConfirmed, SyncManifest, SyncManifestReply, codec,
};

use super::internal;
use crate::blocking;
use crate::code::Code;
use crate::server::Server;

/// Longest time that a confirmation is held.
const MAX_WAIT: Duration = Duration::from_secs(300);

impl Server {
    /// Says what is live; holds the answer while the replica has just that, if it asks for it.
    pub(super) async fn answer_confirm(&self, request: &SyncConfirm) -> Result<SyncConfirmed, Refusal> {
        self.followers.heard(request);
        if self.role.is_primary() {
            self.cleared().await.map_err(|error| Refusal::new(RefusalCode::Stale, error.to_string()))?;
        }
        let deadline = tokio::time::Instant::now() + Duration::from_secs(u64::from(request.wait_seconds)).min(MAX_WAIT);
        let mut changes = self.environments.changes();
        loop {
            changes.mark_unchanged();
            if !self.role.is_primary() {
                return Err(Refusal::new(RefusalCode::Stale, "this server is not the primary: ask another"));
            }
            let live = self.environments.all_live();
            let has = |code: &Arc<Code>| {
                let deployed = request.deployed.get(&code.version.environment);
                deployed
                    .is_some_and(|deployed| deployed.version == code.version.version && deployed.code_id == code.version.code_id)
            };
            let rollout = self.gate.rollout();
            if !live.iter().all(has) || rollout != request.rollout || tokio::time::Instant::now() >= deadline {
                return Ok(SyncConfirmed { live: live.iter().map(|code| code.version.published()).collect(), rollout });
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep_until(deadline) => {}
                () = self.stopping.cancelled() => {
                    return Ok(SyncConfirmed { live: live.iter().map(|code| code.version.published()).collect(), rollout });
                }
            }
        }
    }

    /// Says what is in a version: only what differs, when the replica has another one of the environment.
    pub(super) async fn answer_manifest(&self, request: &SyncManifest) -> Result<SyncManifestReply, Refusal> {
        let (environments, request) = (Arc::clone(&self.environments), request.clone());
        let find = move || -> Result<Option<SyncManifestReply>, Refusal> {
            let read = |code_id| environments.manifest(&request.environment, code_id).map_err(|error| internal(&error));
            let Some(manifest) = read(request.code_id)? else { return Ok(None) };
            // A base that cannot be read is as good as none.
            if let Some(base) = request.base
                && let Ok(Some(base)) = read(base)
            {
                return Ok(Some(delta(&base, &manifest)));
            }
            let bytes = codec::encode(&manifest).map_err(|error| internal(&error))?;
            if bytes.len() as u64 >= MAX_MANIFEST_BYTES {
                let message = format!("the manifest of {} is longer than {MAX_MANIFEST_BYTES} bytes", request.environment);
                return Err(Refusal::new(RefusalCode::BadRequest, message));
            }
            Ok(Some(SyncManifestReply::Whole { manifest: bytes.into() }))
        };
        let found = blocking::run(find).await.map_err(|error| internal(&error))??;
        found.ok_or_else(|| Refusal::new(RefusalCode::NotFound, "that version is not here any more: ask what is live again"))
    }

    /// Returns which of the contents asked for are in any code that is not collected.
    pub(super) async fn published_contents(&self, request: &Fetch) -> Result<Vec<Arc<HashSet<Digest>>>, Refusal> {
        let live = self.environments.all_live();
        let wanted: HashSet<Digest> = request.digests.iter().copied().collect();
        let find = move || -> HashSet<Digest> {
            let entries = live.iter().flat_map(|code| code.manifest.entries());
            let digests = entries.filter_map(|entry| match entry.kind {
                EntryKind::File { digest, .. } => Some(digest),
                _ => None,
            });
            digests.filter(|digest| wanted.contains(digest)).collect()
        };
        let found = blocking::run(find).await.map_err(|error| internal(&error))?;
        Ok(vec![Arc::new(found)])
    }
}

/// Says what differs between two manifests.
pub(crate) fn delta(base: &Manifest, manifest: &Manifest) -> SyncManifestReply {
    let before: HashMap<_, _> = base.entries().iter().map(|entry| (&entry.path, entry)).collect();
    let changed = manifest.entries().iter().filter(|entry| before.get(&entry.path) != Some(entry)).cloned().collect();
    let removed = base.entries().iter().filter(|entry| manifest.get(&entry.path).is_none()).map(|entry| entry.path.clone());
    SyncManifestReply::Delta { removed: removed.collect(), changed }
}
