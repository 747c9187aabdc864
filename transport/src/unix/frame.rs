//! Frames on a stream socket. Pure.
//!
//! ```text
//! frame    = length:u32be payload:byte{length}              length at most MAX_FRAME_BYTES + 1
//! request  = frame(RequestHeader) frame(part of the body)*  until the header's length is reached
//! response = frame(ResponseHeader) part* end
//! part     = frame(0x00 bytes)                              some of the body
//! end      = frame(0x01) | frame(0x02 text)                 complete, or broken off and why
//! ```
//!
//! Without an end frame a response was cut off. Any number of requests may follow each other on one connection, each after the
//! end of the response before.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tokio_util::codec::LengthDelimitedCodec;

use crate::protocol::codec::{self, CodecError};
use crate::protocol::limits::{MAX_FRAME_BYTES, MAX_SMALL_MESSAGE_BYTES};
use crate::transport::Status;

/// Longest data in one response frame, in bytes; longer chunks are divided.
pub(crate) const DATA_BYTES: usize = 256 * 1024;

const KIND_DATA: u8 = 0;
const KIND_END: u8 = 1;
const KIND_ERROR: u8 = 2;

/// Longest text of an error frame, in bytes.
const MAX_ERROR_BYTES: usize = 1024;

/// What stands in front of a request's body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RequestHeader {
    /// Name of the operation.
    pub(crate) operation: String,
    /// Length of the body in bytes; the receiver checks it before it reads.
    pub(crate) length: u64,
}

/// What stands in front of a response's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ResponseHeader {
    /// Whether the body is a refusal.
    pub(crate) refused: bool,
    /// When to try again, in seconds.
    #[serde(default)]
    pub(crate) retry_after_seconds: Option<u64>,
    /// Length of the body in bytes, where it is known.
    #[serde(default)]
    pub(crate) length: Option<u64>,
}

impl ResponseHeader {
    pub(crate) const fn status(&self) -> Status {
        if self.refused { Status::Refused } else { Status::Accepted }
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.retry_after_seconds.map(Duration::from_secs)
    }
}

/// One frame behind a [`ResponseHeader`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// Some of the body.
    Data(Bytes),
    /// The body is complete.
    End,
    /// The body broke off.
    Error(String),
}

/// Returns the codec of both sides.
pub(crate) fn frames() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().length_field_type::<u32>().max_frame_length(MAX_FRAME_BYTES as usize + 1).new_codec()
}

pub(crate) fn encode_header(header: &impl Serialize) -> Result<Bytes, CodecError> {
    codec::encode(header).map(Into::into)
}

pub(crate) fn decode_header<T: serde::de::DeserializeOwned>(frame: &[u8]) -> Result<T, CodecError> {
    codec::decode(frame, MAX_SMALL_MESSAGE_BYTES)
}

/// Returns the payload of a part's frame; data is at most [`DATA_BYTES`].
pub(crate) fn encode_part(part: &Part) -> Bytes {
    let (kind, body) = match part {
        Part::Data(data) => (KIND_DATA, data.as_ref()),
        Part::End => (KIND_END, &[][..]),
        Part::Error(text) => (KIND_ERROR, &text.as_bytes()[..text.floor_char_boundary_at(MAX_ERROR_BYTES)]),
    };
    let mut frame = BytesMut::with_capacity(1 + body.len());
    frame.put_u8(kind);
    frame.put_slice(body);
    frame.freeze()
}

/// Returns the part that a frame is; `None` when it is none.
pub(crate) fn decode_part(mut frame: Bytes) -> Option<Part> {
    if frame.is_empty() {
        return None;
    }
    let kind = frame.split_to(1)[0];
    match kind {
        KIND_DATA => Some(Part::Data(frame)),
        KIND_END if frame.is_empty() => Some(Part::End),
        KIND_ERROR if frame.len() <= MAX_ERROR_BYTES => Some(Part::Error(String::from_utf8_lossy(&frame).into_owned())),
        _ => None,
    }
}

/// Where text can be cut without dividing a character.
trait FloorCharBoundary {
    fn floor_char_boundary_at(&self, at: usize) -> usize;
}

impl FloorCharBoundary for String {
    fn floor_char_boundary_at(&self, at: usize) -> usize {
        let mut at = at.min(self.len());
        while !self.is_char_boundary(at) {
            at -= 1;
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parts_round_trip(data in proptest::collection::vec(any::<u8>(), 0..100), text in ".{0,100}") {
            for part in [Part::Data(data.clone().into()), Part::End, Part::Error(text.clone())] {
                prop_assert_eq!(decode_part(encode_part(&part)), Some(part));
            }
        }

        #[test]
        fn headers_round_trip(operation in "[a-z_]{0,20}", length: u64, refused: bool, seconds: Option<u64>, known: Option<u64>) {
            let request = RequestHeader { operation, length };
            prop_assert_eq!(decode_header::<RequestHeader>(&encode_header(&request).unwrap()).unwrap(), request);
            let response = ResponseHeader { refused, retry_after_seconds: seconds, length: known };
            prop_assert_eq!(decode_header::<ResponseHeader>(&encode_header(&response).unwrap()).unwrap(), response);
        }

        #[test]
        fn any_bytes_end_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            drop(decode_part(bytes.clone().into()));
            drop(decode_header::<RequestHeader>(&bytes));
            drop(decode_header::<ResponseHeader>(&bytes));
        }
    }

    #[test]
    fn a_long_error_is_cut_at_a_character() {
        let Some(Part::Error(text)) = decode_part(encode_part(&Part::Error("ä".repeat(1000)))) else { panic!("no error") };
        assert_eq!(text, "ä".repeat(512));
    }
}
