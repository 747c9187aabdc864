//! The fetch: every missing content into the local store, verified and durable, before any managed file is touched.
//!
//! Where the node and the server both have the catalog, contents are asked for by their places in it and come packed, against what the node
//! has instead where it has something (`packed`); what does not come right that way is asked for without, and in the end by digest.
//!
//! A broken stream is taken up again where it stopped, a bounded number of times without progress; what arrived whole stays
//! in the store for the next run, what arrived in part stays there to be resumed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use direct_puppet_transport::protocol::frame::FetchEvent;
use direct_puppet_transport::protocol::manifest::UNKNOWN_SIZE;
use direct_puppet_transport::protocol::{Certname, Digest, Fetch};
use direct_puppet_transport::{CallError, Client, FetchStream, Transport, TransportError, TransportErrorKind};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::packed::{Asked, Packing};
use super::write::{Done, Gathering, Stopped, write_contents};
use crate::error::RunError;
use crate::event::{EventSink, RunEvent};
use crate::fs::FsErrorKind;
use crate::store::Store;

/// How often a fetch is begun again while no content arrives in between.
const MAX_IDLE_ATTEMPTS: u32 = 3;

/// Longest time for which a fetch is left alone when the server says when to come back.
const MAX_WAIT: Duration = Duration::from_secs(120);

/// Returns how long to leave the server alone after an attempt broke off.
fn wait_before_next(error: &CallError) -> Duration {
    match error {
        CallError::Transport(error) => error.retry_after().unwrap_or_default().min(MAX_WAIT),
        _ => Duration::ZERO,
    }
}

/// Who asks for contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asking {
    /// A node, which gets what its catalogs name.
    AsNode,
    /// A replica, which gets what was published.
    AsReplica,
}

/// What to fetch, and with what.
pub(crate) struct FetchRequest<'a, T> {
    pub(crate) client: &'a Client<T>,
    pub(crate) asking: Asking,
    pub(crate) certname: &'a Certname,
    pub(crate) store: &'a Store,
    /// Contents with their sizes in bytes, and for errors a path that needs each.
    pub(crate) missing: &'a BTreeMap<Digest, (u64, String)>,
    /// What is known of them beside, when they may come packed.
    pub(crate) packing: Option<Packing>,
    pub(crate) cancel: &'a CancellationToken,
    pub(crate) sink: &'a EventSink,
}

/// What was fetched.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Fetched {
    pub(crate) requested: u64,
    pub(crate) received: u64,
    /// Contents that were put together from pieces of files that are like them.
    pub(crate) pieced: u64,
    /// Contents that were asked for once more, because what came packed was not them.
    pub(crate) repeated: u64,
}

/// Fetches everything, or fails with the node as it was.
pub(crate) async fn fetch<T: Transport>(mut request: FetchRequest<'_, T>, counters: &mut Fetched) -> Result<(), RunError> {
    let mut wanted = Wanted::new(&request);
    counters.requested = wanted.digests.len() as u64;
    let mut idle = 0;
    while !wanted.digests.is_empty() {
        let alike = request.packing.as_mut().map(|packing| std::mem::take(&mut packing.alike)).unwrap_or_default();
        if !alike.is_empty() {
            counters.pieced += super::alike::bring(&request, alike, &mut |digest| wanted.note(Done::Complete(digest))).await?;
            counters.received = counters.requested - wanted.digests.len() as u64;
            if wanted.digests.is_empty() {
                break;
            }
        }
        let before = wanted.digests.len();
        let attempted = attempt(&request, &mut wanted).await;
        let unusable = std::mem::take(&mut wanted.unusable);
        counters.repeated += unusable.len() as u64;
        if let Some(packing) = &mut request.packing {
            unusable.iter().for_each(|digest| packing.give_up(digest));
        }
        match attempted {
            Ok(_) if wanted.digests.is_empty() => break,
            // Each content can be unusable twice only.
            Ok(Answered::Whole) if !unusable.is_empty() => {}
            Ok(Answered::Whole) => return Err(not_there(&request, &wanted.digests)),
            Ok(Answered::WithoutPacks) => {
                tracing::debug!("the server does not know these catalogs: contents are asked for by digest");
                request.packing = None;
            }
            Err(Broken::Pack(reason)) => {
                tracing::warn!(reason, "the server's packs make no sense: contents are asked for by digest");
                counters.repeated += wanted.digests.len() as u64;
                request.packing = None;
            }
            Err(Broken::Final(error)) => return Err(error),
            // Each content can be resumed wrongly once only.
            Err(Broken::Resumed) => {}
            Err(Broken::Call(error)) => {
                idle = if wanted.digests.len() < before { 0 } else { idle + 1 };
                if !error.is_retryable() || idle >= MAX_IDLE_ATTEMPTS {
                    return Err(RunError::Fetch { missing: wanted.digests.len() as u64, source: error });
                }
                let wait = wait_before_next(&error);
                tracing::info!(%error, missing = wanted.digests.len(), ?wait, "fetch is taken up again");
                tokio::select! {
                    () = request.cancel.cancelled() => return Err(RunError::Cancelled),
                    () = tokio::time::sleep(wait) => {}
                }
            }
        }
        counters.received = counters.requested - wanted.digests.len() as u64;
    }
    counters.received = counters.requested;
    let store = request.store.clone();
    tokio::task::spawn_blocking(move || store.sync()).await.map_err(RunError::Lost)??;
    Ok(())
}

/// How far a server went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answered {
    /// It answered everything.
    Whole,
    /// It passed over what was asked for by place.
    WithoutPacks,
}

/// How an attempt broke off.
enum Broken {
    /// The stream broke: another attempt may do.
    Call(CallError),
    /// What earlier attempts had left was no good, and is removed.
    Resumed,
    /// A pack is not what was asked for: another attempt may do without.
    Pack(String),
    /// No other attempt can help.
    Final(RunError),
}

impl From<TransportError> for Broken {
    fn from(error: TransportError) -> Self {
        Self::Call(error.into())
    }
}

/// Returns the request for everything wanted. What the node has something instead of is packed, and begins anew when it had broken off:
/// that costs next to nothing. Of the rest, what broke off is asked for by digest from there on, and what did not is packed too.
async fn ask<T: Transport>(request: &FetchRequest<'_, T>, wanted: &BTreeSet<Digest>) -> Result<(Fetch, Asked), RunError> {
    let store = request.store.clone();
    let partials = tokio::task::spawn_blocking(move || store.partials()).await.map_err(RunError::Lost)??;
    let size_of = |digest: &Digest| request.missing.get(digest).map_or(0, |(size, _)| *size);
    let partial = |digest: &Digest| partials.get(digest).copied().filter(|&offset| offset > 0 && offset <= size_of(digest));
    let is_packed = |digest: &Digest| {
        let found = request.packing.as_ref().and_then(|packing| packing.find(digest));
        found.is_some_and(|(_, base)| base.is_some() || partial(digest).is_none())
    };
    let (by_place, digests): (Vec<Digest>, Vec<Digest>) = wanted.iter().copied().partition(is_packed);
    let offsets = digests.iter().filter_map(|digest| Some((*digest, partial(digest)?))).collect();
    let by_place = by_place.into_iter().map(|digest| (digest, size_of(&digest)));
    let (packed, asked) = request.packing.as_ref().map(|packing| packing.ask(by_place)).unwrap_or_default();
    Ok((Fetch { certname: request.certname.clone(), digests, offsets, packed }, asked))
}

/// Asks once for everything wanted; takes out of `wanted` what arrives whole.
async fn attempt<T: Transport>(request: &FetchRequest<'_, T>, wanted: &mut Wanted<'_>) -> Result<Answered, Broken> {
    let (message, mut asked) = ask(request, &wanted.digests).await.map_err(Broken::Final)?;
    let called = async {
        match request.asking {
            Asking::AsNode => request.client.fetch(&message).await,
            Asking::AsReplica => request.client.sync_fetch(&message).await,
        }
    };
    let stream = tokio::select! {
        () = request.cancel.cancelled() => return Err(Broken::Final(RunError::Cancelled)),
        stream = called => stream.map_err(Broken::Call)?,
    };
    // No thread is held before the server has begun to answer.
    let (mut gathering, inbox) = Gathering::new();
    let (done, mut outbox) = mpsc::unbounded_channel();
    let (store, root) = (request.store.clone(), request.packing.as_ref().map(|packing| packing.root.clone()));
    let writer = tokio::task::spawn_blocking(move || write_contents(&store, root.as_ref(), inbox, &done));
    let received = tokio::select! {
        () = request.cancel.cancelled() => Err(Broken::Final(RunError::Cancelled)),
        received = receive(request, stream, &mut asked, &mut gathering, &mut outbox, wanted) => received,
    };
    // That the writer has stopped is said by its own error.
    let _stopped = gathering.finish().await;
    let written = writer.await.map_err(|error| Broken::Final(RunError::Lost(error)))?;
    while let Some(done) = outbox.recv().await {
        wanted.note(done);
    }
    match (written, received) {
        // The writer's own failure is the cause, that its inbox closed is the consequence.
        (Err((digest, source)), _) if source.kind == FsErrorKind::DigestMismatch && message.offsets.contains_key(&digest) => {
            // What was there from an earlier attempt may have been damaged meanwhile. It is gone now: all of it is asked for.
            tracing::info!(%digest, error = %source, "a resumed content is fetched anew");
            Err(Broken::Resumed)
        }
        (Err((digest, source)), _) if source.kind == FsErrorKind::DigestMismatch => {
            let path = request.missing.get(&digest).map(|(_, path)| path.clone()).unwrap_or_default();
            Err(Broken::Final(RunError::ContentDamaged { path, source }))
        }
        (Err((_, source)), _) => Err(Broken::Final(RunError::State(source))),
        (Ok(()), Err(broken)) => Err(broken),
        (Ok(()), Ok(())) if asked.is_passed_over() => Ok(Answered::WithoutPacks),
        (Ok(()), Ok(())) => Ok(Answered::Whole),
    }
}

async fn receive<T: Transport>(
    request: &FetchRequest<'_, T>,
    mut stream: FetchStream,
    asked: &mut Asked,
    gathering: &mut Gathering,
    outbox: &mut mpsc::UnboundedReceiver<Done>,
    wanted: &mut Wanted<'_>,
) -> Result<(), Broken> {
    let mut is_pack = false;
    while let Some(event) = stream.next().await? {
        let gathered = match event {
            FetchEvent::Blob { digest, size, offset } => {
                check_announced(request, &wanted.digests, (digest, size))?;
                is_pack = false;
                gathering.begin(digest, size, offset).await
            }
            FetchEvent::Pack(pack) => {
                let packed = asked.take(pack, &wanted.digests).map_err(Broken::Pack)?;
                is_pack = true;
                wanted.bytes = wanted.bytes.saturating_add(pack.size);
                gathering.begin_pack(packed);
                Ok(())
            }
            FetchEvent::Data(data) => {
                wanted.bytes += if is_pack { 0 } else { data.len() as u64 };
                gathering.data(data).await
            }
            FetchEvent::BlobEnd => gathering.end().await,
            FetchEvent::Missing(digest) => {
                asked.miss(&digest);
                continue;
            }
            _ => continue,
        };
        if let Err(Stopped) = gathered {
            // Its own error says why.
            return Ok(());
        }
        while let Ok(done) = outbox.try_recv() {
            wanted.note(done);
        }
    }
    Ok(())
}

/// Refuses contents that were not asked for, or that are not as long as the catalog says, where it does: the size is checked before
/// a byte is written.
fn check_announced<T: Transport>(
    request: &FetchRequest<'_, T>,
    wanted: &BTreeSet<Digest>,
    (digest, size): (Digest, u64),
) -> Result<(), Broken> {
    let reason = match request.missing.get(&digest) {
        Some((expected, _)) if wanted.contains(&digest) && (*expected == size || *expected == UNKNOWN_SIZE) => return Ok(()),
        Some((expected, path)) if *expected != size && *expected != UNKNOWN_SIZE => {
            format!("content for {path} is announced with {size} bytes, the catalog says {expected}")
        }
        _ => format!("content {digest} was not asked for"),
    };
    let error = TransportError::new(TransportErrorKind::Protocol, request.client.transport().endpoint()).with_detail(reason);
    Err(error.into())
}

fn not_there<T>(request: &FetchRequest<'_, T>, wanted: &BTreeSet<Digest>) -> RunError {
    let first = wanted.iter().find_map(|digest| request.missing.get(digest)).map(|(_, path)| path.clone()).unwrap_or_default();
    RunError::ContentMissing { count: wanted.len() as u64, first }
}

/// What is still to come; tells listeners how far the fetch is.
struct Wanted<'a> {
    digests: BTreeSet<Digest>,
    /// What came for these, packed, was not them.
    unusable: Vec<Digest>,
    sink: &'a EventSink,
    contents: u64,
    total: u64,
    bytes: u64,
    total_bytes: u64,
}

impl<'a> Wanted<'a> {
    fn new<T>(request: &FetchRequest<'a, T>) -> Self {
        let digests: BTreeSet<Digest> = request.missing.keys().copied().collect();
        // How much it is in all is not known where one size is not.
        let total = |sum: u64, (size, _): &(u64, String)| sum.checked_add(*size).filter(|_| *size != UNKNOWN_SIZE);
        let total_bytes = request.missing.values().try_fold(0, total).unwrap_or_default();
        let total = digests.len() as u64;
        Self { digests, unusable: Vec::new(), sink: request.sink, contents: 0, total, bytes: 0, total_bytes }
    }

    fn note(&mut self, done: Done) {
        match done {
            Done::Complete(digest) => {
                if self.digests.remove(&digest) {
                    self.contents += 1;
                    let Self { contents, total, total_bytes, .. } = *self;
                    let bytes = if total_bytes == 0 { self.bytes } else { self.bytes.min(total_bytes) };
                    self.sink.send(RunEvent::Fetched { contents, total, bytes, total_bytes });
                }
            }
            Done::Unusable(digest) => self.unusable.push(digest),
        }
    }
}
