//! What goes over the wire, in bytes both ways, when little changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use direct_puppet_benches::{Random, SEED, content, make_tree, path};

use crate::bench::Bench;
use crate::peers::{copy, peer, prepare};
use crate::site::{Node, Site, number};
use crate::table::{Goal, Rows, Unit};

/// Longest edit of a small file, in bytes.
const EDIT_BYTES: usize = 40;

/// Edits of the large file, and the longest of them, in bytes.
const EDITS: usize = 64;
const LARGE_EDIT_BYTES: usize = 200;

/// Edits each of the first `files` files of a tree: at most 40 bytes of it.
pub(super) fn edit_tree(tree: &Path, files: usize) -> anyhow::Result<()> {
    for number in 0..files {
        let mut content = content(number);
        edit(&mut content, number);
        fs::write(tree.join(path(number).as_path()), content)?;
    }
    Ok(())
}

fn edit(content: &mut Vec<u8>, number: usize) {
    let mut random = Random::new(SEED.wrapping_add(number as u64));
    let text = format!("# edited {:016x} {number}\n", random.next());
    let at = usize::try_from(random.next() % (content.len() as u64 + 1)).unwrap_or(0);
    content.splice(at..at, text.bytes().take(EDIT_BYTES));
}

pub(super) fn measure(bench: &Bench, rows: &mut Rows) -> anyhow::Result<()> {
    small(bench, rows)?;
    large(bench, rows)
}

fn small(bench: &Bench, rows: &mut Rows) -> anyhow::Result<()> {
    let change = Change::new(bench, |tree| Ok(make_tree(tree, bench.few).map(drop)?), |tree| edit_tree(tree, bench.few))?;
    let ours = (format!("run, {} files with up to {EDIT_BYTES} bytes edited in each", bench.few), change.updated());
    let why = "two thirds are the new digest of each file, which nothing compresses; the rest of the catalog is next to nothing, the contents a twentieth";
    let rsync = change.rsync(&["-z"]);
    rows.figures((&ours.0, ours.1.clone()), ("rsync -z", rsync), Unit::Bytes, Goal::AtMost(0.15), why);
    rows.figures((&ours.0, ours.1), ("floor: zstd -3 --patch-from", change.patch()), Unit::Bytes, Goal::None, "");
    Ok(())
}

fn large(bench: &Bench, rows: &mut Rows) -> anyhow::Result<()> {
    let mebibytes = if bench.is_quick { 32 } else { 256 };
    let (old, new) = large_file(mebibytes << 20);
    let (write_old, write_new) =
        (|tree: &Path| Ok(fs::write(tree.join("large"), &old)?), |tree: &Path| Ok(fs::write(tree.join("large"), &new)?));
    let change = Change::new(bench, write_old, write_new)?;
    let what = format!("{mebibytes} MiB with {EDITS} small edits");
    let ours = (format!("run, {what}, base known"), change.updated());
    rows.figures((&ours.0, ours.1.clone()), ("rsync", change.rsync(&[])), Unit::Bytes, Goal::AtMost(0.1), "");
    rows.figures((&ours.0, ours.1), ("floor: zstd -3 --patch-from", change.patch()), Unit::Bytes, Goal::None, "");
    let ours = (format!("run, {what}, base unknown"), change.found());
    let why = "a third is how the content is cut, a third how it is cut around the edits, a third what is there";
    rows.figures((&ours.0, ours.1), ("rsync --zc=zstd", change.rsync(&["-z", "--zc=zstd"])), Unit::Bytes, Goal::AtMost(0.6), why);
    Ok(())
}

/// Returns a file that is half text and half noise, as an archive of programs, and the same with its edits.
fn large_file(bytes: usize) -> (Vec<u8>, Vec<u8>) {
    let mut random = Random::new(SEED);
    let mut old = Vec::with_capacity(bytes + (1 << 20));
    let mut number = 0;
    while old.len() < bytes {
        let start = old.len();
        while old.len() < start + (32 << 10) {
            old.extend_from_slice(&content(number));
            number += 1;
        }
        (0..4096).for_each(|_| old.extend_from_slice(&random.next().to_le_bytes()));
    }
    let part = old.len() / EDITS;
    let (mut new, mut copied) = (Vec::with_capacity(old.len()), 0);
    for number in 0..EDITS {
        let at = number * part + usize::try_from(random.next()).unwrap_or(0) % (part / 2);
        new.extend_from_slice(&old[copied..at]);
        let text = content(number);
        let inserted = &text[..text.len().min(LARGE_EDIT_BYTES)];
        // In turns something is put in, left out, or replaced.
        copied = at + [0, 150, LARGE_EDIT_BYTES][number % 3];
        if number % 3 != 1 {
            new.extend_from_slice(inserted);
        }
    }
    new.extend_from_slice(&old[copied..]);
    (old, new)
}

/// A tree before and after, with a node that has the old one and one that has found it there.
struct Change {
    site: Site,
    known: Node,
    found: Node,
    old: PathBuf,
    dir: tempfile::TempDir,
}

impl Change {
    fn new(
        bench: &Bench,
        before: impl FnOnce(&Path) -> anyhow::Result<()>,
        after: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let site = Site::serve(bench, before)?;
        let (known, found) = (site.node(bench)?, site.node(bench)?);
        known.apply()?;
        let dir = bench.scratch("change")?;
        let old = dir.path().join("old");
        copy(&site.tree(), &old)?;
        copy(&old, &found.root().join("tree"))?;
        after(&site.tree())?;
        site.publish()?;
        Ok(Self { site, known, found, old, dir })
    }

    /// Bytes of the run that brings the change to the node whose old catalog the server knows.
    fn updated(&self) -> Result<f64, String> {
        wire_bytes(&self.known).map_err(|error| format!("{error:#}"))
    }

    /// The same for a node that never asked before.
    fn found(&self) -> Result<f64, String> {
        wire_bytes(&self.found).map_err(|error| format!("{error:#}"))
    }

    /// Bytes that rsync's two sides exchange.
    fn rsync(&self, options: &[&str]) -> Result<f64, String> {
        let sent = || -> anyhow::Result<f64> {
            let copied = self.dir.path().join("copied");
            let _not_there = fs::remove_dir_all(&copied);
            copy(&self.old, &copied)?;
            let mut command = peer("rsync")?;
            command.args(["-a", "--no-whole-file", "--stats"]).args(options);
            let said = prepare(command.arg(self.site.tree().join("")).arg(copied.join("")))?;
            rsync_bytes(&String::from_utf8_lossy(&said))
        };
        sent().map_err(|error| format!("{error:#}"))
    }

    /// Bytes of the new tree against the old one, as one piece each.
    fn patch(&self) -> Result<f64, String> {
        let patched = || -> anyhow::Result<f64> {
            let [old, new, patch] = ["old.cat", "new.cat", "patch"].map(|name| self.dir.path().join(name));
            concatenate(&self.old, &old)?;
            concatenate(&self.site.tree(), &new)?;
            let mut command: Command = peer("zstd")?;
            command.args(["-q", "-f", "-3", "--long=28", "-o"]).arg(&patch);
            prepare(command.arg("--patch-from").arg(&old).arg(&new))?;
            Ok(fs::metadata(patch)?.len() as f64)
        };
        patched().map_err(|error| format!("{error:#}"))
    }
}

/// Returns the bytes both ways of a run up to its report, which the others have none of: as the report itself counts them.
fn wire_bytes(node: &Node) -> anyhow::Result<f64> {
    // A server on the same machine is taken for one that bytes to cost nothing.
    let outcome = node.run(&["run", "--compression", "always"])?;
    anyhow::ensure!(number(&outcome, &["resources", "changed"])? > 0.0, "the run changed nothing");
    let report: serde_json::Value = serde_json::from_slice(&fs::read(node.state().join("last_run_report.json"))?)?;
    let values = report["metrics"]["wire"]["values"].as_array().context("the report has no metric wire")?;
    let value = |name: &str| values.iter().find(|value| value[0] == name)?[2].as_f64();
    value("bytes_sent").zip(value("bytes_received")).map(|(sent, received)| sent + received).context("the report has no bytes")
}

fn concatenate(tree: &Path, to: &Path) -> anyhow::Result<()> {
    let mut all = Vec::new();
    for entry in walkdir::WalkDir::new(tree).sort_by_file_name() {
        let entry = entry?;
        if entry.file_type().is_file() {
            all.append(&mut fs::read(entry.path())?);
        }
    }
    Ok(fs::write(to, all)?)
}

/// Returns the sum of both directions from what `rsync --stats` prints.
fn rsync_bytes(said: &str) -> anyhow::Result<f64> {
    let total = |of: &str| -> anyhow::Result<f64> {
        let line = said.lines().find_map(|line| line.strip_prefix(of)).with_context(|| format!("rsync did not say \"{of}\""))?;
        Ok(line.trim().replace(',', "").parse()?)
    };
    Ok(total("Total bytes sent:")? + total("Total bytes received:")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_of_a_small_file_is_small() {
        for number in [0, 1, 2, 3, 500] {
            let (old, mut new) = (content(number), content(number));
            edit(&mut new, number);
            assert!(new.len() > old.len() && new.len() <= old.len() + EDIT_BYTES, "{number}");
            let same = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
            assert_eq!(old[same..], new[new.len() - (old.len() - same)..], "{number}");
        }
    }

    #[test]
    fn the_large_file_has_its_edits_and_no_more() {
        let (old, new) = large_file(4 << 20);
        assert!(old.len() >= 4 << 20);
        assert!(old != new && old.len().abs_diff(new.len()) < EDITS * LARGE_EDIT_BYTES);
        // The last part is copied as it is.
        let kept = old.len() / EDITS / 4;
        assert_eq!(old[old.len() - kept..], new[new.len() - kept..]);
    }

    #[test]
    fn both_directions_of_rsync_count() {
        let said = "Number of files: 3\nTotal bytes sent: 1,234\nTotal bytes received: 66\n\nsent 1,234 bytes\n";
        assert_eq!(rsync_bytes(said).unwrap(), 1300.0);
        assert!(rsync_bytes("").is_err());
    }
}
