//! The trait that every way to reach a server implements.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};

use crate::error::{TransportError, TransportErrorKind};
use crate::protocol::Operation;

/// One call: which operation, and its encoded message. Cheap to clone, so that a retry is honest.
#[derive(Debug, Clone)]
pub struct Request {
    /// What is asked.
    pub operation: Operation,
    /// The encoded message.
    pub body: Bytes,
}

/// Whether the server did what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The body is the operation's response.
    Accepted,
    /// The body is an encoded [`Refusal`](crate::protocol::Refusal).
    Refused,
}

/// The chunks of a response body, in order; an `Err` ends it.
pub type BodyStream = BoxStream<'static, Result<Bytes, TransportError>>;

/// The answer to one call; its body streams.
pub struct Response {
    /// Accepted or refused.
    pub status: Status,
    /// How long the peer asks to wait before the next try.
    pub retry_after: Option<Duration>,
    /// Length of the body in bytes, where it is known.
    pub length: Option<u64>,
    /// The body. Dropping it tells the peer to stop.
    pub body: BodyStream,
}

impl Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .field("retry_after", &self.retry_after)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

impl Response {
    /// Returns a response whose whole body is at hand.
    #[must_use]
    pub fn whole(status: Status, body: Bytes) -> Self {
        let length = Some(body.len() as u64);
        Self { status, retry_after: None, length, body: stream::iter([Ok(body)]).boxed() }
    }

    /// Reads the body to its end, at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// When the body is longer than `limit` (checked before it is taken in) or breaks off.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the response.
    pub async fn into_bytes(mut self, limit: u64, endpoint: &str) -> Result<Bytes, TransportError> {
        let too_large =
            || TransportError::new(TransportErrorKind::TooLarge, endpoint).with_detail(format!("limit is {limit} bytes"));
        if self.length.is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let mut whole = BytesMut::new();
        while let Some(chunk) = self.body.next().await.transpose()? {
            if (whole.len() + chunk.len()) as u64 > limit {
                return Err(too_large());
            }
            if whole.is_empty() && self.length == Some(chunk.len() as u64) {
                // The common case of one chunk is not copied; only the end of the stream is left.
                while let Some(more) = self.body.next().await.transpose()? {
                    if !more.is_empty() {
                        return Err(too_large());
                    }
                }
                return Ok(chunk);
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }
}

/// A way to reach one server. Byte-agnostic: it carries encoded messages and knows nothing of what they say.
///
/// # Obligations
///
/// * A response body streams: no more than a few chunks are held, and nothing is read ahead while the caller does not
///   take chunks (back-pressure).
/// * Chunks come in order. A body that ends without `Err` is complete; one that broke off ends with `Err`.
/// * A server's refusal is a [`Response`] with [`Status::Refused`], not an error.
/// * Every call is independent; any number may run at once.
///
/// # Cancel safety
///
/// Dropping the future of [`Transport::call`] gives the call up, dropping a response's body gives the rest of it up;
/// neither harms other calls. Whether the server acted on a call given up is not known.
#[async_trait]
pub trait Transport: Debug + Send + Sync + 'static {
    /// Makes one call.
    ///
    /// # Errors
    ///
    /// When no answer came; [`TransportError::kind`] says whether to try again.
    async fn call(&self, request: Request) -> Result<Response, TransportError>;

    /// Returns where calls go, for logs and errors; holds no secret.
    fn endpoint(&self) -> &str;

    /// Returns whether the server is on this machine, so that a byte on the way costs less than compressing it would. Wrappers say
    /// what the transport inside says. Default: `false`.
    fn is_local(&self) -> bool {
        false
    }
}

#[async_trait]
impl<T: Transport + ?Sized> Transport for Arc<T> {
    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        (**self).call(request).await
    }

    fn endpoint(&self) -> &str {
        (**self).endpoint()
    }

    fn is_local(&self) -> bool {
        (**self).is_local()
    }
}

#[async_trait]
impl<T: Transport + ?Sized> Transport for Box<T> {
    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        (**self).call(request).await
    }

    fn endpoint(&self) -> &str {
        (**self).endpoint()
    }

    fn is_local(&self) -> bool {
        (**self).is_local()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compiles only while the trait is object safe.
    #[expect(dead_code, reason = "it only has to compile")]
    fn object_safe(transport: Arc<dyn Transport>) -> impl Transport {
        transport
    }

    #[tokio::test]
    async fn a_body_over_its_limit_is_refused() {
        let response = Response::whole(Status::Accepted, Bytes::from_static(b"12345"));
        assert_eq!(response.into_bytes(4, "test").await.unwrap_err().kind(), TransportErrorKind::TooLarge);
        let body = stream::iter([Ok(Bytes::from_static(b"123")), Ok(Bytes::from_static(b"45"))]).boxed();
        let unknown = Response { status: Status::Accepted, retry_after: None, length: None, body };
        assert_eq!(unknown.into_bytes(4, "test").await.unwrap_err().kind(), TransportErrorKind::TooLarge);
    }
}
