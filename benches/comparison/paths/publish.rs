//! `direct-puppet-server publish`: a staged tree becomes a version.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use direct_puppet_benches::{content, make_site, path};
use tempfile::TempDir;

use crate::bench::{Bench, write_list};
use crate::measure::{Basis, Contender, in_turns};
use crate::peers::{git, git_add_commit, git_commit, peer, prepare};
use crate::table::{Goal, Rows};

/// Files changed before a publish that is not the first.
const CHANGED: usize = 100;

pub(super) fn measure(bench: &Bench, rows: &mut Rows) -> anyhow::Result<()> {
    let dir = bench.scratch("publish")?;
    let staging = dir.path().join("staging");
    make_site(&staging, bench.files)?;
    first(bench, rows, &staging)?;
    again(bench, rows, &staging, dir.path())
}

fn publish(bench: &Bench, data: &Path, staging: &Path) -> Command {
    let mut command = Command::new(&bench.server);
    command.arg("publish").arg("--data").arg(data).arg("--staging").arg(staging);
    command
}

fn first(bench: &Bench, rows: &mut Rows, staging: &Path) -> anyhow::Result<()> {
    let mut kept: [Option<TempDir>; 3] = [const { None }; 3];
    let [ours, gits, ostrees] = &mut kept;
    let contenders = vec![
        Contender::process("first publish", 0, || Ok(publish(bench, fresh(bench, ours)?.as_path(), staging))),
        Contender::process("floor: walk, read, BLAKE3", 0, || {
            let mut command = bench.own(&["floor", "walk"])?;
            command.arg(staging);
            Ok(command)
        }),
        Contender::process("git add -A && git commit", 0, || {
            let repository = fresh(bench, gits)?;
            prepare(&mut git(&repository, staging, &["init", "-q"])?)?;
            git_add_commit(&repository, staging)
        }),
        Contender::process("ostree commit, fsync off", 0, || {
            let repository = fresh(bench, ostrees)?;
            let mut command = peer("ostree")?;
            command.args(["init", "--mode=bare-user", "--repo"]).arg(&repository);
            prepare(&mut command)?;
            let mut command = peer("ostree")?;
            command.args(["commit", "--branch=main", "--disable-fsync", "--repo"]).arg(&repository);
            command.arg(format!("--tree=dir={}", staging.display()));
            Ok(command)
        }),
    ];
    let series = in_turns(bench.few_rounds(), contenders);
    let [ours, walk, git, ostree] = &series[..] else { unreachable!("four contenders") };
    let why = "everything is listed a second time, so that no mixture is published, and small contents are written into one pack; the floor does neither";
    rows.ratio(ours, walk, Basis::Cpu, Goal::AtMost(1.8), why);
    rows.speed(ours, git, Basis::Cpu, Goal::AtLeast(10.0), why);
    rows.speed(ours, ostree, Basis::Cpu, Goal::AtLeast(8.0), why);
    Ok(())
}

/// Returns a path where nothing is yet, below a directory that takes the place of the one before.
fn fresh(bench: &Bench, kept: &mut Option<TempDir>) -> anyhow::Result<PathBuf> {
    drop(kept.take());
    let dir = bench.scratch("fresh")?;
    let path = dir.path().join("new");
    *kept = Some(dir);
    Ok(path)
}

fn again(bench: &Bench, rows: &mut Rows, staging: &Path, dir: &Path) -> anyhow::Result<()> {
    let (data, repository, list) = (dir.join("data"), dir.join("git"), dir.join("list"));
    write_list(staging, &list)?;
    prepare(&mut publish(bench, &data, staging))?;
    let git_ready = git_commit(&repository, staging).map_err(|error| format!("{error:#}"));
    // What is younger than the index that knows it is read once more.
    std::thread::sleep(Duration::from_millis(100));
    prepare(&mut publish(bench, &data, staging))?;
    let status = || {
        git_ready.clone().map_err(anyhow::Error::msg)?;
        git(&repository, staging, &["status", "--porcelain"])
    };
    let contenders = vec![
        Contender::process("publish again, nothing changed", 0, || Ok(publish(bench, &data, staging))),
        Contender::process("floor: fstatat of each file", 0, || {
            let mut command = bench.own(&["floor", "stat"])?;
            command.arg(staging).arg(&list);
            Ok(command)
        }),
        Contender::process("git status", 0, status),
    ];
    let series = in_turns(bench.rounds, contenders);
    let [ours, floor, git] = &series[..] else { unreachable!("three contenders") };
    let why = "half is the walk, as git's; the rest decodes what is live, 100,000 entries, looks up that their contents are there, and compares. Done: paths are \
               compared a word at a time, messages decoded in place, the index of staging has numbers of fixed length; together a tenth less";
    rows.ratio(ours, git, Basis::Cpu, Goal::AtMost(1.15), why);
    rows.ratio(ours, floor, Basis::Cpu, Goal::None, "");

    let mut round = 0;
    let tree = staging.join("environments/production/modules/app/files/tree");
    let contenders = vec![
        Contender::process(format!("publish again, {CHANGED} files changed"), 0, || {
            round += 1;
            change(&tree, bench.files, round)?;
            Ok(publish(bench, &data, staging))
        }),
        Contender::process("git status", 0, status),
    ];
    let series = in_turns(bench.rounds, contenders);
    let [ours, git] = &series[..] else { unreachable!("two contenders") };
    let why = "everything is listed a second time, so that no mixture is published, and the parts of the manifest are encoded and hashed to find those that changed";
    rows.ratio(ours, git, Basis::Cpu, Goal::AtMost(1.15), why);
    Ok(())
}

/// Changes some files, in another way each round.
fn change(tree: &Path, files: usize, round: usize) -> anyhow::Result<()> {
    for number in (0..files).step_by((files / CHANGED).max(1)).take(CHANGED) {
        let mut content = content(number);
        content.extend_from_slice(format!("# round {round}\n").as_bytes());
        fs::write(tree.join(path(number).as_path()), content)?;
    }
    Ok(())
}
