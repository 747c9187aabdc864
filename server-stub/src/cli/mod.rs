//! The program: one file for each verb; the only place of the server that prints.
#![expect(clippy::print_stderr, reason = "this is the place that prints")]

mod admin;
mod authority;
mod ca;
mod compiler;
mod explain;
mod history;
mod nodes;
mod options;
mod promote;
mod publish;
mod recompile;
mod rollout;
mod serve;
mod versions;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde::Serialize;

/// Publish code, and answer nodes from it.
#[derive(Debug, Parser)]
#[command(name = "direct-puppet-server", version, about, long_about = None, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done, 1 refused or failed, 2 wrong usage.")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    /// Log more; twice for everything
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Answer nodes and administrators until SIGTERM.
    Serve(Box<serve::Arguments>),
    /// Make staged code live.
    Publish(publish::Arguments),
    /// List what was published.
    Versions(versions::Arguments),
    /// Tell which paths differ between two versions.
    Diff(history::DiffArguments),
    /// Make the code of an old version live again, as a new version.
    Rollback(history::RollbackArguments),
    /// Tell who published what is live, or what a node has, when, and from which revision.
    Explain(explain::Arguments),
    /// Write a version out as files.
    Checkout(history::CheckoutArguments),
    /// Read everything that is stored again; exit code 1 when something is damaged.
    Verify(history::VerifyArguments),
    /// Remove versions that nothing refers to any more, and their contents.
    Gc(history::GcArguments),
    /// Make a replica the primary, as a running server.
    Promote(promote::Arguments),
    /// Tell which nodes have which code; set how fast new code reaches them, pause it, resume it.
    Rollout(rollout::Arguments),
    /// Issue, list and revoke certificates.
    #[command(subcommand)]
    Ca(ca::Verb),
    /// List the nodes that have checked in.
    Nodes(nodes::Arguments),
    /// Have the catalogs of a node compiled again at its next check-in.
    Recompile(recompile::Arguments),
}

pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    let level = match cli.verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("DIRECT_PUPPET_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false).without_time().init();
    match dispatch(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::from(1)
        }
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match cli.verb {
            Verb::Serve(arguments) => serve::serve(*arguments).await,
            Verb::Publish(arguments) => publish::publish(arguments).await,
            Verb::Versions(arguments) => versions::versions(arguments).await,
            Verb::Diff(arguments) => history::diff(arguments).await,
            Verb::Rollback(arguments) => history::rollback(arguments).await,
            Verb::Explain(arguments) => explain::explain(arguments).await,
            Verb::Checkout(arguments) => history::checkout(arguments).await,
            Verb::Verify(arguments) => history::verify(arguments).await,
            Verb::Gc(arguments) => history::gc(arguments).await,
            Verb::Promote(arguments) => promote::promote(arguments).await,
            Verb::Rollout(arguments) => rollout::rollout(arguments).await,
            Verb::Nodes(arguments) => nodes::nodes(arguments).await,
            Verb::Ca(verb) => ca::ca(verb).await,
            Verb::Recompile(arguments) => recompile::recompile(arguments).await,
        }
    })
}

/// Prints one JSON value.
fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    write(&serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Prints a line for people. What came from a publish or a node must not steer the terminal, nor look like another line.
fn print_line(text: &str) {
    let printable = |mut out: String, next: char| {
        match next {
            '\t' => out.push(next),
            _ if next.is_control() => out.extend(next.escape_default()),
            _ => out.push(next),
        }
        out
    };
    write(&text.chars().fold(String::with_capacity(text.len()), printable));
}

/// Tells what went wrong with one of several things.
fn complain(text: &str) {
    eprintln!("Error: {}", shown(text));
}

/// Returns a text without what a terminal would obey; quotes stay as they are.
fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '"' | '\'' => shown.push(letter),
            _ => shown.extend(letter.escape_debug()),
        }
    }
    shown
}

/// A reader that went away, as `head` does, is no failure: the exit code still tells how it went.
fn write(text: &str) {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            tracing::warn!(%error, "could not print to standard output");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_shown_as_they_are_and_what_a_terminal_obeys_is_not() {
        assert_eq!(shown("\"ca list\" isn't\u{1b}[2J\n"), r#""ca list" isn't\u{1b}[2J\n"#);
    }
}
