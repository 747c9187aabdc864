//! The fetch: every missing content into the local store, verified and durable, before any managed file is touched.
//!
//! A broken stream is taken up again where it stopped, a bounded number of times without progress; what arrived whole stays
//! in the store for the next run, what arrived in part stays there to be resumed.

use std::collections::{BTreeMap, BTreeSet};

use direct_puppet_transport::protocol::frame::FetchEvent;
use direct_puppet_transport::protocol::{Certname, Digest, Fetch};
use direct_puppet_transport::{CallError, Client, FetchStream, Transport, TransportError, TransportErrorKind};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::write::{Gathering, Stopped, write_contents};
use crate::error::RunError;
use crate::event::{EventSink, RunEvent};
use crate::fs::FsErrorKind;
use crate::store::Store;

/// How often a fetch is begun again while no content arrives in between.
const MAX_IDLE_ATTEMPTS: u32 = 3;

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
    pub(crate) cancel: &'a CancellationToken,
    pub(crate) sink: &'a EventSink,
}

/// What was fetched.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Fetched {
    pub(crate) requested: u64,
    pub(crate) received: u64,
}

/// Fetches everything, or fails with the node as it was.
pub(crate) async fn fetch<T: Transport>(request: FetchRequest<'_, T>, counters: &mut Fetched) -> Result<(), RunError> {
    let mut wanted: BTreeSet<Digest> = request.missing.keys().copied().collect();
    counters.requested = wanted.len() as u64;
    let mut idle = 0;
    let mut progress = Progress::new(&request);
    while !wanted.is_empty() {
        let before = wanted.len();
        match attempt(&request, &mut wanted, &mut progress).await {
            Ok(()) if wanted.is_empty() => break,
            Ok(()) => return Err(not_there(&request, &wanted)),
            Err(Broken::Final(error)) => return Err(error),
            // Each content can be resumed wrongly once only.
            Err(Broken::Resumed) => {}
            Err(Broken::Call(error)) => {
                idle = if wanted.len() < before { 0 } else { idle + 1 };
                if !error.is_retryable() || idle >= MAX_IDLE_ATTEMPTS {
                    return Err(RunError::Fetch { missing: wanted.len() as u64, source: error });
                }
                tracing::info!(%error, missing = wanted.len(), "fetch is taken up again");
            }
        }
        counters.received = counters.requested - wanted.len() as u64;
    }
    counters.received = counters.requested;
    let store = request.store.clone();
    tokio::task::spawn_blocking(move || store.sync()).await.map_err(RunError::Lost)??;
    Ok(())
}

/// How an attempt broke off.
enum Broken {
    /// The stream broke: another attempt may do.
    Call(CallError),
    /// What earlier attempts had left was no good, and is removed.
    Resumed,
    /// No other attempt can help.
    Final(RunError),
}

impl From<TransportError> for Broken {
    fn from(error: TransportError) -> Self {
        Self::Call(error.into())
    }
}

/// Asks once for everything wanted; takes out of `wanted` what arrives whole.
async fn attempt<T: Transport>(
    request: &FetchRequest<'_, T>,
    wanted: &mut BTreeSet<Digest>,
    progress: &mut Progress<'_>,
) -> Result<(), Broken> {
    let store = request.store.clone();
    let partials = tokio::task::spawn_blocking(move || store.partials());
    let partials = partials.await.map_err(RunError::Lost).and_then(|listed| Ok(listed?)).map_err(Broken::Final)?;
    let message = Fetch {
        certname: request.certname.clone(),
        digests: wanted.iter().copied().collect(),
        offsets: partials
            .into_iter()
            .filter(|(digest, offset)| *offset > 0 && wanted.contains(digest))
            .filter(|(digest, offset)| request.missing.get(digest).is_some_and(|(size, _)| offset <= size))
            .collect(),
    };
    let asked = async {
        match request.asking {
            Asking::AsNode => request.client.fetch(&message).await,
            Asking::AsReplica => request.client.sync_fetch(&message).await,
        }
    };
    let stream = tokio::select! {
        () = request.cancel.cancelled() => return Err(Broken::Final(RunError::Cancelled)),
        stream = asked => stream.map_err(Broken::Call)?,
    };
    // No thread is held before the server has begun to answer.
    let (mut gathering, inbox) = Gathering::new();
    let (done, mut outbox) = mpsc::unbounded_channel();
    let store = request.store.clone();
    let writer = tokio::task::spawn_blocking(move || write_contents(&store, inbox, &done));
    let received = tokio::select! {
        () = request.cancel.cancelled() => Err(Broken::Final(RunError::Cancelled)),
        received = receive(request, stream, &mut gathering, &mut outbox, wanted, progress) => received,
    };
    // That the writer has stopped is said by its own error.
    let _stopped = gathering.finish().await;
    let written = writer.await.map_err(|error| Broken::Final(RunError::Lost(error)))?;
    while let Some(digest) = outbox.recv().await {
        progress.complete(wanted, &digest);
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
        (Ok(()), received) => received,
    }
}

async fn receive<T: Transport>(
    request: &FetchRequest<'_, T>,
    mut stream: FetchStream,
    gathering: &mut Gathering,
    outbox: &mut mpsc::UnboundedReceiver<Digest>,
    wanted: &mut BTreeSet<Digest>,
    progress: &mut Progress<'_>,
) -> Result<(), Broken> {
    while let Some(event) = stream.next().await? {
        let gathered = match event {
            FetchEvent::Blob { digest, size, offset } => {
                check_announced(request, wanted, (digest, size))?;
                gathering.begin(digest, size, offset).await
            }
            FetchEvent::Data(data) => {
                progress.bytes += data.len() as u64;
                gathering.data(data).await
            }
            FetchEvent::BlobEnd => gathering.end().await,
            _ => continue,
        };
        if let Err(Stopped) = gathered {
            // Its own error says why.
            return Ok(());
        }
        while let Ok(digest) = outbox.try_recv() {
            progress.complete(wanted, &digest);
        }
    }
    Ok(())
}

/// Refuses contents that were not asked for, or that are not as long as the catalog says: the size is checked before a byte
/// is written.
fn check_announced<T: Transport>(
    request: &FetchRequest<'_, T>,
    wanted: &BTreeSet<Digest>,
    (digest, size): (Digest, u64),
) -> Result<(), Broken> {
    let reason = match request.missing.get(&digest) {
        Some((expected, _)) if wanted.contains(&digest) && *expected == size => return Ok(()),
        Some((expected, path)) if *expected != size => {
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

/// Tells listeners how far the fetch is.
struct Progress<'a> {
    sink: &'a EventSink,
    contents: u64,
    total: u64,
    bytes: u64,
    total_bytes: u64,
}

impl<'a> Progress<'a> {
    fn new<T>(request: &FetchRequest<'a, T>) -> Self {
        let total_bytes = request.missing.values().map(|(size, _)| size).sum();
        Self { sink: request.sink, contents: 0, total: request.missing.len() as u64, bytes: 0, total_bytes }
    }

    fn complete(&mut self, wanted: &mut BTreeSet<Digest>, digest: &Digest) {
        if wanted.remove(digest) {
            self.contents += 1;
            let Self { contents, total, bytes, total_bytes, .. } = *self;
            self.sink.send(RunEvent::Fetched { contents, total, bytes, total_bytes });
        }
    }
}
