//! What is wanted, in the order of paths.

use direct_puppet_transport::protocol::TreePath;

use super::desired::Desired;

/// Entries by path, a directory right before what it holds. A list, not a tree of nodes: there may be hundreds of thousands, and
/// catalogs give them nearly in order.
#[derive(Debug, Default)]
pub(super) struct ByPath {
    sorted: Vec<Desired>,
    added: Vec<Desired>,
}

impl ByPath {
    /// Adds an entry; a later one for the same path replaces it. It is found after [`ByPath::settle`].
    pub(super) fn add(&mut self, entry: Desired) {
        self.added.push(entry);
    }

    /// Puts what was added in its place.
    pub(super) fn settle(&mut self) {
        self.sorted.append(&mut self.added);
        self.added = Vec::new();
        if !self.sorted.is_sorted_by(|a, b| a.path < b.path) {
            self.sorted.sort_by(|a, b| a.path.cmp(&b.path));
            self.sorted.dedup_by(|later, earlier| {
                let is_same = later.path == earlier.path;
                if is_same {
                    std::mem::swap(later, earlier);
                }
                is_same
            });
        }
    }

    /// Returns the entry of a path.
    pub(super) fn get(&self, path: &TreePath) -> Option<&Desired> {
        self.sorted.binary_search_by(|entry| entry.path.cmp(path)).ok().map(|at| &self.sorted[at])
    }

    pub(super) const fn len(&self) -> usize {
        self.sorted.len()
    }
}

impl IntoIterator for ByPath {
    type Item = Desired;
    type IntoIter = std::vec::IntoIter<Desired>;

    fn into_iter(self) -> Self::IntoIter {
        self.sorted.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::super::desired::Want;
    use super::*;

    #[test]
    fn the_later_of_two_entries_for_a_path_counts() {
        let mut list = ByPath::default();
        let entry = |name: &str, want| Desired::plain(name.parse().unwrap(), want);
        for name in ["b", "a-c", "a/c", "a"] {
            list.add(entry(name, Want::Directory));
        }
        list.settle();
        list.add(entry("a/c", Want::Absent));
        list.settle();
        assert!(matches!(list.get(&"a/c".parse().unwrap()).unwrap().want, Want::Absent));
        assert!(list.get(&"c".parse().unwrap()).is_none());
        let paths: Vec<String> = list.into_iter().map(|entry| entry.path.to_string()).collect();
        assert_eq!(paths, ["a", "a/c", "a-c", "b"]);
    }
}
