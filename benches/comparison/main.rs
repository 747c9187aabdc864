//! `benches/compare` and `benches/instructions`: ours beside its floors and beside what others use, in one run on one machine.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is the place that prints")]

mod authority;
mod bench;
mod floors;
mod instructions;
mod line;
mod machine;
mod measure;
mod paths;
mod peers;
mod plot;
mod programs;
mod puppet_server;
mod requests;
mod results;
mod serving;
mod site;
mod table;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::floors::Floor;
use crate::programs::{check_ins, decide, delay_line, fetch, once};

/// Compare Direct Puppet with its floors and with what others use.
#[derive(Debug, Parser)]
#[command(name = "comparison", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print the goals table: the paths that are named, or all.
    Compare(results::Arguments),
    /// Count instructions, and fail where there are more than there were.
    Instructions(instructions::Arguments),
    /// Run a command and print what it cost.
    #[command(hide = true)]
    Once {
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Do the least that a path needs.
    #[command(hide = true, subcommand)]
    Floor(Floor),
    /// Serve contents over a framed stream.
    #[command(hide = true)]
    ServeFramed { address: String, packed: PathBuf },
    /// Fetch contents as the agent does.
    #[command(hide = true)]
    Fetch { url: String, digests: PathBuf },
    /// Fetch all contents of a catalog packed, as the agent does from another machine.
    #[command(hide = true)]
    FetchPacked { url: String, catalog: PathBuf },
    /// Check in again and again.
    #[command(hide = true)]
    CheckIns(check_ins::Arguments),
    /// Decide check-ins in this process.
    #[command(hide = true)]
    Decide {
        #[arg(long)]
        nodes: usize,
        #[arg(long)]
        check_ins: usize,
        /// Where the server keeps everything; what is there already is used
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Join two network namespaces.
    #[command(hide = true)]
    DelayLine {
        near: String,
        far: String,
        #[arg(long)]
        one_way_ms: u64,
    },
    /// Measure the round trip to an address.
    #[command(hide = true)]
    RoundTrip { address: String },
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Compare(arguments) => results::compare(&arguments)?,
        Verb::Instructions(arguments) => return instructions::instructions(&arguments),
        Verb::Once { command } => once::once(&command)?,
        Verb::Floor(floor) => floors::floor(floor)?,
        Verb::ServeFramed { address, packed } => floors::serve_framed(&packed, &address)?,
        Verb::Fetch { url, digests } => fetch::fetch(&url, &digests)?,
        Verb::FetchPacked { url, catalog } => fetch::fetch_packed(&url, &catalog)?,
        Verb::CheckIns(arguments) => check_ins::check_ins(&arguments)?,
        Verb::Decide { nodes, check_ins, dir } => {
            let own = tempfile::tempdir()?;
            println!("{}", decide::decide(dir.as_deref().unwrap_or(own.path()), nodes, check_ins)?);
        }
        Verb::DelayLine { near, far, one_way_ms } => delay_line::join(&[near, far], Duration::from_millis(one_way_ms))?,
        Verb::RoundTrip { address } => delay_line::round_trip(&address)?,
    }
    Ok(ExitCode::SUCCESS)
}
