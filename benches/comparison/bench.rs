//! What all paths share: sizes, rounds, the programs under test, a place for trees.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use tempfile::TempDir;

use crate::measure::Rounds;

/// The node that everything is done as.
pub(crate) const NODE: &str = "node1.example.com";

/// One comparison.
#[derive(Debug)]
pub(crate) struct Bench {
    /// Files of a large tree.
    pub(crate) files: usize,
    /// Files of a small one.
    pub(crate) few: usize,
    /// Files, and nodes, up to which growth is measured.
    pub(crate) largest: usize,
    pub(crate) rounds: Rounds,
    /// For a look only.
    pub(crate) is_quick: bool,
    /// `direct-puppet`.
    pub(crate) agent: PathBuf,
    /// `direct-puppet-server`.
    pub(crate) server: PathBuf,
    dir: TempDir,
}

impl Bench {
    /// Looks for the programs in a directory.
    pub(crate) fn new(
        programs: &Path,
        files: usize,
        runs: usize,
        largest: Option<usize>,
        is_quick: bool,
    ) -> anyhow::Result<Self> {
        let program = |name: &str| {
            let path = std::path::absolute(programs.join(name))?;
            if !path.is_file() {
                bail!("there is no {}: build it with cargo build --release", path.display());
            }
            Ok(path)
        };
        if runs == 0 || files < 100 {
            bail!("RUNS={runs} FILES={files}: at least 1 run over 100 files is needed");
        }
        Ok(Self {
            files,
            few: files.min(10_000),
            largest: largest.unwrap_or(if is_quick { 100_000 } else { 1_000_000 }),
            rounds: Rounds { count: runs, warm_up: true },
            is_quick,
            agent: program("direct-puppet")?,
            server: program("direct-puppet-server")?,
            dir: tempfile::Builder::new().prefix("compare").tempdir().context("no directory for trees")?,
        })
    }

    /// Returns the rounds of peers that take minutes: no more than three (for a look one), and no warm-up.
    pub(crate) fn few_rounds(&self) -> Rounds {
        Rounds { count: self.rounds.count.min(if self.is_quick { 1 } else { 3 }), warm_up: false }
    }

    /// Makes a directory that is removed when it is dropped.
    pub(crate) fn scratch(&self, name: &str) -> anyhow::Result<TempDir> {
        tempfile::Builder::new().prefix(name).tempdir_in(self.dir.path()).context("no directory for trees")
    }

    /// Where the trees are.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Returns a command of this program itself: floors are whole processes as well.
    pub(crate) fn own(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(std::env::current_exe().context("this program's own path")?);
        command.args(arguments);
        Ok(command)
    }
}

/// Fails where this process may not do what only root may.
pub(crate) fn need_root() -> anyhow::Result<()> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { bail!("needs root: run benches/compare as root") }
}

/// Empties the page cache.
pub(crate) fn drop_caches() -> anyhow::Result<()> {
    need_root()?;
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("the page cache could not be emptied")
}

/// Writes the paths below `root`, relative and separated by NUL, those of a directory together; what floors and peers read them from.
pub(crate) fn write_list(root: &Path, list: &Path) -> anyhow::Result<u64> {
    let mut paths = Vec::new();
    for entry in walkdir::WalkDir::new(root).sort_by_file_name() {
        let entry = entry?;
        if entry.file_type().is_file() {
            let path = entry.path().strip_prefix(root)?;
            paths.push((path.parent().map(Path::to_owned), path.to_owned()));
        }
    }
    paths.sort();
    let mut text = Vec::new();
    for (_, path) in &paths {
        text.extend_from_slice(path.as_os_str().as_encoded_bytes());
        text.push(0);
    }
    std::fs::write(list, text)?;
    Ok(paths.len() as u64)
}

/// Returns the size of a program without symbols.
pub(crate) fn stripped_size(program: &Path, scratch: &Path) -> anyhow::Result<u64> {
    let stripped = scratch.join("stripped");
    let status = Command::new("strip").arg("-s").arg("-o").arg(&stripped).arg(program).status();
    if !status.context("strip is not installed: apt-get install binutils")?.success() {
        bail!("strip failed on {}", program.display());
    }
    Ok(std::fs::metadata(stripped)?.size())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_each_file_once_and_those_of_a_directory_together() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["a/z", "a/b/c", "a/y", "d"] {
            let path = dir.path().join("tree").join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        let list = dir.path().join("list");
        assert_eq!(write_list(&dir.path().join("tree"), &list).unwrap(), 4);
        assert_eq!(std::fs::read_to_string(list).unwrap(), "d\0a/y\0a/z\0a/b/c\0");
    }

    #[test]
    fn programs_that_are_not_there_are_named() {
        let error = Bench::new(Path::new("/nonexistent"), 1000, 1, None, true).unwrap_err().to_string();
        assert_eq!(error, "there is no /nonexistent/direct-puppet: build it with cargo build --release");
    }
}
