//! Answers to nodes: check-in, facts, contents, reports.

mod catalog;
pub(crate) mod contents;
mod identity;
mod packed_catalog;
mod packs;
mod parts;
pub(crate) mod pieces;
mod session;
mod sync;
mod turns;

use async_trait::async_trait;
use direct_puppet_transport::protocol::{
    CatalogReply, Certname, CheckIn, Digest, Environment, Fetch, PackedFetch, Part, Refusal, RefusalCode, Report, ReportAccepted,
    SubmitFacts, SyncConfirm, SyncConfirmed, SyncEpoch, SyncEpochReply, SyncManifest, SyncManifestReply,
};
use direct_puppet_transport::{FetchItems, Handler, Peer};
use futures::StreamExt as _;
use std::collections::HashSet;
use std::sync::Arc;

use crate::blocking;
use crate::compile::{CompileError, CompileErrorKind};
use crate::disk;
use crate::error::{ServerError, chain};
use crate::replica::Share;
use crate::server::Server;

#[cfg(test)]
pub(crate) use catalog::MAX_FLIGHTS;
pub(crate) use catalog::{Flights, UNCONFIRMED_SECONDS};
pub(crate) use identity::{acts_for, is_administrator, name_of};
pub(crate) use sync::{Given, is_epoch_passed_over};

/// Digits of a run's id.
const UUID_DIGITS: usize = 32;

/// When to send again what is too much of one node, in seconds.
const REPORTS_SECONDS: u32 = 60;

/// When to send again what a server has no room for, in seconds: its administrator makes some, or what is older goes.
const NO_SPACE_SECONDS: u32 = 300;

/// [`Handler`] is for `Arc<Server>` behind this: work goes on in the background for several callers at once.
#[async_trait]
impl Handler for Server {
    async fn check_in(&self, peer: &Peer, request: CheckIn) -> Result<CatalogReply, Refusal> {
        let may = acts_for(peer, &request.certname).and_then(|()| self.may_be_in(peer, &request.environment));
        self.recorded(peer, "check-in", may).await?;
        let reply = self.answer_check_in(peer, &request).await?;
        Ok(self.pack_reply(&request, reply).await)
    }

    async fn submit_facts(&self, peer: &Peer, request: SubmitFacts) -> Result<CatalogReply, Refusal> {
        let check_in = &request.check_in;
        let may = acts_for(peer, &check_in.certname).and_then(|()| self.may_be_in(peer, &check_in.environment));
        self.recorded(peer, "facts", may).await?;
        let reply = self.answer_facts(peer, &request).await?;
        Ok(self.pack_reply(&request.check_in, reply).await)
    }

    async fn fetch(&self, peer: &Peer, mut request: Fetch) -> Result<FetchItems, Refusal> {
        self.recorded(peer, "fetch", acts_for(peer, &request.certname)).await?;
        let part = part_of(&mut request)?;
        let allowed = self.allowed(&request, &self.share_of(peer)).await?;
        let (nodes, environments, certname) = (Arc::clone(&self.nodes), Arc::clone(&self.environments), request.certname.clone());
        let mending = Arc::clone(&self.mending);
        // What is in no code was made by the compile, and another one makes it again.
        let gone = Box::new(move |digest: &Digest| match environments.has_content(digest) {
            true => mending.want(*digest),
            false => nodes.lose_all(&certname),
        });
        let packed = self.packed(&request).await?;
        let accepts_zstd = request.packed.as_ref().is_some_and(PackedFetch::accepts_zstd);
        let source = Arc::new(contents::Source { store: self.store.clone(), allowed, gone });
        let permits = Arc::clone(&self.packing);
        let items = contents::stream(Arc::clone(&source), request).await.map_err(|error| internal(&error))?;
        let others = match (part, packed.first()) {
            (Some(part), Some(&packs::Wanted { digest, .. })) => {
                let cuts = Arc::clone(&self.cuts);
                pieces::stream(pieces::Question { source, digest, part, accepts_zstd, cuts }, permits)
            }
            _ => packs::stream(source, packed, accepts_zstd, permits),
        };
        Ok(items.chain(others).boxed())
    }

    async fn report(&self, peer: &Peer, report: Report) -> Result<ReportAccepted, Refusal> {
        self.recorded(peer, "report", acts_for(peer, &report.host)).await?;
        let uuid = &report.transaction_uuid;
        if uuid.len() != UUID_DIGITS || !uuid.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let message = format!("transaction_uuid {uuid:?} is not {UUID_DIGITS} hexadecimal digits");
            return Err(Refusal::new(RefusalCode::BadRequest, message));
        }
        if !self.nodes.may_report(&report.host) {
            let message = "this node sends more reports than are taken: try again later";
            return Err(Refusal { retry_after_seconds: Some(REPORTS_SECONDS), ..Refusal::new(RefusalCode::Busy, message) });
        }
        let is_known_there = match &self.shared {
            Some(shared) => shared.keep_report(&report).await.map_err(|error| refusal(&error.into()))?,
            None => false,
        };
        let (nodes, certname) = (Arc::clone(&self.nodes), report.host.clone());
        let kept = blocking::run(move || nodes.report(&report)).await;
        let is_known_here = kept.map_err(|error| internal(&error))?.map_err(|error| refusal(&error))?;
        if let (Some(shared), Some(summary)) = (&self.shared, self.nodes.summary(&certname)) {
            shared.keep_summary(summary).await.map_err(|error| refusal(&error.into()))?;
        }
        Ok(ReportAccepted { duplicate: is_known_there || is_known_here })
    }

    async fn sync_confirm(&self, peer: &Peer, request: SyncConfirm) -> Result<SyncConfirmed, Refusal> {
        let share = self.as_replica(peer, &request.replica).await?;
        self.recorded(peer, "sync-confirm", self.answer_confirm(peer, &request, &share).await).await
    }

    async fn sync_epoch(&self, peer: &Peer, request: SyncEpoch) -> Result<SyncEpochReply, Refusal> {
        let share = self.as_replica(peer, &request.replica).await?;
        let heard =
            async { Ok(request.instance != self.instance && self.heard_from(peer, &request.replica, request.epoch).await?) };
        let is_raised = self.recorded(peer, "sync-epoch", heard.await).await?;
        Ok(self.answer_epoch(is_raised, &share))
    }

    async fn sync_manifest(&self, peer: &Peer, request: SyncManifest) -> Result<SyncManifestReply, Refusal> {
        let share = self.as_replica(peer, &request.replica).await?;
        self.recorded(peer, "sync-manifest", self.answer_manifest(&request, &share).await).await
    }

    async fn sync_fetch(&self, peer: &Peer, request: Fetch) -> Result<FetchItems, Refusal> {
        let share = self.as_replica(peer, &request.certname).await?;
        let allowed = self.recorded(peer, "sync-fetch", self.published_contents(&request, share).await).await?;
        let mending = Arc::clone(&self.mending);
        let gone = Box::new(move |digest: &Digest| mending.want(*digest));
        let source = Arc::new(contents::Source { store: self.store.clone(), allowed, gone });
        contents::stream(source, request).await.map_err(|error| internal(&error))
    }
}

impl Server {
    /// Checks that a peer may follow this server under a name; returns what it may have.
    async fn as_replica(&self, peer: &Peer, name: &Certname) -> Result<Share, Refusal> {
        self.recorded(peer, "sync", identity::acts_as_replica(peer, name, &self.options.replicas)).await
    }

    /// Checks that a peer may have anything of an environment: a replica that may have only others may not be in it as a node either.
    pub(crate) fn may_be_in(&self, peer: &Peer, environment: &Environment) -> Result<(), Refusal> {
        let share = self.share_of(peer);
        match peer {
            Peer::Certificate { name, .. } if !share.has(environment) => {
                Err(sync::out_of_share(name, &share, &format!("environment {environment}")))
            }
            _ => Ok(()),
        }
    }

    /// Returns what of the code a peer may have, by itself or as a node.
    pub(crate) fn share_of(&self, peer: &Peer) -> Share {
        match peer {
            Peer::Certificate { name, .. } => Share::of(name, &self.options.replicas),
            _ => Share::Whole,
        }
    }

    /// Returns the contents that the catalogs of a node name, but those of environments that it may not have any more. Where servers share a
    /// store, another one may have given it a catalog that is not here yet.
    async fn allowed(&self, request: &Fetch, share: &Share) -> Result<Vec<Arc<HashSet<Digest>>>, Refusal> {
        let find = || {
            let (nodes, certname, share) = (Arc::clone(&self.nodes), request.certname.clone(), share.clone());
            blocking::run(move || nodes.contents(&certname, |environment| share.has(environment)))
        };
        let allowed = find().await.map_err(|error| internal(&error))?;
        let Some(shared) = &self.shared else { return Ok(allowed) };
        let has_catalog = |packed: &PackedFetch| self.nodes.has_catalog(&request.certname, packed.catalog_id);
        if request.packed.as_ref().is_none_or(has_catalog)
            && request.digests.iter().all(|digest| allowed.iter().any(|set| set.contains(digest)))
        {
            return Ok(allowed);
        }
        if let Some(held) = self.hold_collections().await {
            Box::pin(shared.adopt_all(&request.certname, &held)).await.map_err(|error| refusal(&error))?;
        }
        find().await.map_err(|error| internal(&error))
    }
}

impl Server {
    /// Returns what a node asks for by place. Both catalogs are its own, so it can name nothing that it was not given, and compare with
    /// nothing either. Where its catalog is not here, that is nothing: it then asks by digest.
    async fn packed(&self, request: &Fetch) -> Result<Vec<packs::Wanted>, Refusal> {
        let Some(packed) = request.packed.clone() else { return Ok(Vec::new()) };
        let (nodes, certname) = (Arc::clone(&self.nodes), request.certname.clone());
        let look_up = move || {
            let decoded = |id| nodes.has_catalog(&certname, id).then(|| nodes.decoded(&certname, id)).flatten();
            let Some(catalog) = decoded(packed.catalog_id) else { return Ok(Vec::new()) };
            let base = packed.base_catalog_id.and_then(decoded);
            packs::wanted(&packed, &catalog, base.as_ref())
        };
        let wanted = blocking::run(look_up).await.map_err(|error| internal(&error))?;
        wanted.map_err(|packs::OutOfRange| {
            Refusal::new(RefusalCode::BadRequest, "contents are asked for at places that the catalog does not have")
        })
    }
}

/// Takes out the part that is asked for, of one content.
fn part_of(request: &mut Fetch) -> Result<Option<Part>, Refusal> {
    let Some(packed) = &mut request.packed else { return Ok(None) };
    let Some(part) = packed.part.take() else { return Ok(None) };
    let bad = |what: String| Refusal::new(RefusalCode::BadRequest, format!("a part of a content is asked for, and {what}"));
    if packed.count() != 1 {
        return Err(bad(format!("there are {} contents", packed.count())));
    }
    part.check().map_err(|error| bad(error.to_string()))?;
    Ok(Some(part))
}

/// Logs what broke, and tells the peer no more than that something did.
fn internal(error: &(dyn std::error::Error + 'static)) -> Refusal {
    tracing::error!("{}", chain(error));
    Refusal::new(RefusalCode::Internal, "something broke in the server; its log says what")
}

/// What a peer hears of a failed compile: where and what, which is the administrator's own text.
fn refusal(error: &ServerError) -> Refusal {
    match error {
        ServerError::Compile(CompileError { kind: CompileErrorKind::Unreadable { .. }, file, .. }) => {
            tracing::error!("{}", chain(error));
            let message = format!(
                "{file} is damaged in this server, which brings it again if another server has it: try again; else have it published again"
            );
            Refusal { retry_after_seconds: Some(UNCONFIRMED_SECONDS), ..Refusal::new(RefusalCode::Internal, message) }
        }
        ServerError::Compile(error @ CompileError { kind: CompileErrorKind::Code, .. }) => {
            Refusal::new(RefusalCode::CompileFailed, error.to_string())
        }
        ServerError::Compile(error) => Refusal::new(RefusalCode::Internal, error.to_string()),
        ServerError::Store(error) => {
            let message = format!("{}: try again, or ask another server", chain(error));
            Refusal { retry_after_seconds: Some(UNCONFIRMED_SECONDS), ..Refusal::new(RefusalCode::Stale, message) }
        }
        full if disk::is_full(full) => {
            tracing::warn!("{}", chain(full));
            let message = "this server has no room for what nodes send: try again later";
            Refusal { retry_after_seconds: Some(NO_SPACE_SECONDS), ..Refusal::new(RefusalCode::Busy, message) }
        }
        ServerError::Working => {
            Refusal { retry_after_seconds: Some(UNCONFIRMED_SECONDS), ..Refusal::new(RefusalCode::Stale, error.to_string()) }
        }
        other => internal(other),
    }
}
