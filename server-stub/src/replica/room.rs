//! What a full disk leaves of a version that did not fit: it would leave no room for one that does.
//!
//! Contents are shared: what one version was the first to bring another may have found here since, and need. So only what nothing needs is
//! removed, in a moment in which nothing is brought, published or compiled; until one comes it is remembered. What a restart forgets the next
//! collection removes.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError, RwLock, TryLockError};

use direct_puppet_agent::store::Store;
use direct_puppet_transport::protocol::{Digest, EntryKind};

use crate::code::Environments;
use crate::error::{ServerError, chain};
use crate::nodes::Nodes;

/// Why contents did not come.
#[derive(Debug)]
pub(crate) struct Unfetched {
    pub(crate) reason: String,
    /// Those that are of no use, as far as they came, for there is no room for all.
    pub(crate) of_no_use: Vec<Digest>,
}

impl From<String> for Unfetched {
    fn from(reason: String) -> Self {
        Self { reason, of_no_use: Vec::new() }
    }
}

/// What was left, and who may need any of it.
#[derive(Debug)]
pub(crate) struct Leftovers {
    left: Mutex<HashSet<Digest>>,
    pub(crate) store: Store,
    environments: Arc<Environments>,
    nodes: Arc<Nodes>,
    publishing: Arc<Mutex<()>>,
    /// As in [`crate::Server`].
    pub(super) collecting: Arc<RwLock<()>>,
    /// Held for reading while anything is brought.
    pub(super) bringing: Arc<tokio::sync::RwLock<()>>,
}

impl Leftovers {
    pub(crate) fn new(
        store: Store,
        environments: Arc<Environments>,
        nodes: Arc<Nodes>,
        publishing: Arc<Mutex<()>>,
        collecting: Arc<RwLock<()>>,
    ) -> Self {
        Self { left: Mutex::default(), store, environments, nodes, publishing, collecting, bringing: Arc::default() }
    }

    /// Remembers what was left.
    pub(crate) fn note(&self, digests: Vec<Digest>) {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).extend(digests);
    }

    /// Removes it, unless anything is brought, published or compiled just now; `is_turn` when whoever calls has the turn to publish. Where it
    /// cannot be removed that is in the log. Blocking.
    pub(crate) fn discard(&self, is_turn: bool) {
        if let Err(error) = self.discard_now(is_turn) {
            tracing::warn!("what a full disk left stays: {}", chain(&error));
        }
    }

    fn discard_now(&self, is_turn: bool) -> Result<(), ServerError> {
        if self.left.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            return Ok(());
        }
        let _turn = match self.publishing.try_lock() {
            _ if is_turn => None,
            Ok(turn) => Some(turn),
            Err(TryLockError::Poisoned(turn)) => Some(turn.into_inner()),
            Err(TryLockError::WouldBlock) => return Ok(()),
        };
        let Ok(_no_bringing) = self.bringing.try_write() else { return Ok(()) };
        let _no_compile = match self.collecting.try_write() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(held)) => held.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(()),
        };
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        self.environments.look_through(
            |_| true,
            |manifest| {
                for entry in manifest.entries() {
                    if let EntryKind::File { digest, .. } = &entry.kind {
                        left.remove(digest);
                    }
                }
                left.is_empty()
            },
        );
        let of_nodes = if left.is_empty() { HashSet::new() } else { self.nodes.all_contents() };
        for digest in left.iter().filter(|digest| !of_nodes.contains(digest)) {
            self.store.discard(digest)?;
        }
        left.clear();
        Ok(())
    }
}
