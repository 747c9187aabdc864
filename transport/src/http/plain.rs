//! Requests that are not the protocol's, to servers that do not speak it, over the same connections.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use reqwest::header::{HeaderMap, RETRY_AFTER};

use super::{HttpTransport, failure};
use crate::error::{TransportError, TransportErrorKind};
use crate::transport::BodyStream;

/// The method of a [`PlainRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PlainMethod {
    /// `GET`.
    Get,
    /// `PUT`.
    Put,
    /// `POST`.
    Post,
}

impl PlainMethod {
    /// Returns the method as it stands in a request.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Post => "POST",
        }
    }
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlainRequest {
    /// The method.
    pub method: PlainMethod,
    /// Path and query below the URL of the server, with everything encoded that must be.
    pub path: String,
    /// Headers, beside those that every request has.
    pub headers: Vec<(&'static str, &'static str)>,
    /// The body; none is sent with `GET`.
    pub body: Bytes,
}

/// An answer, whatever its status; the body streams.
pub struct PlainResponse {
    /// The status.
    pub status: u16,
    /// Length of the body in bytes, where the server says so.
    pub length: Option<u64>,
    /// How long the server asks to wait before the next try. A date is passed over: the node's clock may be wrong.
    pub retry_after: Option<Duration>,
    /// The body. Dropping it gives the rest up.
    pub body: BodyStream,
}

impl std::fmt::Debug for PlainResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PlainResponse").field("status", &self.status).field("length", &self.length).finish_non_exhaustive()
    }
}

impl HttpTransport {
    /// Sends one request. Whatever its status, an answer is no error.
    ///
    /// # Errors
    ///
    /// When there is no answer.
    ///
    /// # Cancel safety
    ///
    /// The server may or may not have had the request.
    pub async fn send_plain(&self, request: PlainRequest) -> Result<PlainResponse, TransportError> {
        let url = format!("{}{}", self.base, request.path);
        let mut sending = match request.method {
            PlainMethod::Get => self.client.get(url),
            PlainMethod::Put => self.client.put(url).body(request.body),
            PlainMethod::Post => self.client.post(url).body(request.body),
        };
        for (name, value) in request.headers {
            sending = sending.header(name, value);
        }
        let answer = sending.send().await.map_err(|error| failure::of_call(error, &self.base, self.connect_timeout))?;
        let (status, length) = (answer.status().as_u16(), answer.content_length());
        let retry_after = retry_after(answer.headers());
        let base = self.base.clone();
        let body = answer.bytes_stream().map(move |chunk| chunk.map_err(|error| failure::of_body(error, &base)));
        Ok(PlainResponse { status, length, retry_after, body: body.boxed() })
    }

    /// Returns an error of this transport.
    pub(super) fn late(&self, limit: Duration) -> TransportError {
        self.error(TransportErrorKind::Timeout, format!("no answer within {limit:?}"))
    }
}

/// Returns how many seconds `Retry-After` asks for; a date is ignored, as a node's clock may be wrong.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse::<u32>().ok().map(|seconds| Duration::from_secs(seconds.into()))
}
