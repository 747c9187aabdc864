//! Contents for a fetch: read, verified and sent one after the other, no faster than they are taken.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::sync::Arc;

use bytes::Bytes;
use direct_puppet_agent::store::Store;
use direct_puppet_transport::protocol::{Digest, Fetch};
use direct_puppet_transport::{Content, FetchItem, FetchItems};
use futures::StreamExt as _;
use tokio::sync::mpsc;

use crate::nodes::Nodes;

/// Contents up to this many bytes are read whole before they are sent.
const WHOLE_BYTES: u64 = 256 * 1024;

/// How many contents may wait to be sent.
const ITEM_BACKLOG: usize = 32;

/// How many chunks of a large content may wait to be sent.
const CHUNK_BACKLOG: usize = 4;

type Items = mpsc::Sender<io::Result<FetchItem>>;

/// Streams what is asked for, as far as the node's own catalogs name it; the rest is missing, whether it exists or not.
pub(super) fn stream(store: Store, nodes: Arc<Nodes>, request: Fetch) -> FetchItems {
    let (sender, receiver) = mpsc::channel(ITEM_BACKLOG);
    // Ends by itself when the receiver is dropped: every send fails then.
    tokio::task::spawn_blocking(move || {
        let allowed = nodes.contents(&request.certname);
        produce(&store, &request, &allowed, &sender);
    });
    futures::stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) }).boxed()
}

fn produce(store: &Store, request: &Fetch, allowed: &[Arc<HashSet<Digest>>], items: &Items) {
    for digest in &request.digests {
        let offset = request.offsets.get(digest).copied().unwrap_or(0);
        let is_allowed = allowed.iter().any(|set| set.contains(digest));
        let file = if is_allowed { store.open(digest).ok().flatten() } else { None };
        let sent = match file {
            None => items.blocking_send(Ok(FetchItem::Missing(*digest))).is_ok(),
            Some(file) => send(file, *digest, offset, items),
        };
        if !sent {
            return;
        }
    }
}

/// Sends one content; returns whether to go on.
fn send(mut file: File, digest: Digest, offset: u64, items: &Items) -> bool {
    let size = match file.metadata() {
        Ok(metadata) => metadata.len(),
        Err(error) => return fail(items, error),
    };
    let offset = if offset > size { 0 } else { offset };
    if size > WHOLE_BYTES {
        return send_large(file, digest, size, offset, items);
    }
    let mut content = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    if let Err(error) = file.read_to_end(&mut content) {
        return fail(items, error);
    }
    if !digest.verifies(&content) {
        return fail(items, damaged(&digest));
    }
    let body = Bytes::from(content).slice(usize::try_from(offset).unwrap_or_default()..);
    let body = futures::stream::iter([Ok(body)]).boxed();
    items.blocking_send(Ok(FetchItem::Content(Content { digest, size, offset, body }))).is_ok()
}

/// Sends a content in chunks and hashes it on the way: if it is not what its name says, its stream ends in an error.
fn send_large(mut file: File, digest: Digest, size: u64, offset: u64, items: &Items) -> bool {
    let (chunks, receiver) = mpsc::channel::<io::Result<Bytes>>(CHUNK_BACKLOG);
    let body = futures::stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) }).boxed();
    if items.blocking_send(Ok(FetchItem::Content(Content { digest, size, offset, body }))).is_err() {
        return false;
    }
    let mut hasher = digest.verifier();
    let mut at = 0;
    loop {
        let mut chunk = vec![0; usize::try_from(WHOLE_BYTES).unwrap_or_default()];
        let count = match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) => {
                let _unheard = chunks.blocking_send(Err(error));
                return false;
            }
        };
        chunk.truncate(count);
        hasher.update(&chunk);
        let begin = offset.saturating_sub(at).min(count as u64);
        at += count as u64;
        let wanted = Bytes::from(chunk).slice(usize::try_from(begin).unwrap_or_default()..);
        if at > size || (!wanted.is_empty() && at < size && chunks.blocking_send(Ok(wanted.clone())).is_err()) {
            return false;
        }
        if at == size {
            // The last chunk goes only after the whole is proved.
            let last = if hasher.clone().finish() == digest { Ok(wanted) } else { Err(damaged(&digest)) };
            return chunks.blocking_send(last).is_ok();
        }
    }
    let _unheard = chunks.blocking_send(Err(damaged(&digest)));
    false
}

fn damaged(digest: &Digest) -> io::Error {
    tracing::error!(%digest, "a content in the store does not match its digest: publish again");
    io::Error::other(format!("content {digest} is damaged in the server's store"))
}

fn fail(items: &Items, error: io::Error) -> bool {
    // Nothing can follow an error.
    let _unheard = items.blocking_send(Err(error));
    false
}
