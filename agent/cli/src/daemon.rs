//! `daemon`: runs again and again, and at once when the server has news.

use std::time::Duration;

use clap::Args;
use direct_puppet_agent::Agent;
use direct_puppet_transport::Transport;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::options::Common;
use crate::run::{RunArguments, once, print};
use crate::ssl::{self, Enrolment};
use crate::{connect, output};

/// How long to leave a server alone that could not be asked, or whose news could not be applied; twice as long after each
/// further failure, up to the interval of runs.
const QUIET_AFTER_FAILURE: Duration = Duration::from_secs(30);

/// Arguments of `daemon`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    run: RunArguments,
    #[command(flatten)]
    enrolment: Enrolment,
    /// Seconds from one run to the next
    #[arg(long, value_name = "SECONDS", default_value_t = 1800, alias = "runinterval", value_parser = clap::value_parser!(u64).range(1..))]
    interval_seconds: u64,
    /// Longest random delay before the first run, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    splay_seconds: u64,
    /// Do not hold a check-in at the server between runs
    #[arg(long)]
    no_wait: bool,
    /// Look at all metadata in every run, also where the kernel noted that nothing was changed
    #[arg(long)]
    no_watch: bool,
    /// Seconds after which a run looks at all metadata whatever the kernel noted; less than the usual interval, so that such runs always do
    #[arg(long, value_name = "SECONDS", default_value_t = 1500, value_parser = clap::value_parser!(u64).range(1..))]
    full_check_seconds: u64,
}

impl Arguments {
    /// Makes an agent that stays.
    fn agent<T: Transport>(&self, placed: &Common, server: T) -> anyhow::Result<Agent<T>> {
        let look_at_everything_after = (!self.no_watch).then(|| Duration::from_secs(self.full_check_seconds));
        placed.complete(placed.builder()?.watch(look_at_everything_after).transport(server))
    }
}

/// What ended a pause.
enum Wake {
    Run,
    Stop,
}

pub(crate) async fn daemon(common: &Common, arguments: Arguments) -> anyhow::Result<u8> {
    let common = &ssl::ready(common, &arguments.enrolment).await?;
    let asking = arguments.run.asking();
    let mut signals = Signals::new()?;
    let Some(connected) = signals.unless_stopped(connect::server(common, asking)).await else { return Ok(0) };
    let (server, placed) = connected?;
    let mut agent = arguments.agent(&placed, server)?;
    let mut environment = placed.environment;
    let splay = Duration::from_secs(arguments.splay_seconds).mul_f64(random_fraction());
    let interval = Duration::from_secs(arguments.interval_seconds);
    let mut next = Instant::now() + splay;
    let mut failures = 0;
    loop {
        let quiet = Instant::now() + quiet_after(failures, interval);
        if matches!(pause(&agent, &arguments, quiet, next, &mut signals).await, Wake::Stop) {
            return Ok(0);
        }
        next = Instant::now() + interval;
        let is_fresh = ssl::keep_fresh(common).await;
        // A Puppet Server may want this node in another environment than last time.
        if is_fresh || connect::is_puppet(common) {
            let Some(connected) = signals.unless_stopped(connect::server(common, asking)).await else { return Ok(0) };
            match connected {
                Ok((server, placed)) if is_fresh || placed.environment != environment => {
                    agent = arguments.agent(&placed, server)?;
                    environment = placed.environment;
                }
                Ok(_) => {}
                Err(error) => {
                    failures += 1;
                    output::run_error(&error, common.json);
                    continue;
                }
            }
        }
        match once(&agent, &arguments.run.options(common.json), true).await {
            Ok(outcome) => {
                failures = 0;
                print(&outcome, common.json)?;
            }
            Err(error) => {
                failures += 1;
                output::run_error(&error, common.json);
            }
        }
        if signals.stopped() {
            return Ok(0);
        }
    }
}

/// How long news are not listened to: what could not be applied a moment ago is still news.
fn quiet_after(failures: u32, interval: Duration) -> Duration {
    match failures {
        0 => Duration::ZERO,
        _ => QUIET_AFTER_FAILURE.saturating_mul(1 << (failures - 1).min(16)).min(interval),
    }
}

/// Waits for the next run: its time, news that come after `quiet`, or SIGUSR1.
async fn pause<T: Transport>(
    agent: &Agent<T>,
    arguments: &Arguments,
    quiet: Instant,
    until: Instant,
    signals: &mut Signals,
) -> Wake {
    loop {
        let news = async {
            if arguments.no_wait {
                return std::future::pending().await;
            }
            tokio::time::sleep_until(quiet).await;
            match agent.wait_for_news(until.saturating_duration_since(Instant::now())).await {
                Ok(is_new) => is_new,
                Err(error) => {
                    tracing::debug!(%error, "server could not be asked for news");
                    tokio::time::sleep(QUIET_AFTER_FAILURE).await;
                    false
                }
            }
        };
        tokio::select! {
            () = tokio::time::sleep_until(until) => return Wake::Run,
            _ = signals.run.recv() => return Wake::Run,
            _ = signals.hangup.recv() => return Wake::Run,
            _ = signals.terminate.recv() => return Wake::Stop,
            _ = signals.interrupt.recv() => return Wake::Stop,
            is_new = news => if is_new { return Wake::Run },
        }
    }
}

/// As Puppet's agent: USR1 runs now, INT and TERM stop. HUP runs now too; there is nothing to load again.
struct Signals {
    run: Signal,
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            run: signal(SignalKind::user_defined1())?,
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Awaits something that nothing is lost by giving up; `None` once a signal to stop came.
    async fn unless_stopped<T>(&mut self, awaited: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            _ = self.terminate.recv() => None,
            _ = self.interrupt.recv() => None,
            result = awaited => Some(result),
        }
    }

    /// Whether a signal to stop came during the run.
    fn stopped(&mut self) -> bool {
        use futures::FutureExt as _;
        self.terminate.recv().now_or_never().is_some() || self.interrupt.recv().now_or_never().is_some()
    }
}

/// A number from 0 to 1 that differs from node to node: the spread of a fleet needs no secret.
fn random_fraction() -> f64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    let hash = std::collections::hash_map::RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(hash >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_make_it_quieter_up_to_the_interval() {
        let interval = Duration::from_secs(100);
        let quiet: Vec<u64> = [0, 1, 2, 3, 100].iter().map(|&failures| quiet_after(failures, interval).as_secs()).collect();
        assert_eq!(quiet, [0, 30, 60, 100, 100]);
    }

    #[tokio::test]
    async fn a_signal_to_stop_ends_what_is_awaited() {
        let mut signals = Signals::new().unwrap();
        assert_eq!(signals.unless_stopped(async { 7 }).await, Some(7));
        let kill = format!("kill -TERM {}", std::process::id());
        assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        assert_eq!(signals.unless_stopped(std::future::pending::<()>()).await, None);
    }
}
