//! `transactionstore.yaml`: what the last run left where that is not what the catalog on disk wants; tells drift from intent.
//!
//! Its name and shape are Puppet's. Puppet writes every property of every resource in each run; here the catalog says that, and the file
//! holds the rest: resources that failed, were noop, or were passed over. So it does not change while nothing is wrong, and a run with nothing to
//! do does not write it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::apply::{Left, LeftValues};
use crate::fs::{FsError, write_state_with};
use crate::puppet_report::write_yaml;

/// Name of the file: Puppet's.
const NAME: &str = "transactionstore.yaml";

/// What the file is when a run came to its end and left nothing otherwise.
const NOTHING_LEFT: &[u8] = b"---\napplied: true\nresources: {}\n";

/// What the last run that applied something left.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TransactionStore {
    /// The catalog on disk was applied to its end at least once.
    #[serde(default)]
    pub(super) applied: bool,
    resources: BTreeMap<String, Entry>,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    #[serde(default)]
    parameters: BTreeMap<String, Parameter>,
    /// The resource of the catalog that generated this one. Puppet has no such key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    generated_by: Option<String>,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Parameter {
    /// A list, as in Puppet.
    system_value: Vec<String>,
}

impl TransactionStore {
    pub(super) fn new(applied: bool, left: Left) -> Self {
        let entry = |left: LeftValues| {
            let parameter = |(name, value)| (name, Parameter { system_value: vec![value] });
            Entry { parameters: left.values.into_iter().map(parameter).collect(), generated_by: left.generated_by }
        };
        Self { applied, resources: left.into_iter().map(|(resource, left)| (resource, entry(left))).collect() }
    }

    pub(super) fn into_left(self) -> Left {
        let values = |entry: Entry| {
            let value = |(name, parameter): (String, Parameter)| Some((name, parameter.system_value.into_iter().next()?));
            LeftValues { values: entry.parameters.into_iter().filter_map(value).collect(), generated_by: entry.generated_by }
        };
        self.resources.into_iter().map(|(resource, entry)| (resource, values(entry))).collect()
    }

    /// Reads it. One that is not there, or damaged, counts as that of a node to which nothing was applied. Blocking.
    pub(super) fn load(state_dir: &Path) -> Self {
        match std::fs::read(path(state_dir)) {
            Ok(text) if text == NOTHING_LEFT => Self { applied: true, resources: BTreeMap::new() },
            Ok(text) => std::str::from_utf8(&text).ok().and_then(|text| serde_saphyr::from_str(text).ok()).unwrap_or_default(),
            Err(_) => Self::default(),
        }
    }

    /// Whether the last run that applied something came to its end and left nothing out of sync.
    pub(super) fn has_nothing_left(&self) -> bool {
        self.applied && self.resources.is_empty()
    }

    /// Writes it. Blocking.
    pub(super) fn save(&self, state_dir: &Path) -> Result<(), FsError> {
        write_state_with(&path(state_dir), 0o600, |mut file| {
            std::io::Write::write_all(&mut file, b"---")?;
            write_yaml(self, &mut file)
        })
    }
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_written() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!TransactionStore::load(dir.path()).applied);
        let store = TransactionStore::new(true, Left::new());
        store.save(dir.path()).unwrap();
        assert_eq!(std::fs::read(path(dir.path())).unwrap(), NOTHING_LEFT);
        assert!(TransactionStore::load(dir.path()).has_nothing_left());
        let left: Left = [
            (
                "Exec[a: \"b\"\n\u{e4}]".to_owned(),
                LeftValues { values: [("returns".to_owned(), "not: 'run'".to_owned())].into(), generated_by: None },
            ),
            ("File[/failed]".to_owned(), LeftValues::default()),
            ("File[/t/a]".to_owned(), LeftValues { generated_by: Some("File[/t]".to_owned()), ..LeftValues::default() }),
        ]
        .into();
        TransactionStore::new(true, left.clone()).save(dir.path()).unwrap();
        let read = TransactionStore::load(dir.path());
        assert!(read.applied && !read.has_nothing_left());
        assert_eq!(read.into_left(), left);
        std::fs::write(path(dir.path()), "resources: [").unwrap();
        assert_eq!(TransactionStore::load(dir.path()), TransactionStore::default());
    }
}
