//! What differs between two versions.

use std::cmp::Ordering;

use direct_puppet_transport::protocol::manifest::Entries;
use direct_puppet_transport::protocol::{EntryKind, Environment, ManifestEntry};
use serde::{Deserialize, Serialize};

use super::VersionName;
use crate::error::ServerError;
use crate::server::Server;

/// How a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Change {
    /// It is in the second only.
    Added,
    /// It is in the first only.
    Removed,
    /// It is a directory, file or link in the one and something else in the other.
    Kind,
    /// Its content, or where it points, differs.
    Content,
    /// Only its permissions differ.
    Mode,
}

/// One path that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Where, within the environment.
    pub path: String,
    /// How.
    pub change: Change,
}

impl Server {
    /// Compares two versions of an environment; in the order of paths. Blocking.
    ///
    /// # Errors
    ///
    /// When one is not there any more.
    pub fn diff(&self, environment: &Environment, from: VersionName, to: VersionName) -> Result<Vec<Difference>, ServerError> {
        let (_, from) = self.find_manifest(environment, from)?;
        let (_, to) = self.find_manifest(environment, to)?;
        Ok(differences(from.entries(), to.entries()))
    }
}

/// Both are sorted by path.
fn differences(from: Entries<'_>, to: Entries<'_>) -> Vec<Difference> {
    let mut differences = Vec::new();
    let mut add = |entry: &ManifestEntry, change| differences.push(Difference { path: entry.path.to_string(), change });
    let (mut from, mut to) = (from.peekable(), to.peekable());
    loop {
        let order = match (from.peek(), to.peek()) {
            (None, None) => return differences,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => a.path.cmp(&b.path),
        };
        match order {
            Ordering::Less => from.next().into_iter().for_each(|entry| add(entry, Change::Removed)),
            Ordering::Greater => to.next().into_iter().for_each(|entry| add(entry, Change::Added)),
            Ordering::Equal => {
                if let (Some(a), Some(b)) = (from.next(), to.next())
                    && let Some(change) = change(a, b)
                {
                    add(b, change);
                }
            }
        }
    }
}

fn change(a: &ManifestEntry, b: &ManifestEntry) -> Option<Change> {
    let is_same_kind = matches!(
        (&a.kind, &b.kind),
        (EntryKind::Directory, EntryKind::Directory)
            | (EntryKind::File { .. }, EntryKind::File { .. })
            | (EntryKind::Link { .. }, EntryKind::Link { .. })
    );
    match () {
        () if !is_same_kind => Some(Change::Kind),
        () if a.kind != b.kind => Some(Change::Content),
        () if a.mode != b.mode => Some(Change::Mode),
        () => None,
    }
}
