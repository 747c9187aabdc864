//! A server over staged code, and comparison of what it compiles with what Puppet makes of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use direct_puppet_agent::PuppetCatalog;
use direct_puppet_server_stub::publish::PublishRequest;
use direct_puppet_server_stub::{Server, ServerOptions, Staging};
use direct_puppet_transport::protocol::{Catalog, CatalogReply, CheckIn, Refusal, Resource, SubmitFacts, Value};
use direct_puppet_transport::testing::samples;
use direct_puppet_transport::{Handler as _, Peer};
use serde_json::{Map, Value as Json};

use crate::library;

pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Returns an object of a JSON file.
pub(crate) fn json(path: &str) -> Map<String, Json> {
    serde_json::from_slice(&std::fs::read(repository(path)).unwrap()).unwrap()
}

/// A server over staged code, and what is asked of it.
pub(crate) struct Site {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) server: Arc<Server>,
}

impl Site {
    /// Opens a server over `staging`.
    pub(crate) fn open(staging: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = ServerOptions::new(dir.path().join("data"), Staging::Environments(staging.to_owned()));
        library::compile_with_it(&mut options);
        Self { server: Server::open(options).unwrap(), dir }
    }

    /// Publishes an environment; returns why it is refused, if it is.
    pub(crate) async fn publish(&self, environment: &str) -> Option<String> {
        let request = PublishRequest { environments: vec![environment.parse().unwrap()], ..PublishRequest::default() };
        let results = self.server.publish(request).await.unwrap();
        results.into_iter().next().unwrap().error.map(|error| error.message)
    }

    pub(crate) async fn compile(
        &self,
        certname: &str,
        environment: &str,
        facts: BTreeMap<String, Value>,
    ) -> Result<Catalog, Refusal> {
        let check_in = CheckIn { environment: environment.parse().unwrap(), ..samples::check_in(certname) };
        match self.server.submit_facts(&Peer::InProcess, SubmitFacts { check_in, facts }).await? {
            CatalogReply::Catalog { catalog_id, catalog, .. } => Ok(Catalog::decode(&catalog, catalog_id).unwrap()),
            other => panic!("no catalog but {other:?}"),
        }
    }
}

/// Returns a catalog of Puppet's with sources as they stand there, and paths within the environment.
pub(crate) fn catalog_of_puppet(mut document: Map<String, Json>, prefix: &str) -> Catalog {
    document.remove("metadata");
    document.remove("recursive_metadata");
    let read = PuppetCatalog::from_compiler(document, &mut |_: &mut Resource| Ok(())).unwrap();
    assert_eq!(read.unusable, BTreeMap::new());
    let mut catalog = read.catalog;
    for file in catalog.resources.iter_mut().filter_map(|resource| resource.file.as_mut()) {
        *file = file.replace(prefix, "");
    }
    catalog
}

/// Compares two catalogs but for what sources resolve to, resource by resource, so that a failure names one.
pub(crate) fn assert_same(ours: &Catalog, theirs: &Catalog) {
    let sorted = |catalog: &Catalog| {
        let by_name = |resource: &Resource| {
            let mut resource = Resource { resolved: None, ..resource.clone() };
            resource.tags.sort();
            resource.parameters.remove("sourceselect");
            (resource.reference().to_string(), format!("{resource:#?}"))
        };
        catalog.resources.iter().map(by_name).collect::<BTreeMap<_, _>>()
    };
    let (mut ours_by_name, theirs_by_name) = (sorted(ours), sorted(theirs));
    for (name, theirs) in &theirs_by_name {
        assert_eq!(ours_by_name.remove(name).as_ref(), Some(theirs), "{name}");
    }
    assert_eq!(ours_by_name.keys().collect::<Vec<_>>(), Vec::<&String>::new());
    let edges = |catalog: &Catalog| {
        let mut edges: Vec<String> = catalog.edges.iter().map(|edge| format!("{} -> {}", edge.source, edge.target)).collect();
        edges.sort();
        edges
    };
    assert_eq!(edges(ours), edges(theirs));
    assert_eq!(ours.classes, theirs.classes);
    // They are secrets in both: what is shown of them says nothing.
    for (ours, theirs) in ours.resources.iter().flat_map(|ours| {
        let theirs = theirs.resources.iter().find(|theirs| theirs.reference() == ours.reference()).unwrap();
        ours.parameters.iter().filter_map(|(name, value)| Some((value, theirs.parameters.get(name)?)))
    }) {
        assert!(ours == theirs, "a secret differs");
    }
}
