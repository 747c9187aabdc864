//! Files that are put together from pieces: what later runs make of pieces that changed, and of contents that are there for them.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use direct_puppet_agent::{Agent, AgentBuilder, Outcome, PuppetCatalog, RunOptions};
use direct_puppet_transport::handler::{Content, FetchItem, FetchItems};
use direct_puppet_transport::protocol::catalog::CATALOG_FORMAT;
use direct_puppet_transport::protocol::{
    Catalog, CatalogReply, CheckIn, CodeId, Digest, EntryKind, Environment, Fetch, Manifest, ManifestEntry, Refusal, RefusalCode,
    Report, ReportAccepted, ResolvedSource, Resource, RunStatus, SubmitFacts, TreePath, VersionCounter,
};
use direct_puppet_transport::{Handler, MemoryTransport, Peer};
use futures::{StreamExt as _, stream};
use serde_json::json;
use tempfile::TempDir;

/// A server with a catalog for each environment, and the contents that they name.
#[derive(Debug, Default)]
struct Server {
    catalogs: Mutex<BTreeMap<Environment, Vec<Resource>>>,
    contents: Mutex<BTreeMap<Digest, &'static [u8]>>,
}

fn version() -> VersionCounter {
    VersionCounter { epoch: 1, sequence: 1 }
}

fn code_id() -> CodeId {
    Manifest::default().code_id()
}

#[async_trait]
impl Handler for Server {
    async fn check_in(&self, _: &Peer, request: CheckIn) -> Result<CatalogReply, Refusal> {
        let resources = self.catalogs.lock().unwrap().get(&request.environment).cloned();
        let Some(resources) = resources else { return Err(Refusal::new(RefusalCode::Internal, "away")) };
        let catalog = Catalog {
            format: CATALOG_FORMAT,
            certname: request.certname,
            environment: request.environment,
            classes: Vec::new(),
            resources,
            edges: Vec::new(),
        };
        let (catalog_id, catalog) = catalog.encode().unwrap();
        if request.held.is_some_and(|held| held.catalog_id == catalog_id) {
            return Ok(CatalogReply::Current { code_id: code_id(), version: version(), unconfirmed_seconds: None });
        }
        Ok(CatalogReply::Catalog { catalog_id, code_id: code_id(), version: version(), unconfirmed_seconds: None, catalog })
    }

    async fn submit_facts(&self, peer: &Peer, request: SubmitFacts) -> Result<CatalogReply, Refusal> {
        self.check_in(peer, request.check_in).await
    }

    async fn fetch(&self, _: &Peer, request: Fetch) -> Result<FetchItems, Refusal> {
        let contents = self.contents.lock().unwrap();
        let items = request.digests.into_iter().map(|digest| match contents.get(&digest) {
            None => Ok(FetchItem::Missing(digest)),
            Some(bytes) => {
                let body = stream::iter([Ok(Bytes::from_static(bytes))]).boxed();
                Ok(FetchItem::Content(Content { digest, size: bytes.len() as u64, offset: 0, body }))
            }
        });
        Ok(stream::iter(items.collect::<Vec<_>>()).boxed())
    }

    async fn report(&self, _: &Peer, _: Report) -> Result<ReportAccepted, Refusal> {
        Ok(ReportAccepted { duplicate: false })
    }
}

struct Node {
    dir: TempDir,
    server: Arc<Server>,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        Self { dir, server: Arc::default() }
    }

    fn serve(&self, environment: &str, resources: Vec<Resource>) {
        self.server.catalogs.lock().unwrap().insert(environment.parse().unwrap(), resources);
    }

    /// Returns a piece whose content the server has.
    fn served(&self, name: &str, content: &'static [u8]) -> Resource {
        let digest = Digest::of(content);
        self.server.contents.lock().unwrap().insert(digest, content);
        let uri = format!("puppet:///modules/app/{name}");
        let mut piece = Resource::new("Concat_fragment", name).with("target", "/whole").with("source", uri.as_str());
        let kind = EntryKind::File { digest, size: content.len() as u64 };
        let entries = vec![ManifestEntry { path: TreePath::root(), mode: 0o644, kind }];
        piece.resolved = Some(ResolvedSource { uri: Some(uri), entries });
        piece
    }

    fn builder(&self, environment: &str) -> AgentBuilder<()> {
        let dir = self.dir.path();
        let builder = Agent::builder().certname("n1".parse().unwrap()).environment(environment.parse().unwrap());
        builder.root(dir.join("root")).state_dir(dir.join("state"))
    }

    async fn run(&self, environment: &str, options: &RunOptions) -> Outcome {
        let transport = MemoryTransport::new(Arc::clone(&self.server) as Arc<dyn Handler>);
        let agent = self.builder(environment).transport(transport).build().unwrap();
        let outcome = agent.run(options).await.unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!(outcome.resources.failed, 0, "{:?}", outcome.messages);
        outcome
    }

    /// Makes a run that has something to do; returns whether each event of it took back what somebody else had done.
    async fn corrective(&self) -> BTreeMap<String, bool> {
        let outcome = self.run("production", &RunOptions::default()).await;
        assert_eq!(outcome.status, RunStatus::Changed);
        let events = outcome.report.resource_statuses.iter().flat_map(|status| &status.events);
        events.map(|event| (event.property.to_string(), event.corrective_change)).collect()
    }

    fn read(&self) -> String {
        fs::read_to_string(self.dir.path().join("root/whole")).unwrap()
    }

    fn write(&self, content: &str) {
        fs::write(self.dir.path().join("root/whole"), content).unwrap();
    }
}

fn whole() -> Resource {
    Resource::new("Concat_file", "/whole").with("mode", "0640")
}

fn piece(content: &str) -> Resource {
    Resource::new("Concat_fragment", "piece").with("target", "/whole").with("content", content)
}

fn found(properties: &[(&str, bool)]) -> BTreeMap<String, bool> {
    properties.iter().map(|(property, is_corrective)| ((*property).to_owned(), *is_corrective)).collect()
}

#[tokio::test]
async fn a_piece_that_the_catalog_changed_is_no_drift() {
    let node = Node::new();
    node.serve("production", vec![whole(), piece("one\n")]);
    assert_eq!(node.corrective().await, found(&[("ensure", false)]));
    node.serve("production", vec![whole(), piece("two\n")]);
    assert_eq!(node.corrective().await, found(&[("content", false)]));
    // Somebody else's change is, also of what the pieces say nothing of.
    node.write("drift\n");
    assert_eq!(node.corrective().await, found(&[("content", true)]));
    node.serve("production", vec![whole(), piece("three\n")]);
    let path = node.dir.path().join("root/whole");
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    assert_eq!(node.corrective().await, found(&[("content", false), ("mode", true)]));
    fs::remove_file(&path).unwrap();
    node.serve("production", vec![whole(), piece("four\n")]);
    assert_eq!(node.corrective().await, found(&[("ensure", true)]));
    // The same pieces in another order of the catalog are the same.
    node.serve("production", vec![piece("four\n"), whole()]);
    node.write("drift\n");
    assert_eq!(node.corrective().await, found(&[("content", true)]));
    // What the server has may change, too.
    node.serve("production", vec![whole(), node.served("piece", b"five\n")]);
    assert_eq!(node.corrective().await, found(&[("content", false)]));
    node.serve("production", vec![whole(), node.served("piece", b"six\n")]);
    assert_eq!(node.corrective().await, found(&[("content", false)]));
    assert_eq!(node.read(), "six\n");
}

#[tokio::test]
async fn the_first_piece_of_a_file_that_was_not_to_be_is_no_drift() {
    let node = Node::new();
    let empty = || whole().with("create_empty_file", false);
    node.serve("production", vec![empty()]);
    assert_eq!(node.run("production", &RunOptions::default()).await.status, RunStatus::Unchanged);
    node.serve("production", vec![empty(), piece("one\n")]);
    assert_eq!(node.corrective().await, found(&[("ensure", false)]));
}

#[tokio::test]
async fn pieces_stay_for_the_catalog_that_needs_them_whatever_other_catalogs_do() {
    let node = Node::new();
    node.serve("production", vec![whole(), node.served("piece", b"piece\n")]);
    node.run("production", &RunOptions::default()).await;
    assert_eq!(node.read(), "piece\n");

    // Runs that tidy up after changes: of another environment, and of a catalog that is given.
    node.serve("testing", vec![Resource::new("File", "/other").with("ensure", "file").with("content", "other\n")]);
    assert_eq!(node.run("testing", &RunOptions::default()).await.status, RunStatus::Changed);
    let resources = [json!({"type": "File", "title": "/given", "parameters": {"ensure": "file", "content": "given\n"}})];
    let given = json!({"name": "n1", "environment": "production", "version": 1, "resources": resources, "edges": []});
    let given = PuppetCatalog::read(given.to_string().as_bytes()).unwrap();
    let options = RunOptions { catalog: Some(Arc::new(given)), ..RunOptions::default() };
    assert_eq!(node.run("production", &options).await.status, RunStatus::Changed);

    // No server can be asked now.
    node.server.contents.lock().unwrap().clear();
    node.server.catalogs.lock().unwrap().clear();
    node.write("drift\n");
    let options = RunOptions { use_cached_catalog: true, ..RunOptions::default() };
    let offline = node.run("production", &options).await;
    assert_eq!((offline.status, node.read().as_str()), (RunStatus::Changed, "piece\n"));
    assert_eq!(offline.wire.contents_requested, 0);
}
