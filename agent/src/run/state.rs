//! The agent's own files, open for the length of one run.

use std::collections::BTreeSet;
use std::sync::Arc;

use direct_puppet_transport::protocol::Digest;

use crate::agent::Inner;
use crate::catalog_cache::CatalogCache;
use crate::error::RunError;
use crate::fs::{Root, StageJournal, ensure_private_dir, remove_unfinished};
use crate::lock::{self, RunLock};
use crate::store::Store;
use crate::tree::StatCache;

/// Everything a run holds on disk. The lock goes last.
#[derive(Debug)]
pub(super) struct State {
    pub(super) root: Root,
    pub(super) store: Store,
    journal: Option<StageJournal>,
    /// Staged files of an interrupted run that were removed.
    pub(super) leftovers: u64,
    /// What earlier scans proved, once this run has scanned.
    pub(super) cache: Option<StatCache>,
    pub(super) catalogs: CatalogCache,
    /// Contents that resources of the catalog need in the store.
    pub(super) needed: BTreeSet<Digest>,
    _lock: RunLock,
}

impl State {
    /// Takes the lock and opens everything. Blocking.
    pub(super) fn open<T>(inner: &Arc<Inner<T>>) -> Result<Self, RunError> {
        let state_dir = &inner.state_dir;
        // The root must be there; only the state directory is made.
        let root = Root::open(&inner.root)?;
        ensure_private_dir(state_dir)?;
        if let Some(message) = lock::disabled(state_dir)? {
            return Err(RunError::Disabled { message });
        }
        let lock = RunLock::take(state_dir)?;
        for dir in [state_dir.clone(), state_dir.join("catalog"), state_dir.join("pending_reports")] {
            remove_unfinished(&dir)?;
        }
        let (journal, leftovers) = StageJournal::open(state_dir, &root)?;
        let store = Store::ensure(&state_dir.join("store"))?;
        store.remove_leftovers()?;
        Ok(Self {
            store,
            journal: Some(journal),
            leftovers,
            cache: None,
            needed: BTreeSet::new(),
            catalogs: CatalogCache::ensure(state_dir, &inner.certname)?,
            root,
            _lock: lock,
        })
    }

    /// Takes the journal, which one apply uses up.
    pub(super) fn take_journal(&mut self) -> Result<StageJournal, RunError> {
        self.journal.take().ok_or_else(|| RunError::Config { reason: "one run applies once".to_owned() })
    }
}
