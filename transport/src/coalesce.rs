//! Small chunks of a body, sent together: each chunk costs both ends the same, however short it is.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures::stream::Fuse;
use futures::{Stream, StreamExt as _};

use crate::error::TransportError;
use crate::transport::BodyStream;

/// About how long chunks become. Measured over loopback: half of it costs a client a tenth more, and twice of it saves nothing.
const CHUNK_BYTES: usize = 64 * 1024;

/// Longer chunks are not copied.
const SMALL_BYTES: usize = CHUNK_BYTES / 2;

/// Returns a body of the same bytes in fewer chunks. Nothing waits: what is there is sent when no more is.
pub(crate) fn coalesce(body: BodyStream) -> BodyStream {
    Coalesced { body: body.fuse(), gathered: BytesMut::new(), next: None }.boxed()
}

struct Coalesced {
    body: Fuse<BodyStream>,
    gathered: BytesMut,
    /// What comes after that which was gathered.
    next: Option<Result<Bytes, TransportError>>,
}

impl Stream for Coalesced {
    type Item = Result<Bytes, TransportError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(next) = self.next.take() {
            return Poll::Ready(Some(next));
        }
        loop {
            match self.body.poll_next_unpin(context) {
                Poll::Ready(Some(Ok(chunk))) if chunk.len() < SMALL_BYTES => {
                    if self.gathered.is_empty() {
                        self.gathered = BytesMut::with_capacity(CHUNK_BYTES);
                    }
                    // Less than full before, so that it stays within what was taken for it, or half more.
                    self.gathered.extend_from_slice(&chunk);
                    if self.gathered.len() < CHUNK_BYTES {
                        continue;
                    }
                }
                Poll::Ready(next) => match self.gathered.is_empty() {
                    true => return Poll::Ready(next),
                    false => self.next = next,
                },
                Poll::Pending if self.gathered.is_empty() => return Poll::Pending,
                Poll::Pending => {}
            }
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.gathered).freeze())));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use proptest::prelude::*;

    use super::*;
    use crate::error::TransportErrorKind;

    fn coalesced(chunks: Vec<Result<Bytes, TransportError>>) -> Vec<Result<Bytes, TransportError>> {
        futures::executor::block_on(coalesce(stream::iter(chunks).boxed()).collect())
    }

    fn broken() -> TransportError {
        TransportError::new(TransportErrorKind::Closed, "a disk")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_bytes_stay_what_they_are_and_no_chunk_gets_long(
            lengths in proptest::collection::vec(prop_oneof![0..100_usize, 0..SMALL_BYTES, SMALL_BYTES..4 * CHUNK_BYTES], 0..40),
            breaks in any::<bool>(),
        ) {
            let chunks: Vec<_> = (0_u8..).zip(&lengths).map(|(byte, length)| Ok(Bytes::from(vec![byte; *length]))).collect();
            let whole: Vec<u8> = chunks.iter().flatten().flatten().copied().collect();
            let longest = lengths.iter().copied().max().unwrap_or(0).max(CHUNK_BYTES + SMALL_BYTES);
            let last = breaks.then(|| Err(broken()));
            let mut found = coalesced(chunks.into_iter().chain(last).collect());
            if breaks {
                prop_assert!(found.pop().unwrap().is_err(), "the error comes last, and is not lost");
            }
            let found: Vec<Bytes> = found.into_iter().map(Result::unwrap).collect();
            prop_assert!(found.iter().all(|chunk| chunk.len() <= longest));
            prop_assert_eq!(found.concat(), whole);
        }
    }

    #[test]
    fn small_chunks_go_together_and_long_ones_as_they_are() {
        let small = vec![1; 1000];
        let long = Bytes::from(vec![2; SMALL_BYTES]);
        let chunks = (0..200).map(|_| Ok(Bytes::from(small.clone()))).chain([Ok(long.clone())]).collect();
        let found: Vec<Bytes> = coalesced(chunks).into_iter().map(Result::unwrap).collect();
        assert_eq!(found.len(), 200_000_usize.div_ceil(CHUNK_BYTES) + 1);
        assert_eq!(found.last().unwrap().as_ptr(), long.as_ptr(), "it was copied");
    }

    #[test]
    fn what_is_there_waits_for_nothing() {
        let never = stream::iter([Ok(Bytes::from_static(b"a")), Ok(Bytes::from_static(b"b"))]).chain(stream::pending());
        let mut body = coalesce(never.boxed());
        let first = futures::executor::block_on(body.next()).unwrap().unwrap();
        assert_eq!(first, "ab");
        assert!(futures::FutureExt::now_or_never(body.next()).is_none());
    }
}
