//! When resources with a schedule were last applied, and what audited properties held: what Puppet keeps in `state.yaml`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::apply::Remembered;
use crate::fs::{FsError, write_state};
use crate::lock::own_file;

/// Format of the file.
const FORMAT: u32 = 1;

/// How long a time is kept, in seconds: Puppet's `statettl`, 32 days, more than the longest period.
const KEPT_SECONDS: i64 = 32 * 86_400;

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    format: u32,
    #[serde(flatten)]
    remembered: Remembered,
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("remembered.json")
}

/// Returns what is known. What cannot be read counts as never seen. Blocking.
pub(super) fn load(state_dir: &Path) -> Remembered {
    let record: Option<Record> = std::fs::read(path(state_dir)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    record.filter(|record| record.format == FORMAT).map(|record| record.remembered).unwrap_or_default()
}

/// Adds what a run at `now` checked and saw. Blocking.
pub(super) fn keep(state_dir: &Path, seen: Remembered, now: i64) -> Result<(), FsError> {
    let mut all = load(state_dir);
    all.checked.extend(seen.checked);
    all.checked.retain(|_, time| now.saturating_sub(*time) < KEPT_SECONDS);
    all.audited.extend(seen.audited);
    let path = path(state_dir);
    let record = Record { format: FORMAT, remembered: all };
    let text = serde_json::to_vec(&record).map_err(|error| own_file(&path, "encode what is remembered", error.into()))?;
    write_state(&path, &text, 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_times_and_damaged_files_are_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let times = |times: &[(&str, i64)]| Remembered {
            checked: times.iter().map(|(name, time)| ((*name).to_owned(), *time)).collect(),
            ..Remembered::default()
        };
        keep(dir.path(), times(&[("T[a]", 100), ("T[b]", 100)]), 100).unwrap();
        keep(dir.path(), times(&[("T[b]", 200)]), 200).unwrap();
        assert_eq!(load(dir.path()), times(&[("T[a]", 100), ("T[b]", 200)]));
        keep(dir.path(), Remembered::default(), 100 + KEPT_SECONDS).unwrap();
        assert_eq!(load(dir.path()), times(&[("T[b]", 200)]));
        std::fs::write(path(dir.path()), "{").unwrap();
        assert_eq!(load(dir.path()), Remembered::default());
    }
}
