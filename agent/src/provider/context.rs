//! What a provider may touch.

#[cfg(feature = "providers")]
use std::any::{Any, TypeId};
use std::collections::HashMap;
#[cfg(feature = "providers")]
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[cfg(feature = "providers")]
use direct_puppet_transport::hashing::FastState;
use direct_puppet_transport::protocol::{Digest, Resource, TreePath};
use tokio_util::sync::CancellationToken;

use super::ManagedPaths;
use crate::fs::{Root, StageJournal, Stat};
use crate::store::Store;
use crate::tree::{Scan, Scanned};
use crate::undo::{Previous, UndoEntry, UndoLog};

/// Whether this process can give files away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// Owners and groups are set.
    Managed,
    /// Unprivileged below a root of its own: owners and groups are left alone and listed as skipped.
    Skipped,
}

/// What the run decides for all providers.
#[derive(Debug, Clone)]
pub struct ApplyOptions {
    /// Whether diffs of text are to be made.
    pub show_diff: bool,
    /// Longest content, in bytes, of which a diff is made.
    pub max_diff_bytes: u64,
    /// Whether owners can be set.
    pub ownership: Ownership,
    /// Whether nothing will be applied.
    pub noop: bool,
    /// Whether checks are to say what their answers follow from ([`Checked::witnesses`](super::Checked::witnesses)).
    pub settle: bool,
}

/// A line that a command of a resource said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    /// What it was run for, as `returns`.
    pub(crate) property: &'static str,
    pub(crate) line: String,
}

/// The capabilities of one run, shared by all its providers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Context {
    parts: Arc<Shared>,
    /// What was seen already, when all that is looked at counts as seen at one moment.
    #[cfg_attr(not(feature = "providers"), expect(dead_code, reason = "files alone look at nothing twice"))]
    moment: Option<Arc<Moment>>,
}

/// What all copies of a context share.
#[derive(Debug)]
struct Shared {
    parts: ContextParts,
    /// What was said and is not told yet.
    said: Mutex<Vec<Said>>,
    /// What providers keep for the run.
    #[cfg(feature = "providers")]
    of_run: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
}

impl std::ops::Deref for Shared {
    type Target = ContextParts;

    fn deref(&self) -> &ContextParts {
        &self.parts
    }
}

/// What was seen of the machine at one moment: many resources ask for the same.
#[derive(Debug, Default)]
struct Moment {
    #[cfg(feature = "providers")]
    stats: Mutex<HashMap<TreePath, Option<Stat>, FastState>>,
    /// The directory that was looked into last.
    #[cfg(feature = "providers")]
    directory: Mutex<Option<(TreePath, OwnedFd)>>,
    #[cfg(feature = "providers")]
    links: Mutex<HashMap<TreePath, Option<TreePath>, FastState>>,
    #[cfg(feature = "providers")]
    values: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
}

/// What a [`Context`] is made from.
#[derive(Debug)]
pub struct ContextParts {
    /// The managed root.
    pub root: Root,
    /// Contents that were fetched, and backups.
    pub store: Store,
    /// Names of staged files.
    pub stage_journal: StageJournal,
    /// What the run's scan saw.
    pub scan: Scan,
    /// Paths of all `File` resources that stand in the catalog by themselves: recursion leaves them alone.
    pub managed: ManagedPaths,
    /// All resources of the catalog, in manifest order.
    pub resources: Vec<Arc<Resource>>,
    /// Where the agent keeps its own state, when that is below the root: nobody removes or replaces it.
    pub own_state: Option<TreePath>,
    /// How the run goes.
    pub options: ApplyOptions,
    /// The way back.
    pub undo: UndoLog,
    /// Cancelled when the run is to stop.
    pub cancel: CancellationToken,
    /// Set when something ran that may have changed files behind the scan's back.
    pub scan_is_stale: AtomicBool,
    /// How many files still need each content that lies in the store for this run only.
    pub uses: Mutex<HashMap<Digest, u64>>,
    /// Files written in this run, for the stat cache.
    pub written: Mutex<Vec<(TreePath, Stat, Digest)>>,
}

impl Context {
    /// Returns a context of `parts`.
    #[must_use]
    pub fn new(parts: ContextParts) -> Self {
        let shared = Shared {
            parts,
            said: Mutex::default(),
            #[cfg(feature = "providers")]
            of_run: Mutex::default(),
        };
        Self { parts: Arc::new(shared), moment: None }
    }

    /// Returns a context in which what is looked at twice is seen once. For checks that run right after each other while nothing is changed.
    pub(crate) fn at_one_moment(&self) -> Self {
        Self { parts: Arc::clone(&self.parts), moment: Some(Arc::default()) }
    }

    /// Looks at what is at a path, as [`Root::stat`]. Blocking.
    #[cfg(feature = "providers")]
    pub(super) fn stat(&self, path: &TreePath) -> Result<Option<Stat>, crate::fs::FsError> {
        let Some(moment) = &self.moment else { return self.root().stat(path) };
        if let Some(stat) = lock(&moment.stats).get(path) {
            return Ok(*stat);
        }
        let stat = self.root().stat_near(path, &mut lock(&moment.directory))?;
        lock(&moment.stats).insert(path.clone(), stat);
        Ok(stat)
    }

    /// Follows links, as [`Root::resolve_links`]. Blocking.
    #[cfg(feature = "providers")]
    pub(super) fn resolve_links(&self, path: &TreePath) -> Result<Option<TreePath>, crate::fs::FsError> {
        let Some(moment) = &self.moment else { return self.root().resolve_links(path) };
        if let Some(resolved) = lock(&moment.links).get(path) {
            return Ok(resolved.clone());
        }
        let resolved = self.root().resolve_links(path)?;
        lock(&moment.links).insert(path.clone(), resolved.clone());
        Ok(resolved)
    }

    /// Returns what `look` finds out about the machine, of which there is one thing of each type.
    #[cfg(feature = "providers")]
    pub(super) fn seen<T: Send + Sync + 'static>(&self, look: impl FnOnce() -> T) -> Arc<T> {
        let Some(moment) = &self.moment else { return Arc::new(look()) };
        let mut values = lock(&moment.values);
        if let Some(value) = values.get(&TypeId::of::<T>()).and_then(|value| Arc::clone(value).downcast().ok()) {
            return value;
        }
        let value = Arc::new(look());
        values.insert(TypeId::of::<T>(), Arc::<T>::clone(&value));
        value
    }

    /// Returns what is kept for the whole run, of which there is one thing of each type.
    #[cfg(feature = "providers")]
    pub(super) fn of_run<T: Default + Send + Sync + 'static>(&self) -> Arc<T> {
        let mut kept = lock(&self.parts.of_run);
        let value = kept.entry(TypeId::of::<T>()).or_insert_with(|| Arc::new(T::default()));
        Arc::clone(value).downcast().unwrap_or_default()
    }

    /// Returns the managed root.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.parts.root
    }

    /// Returns the local store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.parts.store
    }

    /// Returns the journal of staged files.
    #[must_use]
    pub fn stage_journal(&self) -> &StageJournal {
        &self.parts.stage_journal
    }

    /// Returns the options of the run.
    #[must_use]
    pub fn options(&self) -> &ApplyOptions {
        &self.parts.options
    }

    /// Returns the token that says when to stop.
    #[must_use]
    pub fn cancel(&self) -> &CancellationToken {
        &self.parts.cancel
    }

    /// Returns whether the agent's own state is at, below or around `path`: such a path is never removed or replaced.
    #[must_use]
    pub fn holds_own_state(&self, path: &TreePath) -> bool {
        self.parts.own_state.as_ref().is_some_and(|state| state.is_within(path) || path.is_within(state))
    }

    /// Returns whether a `File` resource of its own manages `path`.
    #[must_use]
    pub fn is_managed(&self, path: &TreePath) -> bool {
        self.parts.managed.contains(path)
    }

    /// Returns the paths of all `File` resources that stand in the catalog by themselves.
    #[must_use]
    pub fn managed(&self) -> &ManagedPaths {
        &self.parts.managed
    }

    /// Returns the resources of one type that stand in the catalog.
    pub fn resources_of(&self, resource_type: &str) -> impl Iterator<Item = &Arc<Resource>> {
        self.parts.resources.iter().filter(move |resource| resource.resource_type == resource_type)
    }

    /// Returns what the scan saw at `path`, unless something may have changed it since.
    #[must_use]
    pub fn scanned(&self, path: &TreePath) -> Option<&Scanned> {
        if self.parts.scan_is_stale.load(Ordering::Acquire) { None } else { self.parts.scan.files.get(path) }
    }

    /// Says that files may have changed behind the scan's back.
    pub fn mark_scan_stale(&self) {
        self.parts.scan_is_stale.store(true, Ordering::Release);
    }

    /// Has the run tell what a command said that was run for a property of the resource that is being applied: line by line, at the resource's level, before
    /// what became of it. Without secrets, please.
    pub fn say(&self, property: &'static str, text: &str) {
        let lines = text.trim_end_matches('\n').lines().filter(|_| !text.is_empty());
        lock(&self.parts.said).extend(lines.map(|line| Said { property, line: line.to_owned() }));
    }

    /// Takes what was said by [`Context::say`].
    pub(crate) fn take_said(&self) -> Vec<Said> {
        std::mem::take(&mut lock(&self.parts.said))
    }

    /// Records, durably, what is about to be replaced or removed. Call it before the change. Blocking.
    ///
    /// # Errors
    ///
    /// When the log cannot be written; the change must then not be made.
    pub fn record_undo(&self, entries: &[UndoEntry]) -> Result<(), crate::fs::FsError> {
        self.parts.undo.record(entries)?;
        // A backup must stay in the store, also where a file of this run could have taken it.
        let mut uses = lock(&self.parts.uses);
        for entry in entries {
            if let Previous::File { digest, .. } = &entry.previous {
                uses.remove(digest);
            }
        }
        Ok(())
    }

    /// Records a file that was put in place, so that the next run can prove it by stat.
    pub fn record_written(&self, path: TreePath, stat: Stat, digest: Digest) {
        let mut written = lock(&self.parts.written);
        if written.len() == written.capacity() {
            // There may be very many: growing by doubling would keep room for twice as many.
            let more = (written.len() / 8).max(64);
            written.reserve_exact(more);
        }
        written.push((path, stat, digest));
    }

    /// Takes what was recorded by [`Context::record_written`].
    #[must_use]
    pub fn take_written(&self) -> Vec<(TreePath, Stat, Digest)> {
        std::mem::take(&mut lock(&self.parts.written))
    }

    /// Says that a content must stay in the store, as the backup of something: [`Context::is_last_use`] is then never true.
    pub fn keep_in_store(&self, digest: &Digest) {
        lock(&self.parts.uses).remove(digest);
    }

    /// Says that one file is to get this content, which was put into the store for it.
    pub fn expect_use(&self, digest: &Digest) {
        *lock(&self.parts.uses).entry(*digest).or_default() += 1;
    }

    /// Says that one more file has got this content, and returns whether it was the last that needs it: then it may be moved
    /// out of the store instead of copied.
    #[must_use]
    pub fn is_last_use(&self, digest: &Digest) -> bool {
        let mut uses = lock(&self.parts.uses);
        match uses.get_mut(digest) {
            Some(1) => uses.remove(digest).is_some(),
            Some(count) => {
                *count -= 1;
                false
            }
            None => false,
        }
    }
}

/// Locks, also after another thread panicked: what is guarded here is consistent at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
