//! The static catalog that an agent of Puppet gets, beside the one that Puppet Server gave it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use direct_puppet_agent::PuppetCatalog;
use direct_puppet_server_stub::listen::{RouteBody, Routes as _};
use direct_puppet_server_stub::{AdminRoutes, PuppetRoutes};
use direct_puppet_transport::Peer;
use direct_puppet_transport::protocol::{Catalog, Digest, EntryKind, ManifestEntry, Value};
use futures::TryStreamExt as _;
use hyper::header::{ACCEPT, CONTENT_TYPE};
use hyper::{Method, Request, StatusCode};
use serde_json::{Value as Json, json};

use super::server::{CODE, facts, site};
use super::{Site, assert_same, has_puppet, repository};

const NODE: &str = "agent01.lab.test";

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

pub(crate) fn routes(site: &Site) -> PuppetRoutes {
    let server = Arc::clone(&site.server);
    PuppetRoutes::new(Arc::clone(&server), Arc::new(AdminRoutes::new(server, Vec::new())))
}

/// Returns what a stock agent posts for its catalog.
pub(crate) fn form(certname: &str, facts: &BTreeMap<String, Value>) -> String {
    let posted = encoded(&encoded(&json!({ "name": certname, "values": facts }).to_string()));
    format!("facts_format=application%2Fjson&facts={posted}&static_catalog=true&checksum_type=sha256.md5")
}

/// What it accepts.
pub(crate) const ACCEPTED: &str = "application/vnd.puppet.rich+json, application/json";

/// Asks for a catalog as a stock agent does; returns it, or the document that tells why there is none.
pub(crate) async fn catalog(
    routes: &PuppetRoutes,
    certname: &str,
    environment: &str,
    facts: &BTreeMap<String, Value>,
) -> Result<Bytes, Bytes> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("/puppet/v3/catalog/{certname}?environment={environment}"))
        .header(ACCEPT, ACCEPTED)
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    send(routes, certname, request.body(form(certname, facts).into()).unwrap()).await
}

/// Compares two static catalogs as our own agent reads them, metadata and all, but for the paths of their servers; returns ours, and
/// how many files sources were resolved to.
pub(crate) fn assert_same_static(ours: &[u8], theirs: &[u8], prefix: &str) -> (Catalog, usize) {
    let (ours, theirs) = (PuppetCatalog::read(ours).unwrap(), PuppetCatalog::read(theirs).unwrap());
    assert_eq!(ours.unusable, theirs.unusable);
    let (ours, mut theirs) = (ours.catalog, theirs.catalog);
    for file in theirs.resources.iter_mut().filter_map(|resource| resource.file.as_mut()) {
        *file = file.replace(prefix, "");
    }
    assert_same(&ours, &theirs);
    let mut resolved = 0;
    for ours in &ours.resources {
        let reference = ours.reference();
        let theirs = theirs.resources.iter().find(|theirs| theirs.reference() == reference).unwrap();
        let (Some(ours), Some(theirs)) = (&ours.resolved, &theirs.resolved) else {
            assert_eq!(ours.resolved, theirs.resolved, "{reference}");
            continue;
        };
        let entries = |entries: &[ManifestEntry]| {
            entries.iter().map(|entry| (entry.path.to_string(), format!("{:?}", entry.kind))).collect::<Vec<_>>()
        };
        assert_eq!(entries(&ours.entries), entries(&theirs.entries), "{reference}");
        resolved += ours.entries.len();
    }
    (ours, resolved)
}

async fn send(routes: &PuppetRoutes, certname: &str, request: Request<Bytes>) -> Result<Bytes, Bytes> {
    let peer = Peer::certificate(certname.parse().unwrap());
    let (parts, body) = routes.route(&peer, request).await.unwrap().into_parts();
    let body = match body {
        RouteBody::Whole(bytes) => bytes,
        RouteBody::Stream { body, .. } => body.try_collect::<Vec<Bytes>>().await.unwrap().concat().into(),
    };
    if parts.status == StatusCode::OK { Ok(body) } else { Err(body) }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_static_catalog_of_a_stock_agent() {
    if !has_puppet() {
        return;
    }
    let site = site();
    assert_eq!(site.publish("production").await, None);
    let routes = routes(&site);
    let bytes = catalog(&routes, NODE, "production", &facts()).await.unwrap();
    let recorded = std::fs::read(repository("interop/puppet-server/catalog.json")).unwrap();
    let (ours, resolved) = assert_same_static(&bytes, &recorded, &format!("{CODE}/production/"));
    assert!(resolved > 20, "{resolved}");

    // Every content is where the catalog says it is.
    let document: Json = serde_json::from_slice(&bytes).unwrap();
    let code_id = encoded(document["code_id"].as_str().unwrap());
    let single = document["metadata"].as_object().unwrap().values();
    let trees = document["recursive_metadata"].as_object().unwrap().values();
    let below = trees.flat_map(|by_source| by_source.as_object().unwrap().values()).flat_map(|list| list.as_array().unwrap());
    let mut fetched = 0;
    for file in single.chain(below).filter(|file| file["type"] == "file") {
        let Some(hex) = file["checksum"]["value"].as_str().unwrap().strip_prefix("{sha256}") else { continue };
        let path = file["content_uri"].as_str().unwrap().strip_prefix("puppet:///").unwrap();
        let path: String = path.split('/').map(encoded).collect::<Vec<_>>().join("/");
        let uri = format!("/puppet/v3/static_file_content/{path}?environment=production&code_id={code_id}");
        let content = send(&routes, NODE, Request::builder().uri(uri).body(Bytes::new()).unwrap()).await.unwrap();
        let digest: Digest = format!("sha256:{hex}").parse().unwrap();
        assert!(digest.verifies(&content), "{file}");
        fetched += 1;
    }
    assert!(fetched > 10, "{fetched}");
    let compiles: u64 = site.server.nodes().unwrap().iter().map(|node| node.compiles).sum();
    assert_eq!(compiles, 1);
    assert!(ours.resources.iter().any(|resource| {
        resource.resolved.iter().flat_map(|resolved| &resolved.entries).any(|entry| matches!(entry.kind, EntryKind::Link { .. }))
    }));
}
