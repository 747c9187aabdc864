//! Contents: each digest is looked up, asked for, and passed on as it comes.
//!
//! The protocol announces a content with its length. A server that does not say how long its answer is gets it taken in first: into memory
//! up to [`MAX_IN_MEMORY_BYTES`], else into a file without a name.

use std::io::{self, SeekFrom};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use direct_puppet_agent::ContentPlace;
use direct_puppet_transport::handler::{Content, FetchItem, FetchItems};
use direct_puppet_transport::protocol::{Digest, Environment};
use direct_puppet_transport::{BodyStream, TransportError, TransportErrorKind};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};
use tokio_util::io::ReaderStream;

use crate::api::{self, Answer, Call, Failure};
use crate::encode::{PuppetUri, form, path};
use crate::transport::Inner;

/// How many contents are asked for ahead of the one that is being received.
const AT_ONCE: usize = 4;

/// Longest content that is held in memory when the server does not say how long it is.
const MAX_IN_MEMORY_BYTES: usize = 1024 * 1024;

/// Longest content that is taken: no module holds a larger file, and a server that sends without end must not fill the disk.
const MAX_CONTENT_BYTES: u64 = 16 * 1024 * 1024 * 1024;

/// Where a content is, with what belongs to the catalog that says so.
struct Found {
    place: ContentPlace,
    environment: Environment,
    code_id: Option<String>,
}

/// Answers a fetch.
pub(crate) fn items(inner: Arc<Inner>, digests: Vec<Digest>) -> FetchItems {
    let one = move |digest| {
        let inner = Arc::clone(&inner);
        async move { item(&inner, digest).await.map_err(io::Error::other) }
    };
    stream::iter(digests).map(one).buffered(AT_ONCE).boxed()
}

async fn item(inner: &Inner, digest: Digest) -> Result<FetchItem, TransportError> {
    let mut empty = digest.verifier();
    empty.update(b"");
    if empty.finish() == digest {
        return Ok(content(digest, 0, stream::empty().boxed()));
    }
    let found = inner.places.look(|known| {
        known.iter().find_map(|known| {
            let place = known.place(&digest)?;
            Some(Found { place, environment: known.environment.clone(), code_id: known.code_id.clone() })
        })
    });
    let endpoint = inner.exchange.endpoint();
    let Some((shown, call)) = found.as_ref().and_then(call) else {
        tracing::warn!(%digest, "no catalog of this server says where this content is");
        return Ok(FetchItem::Missing(digest));
    };
    let answered = match api::call(&*inner.exchange, call).await {
        Ok(Answer::Here(response)) => response,
        Ok(Answer::NotFound(said)) => {
            tracing::warn!(%digest, content = %shown, %said, "{endpoint} does not have this content any more");
            return Ok(FetchItem::Missing(digest));
        }
        Err(Failure::Refused(refusal)) => {
            let error = TransportError::new(TransportErrorKind::Protocol, endpoint);
            return Err(error.with_detail(format!("content {shown} cannot be had: {}", refusal.message)));
        }
        Err(Failure::Transport(error)) => return Err(error),
    };
    let too_large = || {
        let detail = format!("content {shown} has more than {MAX_CONTENT_BYTES} bytes");
        TransportError::new(TransportErrorKind::TooLarge, endpoint).with_detail(detail)
    };
    match answered.length {
        Some(length) if length > MAX_CONTENT_BYTES => Err(too_large()),
        Some(length) => Ok(content(digest, length, exactly(answered.body, length).boxed())),
        None => match spool(answered.body, inner).await? {
            Some((length, body)) => Ok(content(digest, length, body)),
            None => Err(too_large()),
        },
    }
}

fn content(digest: Digest, size: u64, body: stream::BoxStream<'static, io::Result<Bytes>>) -> FetchItem {
    FetchItem::Content(Content { digest, size, offset: 0, body })
}

/// Returns the request for a content and its URI; `None` where it makes none.
fn call(found: &Found) -> Option<(String, Call)> {
    let environment = ("environment", found.environment.as_str());
    let (uri, endpoint, query) = match &found.place {
        ContentPlace::Static(uri) => (uri, "static_file_content", form([environment, ("code_id", found.code_id.as_deref()?)])),
        ContentPlace::Mount(uri) => (uri, "file_content", form([environment])),
    };
    let path = path(PuppetUri::parse(uri)?.path);
    Some((uri.clone(), Call::get(format!("{endpoint}/{path}?{query}"), "application/octet-stream")))
}

/// Passes a body on that must have exactly `length` bytes: more or fewer would shift everything that follows in the stream.
fn exactly(body: BodyStream, length: u64) -> impl futures::Stream<Item = io::Result<Bytes>> + Send + 'static {
    let ended = stream::once(async { Ok(Bytes::new()) }).map(|end| (end, true));
    let chunks = body.map_err(io::Error::other).map(|chunk| (chunk, false)).chain(ended);
    chunks
        .scan(length, |left, (chunk, is_end)| {
            let checked = chunk.and_then(|chunk| match left.checked_sub(chunk.len() as u64) {
                Some(rest) if !is_end || rest == 0 => {
                    *left = rest;
                    Ok(chunk)
                }
                _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a content is not as long as the server announced")),
            });
            futures::future::ready(Some(checked))
        })
        .filter(|chunk| futures::future::ready(!matches!(chunk, Ok(chunk) if chunk.is_empty())))
}

type Spooled = (u64, stream::BoxStream<'static, io::Result<Bytes>>);

/// Takes a body in whose length is not known; `None` when it is too long.
async fn spool(mut body: BodyStream, inner: &Inner) -> Result<Option<Spooled>, TransportError> {
    let mut held = BytesMut::new();
    while let Some(chunk) = body.next().await.transpose()? {
        held.extend_from_slice(&chunk);
        if held.len() > MAX_IN_MEMORY_BYTES {
            return to_file(held.freeze(), body, inner).await;
        }
    }
    let length = held.len() as u64;
    Ok(Some((length, stream::iter([Ok(held.freeze())]).boxed())))
}

async fn to_file(begun: Bytes, mut body: BodyStream, inner: &Inner) -> Result<Option<Spooled>, TransportError> {
    let failed = |error: io::Error| {
        let error = TransportError::new(TransportErrorKind::Config, inner.exchange.endpoint()).with_source(error);
        error.with_detail("a content whose length the server does not say could not be put on disk")
    };
    let dir = inner.spool_dir.clone();
    let made = tokio::task::spawn_blocking(move || match dir {
        Some(dir) => tempfile::tempfile_in(dir),
        None => tempfile::tempfile(),
    });
    let file = made.await.map_err(io::Error::other).and_then(|made| made).map_err(failed)?;
    let mut file = tokio::fs::File::from_std(file);
    let mut length = begun.len() as u64;
    file.write_all(&begun).await.map_err(failed)?;
    while let Some(chunk) = body.next().await.transpose()? {
        length += chunk.len() as u64;
        if length > MAX_CONTENT_BYTES {
            return Ok(None);
        }
        file.write_all(&chunk).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    file.seek(SeekFrom::Start(0)).await.map_err(failed)?;
    Ok(Some((length, ReaderStream::with_capacity(file, 64 * 1024).boxed())))
}
