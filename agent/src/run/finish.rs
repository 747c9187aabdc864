//! What a run leaves on disk, and what it tells the server.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use direct_puppet_transport::protocol::report::LogLevel;
use direct_puppet_transport::protocol::{Catalog, Digest, RefusalCode, Report, RunStatus};
use direct_puppet_transport::{CallError, Transport};

use super::contents::Contents;
use super::remembered;
use super::settled::ToSettle;
use super::state::State;
use super::transaction_store::TransactionStore;
use super::{Run, Source, started_nanos};
use crate::apply::{EngineResult, Prior, Remembered, error_chain};
use crate::catalog_cache::{CatalogCache, Said};
use crate::catalog_lists::CatalogLists;
use crate::error::RunError;
use crate::event::RunEvent;
use crate::fs::FsError;
use crate::outcome::{Answer, Outcome, WireCounters};
use crate::provider::Context;
use crate::puppet_report::closing;
use crate::report::{self, GivenIds, ReportParts};
use crate::report_processor;
use crate::summary;
use crate::tree::{ScanCounters, Settled, StatCache, Witnesses};
use crate::undo;

impl<T: Transport> Run<'_, T> {
    /// Holds the catalog: all its contents are here now. Returns what earlier runs made of its resources.
    pub(super) async fn hold(
        &self,
        state: &State,
        source: &Source,
        bytes: Option<Bytes>,
        contents: &Contents,
        before: Option<Catalog>,
    ) -> Result<Prior, RunError> {
        let catalogs = state.catalogs.clone();
        let (environment, held) = (self.inner.environment.clone(), source.held);
        let is_kept = !self.options.noop;
        let is_new = bytes.is_some();
        let state_dir = self.inner.state_dir.clone();
        let is_listed = is_kept && !is_new && CatalogLists::are_written(&state_dir);
        let said = Said { needed: state.needed.clone(), text: self.given.as_ref().and_then(|given| given.text) };
        let lists = (is_kept && !is_listed).then(|| CatalogLists::of(&contents.classes, &contents.resources));
        let transactions = tokio::task::spawn_blocking(move || -> Result<TransactionStore, RunError> {
            let transactions = TransactionStore::load(&state_dir);
            match bytes {
                _ if !is_kept => {}
                Some(bytes) => {
                    // Until this run comes to its end, nothing that differs is known to be drift.
                    TransactionStore::default().save(&state_dir)?;
                    catalogs.put(&environment, held, said, &bytes)?;
                }
                None => catalogs.hold(&environment, held, Some(said))?,
            }
            if let Some(lists) = lists {
                lists.write(&state_dir)?;
            }
            Ok(transactions)
        })
        .await
        .map_err(RunError::Lost)??;
        if !transactions.applied {
            return Ok(Prior::default());
        }
        let resources = match before {
            Some(before) => before.resources.into_iter().map(|resource| (resource.reference(), Arc::new(resource))).collect(),
            None if source.answer == Answer::Catalog || source.answer == Answer::Given && is_new => HashMap::default(),
            None => contents.resources.iter().map(|resource| (resource.reference(), Arc::clone(resource))).collect(),
        };
        Ok(Prior { resources, left: transactions.into_left() })
    }

    /// Writes the state, sends the report and returns the outcome.
    pub(super) async fn finish(
        &mut self,
        state: &mut State,
        source: &Source,
        scanned: ScanCounters,
        mut result: EngineResult,
        context: Context,
        to_settle: Option<ToSettle>,
    ) -> Result<Outcome, RunError> {
        let settle = to_settle.and_then(|to_settle| {
            let witnesses = result.witnesses.take().filter(|_| !result.cancelled && result.messages.is_empty())?;
            let catalog = state.catalogs.path_of(source.held.catalog_id);
            Some(Settle { to_settle, witnesses, catalog, resources: result.counters.total })
        });
        // What was seen of the tree is on disk after this; the report may be large itself.
        self.keep_state(state, &result, context, settle).await?;
        self.conclude(source, scanned, result).await
    }

    /// Sends the report and returns the outcome.
    pub(super) async fn conclude(
        &mut self,
        source: &Source,
        scanned: ScanCounters,
        result: EngineResult,
    ) -> Result<Outcome, RunError> {
        let time_limit_passed = self.time_limit_passed().filter(|_| result.cancelled);
        let has_failed = result.counters.failed > 0 || result.counters.failed_to_restart > 0 || time_limit_passed.is_some();
        let has_changed = result.counters.changed > 0 || result.counters.restarted > 0;
        let status = match () {
            () if has_failed => RunStatus::Failed,
            () if has_changed => RunStatus::Changed,
            () => RunStatus::Unchanged,
        };
        self.messages.extend(result.messages);
        self.logs.extend(result.logs);
        match time_limit_passed {
            Some(limit) => self.say(LogLevel::Err, format!("the run took longer than {limit:?} and was given up before its end")),
            None if result.cancelled => self.say(LogLevel::Warning, "the run was cancelled before its end".to_owned()),
            None => {}
        }
        let mut parts = self.report_parts();
        parts.catalog_id = Some(source.held.catalog_id);
        if source.answer != Answer::Given {
            parts.code_id = Some(source.held.code_id);
            parts.version = Some(source.held.version);
        }
        if let Some(given) = &self.given {
            parts.given = GivenIds {
                version: given.version.clone(),
                code_id: given.code_id.clone(),
                catalog_uuid: given.catalog_uuid.clone(),
            };
        }
        parts.parts_of_times.extend(result.times);
        parts.cached = source.cached;
        parts.status = status;
        parts.completed = !result.cancelled;
        parts.resources = result.counters;
        parts.scan = scanned;
        parts.statuses = result.statuses;
        let (catalog_id, code_id, version) = (parts.catalog_id, parts.code_id, parts.version);
        let report = Arc::new(report::build(parts));
        if self.options.lines.is_there()
            && let Some(line) = closing(&report)
        {
            self.options.lines.hear(&line);
        }
        self.deliver(&report).await;
        self.inner.sink.send(RunEvent::Finished(status));
        Ok(Outcome {
            status,
            transaction_uuid: self.uuid.clone(),
            catalog_id,
            code_id,
            version,
            answer: Some(source.answer),
            noop: self.options.noop,
            resources: result.counters,
            scan: scanned,
            wire: self.wire(),
            ruby_started: self.ruby.started(),
            messages: std::mem::take(&mut self.messages),
            report,
            diffs: result.diffs,
        })
    }

    /// Leaves a summary and a report of a run that did not come to applying anything.
    pub(super) async fn finish_failed(&mut self, _state: &State) {
        let report = Arc::new(report::build(self.report_parts()));
        self.deliver(&report).await;
    }

    async fn keep_state(
        &self,
        state: &mut State,
        result: &EngineResult,
        context: Context,
        settle: Option<Settle>,
    ) -> Result<(), RunError> {
        let written = context.take_written();
        let cache = state.cache.take();
        let ends_process = self.options.ends_process;
        let job = KeepState {
            is_noop: self.options.noop,
            has_changed: result.counters.out_of_sync > 0 || self.fetched.received > 0,
            has_failed: result.counters.failed > 0 || result.cancelled,
            transactions: TransactionStore::new(!result.cancelled, result.left.clone()),
            remembered: result.remembered.clone(),
            now: started_nanos(self) / 1_000_000_000,
            undo_runs: self.inner.undo_runs,
            state_dir: self.inner.state_dir.clone(),
            root: state.root.clone(),
            store: state.store.clone(),
            catalogs: state.catalogs.clone(),
            settle,
        };
        let done = tokio::task::spawn_blocking(move || {
            let cleared = context.stage_journal().clear();
            if ends_process {
                std::mem::forget(context);
            } else {
                // What the scan saw is not needed any more.
                drop(context);
            }
            cleared.and_then(|()| job.run(cache, written))
        });
        Ok(done.await.map_err(RunError::Lost)??)
    }

    /// Writes the report and its summary, and sends it with those that wait. What cannot be sent waits for the next run.
    async fn deliver(&mut self, report: &Arc<Report>) {
        if !self.options.report {
            return;
        }
        let (state_dir, last, run_mode) = (self.inner.state_dir.clone(), Arc::clone(report), self.options.run_mode);
        let written = tokio::task::spawn_blocking(move || {
            report::write_last(&state_dir, &last)
                .and_then(|()| summary::write(&state_dir, &last, run_mode))
                .map(|()| report::pending(&state_dir))
        });
        let pending = match written.await {
            Ok(Ok(pending)) => pending,
            Ok(Err(error)) => {
                self.warn(error_chain(&error));
                Vec::new()
            }
            Err(error) => {
                self.warn(error_chain(&error));
                Vec::new()
            }
        };
        for message in report_processor::process(&self.inner.processors, &self.inner.state_dir, report).await {
            self.warn(message);
        }
        if self.given.is_some() {
            // There is no server that waits for it.
            return;
        }
        for (path, waiting) in pending {
            match self.client.report(&waiting).await {
                Ok(_) => report::forget_pending(&path),
                Err(error) if is_refused_for_good(&error) => {
                    self.warn(format!("{}: a report of an earlier run is dropped", error_chain(&error)));
                    report::forget_pending(&path);
                }
                // This says something of this report alone, or may.
                Err(CallError::Refused(refusal)) if refusal.code == RefusalCode::Internal => {}
                Err(_) => break,
            }
        }
        match self.client.report(report).await {
            Ok(_) => {}
            Err(error) if is_refused_for_good(&error) => {
                self.warn(format!("{}: the report is not sent again", error_chain(&error)));
            }
            Err(error) => {
                self.warn(format!("{}: the report is kept and sent by the next run", error_chain(&error)));
                if let Err(error) = report::keep_pending(&self.inner.state_dir, report) {
                    self.warn(error_chain(&error));
                }
            }
        }
    }

    fn report_parts(&self) -> ReportParts {
        let mut parts =
            ReportParts::new(self.inner.certname.clone(), self.inner.environment.clone(), self.uuid.clone(), started_nanos(self));
        parts.noop = self.options.noop;
        parts.wire = self.wire();
        parts.times.clone_from(&self.times);
        parts.parts_of_times.extend(self.fact_generation.get().map(|time| ("fact_generation".to_owned(), *time)));
        parts.logs.clone_from(&self.logs);
        parts
    }

    fn wire(&self) -> WireCounters {
        let counted = self.client.transport().counters();
        WireCounters {
            contents_requested: self.fetched.requested,
            contents_received: self.fetched.received,
            contents_repeated: self.fetched.repeated,
            contents_pieced: self.fetched.pieced,
            ..counted
        }
    }
}

/// Returns whether a server will not take this report later either.
const fn is_refused_for_good(error: &CallError) -> bool {
    match error {
        CallError::Refused(refusal) => matches!(refusal.code, RefusalCode::BadRequest | RefusalCode::Forbidden),
        CallError::Encode { .. } => true,
        _ => false,
    }
}

/// What is to be written after the apply.
struct KeepState {
    is_noop: bool,
    has_changed: bool,
    has_failed: bool,
    transactions: TransactionStore,
    remembered: Remembered,
    /// In seconds since 1970 UTC.
    now: i64,
    undo_runs: usize,
    state_dir: PathBuf,
    root: crate::fs::Root,
    store: crate::store::Store,
    /// What they need stays in the store.
    catalogs: CatalogCache,
    settle: Option<Settle>,
}

/// What is written as the settled record.
struct Settle {
    to_settle: ToSettle,
    witnesses: Witnesses,
    catalog: PathBuf,
    resources: u64,
}

impl Settle {
    /// Writes it. That this cannot be done only makes the next run check everything again.
    fn write(&self, state_dir: &Path, root: &Path) {
        let ToSettle { binding, recorded_at, proofs } = &self.to_settle;
        let settled = Settled {
            binding: *binding,
            recorded_at: *recorded_at,
            resources: self.resources,
            proofs,
            witnesses: &self.witnesses,
            catalog: &self.catalog,
            root,
        };
        match settled.write(state_dir) {
            Ok(true) => {}
            Ok(false) => tracing::debug!("too new to be relied upon: the next run checks everything again"),
            Err(error) => tracing::warn!("{}: the next run checks everything again", error_chain(&error)),
        }
    }
}

impl KeepState {
    fn run(
        self,
        cache: Option<StatCache>,
        written: Vec<(direct_puppet_transport::protocol::TreePath, crate::fs::Stat, Digest)>,
    ) -> Result<(), FsError> {
        if let Some(mut cache) = cache {
            cache.reserve(written.len());
            for (path, stat, digest) in written {
                cache.record(&path, &stat, digest);
            }
            cache.save(&self.root)?;
        }
        if self.is_noop {
            return Ok(());
        }
        if TransactionStore::load(&self.state_dir) != self.transactions {
            self.transactions.save(&self.state_dir)?;
        }
        if self.remembered != Remembered::default() {
            remembered::keep(&self.state_dir, self.remembered, self.now)?;
        }
        if let Some(settle) = &self.settle {
            settle.write(&self.state_dir, self.root.path());
        }
        if self.has_changed && !self.has_failed {
            let backups = undo::prune(&self.state_dir, self.undo_runs)?;
            let needed = self.catalogs.needed()?;
            self.store.retain(&|digest| backups.contains(digest) || needed.contains(digest))?;
        }
        Ok(())
    }
}

/// Returns whether the last run that applied something came to its end and left nothing out of sync. Blocking.
pub(super) fn left_nothing_unsettled(state_dir: &Path) -> bool {
    TransactionStore::load(state_dir).has_nothing_left()
}
