//! How nodes reach the server in a test.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use direct_puppet_server_stub::Server;
use direct_puppet_server_stub::listen::{HttpListener, Limits, Service, UnixListener};
use direct_puppet_transport::{ConnectOptions, Handler, MemoryTransport, Transport, connect};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A way to the server; opened once, closed when dropped.
#[derive(Debug)]
pub struct Link {
    kind: Kind,
    transport: OnceLock<(Arc<dyn Transport>, Option<DropGuard>)>,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Memory,
    Framed,
    Unix,
    Http,
}

impl Link {
    /// Returns every kind of link.
    #[must_use]
    pub fn all() -> Vec<Self> {
        [Kind::Memory, Kind::Framed, Kind::Unix, Kind::Http].map(Self::of).into()
    }

    /// Returns the in-memory link.
    #[must_use]
    pub const fn memory() -> Self {
        Self::of(Kind::Memory)
    }

    /// Returns the link over HTTP/1.1 on loopback.
    #[must_use]
    pub const fn http() -> Self {
        Self::of(Kind::Http)
    }

    const fn of(kind: Kind) -> Self {
        Self { kind, transport: OnceLock::new() }
    }

    /// Starts what the link needs; sockets lie in `dir`.
    ///
    /// # Panics
    ///
    /// When the machine does not allow it.
    pub async fn open(&self, dir: &Path, server: Arc<Server>) {
        let (handler, shutdown): (Arc<dyn Handler>, _) = (server, CancellationToken::new());
        let (limits, stop) = (Limits::default(), shutdown.clone());
        let transport: Arc<dyn Transport> = match self.kind {
            Kind::Memory => Arc::new(MemoryTransport::new(handler)),
            Kind::Framed => Arc::new(MemoryTransport::framed(handler)),
            Kind::Unix => {
                let path = dir.join("agent.sock");
                let listener = UnixListener::bind(&path, 0o600).await.expect("a socket can be bound");
                tokio::spawn(listener.serve(handler, limits, stop));
                connect(&format!("unix:{}", path.display()), &ConnectOptions::default()).expect("the URL is valid")
            }
            Kind::Http => {
                let any = "127.0.0.1:0".parse().expect("an address");
                let listener = HttpListener::bind(any, None, false).await.expect("a port can be bound");
                let url = listener.url();
                tokio::spawn(listener.serve(Service { handler, routes: None }, limits, stop));
                connect(&url, &ConnectOptions::default()).expect("the URL is valid")
            }
        };
        self.transport.set((transport, Some(shutdown.drop_guard()))).expect("a link is opened once");
    }

    /// Returns the transport.
    ///
    /// # Panics
    ///
    /// When the link was not opened.
    #[must_use]
    pub fn transport(&self) -> Arc<dyn Transport> {
        Arc::clone(&self.transport.get().expect("the link was opened").0)
    }
}
