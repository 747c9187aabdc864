//! A first apply: contents fetched, verified, written, made durable, each renamed into place.

use std::path::Path;
use std::process::Command;

use direct_puppet_benches::make_tree;
use tempfile::TempDir;

use crate::bench::Bench;
use crate::floors::pack;
use crate::measure::{Basis, Contender, in_turns};
use crate::site::{Node, Site};
use crate::table::{Goal, Rows};

pub(super) fn measure(bench: &Bench, rows: &mut Rows) -> anyhow::Result<()> {
    let site = Site::serve(bench, |tree| Ok(make_tree(tree, bench.few).map(drop)?))?;
    let dir = bench.scratch("apply")?;
    let packed = dir.path().join("packed");
    pack(&site.tree(), &packed)?;
    // Each turn begins with an empty root; the one before is removed outside of the time that is measured.
    let (mut node, mut all, mut each): (Option<Node>, Option<TempDir>, Option<TempDir>) = (None, None, None);
    let contenders = vec![
        Contender::process("first run", 2, || {
            drop(node.take());
            settle_disk(bench);
            let fresh = site.node(bench)?;
            let command = fresh.command(&["run"]);
            node = Some(fresh);
            Ok(command)
        }),
        Contender::process("floor: write all, syncfs, rename all", 0, || floor(bench, "write-all", &packed, &mut all)),
        Contender::process("fsync of each", 0, || floor(bench, "fsync-each", &packed, &mut each)),
    ];
    let series = in_turns(bench.rounds, contenders);
    let [ours, floor, fsync] = &series[..] else { unreachable!("three contenders") };
    let why = "four fifths are in the kernel: each content is created and renamed in the store, then beside its target, then into place, three renames where the floor makes one";
    rows.ratio(ours, floor, Basis::Cpu, Goal::AtMost(1.15), why);
    rows.ratio(ours, fsync, Basis::Wall, Goal::AtMost(0.2), why);
    Ok(())
}

fn floor(bench: &Bench, floor: &str, packed: &Path, kept: &mut Option<TempDir>) -> anyhow::Result<Command> {
    drop(kept.take());
    settle_disk(bench);
    let root = bench.scratch("floor")?;
    let mut command = bench.own(&["floor", floor])?;
    command.arg(packed).arg(root.path());
    *kept = Some(root);
    Ok(command)
}

/// What others have written is not to be paid for by whoever comes next.
fn settle_disk(bench: &Bench) {
    // A disk that cannot be synced shows in the figures.
    let _slower = std::fs::File::open(bench.dir()).map(rustix::fs::syncfs);
}
