//! How a large content is cut into pieces by what is in it, so that a node that has something like it, which no catalog of its own names,
//! asks only for what it lacks.
//!
//! The node asks of the one content that it wants how it is cut, coarsely and as a whole; cuts what it has in the same way; asks how those
//! stretches of which it has nothing are cut finely; and asks for the bytes of what is left then. Where something was put in or taken out,
//! the pieces after it are cut as before: places do not matter, only what is around them.
//!
//! Pieces are compared by length and a hash of 64 bits that anybody can forge. It decides what is asked for and nothing else: the content
//! that is put together is compared with its digest, as always.
//!
//! Cut by FastCDC (Xia et al., "The Design of Fast Content-Defined Chunking for Data Deduplication Based Storage Systems", 2020) with the gear
//! table and the normalisation, level 1, of the crate `fastcdc`, `v2020`; hashed by XXH3 with 64 bits and seed 0.

use fastcdc::v2020::FastCDC;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::limits::{MAX_PART_BYTES, MAX_PART_STRETCHES};

/// Bytes of a piece on the wire: its length and its hash, little-endian.
pub const PIECE_BYTES: usize = 12;

/// A part of one content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Stretches of the content: where each begins, and how long it is, in bytes. In order, apart, and none of them empty.
    pub stretches: Vec<(u64, u64)>,
    /// How they are to be cut; without it their bytes are wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grain: Option<Grain>,
}

/// How finely a content is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Grain {
    /// Into pieces of some 64 KiB.
    Coarse,
    /// Into pieces of some 1 KiB.
    Fine,
}

/// Why a part is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PartError {
    /// None, or too many.
    #[error("{count} stretches are not 1 to {MAX_PART_STRETCHES}")]
    Count {
        /// How many.
        count: u64,
    },
    /// One is empty, or begins before the one before it ends, or ends after everything.
    #[error("stretches are empty, overlap or do not end")]
    Order,
    /// Together they are too long.
    #[error("stretches of {size} bytes in all are longer than {MAX_PART_BYTES}")]
    TooLong {
        /// How long they are in all, in bytes.
        size: u64,
    },
}

impl Part {
    /// Returns how long the stretches are in all, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.stretches.iter().fold(0, |sum: u64, (_, size)| sum.saturating_add(*size))
    }

    /// Makes sure that somebody can answer this: cut coarsely it may be as long as any content, else not.
    ///
    /// # Errors
    ///
    /// When it is over a limit or contradicts itself.
    pub fn check(&self) -> Result<(), PartError> {
        if !(1..=MAX_PART_STRETCHES).contains(&self.stretches.len()) {
            return Err(PartError::Count { count: self.stretches.len() as u64 });
        }
        let mut end = 0;
        for &(at, size) in &self.stretches {
            if at < end || size == 0 {
                return Err(PartError::Order);
            }
            end = at.checked_add(size).ok_or(PartError::Order)?;
        }
        match self.size() {
            size if size > MAX_PART_BYTES && self.grain != Some(Grain::Coarse) => Err(PartError::TooLong { size }),
            _ => Ok(()),
        }
    }
}

impl Grain {
    /// Returns the least, the usual and the greatest length of a piece, in bytes; the last piece of a stretch may be shorter.
    #[must_use]
    pub const fn sizes(self) -> (usize, usize, usize) {
        match self {
            Self::Coarse => (16 << 10, 64 << 10, 256 << 10),
            Self::Fine => (256, 1 << 10, 4 << 10),
        }
    }

    /// Cuts the beginning of a stretch of which `bytes` are here, as far as they decide it; `is_end` says that there are no more. Returns the
    /// pieces; what is behind them is to be given again, with more.
    #[must_use]
    pub fn cut(self, bytes: &[u8], is_end: bool) -> Vec<Piece> {
        let (min, usual, max) = self.sizes();
        let chunks = FastCDC::new(bytes, min, usual, max);
        // How long a piece may become must be seen before it is known where it ends.
        let is_decided = |chunk: &fastcdc::v2020::Chunk| is_end || bytes.len() - chunk.offset >= max;
        let piece = |chunk: fastcdc::v2020::Chunk| {
            let content = bytes.get(chunk.offset..chunk.offset + chunk.length).unwrap_or_default();
            Piece { size: u32::try_from(chunk.length).unwrap_or(u32::MAX), hash: xxh3_64(content) }
        };
        chunks.take_while(is_decided).map(piece).collect()
    }
}

/// What is known of a piece without its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Piece {
    /// Its length in bytes.
    pub size: u32,
    /// What it is told from others by.
    pub hash: u64,
}

impl Piece {
    /// Writes pieces as they travel.
    #[must_use]
    pub fn encode(pieces: &[Self]) -> Vec<u8> {
        pieces.iter().flat_map(|piece| [&piece.size.to_le_bytes()[..], &piece.hash.to_le_bytes()[..]].concat()).collect()
    }

    /// Reads pieces that make up a stretch of `size` bytes; `None` when they do not.
    #[must_use]
    pub fn decode(bytes: &[u8], size: u64) -> Option<Vec<Self>> {
        let (whole, rest) = bytes.as_chunks::<PIECE_BYTES>();
        let piece = |bytes: &[u8; PIECE_BYTES]| {
            let (size, hash) = bytes.split_first_chunk::<4>()?;
            Some(Self { size: u32::from_le_bytes(*size), hash: u64::from_le_bytes(hash.try_into().ok()?) })
        };
        let pieces: Vec<Self> = whole.iter().map(piece).collect::<Option<_>>()?;
        let is_all = rest.is_empty()
            && pieces.iter().all(|piece| piece.size > 0)
            && pieces.iter().map(|piece| u64::from(piece.size)).sum::<u64>() == size;
        is_all.then_some(pieces)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes that look random and are the same everywhere.
    fn noise(length: usize) -> Vec<u8> {
        (0_u64..).flat_map(|number| xxh3_64(&number.to_le_bytes()).to_le_bytes()).take(length).collect()
    }

    fn all(grain: Grain, content: &[u8], step: usize) -> Vec<Piece> {
        let (mut pieces, mut at, mut seen) = (Vec::new(), 0, 0);
        while at < content.len() {
            seen = (seen + step).min(content.len());
            let cut = grain.cut(&content[at..seen], seen == content.len());
            at += cut.iter().map(|piece| piece.size as usize).sum::<usize>();
            pieces.extend(cut);
        }
        pieces
    }

    #[test]
    fn how_much_is_seen_at_a_time_makes_no_difference() {
        let content = noise(600_000);
        for grain in [Grain::Coarse, Grain::Fine] {
            let whole = all(grain, &content, content.len());
            assert!(whole.len() > 5, "{}", whole.len());
            for step in [1_000, 4_096, 100_001] {
                assert_eq!(all(grain, &content, step), whole, "{grain:?} {step}");
            }
        }
    }

    #[test]
    fn what_is_put_in_changes_the_pieces_around_it_only() {
        let content = noise(400_000);
        let mut other = content.clone();
        other.splice(200_000..200_000, *b"something new");
        let (before, after) = (all(Grain::Fine, &content, 400_000), all(Grain::Fine, &other, 500_000));
        let new = after.iter().filter(|piece| !before.contains(piece)).count();
        assert!((1..=4).contains(&new), "{new} of {}", after.len());
    }

    /// Cut somewhere else, nothing that another program has would be found: the format is what it is here.
    #[test]
    fn the_cuts_are_these() {
        let sizes = |grain| all(grain, &noise(300_000), 300_000).iter().map(|piece| piece.size).take(4).collect::<Vec<_>>();
        assert_eq!(sizes(Grain::Coarse), [72_471, 80_266, 42_267, 68_235]);
        assert_eq!(sizes(Grain::Fine), [1_226, 1_152, 1_163, 1_066]);
        assert_eq!(Grain::Fine.cut(b"abc", true), [Piece { size: 3, hash: 0x78AF_5F94_892F_3950 }]);
    }

    #[test]
    fn parts_that_make_no_sense_are_refused() {
        let part = |stretches: &[(u64, u64)], grain| Part { stretches: stretches.to_vec(), grain }.check();
        assert_eq!(part(&[(0, 1), (1, 2), (10, 1)], None), Ok(()));
        assert_eq!(part(&[], None), Err(PartError::Count { count: 0 }));
        assert_eq!(
            part(&vec![(0, 1); MAX_PART_STRETCHES + 1], None),
            Err(PartError::Count { count: MAX_PART_STRETCHES as u64 + 1 })
        );
        for wrong in [&[(0, 0)][..], &[(0, 2), (1, 2)], &[(5, 1), (0, 1)], &[(u64::MAX, 2)]] {
            assert_eq!(part(wrong, Some(Grain::Coarse)), Err(PartError::Order), "{wrong:?}");
        }
        let long = [(0, MAX_PART_BYTES), (MAX_PART_BYTES, 1)];
        assert_eq!(part(&long, Some(Grain::Fine)), Err(PartError::TooLong { size: MAX_PART_BYTES + 1 }));
        assert_eq!(part(&long, Some(Grain::Coarse)), Ok(()));
    }

    proptest! {
        #[test]
        fn pieces_come_back(pieces in proptest::collection::vec((1..1_000_000_u32, any::<u64>()), 0..20), junk in 1..PIECE_BYTES) {
            let pieces: Vec<Piece> = pieces.into_iter().map(|(size, hash)| Piece { size, hash }).collect();
            let (size, mut bytes) = (pieces.iter().map(|piece| u64::from(piece.size)).sum::<u64>(), Piece::encode(&pieces));
            prop_assert_eq!(Piece::decode(&bytes, size + 1), None);
            prop_assert_eq!(Piece::decode(&bytes, size), Some(pieces));
            bytes.extend(vec![0; junk]);
            prop_assert_eq!(Piece::decode(&bytes, size), None);
        }
    }
}
