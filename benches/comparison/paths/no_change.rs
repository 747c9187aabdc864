//! `direct-puppet run` with nothing to do: the whole process, catalog and state on disk, the server asked.

use std::path::{Path, PathBuf};
use std::process::Command;

use direct_puppet_benches::make_tree;
use tempfile::TempDir;

use crate::bench::{Bench, write_list};
use crate::measure::{Basis, Contender, in_turns};
use crate::peers::{copy, git, git_commit, peer, prepare};
use crate::site::{Node, Site};
use crate::table::{Goal, Rows, Unit};

const MEBIBYTE: f64 = 1024.0 * 1024.0;

/// A node whose catalog is applied, and what others need to look at the same tree.
pub(super) struct Settled {
    _site: Site,
    pub(super) node: Node,
    pub(super) list: PathBuf,
    pub(super) repository: PathBuf,
    pub(super) copy: PathBuf,
    _dir: TempDir,
}

impl Settled {
    /// Applies a tree that `fill` makes.
    pub(super) fn new(bench: &Bench, fill: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<Self> {
        let site = Site::serve(bench, fill)?;
        let node = site.node(bench)?;
        node.apply()?;
        node.settle()?;
        let dir = bench.scratch("settled")?;
        let list = dir.path().join("list");
        write_list(&node.root(), &list)?;
        Ok(Self { _site: site, node, list, repository: dir.path().join("git"), copy: dir.path().join("copy"), _dir: dir })
    }

    /// Stops the server and begins to remove what is on the disk, which is not waited for.
    pub(super) fn remove_meanwhile(self) {
        let Self { _site: Site { serving, dir, .. }, node, _dir: own, .. } = self;
        drop(serving);
        std::thread::spawn(move || drop((dir, node, own)));
    }

    /// As [`Settled::new`], with the tree of the other benches.
    pub(super) fn tree(bench: &Bench, files: usize) -> anyhow::Result<Self> {
        Self::new(bench, |tree| Ok(make_tree(tree, files).map(drop)?))
    }

    /// Makes git's repository; what it lacks shows in the rows.
    pub(super) fn prepare_git(&self) -> anyhow::Result<()> {
        git_commit(&self.repository, &self.node.root())?;
        self.git_status().and_then(|mut status| prepare(&mut status).map(drop))
    }

    pub(super) fn git_status(&self) -> anyhow::Result<Command> {
        git(&self.repository, &self.node.root(), &["status", "--porcelain"])
    }

    pub(super) fn floor(&self, bench: &Bench, floor: &str) -> anyhow::Result<Command> {
        let mut command = bench.own(&["floor", floor])?;
        command.arg(self.node.root()).arg(&self.list);
        Ok(command)
    }

    pub(super) fn rsync(&self, how: &str) -> anyhow::Result<Command> {
        let mut command = peer("rsync")?;
        command.arg(how).arg(self.node.root().join("")).arg(self.copy.join(""));
        Ok(command)
    }
}

pub(super) fn measure(bench: &Bench, rows: &mut Rows) -> anyhow::Result<()> {
    let settled = Settled::tree(bench, bench.files)?;
    let git = settled.prepare_git().map_err(|error| format!("{error:#}"));
    copy(&settled.node.root(), &settled.copy)?;
    let contenders = vec![
        Contender::process("run", 0, || Ok(settled.node.command(&["run"]))),
        Contender::process("floor: fstatat of each file", 0, || settled.floor(bench, "stat")),
        Contender::process("git status", 0, || {
            git.clone().map_err(anyhow::Error::msg)?;
            settled.git_status()
        }),
        Contender::process("rsync -an", 0, || settled.rsync("-an")),
    ];
    let series = in_turns(bench.rounds, contenders);
    let [ours, stat, git, rsync] = &series[..] else { unreachable!("four contenders") };
    let why = "what is more than the floor is the start, and reading the record of what was settled";
    let beside_rsync = "the floor alone, one fstatat for each file, is more than a quarter of what rsync takes";
    rows.ratio(ours, stat, Basis::Cpu, Goal::AtMost(1.25), why);
    rows.ratio(ours, git, Basis::Cpu, Goal::AtMost(0.65), why);
    rows.ratio(ours, rsync, Basis::Cpu, Goal::AtMost(0.25), beside_rsync);
    let memory = ours.samples.clone().map(|_| ours.median(|sample| sample.max_rss_bytes as f64).unwrap_or(f64::NAN));
    let name = format!("peak memory at {} files", bench.files);
    rows.limit(
        (&name, memory),
        Unit::Bytes,
        Goal::AtMost(60.0 * MEBIBYTE),
        "catalog and stat cache are decoded into memory whole, and each file becomes a resource",
    );
    Ok(())
}
