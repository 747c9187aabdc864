//! Answers as Puppet's agents understand them.

use bytes::Bytes;
use direct_puppet_transport::protocol::{Refusal, RefusalCode};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde::Serialize;

use crate::answer::UNCONFIRMED_SECONDS;
use crate::disk;
use crate::error::{ServerError, chain};
use crate::listen::RouteBody;

/// Which version of Puppet's server this one is like; agents look at it to know what it can do (`locales` since 5.3.4).
const LIKE_VERSION: &str = "8.11.0";

/// The header that says so.
const VERSION_HEADER: HeaderName = HeaderName::from_static("x-puppet-version");

pub(super) const JSON: &str = "application/json;charset=utf-8";
pub(super) const RICH_JSON: &str = "application/vnd.puppet.rich+json; charset=utf-8";
pub(super) const TEXT: &str = "text/plain;charset=utf-8";
pub(super) const BYTES: &str = "application/octet-stream";

/// Why a request is not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    pub(super) message: String,
    /// Puppet's word for it; the message is plain text where there is none.
    pub(super) kind: Option<&'static str>,
    pub(super) retry_after_seconds: Option<u32>,
}

impl Failure {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), kind: Some(kind), retry_after_seconds: None }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "RUNTIME_ERROR", format!("Bad Request: {}", message.into()))
    }

    pub(super) fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RUNTIME_ERROR", format!("Payload Too Large: {}", message.into()))
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "RESOURCE_NOT_FOUND", format!("Not Found: {}", message.into()))
    }

    /// The same in the words of paths of which Puppet answers with plain text.
    pub(super) fn text(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), kind: None, retry_after_seconds: None }
    }

    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::text(StatusCode::FORBIDDEN, format!("Forbidden request: {}", message.into()))
    }

    pub(super) fn not_acceptable(accept: &str) -> Self {
        let message = format!("Not Acceptable: none of {accept:?} can be given; ask for application/json");
        Self::new(StatusCode::NOT_ACCEPTABLE, "UNSUPPORTED_FORMAT", message)
    }

    pub(super) fn unsupported_media_type(message: impl Into<String>) -> Self {
        let message = format!("Unsupported Media Type: {}", message.into());
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", message)
    }

    pub(super) fn server(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "RUNTIME_ERROR", format!("Server Error: {}", message.into()))
    }

    /// Says that what was asked for is lost, and that it is there again the next time.
    pub(super) fn gone(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "RUNTIME_ERROR", format!("Gone: {}", message.into()))
    }

    /// Logs what broke, and tells the peer no more than that something did.
    pub(super) fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!("{}", chain(error));
        Self::server("something broke in the server; its log says what")
    }

    /// Refuses for now, without a time to try again: an agent of Puppet would sleep for that in the middle of its run.
    pub(super) fn no_room(message: impl Into<String>) -> Self {
        Self::text(StatusCode::INSUFFICIENT_STORAGE, message)
    }

    pub(super) fn unavailable(message: impl Into<String>, seconds: u32) -> Self {
        Self { retry_after_seconds: Some(seconds), ..Self::text(StatusCode::SERVICE_UNAVAILABLE, message) }
    }

    pub(super) fn respond(self) -> Response<RouteBody> {
        let mut response = match self.kind {
            None => plain(TEXT, self.message.into()),
            Some(issue_kind) => json(&Told { message: &self.message, issue_kind }),
        };
        *response.status_mut() = self.status;
        if let Some(seconds) = self.retry_after_seconds {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal.code {
            RefusalCode::BadRequest => Self::bad_request(refusal.message),
            RefusalCode::Forbidden => Self::forbidden(refusal.message),
            RefusalCode::NotFound | RefusalCode::NotPublished => Self::not_found(refusal.message),
            RefusalCode::Busy | RefusalCode::Stale => {
                Self::unavailable(refusal.message, refusal.retry_after_seconds.unwrap_or(UNCONFIRMED_SECONDS))
            }
            _ => Self::server(refusal.message),
        }
    }
}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Self {
        match &error {
            ServerError::Unconfirmed { .. } | ServerError::Store(_) => {
                Self::unavailable(format!("{}: try again, or ask another server", chain(&error)), UNCONFIRMED_SECONDS)
            }
            error if disk::is_full(error) => {
                tracing::warn!("{}", chain(error));
                Self::no_room("this server has no room for what nodes send: try again later")
            }
            _ => Self::internal(&error),
        }
    }
}

#[derive(Serialize)]
struct Told<'a> {
    message: &'a str,
    issue_kind: &'a str,
}

/// Returns an answer with a body at hand.
pub(super) fn plain(content_type: &'static str, body: Bytes) -> Response<RouteBody> {
    with(content_type, RouteBody::Whole(body))
}

/// Returns an answer.
pub(super) fn with(content_type: &'static str, body: RouteBody) -> Response<RouteBody> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(VERSION_HEADER, HeaderValue::from_static(LIKE_VERSION));
    response
}

/// Returns a value as JSON.
pub(super) fn json<T: Serialize + ?Sized>(value: &T) -> Response<RouteBody> {
    match serde_json::to_vec(value) {
        Ok(text) => plain(JSON, text.into()),
        Err(error) => {
            tracing::error!(%error, "an answer could not be encoded");
            let mut response = plain(TEXT, Bytes::new());
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
    }
}
