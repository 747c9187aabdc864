//! Length-delimited frames over a Unix stream socket.

mod frame;
mod serve;
#[cfg(test)]
#[cfg(feature = "testing")]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::error::{TransportError, TransportErrorKind};
use crate::protocol::limits::MAX_FRAME_BYTES;
use crate::transport::{BodyStream, Request, Response, Transport};

use frame::{Part, RequestHeader, ResponseHeader, decode_header, decode_part, encode_header, frames};

pub use serve::{ConnectionLimits, serve_connection};

/// How many idle connections are kept.
const MAX_IDLE: usize = 8;

/// A connection of either side.
type Connection<IO> = Framed<IO, LengthDelimitedCodec>;

/// Calls a server over a Unix socket. The server must run as root or as this process' own user; connections are kept and used
/// again, each for one call at a time.
#[derive(Debug)]
pub struct UnixTransport {
    path: PathBuf,
    endpoint: String,
    idle: Arc<Mutex<Vec<Connection<UnixStream>>>>,
}

impl UnixTransport {
    /// Returns a transport to the socket at `path`; nothing is opened yet.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), endpoint: format!("unix:{}", path.display()), idle: Arc::default() }
    }

    async fn connect(&self) -> Result<Connection<UnixStream>, TransportError> {
        let fail = |kind, error: io::Error| TransportError::new(kind, self.endpoint.as_str()).with_source(error);
        let stream = UnixStream::connect(&self.path).await.map_err(|error| fail(TransportErrorKind::Connect, error))?;
        let owner = stream.peer_cred().map_err(|error| fail(TransportErrorKind::Identity, error))?.uid();
        let own = stream_owner().map_err(|error| fail(TransportErrorKind::Identity, error))?;
        if owner != 0 && owner != own {
            let detail = format!("the server runs as user {owner}, neither root nor this user ({own})");
            return Err(TransportError::new(TransportErrorKind::Identity, self.endpoint.as_str()).with_detail(detail));
        }
        Ok(Framed::new(stream, frames()))
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection<UnixStream>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The user of this process, as the kernel says of a socket pair of our own.
fn stream_owner() -> io::Result<u32> {
    let (one, _other) = UnixStream::pair()?;
    Ok(one.peer_cred()?.uid())
}

#[async_trait]
impl Transport for UnixTransport {
    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        // The server may just be closing a connection that was idle. What may be asked twice is then asked again on a new
        // one; the rest goes on a new one at once, as nobody could tell whether it had been done.
        let kept = if request.operation.is_idempotent() { self.idle().pop() } else { None };
        if let Some(connection) = kept {
            match exchange(connection, &request, &self.endpoint, Some(Arc::clone(&self.idle))).await {
                Err(error) if error.kind() == TransportErrorKind::Closed => {}
                other => return other,
            }
        }
        let connection = self.connect().await?;
        exchange(connection, &request, &self.endpoint, Some(Arc::clone(&self.idle))).await
    }

    fn endpoint(&self) -> &str {
        &self.endpoint
    }

    fn is_local(&self) -> bool {
        true
    }
}

/// Makes one call over a stream that is used for nothing else.
pub(crate) async fn call_over<IO: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    io: IO,
    request: &Request,
    endpoint: &str,
) -> Result<Response, TransportError> {
    exchange(Framed::new(io, frames()), request, endpoint, None).await
}

/// Where a connection goes when its response has come to its end.
type Pool<IO> = Option<Arc<Mutex<Vec<Connection<IO>>>>>;

/// Makes one call over a connection.
async fn exchange<IO: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    mut connection: Connection<IO>,
    request: &Request,
    endpoint: &str,
    pool: Pool<IO>,
) -> Result<Response, TransportError> {
    let closed = |error: io::Error| TransportError::new(TransportErrorKind::Closed, endpoint).with_source(error);
    let header = RequestHeader { operation: request.operation.name().to_owned(), length: request.body.len() as u64 };
    let header =
        encode_header(&header).map_err(|error| TransportError::new(TransportErrorKind::Protocol, endpoint).with_source(error))?;
    let sent = async {
        connection.feed(header).await?;
        let mut body = request.body.clone();
        while !body.is_empty() {
            connection.feed(body.split_to(body.len().min(MAX_FRAME_BYTES as usize))).await?;
        }
        futures::SinkExt::<Bytes>::flush(&mut connection).await
    };
    // A server that refuses a request before its end stops reading it: then its answer says why.
    let sent = sent.await;
    let frame = match connection.next().await {
        Some(Ok(frame)) => frame,
        Some(Err(error)) => return Err(broken(error, endpoint)),
        None => {
            let error = sent.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
            return Err(closed(error));
        }
    };
    let header: ResponseHeader = decode_header(&frame).map_err(|error| {
        TransportError::new(TransportErrorKind::Protocol, endpoint).with_detail("response header").with_source(error)
    })?;
    let pool = pool.filter(|_| sent.is_ok());
    let body = body(connection, endpoint.to_owned(), header.length, pool);
    Ok(Response { status: header.status(), retry_after: header.retry_after(), length: header.length, body })
}

/// What is needed to read on.
struct Reading<IO> {
    connection: Connection<IO>,
    endpoint: String,
    left: Option<u64>,
    pool: Pool<IO>,
}

fn body<IO: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    connection: Connection<IO>,
    endpoint: String,
    length: Option<u64>,
    pool: Pool<IO>,
) -> BodyStream {
    let reading = Reading { connection, endpoint, left: length, pool };
    futures::stream::unfold(Some(reading), |reading| async move {
        let mut reading = reading?;
        match reading.next().await {
            Ok(Some(data)) => Some((Ok(data), Some(reading))),
            Ok(None) => {
                reading.keep();
                None
            }
            Err(error) => Some((Err(error), None)),
        }
    })
    .fuse()
    .boxed()
}

impl<IO: AsyncRead + AsyncWrite + Send + Unpin + 'static> Reading<IO> {
    async fn next(&mut self) -> Result<Option<Bytes>, TransportError> {
        let error = |kind| TransportError::new(kind, self.endpoint.as_str());
        loop {
            let frame = match self.connection.next().await {
                Some(Ok(frame)) => frame,
                Some(Err(source)) => return Err(broken(source, &self.endpoint)),
                None => return Err(error(TransportErrorKind::Closed).with_detail("the response was cut off")),
            };
            match decode_part(frame.freeze()) {
                Some(Part::Data(data)) if data.is_empty() => {}
                Some(Part::Data(data)) => {
                    if let Some(left) = &mut self.left {
                        *left = left.checked_sub(data.len() as u64).ok_or_else(|| {
                            TransportError::new(TransportErrorKind::Protocol, self.endpoint.as_str())
                                .with_detail("the response is longer than announced")
                        })?;
                    }
                    return Ok(Some(data));
                }
                Some(Part::End) if self.left.is_none_or(|left| left == 0) => return Ok(None),
                Some(Part::End) => {
                    return Err(error(TransportErrorKind::Closed).with_detail("the response is shorter than announced"));
                }
                Some(Part::Error(text)) => return Err(error(TransportErrorKind::Closed).with_detail(text)),
                None => return Err(error(TransportErrorKind::Protocol).with_detail("a frame of no known kind")),
            }
        }
    }

    /// Gives the connection back for another call.
    fn keep(self) {
        let Some(pool) = self.pool else { return };
        let mut idle = pool.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(self.connection);
        }
    }
}

/// Tells a frame that is too long from a connection that broke.
fn broken(error: io::Error, endpoint: &str) -> TransportError {
    let kind = if error.kind() == io::ErrorKind::InvalidData { TransportErrorKind::Protocol } else { TransportErrorKind::Closed };
    TransportError::new(kind, endpoint).with_source(error)
}
