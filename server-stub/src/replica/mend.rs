//! Contents of live code that are damaged or missing here are brought again, from whichever other server has them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use direct_puppet_agent::fetch_as_replica;
use direct_puppet_transport::Client;
use direct_puppet_transport::protocol::{Digest, EntryKind};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::blocking;
use crate::error::chain;
use crate::server::Server;

/// Most contents that wait to be brought; the others are found again when they are next asked for.
const MAX_WANTED: usize = 100_000;

/// Contents that are wanted again.
#[derive(Debug, Default)]
pub(crate) struct Mending {
    wanted: Mutex<BTreeSet<Digest>>,
    is_wanted: Notify,
}

impl Mending {
    /// Has a content brought again.
    pub(crate) fn want(&self, digest: Digest) {
        let mut wanted = self.lock();
        if wanted.len() < MAX_WANTED {
            wanted.insert(digest);
            self.is_wanted.notify_one();
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
    /// Brings what is wanted again, until `stop`; waits for nothing where there is no other server.
    pub(super) async fn mend(&self, stop: &CancellationToken) {
        let Some(peers) = &self.peers else { return };
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.mending.is_wanted.notified() => {}
            }
            let mut missing = self.missing_of_live(self.mending.take()).await;
            for transport in &peers.transports {
                if missing.is_empty() {
                    break;
                }
                let client = Client::new(Arc::clone(transport));
                if let Err(error) = fetch_as_replica(&client, &peers.name, &self.store, &missing, stop).await {
                    tracing::warn!("contents could not be brought again from {}: {}", transport.endpoint(), chain(&error));
                }
                let before = missing.len();
                missing.retain(|digest, _| !self.store.has(digest));
                if missing.len() < before {
                    tracing::info!(contents = before - missing.len(), from = transport.endpoint(), "damaged contents are mended");
                }
            }
            for (digest, (_, path)) in missing {
                tracing::error!(%digest, path, "a content of live code is missing here and elsewhere: publish again");
            }
        }
    }

    /// Returns which of these are contents of live code, with sizes and paths, and not in the store.
    async fn missing_of_live(&self, mut wanted: BTreeSet<Digest>) -> BTreeMap<Digest, (u64, String)> {
        let (live, store) = (self.environments.all_live(), self.store.clone());
        let find = move || {
            wanted.retain(|digest| !store.has(digest));
            let entries = live.iter().flat_map(|code| code.manifest.entries());
            let files = entries.filter_map(|entry| match entry.kind {
                EntryKind::File { digest, size } if wanted.contains(&digest) => Some((digest, (size, entry.path.to_string()))),
                _ => None,
            });
            files.collect()
        };
        blocking::run(find).await.unwrap_or_default()
    }
}
