//! kill -9 of a real program at each of its steps: at every system call that changes what a disk holds or what another program is told.
//!
//! `strace` (Debian: `strace`) kills the program on entry to the nth call of one kind by one thread, for each kind and for n from 1 on until
//! the program ends by itself. So a step is named and is the same on every machine, which a moment in time is not.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, clippy::print_stdout, reason = "for tests")]

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, kill_process};

/// The calls that are steps: those for disks, then those for sockets and pipes.
const CALLS: [&str; 21] = [
    "mkdir",
    "write",
    "pwrite64",
    "writev",
    "copy_file_range",
    "ftruncate",
    "fallocate",
    "fchmod",
    "fsync",
    "fdatasync",
    "syncfs",
    "link",
    "linkat",
    "rename",
    "renameat",
    "renameat2",
    "symlinkat",
    "unlink",
    "unlinkat",
    "rmdir",
    "sendto",
];

/// Where a program is killed.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    at: At,
}

#[derive(Debug, Clone, Copy)]
enum At {
    /// On entry to the nth call of one kind.
    Nth { call: &'static str, nth: usize },
    /// Nowhere: every call is written to the file of that number.
    Nowhere { census: u32 },
}

/// What became of a program that was to be killed at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It was killed there.
    Killed,
    /// It never came there.
    Ended,
}

/// Whether steps can be told here; says what was left out if not.
#[must_use]
pub fn can_tell_steps(what: &str) -> bool {
    let is_there = Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    if !is_there {
        println!("LEFT OUT: {what} needs strace");
    }
    is_there
}

/// Attempts something once without a kill, which tells what calls there are; then once for each step, for each call the first and then every
/// `stride`th; returns the number of kills for each call and prints it. With a stride of 1 each kind of call is tried, also what was not seen.
pub fn at_every_step(what: &str, stride: usize, mut attempt: impl FnMut(Step) -> Fate) -> BTreeMap<&'static str, usize> {
    static CENSUSES: AtomicU32 = AtomicU32::new(0);
    let census = CENSUSES.fetch_add(1, Ordering::Relaxed);
    assert_eq!(attempt(Step { at: At::Nowhere { census } }), Fate::Ended, "{what}: it was killed though nobody did");
    let seen = std::fs::read_to_string(census_path(census)).unwrap();
    std::fs::remove_file(census_path(census)).unwrap();
    let mut kills = BTreeMap::new();
    for call in CALLS {
        if stride > 1 && !seen.contains(&format!(" {call}(")) {
            continue;
        }
        let mut nth = 1;
        while attempt(Step { at: At::Nth { call, nth } }) == Fate::Killed {
            *kills.entry(call).or_default() += 1;
            nth += stride;
        }
    }
    println!("{what}: {} kills: {kills:?}", kills.values().sum::<usize>());
    kills
}

/// Where the calls of an attempt are written down.
fn census_path(census: u32) -> PathBuf {
    std::env::temp_dir().join(format!("direct-puppet-steps-{}-{census}", std::process::id()))
}

impl Step {
    fn options(self) -> Vec<String> {
        match self.at {
            At::Nth { call, nth } => {
                let inject = format!("--inject=?{call}:signal=KILL:when={nth}");
                vec!["-f".into(), "-o/dev/null".into(), format!("--trace=?{call}"), inject]
            }
            At::Nowhere { census } => {
                let output = format!("-o{}", census_path(census).display());
                vec!["-f".into(), output, format!("--trace=?{}", CALLS.join(",?"))]
            }
        }
    }

    /// Returns a command that runs `program` and kills it at this step; it is the parent's own child.
    #[must_use]
    pub fn command(self, program: &Command) -> Command {
        let mut command = Command::new("strace");
        command.args(["-D", "-qq"]).args(self.options()).arg(program.get_program()).args(program.get_args());
        command
    }

    /// Runs `program` and kills it at this step, without output.
    #[must_use]
    pub fn run(self, program: &Command) -> Fate {
        let status = self.command(program).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        if status.code().is_none() { Fate::Killed } else { Fate::Ended }
    }

    /// Waits at this step for a program that runs already: it is killed when it comes there from now on.
    #[must_use]
    pub fn wait_for(self, pid: u32) -> Ambush {
        let mut command = Command::new("strace");
        command.args(self.options()).arg(format!("--attach={pid}"));
        let mut strace = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(strace.stderr.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        assert!(first.contains("attached"), "{first}");
        // It tells of each new thread too.
        std::thread::spawn(move || lines.for_each(drop));
        Ambush { strace }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            At::Nth { call, nth } => write!(f, "{call} number {nth}"),
            At::Nowhere { .. } => f.write_str("no step"),
        }
    }
}

/// A step at which a running program will be killed; given up when dropped.
#[derive(Debug)]
pub struct Ambush {
    strace: Child,
}

impl Drop for Ambush {
    fn drop(&mut self) {
        if let Ok(None) = self.strace.try_wait() {
            let _ = kill_process(Pid::from_child(&self.strace), Signal::TERM);
        }
        drop(self.strace.wait());
    }
}
