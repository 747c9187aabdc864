//! `compare`: measures, prints, and writes what is kept.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use clap::builder::PossibleValuesParser;
use serde::{Deserialize, Serialize};

use crate::bench::Bench;
use crate::machine::Machine;
use crate::paths::{ALL, PLOTS};
use crate::peers;
use crate::table::{Row, markdown, score, table};

/// Where the results are kept, in a clone.
const KEPT: &str = "benches";

/// Where each path's figures are, in that.
const FIGURES: &str = "results";

/// Arguments of `compare`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Only these paths
    #[arg(value_parser = PossibleValuesParser::new(ALL.map(|path| path.name)))]
    paths: Vec<String>,
    /// Write everything that was measured, in JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keep what was measured in benches/results and benches/plots, and write benches/RESULTS.md from all that is kept there
    #[arg(long)]
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

/// Everything that was measured, or one path's part of it.
#[derive(Debug, Serialize, Deserialize)]
struct Results {
    machine: Machine,
    command: String,
    peers: Vec<String>,
    goals: usize,
    met: usize,
    rows: Vec<Row>,
}

pub(crate) fn compare(arguments: &Arguments) -> anyhow::Result<()> {
    let is_quick = arguments.quick != 0;
    let files = arguments.files.unwrap_or(if is_quick { 10_000 } else { 100_000 });
    let runs = arguments.runs.unwrap_or(if is_quick { 3 } else { 5 });
    let kept = Path::new(KEPT);
    if arguments.write && !kept.join("compare").is_file() {
        bail!("--write is for the top of a clone: there is no {KEPT}/compare here");
    }
    let bench = Bench::new(&arguments.programs, files, runs, arguments.largest, is_quick)?;
    let peers = peers::versions();
    let quick = if is_quick { " QUICK=1" } else { "" };
    let results = |paths: &str, rows: Vec<Row>| {
        let (goals, met) = score(&rows);
        let command = format!("FILES={files} RUNS={runs} LARGEST={}{quick} benches/compare{paths} --write", bench.largest);
        Results { machine: Machine::look(bench.dir()), command, peers: peers.clone(), goals, met, rows }
    };
    let mut rows = Vec::new();
    for path in ALL.iter().filter(|path| arguments.paths.is_empty() || arguments.paths.iter().any(|name| name == path.name)) {
        eprintln!("measuring {} …", path.name);
        let measured = path.rows(&bench);
        print!("{}", markdown(&measured));
        if arguments.write {
            fs::create_dir_all(kept.join(FIGURES))?;
            write_json(&figures_of(kept, path.name), &results(&format!(" {}", path.name), measured.clone()))?;
            keep_plots(&bench)?;
        }
        rows.extend(measured);
    }
    let (goals, met) = score(&rows);
    println!("{met} of {goals} goals met");
    if let Some(path) = &arguments.json {
        let paths: String = arguments.paths.iter().map(|path| format!(" {path}")).collect();
        write_json(path, &results(&paths, rows))?;
    }
    if arguments.write {
        fs::write(kept.join("RESULTS.md"), page(&kept_results(kept)?))?;
    }
    Ok(())
}

fn figures_of(kept: &Path, path: &str) -> PathBuf {
    kept.join(FIGURES).join(format!("{path}.json"))
}

fn write_json(path: &Path, results: &Results) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(results)? + "\n";
    fs::write(path, text).with_context(|| format!("{} could not be written", path.display()))
}

/// Returns what is kept of each path, now and from before; `None` of what was never measured.
fn kept_results(kept: &Path) -> anyhow::Result<Vec<(&'static str, Option<Results>)>> {
    let read = |path: &crate::paths::Path| {
        let place = figures_of(kept, path.name);
        let results = match fs::read(&place) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            text => Some(serde_json::from_slice(&text?).with_context(|| format!("{} is not what was kept", place.display()))?),
        };
        Ok((path.heading, results))
    };
    ALL.iter().map(read).collect()
}

/// Returns the page of results.
fn page(kept: &[(&str, Option<Results>)]) -> String {
    let all: Vec<Row> =
        kept.iter().filter_map(|(_, results)| results.as_ref()).flat_map(|results| results.rows.clone()).collect();
    let (goals, met) = score(&all);
    let mut text = format!(
        "# Results\n\nMade by [`benches/compare --write`](README.md), not by hand. {met} of {goals} goals are met. Each part says when and on what \
         it was measured; every turn of it is in [{FIGURES}]({FIGURES}).\n\n"
    );
    for (heading, results) in kept {
        let _ = write!(text, "## {heading}\n\n");
        match results {
            Some(Results { machine, command, rows, .. }) => {
                let _ = write!(text, "{}{}; `{command}`\n\n", table(rows), machine.line());
            }
            None => text.push_str("Not measured.\n\n"),
        }
    }
    text.push_str("## Growth, drawn\n\n");
    for name in ["no-change", "check-in"] {
        let _ = writeln!(text, "![{name}]({PLOTS}/{name}.svg)");
    }
    let mut peers: Vec<&String> =
        kept.iter().filter_map(|(_, results)| results.as_ref()).flat_map(|results| &results.peers).collect();
    peers.sort();
    peers.dedup();
    let peers: String = peers.into_iter().map(|peer| format!("- {peer}\n")).collect();
    text + "\n## Peers\n\n" + &peers
}

fn keep_plots(bench: &Bench) -> anyhow::Result<()> {
    let kept = Path::new(KEPT).join(PLOTS);
    fs::create_dir_all(&kept)?;
    let drawn = bench.dir().join(PLOTS);
    if !drawn.exists() {
        return Ok(());
    }
    for plot in fs::read_dir(drawn).context("no plots were drawn")? {
        let plot = plot?;
        fs::copy(plot.path(), kept.join(plot.file_name()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Goal, Rows, Unit};

    fn kept(rows: Rows) -> Results {
        let (machine, (goals, met)) = (Machine::look(Path::new("/")), score(&rows.rows));
        Results {
            machine,
            command: "benches/compare start-up".to_owned(),
            peers: vec!["git 2".to_owned()],
            goals,
            met,
            rows: rows.rows,
        }
    }

    fn rows() -> Rows {
        let mut rows = Rows::new("Start");
        rows.limit(("size", Ok(10.0)), Unit::Bytes, Goal::AtMost(15.0), "");
        rows.limit(("time", Ok(20.0)), Unit::Milliseconds, Goal::AtMost(15.0), "slow disk");
        rows.limit(("watch", Err("gap: none".to_owned())), Unit::Milliseconds, Goal::AtMost(1.0), "");
        rows
    }

    #[test]
    fn the_page_says_what_it_was_made_by_and_how_much_is_met() {
        let results = kept(rows());
        let kernel = results.machine.kernel.clone();
        let page = page(&[("Start", Some(results)), ("Growth", None)]);
        for part in [
            "`benches/compare start-up`",
            "1 of 3 goals are met",
            &kernel,
            "- git 2",
            "## Start",
            "- time: slow disk.",
            "## Growth\n\nNot measured.",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(FIGURES)).unwrap();
        assert!(kept_results(dir.path()).unwrap().iter().all(|(_, results)| results.is_none()));
        let results = kept(rows());
        write_json(&figures_of(dir.path(), "start-up"), &results).unwrap();
        let read = kept_results(dir.path()).unwrap();
        let (_, Some(again)) = read.iter().find(|(_, results)| results.is_some()).unwrap() else { unreachable!("it was found") };
        assert_eq!(table(&again.rows), table(&results.rows));
        fs::write(figures_of(dir.path(), "growth"), "{").unwrap();
        let error = kept_results(dir.path()).unwrap_err().to_string();
        assert!(error.contains("growth.json"), "{error}");
    }
}
