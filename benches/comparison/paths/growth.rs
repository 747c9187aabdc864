//! How cost grows, from a thousand files to a million and from one node to a million; drawn as plots.

use std::fs;
use std::path::Path;

use anyhow::Context as _;

use crate::bench::Bench;
use crate::measure::{Contender, Rounds, in_turns};
use crate::paths::check_in::decision_ms;
use crate::paths::no_change::Settled;
use crate::plot::{Line, Plot};
use crate::table::{Goal, Rows, Unit};

/// Where plots are put; `--write` takes them to `benches/plots`.
pub(crate) const PLOTS: &str = "plots";

pub(super) fn measure(bench: &Bench, rows: &mut Rows) -> anyhow::Result<()> {
    fs::create_dir_all(bench.dir().join(PLOTS))?;
    nodes(bench, rows)?;
    files(bench, rows)
}

fn files(bench: &Bench, rows: &mut Rows) -> anyhow::Result<()> {
    let mut lines = ["run, nothing changed", "floor: fstatat"].map(|name| Line { name: name.to_owned(), points: Vec::new() });
    for files in [1000, 10_000, 100_000, 1_000_000].into_iter().filter(|files| *files <= bench.largest) {
        let name = format!("run, nothing changed, {files} files");
        let points = settled_ms(bench, files);
        let ours = points.as_ref().map(|points| points[0]).map_err(|error| format!("{error:#}"));
        rows.limit((&name, ours), Unit::Milliseconds, Goal::None, "");
        for (line, value) in lines.iter_mut().zip(points.unwrap_or_default()) {
            line.points.push((files as f64, value));
        }
    }
    let plot = Plot { title: "Run with nothing to do: CPU by number of files", x: "files", y: "ms" };
    draw(bench, "no-change", &plot, &lines)
}

/// Returns the CPU of a run with nothing to do and of its floor.
fn settled_ms(bench: &Bench, files: usize) -> anyhow::Result<[f64; 2]> {
    // Small files: nothing reads them, and a million of them must fit on the disk three times.
    let fill = |tree: &Path| {
        for number in 0..files {
            let path = tree.join(direct_puppet_benches::path(number).as_path());
            if number < 1024 {
                fs::create_dir_all(path.parent().context("a path has a parent")?)?;
            }
            fs::write(path, format!("file {number}\n"))?;
        }
        Ok(())
    };
    let settled = Settled::new(bench, fill)?;
    let contenders = vec![
        Contender::process("run", 0, || Ok(settled.node.command(&["run"]))),
        Contender::process("floor", 0, || settled.floor(bench, "stat")),
    ];
    let series = in_turns(Rounds { warm_up: true, ..bench.few_rounds() }, contenders);
    let figure = |of: usize| {
        series[of].samples.clone().map_err(anyhow::Error::msg)?;
        series[of].median(|sample| sample.cpu_ms).context("no turn")
    };
    let figures = [figure(0)?, figure(1)?];
    if files == bench.largest {
        // Nothing is measured after it, and three million files take long to remove: what is left goes with the directory of the bench.
        settled.remove_meanwhile();
    }
    Ok(figures)
}

fn nodes(bench: &Bench, rows: &mut Rows) -> anyhow::Result<()> {
    let mut line = Line { name: "decision".to_owned(), points: Vec::new() };
    for nodes in (0..=6).map(|decade| 10_usize.pow(decade)).filter(|nodes| *nodes <= bench.largest) {
        let cost = decision_ms(bench, nodes).map_err(|error| format!("{error:#}"));
        let name = format!("check-in decision, {nodes} nodes known");
        rows.limit((&name, cost.clone()), Unit::Milliseconds, Goal::None, "");
        line.points.extend(cost.ok().map(|cost| (nodes as f64, cost * 1e3)));
    }
    let plot = Plot { title: "Check-in decision: CPU by number of known nodes", x: "nodes", y: "µs" };
    draw(bench, "check-in", &plot, &[line])
}

fn draw(bench: &Bench, name: &str, plot: &Plot<'_>, lines: &[Line]) -> anyhow::Result<()> {
    match plot.draw(lines) {
        Some(svg) => Ok(fs::write(bench.dir().join(PLOTS).join(format!("{name}.svg")), svg)?),
        None => Ok(()),
    }
}
