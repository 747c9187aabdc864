//! `compare`: measures, prints, and writes what is kept.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use clap::builder::PossibleValuesParser;
use serde::Serialize;

use crate::bench::Bench;
use crate::machine::Machine;
use crate::paths::{ALL, PLOTS};
use crate::peers;
use crate::table::{Row, markdown, score};

/// Where the results are kept, in a clone.
const KEPT: &str = "benches";

/// Arguments of `compare`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Only these paths
    #[arg(value_parser = PossibleValuesParser::new(ALL.map(|path| path.name)))]
    paths: Vec<String>,
    /// Write everything that was measured, in JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write benches/RESULTS.md and benches/plots
    #[arg(long, conflicts_with = "paths")]
    write: bool,
    /// Where direct-puppet and direct-puppet-server are
    #[arg(long, value_name = "DIR", default_value = "target/release")]
    programs: PathBuf,
    /// Files of the large trees [default: 100000, or 10000 with QUICK]
    #[arg(long, env = "FILES")]
    files: Option<usize>,
    /// Turns of each contender [default: 5, or 3 with QUICK]
    #[arg(long, env = "RUNS")]
    runs: Option<usize>,
    /// Files, and nodes, up to which growth is measured [default: 1000000, or 100000 with QUICK]
    #[arg(long, env = "LARGEST")]
    largest: Option<usize>,
    /// Small and short, for a look
    #[arg(long, env = "QUICK", num_args = 0..=1, default_value = "0", default_missing_value = "1")]
    quick: u8,
}

/// Everything that was measured.
#[derive(Serialize)]
struct Results<'a> {
    machine: &'a Machine,
    command: &'a str,
    peers: &'a [String],
    goals: usize,
    met: usize,
    rows: &'a [Row],
}

pub(crate) fn compare(arguments: &Arguments) -> anyhow::Result<()> {
    let is_quick = arguments.quick != 0;
    let files = arguments.files.unwrap_or(if is_quick { 10_000 } else { 100_000 });
    let runs = arguments.runs.unwrap_or(if is_quick { 3 } else { 5 });
    if arguments.write && !Path::new(KEPT).join("compare").is_file() {
        bail!("--write is for the top of a clone: there is no {KEPT}/compare here");
    }
    let bench = Bench::new(&arguments.programs, files, runs, arguments.largest, is_quick)?;
    let (machine, peers) = (Machine::look(bench.dir()), peers::versions());
    let mut rows = Vec::new();
    for path in ALL.iter().filter(|path| arguments.paths.is_empty() || arguments.paths.iter().any(|name| name == path.name)) {
        eprintln!("measuring {} …", path.name);
        let measured = path.rows(&bench);
        print!("{}", markdown(&measured));
        rows.extend(measured);
    }
    let (goals, met) = score(&rows);
    println!("{met} of {goals} goals met");
    let quick = if is_quick { " QUICK=1" } else { "" };
    let command = format!("FILES={files} RUNS={runs} LARGEST={}{quick} benches/compare --write", bench.largest);
    if let Some(path) = &arguments.json {
        let results = Results { machine: &machine, command: &command, peers: &peers, goals, met, rows: &rows };
        let text = serde_json::to_string_pretty(&results)?;
        fs::write(path, text).with_context(|| format!("{} could not be written", path.display()))?;
    }
    if arguments.write {
        fs::write(Path::new(KEPT).join("RESULTS.md"), page(&machine, &command, &peers, &rows))?;
        keep_plots(&bench)?;
    }
    Ok(())
}

/// Returns the page of results.
fn page(machine: &Machine, command: &str, peers: &[String], rows: &[Row]) -> String {
    let (goals, met) = score(rows);
    let plot = |name: &str| format!("![{name}]({PLOTS}/{name}.svg)\n");
    format!(
        "# Results\n\nMade by `{command}` ([how to read it](README.md)), not by hand. {met} of {goals} goals are met.\n\n\
         - {}\n- Peers: {}\n\n{}{}\n{}",
        machine.line(),
        peers.join("; "),
        markdown(rows),
        plot("no-change"),
        plot("check-in")
    )
}

fn keep_plots(bench: &Bench) -> anyhow::Result<()> {
    let kept = Path::new(KEPT).join(PLOTS);
    fs::create_dir_all(&kept)?;
    for plot in fs::read_dir(bench.dir().join(PLOTS)).context("no plots were drawn")? {
        let plot = plot?;
        fs::copy(plot.path(), kept.join(plot.file_name()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Goal, Rows, Unit};

    #[test]
    fn the_page_says_what_it_was_made_by_and_how_much_is_met() {
        let mut rows = Rows::new("Start");
        rows.limit(("size", Ok(10.0)), Unit::Bytes, Goal::AtMost(15.0), "");
        rows.limit(("time", Ok(20.0)), Unit::Milliseconds, Goal::AtMost(15.0), "slow disk");
        let machine = Machine::look(Path::new("/"));
        let page = page(&machine, "benches/compare", &["git 2".to_owned()], &rows.rows);
        for part in ["`benches/compare`", "1 of 2 goals are met", &machine.kernel, "git 2", "## Start", "- time: slow disk."] {
            assert!(page.contains(part), "{part}: {page}");
        }
    }
}
