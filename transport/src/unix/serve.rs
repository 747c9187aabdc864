//! The server's side of one connection.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{FutureExt as _, SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_util::codec::Framed;
use tokio_util::sync::CancellationToken;

use super::Connection;
use super::frame::{DATA_BYTES, Part, RequestHeader, ResponseHeader, decode_header, encode_header, encode_part, frames};
use crate::handler::{Handler, Peer, dispatch, refused};
use crate::protocol::{Operation, Refusal, RefusalCode};
use crate::transport::{Request, Response, Status};

/// How long a peer may take.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// How long a connection may be idle between requests.
    pub idle: Duration,
    /// From a request's header until its body is whole.
    pub request_body: Duration,
    /// How long a peer may take nothing of an answer that is waiting for it.
    pub stall: Duration,
}

impl Default for ConnectionLimits {
    /// As the HTTP listener's: 75 seconds idle, 120 for a body, 120 standing still.
    fn default() -> Self {
        Self { idle: Duration::from_secs(75), request_body: Duration::from_secs(120), stall: Duration::from_secs(120) }
    }
}

/// Answers requests on one connection until the peer goes, or `shutdown`; a request under way is then finished.
///
/// # Errors
///
/// When the peer breaks the framing or goes away in the middle.
///
/// # Cancel safety
///
/// Dropping the future cuts the connection.
pub async fn serve_connection<IO: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    io: IO,
    peer: &Peer,
    handler: &dyn Handler,
    limits: ConnectionLimits,
    shutdown: &CancellationToken,
) -> io::Result<()> {
    let mut connection = Framed::new(io, frames());
    loop {
        let frame = tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            frame = timeout(limits.idle, connection.next()) => frame,
        };
        let Ok(Some(frame)) = frame else { return Ok(()) };
        match read_request(&mut connection, &frame?, limits).await? {
            Ok(request) => {
                let response = answer(&mut connection, dispatch(handler, peer, request)).await?;
                send(&mut connection, response, limits).await?;
            }
            Err(refusal) => {
                // What is left of the request is not read, so nothing can follow it.
                return send(&mut connection, refused(&refusal), limits).await;
            }
        }
    }
}

/// Lets the handler work, and gives up when the peer goes away meanwhile: nothing may come before the answer.
async fn answer<IO: AsyncRead + AsyncWrite + Send + Unpin>(
    connection: &mut Connection<IO>,
    answer: impl Future<Output = Response>,
) -> io::Result<Response> {
    tokio::select! {
        biased;
        response = answer => Ok(response),
        early = connection.next() => match early {
            None => Err(io::ErrorKind::UnexpectedEof.into()),
            Some(Err(error)) => Err(error),
            Some(Ok(_)) => Err(io::Error::new(io::ErrorKind::InvalidData, "a request before the answer to the last")),
        },
    }
}

/// Reads a request whose header is `frame`. The body's length is checked before it is read.
async fn read_request<IO: AsyncRead + AsyncWrite + Send + Unpin>(
    connection: &mut Connection<IO>,
    frame: &[u8],
    limits: ConnectionLimits,
) -> io::Result<Result<Request, Refusal>> {
    let bad = |message: String| Ok(Err(Refusal::new(RefusalCode::BadRequest, message)));
    let header: RequestHeader = match decode_header(frame) {
        Ok(header) => header,
        Err(error) => return bad(format!("request header: {error}")),
    };
    let Some(operation) = Operation::from_name(&header.operation) else {
        let message = format!("no operation {:?}: this server is older than its client, or it is no client", header.operation);
        return Ok(Err(Refusal::new(RefusalCode::NotFound, message)));
    };
    let limit = operation.max_request_bytes();
    if header.length > limit {
        return bad(format!("{operation} request of {} bytes is over its limit of {limit} bytes", header.length));
    }
    let read = async {
        let mut body = BytesMut::new();
        while (body.len() as u64) < header.length {
            let part = connection.next().await.ok_or(io::ErrorKind::UnexpectedEof)??;
            if (body.len() + part.len()) as u64 > header.length {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a request longer than announced"));
            }
            body.extend_from_slice(&part);
        }
        Ok(body.freeze())
    };
    match timeout(limits.request_body, read).await {
        Ok(body) => Ok(Ok(Request { operation, body: body? })),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn send<IO: AsyncRead + AsyncWrite + Send + Unpin>(
    connection: &mut Connection<IO>,
    response: Response,
    limits: ConnectionLimits,
) -> io::Result<()> {
    let header = ResponseHeader {
        refused: response.status == Status::Refused,
        // Rounded up: earlier than asked for would be too early.
        retry_after_seconds: response.retry_after.map(|delay| delay.as_secs() + u64::from(delay.subsec_nanos() > 0)),
        length: response.length,
    };
    push(connection, encode_header(&header).map_err(io::Error::other)?, limits).await?;
    let mut body = response.body;
    loop {
        // What is at hand is gathered; before waiting for more it is sent.
        let chunk = match body.next().now_or_never() {
            Some(chunk) => chunk,
            None => {
                flush(connection, limits).await?;
                next_chunk(connection, &mut body).await?
            }
        };
        match chunk {
            Some(Ok(mut chunk)) => {
                while !chunk.is_empty() {
                    let part = Part::Data(chunk.split_to(chunk.len().min(DATA_BYTES)));
                    push(connection, encode_part(&part), limits).await?;
                }
            }
            Some(Err(error)) => {
                push(connection, encode_part(&Part::Error(error.to_string())), limits).await?;
                return flush(connection, limits).await;
            }
            None => {
                push(connection, encode_part(&Part::End), limits).await?;
                return flush(connection, limits).await;
            }
        }
    }
}

/// Waits for the next chunk, and gives up when the peer goes away meanwhile.
async fn next_chunk<IO: AsyncRead + AsyncWrite + Send + Unpin>(
    connection: &mut Connection<IO>,
    body: &mut crate::transport::BodyStream,
) -> io::Result<Option<Result<Bytes, crate::error::TransportError>>> {
    tokio::select! {
        biased;
        chunk = body.next() => Ok(chunk),
        _early = connection.next() => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

async fn push<IO: AsyncRead + AsyncWrite + Send + Unpin>(
    connection: &mut Connection<IO>,
    frame: Bytes,
    limits: ConnectionLimits,
) -> io::Result<()> {
    timeout(limits.stall, connection.feed(frame)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn flush<IO: AsyncRead + AsyncWrite + Send + Unpin>(
    connection: &mut Connection<IO>,
    limits: ConnectionLimits,
) -> io::Result<()> {
    timeout(limits.stall, futures::SinkExt::<Bytes>::flush(connection))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
