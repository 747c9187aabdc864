//! A server for examples: one catalog for everybody, straight from memory.
#![allow(dead_code, unreachable_pub, reason = "each example uses a part of this")]

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use direct_puppet_transport::protocol::catalog::CATALOG_FORMAT;
use direct_puppet_transport::protocol::{
    Catalog, CatalogReply, CheckIn, Digest, EntryKind, Environment, Fetch, Manifest, ManifestEntry, Refusal, Report,
    ReportAccepted, ResolvedSource, Resource, SubmitFacts, TreePath, VersionCounter,
};
use direct_puppet_transport::{Content, FetchItem, FetchItems, Handler, MemoryTransport, Peer};
use futures::StreamExt as _;

/// Answers every check-in with the same catalog.
#[derive(Debug)]
pub struct OneCatalog {
    reply: CatalogReply,
    contents: HashMap<Digest, Bytes>,
}

/// Returns a transport to a server whose catalog has these resources; `contents` are the bytes of its files.
pub fn serve(certname: &str, resources: Vec<Resource>, contents: &[&'static str]) -> MemoryTransport {
    let catalog = Catalog {
        format: CATALOG_FORMAT,
        certname: certname.parse().expect("examples use valid names"),
        environment: Environment::default(),
        classes: Vec::new(),
        resources,
        edges: Vec::new(),
    };
    let (catalog_id, catalog) = catalog.encode().expect("a catalog can be encoded");
    let reply = CatalogReply::Catalog {
        catalog_id,
        code_id: Manifest::default().code_id(),
        version: VersionCounter { epoch: 1, sequence: 1 },
        unconfirmed_seconds: None,
        catalog,
    };
    let contents = contents.iter().map(|text| (Digest::of(text.as_bytes()), Bytes::from_static(text.as_bytes()))).collect();
    MemoryTransport::new(Arc::new(OneCatalog { reply, contents }))
}

/// Returns a file resource whose content is named by digest, as a compiler makes it.
pub fn file(path: &str, content: &str) -> Resource {
    let kind = EntryKind::File { digest: Digest::of(content.as_bytes()), size: content.len() as u64 };
    let entry = ManifestEntry { path: TreePath::root(), mode: 0o644, kind };
    let mut resource = Resource::new("File", path).with("ensure", "file");
    resource.resolved = Some(ResolvedSource { uri: None, entries: vec![entry] });
    resource
}

/// Returns a directory for an example to manage; removed when dropped.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory can be made")
}

/// Reads a file below the managed root.
pub fn read(root: &Path, path: &str) -> String {
    std::fs::read_to_string(root.join(path)).expect("the file is there")
}

#[async_trait]
impl Handler for OneCatalog {
    async fn check_in(&self, _peer: &Peer, request: CheckIn) -> Result<CatalogReply, Refusal> {
        match (&self.reply, request.held) {
            (CatalogReply::Catalog { catalog_id, code_id, version, .. }, Some(held)) if held.catalog_id == *catalog_id => {
                Ok(CatalogReply::Current { code_id: *code_id, version: *version, unconfirmed_seconds: None })
            }
            (reply, _) => Ok(reply.clone()),
        }
    }

    async fn submit_facts(&self, peer: &Peer, request: SubmitFacts) -> Result<CatalogReply, Refusal> {
        self.check_in(peer, request.check_in).await
    }

    async fn fetch(&self, _peer: &Peer, request: Fetch) -> Result<FetchItems, Refusal> {
        let items: Vec<_> = request
            .digests
            .into_iter()
            .map(|digest| {
                Ok(match self.contents.get(&digest) {
                    None => FetchItem::Missing(digest),
                    Some(content) => {
                        let body = futures::stream::iter([Ok(content.clone())]).boxed();
                        FetchItem::Content(Content { digest, size: content.len() as u64, offset: 0, body })
                    }
                })
            })
            .collect();
        Ok(futures::stream::iter(items).boxed())
    }

    async fn report(&self, _peer: &Peer, _report: Report) -> Result<ReportAccepted, Refusal> {
        Ok(ReportAccepted { duplicate: false })
    }
}
