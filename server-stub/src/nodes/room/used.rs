//! What nodes have of the room, in bytes on disk.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

#[derive(Debug, Default)]
pub(super) struct Used {
    /// What each node has, by its directory.
    pub(super) by_node: HashMap<PathBuf, OfNode>,
    pub(super) total: u64,
    /// Of these, what is not written yet.
    pub(super) pending: u64,
    /// How often anything here was changed.
    changes: u64,
    /// Of a disk that is nearly full: what went and has not been written in its place.
    pub(super) spare: u64,
}

/// Bytes on disk of one node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct OfNode {
    pub(super) bytes: u64,
    /// Of these, what is not written yet.
    pub(super) pending: u64,
    /// The last change of all that was one of this node's.
    pub(super) changed: u64,
}

impl OfNode {
    /// Returns what is left of it when others keep no more than `level`: what is not written yet cannot go.
    pub(super) fn within(self, level: u64) -> u64 {
        self.bytes.min(level).max(self.pending)
    }
}

impl Used {
    /// Takes room for what is not written yet.
    pub(super) fn promise(&mut self, node: &Path, bytes: u64) {
        if !self.by_node.contains_key(node) {
            self.by_node.insert(node.to_owned(), OfNode::default());
        }
        if let Some(used) = self.change(node) {
            used.bytes += bytes;
            used.pending += bytes;
        }
        self.total += bytes;
        self.pending += bytes;
    }

    /// Says of so many bytes that they are written, or that they will not be.
    pub(super) fn settle(&mut self, node: &Path, bytes: u64) {
        self.pending -= bytes;
        if let Some(used) = self.change(node) {
            used.pending -= bytes;
        }
    }

    /// Corrects what a node is taken to have, which was `listed` before its files were: others remove files too. Whatever happened to them
    /// in between, and what is being written, may be among the files or not: then nothing is said of them.
    pub(super) fn found(&mut self, node: &Path, listed: OfNode, bytes: u64) {
        if let Some(used) = self.by_node.get_mut(node)
            && *used == listed
        {
            let found = match used.pending {
                0 => bytes,
                pending => used.bytes.min(bytes.saturating_add(pending)),
            };
            self.total = self.total - used.bytes + found;
            used.bytes = found;
            if found == 0 {
                self.by_node.remove(node);
            }
        }
    }

    pub(super) fn take(&mut self, node: &Path, bytes: u64) {
        if let Some(used) = self.change(node) {
            // What was removed while it was found to be gone is taken once.
            let bytes = bytes.min(used.bytes - used.pending);
            used.bytes -= bytes;
            if used.bytes == 0 {
                self.by_node.remove(node);
            }
            self.total -= bytes;
        }
    }

    fn change(&mut self, node: &Path) -> Option<&mut OfNode> {
        self.changes += 1;
        let used = self.by_node.get_mut(node)?;
        used.changed = self.changes;
        Some(used)
    }
}

/// Returns how much each may have at most, so that all together have `target`.
pub(super) fn level(mut all: Vec<u64>, target: u64) -> u64 {
    all.sort_unstable();
    let (mut left, mut count) = (target, all.len() as u64);
    for used in all {
        let share = left / count;
        if used > share {
            return share;
        }
        (left, count) = (left - used, count - 1);
    }
    u64::MAX
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What one list of files says of a node is old when anything of it changed meanwhile.
    #[test]
    fn a_list_of_files_that_is_old_corrects_nothing_and_a_new_one_all() {
        let (mut used, node) = (Used::default(), Path::new("node"));
        used.promise(node, 10);
        used.settle(node, 10);
        let listed = used.by_node[node];
        used.promise(node, 5);
        used.settle(node, 5);
        used.found(node, listed, 10);
        assert_eq!((used.total, used.by_node[node].bytes), (15, 15));
        used.take(node, 15);
        used.promise(node, 15);
        used.settle(node, 15);
        let again = used.by_node[node];
        used.found(node, listed, 10);
        assert_eq!(used.total, 15);
        used.found(node, again, 20);
        assert_eq!((used.total, used.by_node[node].bytes), (20, 20));
        used.promise(node, 3);
        let listed = used.by_node[node];
        // What is written may be among them.
        used.found(node, listed, 23);
        assert_eq!(used.total, 23);
        used.found(node, listed, 4);
        assert_eq!((used.total, used.by_node[node].bytes, used.pending), (7, 7, 3));
    }

    proptest! {
        #[test]
        fn a_level_is_the_highest_at_which_all_fit(all in prop::collection::vec(0u64..1000, 0..20), target in 0u64..10_000) {
            let fits = |level: u64| all.iter().map(|used| (*used).min(level)).sum::<u64>() <= target;
            let level = level(all.clone(), target);
            prop_assert!(fits(level));
            prop_assert!(level == u64::MAX || !fits(level + 1));
        }
    }
}
