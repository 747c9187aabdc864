//! Contents that are asked for by their places in catalogs, and what the node has instead of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use direct_puppet_transport::protocol::pack::ZSTD;
use direct_puppet_transport::protocol::{CatalogId, Digest, Encoding, Pack, PackedFetch, TreePath};

use crate::fs::Root;

/// What a node can say of contents beside their digests. What turns out to be no good is taken out, so that nothing is asked for twice
/// in the same way.
#[derive(Debug)]
pub(crate) struct Packing {
    pub(crate) root: Root,
    /// The catalog that names what is missing, and the place of each content in it.
    pub(crate) catalog_id: CatalogId,
    pub(crate) places: HashMap<Digest, u32>,
    /// The catalog that named what the node has.
    pub(crate) base_catalog_id: Option<CatalogId>,
    /// What the node has instead, by what is missing.
    pub(crate) bases: HashMap<Digest, Base>,
    /// Large files that are to get another content, by what is missing, where nobody knows what they have.
    pub(crate) alike: HashMap<Digest, TreePath>,
}

/// A file that has another content than it should, as the catalog of before named it. Whether it still has is seen from what comes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Base {
    pub(crate) place: u32,
    pub(crate) path: TreePath,
    pub(crate) size: u64,
}

/// One content that was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) base: Option<Base>,
}

/// A pack with the contents that it should hold.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) pack: Pack,
    pub(super) items: Vec<Arc<Item>>,
    pub(super) bytes: Bytes,
}

/// What was asked for in one request, by number.
#[derive(Debug, Default)]
pub(super) struct Asked {
    items: Vec<Arc<Item>>,
    /// The content of which a part came last, and where it goes on.
    open: Option<(u32, u64)>,
    /// Whether the server has answered any of it.
    is_answered: bool,
}

impl Packing {
    /// Returns how a content can be asked for: its place, and what the node has instead.
    pub(super) fn find(&self, digest: &Digest) -> Option<(u32, Option<&Base>)> {
        Some((*self.places.get(digest)?, self.bases.get(digest)))
    }

    /// What came for a content was not it: it is put together from pieces or asked for without a base then, or else by digest.
    pub(super) fn give_up(&mut self, digest: &Digest) {
        match self.bases.remove(digest) {
            Some(base) => drop(self.alike.insert(*digest, base.path)),
            None => drop(self.places.remove(digest)),
        }
    }

    /// Returns the request for these contents, and what is to be expected; `None` for none.
    pub(super) fn ask(&self, contents: impl Iterator<Item = (Digest, u64)>) -> (Option<PackedFetch>, Asked) {
        let mut found: Vec<(u32, Item)> = contents
            .filter_map(|(digest, size)| {
                let (place, base) = self.find(&digest)?;
                Some((place, Item { digest, size, base: base.cloned() }))
            })
            .collect();
        if found.is_empty() {
            return (None, Asked::default());
        }
        found.sort_unstable_by_key(|(place, _)| *place);
        let places = found.iter().map(|(place, item)| (*place, item.base.as_ref().map(|base| base.place)));
        let request = PackedFetch {
            catalog_id: self.catalog_id,
            base_catalog_id: self.base_catalog_id.filter(|_| found.iter().any(|(_, item)| item.base.is_some())),
            encodings: vec![ZSTD.to_owned()],
            spans: PackedFetch::spans(places),
            part: None,
        };
        let items = found.into_iter().map(|(_, item)| Arc::new(item)).collect();
        (Some(request), Asked { items, open: None, is_answered: false })
    }
}

impl Asked {
    /// Whether something was asked for, and the server passed over all of it: it does not know how.
    pub(super) fn is_passed_over(&self) -> bool {
        !self.items.is_empty() && !self.is_answered
    }

    /// Notes that the server does not have a content.
    pub(super) fn miss(&mut self, digest: &Digest) {
        self.is_answered |= self.items.iter().any(|item| item.digest == *digest);
    }

    /// Checks a pack against what was asked for, before a byte of it is taken in; says what is wrong with it.
    pub(super) fn take(&mut self, pack: Pack, wanted: &BTreeSet<Digest>) -> Result<Packed, String> {
        if pack.encoding == Encoding::Pieces {
            return Err("how contents are cut was not asked for".to_owned());
        }
        let first = usize::try_from(pack.first).unwrap_or(usize::MAX);
        let items = first.checked_add(pack.count as usize).and_then(|end| self.items.get(first..end));
        let items = items.ok_or_else(|| format!("contents {} and {} more were not asked for", pack.first, pack.count))?;
        if let Some(item) = items.iter().find(|item| !wanted.contains(&item.digest)) {
            return Err(format!("content {} was not asked for", item.digest));
        }
        let size = items.iter().fold(0, |sum: u64, item| sum.saturating_add(item.size));
        let end = pack.at.saturating_add(pack.size);
        let expected = self.open.map_or((pack.first, 0), |open| open);
        let is_next = if pack.at > 0 { expected == (pack.first, pack.at) } else { true };
        let is_part = end < size && pack.count == 1 && pack.size > 0;
        if !is_next || end > size || (end < size && !is_part) {
            return Err(format!("{} bytes at {} of contents of {size} bytes are out of order", pack.size, pack.at));
        }
        if let Some(base) = pack.base {
            let sizes: Option<Vec<u64>> = items.iter().map(|item| Some(item.base.as_ref()?.size)).collect();
            let there = sizes.map(|sizes| sizes.iter().fold(0, |sum: u64, size| sum.saturating_add(*size)));
            let fits = |there| match pack.count {
                1 => base.at.checked_add(base.size).is_some_and(|end| end <= there),
                _ => base.size == there,
            };
            if !there.is_some_and(fits) {
                return Err(format!("{} bytes at {} are not what this node has", base.size, base.at));
            }
        }
        self.open = is_part.then_some((pack.first, end));
        self.is_answered = true;
        Ok(Packed { pack, items: items.to_vec(), bytes: Bytes::new() })
    }
}

impl Packed {
    /// Whether this is several contents, or one that is whole and in memory.
    pub(super) fn is_whole(&self) -> bool {
        self.pack.encoding != Encoding::Copy && (self.pack.count > 1 || self.items.iter().all(|item| item.size == self.pack.size))
    }
}

#[cfg(test)]
mod tests {
    use direct_puppet_transport::protocol::PackBase;

    use super::*;

    fn base(place: u32, size: u64) -> Base {
        Base { place, path: format!("file{place}").parse().unwrap(), size }
    }

    /// Three contents of 10, 20 and 300 bytes; the last two have bases of 15 and 250.
    fn asked() -> (PackedFetch, Asked, BTreeSet<Digest>) {
        let dir = tempfile::tempdir().unwrap();
        let digests = [b"0", b"1", b"2"].map(|content| Digest::of(content));
        let packing = Packing {
            root: Root::open(dir.path()).unwrap(),
            catalog_id: CatalogId::of(b"new"),
            places: (4..).step_by(2).zip(digests).map(|(place, digest)| (digest, place)).collect(),
            base_catalog_id: Some(CatalogId::of(b"old")),
            alike: HashMap::new(),
            bases: [(digests[1], base(7, 15)), (digests[2], base(9, 250))].into(),
        };
        let (request, asked) = packing.ask(digests.into_iter().zip([10, 20, 300]));
        (request.unwrap(), asked, digests.into())
    }

    fn pack(first: u32, count: u32, size: u64, base: Option<(u64, u64)>) -> Pack {
        let base = base.map(|(at, size)| PackBase { at, size });
        Pack { first, count, at: 0, size, length: 5, encoding: Encoding::Zstd, base }
    }

    #[test]
    fn what_is_asked_for_is_what_may_come() {
        let (request, mut asked, wanted) = asked();
        assert_eq!(request.places().collect::<Vec<_>>(), [(4, None), (6, Some(7)), (8, Some(9))]);
        assert!(asked.is_passed_over());
        assert!(asked.take(pack(0, 1, 10, None), &wanted).unwrap().is_whole());
        assert!(!asked.is_passed_over());
        assert!(asked.take(pack(1, 2, 320, Some((0, 265))), &wanted).unwrap().is_whole());
        assert!(asked.take(pack(0, 3, 330, None), &wanted).unwrap().is_whole());
        // In parts.
        let part = |at, size| Pack { at, ..pack(2, 1, size, Some((240, 10))) };
        assert!(!asked.take(part(0, 100), &wanted).unwrap().is_whole());
        assert!(asked.take(part(100, 150), &wanted).is_ok());
        assert!(asked.take(part(250, 50), &wanted).is_ok());
    }

    #[test]
    fn what_was_not_asked_for_is_refused() {
        for wrong in [
            pack(3, 1, 10, None),
            pack(2, 2, 310, None),
            pack(u32::MAX, 4096, 10, None),
            pack(0, 1, 11, None),
            pack(0, 2, 29, None),
            Pack { encoding: Encoding::Pieces, length: 12, ..pack(0, 1, 10, None) },
            // An empty part would never come to an end.
            pack(2, 1, 0, None),
            pack(0, 1, 10, Some((0, 1))),
            pack(1, 1, 20, Some((10, 6))),
            pack(1, 1, 20, Some((u64::MAX, 6))),
            pack(1, 2, 320, Some((0, 264))),
            pack(0, 2, 30, Some((0, 15))),
            Pack { at: 100, ..pack(2, 1, 100, None) },
        ] {
            let (_, mut asked, wanted) = asked();
            assert!(asked.take(wrong, &wanted).is_err(), "{wrong:?}");
        }
        let (_, mut asked, mut wanted) = asked();
        asked.take(pack(2, 1, 100, None), &wanted).unwrap();
        assert!(asked.take(Pack { at: 200, ..pack(2, 1, 100, None) }, &wanted).is_err(), "a hole");
        wanted.remove(&Digest::of(b"0"));
        assert!(asked.take(pack(0, 1, 10, None), &wanted).is_err(), "it came before");
    }
}
