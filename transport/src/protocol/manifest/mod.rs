//! The list of everything in one published tree, and the `code_id` that it adds up to.
//!
//! `CodeId` is a Merkle digest: each directory hashes the sorted list of its entries, each entry being
//! `kind, mode, name, id`, where the id of a directory is its own hash. The hash is BLAKE3 keyed by the context
//! [`TREE_CONTEXT`], so that no content can be taken for a tree.

mod entry;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::slice;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::entry::{EntryKind, MODE_MASK, ManifestEntry, ManifestError, UNKNOWN_SIZE, check_entries};
use super::digest::{DIGEST_BYTES, Digest};
use super::ids::CodeId;
use super::path::TreePath;

/// Domain of directory hashes.
pub const TREE_CONTEXT: &str = "direct-puppet 2026-11 code tree v1";

/// Everything in one tree, sorted by path, without the tree's own root.
///
/// Entries are held in leaves, as in a B+ tree of two levels: a clone shares all of them, and a manifest that is made with
/// [`Manifest::with_delta`] those in which nothing differs.
#[derive(Clone, Default)]
pub struct Manifest {
    /// None is empty.
    leaves: Arc<Vec<Leaf>>,
}

type Leaf = Arc<[ManifestEntry]>;

/// Entries of a leaf when it is made; it grows to twice as many before it is divided.
const LEAF_ENTRIES: usize = 512;

impl Manifest {
    /// Sorts and checks entries.
    ///
    /// # Errors
    ///
    /// When a path is listed twice or without its directory, or an entry breaks a rule.
    pub fn new(mut entries: Vec<ManifestEntry>) -> Result<Self, ManifestError> {
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        check_entries(&entries)?;
        let mut builder = ManifestBuilder::default();
        entries.into_iter().for_each(|entry| builder.push(entry));
        Ok(Self { leaves: Arc::new(builder.into_leaves()) })
    }

    /// Returns the manifest that differs from this in a few entries: without those `removed`, and with those `changed`, which may be new.
    /// What is removed and is not here is passed over; a path that is removed and changed is changed.
    ///
    /// Takes memory in proportion to what differs.
    ///
    /// # Errors
    ///
    /// As [`Manifest::new`], of the result; of several changes of one path the last one counts.
    pub fn with_delta(&self, removed: Vec<TreePath>, changed: Vec<ManifestEntry>) -> Result<Self, ManifestError> {
        if removed.is_empty() && changed.is_empty() {
            return Ok(self.clone());
        }
        if self.is_empty() {
            let changed: BTreeMap<_, _> = changed.into_iter().map(|entry| (entry.path.clone(), entry)).collect();
            return Self::new(changed.into_values().collect());
        }
        let mut delta: BTreeMap<TreePath, Option<ManifestEntry>> = removed.into_iter().map(|path| (path, None)).collect();
        delta.extend(changed.into_iter().map(|entry| (entry.path.clone(), Some(entry))));
        let mut delta = delta.into_iter().peekable();
        let mut leaves = Vec::with_capacity(self.leaves.len());
        for (at, leaf) in self.leaves.iter().enumerate() {
            let end = self.leaves.get(at + 1).map(|next| &next[0].path);
            let is_here = |path: &TreePath| end.is_none_or(|end| path < end);
            if !delta.peek().is_some_and(|(path, _)| is_here(path)) {
                leaves.push(Arc::clone(leaf));
                continue;
            }
            let mut merged = Vec::with_capacity(leaf.len() + 1);
            let mut old = leaf.iter().peekable();
            while let Some((path, entry)) = delta.next_if(|(path, _)| is_here(path)) {
                while let Some(before) = old.next_if(|before| before.path < path) {
                    merged.push(before.clone());
                }
                old.next_if(|before| before.path == path);
                merged.extend(entry);
            }
            merged.extend(old.cloned());
            add_leaves(&mut leaves, merged);
        }
        let manifest = Self { leaves: Arc::new(leaves) };
        check_entries(manifest.entries())?;
        Ok(manifest)
    }

    /// Returns the entries, sorted by path.
    #[must_use]
    pub fn entries(&self) -> Entries<'_> {
        Entries { leaves: self.leaves.iter(), leaf: [].iter() }
    }

    /// Returns how many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.leaves.iter().map(|leaf| leaf.len()).sum()
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leaves.is_empty()
    }

    /// Returns the entry at `path`.
    #[must_use]
    pub fn get(&self, path: &TreePath) -> Option<&ManifestEntry> {
        self.from(path).next().filter(|entry| entry.path == *path)
    }

    /// Returns all entries at or below `path`, the entry itself first.
    pub fn below<'a>(&'a self, path: &'a TreePath) -> impl Iterator<Item = &'a ManifestEntry> + use<'a> {
        self.from(path).take_while(|entry| entry.path.is_within(path))
    }

    /// Returns the entries that are not the same in `before`, or not in it.
    pub fn changed_since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a ManifestEntry> + use<'a> {
        // What is in a leaf that both share is the same in both.
        let shared: HashSet<*const ManifestEntry> = before.leaves.iter().map(|leaf| leaf.as_ptr()).collect();
        self.leaves.iter().filter(move |leaf| !shared.contains(&leaf.as_ptr())).flat_map(move |leaf| {
            let mut old = before.from(&leaf[0].path).peekable();
            leaf.iter().filter(move |entry| {
                while old.next_if(|old| old.path < entry.path).is_some() {}
                old.peek() != Some(entry)
            })
        })
    }

    /// Returns the entries from `path` on.
    fn from(&self, path: &TreePath) -> Entries<'_> {
        let at = self.leaves.partition_point(|leaf| leaf.last().is_some_and(|last| last.path < *path));
        let Some((leaf, leaves)) = self.leaves[at..].split_first() else { return Entries::default() };
        let start = leaf.partition_point(|entry| entry.path < *path);
        Entries { leaves: leaves.iter(), leaf: leaf[start..].iter() }
    }

    /// Returns the id of this tree.
    #[must_use]
    pub fn code_id(&self) -> CodeId {
        CodeId::from_digest(hash_tree(self.entries()))
    }
}

impl PartialEq for Manifest {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.leaves, &other.leaves) || self.entries().eq(other.entries())
    }
}

impl Eq for Manifest {}

impl fmt::Debug for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries()).finish()
    }
}

/// The entries of a [`Manifest`], sorted by path.
#[derive(Debug, Clone, Default)]
pub struct Entries<'a> {
    leaves: slice::Iter<'a, Leaf>,
    leaf: slice::Iter<'a, ManifestEntry>,
}

impl<'a> Iterator for Entries<'a> {
    type Item = &'a ManifestEntry;

    fn next(&mut self) -> Option<&'a ManifestEntry> {
        loop {
            if let Some(entry) = self.leaf.next() {
                return Some(entry);
            }
            self.leaf = self.leaves.next()?.iter();
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let count = self.leaf.len() + self.leaves.clone().map(|leaf| leaf.len()).sum::<usize>();
        (count, Some(count))
    }
}

impl ExactSizeIterator for Entries<'_> {}

/// Makes a [`Manifest`] of entries that come one by one in the order of paths, so that they are in memory once.
#[derive(Debug, Default)]
pub struct ManifestBuilder {
    leaves: Vec<Leaf>,
    last: Vec<ManifestEntry>,
}

impl ManifestBuilder {
    /// Adds an entry behind the others.
    pub fn push(&mut self, entry: ManifestEntry) {
        self.last.push(entry);
        if self.last.len() == LEAF_ENTRIES {
            self.leaves.push(self.last.drain(..).collect());
        }
    }

    /// Checks the entries.
    ///
    /// # Errors
    ///
    /// As [`Manifest::new`], and when the entries are not sorted.
    pub fn build(self) -> Result<Manifest, ManifestError> {
        let manifest = Manifest { leaves: Arc::new(self.into_leaves()) };
        check_entries(manifest.entries())?;
        Ok(manifest)
    }

    fn into_leaves(mut self) -> Vec<Leaf> {
        if !self.last.is_empty() {
            self.leaves.push(self.last.into());
        }
        self.leaves
    }
}

/// Adds entries to leaves, in as few as is right.
fn add_leaves(leaves: &mut Vec<Leaf>, mut entries: Vec<ManifestEntry>) {
    if let Some(before) = leaves.pop_if(|before| before.len() + entries.len() <= LEAF_ENTRIES / 2) {
        entries.splice(..0, before.iter().cloned());
    }
    match entries.len() {
        0 => {}
        count if count <= 2 * LEAF_ENTRIES => leaves.push(entries.into()),
        _ => leaves.extend(entries.chunks(LEAF_ENTRIES).map(Leaf::from)),
    }
}

impl Serialize for Manifest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.entries())
    }
}

impl<'de> Deserialize<'de> for Manifest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Vec::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Hashes a tree, given in path order. Directories under way are in a list: a tree may be as deep as a path is long.
fn hash_tree(entries: Entries<'_>) -> Digest {
    let begin = || blake3::Hasher::new_derive_key(TREE_CONTEXT);
    let (mut root, mut below): (_, Vec<(&ManifestEntry, blake3::Hasher)>) = (begin(), Vec::new());
    for entry in entries {
        while let Some((directory, hasher)) = below.pop_if(|(directory, _)| !entry.path.is_within(&directory.path)) {
            hash_entry(
                below.last_mut().map_or(&mut root, |(_, above)| above),
                directory,
                b'd',
                Digest::from_blake3(hasher.finalize()),
            );
        }
        let hasher = below.last_mut().map_or(&mut root, |(_, above)| above);
        match &entry.kind {
            EntryKind::File { digest, size } => {
                hasher.update(&size.to_be_bytes());
                hash_entry(hasher, entry, b'f', *digest);
            }
            EntryKind::Link { target } => hash_entry(hasher, entry, b'l', Digest::of(target)),
            EntryKind::Directory => below.push((entry, begin())),
        }
    }
    while let Some((directory, hasher)) = below.pop() {
        hash_entry(
            below.last_mut().map_or(&mut root, |(_, above)| above),
            directory,
            b'd',
            Digest::from_blake3(hasher.finalize()),
        );
    }
    Digest::from_blake3(root.finalize())
}

/// Adds an entry to the hash of its directory.
fn hash_entry(hasher: &mut blake3::Hasher, entry: &ManifestEntry, kind: u8, id: Digest) {
    let name = entry.path.name().unwrap_or_default();
    hasher.update(&[kind]);
    hasher.update(id.algorithm().name().as_bytes());
    hasher.update(&(*id.bytes() as [u8; DIGEST_BYTES]));
    hasher.update(&entry.mode.to_be_bytes());
    // MAX_NAME_BYTES fits two bytes.
    hasher.update(&u16::try_from(name.len()).unwrap_or(u16::MAX).to_be_bytes());
    hasher.update(name);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(path: &str, content: &str) -> ManifestEntry {
        let kind = EntryKind::File { digest: Digest::of(content.as_bytes()), size: content.len() as u64 };
        ManifestEntry { path: path.parse().unwrap(), mode: 0o644, kind }
    }

    fn directory(path: &str) -> ManifestEntry {
        ManifestEntry { path: path.parse().unwrap(), mode: 0o755, kind: EntryKind::Directory }
    }

    fn code_id(entries: &[ManifestEntry]) -> CodeId {
        Manifest::new(entries.to_vec()).unwrap().code_id()
    }

    #[test]
    fn code_id_sees_every_difference_and_no_order() {
        let base = [directory("d"), file("d/a", "1"), file("e", "2")];
        let id = code_id(&base);
        assert_eq!(id, code_id(&[base[2].clone(), base[0].clone(), base[1].clone()]));
        let mut mode = base.clone();
        mode[1].mode = 0o600;
        let moved = [directory("d"), file("a", "1"), file("e", "2")];
        let content = [directory("d"), file("d/a", "x"), file("e", "2")];
        let fewer = [directory("d"), file("d/a", "1")];
        for other in [code_id(&mode), code_id(&moved), code_id(&content), code_id(&fewer), code_id(&[])] {
            assert_ne!(other, id);
        }
    }

    #[test]
    fn a_tree_as_deep_as_a_path_is_long_has_an_id() {
        let deep = |count: usize| (1..=count).map(|depth| directory(&vec!["d"; depth].join("/"))).collect::<Vec<_>>();
        let thread = std::thread::Builder::new().stack_size(256 * 1024);
        let ids = thread.spawn(move || (code_id(&deep(2000)), code_id(&deep(1999)))).unwrap().join().unwrap();
        assert_ne!(ids.0, ids.1);
    }

    #[test]
    fn refuses_duplicates_orphans_and_bad_entries() {
        let duplicate = Manifest::new(vec![file("a", "1"), file("a", "2")]).unwrap_err();
        assert!(matches!(duplicate, ManifestError::Duplicate { .. }));
        for orphans in [vec![file("d/a", "1")], vec![file("d", "1"), file("d/a", "1")]] {
            assert!(matches!(Manifest::new(orphans).unwrap_err(), ManifestError::Orphan { .. }));
        }
        let mut mode = file("a", "1");
        mode.mode = 0o100_644;
        assert!(matches!(Manifest::new(vec![mode]).unwrap_err(), ManifestError::Entry { .. }));
    }

    #[test]
    fn entries_that_come_one_by_one_are_sorted() {
        let mut builder = ManifestBuilder::default();
        [file("b", "1"), file("a", "2")].into_iter().for_each(|entry| builder.push(entry));
        assert!(matches!(builder.build().unwrap_err(), ManifestError::Unsorted { .. }));
    }

    /// A file for each number, some in directories that are there as well.
    fn tree(files: &BTreeMap<u16, u8>) -> Vec<ManifestEntry> {
        let mut entries = BTreeMap::new();
        for (number, content) in files {
            let directory = directory(&format!("d{}", number % 7));
            let file = file(&format!("d{}/f{number}", number % 7), &content.to_string());
            entries.extend([directory, file].map(|entry| (entry.path.clone(), entry)));
        }
        entries.into_values().collect()
    }

    fn leaves_shared(a: &Manifest, b: &Manifest) -> usize {
        a.leaves.iter().filter(|leaf| b.leaves.iter().any(|other| Arc::ptr_eq(leaf, other))).count()
    }

    #[test]
    fn what_differs_little_shares_nearly_all_leaves() {
        let mut files: BTreeMap<u16, u8> = (0..20_000).map(|number| (number, 0)).collect();
        let before = Manifest::new(tree(&files)).unwrap();
        files.insert(9, 1);
        let after = before.with_delta(Vec::new(), vec![file("d2/f9", "1")]).unwrap();
        assert_eq!((after.len(), after.leaves.len()), (20_007, 40));
        assert_eq!(leaves_shared(&before, &after), 39);
        assert_eq!(after, Manifest::new(tree(&files)).unwrap());
        assert!(before.with_delta(vec!["d2".parse().unwrap()], Vec::new()).is_err(), "its files would be orphans");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_delta_makes_what_it_was_made_of(
            rounds in prop::collection::vec(
                prop_oneof![
                    prop::collection::btree_map(0..3_000_u16, 0..3_u8, 0..40),
                    (0..2_500_u16, 0..2_500_u16).prop_map(|(from, count)| (from..from + count).map(|n| (n, 1)).collect()),
                ],
                1..6,
            ),
        ) {
            let mut manifest = Manifest::default();
            for files in rounds {
                let wanted = Manifest::new(tree(&files)).unwrap();
                let changed: Vec<ManifestEntry> = wanted.changed_since(&manifest).cloned().collect();
                let gone = manifest.changed_since(&wanted).filter(|entry| wanted.get(&entry.path).is_none());
                let removed = gone.map(|entry| entry.path.clone()).collect();
                let (before, differing) = (manifest.clone(), changed.clone());
                manifest = manifest.with_delta(removed, changed).unwrap();
                // They share leaves now.
                let found: Vec<ManifestEntry> = manifest.changed_since(&before).cloned().collect();
                prop_assert_eq!(found, differing);
                let back: Vec<&ManifestEntry> = before.changed_since(&manifest).collect();
                let expected: Vec<&ManifestEntry> = before.entries().filter(|entry| manifest.get(&entry.path) != Some(*entry)).collect();
                prop_assert_eq!(back, expected);
                prop_assert_eq!(&manifest, &wanted);
                prop_assert_eq!(manifest.code_id(), wanted.code_id());
                prop_assert_eq!(manifest.len(), wanted.entries().count());
                prop_assert!(manifest.leaves.iter().all(|leaf| (1..=2 * LEAF_ENTRIES).contains(&leaf.len())));
                prop_assert!(manifest.leaves.len() <= 1 + manifest.len() / (LEAF_ENTRIES / 8), "{} leaves", manifest.leaves.len());
                let all: Vec<&ManifestEntry> = manifest.entries().collect();
                for entry in all.iter().step_by(97) {
                    prop_assert_eq!(manifest.get(&entry.path), Some(*entry));
                    let below: Vec<&ManifestEntry> = manifest.below(&entry.path).collect();
                    let wanted: Vec<&ManifestEntry> =
                        all.iter().copied().filter(|other| other.path.is_within(&entry.path)).collect();
                    prop_assert_eq!(below, wanted);
                }
                prop_assert_eq!(manifest.get(&"d3/none".parse().unwrap()), None);
                prop_assert_eq!(manifest.get(&"zz".parse().unwrap()), None);
            }
        }
    }

    #[test]
    fn finds_what_lies_below() {
        let manifest = Manifest::new(vec![directory("d"), file("d/a", "1"), file("d.x", "2"), file("c", "3")]).unwrap();
        let below: Vec<String> = manifest.below(&"d".parse().unwrap()).map(|e| e.path.to_string()).collect();
        assert_eq!(below, ["d", "d/a"]);
        assert!(manifest.get(&"d.x".parse().unwrap()).is_some());
        assert!(manifest.get(&"x".parse().unwrap()).is_none());
    }
}
