//! `run` and `plan`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use direct_puppet_agent::tree::Proof;
use direct_puppet_agent::{Agent, GivenCatalog, Outcome, RunOptions};
use direct_puppet_transport::Transport;
use direct_puppet_transport::protocol::VersionCounter;
use tokio_util::sync::CancellationToken;

use crate::connect::Asking;
use crate::options::Common;
use crate::plan_file::{Plan, Source};
use crate::progress::Progress;
use crate::ssl::{self, Enrolment};
use crate::{connect, output};

/// Options of a run.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct RunArguments {
    /// Change nothing, tell what would be changed
    #[arg(long)]
    pub(crate) noop: bool,
    /// Only resources with one of these tags
    #[arg(long, value_delimiter = ',', value_name = "TAG")]
    pub(crate) tags: Vec<String>,
    /// No resource with one of these tags
    #[arg(long, value_delimiter = ',', value_name = "TAG", alias = "skip_tags")]
    pub(crate) skip_tags: Vec<String>,
    /// Show diffs of text that changes
    #[arg(long, alias = "show_diff")]
    pub(crate) show_diff: bool,
    /// As Puppet's --test: show diffs, and fail rather than use the cached catalog
    #[arg(long, short)]
    pub(crate) test: bool,
    /// Do not ask the server: apply the cached catalog
    #[arg(long, alias = "use_cached_catalog")]
    pub(crate) use_cached_catalog: bool,
    /// Fail when the server cannot be asked, instead of applying the cached catalog
    #[arg(long, alias = "no-usecacheonfailure")]
    pub(crate) no_cache_on_failure: bool,
    /// Accept, this once, code older than what this node has accepted
    #[arg(long)]
    pub(crate) accept_older: bool,
    /// Accept no code older than this version, as 1.7: what a publish has just made
    #[arg(long, value_name = "VERSION", conflicts_with = "accept_older")]
    pub(crate) at_least: Option<VersionCounter>,
    /// Read every file and trust nothing that was remembered
    #[arg(long)]
    pub(crate) verify_all: bool,
    /// Give the run up after so many seconds, 0 for never; its commands are killed
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub(crate) runtimeout: u64,
    /// Fail a resource whose check, change or refresh takes so many seconds, 0 for never
    #[arg(long, value_name = "SECONDS", default_value_t = 0, alias = "resource_timeout")]
    pub(crate) resource_timeout: u64,
}

impl RunArguments {
    /// Returns the options of a run whose lines are printed, unless JSON is.
    pub(crate) fn options(&self, is_json: bool) -> RunOptions {
        RunOptions {
            noop: self.noop,
            tags: self.tags.clone(),
            skip_tags: self.skip_tags.clone(),
            show_diff: self.show_diff || self.test,
            use_cached_catalog: self.use_cached_catalog,
            use_cache_on_failure: !(self.no_cache_on_failure || self.test),
            accept_older: self.accept_older,
            at_least: self.at_least,
            proof: if self.verify_all { Proof::Digest } else { Proof::Stat },
            time_limit: seconds(self.runtimeout),
            resource_time_limit: seconds(self.resource_timeout),
            lines: output::listener(is_json),
            ..RunOptions::default()
        }
    }
}

impl RunArguments {
    pub(crate) fn asking(&self) -> Asking {
        if self.use_cached_catalog { Asking::Nobody } else { Asking::Now }
    }
}

/// Returns a limit; 0 is none.
fn seconds(count: u64) -> Option<Duration> {
    (count > 0).then(|| Duration::from_secs(count))
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    run: RunArguments,
    #[command(flatten)]
    enrolment: Enrolment,
}

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanArguments {
    /// A site directory, as for "apply"; without it the server is asked
    site: Option<PathBuf>,
    /// Plan this catalog of Puppet's, in JSON, as "apply --catalog" applies it
    #[arg(long, value_name = "FILE", conflicts_with = "site")]
    catalog: Option<PathBuf>,
    /// Write the plan to this file, for "apply FILE" to apply exactly it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Only resources with one of these tags
    #[arg(long, value_delimiter = ',', value_name = "TAG")]
    tags: Vec<String>,
}

pub(crate) async fn run(common: &Common, arguments: Arguments) -> anyhow::Result<u8> {
    let common = &ssl::ready(common, &arguments.enrolment).await?;
    let (server, common) = connect::server(common, arguments.run.asking()).await?;
    let outcome = once(&common.agent(server)?, &arguments.run.options(common.json), common.json).await?;
    print(&outcome, common.json)
}

pub(crate) async fn plan(common: &Common, arguments: PlanArguments) -> anyhow::Result<u8> {
    let run = RunArguments { noop: true, show_diff: true, tags: arguments.tags.clone(), ..RunArguments::default() };
    // The last run stays the one that did something.
    let options = RunOptions { report: false, lines: output::plan_listener(common.json), ..run.options(common.json) };
    let source = match (&arguments.site, &arguments.catalog) {
        (Some(site), _) => Source::Site(std::path::absolute(site)?),
        (None, Some(file)) if arguments.out.is_some() && file.as_os_str() == "-" => {
            bail!("a plan of a catalog from standard input cannot be applied later: write the catalog to a file")
        }
        (None, Some(file)) if file.as_os_str() == "-" => Source::Catalog(file.clone()),
        (None, Some(file)) => Source::Catalog(std::path::absolute(file)?),
        (None, None) => Source::Server(common.server.clone()),
    };
    let outcome = source.run(common, options).await?;
    if let Some(out) = &arguments.out {
        Plan::of(common, source, arguments.tags, &outcome)?.write(out)?;
    }
    if !common.json {
        output::plan(&outcome);
        return Ok(outcome.exit_code());
    }
    print(&outcome, common.json)
}

/// Makes one run that SIGINT and SIGTERM end after the resource in work.
pub(crate) async fn once<T: Transport>(agent: &Agent<T>, options: &RunOptions, is_json: bool) -> anyhow::Result<Outcome> {
    once_with(agent, None, options, is_json).await
}

/// As [`once`], with a catalog that is given.
pub(crate) async fn once_with<T: Transport>(
    agent: &Agent<T>,
    given: Option<GivenCatalog>,
    options: &RunOptions,
    is_json: bool,
) -> anyhow::Result<Outcome> {
    let cancel = CancellationToken::new();
    let _progress = Progress::start(agent, is_json);
    let signals = tokio::spawn({
        let cancel = cancel.clone();
        async move {
            if terminated().await.is_ok() {
                cancel.cancel();
            }
        }
    });
    let outcome = match given {
        Some(given) => agent.apply(given, options, cancel).await,
        None => agent.run_until(options, cancel).await,
    };
    signals.abort();
    Ok(outcome?)
}

/// Waits for SIGINT or SIGTERM.
pub(crate) async fn terminated() -> std::io::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}

/// Prints an outcome and returns its exit code.
pub(crate) fn print(outcome: &Outcome, is_json: bool) -> anyhow::Result<u8> {
    if is_json {
        output::json(outcome)?;
    } else {
        output::outcome(outcome);
    }
    Ok(outcome.exit_code())
}
