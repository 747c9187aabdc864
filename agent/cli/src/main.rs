//! `direct-puppet`: the standalone agent.
//!
//! The only place of the agent that prints, reads the environment and installs signal handlers.

mod apply;
mod config;
mod connect;
mod console;
mod daemon;
mod disable;
mod facts;
mod log;
mod options;
mod output;
mod plan_file;
mod progress;
mod reporting;
mod resource;
mod run;
mod ssl;
mod status;
mod tree;
mod undo;
mod verify;

use std::mem::ManuallyDrop;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::options::Common;

/// Runs make very many small allocations, on several threads: this takes half of what the C library's takes for them.
#[global_allocator]
static ALLOCATOR: direct_puppet_sys::Allocator = direct_puppet_sys::Allocator;

/// Converge this node with its catalog, asking the server only for what changed.
#[derive(Debug, Parser)]
#[command(name = "direct-puppet", version, about, long_about = None, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 nothing to change, 1 the run did not happen, 2 changes, 4 failures, 6 both.")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Apply a site from a directory: no server to start.
    Apply(apply::Arguments),
    /// Make one run against a server.
    Run(run::Arguments),
    /// Tell what a run would change, with diffs; exit code 2 when something would.
    Plan(run::PlanArguments),
    /// Run again and again, and at once when the server has news.
    Daemon(daemon::Arguments),
    /// Show what the last run did.
    Status(status::Arguments),
    /// Compare this node with its cached catalog, reading every file; changes nothing, asks nobody.
    Verify(verify::Arguments),
    /// Show what this node knows of itself, as Facter does.
    Facts(facts::Arguments),
    /// Show what there is on this node of a type, as Puppet code; changes nothing.
    Resource(resource::Arguments),
    /// Get, show, check, renew or remove this node's certificate.
    #[command(subcommand)]
    Ssl(ssl::Verb),
    /// Put back the files that the last run replaced.
    Undo(undo::Arguments),
    /// Forbid runs until "enable".
    Disable(disable::Arguments),
    /// Allow runs again.
    Enable,
}

/// Reads the command line.
fn parse() -> Result<Cli, clap::Error> {
    // Never taken apart: that would be a fortieth of all that a run with nothing to do does, and the process ends soon.
    let mut command = ManuallyDrop::new(Cli::command());
    let mut matches = command.try_get_matches_from_mut(std::env::args_os())?;
    Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

fn main() -> ExitCode {
    direct_puppet_sys::give_back_freed_memory();
    let cli = match parse() {
        Ok(cli) => cli,
        // Not clap's own 2: that says that something changed.
        Err(error) => return ExitCode::from(u8::from(error.print().is_err() || error.use_stderr())),
    };
    #[expect(clippy::disallowed_methods, reason = "the environment is read here and nowhere else")]
    console::set_colours(std::env::var_os("NO_COLOR").as_deref(), std::env::var_os("TERM").as_deref());
    let is_json = cli.common.json;
    let is_run = matches!(cli.verb, Verb::Apply(_) | Verb::Run(_) | Verb::Plan(_) | Verb::Verify(_));
    let Cli { verb, common } = cli;
    let done = common.merged_with_config().and_then(|common| {
        log::set(common.log_format.unwrap_or_default());
        start_logs(common.verbosity());
        dispatch(verb, &common)
    });
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            if is_run {
                output::run_error(&error, is_json);
            } else {
                output::error(&error, is_json);
            }
            ExitCode::from(1)
        }
    }
}

fn dispatch(verb: Verb, common: &Common) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(async {
        match verb {
            Verb::Apply(arguments) => apply::apply(common, arguments).await,
            Verb::Run(arguments) => run::run(common, arguments).await,
            Verb::Plan(arguments) => run::plan(common, arguments).await,
            Verb::Daemon(arguments) => daemon::daemon(common, arguments).await,
            Verb::Status(arguments) => status::status(common, &arguments),
            Verb::Verify(arguments) => verify::verify(common, &arguments).await,
            Verb::Facts(arguments) => facts::facts(common, &arguments),
            Verb::Resource(arguments) => resource::resource(common, arguments).await,
            Verb::Ssl(verb) => ssl::ssl(common, verb).await,
            Verb::Undo(arguments) => undo::undo(common, arguments).await,
            Verb::Disable(arguments) => disable::disable(common, &arguments),
            Verb::Enable => disable::enable(common),
        }
    });
    // A blocking part that was given up must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    code
}

/// Sends logs to standard error; `DIRECT_PUPPET_LOG` overrules the level, in the syntax of `EnvFilter`.
fn start_logs(default_level: &str) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("DIRECT_PUPPET_LOG").unwrap_or_else(|_| EnvFilter::new(default_level));
    // Of its own errors it would tell on standard error too, and panics when that cannot be written.
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| progress::Stderr).log_internal_errors(false);
    match log::format() {
        log::LogFormat::Text => logs.with_target(false).without_time().with_ansi(console::is_coloured_stderr()).init(),
        _ => logs.event_format(log::Machine).init(),
    }
}
