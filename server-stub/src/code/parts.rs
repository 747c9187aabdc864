//! Manifests in parts, so that a version is written, kept and sent as what differs from the one before.
//!
//! ```text
//! whole     = an encoded Manifest                       up to some 256 entries
//! part list = { format: 1, parts: [digest, ...] }       more: a part is the content [entry, ...], in path order
//! ```
//!
//! A part ends behind a path whose digest begins with a zero byte, one in 256, or after [`MAX_ENTRIES`]. So which entries stand in a part
//! depends on the paths in it and nothing else: an entry that changes, comes or goes makes one new part, or two. Parts are contents like
//! any other: verified when read, shared by all versions that have them, collected when no version has them.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use direct_puppet_transport::protocol::manifest::Entries;
use direct_puppet_transport::protocol::{Digest, Manifest, ManifestBuilder, ManifestEntry, TreePath, codec};
use serde::{Deserialize, Serialize};

use super::MAX_MANIFEST_BYTES;
use crate::error::ServerError;

const FORMAT: u32 = 1;

/// Where no path ends a part, this many entries do.
const MAX_ENTRIES: usize = 2048;

/// Longest part, in bytes: as many entries of the longest paths and link targets.
pub(crate) const MAX_PART_BYTES: u64 = 32 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct PartList {
    format: u32,
    parts: Vec<Digest>,
}

/// Encodes a manifest: each part is given to `keep`, and what names them is returned.
pub(crate) fn encode(
    manifest: &Manifest,
    keep: &mut dyn FnMut(Digest, Vec<u8>) -> Result<(), ServerError>,
) -> Result<Vec<u8>, ServerError> {
    let mut entries = manifest.entries();
    let mut part = next_part(&mut entries);
    if entries.len() == 0 {
        return Ok(codec::encode(manifest)?);
    }
    let mut parts = Vec::new();
    while !part.is_empty() {
        let bytes = codec::encode(&part)?;
        let digest = Digest::of(&bytes);
        parts.push(digest);
        keep(digest, bytes)?;
        part = next_part(&mut entries);
    }
    Ok(codec::encode(&PartList { format: FORMAT, parts })?)
}

/// Returns the parts of an encoded manifest; none when it is whole.
pub(crate) fn parts(bytes: &[u8]) -> Result<Vec<Digest>, String> {
    if !is_list(bytes) {
        return Ok(Vec::new());
    }
    let list: PartList = codec::decode(bytes, MAX_MANIFEST_BYTES).map_err(|error| error.to_string())?;
    if list.format == FORMAT { Ok(list.parts) } else { Err(format!("it has format {}: a newer version wrote it", list.format)) }
}

/// Decodes a manifest; `read` returns the parts.
pub(crate) fn decode(bytes: &[u8], mut read: impl FnMut(&Digest) -> Result<Bytes, String>) -> Result<Manifest, String> {
    if !is_list(bytes) {
        return codec::decode(bytes, MAX_MANIFEST_BYTES).map_err(|error| error.to_string());
    }
    let mut manifest = ManifestBuilder::default();
    for digest in parts(bytes)? {
        decode_part(&read(&digest)?)?.into_iter().for_each(|entry| manifest.push(entry));
    }
    manifest.build().map_err(|error| error.to_string())
}

/// What differs between two manifests: paths that are gone, and entries that changed or are new, both in path order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Differences {
    pub(crate) removed: Vec<TreePath>,
    pub(crate) changed: Vec<ManifestEntry>,
}

/// Says what differs between two encoded manifests. Only the parts that one of them has and the other has not are read, so this takes
/// memory in proportion to what differs. Nothing is proved but the parts.
pub(crate) fn differences(
    base: &[u8],
    manifest: &[u8],
    mut read: impl FnMut(&Digest) -> Result<Bytes, String>,
) -> Result<Differences, String> {
    let (base_parts, parts) = (parts(base)?, parts(manifest)?);
    let (in_base, in_it): (HashSet<_>, HashSet<_>) = (base_parts.iter().collect(), parts.iter().collect());
    let mut own = |bytes: &[u8], parts: &[Digest], others: &HashSet<&Digest>| -> Result<Vec<ManifestEntry>, String> {
        if !is_list(bytes) {
            return codec::decode(bytes, MAX_MANIFEST_BYTES).map_err(|error| error.to_string());
        }
        let mut entries = Vec::new();
        for digest in parts.iter().filter(|digest| !others.contains(digest)) {
            entries.extend(decode_part(&read(digest)?)?);
        }
        Ok(entries)
    };
    // A path that is in a part of both is the same in both, and in no other part of either.
    let before = own(base, &base_parts, &in_it)?.into_iter().map(|entry| (entry.path.clone(), entry));
    let mut before: BTreeMap<TreePath, ManifestEntry> = before.collect();
    let mut changed = own(manifest, &parts, &in_base)?;
    changed.retain(|entry| before.remove(&entry.path).as_ref() != Some(entry));
    Ok(Differences { removed: before.into_keys().collect(), changed })
}

fn decode_part(bytes: &[u8]) -> Result<Vec<ManifestEntry>, String> {
    codec::decode(bytes, MAX_PART_BYTES).map_err(|error| error.to_string())
}

/// Whether it is a map of MessagePack with few keys; a whole manifest is an array.
fn is_list(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|byte| byte & 0xf0 == 0x80)
}

/// Takes the entries of the next part.
fn next_part<'a>(entries: &mut Entries<'a>) -> Vec<&'a ManifestEntry> {
    let mut part = Vec::new();
    for entry in entries {
        part.push(entry);
        if part.len() == MAX_ENTRIES || Digest::of(entry.path.as_bytes()).bytes()[0] == 0 {
            break;
        }
    }
    part
}

#[cfg(test)]
mod tests {
    use direct_puppet_transport::protocol::EntryKind;
    use proptest::prelude::*;

    use super::*;

    type Parts = BTreeMap<Digest, Vec<u8>>;

    fn encoded(manifest: &Manifest) -> (Vec<u8>, Parts) {
        let mut parts = Parts::new();
        let bytes = encode(manifest, &mut |digest, bytes| {
            parts.insert(digest, bytes);
            Ok(())
        });
        (bytes.unwrap(), parts)
    }

    fn decoded(bytes: &[u8], parts: &Parts) -> Result<Manifest, String> {
        decode(bytes, |digest| parts.get(digest).map(|part| Bytes::from(part.clone())).ok_or_else(|| format!("no {digest}")))
    }

    fn manifest(files: impl IntoIterator<Item = (u32, u8)>) -> Manifest {
        let file = |(number, content): (u32, u8)| ManifestEntry {
            path: format!("file {number:06}").parse().unwrap(),
            mode: 0o644,
            kind: EntryKind::File { digest: Digest::of(&[content]), size: 1 },
        };
        Manifest::new(files.into_iter().map(file).collect()).unwrap()
    }

    /// What differs between two manifests that are held as a whole.
    fn between(base: &Manifest, manifest: &Manifest) -> Differences {
        let is_gone = |entry: &&ManifestEntry| manifest.get(&entry.path).is_none();
        let removed = base.entries().filter(is_gone).map(|entry| entry.path.clone()).collect();
        let changed = manifest.entries().filter(|entry| base.get(&entry.path) != Some(*entry)).cloned().collect();
        Differences { removed, changed }
    }

    #[test]
    fn a_small_manifest_is_one_piece_and_a_large_one_in_parts() {
        for (files, is_divided) in [(0, false), (1, false), (20_000, true)] {
            let manifest = manifest((0..files).map(|number| (number, 1)));
            let (bytes, parts) = encoded(&manifest);
            assert_eq!(!parts.is_empty(), is_divided, "{files}");
            assert_eq!(decoded(&bytes, &parts).unwrap(), manifest);
            assert_eq!(super::parts(&bytes).unwrap().len(), parts.len());
        }
        let (bytes, parts) = encoded(&manifest((0..20_000).map(|number| (number, 1))));
        assert!((40..160).contains(&parts.len()), "{} parts", parts.len());
        let gone = Parts::new();
        assert!(decoded(&bytes, &gone).unwrap_err().starts_with("no "));
        assert!(decoded(&bytes[..bytes.len() - 1], &parts).is_err());
    }

    #[test]
    fn paths_that_end_no_part_do_not_make_it_grow() {
        let is_inner = |number: &u32| Digest::of(format!("file {number:06}").as_bytes()).bytes()[0] != 0;
        let (_, parts) = encoded(&manifest((0..10_000).filter(is_inner).map(|number| (number, 1))));
        assert_eq!(parts.len(), 10_000_usize.div_ceil(MAX_ENTRIES));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn what_differs_little_shares_nearly_all_parts(edits in prop::collection::vec((0..6_000_u32, 0..3_u8), 1..6)) {
            let before: BTreeMap<u32, u8> = (0..6_000).map(|number| (number * 2, 1)).collect();
            let mut after = before.clone();
            for (number, edit) in &edits {
                match edit {
                    0 => drop(after.remove(&(number * 2))),
                    1 => drop(after.insert(number * 2, 2)),
                    _ => drop(after.insert(number * 2 + 1, 1)),
                }
            }
            let base = manifest(before);
            let (base_bytes, before) = encoded(&base);
            let after = manifest(after);
            let (bytes, parts) = encoded(&after);
            prop_assert_eq!(decoded(&bytes, &parts).unwrap(), after.clone());
            let new = parts.keys().filter(|digest| !before.contains_key(*digest)).count();
            prop_assert!(new <= 2 * edits.len(), "{} new parts for {} edits", new, edits.len());
            // What differs is read from those parts alone.
            let mut read = 0;
            let found = differences(&base_bytes, &bytes, |digest| {
                read += 1;
                Ok(parts.get(digest).or_else(|| before.get(digest)).unwrap().clone().into())
            });
            prop_assert_eq!(found.unwrap(), between(&base, &after));
            prop_assert!(read <= 4 * edits.len(), "{} parts read for {} edits", read, edits.len());
        }

        #[test]
        fn what_differs_is_found_between_manifests_of_any_size(
            before in prop::collection::btree_map(0..40_000_u32, 0..2_u8, 0..900),
            after in prop::collection::btree_map(0..40_000_u32, 0..2_u8, 0..900),
        ) {
            let (before, after) = (manifest(before), manifest(after));
            let ((before_bytes, mut parts), (after_bytes, after_parts)) = (encoded(&before), encoded(&after));
            parts.extend(after_parts);
            let read = |digest: &Digest| Ok(parts[digest].clone().into());
            prop_assert_eq!(differences(&before_bytes, &after_bytes, read).unwrap(), between(&before, &after));
        }

        #[test]
        fn any_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(decoded(&bytes, &Parts::new()));
        }
    }
}
