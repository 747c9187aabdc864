//! MessagePack with named fields; lengths capped before allocation, leftover bytes refused.
//!
//! Structs are maps with field names, so that a reader of any age finds what it knows and passes over the rest.
//! Containers never preallocate more than serde's cautious bound (1 MiB), whatever length they claim.

use std::fmt;
use std::io;

use serde::de::{DeserializeOwned, Visitor};
use serde::{Deserializer as _, Serialize};

use super::limits::MAX_DEPTH;

/// Why bytes are no message, or a value could not be made one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// More bytes than the limit of this message.
    #[error("message of {actual} bytes is over its limit of {limit} bytes")]
    TooLong {
        /// How long it is, in bytes.
        actual: u64,
        /// How long it may be, in bytes.
        limit: u64,
    },
    /// Bytes follow the message.
    #[error("{count} bytes are left over after the message")]
    Leftover {
        /// How many.
        count: usize,
    },
    /// Not MessagePack, truncated, too deep, or not of the expected shape.
    #[error("message is malformed")]
    Malformed(#[source] rmp_serde::decode::Error),
    /// A value that has no MessagePack form.
    #[error("message could not be encoded")]
    Encode(#[source] rmp_serde::encode::Error),
}

/// Returns the canonical encoding of `message`: the one that is hashed where ids are made.
///
/// # Errors
///
/// When a value inside has no MessagePack form; none of the protocol's own messages has one.
pub fn encode<T: Serialize + ?Sized>(message: &T) -> Result<Vec<u8>, CodecError> {
    rmp_serde::to_vec_named(message).map_err(CodecError::Encode)
}

/// Returns how long the encoding of `message` is, in bytes, without holding it in memory.
///
/// # Errors
///
/// As [`encode`].
pub fn encoded_len<T: Serialize + ?Sized>(message: &T) -> Result<u64, CodecError> {
    let mut length = Length(0);
    rmp_serde::encode::write_named(&mut length, message).map_err(CodecError::Encode)?;
    Ok(length.0)
}

/// Counts what is written.
struct Length(u64);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the message that `bytes` are, all of them, if they are no more than `limit`.
///
/// # Errors
///
/// When the bytes are too many, malformed, deeper than [`MAX_DEPTH`] or more than the message.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], limit: u64) -> Result<T, CodecError> {
    if bytes.len() as u64 > limit {
        return Err(CodecError::TooLong { actual: bytes.len() as u64, limit });
    }
    // Reads texts where they are; it does not tell how far it has read, but that there is nothing more.
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(bytes);
    deserializer.set_max_depth(MAX_DEPTH);
    let message = T::deserialize(&mut deserializer).map_err(CodecError::Malformed)?;
    match deserializer.deserialize_any(End) {
        Err(rmp_serde::decode::Error::InvalidMarkerRead(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(message),
        _ => {
            // It is decoded again for that, and is not to be there twice.
            drop(message);
            Err(CodecError::Leftover { count: leftover::<T>(bytes) })
        }
    }
}

/// Takes nothing: where it is asked for, only the end of what is read is no marker.
struct End;

impl Visitor<'_> for End {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the end of the message")
    }
}

/// Returns how many bytes follow a message.
fn leftover<T: DeserializeOwned>(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    let mut deserializer = rmp_serde::Deserializer::new(&mut rest);
    deserializer.set_max_depth(MAX_DEPTH);
    let _it_was_one = T::deserialize(&mut deserializer);
    rest.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize as _;

    use super::*;
    use crate::protocol::value::Value;

    proptest! {
        /// The oracle reads through a reader, which says how far it came.
        #[test]
        fn it_decodes_what_a_reader_does(
            bytes in prop::collection::vec(prop_oneof![0x90..0x94_u8, 0x80..0x83_u8, 0xa0..0xa4_u8, any::<u8>()], 0..24),
        ) {
            let mut rest = &bytes[..];
            let read = Value::deserialize(&mut rmp_serde::Deserializer::new(&mut rest));
            match (decode::<Value>(&bytes, 100), read) {
                (Ok(value), Ok(expected)) => {
                    prop_assert_eq!(value, expected);
                    prop_assert!(rest.is_empty());
                }
                (Err(CodecError::Leftover { count }), Ok(_)) => prop_assert_eq!(count, rest.len()),
                (Err(CodecError::Malformed(_)), Err(_)) => {}
                (decoded, read) => prop_assert!(false, "{decoded:?} where a reader has {read:?}"),
            }
        }
    }

    #[test]
    fn a_length_is_that_of_the_encoding() {
        for text in ["", "x", &"x".repeat(100_000)] {
            assert_eq!(
                encoded_len(&(text, 7_u64, vec![1_u8; 300])).unwrap(),
                encode(&(text, 7_u64, vec![1_u8; 300])).unwrap().len() as u64
            );
        }
    }

    #[test]
    fn refuses_leftover_and_oversize() {
        let mut bytes = encode("x").unwrap();
        assert_eq!(decode::<String>(&bytes, 10).unwrap(), "x");
        bytes.push(0);
        assert!(matches!(decode::<String>(&bytes, 10), Err(CodecError::Leftover { count: 1 })));
        assert!(matches!(decode::<String>(&bytes, 2), Err(CodecError::TooLong { actual: 3, limit: 2 })));
    }

    #[test]
    fn refuses_a_length_that_is_not_there() {
        // str32 and bin32 of 4 GiB in five bytes: RUSTSEC-2017-0006 was an allocation of exactly this.
        for bytes in [[0xdb, 0xff, 0xff, 0xff, 0xff], [0xc6, 0xff, 0xff, 0xff, 0xff]] {
            assert!(matches!(decode::<Value>(&bytes, 100), Err(CodecError::Malformed(_))));
        }
    }

    #[test]
    fn refuses_depth() {
        // 100,000 nested arrays of one element.
        let bytes = vec![0x91; 100_000];
        assert!(matches!(decode::<Value>(&bytes, 1 << 20), Err(CodecError::Malformed(_))));
    }
}
