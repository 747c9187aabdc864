//! Which warm parents there are.

use std::sync::{Arc, Mutex, Once, PoisonError};

use direct_puppet_agent::fs::FsError;
use direct_puppet_transport::protocol::{CodeId, Environment};

use super::checkout::{Checkout, tell_damaged};
use super::error::{self, WorkerError};
use super::options::PuppetOptions;
use super::worker::Worker;
use crate::code::Code;
use crate::compile::{CompileError, CompileErrorKind};
use crate::error::chain;

/// Versions of one environment that have a warm parent: what is live, and what is about to be.
const VERSIONS_PER_ENVIRONMENT: usize = 2;

/// All warm parents, for one version each; those that were used last come last.
#[derive(Debug)]
pub(super) struct Pool {
    options: PuppetOptions,
    slots: Mutex<Vec<(Key, Arc<Slot>)>>,
    emptied: Once,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    environment: Environment,
    code_id: CodeId,
}

impl Key {
    fn of(code: &Code) -> Self {
        Self { environment: code.version.environment.clone(), code_id: code.version.code_id }
    }
}

/// One version. Locked while its files are written or its parent starts, so that this is done once.
type Slot = Mutex<Prepared>;

#[derive(Debug, Default)]
struct Prepared {
    // The order counts: a parent ends before its files go.
    worker: Option<Arc<Worker>>,
    checkout: Option<Arc<Checkout>>,
}

/// A warm parent, and the files that it compiles from, for as long as they are needed.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) worker: Arc<Worker>,
    pub(super) checkout: Arc<Checkout>,
}

/// Ends the parent of a version that is not compiled any more, and returns its files; nothing while somebody still compiles from them.
fn checkout_of(slot: Arc<Slot>) -> Option<Checkout> {
    let Prepared { worker, checkout } = Arc::into_inner(slot)?.into_inner().unwrap_or_else(PoisonError::into_inner);
    drop(worker);
    Arc::into_inner(checkout?)
}

impl Pool {
    pub(super) fn new(options: PuppetOptions) -> Self {
        Self { options, slots: Mutex::default(), emptied: Once::new() }
    }

    /// Returns the warm parent of this code, which is started if there is none that can be used. Blocking.
    pub(super) fn lease(&self, code: &Code) -> Result<Lease, CompileError> {
        self.emptied.call_once(|| self.empty());
        let (slot, retired) = self.slot(code);
        let retired = retired.into_iter().filter_map(checkout_of);
        // All of the others end and go here, where nobody waits for it.
        let retired = retired.filter(|retired| *retired.environment() == code.version.environment).last();
        let mut prepared = slot.lock().unwrap_or_else(PoisonError::into_inner);
        let worker = prepared.worker.take().filter(|worker| worker.is_fit(&self.options));
        if worker.is_none()
            && let Some(checkout) = &prepared.checkout
        {
            let unread = |error: FsError| {
                let message = format!("its files could not be read again before they are compiled: {}", chain(&error));
                CompileError::at(&error::place(code), message).with_kind(CompileErrorKind::Disk)
            };
            if let Some(path) = checkout.damaged().map_err(unread)? {
                tell_damaged(&code.version.environment, &path);
                prepared.checkout = None;
            }
        }
        let checkout = match &prepared.checkout {
            Some(checkout) => Arc::clone(checkout),
            None => {
                let made = Arc::new(Checkout::make(&self.options.work_dir, code, retired)?);
                prepared.checkout = Some(Arc::clone(&made));
                made
            }
        };
        let worker = match worker {
            Some(worker) => worker,
            None => Arc::new(Worker::start(&self.options, &checkout).map_err(|error| self.no_worker(code, &error))?),
        };
        prepared.worker = Some(Arc::clone(&worker));
        Ok(Lease { worker, checkout })
    }

    /// Reads again what code is compiled from; what is damaged is written anew for the next compile. Says what is, and what could not be
    /// read. Blocking.
    pub(super) fn verify(&self) -> Vec<String> {
        let slots: Vec<Arc<Slot>> = {
            let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.iter().map(|(_, slot)| Arc::clone(slot)).collect()
        };
        let mut damaged = Vec::new();
        for slot in slots {
            let mut prepared = slot.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(checkout) = &prepared.checkout else { continue };
            match checkout.damaged() {
                Ok(None) => {}
                Ok(Some(path)) => {
                    damaged.push(format!(
                        "{path} of {}, as it was written out to be compiled: it is written anew; nodes whose catalogs were compiled since it \
                         was damaged have them until they are compiled again: recompile",
                        checkout.environment()
                    ));
                    // What it has read of them is in its memory.
                    *prepared = Prepared::default();
                }
                Err(error) => damaged.push(format!("{}: what is compiled from was not verified", chain(&error))),
            }
        }
        damaged
    }

    /// Has the next compile start another parent in the place of this one. Blocking.
    pub(super) fn discard(&self, code: &Code, worker: &Arc<Worker>) {
        let key = Key::of(code);
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have gone already.
        let Some(slot) = slots.iter().find(|(known, _)| *known == key).map(|(_, slot)| Arc::clone(slot)) else { return };
        drop(slots);
        let mut prepared = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if prepared.worker.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, worker)) {
            prepared.worker = None;
        }
    }

    fn no_worker(&self, code: &Code, error: &WorkerError) -> CompileError {
        CompileError::at(&error::place(code), error.to_string()).with_kind(error.kind())
    }

    /// Returns the slot of this code, and those that have to go for it: whoever compiles with them ends in peace.
    fn slot(&self, code: &Code) -> (Arc<Slot>, Vec<Arc<Slot>>) {
        let key = Key::of(code);
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = match slots.iter().position(|(known, _)| *known == key) {
            Some(at) => slots.remove(at).1,
            None => Arc::default(),
        };
        let mut retired = Vec::new();
        let of_it = |slots: &[(Key, Arc<Slot>)]| slots.iter().filter(|(known, _)| known.environment == key.environment).count();
        while of_it(&slots) >= VERSIONS_PER_ENVIRONMENT
            && let Some(at) = slots.iter().position(|(known, _)| known.environment == key.environment)
        {
            retired.push(slots.remove(at).1);
        }
        while slots.len() >= self.options.max_parents.max(1) {
            retired.push(slots.remove(0).1);
        }
        slots.push((key, Arc::clone(&slot)));
        (slot, retired)
    }

    /// Removes what a server that was killed has left. Nobody else works with the directory.
    fn empty(&self) {
        let work_dir = &self.options.work_dir;
        match std::fs::remove_dir_all(work_dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(path = %work_dir.display(), %error, "files of an earlier server stay");
            }
            _ => {}
        }
        if let Err(error) = direct_puppet_agent::fs::ensure_private_dir(work_dir) {
            tracing::error!("{}", chain(&error));
        }
    }
}
