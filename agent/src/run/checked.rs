//! When resources with a schedule were last applied: what Puppet keeps in `state.yaml`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::fs::{FsError, write_state};
use crate::lock::own_file;

/// Format of the file.
const FORMAT: u32 = 1;

/// How long a time is kept, in seconds: Puppet's `statettl`, 32 days, more than the longest period.
const KEPT_SECONDS: i64 = 32 * 86_400;

/// By resource, the second since 1970 UTC at which it was last checked.
pub(super) type LastChecked = BTreeMap<String, i64>;

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    format: u32,
    checked: LastChecked,
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("schedules.json")
}

/// Returns what is known. What cannot be read counts as never checked. Blocking.
pub(super) fn load(state_dir: &Path) -> LastChecked {
    let record: Option<Record> = std::fs::read(path(state_dir)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    record.filter(|record| record.format == FORMAT).map(|record| record.checked).unwrap_or_default()
}

/// Adds what a run at `now` checked. Blocking.
pub(super) fn keep(state_dir: &Path, checked: LastChecked, now: i64) -> Result<(), FsError> {
    let mut all = load(state_dir);
    all.extend(checked);
    all.retain(|_, time| now.saturating_sub(*time) < KEPT_SECONDS);
    let path = path(state_dir);
    let record = Record { format: FORMAT, checked: all };
    let text = serde_json::to_vec(&record).map_err(|error| own_file(&path, "encode the times of schedules", error.into()))?;
    write_state(&path, &text, 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_times_and_damaged_files_are_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let times = |times: &[(&str, i64)]| times.iter().map(|(name, time)| ((*name).to_owned(), *time)).collect::<LastChecked>();
        keep(dir.path(), times(&[("T[a]", 100), ("T[b]", 100)]), 100).unwrap();
        keep(dir.path(), times(&[("T[b]", 200)]), 200).unwrap();
        assert_eq!(load(dir.path()), times(&[("T[a]", 100), ("T[b]", 200)]));
        keep(dir.path(), LastChecked::new(), 100 + KEPT_SECONDS).unwrap();
        assert_eq!(load(dir.path()), times(&[("T[b]", 200)]));
        std::fs::write(path(dir.path()), "{").unwrap();
        assert!(load(dir.path()).is_empty());
    }
}
