//! How much a listener lets peers do.

use std::time::Duration;

/// Bounds on connections, sizes and times. The size of a request is bounded per operation by
/// [`Operation::max_request_bytes`](direct_puppet_transport::protocol::Operation::max_request_bytes).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once; more wait in the kernel's queue.
    pub max_connections: usize,
    /// Connections at once of clients that showed no certificate, where such are admitted; more are closed.
    pub max_anonymous_connections: usize,
    /// Requests at once on one HTTP/2 connection.
    pub max_streams_per_connection: u32,
    /// Bytes of requests that an HTTP listener holds at once, of those longer than 64 KiB, and of all
    /// of clients without a certificate; who would hold more is told to come again.
    /// Memory may take twice as much for a moment.
    pub max_held_bytes: u64,
    /// From the connection until TLS stands.
    pub tls_handshake_timeout: Duration,
    /// From the connection until the first request's header is whole; over HTTP/1.1 from the first byte of every other one, or from the answer
    /// before it.
    pub header_read_timeout: Duration,
    /// From a request's header until its body is whole.
    pub request_body_timeout: Duration,
    /// How long a connection may be quiet between requests.
    pub idle_timeout: Duration,
    /// After how long an HTTP/1.1 connection on which nothing happens, for it is idle or its answer is waited for, gives back the room of the
    /// HTTP library, most of what such a connection takes; it gets it again with the next byte.
    pub park_after: Duration,
    /// How long a peer may take nothing of an answer that is waiting for it.
    pub stall_timeout: Duration,
    /// How long answers under way may go on after a shutdown was asked for; then their connections are cut.
    pub drain_timeout: Duration,
}

impl Limits {
    /// Returns the room for requests, in KiB.
    pub(super) fn room(&self) -> usize {
        usize::try_from(self.max_held_bytes / 1024).unwrap_or(usize::MAX).min(tokio::sync::Semaphore::MAX_PERMITS)
    }

    /// Returns after how long a connection is left: never so soon that looking for it is all that is done.
    pub(super) fn park_after(&self) -> Duration {
        self.park_after.clamp(Duration::from_millis(1), Duration::from_secs(86_400))
    }

    /// Returns the shortest time after which a quiet connection may have to be closed.
    pub(super) fn shortest_patience(&self) -> Duration {
        self.header_read_timeout.min(self.idle_timeout).min(self.stall_timeout).min(self.drain_timeout)
    }
}

impl Default for Limits {
    /// Room for ten thousand nodes that wait for news, each on a connection of its own. Times are those at which web
    /// servers commonly give up; the quiet ones are longer than clients keep connections (20 s), so that a client seldom
    /// calls on a connection that is just being closed.
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_anonymous_connections: 1000,
            max_streams_per_connection: 128,
            max_held_bytes: 512 << 20,
            tls_handshake_timeout: Duration::from_secs(10),
            header_read_timeout: Duration::from_secs(30),
            request_body_timeout: Duration::from_secs(120),
            idle_timeout: Duration::from_secs(75),
            park_after: Duration::from_millis(250),
            stall_timeout: Duration::from_secs(120),
            drain_timeout: Duration::from_secs(30),
        }
    }
}
