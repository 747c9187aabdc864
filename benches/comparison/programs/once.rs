//! Runs one command and prints what it cost.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::Context as _;
use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

use crate::measure::{Report, Sample};

pub(crate) fn once(command: &[OsString]) -> anyhow::Result<()> {
    let (program, arguments) = command.split_first().context("no command")?;
    let began = Instant::now();
    let status = Command::new(program).args(arguments).stdout(Stdio::null()).status();
    let wall_ms = began.elapsed().as_secs_f64() * 1e3;
    let status = status.with_context(|| format!("{} could not be started", program.display()))?;
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let max_rss_bytes = u64::try_from(usage.max_rss()).unwrap_or(0) * 1024;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    let report = Report { code, sample: Sample { cpu_ms: cpu_ms(&usage), wall_ms, max_rss_bytes } };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// Returns user and system time.
pub(crate) fn cpu_ms(usage: &Usage) -> f64 {
    (usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e3
}

/// Returns what this process has cost so far.
pub(crate) fn own_cpu_ms() -> anyhow::Result<f64> {
    Ok(cpu_ms(&getrusage(UsageWho::RUSAGE_SELF)?))
}
