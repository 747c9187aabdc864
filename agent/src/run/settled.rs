//! Ending a run by the settled record: everything is as it was when nothing was to be done.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

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
use crate::tree::{Noted, Proofs, ScanCounters, SettledCounts, SettledRecord, Watch, forget_settled};

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
    /// With the time before which everything was looked at last.
    watch: Option<(Watch, SystemTime)>,
}

impl Kept {
    /// Returns what a run would count if everything is as it was, and what to keep for the next run. `interval` says how long a watch is
    /// relied upon; `None` for not at all. Blocking.
    fn holds(
        self,
        root: &Path,
        (threads, interval, now): (usize, Option<Duration>, SystemTime),
        interrupt: &AtomicBool,
        progress: &AtomicU64,
    ) -> Option<((u64, ScanCounters), Option<Self>)> {
        let Self { record, watch } = self;
        let SettledCounts { resources, listed, stat_proved } = record.counts();
        let Some(interval) = interval else {
            let counters = ScanCounters { listed, stat_proved, ..ScanCounters::default() };
            return record.holds(root, threads, interrupt, progress).then_some(((resources, counters), None));
        };
        // A clock that was set back says nothing of how long it was.
        if let Some((watch, since)) = watch.filter(|(_, since)| now.duration_since(*since).is_ok_and(|passed| passed < interval))
        {
            match record.look(&watch, root) {
                Noted::Holds { looked_at } => {
                    progress.fetch_add(looked_at, Ordering::Relaxed);
                    let counters = ScanCounters { listed, watch_proved: stat_proved, ..ScanCounters::default() };
                    return Some(((resources, counters), Some(Self { record, watch: Some((watch, since)) })));
                }
                Noted::Differs => return None,
                Noted::Unknown => {}
            }
        }
        let watch = record.holds_and_is_watched(root, threads, interrupt, progress)?;
        let watch = watch.inspect_err(|error| tracing::info!("runs look at everything: {}", error_chain(error))).ok();
        let counters = ScanCounters { listed, stat_proved, ..ScanCounters::default() };
        Some(((resources, counters), Some(Self { record, watch: watch.map(|watch| (watch, now)) })))
    }
}

impl<T: Transport> Run<'_, T> {
    /// Whether this run may use the record, and write one.
    pub(super) fn may_settle(&self) -> bool {
        let options = self.options;
        let is_whole = options.tags.is_empty() && options.skip_tags.is_empty() && options.catalog.is_none();
        self.inner.settled && is_whole && !options.noop && !options.verify_all
    }

    /// Begins to load the record, if it fits the catalog held; the one that an earlier run kept, if it is still the same.
    pub(super) fn load_settled(&self, state: &State) -> Option<JoinHandle<Option<Kept>>> {
        let held = state.catalogs.held(&self.inner.environment).filter(|_| self.may_settle())?;
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

    /// Returns what the run would count, if the record still holds.
    pub(super) async fn holds(&self, state: &State, kept: Kept) -> Result<Option<(u64, ScanCounters)>, RunError> {
        let (progress, interrupt): (Arc<AtomicU64>, Arc<AtomicBool>) = Default::default();
        let (root, threads) = (state.root.clone(), self.inner.threads);
        let total = kept.record.len() as u64;
        let (interval, now) = (self.inner.watch, self.inner.system.now());
        let work = {
            let (progress, interrupt) = (Arc::clone(&progress), Arc::clone(&interrupt));
            move || kept.holds(root.path(), (threads, interval, now), &interrupt, &progress)
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
        let (catalogs, environment, held) = (state.catalogs.clone(), self.inner.environment.clone(), source.held);
        tokio::task::spawn_blocking(move || catalogs.hold(&environment, held)).await.map_err(RunError::Lost)??;
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
