//! One agent run as explicit phases: lock, check in, scan, fetch, apply, report.
//!
//! Nothing managed is touched before the fetch is complete. Time and randomness come from the agent's
//! [`System`](crate::system::System).

mod check_in;
mod contents;
mod finish;
mod plan;
mod remembered;
mod ruby;
mod settled;
mod state;
mod transaction_store;

use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use direct_puppet_transport::protocol::report::{Log, LogLevel};
use direct_puppet_transport::protocol::{Catalog, Digest, Held, Resource, RunStatus, TreePath};
use direct_puppet_transport::{Client, Transport};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::agent::{Inner, RunOptions};
use crate::apply::{Ahead, Engine, EngineOptions, EngineResult, Places, Prior, Remembered, error_chain};
use crate::error::RunError;
use crate::event::{Phase, RunEvent};
use crate::given::{Given, GivenCatalog};
use crate::outcome::{Answer, Outcome};
use crate::provider::{ApplyOptions, Context, ContextParts, Ownership};
use crate::puppet_report::{of_log, opening};
use crate::report::own_log;
use crate::sync::{Counted, Fetched};
use crate::system::unix_nanos;
use crate::tree::Witnesses;
use crate::undo::UndoLog;

pub(crate) use check_in::wait_for_news;

use check_in::Found;
use contents::Contents;
use plan::Plan;
use ruby::Ruby;
pub(crate) use settled::Kept;
use settled::ToSettle;
use state::State;

/// What is known of a run while it goes on.
struct Run<'a, T> {
    inner: &'a Arc<Inner<T>>,
    options: &'a RunOptions,
    cancel: CancellationToken,
    client: Client<Counted<Arc<T>>>,
    uuid: String,
    started: SystemTime,
    phase_started: SystemTime,
    times: Vec<(&'static str, Duration)>,
    /// How long facts were gathered, when they were.
    fact_generation: OnceLock<Duration>,
    messages: Vec<String>,
    /// Those of the messages that are lines of the report, and more of such.
    logs: Vec<Log>,
    fetched: Fetched,
    /// What runs types that only Ruby has.
    ruby: Ruby,
    /// The catalog that it was given instead of asking for one.
    given: Option<Given>,
    /// Cancels the run when it takes too long.
    timer: Option<AbortOnDropHandle<()>>,
}

/// Makes one run.
pub(crate) async fn run<T: Transport>(
    inner: &Arc<Inner<T>>,
    options: &RunOptions,
    catalog: Option<GivenCatalog>,
    cancel: CancellationToken,
) -> Result<Outcome, RunError> {
    let now = inner.system.now();
    // The caller's token stays as it is.
    let cancel = cancel.child_token();
    let timer = options.time_limit.map(|limit| {
        let cancel = cancel.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            tokio::time::sleep(limit).await;
            cancel.cancel();
        }))
    });
    let mut run = Run {
        inner,
        options,
        cancel,
        client: Client::new(Counted::new(Arc::clone(&inner.transport))),
        uuid: inner.system.random().iter().map(|byte| format!("{byte:02x}")).collect(),
        started: now,
        phase_started: now,
        times: Vec::new(),
        fact_generation: OnceLock::new(),
        messages: Vec::new(),
        logs: Vec::new(),
        fetched: Fetched::default(),
        ruby: Ruby::default(),
        given: catalog.map(Given::from).or_else(|| options.catalog.as_deref().map(Given::from)),
        timer,
    };
    run.begin(Phase::Lock);
    let shared = Arc::clone(inner);
    let mut state = tokio::task::spawn_blocking(move || State::open(&shared)).await.map_err(RunError::Lost)??;
    if run.given.is_some() {
        state.catalogs = state.catalogs.of_given();
    }
    match run.phases(&mut state).await {
        Ok(outcome) => Ok(outcome),
        Err(error) => {
            let error = match (error, run.time_limit_passed()) {
                (RunError::Cancelled, Some(limit)) => RunError::TimedOut { limit },
                (error, _) => error,
            };
            // It is returned, so nobody needs to hear it.
            run.logs.push(own_log(LogLevel::Err, error_chain(&error), unix_nanos(inner.system.now())));
            run.messages.push(error_chain(&error));
            run.finish_failed(&state).await;
            inner.sink.send(RunEvent::Finished(RunStatus::Failed));
            Err(error)
        }
    }
}

impl<T: Transport> Run<'_, T> {
    async fn phases(&mut self, state: &mut State) -> Result<Outcome, RunError> {
        if state.leftovers > 0 {
            self.warn(format!("removed {} staged files that an interrupted run had left", state.leftovers));
        }
        self.begin(Phase::CheckIn);
        // While the server is asked.
        let settled = self.load_settled(state);
        let mut found = match self.find_catalog(state, state.catalogs.held(&self.inner.environment)).await {
            Ok(found) => found,
            Err(error) => {
                self.keep_settled(settled).await;
                return Err(error);
            }
        };
        self.check_only_catalog(&found)?;
        self.inner.sink.send(RunEvent::Catalog { catalog_id: found.source.held.catalog_id, answer: found.source.answer });
        if let Some(mut catalog) = found.catalog.take() {
            let plan = plan::plan(self, &mut catalog).await?;
            self.begin(Phase::Scan);
            return self.converge(state, plan, catalog, found).await;
        }
        self.begin(Phase::Scan);
        if let Some(settled) = settled
            && let Some(settled) = settled.await.map_err(RunError::Lost)?
            && let Some(counts) = self.holds(state, settled).await?
        {
            return self.finish_settled(state, &found.source, counts).await;
        }
        let mut catalog = self.read_catalog(state, &mut found).await?;
        // It may have been asked for again.
        self.check_only_catalog(&found)?;
        let plan = plan::plan(self, &mut catalog).await?;
        self.converge(state, plan, catalog, found).await
    }

    /// Goes the whole way from scan to report.
    async fn converge(&mut self, state: &mut State, mut plan: Plan, catalog: Catalog, found: Found) -> Result<Outcome, RunError> {
        let source = found.source;
        let mut contents = self.scan(state, &mut plan, catalog).await?;
        self.check_cancelled()?;

        self.begin(Phase::Fetch);
        if self.options.fetch {
            self.bring(state, &mut contents, (source.held.catalog_id, found.prior.as_ref())).await?;
        }
        self.check_cancelled()?;
        let before = found.prior.map(|(_, catalog)| catalog);
        let prior = self.hold(state, &source, found.bytes, &contents, before).await?;

        self.begin(Phase::Apply);
        if !self.options.noop {
            self.forget_settled().await?;
        }
        let scanned = contents.scan.counters;
        let to_settle = contents.proofs.take().filter(|_| self.may_settle()).map(|proofs| ToSettle {
            binding: self.binding(source.held.catalog_id),
            recorded_at: contents.scanned_at,
            proofs,
        });
        self.hear_opening(&source);
        // A run that has something to do settles nothing, and is not to remember what it followed from.
        let (result, context) = self.apply(state, &plan, contents, &prior, to_settle.is_some()).await?;
        self.leave((plan, prior));

        self.begin(Phase::Report);
        self.finish(state, &source, scanned, result, context, to_settle).await
    }

    /// Gives memory back, if that is worth the time.
    fn leave<D>(&self, done_with: D) {
        if self.options.ends_process {
            std::mem::forget(done_with);
        }
    }

    /// Says that the next phase begins, and takes the time of the last.
    fn begin(&mut self, phase: Phase) {
        let now = self.inner.system.now();
        let name = match phase {
            Phase::Lock => "startup_time",
            Phase::CheckIn => "lock",
            Phase::Scan => "config_retrieval",
            Phase::Fetch => "scan",
            Phase::Apply => "fetch",
            Phase::Report => "catalog_application",
        };
        self.times.push((name, now.duration_since(self.phase_started).unwrap_or_default()));
        self.phase_started = now;
        self.inner.sink.send(RunEvent::Phase(phase));
    }

    fn warn(&mut self, message: String) {
        if !self.options.lines.is_there() {
            tracing::warn!("{message}");
        }
        self.say(LogLevel::Warning, message);
    }

    /// Says something at once, and in the report.
    fn say(&mut self, level: LogLevel, message: String) {
        self.inner.sink.send(RunEvent::Warning(message.clone()));
        let log = own_log(level, message.clone(), unix_nanos(self.inner.system.now()));
        self.options.lines.hear(&of_log(&log, None));
        self.logs.push(log);
        self.messages.push(message);
    }

    /// Lets hear that applying begins, and what.
    fn hear_opening(&self, source: &Source) {
        if !self.options.lines.is_there() {
            return;
        }
        let held = &source.held;
        let code = || match source.answer {
            Answer::Given => held.catalog_id.to_string(),
            _ => held.version.to_string(),
        };
        let version = self.given.as_ref().and_then(|given| given.version.clone()).unwrap_or_else(code);
        self.options.lines.hear(&opening(&version, unix_nanos(self.inner.system.now())));
    }

    /// Returns how long the run may take, if it was cancelled for taking longer.
    fn time_limit_passed(&self) -> Option<Duration> {
        self.options.time_limit.filter(|_| self.timer.as_ref().is_some_and(|timer| timer.is_finished()))
    }

    fn check_cancelled(&self) -> Result<(), RunError> {
        if self.cancel.is_cancelled() { Err(RunError::Cancelled) } else { Ok(()) }
    }

    async fn apply(
        &self,
        state: &mut State,
        plan: &Plan,
        contents: Contents,
        prior: &Prior,
        may_settle: bool,
    ) -> Result<(EngineResult, Context), RunError> {
        let context = Context::new(ContextParts {
            root: state.root.clone(),
            store: state.store.clone(),
            stage_journal: state.take_journal()?,
            scan: contents.scan,
            managed: plan.managed.clone(),
            resources: contents.resources.clone(),
            own_state: own_state(&self.inner.root, &self.inner.state_dir),
            options: ApplyOptions {
                show_diff: self.options.show_diff,
                max_diff_bytes: self.inner.max_diff_bytes,
                ownership: ownership(),
                noop: self.options.noop,
                settle: may_settle,
            },
            undo: UndoLog::new(&self.inner.state_dir, &self.uuid),
            cancel: self.cancel.clone(),
            scan_is_stale: AtomicBool::new(false),
            uses: Mutex::new(contents.uses),
            written: Mutex::new(Vec::new()),
        });
        let options = EngineOptions {
            noop: self.options.noop,
            tags: self.options.tags.clone(),
            skip_tags: self.options.skip_tags.clone(),
            resource_time_limit: self.options.resource_time_limit,
        };
        let witnesses = may_settle.then(Witnesses::default);
        let remembered = self.remembered(&contents.resources, plan).await?;
        let engine = Engine {
            ahead: Ahead::default(),
            graph: &plan.graph,
            refused: &plan.resources.refused,
            metaparameters: &plan.metaparameters,
            schedules: &plan.schedules,
            remembered: &remembered,
            resources: &contents.resources,
            places: Places::new(&contents.resources, &contents.edges),
            providers: &plan.providers,
            context: &context,
            options: &options,
            prior,
            system: &*self.inner.system,
            sink: &self.inner.sink,
            lines: &self.options.lines,
            result: EngineResult { witnesses, ..EngineResult::default() },
        };
        let result = engine.run().await;
        self.end_ruby().await;
        self.leave((contents.edges, contents.classes));
        Ok((result, context))
    }
}

impl<T: Transport> Run<'_, T> {
    /// Returns what earlier runs checked and saw, if a resource needs to know.
    async fn remembered(&self, resources: &[Arc<Resource>], plan: &Plan) -> Result<Remembered, RunError> {
        let is_scheduled = plan.metaparameters.iter().any(|metaparameters| metaparameters.schedule.is_some());
        if !is_scheduled && resources.iter().all(|resource| resource.parameter("audit").is_none()) {
            return Ok(Remembered::default());
        }
        let state_dir = self.inner.state_dir.clone();
        tokio::task::spawn_blocking(move || remembered::load(&state_dir)).await.map_err(RunError::Lost)
    }
}

/// Returns where the agent's own state is below the root, by name.
fn own_state(root: &Path, state_dir: &Path) -> Option<TreePath> {
    TreePath::from_absolute(state_dir.strip_prefix(root).ok().map(|below| Path::new("/").join(below))?.as_os_str().as_bytes())
        .ok()
}

/// Where the catalog of this run came from.
struct Source {
    held: Held,
    answer: Answer,
    cached: direct_puppet_transport::protocol::report::CachedCatalogStatus,
}

/// What is missing, by digest: size in bytes, and a path or resource that needs it.
type Missing = BTreeMap<Digest, (u64, String)>;

/// How many files still need a content.
type Uses = HashMap<Digest, u64>;

/// Whether owners can be set: root can. Others leave them alone.
fn ownership() -> Ownership {
    if rustix::process::geteuid().is_root() { Ownership::Managed } else { Ownership::Skipped }
}

/// Nanoseconds since 1970 UTC at which the run began.
fn started_nanos<T>(run: &Run<'_, T>) -> i64 {
    unix_nanos(run.started)
}
