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

use bytes::Bytes;
use direct_puppet_transport::protocol::manifest::Entries;
use direct_puppet_transport::protocol::{Digest, Manifest, ManifestBuilder, ManifestEntry, codec};
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
        let part = read(&digest)?;
        let part: Vec<ManifestEntry> = codec::decode(&part, MAX_PART_BYTES).map_err(|error| error.to_string())?;
        part.into_iter().for_each(|entry| manifest.push(entry));
    }
    manifest.build().map_err(|error| error.to_string())
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
    use std::collections::BTreeMap;

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
            let (_, before) = encoded(&manifest(before));
            let after = manifest(after);
            let (bytes, parts) = encoded(&after);
            prop_assert_eq!(decoded(&bytes, &parts).unwrap(), after);
            let new = parts.keys().filter(|digest| !before.contains_key(*digest)).count();
            prop_assert!(new <= 2 * edits.len(), "{} new parts for {} edits", new, edits.len());
        }

        #[test]
        fn any_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(decoded(&bytes, &Parts::new()));
        }
    }
}
