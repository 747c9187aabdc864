//! Contents and manifests of versions that are kept and that are damaged or missing here are brought again, from whichever other server
//! has them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use direct_puppet_transport::Client;
use direct_puppet_transport::protocol::limits::MAX_MANIFEST_BYTES;
use direct_puppet_transport::protocol::{
    CodeId, Digest, EntryKind, Environment, Manifest, SyncManifest, SyncManifestReply, codec,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::room::Unfetched;
use crate::blocking;
use crate::error::{ServerError, chain};
use crate::history::VersionName;
use crate::role::Peers;
use crate::server::Server;

/// Most contents that wait to be brought; the others are found again when they are next asked for.
const MAX_WANTED: usize = 100_000;

/// How long others are not asked again for what none of them had.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// How long a server may take to give a manifest.
const MANIFEST_LIMIT: Duration = Duration::from_secs(300);

/// What is said of what nobody can be asked for.
const MISSING_HERE: &str = "is damaged or missing here, and this server asks no other: publish it again; a primary asks its replicas when each is named with --successor";

/// Contents with their sizes and a path of each.
type Missing = BTreeMap<Digest, (u64, String)>;

/// Contents that are wanted again.
#[derive(Debug, Default)]
pub(crate) struct Mending {
    wanted: Mutex<BTreeSet<Digest>>,
    manifests: Mutex<BTreeSet<(Environment, CodeId)>>,
    /// Those that were asked for, and when.
    asked: Mutex<HashMap<(Environment, CodeId), Instant>>,
    is_wanted: Notify,
    /// What no other server had, and when.
    nowhere: Mutex<HashMap<Digest, Instant>>,
}

impl Mending {
    /// Has a content brought again.
    pub(crate) fn want(&self, digest: Digest) {
        let nowhere = self.nowhere.lock().unwrap_or_else(PoisonError::into_inner);
        if nowhere.get(&digest).is_some_and(|since| since.elapsed() < ASK_AGAIN) {
            // Two servers that both lack it would ask each other without end.
            return;
        }
        drop(nowhere);
        let mut wanted = self.lock();
        if wanted.len() < MAX_WANTED {
            wanted.insert(digest);
            self.is_wanted.notify_one();
        }
    }

    /// Waits until something is wanted; `false` when it is to stop.
    async fn wants_more(&self, stop: &CancellationToken) -> bool {
        tokio::select! {
            biased;
            () = stop.cancelled() => false,
            () = self.is_wanted.notified() => true,
        }
    }

    /// Has a manifest brought again.
    pub(crate) fn want_manifest(&self, environment: &Environment, code_id: CodeId) {
        let wanted = (environment.clone(), code_id);
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.retain(|_, since| since.elapsed() < ASK_AGAIN);
        if asked.insert(wanted.clone(), Instant::now()).is_none() {
            self.manifests.lock().unwrap_or_else(PoisonError::into_inner).insert(wanted);
            self.is_wanted.notify_one();
        }
    }

    fn take_manifests(&self) -> BTreeSet<(Environment, CodeId)> {
        std::mem::take(&mut *self.manifests.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes that no other server has a content.
    fn is_nowhere(&self, digest: Digest) {
        let mut nowhere = self.nowhere.lock().unwrap_or_else(PoisonError::into_inner);
        if nowhere.len() >= MAX_WANTED {
            nowhere.retain(|_, since| since.elapsed() < ASK_AGAIN);
        }
        if nowhere.len() < MAX_WANTED {
            nowhere.insert(digest, Instant::now());
        }
    }

    fn take(&self) -> BTreeSet<Digest> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Digest>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    /// Brings what is wanted again, until `stop`; where no other server is asked, says what is.
    pub(super) async fn mend(&self, stop: &CancellationToken) {
        let Some(peers) = &self.peers else { return self.tell_what_is_wanted(stop).await };
        while self.mending.wants_more(stop).await {
            for (environment, code_id) in self.mending.take_manifests() {
                tokio::select! {
                    () = self.bring_manifest(peers, &environment, code_id) => {}
                    () = stop.cancelled() => return,
                }
            }
            let missing = self.missing_of_kept(self.mending.take()).await;
            for (digest, (_, path)) in self.bring_again(peers, missing, stop).await {
                self.mending.is_nowhere(digest);
                tracing::error!(%digest, path, "a content of published code is missing here and elsewhere: publish it again");
            }
        }
    }

    async fn tell_what_is_wanted(&self, stop: &CancellationToken) {
        while self.mending.wants_more(stop).await {
            for (environment, code_id) in self.mending.take_manifests() {
                tracing::error!(%environment, %code_id, "the manifest of a version {MISSING_HERE}");
            }
            for (digest, (_, path)) in self.missing_of_kept(self.mending.take()).await {
                self.mending.is_nowhere(digest);
                tracing::error!(%digest, path, "a content of published code {MISSING_HERE}");
            }
        }
    }

    /// Brings what a version lacks here, as far as another server has it. What is damaged is found, so all of it is read.
    pub(crate) async fn mend_version(self: &Arc<Self>, environment: &Environment, name: VersionName) -> Result<(), ServerError> {
        let Some(peers) = self.peers.as_ref().filter(|_| self.shared.is_none()) else { return Ok(()) };
        let (server, wanted) = (Arc::clone(self), environment.clone());
        let found = blocking::run(move || server.find_manifest(&wanted, name).map(|_| ())).await?;
        if matches!(found, Err(ServerError::Damaged { .. })) {
            let (server, wanted) = (Arc::clone(self), environment.clone());
            let version = blocking::run(move || server.find_version(&wanted, name)).await??;
            self.bring_manifest(peers, environment, version.code_id).await;
        }
        let (server, environment) = (Arc::clone(self), environment.clone());
        let find = move || -> Result<Missing, ServerError> {
            let mut missing = Missing::new();
            let (version, manifest) = server.find_manifest(&environment, name)?;
            if server.environments.live(&environment).is_some_and(|live| live.version.code_id == version.code_id) {
                return Ok(missing);
            }
            for entry in manifest.entries() {
                if let EntryKind::File { digest, size } = entry.kind
                    && !missing.contains_key(&digest)
                    && !server.store.has_verified(&digest)?
                {
                    missing.insert(digest, (size, entry.path.to_string()));
                }
            }
            Ok(missing)
        };
        let missing = blocking::run(find).await??;
        self.bring_again(peers, missing, &self.stopping).await;
        Ok(())
    }

    /// Asks one server after the other for the manifest of a version, and keeps it; what comes of that is in the log.
    async fn bring_manifest(&self, peers: &Peers, environment: &Environment, code_id: CodeId) {
        for transport in &peers.transports {
            let request = SyncManifest { replica: peers.name.clone(), environment: environment.clone(), code_id, base: None };
            let client = Client::new(Arc::clone(transport));
            let asked = tokio::select! {
                asked = tokio::time::timeout(MANIFEST_LIMIT, client.sync_manifest(&request)) => asked,
                () = self.stopping.cancelled() => return,
            };
            let manifest = match asked {
                Ok(Ok(SyncManifestReply::Whole { manifest })) => {
                    codec::decode::<Manifest>(&manifest, MAX_MANIFEST_BYTES).map_err(|error| chain(&error))
                }
                Ok(Ok(_)) => Err("it gave no whole manifest".to_owned()),
                Ok(Err(error)) => Err(chain(&error)),
                Err(_) => Err(format!("it gave none within {} seconds", MANIFEST_LIMIT.as_secs())),
            };
            let kept = match manifest {
                Ok(manifest) if manifest.code_id() == code_id => {
                    let (environments, environment) = (Arc::clone(&self.environments), environment.clone());
                    let collecting = Arc::clone(&self.collecting);
                    let keep = move || {
                        let _turn = collecting.read().unwrap_or_else(PoisonError::into_inner);
                        if environments.collected(&environment)?.contains(&code_id) {
                            return Ok(());
                        }
                        environments.keep_manifest(&environment, code_id, &manifest)
                    };
                    let kept = blocking::run(keep).await;
                    kept.map_err(ServerError::from).and_then(|kept| kept).map_err(|error| chain(&error))
                }
                Ok(_) => Err("what it gave does not add up to the code_id".to_owned()),
                Err(reason) => Err(reason),
            };
            match kept {
                Ok(()) => {
                    tracing::info!(%environment, %code_id, from = transport.endpoint(), "a damaged manifest is mended");
                    return;
                }
                Err(reason) => {
                    tracing::warn!(%environment, %code_id, "a manifest could not be brought again from {}: {reason}", transport.endpoint());
                }
            }
        }
    }

    /// Asks one server after the other for these; returns what none of them has.
    async fn bring_again(&self, peers: &Peers, mut missing: Missing, stop: &CancellationToken) -> Missing {
        for transport in &peers.transports {
            if missing.is_empty() {
                break;
            }
            let client = Client::new(Arc::clone(transport));
            let fetched = tokio::select! {
                fetched = super::fetch::fetch(&client, &peers.name, &self.store, &missing) => fetched,
                () = stop.cancelled() => break,
            };
            if let Err(Unfetched { reason, .. }) = fetched {
                tracing::warn!("contents could not be brought again from {}: {reason}", transport.endpoint());
            }
            let before = missing.len();
            missing.retain(|digest, _| !self.store.has(digest));
            if missing.len() < before {
                tracing::info!(contents = before - missing.len(), from = transport.endpoint(), "damaged contents are mended");
            }
        }
        missing
    }

    /// Returns which of these are contents of published code, and not in the store. What is live is looked at first: the manifests of
    /// other versions are read from the disk.
    async fn missing_of_kept(&self, mut wanted: BTreeSet<Digest>) -> Missing {
        let (environments, store) = (Arc::clone(&self.environments), self.store.clone());
        let find = move || {
            wanted.retain(|digest| !store.has(digest));
            let mut missing = Missing::new();
            environments.look_through(
                |_| true,
                |manifest| {
                    for entry in manifest.entries() {
                        if let EntryKind::File { digest, size } = entry.kind
                            && wanted.remove(&digest)
                        {
                            missing.insert(digest, (size, entry.path.to_string()));
                        }
                    }
                    wanted.is_empty()
                },
            );
            missing
        };
        blocking::run(find).await.unwrap_or_default()
    }
}
