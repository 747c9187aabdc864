//! How nodes reach the server in a test.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use direct_puppet_server_stub::Server;
use direct_puppet_transport::{MemoryTransport, Transport};

/// A way to the server; opened once.
#[derive(Debug)]
pub struct Link {
    kind: Kind,
    transport: OnceLock<Arc<dyn Transport>>,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Memory,
}

impl Link {
    /// Returns every kind of link.
    #[must_use]
    pub fn all() -> Vec<Self> {
        vec![Self::memory()]
    }

    /// Returns the in-memory link.
    #[must_use]
    pub const fn memory() -> Self {
        Self { kind: Kind::Memory, transport: OnceLock::new() }
    }

    /// Starts what the link needs.
    ///
    /// # Panics
    ///
    /// When the machine does not allow it.
    pub async fn open(&self, _dir: &Path, server: Arc<Server>) {
        let transport: Arc<dyn Transport> = match self.kind {
            Kind::Memory => Arc::new(MemoryTransport::new(server)),
        };
        self.transport.set(transport).expect("a link is opened once");
    }

    /// Returns the transport.
    ///
    /// # Panics
    ///
    /// When the link was not opened.
    #[must_use]
    pub fn transport(&self) -> Arc<dyn Transport> {
        Arc::clone(self.transport.get().expect("the link was opened"))
    }
}
