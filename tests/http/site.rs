//! A handler whose contents are made while they are sent, and a server around it.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use direct_puppet_server_stub::listen::{HttpListener, Limits, RouteBody, Routes, ServerTls, Service};
use direct_puppet_transport::protocol::{
    CatalogId, CatalogReply, CheckIn, CodeId, Digest, Fetch, Refusal, RefusalCode, Report, ReportAccepted, SubmitFacts,
    VersionCounter,
};
use direct_puppet_transport::{Content, FetchItem, FetchItems, Handler, HttpOptions, HttpTransport, HttpVersion, Peer, TlsFiles};
use futures::{StreamExt as _, stream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const CHUNK_BYTES: u64 = 64 * 1024;

/// Answers everything; what it does wrong is asked for by its fields.
#[derive(Debug)]
pub(crate) struct Site {
    /// How long each content is, a multiple of [`CHUNK_BYTES`].
    pub(crate) content_bytes: u64,
    /// After how many bytes each content breaks off.
    pub(crate) break_at: Option<u64>,
    /// One permit lets one chunk out.
    pub(crate) gate: Semaphore,
    /// How many bytes of contents were asked for by the listener.
    pub(crate) produced: Arc<AtomicU64>,
    /// Who asked, in order.
    pub(crate) peers: Mutex<Vec<Peer>>,
    /// The reports that came, in order.
    pub(crate) reports: Mutex<Vec<Report>>,
}

impl Site {
    pub(crate) fn new(content_bytes: u64) -> Self {
        let gate = Semaphore::new(Semaphore::MAX_PERMITS);
        Self { content_bytes, break_at: None, gate, produced: Arc::default(), peers: Mutex::default(), reports: Mutex::default() }
    }

    fn note(&self, peer: &Peer) {
        self.peers.lock().unwrap().push(peer.clone());
    }
}

pub(crate) fn code_id() -> CodeId {
    format!("blake3:{}", "12".repeat(32)).parse().unwrap()
}

pub(crate) const VERSION: VersionCounter = VersionCounter { epoch: 1, sequence: 7 };

/// So that contents can reach what makes them.
#[derive(Debug, Clone)]
pub(crate) struct Shared(pub(crate) Arc<Site>);

#[async_trait]
impl Handler for Shared {
    async fn check_in(&self, peer: &Peer, _: CheckIn) -> Result<CatalogReply, Refusal> {
        self.0.note(peer);
        Ok(CatalogReply::FactsNeeded)
    }

    async fn submit_facts(&self, peer: &Peer, request: SubmitFacts) -> Result<CatalogReply, Refusal> {
        self.0.note(peer);
        if request.facts.is_empty() {
            return Err(Refusal { retry_after_seconds: Some(17), ..Refusal::new(RefusalCode::Busy, "come again") });
        }
        let catalog = Bytes::from(vec![7; 100_000]);
        Ok(CatalogReply::Catalog {
            catalog_id: CatalogId::of(&catalog),
            code_id: code_id(),
            version: VERSION,
            unconfirmed_seconds: None,
            catalog,
        })
    }

    async fn fetch(&self, peer: &Peer, request: Fetch) -> Result<FetchItems, Refusal> {
        self.0.note(peer);
        let site = Arc::clone(&self.0);
        let item = move |digest| Ok(FetchItem::Content(content(Arc::clone(&site), digest)));
        Ok(stream::iter(request.digests).map(item).boxed())
    }

    async fn report(&self, peer: &Peer, report: Report) -> Result<ReportAccepted, Refusal> {
        self.0.note(peer);
        assert!(report.transaction_completed, "a bug in the handler");
        self.0.reports.lock().unwrap().push(report);
        Ok(ReportAccepted { duplicate: false })
    }
}

fn content(site: Arc<Site>, digest: Digest) -> Content {
    let size = site.content_bytes;
    let body = stream::unfold((site, 0), |(site, sent)| async move {
        if sent == site.content_bytes {
            return None;
        }
        site.gate.acquire().await.unwrap().forget();
        if site.break_at.is_some_and(|at| sent >= at) {
            return Some((Err(io::Error::other("the disk is gone")), (site, sent)));
        }
        site.produced.fetch_add(CHUNK_BYTES, Ordering::SeqCst);
        Some((Ok(Bytes::from(vec![5; CHUNK_BYTES as usize])), (site, sent + CHUNK_BYTES)))
    });
    Content { digest, size, offset: 0, body: body.boxed() }
}

/// Answers `GET /status` and echoes `/echo`.
#[derive(Debug)]
pub(crate) struct Paths;

#[async_trait]
impl Routes for Paths {
    async fn route(&self, peer: &Peer, request: hyper::Request<Bytes>) -> Option<hyper::Response<RouteBody>> {
        match request.uri().path() {
            "/status" => Some(hyper::Response::new(Bytes::from(format!("{peer:?}")).into())),
            "/echo" => Some(hyper::Response::new(request.into_body().into())),
            _ => None,
        }
    }

    fn max_body_bytes(&self, _path: &str) -> u64 {
        10
    }
}

/// Waits until a counter says so many.
pub(crate) async fn until(counter: &AtomicUsize, count: usize) {
    for _ in 0..1000 {
        if counter.load(Ordering::SeqCst) == count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{}, not {count}", counter.load(Ordering::SeqCst));
}

/// Tells a listener to stop, and waits until it has.
pub(crate) async fn stopped(shutdown: &CancellationToken, task: JoinHandle<()>) {
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(20), task).await.unwrap().unwrap();
}

/// A server that listens on a free port of loopback.
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) address: SocketAddr,
    pub(crate) site: Arc<Site>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(site: Site, tls: Option<TlsFiles>) -> Self {
        Self::with_limits(site, tls, Limits::default()).await
    }

    pub(crate) async fn with_limits(site: Site, tls: Option<TlsFiles>, limits: Limits) -> Self {
        let loopback = "127.0.0.1:0".parse().unwrap();
        let listener = HttpListener::bind(loopback, tls.map(ServerTls::from), false).await.unwrap();
        let (url, address, site, shutdown) = (listener.url(), listener.local_addr(), Arc::new(site), CancellationToken::new());
        let service = Service { handler: Arc::new(Shared(Arc::clone(&site))), routes: Some(Arc::new(Paths)) };
        let task = tokio::spawn(listener.serve(service, limits, shutdown.clone()));
        Self { url, address, site, shutdown, task }
    }

    pub(crate) fn transport(&self, version: HttpVersion, tls: Option<TlsFiles>) -> HttpTransport {
        HttpTransport::new(&self.url, &HttpOptions { tls, version, ..HttpOptions::default() }).unwrap()
    }

    /// Stops it and waits for its end.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}
