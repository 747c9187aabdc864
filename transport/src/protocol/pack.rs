//! Contents that travel packed: small ones together, large ones in parts, each against what the receiver has.
//!
//! A node that holds the catalog of before and wants contents of the next one need not name them: both ends have the catalogs.
//! It asks by place, as [`Span`]s, and says in the same breath which content of the old catalog it still has at each. What is not in
//! a catalog of this very node cannot be named so, neither as what is wanted nor as what it is compared with.
//!
//! The answer is a sequence of [`Pack`]s. Its bytes are proved by nobody on the way: the receiver unpacks at most what the header
//! said, which is at most [`MAX_PACK_BYTES`], and compares each content with the digest in its catalog, as always.

use serde::{Deserialize, Serialize};

use super::compress::{DecompressError, decompress, frame_content_bytes};
use super::ids::CatalogId;
use super::limits::{MAX_PACK_BASE_BYTES, MAX_PACK_BYTES, MAX_PACK_CONTENTS, MAX_UNPACKED_ANYWAY_BYTES, MAX_UNPACKED_RATIO};
use super::pieces::{PIECE_BYTES, Part};

/// The name of [`Encoding::Zstd`] among accepted encodings.
pub const ZSTD: &str = "zstd";

/// Contents asked for by their places in catalogs of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackedFetch {
    /// The catalog that names the contents, in the order of [`Catalog::contents`](super::catalog::Catalog::contents).
    pub catalog_id: CatalogId,
    /// The catalog that names what this node has instead. One that the server does not have any more counts as not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_catalog_id: Option<CatalogId>,
    /// Encodings that this node understands beside [`Encoding::Identity`] and [`Encoding::Copy`]; unknown ones are passed over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub encodings: Vec<String>,
    /// What is wanted.
    pub spans: Vec<Span>,
    /// Of the one content that is wanted, only this. A server that does not know this sends all of it; one that does sends, as packs with the
    /// number 0, what it has to say of the stretches one after the other: [`Pack::at`] counts the bytes of the stretches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
}

/// Contents that stand one after the other in a catalog; on the wire an array of three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u32, u32, Option<u32>)", into = "(u32, u32, Option<u32>)")]
pub struct Span {
    /// The place of the first one.
    pub first: u32,
    /// How many there are.
    pub count: u32,
    /// The place, in the base catalog, of what this node has instead of the first one; the others follow there too.
    pub base: Option<u32>,
}

impl From<(u32, u32, Option<u32>)> for Span {
    fn from((first, count, base): (u32, u32, Option<u32>)) -> Self {
        Self { first, count, base }
    }
}

impl From<Span> for (u32, u32, Option<u32>) {
    fn from(span: Span) -> Self {
        (span.first, span.count, span.base)
    }
}

impl PackedFetch {
    /// Returns whether this node understands zstd.
    #[must_use]
    pub fn accepts_zstd(&self) -> bool {
        self.encodings.iter().any(|name| name == ZSTD)
    }

    /// Returns how many contents are asked for.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.spans.iter().fold(0, |sum: u64, span| sum.saturating_add(u64::from(span.count)))
    }

    /// Returns the place of each content that is asked for, and that of its base, in order. There are [`PackedFetch::count`] of them:
    /// look at that first.
    pub fn places(&self) -> impl Iterator<Item = (u64, Option<u64>)> {
        self.spans.iter().flat_map(|span| {
            let nth = |place: u32, n: u32| u64::from(place) + u64::from(n);
            (0..span.count).map(move |n| (nth(span.first, n), span.base.map(|base| nth(base, n))))
        })
    }

    /// Returns the spans of these places, in order.
    pub fn spans(places: impl IntoIterator<Item = (u32, Option<u32>)>) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        for (place, base) in places {
            let goes_on = |last: &Span| {
                let next = |place: u32| place.checked_add(last.count);
                next(last.first) == Some(place) && last.base.map(next) == base.map(Some)
            };
            match spans.last_mut() {
                Some(last) if goes_on(last) => last.count += 1,
                _ => spans.push(Span { first: place, count: 1, base }),
            }
        }
        spans
    }
}

/// How the bytes of a pack are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Encoding {
    /// As they are.
    Identity,
    /// One zstd frame, whose prefix is what the pack refers to.
    Zstd,
    /// No bytes at all: they are what the pack refers to.
    Copy,
    /// How the contents are cut, see [`super::pieces`]; only for who asks for that.
    Pieces,
}

/// Where a pack refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackBase {
    /// The first byte, in what the receiver has instead of the content; 0 for several contents.
    #[serde(default)]
    pub at: u64,
    /// How many bytes; for several contents, the lengths of everything that the receiver has instead of them together.
    pub size: u64,
}

/// The header of a pack: several whole contents one after the other, or one part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pack {
    /// The first content: its number among those asked for in [`PackedFetch::spans`], counted from 0.
    pub first: u32,
    /// How many contents.
    pub count: u32,
    /// Where in the content the part begins; parts of a content come in order and leave nothing out. 0 for several contents.
    #[serde(default)]
    pub at: u64,
    /// How many bytes of contents this is, unpacked.
    pub size: u64,
    /// How many bytes follow.
    pub length: u64,
    /// What they are.
    pub encoding: Encoding,
    /// What of that which the receiver has they refer to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<PackBase>,
}

/// Why a pack makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// Over a limit.
    #[error(
        "{size} bytes packed into {length} against {base} are over the limits of {MAX_PACK_BYTES} and {MAX_PACK_BASE_BYTES} bytes"
    )]
    TooLarge {
        /// How many bytes of contents.
        size: u64,
        /// How many follow.
        length: u64,
        /// How many it refers to.
        base: u64,
    },
    /// None, or too many.
    #[error("{count} contents are not 1 to {MAX_PACK_CONTENTS}")]
    Count {
        /// How many contents.
        count: u32,
    },
    /// Its fields contradict each other.
    #[error("{size} bytes, {length} packed, do not fit the encoding")]
    Contradiction {
        /// How many bytes of contents.
        size: u64,
        /// How many follow.
        length: u64,
    },
}

impl Pack {
    /// Makes sure that a receiver can take this pack in: everything that it allocates is bounded by what is checked here.
    ///
    /// # Errors
    ///
    /// When it is over a limit or contradicts itself.
    pub fn check(&self) -> Result<(), PackError> {
        let Self { count, at, size, length, encoding, base, .. } = *self;
        if !(1..=MAX_PACK_CONTENTS).contains(&count) {
            return Err(PackError::Count { count });
        }
        let has_part = at > 0 || base.is_some_and(|base| base.at > 0);
        let base_size = base.map_or(0, |base| base.size);
        let (fits, is_within) = match encoding {
            Encoding::Identity => (base.is_none() && length == size, size <= MAX_PACK_BYTES),
            // What is no shorter travels as it is: a frame is never longer than what comes out of it.
            Encoding::Zstd => (length < size, size <= MAX_PACK_BYTES && base_size <= MAX_PACK_BASE_BYTES),
            // Copied piece by piece: it may be as long as the content, which the receiver knows.
            Encoding::Copy => (count == 1 && length == 0 && base.is_some() && base_size == size, true),
            // Pieces have a byte at least.
            Encoding::Pieces => {
                let pieces = length / PIECE_BYTES as u64;
                (
                    count == 1 && base.is_none() && length % PIECE_BYTES as u64 == 0 && (1..=size).contains(&pieces),
                    length <= MAX_PACK_BYTES,
                )
            }
        };
        match (fits && (count == 1 || !has_part), is_within) {
            (_, false) => Err(PackError::TooLarge { size, length, base: base_size }),
            (false, true) => Err(PackError::Contradiction { size, length }),
            (true, true) => Ok(()),
        }
    }
}

/// Returns how long a request is, in bytes, that comes as one zstd frame, if a receiver takes it in: it is no longer than `limit`, and no more
/// than [`MAX_UNPACKED_RATIO`] times as long as the frame where that is over [`MAX_UNPACKED_ANYWAY_BYTES`].
///
/// # Errors
///
/// When the frame does not say how long it is, or is over a limit: nothing is allocated then.
pub fn unpacked_request_bytes(packed: &[u8], limit: u64) -> Result<u64, UnpackRequestError> {
    let size = frame_content_bytes(packed).ok_or(UnpackRequestError::NoSize)?;
    let most = (packed.len() as u64).saturating_mul(MAX_UNPACKED_RATIO).max(MAX_UNPACKED_ANYWAY_BYTES).min(limit);
    if size > most { Err(UnpackRequestError::TooLong { size, most }) } else { Ok(size) }
}

/// Unpacks a request that comes as one zstd frame, within the limits of [`unpacked_request_bytes`].
///
/// # Errors
///
/// When it is over a limit, or the frame is damaged.
///
/// # Blocking
///
/// As [`decompress`].
pub fn unpack_request(packed: &[u8], limit: u64) -> Result<Vec<u8>, UnpackRequestError> {
    let size = unpacked_request_bytes(packed, limit)?;
    let bytes = usize::try_from(size).map_err(|_| UnpackRequestError::TooLong { size, most: limit })?;
    Ok(decompress(packed, &[], bytes)?)
}

/// Why a request that came packed was not taken in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackRequestError {
    /// It is no frame, or one without its length.
    #[error("it is no zstd frame that says how long it is unpacked")]
    NoSize,
    /// Over a limit.
    #[error("it is {size} bytes long unpacked, {most} are taken of what it came as")]
    TooLong {
        /// What the frame says, in bytes.
        size: u64,
        /// What is taken, in bytes.
        most: u64,
    },
    /// The frame is damaged.
    #[error(transparent)]
    Damaged(#[from] DecompressError),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn spans_say_the_same_places(places in proptest::collection::vec((0..40_u32, proptest::option::of(0..40_u32)), 0..30)) {
            let spans = PackedFetch::spans(places.iter().copied());
            let (catalog_id, base_catalog_id, encodings, part) = (CatalogId::of(b""), None, Vec::new(), None);
            let request = PackedFetch { catalog_id, base_catalog_id, encodings, spans, part };
            let wide = places.iter().map(|(place, base)| (u64::from(*place), base.map(u64::from)));
            prop_assert_eq!(request.places().collect::<Vec<_>>(), wide.collect::<Vec<_>>());
            prop_assert_eq!(request.count(), places.len() as u64);
        }
    }

    #[test]
    fn neighbours_share_a_span_and_none_wraps_around() {
        let places = [(4, Some(2)), (5, Some(3)), (6, None), (7, None), (9, None), (u32::MAX, Some(u32::MAX)), (0, Some(0))];
        let spans = PackedFetch::spans(places);
        let span = |first, count, base| Span { first, count, base };
        let last = [span(u32::MAX, 1, Some(u32::MAX)), span(0, 1, Some(0))];
        assert_eq!(spans, [&[span(4, 2, Some(2)), span(6, 2, None), span(9, 1, None)][..], &last].concat());
    }

    #[test]
    fn what_a_receiver_cannot_take_in_is_refused() {
        let base = |at, size| Some(PackBase { at, size });
        let zstd = Pack { first: 0, count: 2, at: 0, size: 100, length: 20, encoding: Encoding::Zstd, base: base(0, 90) };
        let copy =
            Pack { count: 1, at: 1 << 40, size: 1 << 40, length: 0, encoding: Encoding::Copy, base: base(7, 1 << 40), ..zstd };
        let plain = Pack { length: 100, encoding: Encoding::Identity, base: None, ..zstd };
        for good in [zstd, copy, plain, Pack { count: 1, at: 5, base: base(3, 10), ..zstd }] {
            assert_eq!(good.check(), Ok(()), "{good:?}");
        }
        for large in [
            Pack { size: MAX_PACK_BYTES + 1, ..zstd },
            Pack { size: u64::MAX, length: u64::MAX, ..plain },
            Pack { base: base(0, MAX_PACK_BASE_BYTES + 1), ..zstd },
        ] {
            assert!(matches!(large.check(), Err(PackError::TooLarge { .. })), "{large:?}");
        }
        for count in [0, MAX_PACK_CONTENTS + 1] {
            assert_eq!(Pack { count, ..zstd }.check(), Err(PackError::Count { count }));
        }
        for wrong in [
            Pack { length: 100, ..zstd },
            Pack { at: 1, ..zstd },
            Pack { base: base(1, 90), ..zstd },
            Pack { length: 99, ..plain },
            Pack { base: base(0, 100), ..plain },
            Pack { length: 1, ..copy },
            Pack { base: None, ..copy },
            Pack { base: base(7, 5), ..copy },
            Pack { count: 2, at: 0, base: base(0, 1 << 40), ..copy },
        ] {
            assert!(matches!(wrong.check(), Err(PackError::Contradiction { .. })), "{wrong:?}");
        }
    }
}
