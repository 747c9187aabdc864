//! The rules of the module, each tried in a directory of its own.

mod operations;
mod race;
mod staging;

use std::path::{Path, PathBuf};

use direct_puppet_transport::protocol::{Digest, TreePath};

use super::*;

/// A managed root and a state directory.
struct Ground {
    dir: tempfile::TempDir,
    root: Root,
}

impl Ground {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        std::fs::create_dir(dir.path().join("state")).unwrap();
        let root = Root::open(&dir.path().join("root")).unwrap();
        Self { dir, root }
    }

    /// Where a path below the root lies.
    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path)
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn journal(&self) -> (StageJournal, u64) {
        StageJournal::open(&self.state(), &self.root).unwrap()
    }

    /// Puts one file in place from memory.
    fn put(&self, journal: &StageJournal, path: &str, content: &'static [u8], mode: Option<u32>) -> Result<Written, FsError> {
        let mut stage = Stage::new(&self.root, journal);
        let attributes = Attributes { mode, ..Attributes::default() };
        stage.add(&tree(path), ContentSource::Bytes(content.into()), Digest::of(content), attributes)?;
        stage.commit().pop().unwrap().1
    }
}

fn tree(path: &str) -> TreePath {
    path.parse().unwrap()
}

fn mode_of(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Whether the test can be made as this user; says so plainly if not.
fn is_root(test: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        println!("left out, it needs root: {test}");
    }
    is_root
}

/// Names in a directory, sorted.
fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
