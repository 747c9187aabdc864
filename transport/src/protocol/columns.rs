//! A catalog taken apart, so that two versions of it have little that differs.
//!
//! What changes between two catalogs of a node is mostly digests and sizes, here and there all over it. Digests do not compress, and each one
//! among other bytes costs several more to say where it stands. So the catalog's MessagePack is taken apart into
//!
//! - its *shape*: all of it, with each unsigned integer as the one byte 0xcf, each array's beginning as 0xdd, and each digest without its 32
//!   bytes,
//! - its *digests*, one after the other,
//! - its *numbers*, the unsigned integers and the counts of arrays: as what differs from those at the same places of the base, as far as the
//!   two shapes begin and end alike, else as they are.
//!
//! ```text
//! length of the shape: u32 | digests: u32 | the shape | 32 bytes for each digest | a LEB128 for each number          little-endian
//! ```
//!
//! Pure and total: any bytes have a result or none. What comes out is compared with the catalog's id by the caller, as always.

use super::digest::DIGEST_BYTES;

/// What an unsigned integer is in a shape: the marker of the longest, without its eight bytes.
const NUMBER: u8 = 0xcf;

/// What the beginning of an array is in a shape, likewise.
const ARRAY: u8 = 0xdd;

/// What a digest begins with in MessagePack: the marker of bytes, their count, and then its algorithm.
const DIGEST: [u8; 2] = [0xc4, 33];

/// Bytes in front of the shape.
const HEADER_BYTES: usize = 8;

/// How many numbers there may be in so many bytes of shape: in memory each takes twelve. In a catalog of files there is one to some twenty.
const fn most_numbers(shape: usize) -> usize {
    shape / 8 + 256
}

/// A catalog taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Columns {
    shape: Vec<u8>,
    digests: Vec<u8>,
    numbers: Vec<u64>,
    /// Where in the shape each number stands.
    places: Vec<u32>,
}

/// One token of MessagePack; what is in an array or a map follows as tokens of their own.
enum Token {
    /// Stays in the shape; so many bytes.
    Other(usize),
    /// A number of so many bytes, with its marker.
    Number(usize, Number),
    /// Bytes of a digest's length.
    Digest,
}

/// What goes to the numbers.
#[derive(Clone, Copy)]
enum Number {
    Integer(u64),
    /// How many are in an array.
    Count(u64),
}

impl Number {
    const fn value(self) -> u64 {
        match self {
            Self::Integer(value) | Self::Count(value) => value,
        }
    }

    const fn with(self, value: u64) -> Self {
        match self {
            Self::Integer(_) => Self::Integer(value),
            Self::Count(_) => Self::Count(value),
        }
    }

    const fn in_shape(self) -> u8 {
        match self {
            Self::Integer(_) => NUMBER,
            Self::Count(_) => ARRAY,
        }
    }

    /// Returns the shortest MessagePack, and how many bytes of it count; `None` when there is none.
    fn shortest(self) -> Option<([u8; 9], usize)> {
        let (marker, width) = match self {
            Self::Integer(0..=0x7f) => (None, 1),
            Self::Integer(0x80..=0xff) => (Some(0xcc), 1),
            Self::Integer(0x100..=0xffff) => (Some(0xcd), 2),
            Self::Integer(0x1_0000..=0xffff_ffff) => (Some(0xce), 4),
            Self::Integer(_) => (Some(0xcf), 8),
            Self::Count(0..=0xf) => (None, 1),
            Self::Count(0x10..=0xffff) => (Some(0xdc), 2),
            Self::Count(0x1_0000..=0xffff_ffff) => (Some(0xdd), 4),
            Self::Count(_) => return None,
        };
        let mut encoded = [0; 9];
        let first = usize::from(marker.is_some());
        encoded[first..first + width].copy_from_slice(&self.value().to_be_bytes()[8 - width..]);
        match (marker, self) {
            (Some(marker), _) => encoded[0] = marker,
            (None, Self::Count(_)) => encoded[0] |= 0x90,
            (None, Self::Integer(_)) => {}
        }
        Some((encoded, first + width))
    }
}

impl Columns {
    /// Takes MessagePack apart; `None` when it is none, not in its shortest form, so that it would not come back as it was, or hardly anything
    /// but numbers.
    pub(super) fn take_apart(mut bytes: &[u8]) -> Option<Self> {
        let mut columns = Self::default();
        while !bytes.is_empty() {
            let length = match next(bytes)? {
                Token::Other(length) => {
                    columns.shape.extend_from_slice(bytes.get(..length)?);
                    length
                }
                Token::Number(length, number) => {
                    let place = columns.shape.len();
                    let is_room = columns.numbers.len() < most_numbers(place);
                    columns.places.push(u32::try_from(place).ok().filter(|_| is_room)?);
                    columns.shape.push(number.in_shape());
                    columns.numbers.push(number.value());
                    (number.shortest()?.1 == length).then_some(length)?
                }
                Token::Digest => {
                    let (head, digest) = bytes.get(..DIGEST.len() + 1 + DIGEST_BYTES)?.split_at(DIGEST.len() + 1);
                    columns.shape.extend_from_slice(head);
                    columns.digests.extend_from_slice(digest);
                    head.len() + digest.len()
                }
            };
            bytes = &bytes[length..];
        }
        Some(columns)
    }

    /// Returns the bytes that were taken apart: `size`, or none.
    pub(super) fn put_together(&self, size: usize) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(size);
        let (mut shape, mut digests, mut numbers) = (&self.shape[..], self.digests.chunks(DIGEST_BYTES), self.numbers.iter());
        while !shape.is_empty() {
            let length = match next_of_shape(shape)? {
                Token::Other(length) => {
                    bytes.extend_from_slice(shape.get(..length)?);
                    length
                }
                Token::Number(length, number) => {
                    let (encoded, encoded_length) = number.with(*numbers.next()?).shortest()?;
                    bytes.extend_from_slice(&encoded[..encoded_length]);
                    length
                }
                Token::Digest => {
                    let head = shape.get(..DIGEST.len() + 1)?;
                    bytes.extend_from_slice(head);
                    bytes.extend_from_slice(digests.next()?);
                    head.len()
                }
            };
            if bytes.len() > size {
                return None;
            }
            shape = &shape[length..];
        }
        (bytes.len() == size && digests.next().is_none() && numbers.next().is_none()).then_some(bytes)
    }

    /// Returns the columns as they travel, with numbers as what differs from `base`.
    pub(super) fn write(&self, base: &Self) -> Option<Vec<u8>> {
        let (shape, digests) = (u32::try_from(self.shape.len()).ok()?, u32::try_from(self.digests.len() / DIGEST_BYTES).ok()?);
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.shape.len() + self.digests.len() + 2 * self.numbers.len());
        bytes.extend_from_slice(&shape.to_le_bytes());
        bytes.extend_from_slice(&digests.to_le_bytes());
        bytes.extend_from_slice(&self.shape);
        bytes.extend_from_slice(&self.digests);
        let alike = self.alike(base);
        for (at, number) in self.numbers.iter().enumerate() {
            let number = alike.of(base, at).map_or(*number, |base| zigzag(number.wrapping_sub(base)));
            write_leb128(&mut bytes, number);
        }
        Some(bytes)
    }

    /// Takes in what [`Columns::write`] made against the same base, of `size` bytes of MessagePack; `None` when it cannot be.
    pub(super) fn read(bytes: &[u8], base: &Self, size: usize) -> Option<Self> {
        let (header, rest) = bytes.split_at_checked(HEADER_BYTES)?;
        let [shape, digests] = [0, 4].map(|at| header[at..].first_chunk().map(|bytes| u32::from_le_bytes(*bytes) as usize));
        let (shape, rest) = rest.split_at_checked(shape?)?;
        let (digests, mut rest) = rest.split_at_checked(digests?.checked_mul(DIGEST_BYTES)?)?;
        // Each number has a byte in either.
        if shape.len().saturating_add(digests.len()) > size {
            return None;
        }
        let mut columns = Self { shape: shape.to_vec(), digests: digests.to_vec(), ..Self::default() };
        columns.places = places(shape)?;
        columns.numbers.reserve_exact(columns.places.len());
        let alike = columns.alike(base);
        for at in 0..columns.places.len() {
            let number = read_leb128(&mut rest)?;
            let number = alike.of(base, at).map_or(number, |base| unzigzag(number).wrapping_add(base));
            columns.numbers.push(number);
        }
        rest.is_empty().then_some(columns)
    }

    /// Finds how far two shapes begin and end alike: from nothing else, so that both ends find the same.
    fn alike(&self, base: &Self) -> Alike {
        let pairs = || self.shape.iter().zip(&base.shape);
        let front = pairs().take_while(|(a, b)| a == b).count();
        let most = self.shape.len().min(base.shape.len()) - front;
        let ends = self.shape.iter().rev().zip(base.shape.iter().rev());
        let back = ends.take(most).take_while(|(a, b)| a == b).count();
        let before = |columns: &Self, end: usize| columns.places.partition_point(|place| (*place as usize) < end);
        let in_front = before(self, front);
        let at_back = |columns: &Self| columns.places.len() - before(columns, columns.shape.len() - back);
        let behind = at_back(self).min(at_back(base));
        Alike { in_front, first_behind: self.places.len() - behind, base_first_behind: base.places.len() - behind }
    }
}

/// Which numbers of two catalogs stand at the same places.
struct Alike {
    in_front: usize,
    first_behind: usize,
    base_first_behind: usize,
}

impl Alike {
    /// Returns the number of the base at the place of the one with this number here.
    fn of(&self, base: &Columns, at: usize) -> Option<u64> {
        let there = if at < self.in_front { at } else { at.checked_sub(self.first_behind)? + self.base_first_behind };
        base.numbers.get(there).copied()
    }
}

/// Returns where the numbers of a shape stand; `None` when it is none, or hardly anything but numbers.
fn places(shape: &[u8]) -> Option<Vec<u32>> {
    let (mut places, mut at) = (Vec::new(), 0);
    while at < shape.len() {
        let length = match next_of_shape(&shape[at..])? {
            Token::Other(length) => length,
            Token::Number(length, _) => {
                places.push(u32::try_from(at).ok().filter(|_| places.len() < most_numbers(shape.len()))?);
                length
            }
            Token::Digest => DIGEST.len() + 1,
        };
        at = at.checked_add(length).filter(|at| *at <= shape.len())?;
    }
    Some(places)
}

fn next_of_shape(shape: &[u8]) -> Option<Token> {
    match shape.first() {
        Some(&NUMBER) => Some(Token::Number(1, Number::Integer(0))),
        Some(&ARRAY) => Some(Token::Number(1, Number::Count(0))),
        _ => next(shape),
    }
}

/// Returns what comes next, <https://github.com/msgpack/msgpack/blob/master/spec.md>; its bytes need not all be there.
fn next(bytes: &[u8]) -> Option<Token> {
    let (&marker, rest) = bytes.split_first()?;
    let big_endian = |width: usize| Some(rest.get(..width)?.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte)));
    let sized = |width: usize, more: usize| {
        let size = usize::try_from(big_endian(width)?).ok()?;
        Some(Token::Other(size.checked_add(1 + width + more)?))
    };
    match marker {
        0..=0x7f => Some(Token::Number(1, Number::Integer(u64::from(marker)))),
        0x90..=0x9f => Some(Token::Number(1, Number::Count(u64::from(marker & 0xf)))),
        // Maps, nil, booleans, negative integers of one byte.
        0x80..=0x8f | 0xc0 | 0xc2 | 0xc3 | 0xe0..=0xff => Some(Token::Other(1)),
        0xa0..=0xbf => Some(Token::Other(1 + usize::from(marker & 0x1f))),
        0xc4 if bytes.starts_with(&DIGEST) => Some(Token::Digest),
        0xc4 | 0xd9 => sized(1, 0),
        0xc5 | 0xda => sized(2, 0),
        0xc6 | 0xdb => sized(4, 0),
        0xc7..=0xc9 => sized(1 << (marker - 0xc7), 1),
        0xca => Some(Token::Other(5)),
        0xcb => Some(Token::Other(9)),
        0xcc..=0xcf => {
            let width = 1 << (marker - 0xcc);
            Some(Token::Number(1 + width, Number::Integer(big_endian(width)?)))
        }
        0xd0..=0xd3 => Some(Token::Other(1 + (1 << (marker - 0xd0)))),
        0xd4..=0xd8 => Some(Token::Other(2 + (1 << (marker - 0xd4)))),
        0xdc => Some(Token::Number(3, Number::Count(big_endian(2)?))),
        0xdd => Some(Token::Number(5, Number::Count(big_endian(4)?))),
        0xde => Some(Token::Other(3)),
        0xdf => Some(Token::Other(5)),
        // Never used.
        0xc1 => None,
    }
}

/// Small differences either way have small numbers.
const fn zigzag(difference: u64) -> u64 {
    let sign = if difference >> 63 == 1 { u64::MAX } else { 0 };
    (difference << 1) ^ sign
}

const fn unzigzag(number: u64) -> u64 {
    let sign = if number & 1 == 1 { u64::MAX } else { 0 };
    (number >> 1) ^ sign
}

fn write_leb128(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push((number & 0x7f) as u8);
}

fn read_leb128(bytes: &mut &[u8]) -> Option<u64> {
    let (mut number, mut shift) = (0_u64, 0_u32);
    loop {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        // The tenth byte has one bit left.
        let fits = shift < 63 || part <= 1;
        number |= part.checked_shl(shift).filter(|_| fits)?;
        if byte < 0x80 {
            return Some(number);
        }
        shift += 7;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::Digest;
    use crate::protocol::codec;
    use crate::protocol::manifest::UNKNOWN_SIZE;

    /// Entries as a catalog has them, and values of every kind.
    fn message() -> impl Strategy<Value = Vec<u8>> {
        let size = prop_oneof![0..300_u64, 65_000..66_000_u64, any::<u64>(), Just(UNKNOWN_SIZE)];
        let entry = (any::<u8>(), size, -40_000..40_000_i64).prop_map(|(seed, size, number)| (Digest::of(&[seed]), size, number));
        let values = prop::collection::vec(crate::protocol::round_trip::value(), 0..4);
        (prop::collection::vec(entry, 0..12), values).prop_map(|message| codec::encode(&message).unwrap())
    }

    fn there_and_back(bytes: &[u8], base: &[u8]) -> Vec<u8> {
        let base = Columns::take_apart(base).unwrap();
        let columns = Columns::take_apart(bytes).unwrap();
        let read = Columns::read(&columns.write(&base).unwrap(), &base, bytes.len()).unwrap();
        assert_eq!(read, columns);
        read.put_together(bytes.len()).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_taken_apart_comes_back(bytes in message(), base in message()) {
            prop_assert_eq!(&there_and_back(&bytes, &base), &bytes);
            prop_assert_eq!(&there_and_back(&bytes, &[]), &bytes);
            prop_assert_eq!(Columns::take_apart(&bytes).unwrap().put_together(bytes.len() - 1), None);
            prop_assert_eq!(Columns::take_apart(&bytes).unwrap().put_together(bytes.len() + 1), None);
        }

        /// Any bytes are refused or come back.
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), base in message()) {
            let base = Columns::take_apart(&base).unwrap();
            if let Some(columns) = Columns::take_apart(&bytes) {
                prop_assert_eq!(columns.put_together(bytes.len()).unwrap(), bytes.clone());
            }
            if let Some(columns) = Columns::read(&bytes, &base, bytes.len()) {
                drop(columns.put_together(bytes.len()));
            }
        }

        /// One that was written and then damaged.
        #[test]
        fn no_damage_panics(bytes in message(), base in message(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
            let (base, size) = (Columns::take_apart(&base).unwrap(), bytes.len());
            let mut written = Columns::take_apart(&bytes).unwrap().write(&base).unwrap();
            let at = at.index(written.len());
            written[at] = to;
            if let Some(columns) = Columns::read(&written, &base, size) {
                prop_assert!(columns.put_together(size).is_none_or(|bytes| bytes.len() == size));
            }
        }

        #[test]
        fn numbers_come_back(number in any::<u64>(), other in any::<u64>()) {
            prop_assert_eq!(unzigzag(zigzag(number)), number);
            prop_assert_eq!(unzigzag(zigzag(number.wrapping_sub(other))).wrapping_add(other), number);
            let mut bytes = Vec::new();
            write_leb128(&mut bytes, number);
            prop_assert_eq!(read_leb128(&mut &bytes[..]), Some(number));
            let (encoded, length) = Number::Integer(number).shortest().unwrap();
            prop_assert_eq!(&encoded[..length], &codec::encode(&number).unwrap()[..]);
        }
    }

    #[test]
    fn every_kind_of_token_is_passed_over_whole() {
        let tokens: [&[u8]; 20] = [
            &[0xc0],
            &[0xc2],
            &[0xc3],
            &[0xc4, 2, 0xcf, 0xcf],
            &[0xc5, 0, 1, 0xcf],
            &[0xc6, 0, 0, 0, 1, 0xcf],
            &[0xc7, 1, 5, 0xcf],
            &[0xc8, 0, 1, 5, 0xcf],
            &[0xc9, 0, 0, 0, 1, 5, 0xcf],
            &[0xca, 1, 2, 3, 4],
            &[0xcb, 1, 2, 3, 4, 5, 6, 7, 8],
            &[0xd0, 0x80],
            &[0xd1, 0x80, 0],
            &[0xd2, 0x80, 0, 0, 0],
            &[0xd3, 0x80, 0, 0, 0, 0, 0, 0, 0],
            &[0xd4, 5, 0xcf],
            &[0xd8, 5, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
            &[0xda, 0, 2, b'a', b'b'],
            &[0xdb, 0, 0, 0, 1, b'a'],
            &[0xe0],
        ];
        // Twice what is a number between them.
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| [token, &[0x07][..], &[0xcd, 1, 0]].concat()).collect();
        let columns = Columns::take_apart(&bytes).unwrap();
        assert_eq!(columns.numbers, [7, 256].repeat(tokens.len()));
        assert_eq!(columns.put_together(bytes.len()).unwrap(), bytes);
        for token in tokens.iter().filter(|token| token.len() > 1) {
            assert_eq!(Columns::take_apart(&token[..token.len() - 1]), None, "{token:x?}");
        }
    }

    #[test]
    fn what_would_come_back_otherwise_is_not_taken_apart() {
        for bytes in
            [&[0xdc, 0, 1][..], &[0xdd, 0, 0, 0, 1], &[0xcc, 5], &[0xcd, 0, 200], &[0xcf, 0, 0, 0, 0, 0, 0, 0, 1], &[0xc1]]
        {
            assert_eq!(Columns::take_apart(bytes), None, "{bytes:x?}");
        }
    }

    #[test]
    fn numbers_are_differences_on_both_sides_of_what_is_new() {
        let entries = |names: &[&str], more: u64| {
            let entries: Vec<(String, u64)> =
                names.iter().zip(1_u64..).map(|(name, size)| ((*name).to_owned(), 1000 * size + more)).collect();
            Columns::take_apart(&codec::encode(&entries).unwrap()).unwrap()
        };
        let base = entries(&["a", "b", "c", "d"], 0);
        let numbers = |columns: &Columns| {
            let written = columns.write(&base).unwrap();
            let mut rest = &written[HEADER_BYTES + columns.shape.len()..];
            columns.numbers.iter().map(|_| read_leb128(&mut rest).unwrap()).collect::<Vec<_>>()
        };
        // The count of entries, then that of each one's fields and its size.
        assert_eq!(numbers(&entries(&["a", "b", "c", "d"], 30)), [&[0][..], &[0, 60].repeat(4)].concat());
        let with_new = numbers(&entries(&["a", "b", "new", "c", "d"], 30));
        // One entry more; as they are from the new one's size to the next one's fields; then what differs, which is 1030 for each here.
        assert_eq!(with_new, [&[2][..], &[0, 60, 0, 60, 0, 3030, 2, 2060, 0, 2060]].concat());
        assert_eq!(numbers(&entries(&["x"], 30)).len(), 3);
    }
}
