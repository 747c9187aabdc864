//! The Direct Puppet protocol and its transports.
//!
//! A node asks a server four things, each one request and one response ([`protocol::messages`]): *check in*, *submit
//! facts*, *fetch*, *report*. [`Client`] makes these calls over any [`Transport`]; [`Handler`] answers them, and
//! [`dispatch`] stands between its types and the bytes that listeners receive.
//!
//! Contents may travel packed: asked for by place in a catalog, compressed with zstd against what the node has ([`protocol::pack`]). So may
//! catalogs ([`protocol::packed_catalog`]).
//!
//! What this crate does not do: no retry unless asked for, no file system, no knowledge of what a catalog means.

pub mod client;
mod coalesce;
pub mod connect;
#[cfg(feature = "enrol")]
pub mod enrol;
pub mod error;
pub mod extensions;
pub mod handler;
pub mod hashing;
#[cfg(feature = "http")]
pub mod http;
pub mod http_source;
pub mod memory;
pub mod protocol;
pub mod retry;
#[cfg(feature = "testing")]
pub mod testing;
pub mod timeout;
pub mod transport;
#[cfg(feature = "unix")]
pub mod unix;

pub use client::{CallError, Client, FetchStream};
pub use connect::{ConnectOptions, connect};
pub use error::{TransportError, TransportErrorKind};
pub use extensions::Extensions;
pub use handler::{Content, FetchItem, FetchItems, Handler, Peer, dispatch};
#[cfg(feature = "http")]
pub use http::{HttpOptions, HttpSourceClient, HttpTransport, HttpVersion, TlsFiles};
pub use http_source::{HttpAnswer, HttpMetadata, HttpSource};
pub use memory::MemoryTransport;
pub use retry::{Retry, RetryPolicy};
pub use timeout::{Timeout, Timeouts};
pub use transport::{BodyStream, Request, Response, Status, Transport};
#[cfg(feature = "unix")]
pub use unix::UnixTransport;
