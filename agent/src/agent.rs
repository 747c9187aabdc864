//! The front door: [`Agent`] and its builder.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[cfg(feature = "providers")]
use direct_puppet_transport::HttpSource;
use direct_puppet_transport::Transport;
use direct_puppet_transport::protocol::{CatalogId, Certname, Environment, VersionCounter};
use futures::Stream;
use tokio_util::sync::CancellationToken;

use crate::compression::Compression;
use crate::error::RunError;
use crate::event::{EventSink, RunEvent};
use crate::facts::Facts;
use crate::given::GivenCatalog;
use crate::line_listener::LineListener;
use crate::outcome::Outcome;
#[cfg(feature = "providers")]
use crate::provider::file::FileProvider;
#[cfg(feature = "providers")]
use crate::provider::ruby::RubyOptions;
use crate::provider::{Provider, Providers};
use crate::puppet_catalog::PuppetCatalog;
use crate::report_processor::ReportProcessor;
use crate::run::Kept;
use crate::summary::RunMode;
use crate::system::{RealSystem, System, hostname};
use crate::tree::Proof;
use crate::{lock, run, undo};

/// Where an agent keeps its state below a managed root of its own.
pub const DEFAULT_STATE_DIR: &str = "var/lib/direct-puppet";

/// How one run goes.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Change nothing, tell what would be changed. Default: false.
    pub noop: bool,
    /// Only resources with one of these tags. Default: all.
    pub tags: Vec<String>,
    /// No resource with one of these tags. Default: none.
    pub skip_tags: Vec<String>,
    /// Make diffs of text that changes. Default: false.
    pub show_diff: bool,
    /// Do not ask the server: apply what is on disk. Default: false.
    pub use_cached_catalog: bool,
    /// Apply what is on disk when the server cannot be asked. Default: true.
    pub use_cache_on_failure: bool,
    /// Accept, this once, code older than what this node has accepted. Default: false.
    pub accept_older: bool,
    /// Accept no code older than this, as after a publish that made it. Default: none, but never older than what is held.
    pub at_least: Option<VersionCounter>,
    /// Apply the catalog of this id and no other: when there is another one, nothing is touched. Default: any.
    pub only_catalog: Option<CatalogId>,
    /// What is proof enough that a file has its content; with anything but [`Proof::Stat`] every file is read. Default: `Stat`.
    pub proof: Proof,
    /// Get missing contents. Without it, a run can only tell that they differ; for noop runs. Default: true.
    pub fetch: bool,
    /// Write a report as that of the last run, and send it. Default: true.
    pub report: bool,
    /// How long the run may take. Then commands are killed with their process groups, the rest is skipped, and the report says so; the run
    /// counts as failed. Default: none.
    pub time_limit: Option<Duration>,
    /// How long a resource may take to be checked, to be applied or to be refreshed, each by itself. One that takes longer fails.
    /// Default: none, but commands have limits of their own.
    pub resource_time_limit: Option<Duration>,
    /// Apply this catalog and ask the server for none. It must be of this agent's node and environment. The server is not asked for contents
    /// either: those that are not on the node fail their resources. It is remembered apart from what the server gave. Default: none.
    pub catalog: Option<Arc<PuppetCatalog>>,
    /// What the summary calls the run. Default: [`RunMode::Agent`].
    pub run_mode: RunMode,
    /// Hears what the run tells while it goes on. Default: nobody does.
    pub lines: LineListener,
    /// The process ends right after this run: what it holds in memory is left to the kernel, instead of given back piece by piece, which takes a good
    /// part of the time of a run with nothing to do. Default: false.
    pub ends_process: bool,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            noop: false,
            tags: Vec::new(),
            skip_tags: Vec::new(),
            show_diff: false,
            use_cached_catalog: false,
            use_cache_on_failure: true,
            accept_older: false,
            at_least: None,
            only_catalog: None,
            proof: Proof::Stat,
            fetch: true,
            report: true,
            time_limit: None,
            resource_time_limit: None,
            catalog: None,
            run_mode: RunMode::default(),
            lines: LineListener::default(),
            ends_process: false,
        }
    }
}

/// An agent for one node. Cheap to clone; all clones share the state directory and its run lock.
///
/// Dropping the future of any method gives the run up at the next point of rest: each managed file is then old or new, and
/// what was staged is removed by the next run. To stop with a report, cancel the token of [`Agent::run_until`].
#[derive(Debug)]
pub struct Agent<T> {
    inner: Arc<Inner<T>>,
}

impl<T> Clone for Agent<T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

#[derive(Debug)]
pub(crate) struct Inner<T> {
    pub(crate) transport: Arc<T>,
    pub(crate) certname: Certname,
    pub(crate) environment: Environment,
    pub(crate) root: PathBuf,
    pub(crate) state_dir: PathBuf,
    pub(crate) providers: Arc<Providers>,
    #[cfg(feature = "providers")]
    pub(crate) ruby: Option<RubyOptions>,
    pub(crate) system: Arc<dyn System>,
    pub(crate) threads: usize,
    pub(crate) reproof_interval: Duration,
    pub(crate) max_diff_bytes: u64,
    pub(crate) undo_runs: usize,
    pub(crate) settled: bool,
    /// How long a watch is relied upon before everything is looked at.
    pub(crate) watch: Option<Duration>,
    /// What the last run left to know without a look.
    pub(crate) kept: Mutex<Option<Kept>>,
    pub(crate) strict_types: bool,
    pub(crate) graph: bool,
    pub(crate) compression: Compression,
    pub(crate) processors: Vec<Arc<dyn ReportProcessor>>,
    pub(crate) sink: EventSink,
}

impl<T: Transport> Inner<T> {
    pub(crate) async fn facts(&self) -> Result<Facts, RunError> {
        let system = Arc::clone(&self.system);
        let facts = tokio::task::spawn_blocking(move || system.facts()).await.map_err(RunError::Lost)?;
        facts.map_err(|reason| RunError::Facts { reason })
    }
}

impl Agent<()> {
    /// Returns a builder with defaults; a transport is all that it needs.
    #[must_use]
    pub fn builder() -> AgentBuilder<()> {
        AgentBuilder {
            transport: (),
            certname: None,
            environment: Environment::default(),
            root: PathBuf::from("/"),
            state_dir: None,
            providers: Providers::default(),
            #[cfg(feature = "providers")]
            ruby: None,
            system: Arc::new(RealSystem::default()),
            threads: 0,
            reproof_interval: Duration::from_secs(12 * 3600),
            max_diff_bytes: 256 * 1024,
            undo_runs: 10,
            settled: true,
            watch: None,
            strict_types: false,
            graph: false,
            compression: Compression::default(),
            processors: Vec::new(),
        }
        .with_builtin_providers()
    }
}

impl<T: Transport> Agent<T> {
    /// Makes one run: check in, scan, fetch, apply, report.
    ///
    /// # Errors
    ///
    /// When the run did not happen or stopped before it touched anything; failures of resources are in the outcome.
    ///
    /// # Cancel safety
    ///
    /// See [`Agent`].
    pub async fn run(&self, options: &RunOptions) -> Result<Outcome, RunError> {
        self.run_until(options, CancellationToken::new()).await
    }

    /// As [`Agent::run`], until `cancel` is cancelled: the resource in work is finished, the rest is skipped, and there is a
    /// report that says so.
    ///
    /// # Errors
    ///
    /// As [`Agent::run`]; [`RunError::Cancelled`] if nothing had been touched yet.
    pub async fn run_until(&self, options: &RunOptions, cancel: CancellationToken) -> Result<Outcome, RunError> {
        run::run(&self.inner, options, None, cancel).await
    }

    /// As [`Agent::run_until`], with a catalog that is given, as [`RunOptions::catalog`] says; what is there is passed over.
    ///
    /// # Errors
    ///
    /// As [`Agent::run_until`].
    ///
    /// # Cancel safety
    ///
    /// See [`Agent`].
    pub async fn apply(
        &self,
        catalog: GivenCatalog,
        options: &RunOptions,
        cancel: CancellationToken,
    ) -> Result<Outcome, RunError> {
        run::run(&self.inner, options, Some(catalog), cancel).await
    }

    /// Tells what a run would change: noop, with diffs.
    ///
    /// # Errors
    ///
    /// As [`Agent::run`].
    pub async fn plan(&self) -> Result<Outcome, RunError> {
        self.run(&RunOptions { noop: true, show_diff: true, ..RunOptions::default() }).await
    }

    /// Compares the node with the catalog on disk, reading and hashing every file; asks nobody and changes nothing.
    ///
    /// # Errors
    ///
    /// When there is no catalog on disk, or the run lock is held.
    pub async fn verify(&self) -> Result<Outcome, RunError> {
        self.verify_by(Proof::Digest).await
    }

    /// As [`Agent::verify`], with less proof.
    ///
    /// # Errors
    ///
    /// As [`Agent::verify`].
    pub async fn verify_by(&self, proof: Proof) -> Result<Outcome, RunError> {
        let options =
            RunOptions { noop: true, use_cached_catalog: true, proof, fetch: false, report: false, ..RunOptions::default() };
        self.run(&options).await
    }

    /// Holds a check-in at the server until there is something new, at most `wait`; returns whether there is.
    ///
    /// # Errors
    ///
    /// When the server cannot be asked, or the agent is disabled.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn wait_for_news(&self, wait: Duration) -> Result<bool, RunError> {
        run::wait_for_news(&self.inner, wait).await
    }

    /// Puts back what the last run that changed something replaced.
    ///
    /// # Errors
    ///
    /// When there is nothing to undo, or the run lock is held. Files that could not be put back are in the outcome.
    pub async fn undo(&self, options: undo::UndoOptions) -> Result<undo::UndoOutcome, RunError> {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || undo::undo(&inner.state_dir, &inner.root, options)).await.map_err(RunError::Lost)?
    }

    /// Gathers the facts that a run would send.
    ///
    /// # Errors
    ///
    /// When they cannot be found out.
    ///
    /// # Cancel safety
    ///
    /// Gathering goes on in the background until it is done; it changes nothing.
    pub async fn facts(&self) -> Result<Facts, RunError> {
        self.inner.facts().await
    }

    /// Returns the events of all runs from now on. A listener that falls far behind loses some and is told how many.
    pub fn events(&self) -> impl Stream<Item = RunEvent> + Send + Unpin + 'static {
        self.inner.sink.listen()
    }

    /// Returns the node that this agent is.
    #[must_use]
    pub fn certname(&self) -> &Certname {
        &self.inner.certname
    }

    pub(crate) fn inner(&self) -> &Inner<T> {
        &self.inner
    }

    /// Returns where this agent keeps its state.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.inner.state_dir
    }
}

/// Forbids runs in `state_dir` until [`enable`]; `message` says why. Blocking.
///
/// # Errors
///
/// When the lock cannot be written.
pub fn disable(state_dir: &Path, message: &str) -> Result<(), RunError> {
    crate::fs::ensure_private_dir(state_dir)?;
    Ok(lock::disable(state_dir, message)?)
}

/// Allows runs again; returns whether they were forbidden. Blocking.
///
/// # Errors
///
/// When the lock cannot be removed.
pub fn enable(state_dir: &Path) -> Result<bool, RunError> {
    Ok(lock::enable(state_dir)?)
}

/// Returns why runs are forbidden, if they are. Blocking.
///
/// # Errors
///
/// When the lock cannot be looked at.
pub fn disabled(state_dir: &Path) -> Result<Option<String>, RunError> {
    Ok(lock::disabled(state_dir)?)
}

/// Collects what an [`Agent`] is made from.
#[derive(Debug)]
pub struct AgentBuilder<T> {
    transport: T,
    certname: Option<Certname>,
    environment: Environment,
    root: PathBuf,
    state_dir: Option<PathBuf>,
    providers: Providers,
    #[cfg(feature = "providers")]
    ruby: Option<RubyOptions>,
    system: Arc<dyn System>,
    threads: usize,
    reproof_interval: Duration,
    max_diff_bytes: u64,
    undo_runs: usize,
    settled: bool,
    watch: Option<Duration>,
    strict_types: bool,
    graph: bool,
    compression: Compression,
    processors: Vec<Arc<dyn ReportProcessor>>,
}

impl<T> AgentBuilder<T> {
    /// Sets the transport that reaches the server.
    pub fn transport<U: Transport>(self, transport: U) -> AgentBuilder<U> {
        AgentBuilder {
            transport,
            certname: self.certname,
            environment: self.environment,
            root: self.root,
            state_dir: self.state_dir,
            providers: self.providers,
            #[cfg(feature = "providers")]
            ruby: self.ruby,
            system: self.system,
            threads: self.threads,
            reproof_interval: self.reproof_interval,
            max_diff_bytes: self.max_diff_bytes,
            undo_runs: self.undo_runs,
            settled: self.settled,
            watch: self.watch,
            strict_types: self.strict_types,
            graph: self.graph,
            compression: self.compression,
            processors: self.processors,
        }
    }

    /// Sets the name of the node. Default: the host's name.
    #[must_use]
    pub fn certname(mut self, certname: Certname) -> Self {
        self.certname = Some(certname);
        self
    }

    /// Sets the environment. Default: `production`.
    #[must_use]
    pub fn environment(mut self, environment: Environment) -> Self {
        self.environment = environment;
        self
    }

    /// Sets the directory below which everything is managed. Default: `/`.
    #[must_use]
    pub fn root(mut self, root: impl Into<PathBuf>) -> Self {
        self.root = root.into();
        self
    }

    /// Sets the directory for state. Default: [`DEFAULT_STATE_DIR`] below the root.
    #[must_use]
    pub fn state_dir(mut self, state_dir: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(state_dir.into());
        self
    }

    /// Adds a provider, in place of any other for the same type.
    #[must_use]
    pub fn provider(mut self, provider: impl Provider) -> Self {
        self.providers.insert(provider.resource_type().to_owned(), Arc::new(provider));
        self
    }

    /// Sets what asks web servers for files with `source => http://…` or `https://…`, as
    /// [`HttpSourceClient`](direct_puppet_transport::HttpSourceClient). Default: such files fail.
    #[cfg(feature = "providers")]
    #[must_use]
    pub fn http_source(self, http: impl HttpSource) -> Self {
        self.provider(FileProvider::new().with_http(http))
    }

    /// Hands resources of types that nothing else manages to Ruby, where it is with Puppet's library: see
    /// [`provider::ruby`](crate::provider::ruby). Default: such resources fail.
    #[cfg(feature = "providers")]
    #[must_use]
    pub fn ruby(mut self, options: RubyOptions) -> Self {
        self.ruby = Some(options);
        self
    }

    /// Sets where time, randomness and facts come from. Default: the real machine.
    #[must_use]
    pub fn system(mut self, system: impl System) -> Self {
        self.system = Arc::new(system);
        self
    }

    /// Sets how many threads scan. Default: 0, one per core.
    #[must_use]
    pub const fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Sets how old a file's last proof by digest may become before it is read whatever its metadata says.
    /// Default: 12 hours.
    #[must_use]
    pub const fn reproof_interval(mut self, interval: Duration) -> Self {
        self.reproof_interval = interval;
        self
    }

    /// Sets the longest content, in bytes, of which a diff is made. Default: 256 KiB.
    #[must_use]
    pub const fn max_diff_bytes(mut self, bytes: u64) -> Self {
        self.max_diff_bytes = bytes;
        self
    }

    /// Sets for how many runs that changed something the replaced contents are kept. Default: 10.
    #[must_use]
    pub const fn undo_runs(mut self, runs: usize) -> Self {
        self.undo_runs = runs;
        self
    }

    /// Sets whether a run may end by the settled record: by finding that the metadata of everything is as it was when an earlier
    /// run with the same catalog found nothing to do. Without it every run reads the catalog and asks every provider.
    /// Default: true.
    #[must_use]
    pub const fn settled(mut self, settled: bool) -> Self {
        self.settled = settled;
        self
    }

    /// Sets whether a run that would end by the settled record ([`AgentBuilder::settled`]) may leave out even the look at metadata, where the
    /// kernel notes what is changed (inotify(7)) since an earlier run of this agent looked at everything; and after how long everything is looked at
    /// all the same, for what it does not note: a change through a descriptor that was opened under another name, through a mapping or asynchronous
    /// I/O while the file stays open. For agents that stay between runs; it takes a watch of the kernel for each directory and keeps the record
    /// in memory. Where it cannot be done, as on NFS, runs look at everything, and a warning says why. Default: none.
    #[must_use]
    pub const fn watch(mut self, look_at_everything_after: Option<Duration>) -> Self {
        self.watch = look_at_everything_after;
        self
    }

    /// Sets whether a resource of a type that nothing manages, or with parameters that make no sense, refuses the whole run before anything is
    /// touched. Without it that resource fails, what depends on it is skipped, and the rest is applied. Default: false.
    #[must_use]
    pub const fn strict_types(mut self, strict: bool) -> Self {
        self.strict_types = strict;
        self
    }

    /// Sets whether each run draws its catalog for GraphViz, in `graphs/` of the state directory: what contains what (`resources.dot`), what
    /// comes before what (`relationships.dot`), and that with containers as a beginning and an end (`expanded_relationships.dot`). Every
    /// run then reads the catalog, as without [`AgentBuilder::settled`]. Default: false.
    #[must_use]
    pub const fn graph(mut self, graph: bool) -> Self {
        self.graph = graph;
        self
    }

    /// Sets whether contents travel compressed, and against what the node has. Default: unless the server is on this machine.
    #[must_use]
    pub const fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Adds something that takes the reports of runs, beside the server. Default: none.
    #[must_use]
    pub fn report_processor(mut self, processor: impl ReportProcessor) -> Self {
        self.processors.push(Arc::new(processor));
        self
    }

    fn with_builtin_providers(self) -> Self {
        #[cfg(feature = "providers")]
        let this = crate::provider::builtin().into_iter().fold(self, |mut this, provider| {
            this.providers.insert(provider.resource_type().to_owned(), provider);
            this
        });
        #[cfg(not(feature = "providers"))]
        let this = self;
        this
    }
}

impl<T: Transport> AgentBuilder<T> {
    /// Checks the options and makes the agent; touches nothing and starts nothing.
    ///
    /// # Errors
    ///
    /// When no name was given and the host's name is none that a node can have, or the root is not absolute.
    pub fn build(self) -> Result<Agent<T>, RunError> {
        let certname = match self.certname {
            Some(certname) => certname,
            None => hostname().parse().map_err(|error| RunError::Config {
                reason: format!("the host's name cannot be used, set a certname: {error}"),
            })?,
        };
        if !self.root.is_absolute() {
            let reason = format!("root {} is not absolute: give the whole path", self.root.display());
            return Err(RunError::Config { reason });
        }
        let state_dir = self.state_dir.unwrap_or_else(|| self.root.join(DEFAULT_STATE_DIR));
        Ok(Agent {
            inner: Arc::new(Inner {
                transport: Arc::new(self.transport),
                certname,
                environment: self.environment,
                root: self.root,
                state_dir,
                providers: Arc::new(self.providers),
                #[cfg(feature = "providers")]
                ruby: self.ruby,
                system: self.system,
                threads: self.threads,
                reproof_interval: self.reproof_interval,
                max_diff_bytes: self.max_diff_bytes,
                undo_runs: self.undo_runs,
                settled: self.settled && !self.graph,
                watch: self.watch,
                kept: Mutex::default(),
                strict_types: self.strict_types,
                graph: self.graph,
                compression: self.compression,
                processors: self.processors,
                sink: EventSink::new(),
            }),
        })
    }
}
