//! Ending a run by the settled record: everything is as it was when nothing was to be done.

use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::SystemTime;

use direct_puppet_transport::Transport;
use direct_puppet_transport::protocol::CatalogId;

use super::finish::left_nothing_unsettled;
use super::state::State;
use super::{Run, Source};
use crate::apply::EngineResult;
use crate::error::RunError;
use crate::event::Phase;
use crate::outcome::{Outcome, ResourceCounters};
use crate::tree::{Proofs, ScanCounters, SettledCounts, SettledRecord, forget_settled};

/// Version of what a run makes of the same answers of all checks; counts besides the program's own.
const RULES: &str = "run 1";

/// What a run needs to write a record, besides what the checks saw.
#[derive(Debug)]
pub(super) struct ToSettle {
    pub(super) binding: [u8; 32],
    pub(super) recorded_at: SystemTime,
    pub(super) proofs: Proofs,
}

impl<T: Transport> Run<'_, T> {
    /// Whether this run may use the record, and write one.
    pub(super) fn may_settle(&self) -> bool {
        let options = self.options;
        let is_whole = options.tags.is_empty() && options.skip_tags.is_empty() && options.catalog.is_none();
        self.inner.settled && is_whole && !options.noop && !options.verify_all
    }

    /// Loads the record, if it fits the catalog held.
    pub(super) async fn load_settled(&self, state: &State) -> Result<Option<SettledRecord>, RunError> {
        let Some(held) = state.catalogs.held(&self.inner.environment).filter(|_| self.may_settle()) else { return Ok(None) };
        let (binding, catalog) = (self.binding(held.catalog_id), state.catalogs.path_of(held.catalog_id));
        let (state_dir, now) = (self.inner.state_dir.clone(), self.inner.system.now());
        let load = move || {
            let record = SettledRecord::load(&state_dir, &binding, &catalog, now);
            record.filter(|_| left_nothing_unsettled(&state_dir))
        };
        tokio::task::spawn_blocking(load).await.map_err(RunError::Lost)
    }

    /// Returns what the run would count, if the record still holds.
    pub(super) async fn holds(&self, state: &State, record: SettledRecord) -> Result<Option<SettledCounts>, RunError> {
        let (progress, interrupt): (Arc<AtomicU64>, Arc<AtomicBool>) = Default::default();
        let (root, threads) = (state.root.clone(), self.inner.threads);
        let total = record.len() as u64;
        let work = {
            let (progress, interrupt) = (Arc::clone(&progress), Arc::clone(&interrupt));
            move || record.holds(root.path(), threads, &interrupt, &progress).then(|| record.counts())
        };
        let counts = self.watch(work, &progress, &interrupt, total).await?;
        self.check_cancelled()?;
        Ok(counts)
    }

    /// Ends a run that found nothing to do.
    pub(super) async fn finish_settled(
        &mut self,
        state: &State,
        source: &Source,
        counts: SettledCounts,
    ) -> Result<Outcome, RunError> {
        self.begin(Phase::Fetch);
        self.begin(Phase::Apply);
        let (catalogs, environment, held) = (state.catalogs.clone(), self.inner.environment.clone(), source.held);
        tokio::task::spawn_blocking(move || catalogs.hold(&environment, held)).await.map_err(RunError::Lost)??;
        self.begin(Phase::Report);
        let scanned = ScanCounters { listed: counts.listed, stat_proved: counts.stat_proved, ..ScanCounters::default() };
        let counters = ResourceCounters { total: counts.resources, ..ResourceCounters::default() };
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
