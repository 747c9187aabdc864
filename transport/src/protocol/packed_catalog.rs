//! Catalogs on their way, packed against the one that the receiver holds.
//!
//! Nobody proves the bytes on the way: the receiver takes in no more than was said beforehand, within limits, and compares what comes out with the
//! id of the catalog.

use serde::{Deserialize, Serialize};

use super::columns::Columns;
use super::compress::{DecompressError, compress, decompress, frame_content_bytes};
use super::limits::{MAX_PACKED_CATALOG_BYTES, MAX_UNPACKED_ANYWAY_BYTES, MAX_UNPACKED_RATIO};

/// The feature of a check-in that may be answered with a packed catalog.
pub const PACKED_CATALOG: &str = "zstd";

/// The feature of a check-in that may be answered with a catalog packed [`CatalogLayout::InColumns`], beside [`PACKED_CATALOG`].
pub const CATALOG_IN_COLUMNS: &str = "columns";

/// What a packed catalog's frame holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CatalogLayout {
    /// The catalog as it is, with the one it is packed against as prefix.
    #[default]
    AsItIs,
    /// The catalog taken apart into its shape, digests and numbers, with the other one, likewise taken apart, as prefix: where much changes in
    /// little ways, this takes hardly more than the digests that are new. The format is described in `columns.rs`.
    InColumns,
}

impl CatalogLayout {
    /// Whether it is the one that every reader knows.
    #[must_use]
    pub fn is_as_it_is(&self) -> bool {
        *self == Self::AsItIs
    }
}

/// Packs a catalog, against `base` if that is not empty; `None` when it does not help, or a receiver would not take it in. What cannot be laid
/// out as asked for is packed as it is.
///
/// # Blocking
///
/// As [`compress`]. Laid out in columns, both catalogs are in memory up to four times meanwhile.
#[must_use]
pub fn pack_catalog(catalog: &[u8], base: &[u8], layout: CatalogLayout) -> Option<(CatalogLayout, Vec<u8>)> {
    if !is_within(catalog.len() as u64, u64::MAX, base) {
        return None;
    }
    let is_taken = |packed: &Vec<u8>| packed.len() < catalog.len() && is_within(catalog.len() as u64, packed.len() as u64, base);
    let in_columns = (layout == CatalogLayout::InColumns).then(|| pack_columns(catalog, base)).flatten();
    match in_columns.filter(is_taken) {
        Some(packed) => Some((CatalogLayout::InColumns, packed)),
        None => Some((CatalogLayout::AsItIs, compress(catalog, base).filter(is_taken)?)),
    }
}

fn pack_columns(catalog: &[u8], base: &[u8]) -> Option<Vec<u8>> {
    let base = Columns::take_apart(base)?;
    let laid_out = Columns::take_apart(catalog)?.write(&base)?;
    if laid_out.len() as u64 > most_in_columns(catalog.len() as u64) {
        return None;
    }
    compress(&laid_out, &base.write(&Columns::default())?)
}

/// Unpacks a catalog of `size` bytes; its id is for the caller to compare.
///
/// # Errors
///
/// When it is over a limit, or the frame is damaged or was made against something else.
///
/// # Blocking
///
/// As [`decompress`]. Laid out in columns, both catalogs are in memory up to five times meanwhile.
pub fn unpack_catalog(packed: &[u8], base: &[u8], layout: CatalogLayout, size: u64) -> Result<Vec<u8>, UnpackCatalogError> {
    let length = packed.len() as u64;
    let bytes = usize::try_from(size).ok().filter(|_| is_within(size, length, base));
    let bytes = bytes.ok_or(UnpackCatalogError::TooLarge { size, length })?;
    match layout {
        CatalogLayout::AsItIs => Ok(decompress(packed, base, bytes)?),
        CatalogLayout::InColumns => unpack_columns(packed, base, bytes),
    }
}

fn unpack_columns(packed: &[u8], base: &[u8], size: usize) -> Result<Vec<u8>, UnpackCatalogError> {
    let length = frame_content_bytes(packed).ok_or(UnpackCatalogError::Columns)?;
    let length = usize::try_from(length).ok().filter(|_| length <= most_in_columns(size as u64));
    let length = length.ok_or(UnpackCatalogError::TooLarge { size: size as u64, length: packed.len() as u64 })?;
    let base = Columns::take_apart(base).ok_or(UnpackCatalogError::Columns)?;
    let laid_out = decompress(packed, &base.write(&Columns::default()).ok_or(UnpackCatalogError::Columns)?, length)?;
    let columns = Columns::read(&laid_out, &base, size).ok_or(UnpackCatalogError::Columns)?;
    drop(laid_out);
    columns.put_together(size).ok_or(UnpackCatalogError::Columns)
}

/// How long a catalog of `size` bytes may be laid out in columns; one whose numbers take more than that is not.
const fn most_in_columns(size: u64) -> u64 {
    size.saturating_mul(2).saturating_add(1024)
}

/// Whether a receiver takes in a catalog of `size` bytes that comes as `length`.
fn is_within(size: u64, length: u64, base: &[u8]) -> bool {
    let most = length.saturating_mul(MAX_UNPACKED_RATIO).max(MAX_UNPACKED_ANYWAY_BYTES).saturating_add(base.len() as u64);
    size.max(base.len() as u64) <= MAX_PACKED_CATALOG_BYTES && size <= most
}

/// Why a packed catalog is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackCatalogError {
    /// It says that it is longer than it may be.
    #[error("catalog of {size} bytes packed into {length} is over the limits")]
    TooLarge {
        /// How long it would be, in bytes.
        size: u64,
        /// How long it is packed, in bytes.
        length: u64,
    },
    /// What came is not readable.
    #[error("packed catalog could not be unpacked")]
    Damaged(#[from] DecompressError),
    /// What came out is no catalog taken apart, or what it was packed against cannot be.
    #[error("packed catalog could not be put together from its columns")]
    Columns,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::manifest::{EntryKind, ManifestEntry};
    use crate::protocol::{Digest, codec};

    #[test]
    fn a_catalog_comes_back_and_a_bomb_does_not_go_off() {
        let lines =
            |count: u32| (0..count).flat_map(|line| format!("line {line} of a catalog\n").into_bytes()).collect::<Vec<u8>>();
        let (base, catalog) = (lines(2000), lines(2010));
        let size = catalog.len() as u64;
        for layout in [CatalogLayout::AsItIs, CatalogLayout::InColumns] {
            for base in [&base[..], b""] {
                let (_, packed) = pack_catalog(&catalog, base, layout).unwrap();
                let layout = CatalogLayout::AsItIs;
                assert_eq!(
                    unpack_catalog(&packed, base, layout, size).unwrap(),
                    catalog,
                    "text is no MessagePack that can be taken apart"
                );
                assert!(unpack_catalog(&packed, b"another", layout, size).is_err() || base.is_empty());
                assert!(unpack_catalog(&packed, base, layout, size - 1).is_err());
            }
        }
        assert!(pack_catalog(&catalog, &base, CatalogLayout::AsItIs).unwrap().1.len() < 300);
        // A sender does not make what a receiver would not take.
        let zeros = vec![0; 8 << 20];
        let bomb = compress(&zeros, b"").unwrap();
        let too_large = Err(UnpackCatalogError::TooLarge { size: 8 << 20, length: bomb.len() as u64 });
        for layout in [CatalogLayout::AsItIs, CatalogLayout::InColumns] {
            assert_eq!(pack_catalog(&zeros, b"", layout), None);
            assert_eq!(unpack_catalog(&bomb, b"", layout, zeros.len() as u64), too_large);
            assert!(matches!(unpack_catalog(&[0; 64], b"", layout, u64::MAX), Err(UnpackCatalogError::TooLarge { .. })));
        }
        // A frame that holds much more than the catalog that is to come out of it.
        let long = compress(&zeros[..1 << 20], b"").unwrap();
        let refused = unpack_catalog(&long, b"", CatalogLayout::InColumns, 1000);
        assert_eq!(refused, Err(UnpackCatalogError::TooLarge { size: 1000, length: long.len() as u64 }));
    }

    fn files(count: u64, version: u64, more: u64) -> Vec<u8> {
        let entry = |number: u64| {
            let digest = Digest::of(format!("{number} {version}").as_bytes());
            let kind = EntryKind::File { digest, size: number * 7919 % 9000 + version * 31 };
            ManifestEntry { path: format!("dir{:03}/file{number:05}", number / 32).parse().unwrap(), mode: 0o644, kind }
        };
        let entries: Vec<ManifestEntry> = (0..count).map(entry).chain((0..more).map(|more| entry(count + more))).collect();
        codec::encode(&entries).unwrap()
    }

    #[test]
    fn what_is_far_behind_in_a_large_catalog_is_not_sent_again() {
        let (old, new) = (files(40_000, 1, 0), files(40_000, 1, 3));
        for layout in [CatalogLayout::AsItIs, CatalogLayout::InColumns] {
            let (_, packed) = pack_catalog(&new, &old, layout).unwrap();
            assert!(packed.len() < 2000, "{layout:?}: {} of {}", packed.len(), new.len());
            assert_eq!(unpack_catalog(&packed, &old, layout, new.len() as u64).unwrap(), new);
        }
    }

    #[test]
    fn in_columns_it_takes_hardly_more_than_the_digests_that_are_new() {
        let (old, new) = (files(1000, 1, 0), files(1000, 2, 3));
        let length = |layout| {
            let (packed_as, packed) = pack_catalog(&new, &old, layout).unwrap();
            assert_eq!(packed_as, layout);
            assert_eq!(unpack_catalog(&packed, &old, layout, new.len() as u64).unwrap(), new);
            for wrong in [&old[..old.len() - 1], &files(1000, 3, 0), b""] {
                assert!(unpack_catalog(&packed, wrong, layout, new.len() as u64).map_or(true, |catalog| catalog != new));
            }
            packed.len()
        };
        let (as_it_is, in_columns) = (length(CatalogLayout::AsItIs), length(CatalogLayout::InColumns));
        assert!(in_columns < 1003 * 32 + 300 && as_it_is > in_columns * 11 / 10, "{as_it_is} {in_columns}");
    }
}
