//! Servers under load: started, measured from outside, stopped.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long a server may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server's process; stopped with SIGTERM when it is dropped.
#[derive(Debug)]
pub(crate) struct Serving {
    child: Child,
    /// What it said after "listening on", or its whole first line.
    pub(crate) url: String,
}

impl Serving {
    /// Starts a server that tells on standard output where it listens.
    pub(crate) fn start(command: &mut Command) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{command:?} could not be started"))?;
        let mut line = String::new();
        let told = child.stdout.take().map(|stdout| BufReader::new(stdout).read_line(&mut line));
        let serving = Self { child, url: line.trim().trim_start_matches("listening on ").to_owned() };
        if !matches!(told, Some(Ok(1..))) {
            bail!("{command:?} did not say where it listens");
        }
        Ok(serving)
    }

    /// Starts a server that says nothing; waits until `is_ready` finds it there.
    pub(crate) fn start_silent(command: &mut Command, is_ready: impl FnMut() -> bool) -> anyhow::Result<Self> {
        Self::start_slow(command, PATIENCE, is_ready)
    }

    /// As [`Serving::start_silent`], for one that takes so long to start.
    pub(crate) fn start_slow(
        command: &mut Command,
        patience: Duration,
        mut is_ready: impl FnMut() -> bool,
    ) -> anyhow::Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let child = child.with_context(|| format!("{command:?} could not be started"))?;
        let mut serving = Self { child, url: String::new() };
        let begun = Instant::now();
        while !is_ready() {
            if let Some(status) = serving.child.try_wait()? {
                bail!("{command:?} ended at once: {status}");
            }
            if begun.elapsed() > patience {
                bail!("{command:?} does not listen");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(serving)
    }

    /// Starts a program that is neither waited for nor listened to.
    pub(crate) fn started(command: &mut Command) -> anyhow::Result<Self> {
        let child = command.spawn().with_context(|| format!("{command:?} could not be started"))?;
        Ok(Self { child, url: String::new() })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns user and system time so far, in milliseconds, to the kernel's tick.
    pub(crate) fn cpu_ms(&self) -> anyhow::Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        ticks(&stat).map(|ticks| ticks * 1e3 / rustix::param::clock_ticks_per_second() as f64)
    }

    /// As [`Serving::cpu_ms`], with all processes that it has started, and those that these have, ended or not.
    pub(crate) fn tree_cpu_ms(&self) -> anyhow::Result<f64> {
        let mut all = 0.0;
        for pid in tree(self.child.id())? {
            // One that has ended meanwhile is in the account of who waited for it.
            let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
            all += ticks(&stat)? + ticks_of_children(&stat)?;
        }
        Ok(all * 1e3 / rustix::param::clock_ticks_per_second() as f64)
    }

    /// Returns its memory in bytes.
    pub(crate) fn rss_bytes(&self) -> anyhow::Result<f64> {
        rss_bytes(self.child.id())
    }

    /// As [`Serving::rss_bytes`], with all processes below it; what they share counts for each.
    pub(crate) fn tree_rss_bytes(&self) -> anyhow::Result<f64> {
        Ok(tree(self.child.id())?.into_iter().filter_map(|pid| rss_bytes(pid).ok()).sum())
    }
}

fn rss_bytes(pid: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.split_whitespace().nth(1).context("no figure")?.parse()?;
    Ok(kib * 1024.0)
}

/// Returns a process and all below it that are there now.
fn tree(root: u32) -> anyhow::Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // The state comes first behind the name, then the parent.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        parents.extend(parent.map(|parent| (pid, parent)));
    }
    let (mut all, mut at) = (vec![root], 0);
    while let Some(&of) = all.get(at) {
        all.extend(parents.iter().filter(|(_, parent)| *parent == of).map(|(pid, _)| pid));
        at += 1;
    }
    Ok(all)
}

/// Returns user and system ticks of a line of /proc/PID/stat; the name in it may hold anything.
fn ticks(stat: &str) -> anyhow::Result<f64> {
    two_fields(stat, 11)
}

/// Returns the same of the children that it has waited for, with theirs.
fn ticks_of_children(stat: &str) -> anyhow::Result<f64> {
    two_fields(stat, 13)
}

/// Returns the sum of a field, counted from behind the name, and the next.
fn two_fields(stat: &str, first: usize) -> anyhow::Result<f64> {
    let (_, rest) = stat.rsplit_once(')').context("no name in /proc/PID/stat")?;
    let mut fields = rest.split_whitespace().skip(first);
    let mut next = || fields.next().and_then(|field| field.parse::<f64>().ok()).context("no times in /proc/PID/stat");
    Ok(next()? + next()?)
}

/// Returns what all threads of a process have run so far, in milliseconds, to the nanosecond.
pub(crate) fn thread_cpu_ms(pid: u32) -> anyhow::Result<f64> {
    let mut nanoseconds = 0.0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread that has ended meanwhile, as the one that waits for a process, leaves its time to nobody here.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        nanoseconds += text.split(' ').next().context("no figure in schedstat")?.parse::<f64>()?;
    }
    Ok(nanoseconds / 1e6)
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Some stop at the end of their input, the others at the signal; either way they are waited for.
        drop(self.child.stdin.take());
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ended_already = kill_process(pid, Signal::TERM);
        }
        let _status = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 9 9 20 0 1 0 100 1 1";
        assert_eq!((ticks(stat).unwrap(), ticks_of_children(stat).unwrap()), (300.0, 18.0));
        assert!(ticks("7 (x) S 1").is_err());
    }

    #[test]
    fn a_server_is_all_its_processes() {
        let mut command = Command::new("sh");
        command.args(["-c", "sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done'; sleep 5 & echo ready; read x"]);
        let serving = Serving::start(&mut command).unwrap();
        assert!(serving.tree_cpu_ms().unwrap() >= serving.cpu_ms().unwrap() + 50.0, "of children that have ended");
        assert!(tree(serving.id()).unwrap().len() > 1 && serving.tree_rss_bytes().unwrap() > serving.rss_bytes().unwrap());
    }

    #[test]
    fn a_server_that_does_not_start_is_named() {
        let error = Serving::start(&mut Command::new("true")).unwrap_err().to_string();
        assert!(error.contains("\"true\" did not say where it listens"), "{error}");
        let error = Serving::start_silent(&mut Command::new("false"), || false).unwrap_err().to_string();
        assert!(error.contains("\"false\" ended at once: exit status: 1"), "{error}");
        let error = Serving::start(&mut Command::new("/nonexistent/server")).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/server"), "{error}");
    }
}
