//! Bodies that wait for a processor that was away.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use super::ReportId;
use crate::fs::{FsError, ensure_private_dir, write_state};

/// How many bodies wait for one processor at most; older ones go first.
pub const MAX_KEPT: usize = 32;

/// How often a body is sent in vain at most, not counting attempts at a processor that takes nothing at all; then it is dropped.
pub const MAX_ATTEMPTS: u32 = 32;

/// Where they wait: `processors/NAME/TIME-RUN` below the state directory, with `+N` when they were sent N times in vain.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    dir: PathBuf,
}

/// A body that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) path: PathBuf,
    pub(super) id: ReportId,
    /// How often it was sent in vain.
    pub(super) attempts: u32,
}

impl Waiting {
    /// Takes a name apart; `None` if no body has such a name.
    fn of(path: PathBuf) -> Option<Self> {
        let name = path.file_name().and_then(OsStr::to_str)?;
        // A time before 1970 begins with a sign.
        let (dash, _) = name.char_indices().skip(1).find(|(_, letter)| *letter == '-')?;
        let (time, rest) = (&name[..dash], &name[dash + 1..]);
        let (run, attempts) = match rest.rsplit_once('+') {
            Some((run, attempts)) => (run, attempts.parse().ok()?),
            None => (rest, 0),
        };
        let id = ReportId { time_unix_nanos: time.parse().ok()?, transaction_uuid: run.to_owned() };
        Some(Self { path, id, attempts })
    }

    /// Returns its content. Blocking.
    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        std::fs::read(&self.path)
    }

    /// Removes it. Blocking.
    pub(super) fn forget(&self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a report that was sent could not be removed and will be sent again");
        }
    }

    /// Takes down that it was sent in vain once more; returns whether it goes on waiting, or was dropped. Blocking.
    pub(super) fn put_off(&self) -> bool {
        if self.attempts + 1 >= MAX_ATTEMPTS {
            self.forget();
            return false;
        }
        let path = self.path.with_file_name(format!("{}+{}", name(&self.id), self.attempts + 1));
        if let Err(error) = std::fs::rename(&self.path, &path) {
            tracing::warn!(path = %self.path.display(), %error, "it could not be taken down how often a report was sent in vain");
        }
        true
    }
}

fn name(id: &ReportId) -> String {
    format!("{:020}-{}", id.time_unix_nanos, id.transaction_uuid)
}

impl Queue {
    pub(super) fn of(state_dir: &Path, processor: &str) -> Self {
        let name: String = processor.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
        Self { dir: state_dir.join("processors").join(name) }
    }

    /// Returns those that wait, oldest first. What an interrupted write left is none of them. Blocking.
    pub(super) fn waiting(&self) -> Vec<Waiting> {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return Vec::new() };
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.retain(|path| path.extension().is_none());
        paths.sort();
        let waiting = paths.into_iter().filter_map(|path| {
            let waiting = Waiting::of(path.clone());
            if waiting.is_none() {
                tracing::warn!(path = %path.display(), "its name is not that of a kept report: remove it");
            }
            waiting
        });
        waiting.collect()
    }

    /// Keeps a body; drops the oldest when there are too many. Blocking.
    pub(super) fn keep(&self, id: &ReportId, body: &[u8]) -> Result<(), FsError> {
        if let Some(above) = self.dir.parent() {
            ensure_private_dir(above)?;
        }
        ensure_private_dir(&self.dir)?;
        write_state(&self.dir.join(name(id)), body, 0o600)?;
        let waiting = self.waiting();
        waiting[..waiting.len().saturating_sub(MAX_KEPT)].iter().for_each(Waiting::forget);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_written() {
        for time_unix_nanos in [-1, 0, 1_700_000_000_000_000_000, i64::MAX, i64::MIN] {
            let id = ReportId { time_unix_nanos, transaction_uuid: "a-b".to_owned() };
            assert_eq!(Waiting::of(name(&id).into()).unwrap().id, id);
        }
        for bad in ["", "-", "1", "x-a", "1-a+", "1-a+x", "\u{e4}-a"] {
            assert_eq!(Waiting::of(bad.into()), None, "{bad}");
        }
    }

    fn id(number: usize) -> ReportId {
        ReportId { time_unix_nanos: i64::try_from(number).unwrap(), transaction_uuid: "a-b".to_owned() }
    }

    #[test]
    fn the_oldest_go_first_and_there_is_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        let queue = Queue::of(dir.path(), "../x");
        assert!(queue.dir.starts_with(dir.path().join("processors")) && queue.waiting().is_empty());
        for number in 0..MAX_KEPT + 3 {
            queue.keep(&id(number), b"x").unwrap();
        }
        let waiting = queue.waiting();
        assert_eq!((waiting.len(), &waiting[0].id), (MAX_KEPT, &id(3)));
    }

    #[test]
    fn attempts_are_counted_and_limited() {
        let dir = tempfile::tempdir().unwrap();
        let queue = Queue::of(dir.path(), "x");
        queue.keep(&id(1), b"x").unwrap();
        for attempts in 0..MAX_ATTEMPTS {
            let [waiting] = <[Waiting; 1]>::try_from(queue.waiting()).unwrap();
            assert_eq!((&waiting.id, waiting.attempts), (&id(1), attempts));
            assert_eq!(waiting.put_off(), attempts + 1 < MAX_ATTEMPTS);
        }
        assert_eq!(queue.waiting(), []);
    }
}
