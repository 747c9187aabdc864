//! `instructions`: counts of executed instructions as a gate; a count is stable where a time is not.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};
use clap::Args;
use direct_puppet_benches::make_tree;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bench::Bench;
use crate::machine::Machine;
use crate::peers::{find, prepare};
use crate::site::{Node, Site, number};

/// Files of the run that is counted.
const FILES: usize = 5000;

/// Nodes that the server of the decision knows.
const NODES: &str = "1000";

/// Decisions of the two counts whose difference is taken.
const DECISIONS: [u64; 2] = [1000, 11_000];

/// How far above the kept figure a count may be, in hundredths of it.
const TOLERANCE_PERCENT: u64 = 5;

/// Arguments of `instructions`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Keep the counts of this run as those to compare with
    #[arg(long)]
    update: bool,
    /// Where the figures are kept
    #[arg(long, value_name = "FILE", default_value = "benches/instructions.json")]
    kept: PathBuf,
    /// Where direct-puppet and direct-puppet-server are
    #[arg(long, value_name = "DIR", default_value = "target/release")]
    programs: PathBuf,
}

/// The figures that are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Counts {
    /// What they were made with; another compiler makes other counts.
    compiler: String,
    processor: String,
    instructions: BTreeMap<String, u64>,
}

pub(crate) fn instructions(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    // Before anything is made: it is of no use without.
    find("valgrind")?;
    let bench = Bench::new(&arguments.programs, FILES, 1, None, true)?;
    let machine = Machine::look(bench.dir());
    let instructions = BTreeMap::from([
        (format!("run with nothing to do, {FILES} files"), no_change(&bench)?),
        (format!("check-in decision, {NODES} nodes"), decision(&bench)?),
    ]);
    let now = Counts { compiler: machine.compiler, processor: machine.processor, instructions };
    if arguments.update {
        let text = serde_json::to_string_pretty(&now)? + "\n";
        fs::write(&arguments.kept, text).with_context(|| format!("{} could not be written", arguments.kept.display()))?;
        now.instructions.iter().for_each(|(name, count)| println!("{name}: {count} instructions, kept"));
        return Ok(ExitCode::SUCCESS);
    }
    let kept = fs::read_to_string(&arguments.kept)
        .with_context(|| format!("{} could not be read: make it with benches/instructions --update", arguments.kept.display()))?;
    let kept: Counts = serde_json::from_str(&kept).with_context(|| format!("{} is damaged", arguments.kept.display()))?;
    let (lines, is_good) = compared(&kept, &now);
    lines.iter().for_each(|line| println!("{line}"));
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns a line for each figure, and whether all are within the tolerance. A figure that is not kept, or no longer counted, is not.
fn compared(kept: &Counts, now: &Counts) -> (Vec<String>, bool) {
    let (mut lines, mut is_good) = (Vec::new(), true);
    for (name, count) in &now.instructions {
        let Some(before) = kept.instructions.get(name) else {
            is_good = false;
            lines.push(format!("{name}: {count} instructions, none are kept: benches/instructions --update"));
            continue;
        };
        let change = *count as f64 / *before as f64 - 1.0;
        let is_within = count.saturating_mul(100) <= before.saturating_mul(100 + TOLERANCE_PERCENT);
        let verdict = if is_within { "good" } else { "TOO MANY" };
        is_good &= is_within;
        lines.push(format!("{name}: {count} instructions, {before} kept, {:+.2} %: {verdict}", change * 100.0));
    }
    for name in kept.instructions.keys().filter(|name| !now.instructions.contains_key(*name)) {
        is_good = false;
        lines.push(format!("{name}: kept, but no longer counted: benches/instructions --update"));
    }
    if kept.compiler != now.compiler {
        lines.push(format!("the figures kept are of {}, this is {}: that alone may change them", kept.compiler, now.compiler));
    }
    (lines, is_good)
}

/// Counts a run with nothing to do.
fn no_change(bench: &Bench) -> anyhow::Result<u64> {
    let site = Site::serve(bench, |tree| Ok(make_tree(tree, FILES).map(drop)?))?;
    let node = site.node(bench)?;
    node.apply()?;
    node.settle()?;
    settle_counted(&node)?;
    let (instructions, said) = count(bench, &node.command(&["run"]))?;
    let outcome: Value = serde_json::from_slice(&said).context("the run that was counted printed no outcome")?;
    // What is counted must be what it is called.
    let (proved, failed) = (number(&outcome, &["scan", "stat_proved"])?, number(&outcome, &["resources", "failed"])?);
    if proved != FILES as f64 || failed != 0.0 {
        bail!("the run that was counted proved {proved} of {FILES} files by stat, and {failed} failed");
    }
    Ok(instructions)
}

/// The first run after one that read files may still write its cache; the one after has nothing left to do.
fn settle_counted(node: &Node) -> anyhow::Result<()> {
    let outcome = node.run(&["run"])?;
    if outcome["scan"]["opened"] != 0 {
        bail!("the run that is counted would open files");
    }
    Ok(())
}

/// Counts a decision: what more of them cost, so that opening the server does not count. It is published before: callgrind does not know
/// all system calls of a publish.
fn decision(bench: &Bench) -> anyhow::Result<u64> {
    let dir = bench.scratch("decide")?;
    let decide = |check_ins: u64| {
        let mut command = bench.own(&["decide", "--nodes", NODES, "--check-ins", &check_ins.to_string(), "--dir"])?;
        command.arg(dir.path()).env("TMPDIR", bench.dir());
        anyhow::Ok(command)
    };
    prepare(&mut decide(1)?)?;
    let few = count(bench, &decide(DECISIONS[0])?)?.0;
    let many = count(bench, &decide(DECISIONS[1])?)?.0;
    Ok(many.saturating_sub(few) / (DECISIONS[1] - DECISIONS[0]))
}

/// Runs a command under callgrind, on one core and without randomised addresses, and returns how many instructions it executed,
/// and what it printed.
fn count(bench: &Bench, command: &Command) -> anyhow::Result<(u64, Vec<u8>)> {
    let out = bench.dir().join("callgrind");
    fs::DirBuilder::new().mode(0o700).recursive(true).create(&out)?;
    let summary = out.join("out");
    let mut counted = Command::new("setarch");
    counted.args(["-R", "taskset", "-c", "0"]).arg(find("valgrind")?);
    counted.args(["--tool=callgrind", "--quiet"]).arg(format!("--callgrind-out-file={}", summary.display()));
    counted.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            counted.env(name, value);
        }
    }
    let said = prepare(&mut counted)?;
    let written = fs::read_to_string(&summary).with_context(|| format!("callgrind wrote no {}", summary.display()))?;
    Ok((total(&written)?, said))
}

/// Returns the sum of a file of callgrind.
fn total(text: &str) -> anyhow::Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("totals: ").or_else(|| line.strip_prefix("summary: ")));
    let count = line.context("callgrind wrote no sum")?.trim().parse::<u64>()?;
    if count == 0 { bail!("callgrind counted nothing") } else { Ok(count) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(of: &[(&str, u64)]) -> Counts {
        let instructions = of.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        Counts { compiler: "rustc 1".to_owned(), processor: "x".to_owned(), instructions }
    }

    #[test]
    fn more_than_five_per_cent_above_fails_and_less_does_not() {
        let kept = counts(&[("run", 1000)]);
        for (count, is_good) in [(900, true), (1000, true), (1050, true), (1051, false), (2000, false)] {
            let (lines, found) = compared(&kept, &counts(&[("run", count)]));
            assert_eq!(found, is_good, "{lines:?}");
            assert!(lines[0].contains(&count.to_string()) && lines[0].contains("1000 kept"), "{lines:?}");
        }
    }

    #[test]
    fn what_is_kept_and_what_is_counted_must_be_the_same_figures() {
        let (lines, is_good) = compared(&counts(&[("run", 1)]), &counts(&[("run", 1), ("decision", 1)]));
        assert!(!is_good && lines.iter().any(|line| line.contains("none are kept")), "{lines:?}");
        let (lines, is_good) = compared(&counts(&[("run", 1), ("decision", 1)]), &counts(&[("run", 1)]));
        assert!(!is_good && lines.iter().any(|line| line.contains("no longer counted")), "{lines:?}");
        let other = Counts { compiler: "rustc 2".to_owned(), ..counts(&[("run", 1)]) };
        let (lines, is_good) = compared(&counts(&[("run", 1)]), &other);
        assert!(is_good && lines.iter().any(|line| line.contains("rustc 2")), "{lines:?}");
    }

    #[test]
    fn a_count_is_read_from_what_callgrind_writes() {
        assert_eq!(total("version: 1\nevents: Ir\nsummary: 123\n\ntotals: 123\n").unwrap(), 123);
        assert!(total("version: 1\n").is_err());
        assert!(total("totals: 0\n").is_err());
    }
}
