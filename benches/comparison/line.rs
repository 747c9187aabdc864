//! Two network namespaces joined by a delay line.

use std::path::Path;
use std::process::Command;

use crate::bench::{Bench, need_root};
use crate::peers::{peer, prepare};
use crate::programs::delay_line::ADDRESSES;
use crate::serving::Serving;

/// Half a round trip, in milliseconds.
const ONE_WAY_MS: &str = "10";

/// The far end's address.
pub(crate) const FAR: &str = ADDRESSES[1];

/// Two hosts, near and far; removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Line {
    names: [String; 2],
    joined: Option<Serving>,
}

impl Line {
    /// Makes both namespaces and the line.
    pub(crate) fn new(bench: &Bench) -> anyhow::Result<Self> {
        need_root()?;
        let name = |end: &str| format!("compare{}{end}", std::process::id());
        let mut line = Self { names: [name("n"), name("f")], joined: None };
        for name in &line.names {
            prepare(peer("ip")?.args(["netns", "add", name]))?;
            prepare(peer("ip")?.args(["-n", name, "link", "set", "lo", "up"]))?;
        }
        let mut join = bench.own(&["delay-line", &line.names[0], &line.names[1], "--one-way-ms", ONE_WAY_MS])?;
        line.joined = Some(Serving::start(&mut join)?);
        Ok(line)
    }

    /// Returns a command that runs a program at the near end.
    pub(crate) fn near(&self, program: &Path) -> anyhow::Result<Command> {
        self.at(0, program)
    }

    /// Returns a command that runs a program at the far end.
    pub(crate) fn far(&self, program: &Path) -> anyhow::Result<Command> {
        self.at(1, program)
    }

    fn at(&self, end: usize, program: &Path) -> anyhow::Result<Command> {
        let mut command = peer("ip")?;
        command.args(["netns", "exec", &self.names[end]]).arg(program);
        Ok(command)
    }

    /// Measures a round trip to something that listens at the far end.
    pub(crate) fn round_trip_ms(&self, address: &str) -> anyhow::Result<f64> {
        let said = prepare(self.near(&std::env::current_exe()?)?.args(["round-trip", address]))?;
        Ok(String::from_utf8_lossy(&said).trim().parse()?)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        drop(self.joined.take());
        for name in &self.names {
            // One that was never made cannot be removed.
            let _not_there = peer("ip").and_then(|mut ip| prepare(ip.args(["netns", "del", name])));
        }
    }
}
