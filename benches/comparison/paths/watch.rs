//! The resident daemon, told by the kernel what changed: what one of its runs costs the whole process.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::bench::Bench;
use crate::measure::{Basis, Contender, Sample, in_turns};
use crate::paths::no_change::Settled;
use crate::serving::{Serving, thread_cpu_ms};
use crate::site::number;
use crate::table::{Goal, Rows, Unit};

/// Runs of one turn.
const RUNS: u32 = 20;
/// Files that are touched, or changed, between two runs.
const TOUCHED: usize = 1000;
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn measure(bench: &Bench, rows: &mut Rows) -> anyhow::Result<()> {
    let settled = Settled::tree(bench, bench.files)?;
    let daemon = Daemon::start(&settled, bench.dir())?;
    let files = bench.files as f64;
    for _ in 0..10 {
        let outcome = daemon.run()?;
        if number(&outcome, &["scan", "watch_proved"])? == files {
            break;
        }
    }
    let list: Vec<PathBuf> = files_of(&settled.node.root(), TOUCHED)?;
    let contenders = vec![
        Contender::new("run of the daemon, nothing changed", || daemon.runs(RUNS, || Ok(()))),
        Contender::new("the same, 1,000 files opened for writing in between", || daemon.runs(RUNS, || touch(&list))),
        Contender::process("floor: fstatat of each file", 0, || settled.floor(bench, "stat")),
    ];
    let series = in_turns(bench.rounds, contenders);
    let [nothing, touched, stat] = &series[..] else { unreachable!("three contenders") };
    let why = "beside the look at the notes a run locks, checks in, and writes and sends its report: three files, made to last by four calls, which are a \
               fifth of it";
    let figure = |of: fn(&[f64]) -> f64| {
        let each = |series: &crate::measure::Series| -> Result<f64, String> {
            series.samples.clone().map(|_| series.median(|sample| sample.cpu_ms).unwrap_or(f64::NAN))
        };
        Ok::<f64, String>(of(&[each(nothing)?, each(touched)?]))
    };
    rows.limit(("run of the daemon, nothing changed", figure(|both| both[0])), Unit::Milliseconds, Goal::AtMost(1.0), why);
    rows.ratio(nothing, stat, Basis::Cpu, Goal::None, "");
    let for_each = figure(|both| (both[1] - both[0]) / TOUCHED as f64);
    let name = "for each file that was opened for writing and is as it was";
    rows.limit((name, for_each), Unit::Milliseconds, Goal::AtMost(0.005), "");
    let why = "what differs makes a run go the whole way: it reads the catalog and proves every file by stat before it changes one; and a file is put \
         right by one that is written, made durable and renamed, which alone takes more than 100 µs (the floor of the first apply)";
    let changed = daemon.change(&list).map_err(|error| format!("{error:#}"));
    rows.limit(("for each file that was changed and put right", changed), Unit::Milliseconds, Goal::AtMost(0.005), why);
    Ok(())
}

/// A daemon that runs when it is told to.
struct Daemon {
    process: Serving,
    out: PathBuf,
}

impl Daemon {
    fn start(settled: &Settled, dir: &Path) -> anyhow::Result<Self> {
        let out = dir.join("daemon.json");
        let mut command = settled.node.command(&["daemon"]);
        command.args(["--no-wait", "--interval-seconds", "86400", "--full-check-seconds", "86400"]);
        command.stdin(Stdio::null()).stdout(File::create(&out)?);
        let process = Serving::started(&mut command)?;
        let daemon = Self { process, out };
        daemon.wait(0)?;
        Ok(daemon)
    }

    /// Waits for the outcome of the next run after `seen` bytes of others.
    fn wait(&self, seen: u64) -> anyhow::Result<Value> {
        let begun = Instant::now();
        loop {
            let text = fs::read(&self.out)?;
            let new = text.get(usize::try_from(seen)?..).unwrap_or_default();
            if let Some(Ok(outcome)) = serde_json::Deserializer::from_slice(new).into_iter().next() {
                return Ok(outcome);
            }
            if begun.elapsed() > PATIENCE {
                bail!("the daemon ended no run");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn run(&self) -> anyhow::Result<Value> {
        let seen = fs::metadata(&self.out)?.len();
        let pid = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw).context("no process")?;
        kill_process(pid, Signal::USR1)?;
        let outcome = self.wait(seen)?;
        if outcome["status"] == "failed" { bail!("the run failed: {}", outcome["messages"]) } else { Ok(outcome) }
    }

    /// Returns what one of `count` runs cost, each after `before`.
    fn runs(&self, count: u32, before: impl Fn() -> anyhow::Result<()>) -> anyhow::Result<Sample> {
        let (mut cpu_ms, mut wall_ms) = (0.0, 0.0);
        for _ in 0..count {
            before()?;
            let (cpu, begun) = (self.cpu_ms()?, Instant::now());
            let outcome = self.run()?;
            wall_ms += begun.elapsed().as_secs_f64() * 1e3;
            cpu_ms += self.cpu_ms()? - cpu;
            if number(&outcome, &["scan", "watch_proved"])? == 0.0 {
                bail!("a run looked at everything");
            }
        }
        Ok(Sample { cpu_ms: cpu_ms / f64::from(count), wall_ms: wall_ms / f64::from(count), max_rss_bytes: 0 })
    }

    fn cpu_ms(&self) -> anyhow::Result<f64> {
        thread_cpu_ms(self.process.id())
    }

    /// Returns what each of these files costs that has changed since the last run, in milliseconds.
    fn change(&self, list: &[PathBuf]) -> anyhow::Result<f64> {
        for path in list {
            fs::write(path, "changed")?;
        }
        let before = self.cpu_ms()?;
        let outcome = self.run()?;
        if outcome["status"] != "changed" {
            bail!("the run changed nothing");
        }
        Ok((self.cpu_ms()? - before) / list.len() as f64)
    }
}

/// Leaves files as they are; that they could have been written is noted.
fn touch(list: &[PathBuf]) -> anyhow::Result<()> {
    list.iter().try_for_each(|path| Ok(File::options().write(true).open(path).map(drop)?))
}

/// Returns some files below a directory, from all over it.
fn files_of(root: &Path, count: usize) -> anyhow::Result<Vec<PathBuf>> {
    let all: Vec<PathBuf> = walkdir::WalkDir::new(root)
        .into_iter()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_file())
        .map(walkdir::DirEntry::into_path)
        .collect();
    let step = (all.len() / count).max(1);
    let some: Vec<PathBuf> = all.into_iter().step_by(step).take(count).collect();
    if some.len() == count { Ok(some) } else { bail!("fewer than {count} files") }
}
