//! Contents for a fetch: read, verified and sent no faster than they are taken.
//!
//! No thread waits for a peer: each group of small contents, and each chunk of a large one, is one piece of blocking work that
//! begins when the peer has taken what came before.

use std::collections::HashSet;
use std::io::{self, Read as _};
use std::sync::Arc;

use bytes::Bytes;
use direct_puppet_agent::store::{Store, Stored};
use direct_puppet_transport::protocol::{Digest, Fetch, Hasher};
use direct_puppet_transport::{Content, FetchItem, FetchItems};
use futures::StreamExt as _;
use futures::stream::BoxStream;

use crate::blocking;

/// Contents up to this many bytes are read whole before they are sent.
pub(super) const WHOLE_BYTES: u64 = 256 * 1024;
/// How much of a larger one is read at a time.
const CHUNK_BYTES: usize = 256 * 1024;
/// A group ends after this many bytes, so one fetch holds at most this and one small content in memory,
const GROUP_BYTES: u64 = 1024 * 1024;
/// or after this many contents: enough that handing over to a thread costs little for each.
const GROUP_ITEMS: usize = 256;

/// What a peer may have, and from where.
pub(crate) struct Source {
    pub(crate) store: Store,
    /// It may have what is in any of these.
    pub(crate) allowed: Vec<Arc<HashSet<Digest>>>,
    /// Is told of each content that it may have and that is missing or damaged. Blocking.
    pub(crate) gone: Box<dyn Fn(&Digest) + Send + Sync>,
}

impl Source {
    /// Opens a content, when it may be had and is there.
    pub(super) fn open(&self, digest: &Digest) -> io::Result<Option<Stored>> {
        if !self.allowed.iter().any(|set| set.contains(digest)) {
            return Ok(None);
        }
        let content = self.store.content(digest).map_err(io::Error::other)?;
        if content.is_none() {
            tracing::error!(%digest, "a content that is named is not in the store");
            (self.gone)(digest);
        }
        Ok(content)
    }

    /// Moves a damaged content aside, so that it is stored anew.
    pub(super) fn quarantine(&self, digest: &Digest) {
        tracing::error!(%digest, "a content in the store does not match its digest");
        if let Err(error) = self.store.has_verified(digest) {
            tracing::error!(%digest, %error, "it could not be moved aside");
        }
        (self.gone)(digest);
    }
}

/// Where a fetch stands.
struct Progress {
    source: Arc<Source>,
    request: Fetch,
    next: usize,
}

/// Streams what is asked for, as far as the source allows it; the rest is missing, whether it exists or not. A digest that is asked for
/// twice is answered once.
pub(crate) async fn stream(source: Arc<Source>, mut request: Fetch) -> io::Result<FetchItems> {
    let begin = move || {
        let mut seen = HashSet::with_capacity(request.digests.len());
        request.digests.retain(|digest| seen.insert(*digest));
        Progress { source, request, next: 0 }
    };
    let progress = blocking::run(begin).await.map_err(io::Error::other)?;
    let groups = futures::stream::try_unfold(progress, |progress| async move {
        if progress.next >= progress.request.digests.len() {
            return Ok(None);
        }
        blocking::run(|| group(progress)).await.map_err(io::Error::other)
    });
    let items = groups.flat_map(|group: io::Result<Vec<io::Result<FetchItem>>>| match group {
        Ok(items) => futures::stream::iter(items),
        Err(error) => futures::stream::iter(vec![Err(error)]),
    });
    Ok(items.boxed())
}

type Group = Option<(Vec<io::Result<FetchItem>>, Progress)>;

/// Reads the next contents, up to a group's bounds or the first large one. Blocking.
fn group(mut progress: Progress) -> Group {
    let mut items = Vec::new();
    let mut bytes = 0;
    while let Some(digest) = progress.request.digests.get(progress.next).copied()
        && items.len() < GROUP_ITEMS
        && bytes < GROUP_BYTES
    {
        progress.next += 1;
        let offset = progress.request.offsets.get(&digest).copied().unwrap_or(0);
        let item = item(&progress, digest, offset);
        let is_large = matches!(&item, Ok(FetchItem::Content(content)) if content.size > WHOLE_BYTES);
        if let Ok(FetchItem::Content(content)) = &item {
            bytes += content.size.min(WHOLE_BYTES);
        }
        items.push(item);
        if is_large {
            break;
        }
    }
    Some((items, progress))
}

fn item(progress: &Progress, digest: Digest, offset: u64) -> io::Result<FetchItem> {
    let Some(mut stored) = progress.source.open(&digest)? else { return Ok(FetchItem::Missing(digest)) };
    let size = stored.size();
    let offset = if offset > size { 0 } else { offset };
    if size > WHOLE_BYTES {
        let body = large(stored, digest, size, offset, Arc::clone(&progress.source));
        return Ok(FetchItem::Content(Content { digest, size, offset, body }));
    }
    let mut content = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    stored.read_to_end(&mut content)?;
    if !digest.verifies(&content) {
        // Nothing of it was sent: the peer can have the others.
        progress.source.quarantine(&digest);
        return Ok(FetchItem::Missing(digest));
    }
    let body = Bytes::from(content).slice(usize::try_from(offset).unwrap_or_default()..);
    Ok(FetchItem::Content(Content { digest, size, offset, body: futures::stream::iter([Ok(body)]).boxed() }))
}

/// Where a large content stands.
struct Reading {
    stored: Stored,
    hasher: Hasher,
    digest: Digest,
    at: u64,
    size: u64,
    offset: u64,
    source: Arc<Source>,
}

/// Streams a content in chunks and hashes it on the way; the last chunk goes only after the whole is proved, so what is damaged ends in
/// an error and never as if it were whole.
fn large(stored: Stored, digest: Digest, size: u64, offset: u64, source: Arc<Source>) -> BoxStream<'static, io::Result<Bytes>> {
    let reading = Reading { stored, hasher: digest.verifier(), digest, at: 0, size, offset, source };
    futures::stream::try_unfold(Some(reading), |reading| async move {
        let Some(reading) = reading else { return Ok(None) };
        blocking::run(|| chunk(reading)).await.map_err(io::Error::other)?
    })
    .boxed()
}

/// Reads the next chunk that the peer wants. Blocking.
fn chunk(mut reading: Reading) -> io::Result<Option<(Bytes, Option<Reading>)>> {
    loop {
        let mut chunk = vec![0; CHUNK_BYTES];
        let count = reading.stored.read(&mut chunk)?;
        chunk.truncate(count);
        reading.hasher.update(&chunk);
        let skipped = reading.offset.saturating_sub(reading.at).min(count as u64);
        reading.at += count as u64;
        let wanted = Bytes::from(chunk).slice(usize::try_from(skipped).unwrap_or_default()..);
        if count == 0 || reading.at >= reading.size {
            let Reading { hasher, digest, at, size, source, .. } = reading;
            if at != size || hasher.finish() != digest {
                source.quarantine(&digest);
                return Err(io::Error::other(format!("content {digest} is damaged in the server's store")));
            }
            return Ok(Some((wanted, None)));
        }
        if !wanted.is_empty() {
            return Ok(Some((wanted, Some(reading))));
        }
    }
}
