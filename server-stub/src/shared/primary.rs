//! The store in the place of a primary.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use direct_puppet_transport::protocol::limits::MAX_MANIFEST_BYTES;
use direct_puppet_transport::protocol::{
    CatalogReply, Certname, CheckIn, Deployed, Digest, Environment, Fetch, Refusal, RefusalCode, Report, ReportAccepted, Rollout,
    SubmitFacts, SyncConfirm, SyncConfirmed, SyncManifest, SyncManifestReply, codec,
};
use direct_puppet_transport::{FetchItem, FetchItems, Handler, Peer};
use futures::TryStreamExt as _;
use tokio::time::Instant;

use super::records::is_damaged;
use super::{Shared, VersionRecord, names};
use crate::blocking;
use crate::error::{ServerError, chain};
use crate::replica::Follower;
use crate::server::now;
use crate::store::{Pointer, StoreError};

/// Longest time that a confirmation is held.
const MAX_WAIT: Duration = Duration::from_secs(300);

/// How often the store is looked at while nothing is heard of it.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How often a server tells of itself.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What is live.
struct Live {
    versions: Vec<VersionRecord>,
    rollout: Rollout,
}

fn stale(error: &StoreError) -> Refusal {
    Refusal::new(RefusalCode::Stale, chain(error))
}

fn only_for_servers() -> Refusal {
    Refusal::new(RefusalCode::Forbidden, "a store answers servers only")
}

impl Shared {
    /// Reads what is live, and carries out what administrators have ordered at other servers.
    async fn look(self: &Arc<Self>) -> Result<Live, StoreError> {
        let (mut versions, mut rollout, mut recompiles) = (Vec::new(), Rollout::default(), Vec::new());
        let mut wanted = HashSet::new();
        for (name, pointer) in self.store.pointers.list(names::LIVE).await? {
            if name.starts_with(names::ENVIRONMENTS) {
                match self.decode_or_mend(&name, &pointer) {
                    Ok(version) => versions.push(version),
                    // Nobody is answered from that environment; the others are not kept waiting for it.
                    Err(error) => tracing::error!("{}", chain(&error)),
                }
            } else if name == names::ROLLOUT {
                rollout = self.decode_rollout(&pointer)?;
            } else if let Some(certname) = names::segment(&name, names::RECOMPILE).and_then(|name| name.parse().ok()) {
                recompiles.push((certname, pointer));
            } else if let Some(digest) = names::segment(&name, names::WANTED).and_then(|digest| digest.parse().ok()) {
                wanted.insert(digest);
            }
        }
        self.recompile_here(recompiles).await;
        self.heal(wanted);
        Ok(Live { versions, rollout })
    }

    pub(super) fn decode_rollout(&self, pointer: &Pointer) -> Result<Rollout, StoreError> {
        match self.decode(names::ROLLOUT, &pointer.value) {
            Err(error) if is_damaged(&pointer.value) => {
                // Whether it was paused is not known.
                tracing::error!("how new code is rolled out is not known, so it is paused: {}", chain(&error));
                let why = "its record in the store is damaged: say again whether it is to go on".to_owned();
                Ok(Rollout { paused: Some(why), ..Rollout::default() })
            }
            decoded => decoded,
        }
    }

    /// Forgets the catalogs of nodes for which that was ordered since this was last called.
    async fn recompile_here(&self, orders: Vec<(Certname, Pointer)>) {
        let new: Vec<Certname> = {
            let mut recompiled = self.recompiled.lock().unwrap_or_else(PoisonError::into_inner);
            let is_new = |(certname, pointer): (Certname, Pointer)| {
                let before = recompiled.insert(certname.clone(), pointer.generation);
                (before != Some(pointer.generation)).then_some(certname)
            };
            orders.into_iter().filter_map(is_new).collect()
        };
        for certname in new {
            self.flights.forget(&certname);
            let nodes = Arc::clone(&self.nodes);
            let of = certname.clone();
            let forgotten = blocking::run(move || nodes.forget_catalogs(&of)).await;
            match forgotten.map_err(ServerError::from).and_then(|forgotten| forgotten) {
                Ok(()) | Err(ServerError::UnknownNode { .. }) => {}
                Err(error) => {
                    tracing::error!("catalogs that are to be made anew stay here for now: {}", chain(&error));
                    self.recompiled.lock().unwrap_or_else(PoisonError::into_inner).remove(&certname);
                }
            }
        }
    }

    /// Tells the others that this server is there.
    async fn tell(&self, deployed: &BTreeMap<Environment, Deployed>) {
        {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.is_some_and(|told| told.elapsed() < TELL_EVERY) {
                return;
            }
            *told = Some(Instant::now());
        }
        let confirmations = self.confirmations.load(Ordering::Relaxed);
        let seen = Follower { last_check_in_time: now(), deployed: deployed.clone(), confirmations, nodes: None };
        if let Err(error) = self.set(&names::server(&self.name), &seen).await {
            tracing::debug!("the others do not hear of this server for now: {}", chain(&error));
        }
    }

    /// Returns all servers that share the store, as they were last heard of.
    pub(crate) async fn servers(&self) -> Result<BTreeMap<String, Follower>, StoreError> {
        let found = self.store.pointers.list(names::SERVERS).await?;
        let servers = found.iter().filter_map(|(name, pointer)| {
            let server = names::segment(name, names::SERVERS)?;
            Some(self.decode(name, &pointer.value).map(|seen| (server.to_owned(), seen)))
        });
        servers.collect()
    }

    /// Finds a publish by its code.
    pub(super) async fn record(
        self: &Arc<Self>,
        environment: &Environment,
        code_id: direct_puppet_transport::protocol::CodeId,
    ) -> Result<Option<VersionRecord>, StoreError> {
        let name = names::live(environment);
        if let Some(live) = self.store.pointers.get(&name).await? {
            match self.decode_or_mend(&name, &live) {
                Ok(record) if record.version.code_id == code_id => return Ok(Some(record)),
                Err(error) if !is_damaged(&live.value) => return Err(error),
                _ => {}
            }
        }
        for (name, pointer) in self.store.pointers.list(&names::versions(environment)).await?.into_iter().rev() {
            match self.decode_or_mend(&name, &pointer) {
                Ok(record) if record.version.code_id == code_id => return Ok(Some(record)),
                Err(error) if !is_damaged(&pointer.value) => return Err(error),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Reads a whole content, at most `limit` bytes, verified; `None` when it is not there or damaged.
    pub(super) async fn read(self: &Arc<Self>, digest: Digest, limit: u64) -> Result<Option<Bytes>, StoreError> {
        let fail = |error| self.unread(error);
        let mut items = self.store.blobs.get(vec![digest]);
        let Some(FetchItem::Content(content)) = items.try_next().await.map_err(fail)? else {
            self.want(digest, false);
            return Ok(None);
        };
        if content.size > limit {
            return Err(self.unusable(format!("content {digest} is longer than {limit} bytes")));
        }
        let mut whole = BytesMut::new();
        let mut body = content.body;
        while let Some(chunk) = body.try_next().await.map_err(fail)? {
            whole.extend_from_slice(&chunk);
            if whole.len() as u64 > content.size {
                break;
            }
        }
        if !digest.verifies(&whole) {
            self.want(digest, true);
            return Ok(None);
        }
        Ok(Some(whole.freeze()))
    }
}

/// The store, as servers follow it.
#[derive(Debug)]
pub(super) struct AsPrimary(pub(super) Arc<Shared>);

#[async_trait]
impl Handler for AsPrimary {
    async fn check_in(&self, _: &Peer, _: CheckIn) -> Result<CatalogReply, Refusal> {
        Err(only_for_servers())
    }

    async fn submit_facts(&self, _: &Peer, _: SubmitFacts) -> Result<CatalogReply, Refusal> {
        Err(only_for_servers())
    }

    async fn fetch(&self, _: &Peer, _: Fetch) -> Result<FetchItems, Refusal> {
        Err(only_for_servers())
    }

    async fn report(&self, _: &Peer, _: Report) -> Result<ReportAccepted, Refusal> {
        Err(only_for_servers())
    }

    async fn sync_confirm(&self, _: &Peer, request: SyncConfirm) -> Result<SyncConfirmed, Refusal> {
        let deadline = Instant::now() + Duration::from_secs(u64::from(request.wait_seconds)).min(MAX_WAIT);
        let shared = &self.0;
        shared.confirmations.fetch_add(1, Ordering::Relaxed);
        loop {
            let live = shared.look().await.map_err(|error| stale(&error))?;
            shared.tell(&request.deployed).await;
            let has = |record: &VersionRecord| {
                let deployed = request.deployed.get(&record.version.environment);
                deployed.is_some_and(|deployed| {
                    deployed.version == record.version.version && deployed.code_id == record.version.code_id
                })
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !live.versions.iter().all(has) || live.rollout != request.rollout {
                let published = live.versions.iter().map(|record| record.version.published());
                // Nobody takes over from a store: it knows no epoch of its own.
                return Ok(SyncConfirmed {
                    live: published.collect(),
                    rollout: live.rollout,
                    epoch: request.epoch,
                    answered: BTreeMap::new(),
                    is_part: false,
                });
            }
            shared.store.pointers.changed(left.min(LOOK_EVERY)).await;
        }
    }

    async fn sync_manifest(&self, _: &Peer, request: SyncManifest) -> Result<SyncManifestReply, Refusal> {
        let gone = || Refusal::new(RefusalCode::NotFound, "that version is not here any more: ask what is live again");
        let record =
            self.0.record(&request.environment, request.code_id).await.map_err(|error| stale(&error))?.ok_or_else(gone)?;
        if let Some(delta) = record.delta.filter(|delta| Some(delta.base) == request.base)
            && let Some(bytes) = self.0.read(delta.content, MAX_MANIFEST_BYTES).await.map_err(|error| stale(&error))?
            && let Ok(reply) = codec::decode(&bytes, MAX_MANIFEST_BYTES)
        {
            return Ok(reply);
        }
        let written = self.0.read_manifest(&record).await.map_err(|error| stale(&error))?.ok_or_else(gone)?;
        let manifest =
            codec::encode(&written.manifest).map_err(|error| Refusal::new(RefusalCode::Internal, error.to_string()))?;
        Ok(SyncManifestReply::Whole { manifest: manifest.into() })
    }

    async fn sync_fetch(&self, _: &Peer, request: Fetch) -> Result<FetchItems, Refusal> {
        let mut seen = HashSet::with_capacity(request.digests.len());
        let digests: Vec<Digest> = request.digests.into_iter().filter(|digest| seen.insert(*digest)).collect();
        Ok(self.0.proved(digests))
    }
}
