//! Sites made for tests.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A staging directory with one environment whose site manages `/srv/tree` from `modules/app/files/tree`.
#[derive(Debug)]
pub struct Site {
    dir: PathBuf,
}

impl Site {
    /// Makes the directory and its `site.yaml`.
    ///
    /// # Panics
    ///
    /// When the disk does not take it.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        let site = Self { dir: dir.to_owned() };
        fs::create_dir_all(site.tree()).expect("a site can be made");
        site.manifest(
            "nodes:\n  - match: \"*\"\n    classes: [base]\nclasses:\n  base:\n    - file: /srv\n      ensure: directory\n    \
             - file: /srv/tree\n      source: puppet:///modules/app/tree\n      recurse: true\n      purge: true\n      force: true\n",
        );
        site
    }

    /// Replaces `site.yaml`.
    ///
    /// # Panics
    ///
    /// When the disk does not take it.
    pub fn manifest(&self, text: &str) {
        fs::write(self.environment().join("site.yaml"), text).expect("a site can be written");
    }

    /// Returns the staging directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the directory of the environment `production`.
    #[must_use]
    pub fn environment(&self) -> PathBuf {
        self.dir.join("environments/production")
    }

    /// Returns the directory that nodes get as `/srv/tree`.
    #[must_use]
    pub fn tree(&self) -> PathBuf {
        self.environment().join("modules/app/files/tree")
    }

    /// Writes `files` files, each with its number and `version` in many lines, so that a mixture would show.
    ///
    /// # Panics
    ///
    /// When the disk does not take it.
    pub fn fill(&self, files: usize, version: &str) {
        for number in 0..files {
            let path = self.tree().join(format!("d{:02}/file{number:05}", number % 16));
            fs::create_dir_all(path.parent().expect("it has one")).expect("a site can be made");
            fs::write(path, body(number, version)).expect("a site can be written");
        }
    }
}

/// Returns what [`Site::fill`] writes.
#[must_use]
pub fn body(number: usize, version: &str) -> String {
    format!("{version} {number}\n").repeat(1 + number % 400)
}

/// Returns every file below `dir` with its content, by relative path.
///
/// # Panics
///
/// When a file cannot be read.
#[must_use]
pub fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten() {
            let path = entry.expect("a directory can be listed").path();
            if path.is_dir() && !path.is_symlink() {
                open.push(path);
            } else if path.is_file() {
                let relative = path.strip_prefix(dir).expect("it lies below").to_owned();
                found.insert(relative, fs::read(&path).expect("a file can be read"));
            }
        }
    }
    found
}
