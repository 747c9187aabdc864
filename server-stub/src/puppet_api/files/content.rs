//! Contents on their way out: verified, and no faster than they are taken.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use direct_puppet_transport::protocol::{Digest, EntryKind, Fetch, ManifestEntry, TreePath};
use direct_puppet_transport::{Content, FetchItem, TransportError, TransportErrorKind};
use futures::{StreamExt as _, TryStreamExt as _};
use hyper::Response;

use crate::answer::contents::{self, Source};
use crate::listen::RouteBody;
use crate::puppet_api::Api;
use crate::puppet_api::answer::{self, BYTES, Failure};

/// Who asks the store, for its log.
const OWN: &str = "puppet_api";

/// Longest content that is kept in memory, in bytes.
const MAX_KEPT_BYTES: u64 = 64 << 10;

/// Directories of a module of which files are given by their place in the code.
const SERVABLE: [&[u8]; 4] = [b"files", b"lib", b"scripts", b"tasks"];

/// Returns the content of a file.
pub(in crate::puppet_api) fn file_of(entry: &ManifestEntry) -> Option<Digest> {
    match entry.kind {
        EntryKind::File { digest, .. } => Some(digest),
        _ => None,
    }
}

/// Returns whether a path is `<directory>/<module>/<files, lib, scripts or tasks>/<rest>`.
pub(in crate::puppet_api) fn is_servable(path: &TreePath) -> bool {
    path.depth() > 3 && path.components().nth(2).is_some_and(|name| SERVABLE.contains(&name))
}

/// Reads a path below an environment; `None` if nothing is given there.
pub(super) fn static_path(text: &str) -> Option<TreePath> {
    TreePath::from_bytes(text.as_bytes()).ok().filter(is_servable)
}

impl Api {
    /// Sends a content of published code.
    pub(super) async fn send(&self, digest: Digest) -> Result<Response<RouteBody>, Failure> {
        if let Some(known) = self.contents.get(&digest) {
            return Ok(answer::with(BYTES, RouteBody::Whole(known)));
        }
        let gone = || Failure::server("a content of the published code is damaged on this server: try again, or ask another one");
        let certname = OWN.parse().map_err(|error| Failure::server(format!("{error}")))?;
        let mending = Arc::clone(&self.server.mending);
        let source = Source {
            store: self.server.store.clone(),
            allowed: vec![Arc::new(HashSet::from([digest]))],
            gone: Box::new(move |digest: &Digest| mending.want(*digest)),
        };
        let request = Fetch { certname, digests: vec![digest], offsets: std::collections::BTreeMap::new(), packed: None };
        let mut items = contents::stream(Arc::new(source), request).await.map_err(|error| Failure::internal(&error))?;
        let Some(Ok(FetchItem::Content(Content { size, body, .. }))) = items.next().await else { return Err(gone()) };
        if size <= MAX_KEPT_BYTES {
            // To its end it is verified.
            let content = body.try_collect::<Vec<Bytes>>().await.map_err(|_| gone())?.concat().into();
            self.contents.put(digest, &content);
            return Ok(answer::with(BYTES, RouteBody::Whole(content)));
        }
        let body = body.map_err(|error| TransportError::new(TransportErrorKind::Closed, "the server's store").with_source(error));
        Ok(answer::with(BYTES, RouteBody::Stream { length: size, body: body.boxed() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_modules_are_given_by_place() {
        for path in ["modules/a/files/x", "site/a/lib/puppet/x.rb", "modules/a/tasks/t.sh", "modules/a/scripts/s"] {
            assert!(static_path(path).is_some(), "{path}");
        }
        for path in [
            "",
            "modules/a/files",
            "modules/a/manifests/init.pp",
            "hiera.yaml",
            "data/files/x",
            "modules/a/files/../../../data/x",
            "/modules/a/files/x",
            "modules/a/b/files/x",
        ] {
            assert!(static_path(path).is_none(), "{path}");
        }
    }
}
