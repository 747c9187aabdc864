//! A first apply: contents fetched, verified, written, made durable, each renamed into place.
//!
//! Nothing is removed before the end. ext4 gives no inode out again for up to six minutes after it was freed, and looks at each such inode of
//! the group whenever a file is made (`recently_deleted` in fs/ext4/ialloc.c): after a turn's tree is removed, the next turn pays most of its
//! time for that, whoever it is.

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
    // Each turn begins with an empty root.
    let (mut nodes, mut all, mut each): (Vec<Node>, Vec<TempDir>, Vec<TempDir>) = Default::default();
    let contenders = vec![
        Contender::process("first run", 2, || {
            settle_disk(bench);
            nodes.push(site.node(bench)?);
            Ok(nodes[nodes.len() - 1].command(&["run"]))
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

fn floor(bench: &Bench, floor: &str, packed: &Path, kept: &mut Vec<TempDir>) -> anyhow::Result<Command> {
    settle_disk(bench);
    let root = bench.scratch("floor")?;
    let mut command = bench.own(&["floor", floor])?;
    command.arg(packed).arg(root.path());
    kept.push(root);
    Ok(command)
}

/// What others have written is not to be paid for by whoever comes next.
fn settle_disk(bench: &Bench) {
    // A disk that cannot be synced shows in the figures.
    let _slower = std::fs::File::open(bench.dir()).map(rustix::fs::syncfs);
}
