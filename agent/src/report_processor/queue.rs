//! Bodies that wait for a processor that was away.

use std::path::{Path, PathBuf};

use crate::fs::{FsError, ensure_private_dir, write_state};

/// How many bodies wait for one processor at most; older ones go first.
pub const MAX_KEPT: usize = 32;

/// Where they wait: `processors/NAME/TIME-RUN` below the state directory.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    dir: PathBuf,
}

impl Queue {
    pub(super) fn of(state_dir: &Path, processor: &str) -> Self {
        let name: String = processor.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
        Self { dir: state_dir.join("processors").join(name) }
    }

    /// Returns those that wait, oldest first. What an interrupted write left is none of them. Blocking.
    pub(super) fn waiting(&self) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return Vec::new() };
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.retain(|path| path.extension().is_none());
        paths.sort();
        paths
    }

    /// Keeps a body; drops the oldest when there are too many. Blocking.
    pub(super) fn keep(&self, name: &str, body: &[u8]) -> Result<(), FsError> {
        if let Some(above) = self.dir.parent() {
            ensure_private_dir(above)?;
        }
        ensure_private_dir(&self.dir)?;
        write_state(&self.dir.join(name), body, 0o600)?;
        let waiting = self.waiting();
        waiting[..waiting.len().saturating_sub(MAX_KEPT)].iter().for_each(|path| self.forget(path));
        Ok(())
    }

    /// Removes a body. Blocking.
    pub(super) fn forget(&self, path: &Path) {
        if let Err(error) = std::fs::remove_file(path) {
            tracing::warn!(path = %path.display(), %error, "a report that was sent could not be removed and will be sent again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first_and_there_is_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        let queue = Queue::of(dir.path(), "../x");
        assert!(queue.dir.starts_with(dir.path().join("processors")) && queue.waiting().is_empty());
        for number in 0..MAX_KEPT + 3 {
            queue.keep(&format!("{number:05}-a"), b"x").unwrap();
        }
        let waiting = queue.waiting();
        assert_eq!((waiting.len(), waiting[0].file_name().unwrap().to_str()), (MAX_KEPT, Some("00003-a")));
    }
}
