//! Ending a run by the settled record: everything is as it was when nothing was to be done.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use direct_puppet_transport::Transport;
use direct_puppet_transport::protocol::CatalogId;
use tokio::task::JoinHandle;

use super::finish::left_nothing_unsettled;
use super::state::State;
use super::{Run, Source};
use crate::apply::EngineResult;
use crate::apply::error_chain;
use crate::error::RunError;
use crate::event::Phase;
use crate::outcome::{Outcome, ResourceCounters};
use crate::tree::{Noted, Proof, Proofs, ScanCounters, SettledCounts, SettledRecord, Watch, forget_settled};

/// Version of what a run makes of the same answers of all checks; counts besides the program's own.
const RULES: &str = "run 1";

/// What a run needs to write a record, besides what the checks saw.
#[derive(Debug)]
pub(super) struct ToSettle {
    pub(super) binding: [u8; 32],
    pub(super) recorded_at: SystemTime,
    pub(super) proofs: Proofs,
}

/// A settled record, kept from one run to the next by an agent that watches.
#[derive(Debug)]
pub(crate) struct Kept {
    record: SettledRecord,
    watch: Option<Since>,
}

/// A watch, or that there can be none, with the time before which everything was looked at last.
#[derive(Debug)]
struct Since {
    watch: Option<Watch>,
    since: Instant,
}

impl Kept {
    /// Returns what a run would count if everything is as it was, and what to keep for the next run. `interval` says how long a watch is
    /// relied upon; `None` for not at all. Blocking.
    fn holds(
        self,
        root: &Path,
        (threads, interval): (usize, Option<Duration>),
        interrupt: &AtomicBool,
        progress: &AtomicU64,
    ) -> Option<((u64, ScanCounters), Option<Self>)> {
        let Self { record, watch } = self;
        let SettledCounts { resources, listed, stat_proved } = record.counts();
        let by_stat = (resources, ScanCounters { listed, stat_proved, ..ScanCounters::default() });
        let Some(interval) = interval else {
            return record.holds(root, threads, interrupt, progress).then_some((by_stat, None));
        };
        match watch.filter(|watch| watch.since.elapsed() < interval) {
            Some(Since { watch: Some(watch), since }) => match record.look(&watch, root) {
                Noted::Holds { looked_at } => {
                    progress.fetch_add(looked_at, Ordering::Relaxed);
                    let by_watch = ScanCounters { listed, watch_proved: stat_proved, ..ScanCounters::default() };
                    let watch = Some(Since { watch: Some(watch), since });
                    return Some(((resources, by_watch), Some(Self { record, watch })));
                }
                Noted::Differs => return None,
                Noted::Unknown => {}
            },
            // What could not be watched a moment ago is not tried in every run.
            Some(refused) => {
                let kept = Self { watch: Some(refused), record };
                return kept.record.holds(root, threads, interrupt, progress).then_some((by_stat, Some(kept)));
            }
            None => {}
        }
        let since = Instant::now();
        let watch = record.holds_and_is_watched(root, threads, interrupt, progress)?;
        let watch = watch.inspect_err(|error| tracing::warn!("runs look at everything: {}", error_chain(error))).ok();
        Some((by_stat, Some(Self { record, watch: Some(Since { watch, since }) })))
    }
}

impl<T: Transport> Run<'_, T> {
    /// Whether this run may write a record.
    pub(super) fn may_settle(&self) -> bool {
        self.is_whole() && !self.options.noop && self.options.proof == Proof::Stat
    }

    /// Whether this run reads all contents and changes nothing.
    fn verifies(&self) -> bool {
        self.is_whole() && self.options.noop && self.options.proof != Proof::Stat
    }

    /// Whether records say something of all that this run looks at.
    fn is_whole(&self) -> bool {
        let options = self.options;
        self.inner.settled && options.tags.is_empty() && options.skip_tags.is_empty() && self.given.is_none()
    }

    /// Begins to load the record, if it fits the catalog held; the one that an earlier run kept, if it is still the same.
    pub(super) fn load_settled(&self, state: &State) -> Option<JoinHandle<Option<Kept>>> {
        let held = state.catalogs.held(&self.inner.environment).filter(|_| self.may_settle() || self.verifies())?;
        let (binding, catalog) = (self.binding(held.catalog_id), state.catalogs.path_of(held.catalog_id));
        let (state_dir, now) = (self.inner.state_dir.clone(), self.inner.system.now());
        let kept = self.inner.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        let load = move || {
            let kept = kept.filter(|kept| kept.record.is_still(&state_dir, &binding, &catalog, now));
            let load = || SettledRecord::load(&state_dir, &binding, &catalog, now);
            let kept = kept.or_else(|| load().map(|record| Kept { record, watch: None }));
            kept.filter(|_| left_nothing_unsettled(&state_dir))
        };
        Some(tokio::task::spawn_blocking(load))
    }

    /// Keeps for the next run what this one does not come to use.
    pub(super) async fn keep_settled(&self, loaded: Option<JoinHandle<Option<Kept>>>) {
        let kept = match loaded {
            Some(loaded) => loaded.await.unwrap_or_default(),
            None => None,
        };
        if let Some(kept) = kept.filter(|kept| kept.watch.is_some()) {
            *self.inner.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
        }
    }

    /// Returns what the run would count, if the record still holds.
    pub(super) async fn holds(&self, state: &State, kept: Kept) -> Result<Option<(u64, ScanCounters)>, RunError> {
        let (progress, interrupt): (Arc<AtomicU64>, Arc<AtomicBool>) = Default::default();
        let (root, threads) = (state.root.clone(), self.inner.threads);
        let total = kept.record.len() as u64;
        let (interval, state_dir) = (self.inner.watch, self.inner.state_dir.clone());
        let verify = self.verifies().then_some(self.options.proof);
        let work = {
            let (progress, interrupt) = (Arc::clone(&progress), Arc::clone(&interrupt));
            move || match verify {
                Some(proof) => {
                    let places = (state_dir.as_path(), root.path());
                    let counters = kept.record.verify(places, (threads, proof), &interrupt, &progress)?;
                    Some(((kept.record.counts().resources, counters), Some(kept)))
                }
                None => kept.holds(root.path(), (threads, interval), &interrupt, &progress),
            }
        };
        let (counters, kept) = self.watch(work, &progress, &interrupt, total).await?.unzip();
        *self.inner.kept.lock().unwrap_or_else(PoisonError::into_inner) = kept.flatten();
        self.check_cancelled()?;
        Ok(counters)
    }

    /// Ends a run that found nothing to do.
    pub(super) async fn finish_settled(
        &mut self,
        state: &State,
        source: &Source,
        (resources, scanned): (u64, ScanCounters),
    ) -> Result<Outcome, RunError> {
        self.begin(Phase::Fetch);
        self.begin(Phase::Apply);
        if !self.options.noop {
            let (catalogs, environment, held) = (state.catalogs.clone(), self.inner.environment.clone(), source.held);
            tokio::task::spawn_blocking(move || catalogs.hold(&environment, held, None)).await.map_err(RunError::Lost)??;
        }
        self.hear_opening(source);
        self.begin(Phase::Report);
        let counters = ResourceCounters { total: resources, ..ResourceCounters::default() };
        self.conclude(source, scanned, EngineResult { counters, ..EngineResult::default() }).await
    }

    /// Removes the record before this run applies anything.
    pub(super) async fn forget_settled(&self) -> Result<(), RunError> {
        let state_dir = self.inner.state_dir.clone();
        Ok(tokio::task::spawn_blocking(move || forget_settled(&state_dir)).await.map_err(RunError::Lost)??)
    }

    /// Returns what a record is bound to: everything but the machine that the outcome of a run without changes depends on.
    pub(super) fn binding(&self, catalog_id: CatalogId) -> [u8; 32] {
        let inner = self.inner;
        let mut hasher = blake3::Hasher::new_derive_key("direct-puppet 2026 settled record binding");
        let mut add = |part: &[u8]| {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        };
        add(env!("CARGO_PKG_VERSION").as_bytes());
        add(RULES.as_bytes());
        add(catalog_id.to_string().as_bytes());
        add(inner.root.as_os_str().as_bytes());
        add(inner.state_dir.as_os_str().as_bytes());
        add(&[u8::from(inner.strict_types)]);
        add(&inner.reproof_interval.as_nanos().to_le_bytes());
        add(&rustix::process::geteuid().as_raw().to_le_bytes());
        add(&rustix::process::getegid().as_raw().to_le_bytes());
        let mut providers: Vec<_> = inner.providers.iter().collect();
        providers.sort_by_key(|(resource_type, _)| *resource_type);
        for (resource_type, provider) in providers {
            add(resource_type.as_bytes());
            add(provider.settles().unwrap_or_default().as_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}
