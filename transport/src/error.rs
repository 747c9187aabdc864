//! What can go wrong between two ends, and whether trying again can help.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

/// The kinds of transport failure; each states its retry rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransportErrorKind {
    /// The peer could not be reached; nothing was sent. Retry, whatever the operation.
    Connect,
    /// The peers could not agree on who they are: certificate, name, socket owner. Final.
    Identity,
    /// A deadline passed. Retry if the operation is idempotent.
    Timeout,
    /// The peer went away in the middle. Retry if the operation is idempotent.
    Closed,
    /// Something in between is overloaded or away (HTTP 429, 502, 503, 504). Retry if the operation is idempotent.
    Unavailable,
    /// What came is not Direct Puppet's protocol, or damaged. Final.
    Protocol,
    /// More bytes than the limit. Final.
    TooLarge,
    /// The URL or a file it needs is unusable. Final.
    Config,
    /// The caller asked to stop. Final.
    Cancelled,
}

impl TransportErrorKind {
    /// Returns whether an idempotent call may be tried again.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Connect | Self::Timeout | Self::Closed | Self::Unavailable)
    }

    /// Returns whether the peer cannot have seen the request.
    #[must_use]
    pub const fn is_before_sending(self) -> bool {
        matches!(self, Self::Connect)
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Connect => "could not connect",
            Self::Identity => "could not prove identity",
            Self::Timeout => "took too long",
            Self::Closed => "was cut off by the peer",
            Self::Unavailable => "found the service unavailable",
            Self::Protocol => "got an answer that is not Direct Puppet's protocol",
            Self::TooLarge => "got more bytes than allowed",
            Self::Config => "is not configured right",
            Self::Cancelled => "was cancelled",
        }
    }
}

/// A call, or the stream of its response, failed between the two ends. A server's *no* is a response, not this.
#[derive(Debug)]
pub struct TransportError {
    kind: TransportErrorKind,
    endpoint: String,
    detail: Option<String>,
    retry_after: Option<Duration>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl TransportError {
    /// Returns an error of `kind` in a call to `endpoint`.
    #[must_use]
    pub fn new(kind: TransportErrorKind, endpoint: impl Into<String>) -> Self {
        Self { kind, endpoint: endpoint.into(), detail: None, retry_after: None, source: None }
    }

    /// Adds what exactly went wrong.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds how long the peer asked to wait.
    #[must_use]
    pub const fn with_retry_after(mut self, delay: Option<Duration>) -> Self {
        self.retry_after = delay;
        self
    }

    /// Returns what kind of failure it is.
    #[must_use]
    pub const fn kind(&self) -> TransportErrorKind {
        self.kind
    }

    /// Returns where the call went.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Returns how long the peer asked to wait before the next try.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "call to {} {}", self.endpoint, self.kind.text())?;
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        Ok(())
    }
}

impl StdError for TransportError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
