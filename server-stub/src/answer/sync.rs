//! Answers to replicas: what is live, what is in it, its contents.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use direct_puppet_transport::Peer;
use direct_puppet_transport::protocol::limits::MAX_MANIFEST_BYTES;
use direct_puppet_transport::protocol::{
    Certname, CodeId, Digest, EntryKind, Environment, Fetch, Manifest, Refusal, RefusalCode, SyncConfirm, SyncConfirmed,
    SyncManifest, SyncManifestReply, codec,
};

use super::identity::{is_named, is_one_of};
use super::{internal, refusal};
use crate::blocking;
use crate::code::{Code, Differences};
use crate::error::{ServerError, chain};
use crate::replica::Share;
use crate::server::Server;

/// Longest time that a confirmation is held.
const MAX_WAIT: Duration = Duration::from_secs(300);

/// How long a replica is not told how requests to publish were answered, while nothing else is news.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// Manifests that are remembered as given to one replica: it brings one version at a time,
const MAX_GIVEN: usize = 16;
/// and to all of them.
const MAX_GIVEN_IN_ALL: usize = 4096;

/// Which manifests were given to whom lately: who was told what is in a version may fetch it, though another is live by then.
#[derive(Debug, Default)]
pub(crate) struct Given(Mutex<VecDeque<(Certname, Environment, CodeId)>>);

impl Given {
    fn note(&self, request: &SyncManifest) {
        let given = (request.replica.clone(), request.environment.clone(), request.code_id);
        let mut all = self.lock();
        all.retain(|before| *before != given);
        all.push_front(given);
        all.truncate(MAX_GIVEN_IN_ALL);
    }

    /// Returns the newest first.
    fn to(&self, replica: &Certname) -> Vec<(Environment, CodeId)> {
        let all = self.lock();
        let of_it = all.iter().filter(|(name, ..)| name == replica);
        of_it.take(MAX_GIVEN).map(|(_, environment, code_id)| (environment.clone(), *code_id)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Certname, Environment, CodeId)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    /// Hears of an epoch from another server; returns whether it was news. Only those may raise it that were named to this one.
    pub(super) async fn heard_from(&self, peer: &Peer, name: &Certname, epoch: u64) -> Result<bool, Refusal> {
        if epoch <= self.role.epoch() {
            return Ok(false);
        }
        is_named(peer, name, &self.options.replicas)?;
        match self.hear(epoch).await {
            Err(error @ ServerError::EpochTooFar { .. }) => {
                tracing::warn!(%name, "{error}");
                Err(Refusal::new(RefusalCode::BadRequest, error.to_string()))
            }
            heard => heard.map_err(|error| refusal(&error)),
        }
    }

    /// Says what is live; holds the answer while the replica has just that, if it asks for it. A replica that knows a higher epoch ends
    /// a primary.
    pub(super) async fn answer_confirm(
        &self,
        peer: &Peer,
        request: &SyncConfirm,
        share: &Share,
    ) -> Result<SyncConfirmed, Refusal> {
        // Over a plain connection the name is all there is.
        let is_named = !matches!(peer, Peer::Plain) || is_one_of(&request.replica, &self.options.replicas);
        let is_named = is_named && !share.is_part();
        // What it says of others may be anything.
        let mut told = request.clone();
        told.deployed.retain(|environment, _| share.has(environment));
        if let Some(nodes) = &mut told.nodes {
            nodes.retain(|environment, _| share.has(environment));
        }
        self.followers.heard(&told, is_named);
        if self.role.is_primary() && !is_epoch_passed_over() {
            self.heard_from(peer, &request.replica, request.epoch).await?;
        }
        if self.role.is_primary() {
            self.cleared().await.map_err(|error| Refusal::new(RefusalCode::Stale, error.to_string()))?;
        }
        let mut deadline = tokio::time::Instant::now() + Duration::from_secs(u64::from(request.wait_seconds)).min(MAX_WAIT);
        let (mut changes, mut answers) = (self.environments.changes(), self.environments.answers.changes());
        // An earlier program says nothing of answers, and nothing of nodes.
        let mut tells_answers = !request.answered.is_empty() || request.nodes.is_some();
        loop {
            changes.mark_unchanged();
            answers.mark_unchanged();
            let not_primary = || Refusal::new(RefusalCode::Stale, "this server is not the primary: ask another");
            let epoch = self.role.leads().ok_or_else(not_primary)?;
            let mut live = self.environments.all_live();
            live.retain(|code| share.has(&code.version.environment));
            if self.role.leads() != Some(epoch) {
                // What is live may be another's by now.
                continue;
            }
            let has = |code: &Arc<Code>| {
                let deployed = request.deployed.get(&code.version.environment);
                deployed
                    .is_some_and(|deployed| deployed.version == code.version.version && deployed.code_id == code.version.code_id)
            };
            // Soon, and not at once: one that cannot remember them asks no more often for that.
            if tells_answers
                && live.iter().any(|code| self.environments.answers.is_behind(&request.answered, &code.version.environment))
            {
                deadline = deadline.min(tokio::time::Instant::now() + ANSWERS_WITHIN);
            }
            let rollout = self.gate.rollout();
            let is_news = !live.iter().all(has) || rollout != request.rollout;
            if is_news || tokio::time::Instant::now() >= deadline || self.stopping.is_cancelled() {
                let live = live.iter().map(|code| code.version.published()).collect();
                let mut answered = self.environments.answers.beyond(&request.answered);
                answered.retain(|environment, _| share.has(environment));
                return Ok(SyncConfirmed { live, rollout, epoch, answered, is_part: share.is_part() });
            }
            tokio::select! {
                _ = changes.changed() => {}
                _ = answers.changed() => tells_answers = true,
                () = tokio::time::sleep_until(deadline) => {}
                () = self.stopping.cancelled() => {}
            }
        }
    }

    /// Says what is in a version: only what differs, when the replica has another one of the environment.
    pub(super) async fn answer_manifest(&self, request: &SyncManifest, share: &Share) -> Result<SyncManifestReply, Refusal> {
        if !share.has(&request.environment) {
            return Err(out_of_share(&request.replica, share, &format!("environment {}", request.environment)));
        }
        self.given.note(request);
        let (environments, request) = (Arc::clone(&self.environments), request.clone());
        let find = move || -> Result<Option<SyncManifestReply>, Refusal> {
            // A base that cannot be read is as good as none.
            if let Some(base) = request.base
                && let Ok(Some(Differences { removed, changed })) =
                    environments.differences(&request.environment, base, request.code_id)
            {
                let delta = SyncManifestReply::Delta { removed, changed };
                // Where nearly everything differs it may be too long, and the manifest is not.
                if codec::encoded_len(&delta).is_ok_and(|bytes| bytes <= MAX_MANIFEST_BYTES) {
                    return Ok(Some(delta));
                }
            }
            let found = environments.manifest(&request.environment, request.code_id).map_err(|error| internal(&error))?;
            let Some(manifest) = found else { return Ok(None) };
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

    /// Returns which of the contents asked for are in code that is kept, or whose manifest the replica was given lately: what it has begun to
    /// bring may be replaced meanwhile, and what was damaged there need not be live. Whether a content is elsewhere is not told to one that
    /// may have only some environments.
    pub(super) async fn published_contents(&self, request: &Fetch, share: Share) -> Result<Vec<Arc<HashSet<Digest>>>, Refusal> {
        let (environments, given) = (Arc::clone(&self.environments), self.given.to(&request.certname));
        let mut wanted: HashSet<Digest> = request.digests.iter().copied().collect();
        let for_find = share.clone();
        let find = move || -> HashSet<Digest> {
            let share = for_find;
            let mut found = HashSet::with_capacity(wanted.len());
            let mut look = |manifest: &Manifest| {
                for entry in manifest.entries() {
                    if let EntryKind::File { digest, .. } = entry.kind
                        && wanted.remove(&digest)
                    {
                        found.insert(digest);
                    }
                }
                wanted.is_empty()
            };
            let is_shared = |code: &&Arc<Code>| share.has(&code.version.environment);
            if environments.all_live().iter().filter(is_shared).any(|code| look(&code.manifest)) {
                return found;
            }
            // What it was given lately may be no version any more.
            for (environment, code_id) in given.into_iter().filter(|(environment, _)| share.has(environment)) {
                match environments.manifest(&environment, code_id) {
                    Ok(Some(manifest)) if look(&manifest) => return found,
                    Ok(_) => {}
                    Err(error) => tracing::warn!("{}", chain(&error)),
                }
            }
            environments.look_through(|environment| share.has(environment), look);
            found
        };
        let found = blocking::run(find).await.map_err(|error| internal(&error))?;
        if share.is_part() && found.is_empty() && !request.digests.is_empty() {
            return Err(out_of_share(&request.certname, &share, "what it asks for"));
        }
        Ok(vec![Arc::new(found)])
    }
}

/// The answer to a replica that asks for what it may not have.
pub(super) fn out_of_share(replica: &Certname, share: &Share, what: &str) -> Refusal {
    tracing::warn!(%replica, what, "a replica asked for what it may not have");
    let message = format!("{what} is not for {replica}, which may have {share}: name it with --replica to the primary for more");
    Refusal::new(RefusalCode::Forbidden, message)
}

/// Whether confirmations are to pass over which epoch the other side knows: a mistake that tests make.
pub(crate) fn is_epoch_passed_over() -> bool {
    #[cfg(test)]
    return crate::tests::sim::is_planted(crate::tests::sim::Bug::EpochNotCompared);
    #[cfg(not(test))]
    false
}
