//! The files that facts are read from, below a root: the machine's own, or one that a test wrote.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Longest file that is read; the files of `/proc` and `/sys` that matter are far shorter (`/proc/cpuinfo` of 512 processors: 0.8 MB).
const MAX_FILE_BYTES: usize = 4 << 20;

/// What lies below a root.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    root: PathBuf,
}

impl Tree {
    pub(super) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Returns the text of a regular file; nothing when it cannot be read. Never waits for the writer of a pipe.
    pub(super) fn read(&self, path: &str) -> Option<String> {
        Some(String::from_utf8_lossy(&self.read_bytes(path)?).into_owned())
    }

    /// As [`Tree::read`], not as text.
    pub(super) fn read_bytes(&self, path: &str) -> Option<Vec<u8>> {
        read_regular(&self.path(path), MAX_FILE_BYTES).ok()
    }

    /// Returns the text of a file without the blanks around it, if there is any.
    pub(super) fn line(&self, path: &str) -> Option<String> {
        let text = self.read(path)?;
        let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// Returns the number that a file holds.
    pub(super) fn number(&self, path: &str) -> Option<i64> {
        self.line(path)?.parse().ok()
    }

    /// Returns the names in a directory, sorted; none when it cannot be listed.
    pub(super) fn list(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    }

    /// Returns whether something is there.
    pub(super) fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// Returns the last part of where a symbolic link leads.
    pub(super) fn link_name(&self, path: &str) -> Option<String> {
        Some(fs::read_link(self.path(path)).ok()?.file_name()?.to_str()?.to_owned())
    }
}

/// Reads a file that must be regular and not longer than `limit` bytes.
pub(super) fn read_regular(path: &Path, limit: usize) -> std::io::Result<Vec<u8>> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(std::io::Error::other(format!("it is longer than {limit} bytes")));
    }
    Ok(bytes)
}
