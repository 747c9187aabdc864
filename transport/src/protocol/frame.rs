//! The reply to `fetch`: blobs one after the other, each framed with digest and size.
//!
//! ```text
//! stream  = record* end
//! record  = length:u32be header:MessagePack content:byte{size - offset}     for a blob
//!         | length:u32be header:MessagePack packed:byte{length}             for a pack, see [`super::pack`]
//!         | length:u32be header:MessagePack                                 for a missing digest
//! end     = length:u32be header:MessagePack                                 nothing may follow
//! ```
//!
//! Without an end record the stream was cut off, whatever the transport thinks. Nothing is verified here: the receiver
//! hashes what it gets.

use bytes::{Buf as _, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::codec::{self, CodecError};
use super::digest::Digest;
use super::limits::MAX_FETCH_HEADER_BYTES;
use super::pack::{Pack, PackError};

/// The header of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FetchHeader {
    /// A content follows.
    Blob {
        /// Its digest.
        digest: Digest,
        /// Its whole length in bytes.
        size: u64,
        /// How many of its bytes are left out at the front, because the receiver has them.
        #[serde(default)]
        offset: u64,
    },
    /// Contents, or a part of one, follow packed.
    Pack(Pack),
    /// The server does not have it, or this node has no right to it.
    Missing {
        /// What was asked for.
        digest: Digest,
    },
    /// That was all.
    End {
        /// How many blobs and packs there were.
        blobs: u64,
    },
}

/// What [`FetchDecoder`] finds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FetchEvent {
    /// A content begins; `size - offset` bytes of it follow as [`FetchEvent::Data`].
    Blob {
        /// Its digest.
        digest: Digest,
        /// Its whole length in bytes.
        size: u64,
        /// Where the data begins.
        offset: u64,
    },
    /// A pack begins, within its limits; `length` bytes of it follow as [`FetchEvent::Data`].
    Pack(Pack),
    /// Some bytes of the content or pack; never empty.
    Data(Bytes),
    /// The content or pack is complete.
    BlobEnd,
    /// A content that the server will not send.
    Missing(Digest),
    /// The stream is complete.
    End,
}

/// Why a stream of blobs makes no sense.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// A header over [`MAX_FETCH_HEADER_BYTES`].
    #[error("header of {length} bytes in a fetch stream is over the limit of {MAX_FETCH_HEADER_BYTES} bytes")]
    HeaderTooLong {
        /// The length it claims.
        length: u32,
    },
    /// A header that cannot be read.
    #[error("header in a fetch stream could not be read")]
    Header(#[source] CodecError),
    /// An offset behind the content's end.
    #[error("content {digest} of {size} bytes is said to go on at byte {offset}")]
    Offset {
        /// The content.
        digest: Digest,
        /// Its length in bytes.
        size: u64,
        /// The offset.
        offset: u64,
    },
    /// A pack over its limits, or that contradicts itself.
    #[error("pack in a fetch stream makes no sense")]
    Pack(#[source] PackError),
    /// The end record counts other than what came.
    #[error("fetch stream says that it had {said} contents, {seen} arrived")]
    Count {
        /// What the end record says.
        said: u64,
        /// What arrived.
        seen: u64,
    },
    /// Bytes after the end record.
    #[error("{count} bytes follow the end of a fetch stream")]
    Leftover {
        /// How many.
        count: usize,
    },
    /// The stream stopped before its end record.
    #[error("fetch stream was cut off")]
    Truncated,
}

/// Returns the bytes of one header with its length in front.
///
/// # Errors
///
/// Never for the headers above; the signature follows the codec.
pub fn encode_header(header: &FetchHeader) -> Result<Bytes, CodecError> {
    let body = codec::encode(header)?;
    let mut bytes = Vec::with_capacity(4 + body.len());
    bytes.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes.into())
}

/// A state machine from chunks of any size to events; holds at most one header and the chunk it was given.
#[derive(Debug, Default)]
pub struct FetchDecoder {
    buffer: BytesMut,
    chunk: Bytes,
    state: State,
    blobs: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Header,
    Content {
        left: u64,
    },
    End,
}

impl FetchDecoder {
    /// Returns a decoder at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the next chunk; call [`FetchDecoder::next_event`] until it returns `None` before the next one.
    pub fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty(), "events of the last chunk were not all taken");
        self.chunk = chunk;
    }

    /// Returns the next event, or `None` when another chunk is needed.
    ///
    /// # Errors
    ///
    /// When the stream makes no sense; it cannot be used any further.
    pub fn next_event(&mut self) -> Result<Option<FetchEvent>, FetchError> {
        match self.state {
            State::Header => self.next_header(),
            State::Content { left: 0 } => {
                self.state = State::Header;
                self.blobs += 1;
                Ok(Some(FetchEvent::BlobEnd))
            }
            State::Content { .. } if self.chunk.is_empty() => Ok(None),
            State::Content { left } => {
                let take = usize::try_from(left).unwrap_or(usize::MAX).min(self.chunk.len());
                self.state = State::Content { left: left - take as u64 };
                Ok(Some(FetchEvent::Data(self.chunk.split_to(take))))
            }
            State::End if self.chunk.is_empty() => Ok(None),
            State::End => Err(FetchError::Leftover { count: self.chunk.len() }),
        }
    }

    /// Says that no chunk follows.
    ///
    /// # Errors
    ///
    /// When the end record has not come.
    pub fn finish(&self) -> Result<(), FetchError> {
        if self.state == State::End { Ok(()) } else { Err(FetchError::Truncated) }
    }

    fn next_header(&mut self) -> Result<Option<FetchEvent>, FetchError> {
        let Some(length) =
            self.fill(4).map(|()| u32::from_be_bytes([self.buffer[0], self.buffer[1], self.buffer[2], self.buffer[3]]))
        else {
            return Ok(None);
        };
        if length > MAX_FETCH_HEADER_BYTES {
            return Err(FetchError::HeaderTooLong { length });
        }
        if self.fill(4 + length as usize).is_none() {
            return Ok(None);
        }
        let header = codec::decode(&self.buffer[4..], u64::from(MAX_FETCH_HEADER_BYTES)).map_err(FetchError::Header)?;
        self.buffer.clear();
        self.take_header(header).map(Some)
    }

    fn take_header(&mut self, header: FetchHeader) -> Result<FetchEvent, FetchError> {
        match header {
            FetchHeader::Blob { digest, size, offset } => {
                let left = size.checked_sub(offset).ok_or(FetchError::Offset { digest, size, offset })?;
                self.state = State::Content { left };
                Ok(FetchEvent::Blob { digest, size, offset })
            }
            FetchHeader::Pack(pack) => {
                pack.check().map_err(FetchError::Pack)?;
                self.state = State::Content { left: pack.length };
                Ok(FetchEvent::Pack(pack))
            }
            FetchHeader::Missing { digest } => Ok(FetchEvent::Missing(digest)),
            FetchHeader::End { blobs } if blobs == self.blobs => {
                self.state = State::End;
                Ok(FetchEvent::End)
            }
            FetchHeader::End { blobs } => Err(FetchError::Count { said: blobs, seen: self.blobs }),
        }
    }

    /// Moves bytes from the chunk until the buffer has `wanted`; `None` when the chunk is used up before.
    fn fill(&mut self, wanted: usize) -> Option<()> {
        let take = wanted.saturating_sub(self.buffer.len()).min(self.chunk.len());
        self.buffer.extend_from_slice(&self.chunk[..take]);
        self.chunk.advance(take);
        (self.buffer.len() >= wanted).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::pack::Encoding;

    fn stream(blobs: &[Vec<u8>], missing: &[Digest]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for blob in blobs {
            let header = FetchHeader::Blob { digest: Digest::of(blob), size: blob.len() as u64, offset: 0 };
            bytes.extend_from_slice(&encode_header(&header).unwrap());
            bytes.extend_from_slice(blob);
        }
        for &digest in missing {
            bytes.extend_from_slice(&encode_header(&FetchHeader::Missing { digest }).unwrap());
        }
        bytes.extend_from_slice(&encode_header(&FetchHeader::End { blobs: blobs.len() as u64 }).unwrap());
        bytes
    }

    fn pack(size: u64) -> Pack {
        Pack { first: 0, count: 1, at: 0, size, length: size, encoding: Encoding::Identity, base: None }
    }

    fn decode(bytes: &[u8], chunk: usize) -> Result<(Vec<Vec<u8>>, Vec<Digest>), FetchError> {
        let mut decoder = FetchDecoder::new();
        let (mut blobs, mut missing): (Vec<Vec<u8>>, Vec<Digest>) = (Vec::new(), Vec::new());
        for chunk in bytes.chunks(chunk) {
            decoder.push(Bytes::copy_from_slice(chunk));
            while let Some(event) = decoder.next_event()? {
                match event {
                    FetchEvent::Blob { .. } => blobs.push(Vec::new()),
                    FetchEvent::Data(data) => blobs.last_mut().unwrap().extend_from_slice(&data),
                    FetchEvent::Missing(digest) => missing.push(digest),
                    FetchEvent::Pack(_) | FetchEvent::BlobEnd | FetchEvent::End => {}
                }
            }
        }
        decoder.finish()?;
        Ok((blobs, missing))
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_blobs(
            blobs in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..5),
            chunk in 1_usize..80,
        ) {
            let missing = [Digest::of(b"missing")];
            let bytes = stream(&blobs, &missing);
            let (found, lost) = decode(&bytes, chunk).unwrap();
            prop_assert_eq!(found, blobs);
            prop_assert_eq!(&lost[..], &missing[..]);
            for cut in 0..bytes.len() {
                prop_assert!(decode(&bytes[..cut], chunk).is_err());
            }
        }

        #[test]
        fn any_bytes_end_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), chunk in 1_usize..80) {
            drop(decode(&bytes, chunk));
        }
    }

    #[test]
    fn a_pack_is_counted_and_taken_in_only_within_its_limits() {
        let mut bytes = encode_header(&FetchHeader::Pack(pack(3))).unwrap().to_vec();
        bytes.extend_from_slice(b"abc");
        bytes.extend_from_slice(&encode_header(&FetchHeader::End { blobs: 1 }).unwrap());
        let mut decoder = FetchDecoder::new();
        decoder.push(bytes.clone().into());
        let mut events = std::iter::from_fn(|| decoder.next_event().unwrap());
        let expected = [FetchEvent::Pack(pack(3)), FetchEvent::Data("abc".into()), FetchEvent::BlobEnd, FetchEvent::End];
        assert!(events.by_ref().eq(expected));
        for cut in 0..bytes.len() {
            let mut decoder = FetchDecoder::new();
            decoder.push(bytes[..cut].to_vec().into());
            while decoder.next_event().unwrap().is_some() {}
            assert!(matches!(decoder.finish(), Err(FetchError::Truncated)), "cut at {cut}");
        }
        let mut decoder = FetchDecoder::new();
        decoder.push(encode_header(&FetchHeader::Pack(pack(1 << 40))).unwrap());
        assert!(matches!(decoder.next_event(), Err(FetchError::Pack(PackError::TooLarge { .. }))));
    }

    #[test]
    fn refuses_what_follows_the_end_and_wrong_counts() {
        let mut bytes = stream(&[], &[]);
        bytes.push(0);
        assert!(matches!(decode(&bytes, 1000), Err(FetchError::Leftover { .. })));
        let end = encode_header(&FetchHeader::End { blobs: 2 }).unwrap();
        assert!(matches!(decode(&end, 1000), Err(FetchError::Count { said: 2, seen: 0 })));
        assert!(matches!(decode(&[0xff; 8], 1000), Err(FetchError::HeaderTooLong { .. })));
    }
}
