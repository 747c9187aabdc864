//! Servers that refuse what a run sends or asks for when it is under way.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use direct_puppet_agent::{Agent, Outcome, RunOptions};
use direct_puppet_transport::handler::{Content, FetchItem, FetchItems};
use direct_puppet_transport::protocol::catalog::CATALOG_FORMAT;
use direct_puppet_transport::protocol::{
    Catalog, CatalogReply, CheckIn, Digest, EntryKind, Environment, Fetch, Manifest, ManifestEntry, Refusal, RefusalCode, Report,
    ReportAccepted, ResolvedSource, Resource, SubmitFacts, TreePath, VersionCounter,
};
use direct_puppet_transport::{Handler, MemoryTransport, Peer, TransportError, TransportErrorKind};
use futures::{StreamExt as _, stream};
use tempfile::TempDir;

/// A server with one file, which is busy for a while when contents are asked for, and refuses some reports.
#[derive(Debug, Default)]
struct Server {
    busy: AtomicUsize,
    wait: Duration,
    /// What each report is refused with, by its number; those that are not named are taken.
    refusals: Mutex<BTreeMap<String, RefusalCode>>,
    /// What all others are refused with.
    refuses_others: Mutex<Option<RefusalCode>>,
    taken: Mutex<Vec<String>>,
}

#[async_trait]
impl Handler for Server {
    async fn check_in(&self, _: &Peer, request: CheckIn) -> Result<CatalogReply, Refusal> {
        let kind = EntryKind::File { digest: Digest::of(b"hello"), size: 5 };
        let mut file = Resource::new("File", "/a").with("ensure", "file");
        file.resolved =
            Some(ResolvedSource { uri: None, entries: vec![ManifestEntry { path: TreePath::root(), mode: 0o644, kind }] });
        let catalog = Catalog {
            format: CATALOG_FORMAT,
            certname: request.certname,
            environment: Environment::default(),
            classes: Vec::new(),
            resources: vec![file],
            edges: Vec::new(),
        };
        let (catalog_id, catalog) = catalog.encode().unwrap();
        let version = VersionCounter { epoch: 1, sequence: 1 };
        Ok(CatalogReply::Catalog {
            catalog_id,
            code_id: Manifest::default().code_id(),
            version,
            unconfirmed_seconds: None,
            catalog,
        })
    }

    async fn submit_facts(&self, peer: &Peer, request: SubmitFacts) -> Result<CatalogReply, Refusal> {
        self.check_in(peer, request.check_in).await
    }

    async fn fetch(&self, _: &Peer, request: Fetch) -> Result<FetchItems, Refusal> {
        let is_busy = self.busy.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        let wait = self.wait;
        let items = request.digests.into_iter().map(move |digest| {
            if is_busy {
                let error = TransportError::new(TransportErrorKind::Unavailable, "test").with_retry_after(Some(wait));
                return Err(io::Error::other(error));
            }
            let body = stream::iter([Ok(Bytes::from_static(b"hello"))]).boxed();
            Ok(FetchItem::Content(Content { digest, size: 5, offset: 0, body }))
        });
        Ok(stream::iter(items.collect::<Vec<_>>()).boxed())
    }

    async fn report(&self, _: &Peer, report: Report) -> Result<ReportAccepted, Refusal> {
        let refused = self.refusals.lock().unwrap().get(&report.transaction_uuid).copied();
        if let Some(code) = refused.or(*self.refuses_others.lock().unwrap()) {
            return Err(Refusal::new(code, "no"));
        }
        self.taken.lock().unwrap().push(report.transaction_uuid);
        Ok(ReportAccepted { duplicate: false })
    }
}

struct Node {
    dir: TempDir,
    server: Arc<Server>,
}

impl Node {
    fn of(server: Server) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        Self { dir, server: Arc::new(server) }
    }

    async fn run(&self) -> Outcome {
        let agent = Agent::builder()
            .transport(MemoryTransport::new(Arc::clone(&self.server) as Arc<dyn Handler>))
            .certname("n1".parse().unwrap())
            .root(self.dir.path().join("root"))
            .state_dir(self.dir.path().join("state"))
            .build()
            .unwrap();
        agent.run(&RunOptions::default()).await.unwrap()
    }

    fn waiting(&self) -> usize {
        fs::read_dir(self.dir.path().join("state/pending_reports")).map_or(0, Iterator::count)
    }
}

#[tokio::test]
async fn a_server_that_is_busy_is_left_alone_for_as_long_as_it_says() {
    let node = Node::of(Server { busy: AtomicUsize::new(2), wait: Duration::from_millis(700), ..Server::default() });
    let begun = Instant::now();
    assert_eq!(node.run().await.resources.failed, 0);
    assert!(begun.elapsed() >= Duration::from_millis(1400), "{:?}", begun.elapsed());
    assert_eq!(fs::read_to_string(node.dir.path().join("root/a")).unwrap(), "hello");
}

#[tokio::test]
async fn a_report_that_is_refused_for_good_is_dropped_with_a_warning() {
    for code in [RefusalCode::Forbidden, RefusalCode::BadRequest] {
        let node = Node::of(Server::default());
        *node.server.refuses_others.lock().unwrap() = Some(code);
        let outcome = node.run().await;
        assert_eq!(node.waiting(), 0, "{code:?}");
        assert!(outcome.messages.iter().all(|message| !message.contains("is kept")), "{:?}", outcome.messages);
    }
}

#[tokio::test]
async fn no_report_keeps_those_behind_it_back() {
    let node = Node::of(Server::default());
    let busy = || *node.server.refuses_others.lock().unwrap() = Some(RefusalCode::Busy);
    let mut uuids = Vec::new();
    for _ in 0..3 {
        busy();
        uuids.push(node.run().await.transaction_uuid);
    }
    assert_eq!(node.waiting(), 3);
    *node.server.refuses_others.lock().unwrap() = None;
    // The first is never taken, the second not yet.
    node.server
        .refusals
        .lock()
        .unwrap()
        .extend([(uuids[0].clone(), RefusalCode::BadRequest), (uuids[1].clone(), RefusalCode::Internal)]);
    let last = node.run().await.transaction_uuid;
    assert_eq!(*node.server.taken.lock().unwrap(), [uuids[2].clone(), last]);
    assert_eq!(node.waiting(), 1);
}
