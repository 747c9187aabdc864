//! Listeners: from sockets to a [`Handler`].

mod activity;
mod answer;
mod ends;
mod extensions;
pub mod http;
pub mod limits;
mod live;
mod one;
mod park;
pub mod threads;
pub mod tls;
pub mod unix;
mod version;

use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use direct_puppet_transport::{BodyStream, Handler, Peer};

pub use self::http::HttpListener;
pub use self::limits::Limits;
pub use self::live::ClientCertificate;
pub use self::threads::Threads;
pub use self::tls::{ServerTls, ServerTlsError};
pub use self::unix::UnixListener;

/// What a listener serves.
#[derive(Debug, Clone)]
pub struct Service {
    /// Answers the protocol's operations.
    pub handler: Arc<dyn Handler>,
    /// Answers every other HTTP path; `None` for none.
    pub routes: Option<Arc<dyn Routes>>,
}

/// The body of an answer of [`Routes`].
pub enum RouteBody {
    /// All of it.
    Whole(Bytes),
    /// A part at a time, no faster than the peer takes it; an error in it cuts the answer off.
    Stream {
        /// How many bytes there are.
        length: u64,
        /// Exactly these bytes.
        body: BodyStream,
    },
}

impl Debug for RouteBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(bytes) => f.debug_tuple("Whole").field(&bytes.len()).finish(),
            Self::Stream { length, .. } => f.debug_struct("Stream").field("length", length).finish_non_exhaustive(),
        }
    }
}

impl From<Bytes> for RouteBody {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(bytes)
    }
}

/// HTTP paths beside the protocol's own: publishing, administration, blobs for caches, Puppet's API.
///
/// # Obligations
///
/// Only `peer` says who asks. Whoever may not ask gets an answer that says so; the listener has checked no rights, but it turns away
/// clients without a certificate where [`Routes::is_open`] does not say otherwise. An `Arc<`[`ClientCertificate`]`>` is among the
/// extensions of a request whose client has shown one.
///
/// # Cancel safety
///
/// `route` may be dropped at any await point, when the peer goes away.
#[async_trait]
pub trait Routes: Debug + Send + Sync + 'static {
    /// Answers a request, or returns `None` where there is no such path.
    async fn route(&self, peer: &Peer, request: hyper::Request<Bytes>) -> Option<hyper::Response<RouteBody>>;

    /// Returns the most bytes that the body of a request for `path` may have.
    fn max_body_bytes(&self, path: &str) -> u64;

    /// Whether clients that showed no certificate may ask this. Not, unless an implementation says so.
    fn is_open(&self, _method: &hyper::Method, _path: &str) -> bool {
        false
    }
}

/// Why a listener cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The address is taken, not this machine's, or not allowed.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Plain HTTP was to be served to other machines.
    #[error("refused to serve plain HTTP on {address}, which other machines reach: configure TLS or allow plain HTTP there")]
    PlainBeyondLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// TLS cannot be set up.
    #[error("cannot serve TLS on {address}")]
    Tls {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: ServerTlsError,
    },
}
