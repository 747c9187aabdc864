//! What the answer of a check follows from.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use direct_puppet_transport::hashing::FastState;
use direct_puppet_transport::protocol::TreePath;

use crate::fs::Stat;

/// What a check saw at a path, as far as its answer depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Seen {
    /// Nothing, perhaps because a directory on the way is not there.
    Absent,
    /// Something, whatever it is.
    Present,
    /// Something of this kind with this owner and these permissions; its content or entries may change.
    Attributes {
        /// Kind and permissions, as `st_mode`.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// This very object, not changed since: the content of a file, the target of a link, the entries of a directory. The metadata
    /// must have been taken before any of these was looked at.
    Unchanged(Stat),
}

/// A path below the managed root, and what a check saw there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    /// Where.
    pub path: TreePath,
    /// What.
    pub seen: Seen,
}

impl Seen {
    /// Returns kind, permissions and owner of what was seen.
    #[must_use]
    pub const fn attributes(stat: &Stat) -> Self {
        Self::Attributes { mode: stat.mode, uid: stat.uid, gid: stat.gid }
    }

    /// Returns what says both; `None` when the two contradict each other.
    fn and(self, other: Self) -> Option<Self> {
        match (self, other) {
            (one, other) if one == other => Some(one),
            (Self::Absent, _) | (_, Self::Absent) => None,
            (Self::Present, more) | (more, Self::Present) => Some(more),
            (Self::Unchanged(stat), attributes @ Self::Attributes { .. })
            | (attributes @ Self::Attributes { .. }, Self::Unchanged(stat)) => {
                (Self::attributes(&stat) == attributes).then_some(Self::Unchanged(stat))
            }
            _ => None,
        }
    }
}

/// The witnesses of many resources, each path once.
#[derive(Debug, Default)]
pub(crate) struct Witnesses(HashMap<TreePath, Seen, FastState>);

impl Witnesses {
    /// Adds one; returns whether it agrees with what was seen at the same path before.
    pub(crate) fn add(&mut self, witness: Witness) -> bool {
        match self.0.entry(witness.path) {
            Entry::Vacant(place) => {
                place.insert(witness.seen);
                true
            }
            Entry::Occupied(mut place) => match place.get().and(witness.seen) {
                Some(both) => {
                    place.insert(both);
                    true
                }
                None => false,
            },
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&TreePath, &Seen)> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Time;

    fn stat(mode: u32) -> Stat {
        let time = Time { seconds: 1, nanos: 2 };
        Stat { dev: 1, ino: 2, size: 3, mtime: time, ctime: time, mode, uid: 4, gid: 5, nlink: 1 }
    }

    #[test]
    fn what_several_resources_saw_at_a_path_must_agree() {
        let whole = Seen::Unchanged(stat(0o40755));
        let attributes = Seen::attributes(&stat(0o40755));
        for (one, other, both) in [
            (Seen::Absent, Seen::Absent, Some(Seen::Absent)),
            (Seen::Absent, Seen::Present, None),
            (Seen::Present, attributes, Some(attributes)),
            (attributes, whole, Some(whole)),
            (Seen::attributes(&stat(0o40700)), whole, None),
            (Seen::Unchanged(stat(0o40700)), whole, None),
        ] {
            for (first, second) in [(one, other), (other, one)] {
                let mut witnesses = Witnesses::default();
                let path: TreePath = "a/b".parse().unwrap();
                assert!(witnesses.add(Witness { path: path.clone(), seen: first }));
                assert_eq!(witnesses.add(Witness { path, seen: second }), both.is_some());
                if let Some(both) = both {
                    assert_eq!(witnesses.iter().map(|(_, seen)| *seen).collect::<Vec<_>>(), [both]);
                }
            }
        }
    }
}
