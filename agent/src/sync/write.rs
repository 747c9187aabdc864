//! The disk's side of a fetch: contents gathered in batches, written by a thread of their own.

use bytes::Bytes;
use direct_puppet_transport::protocol::Digest;
use tokio::sync::mpsc;

use super::packed::Packed;
use super::unpack::Unpacker;
use crate::fs::{FsError, Root};
use crate::store::{Incoming, Store};

/// Contents up to this length are written at once when they are complete; longer ones as they come.
const MAX_WHOLE_BYTES: u64 = 256 * 1024;

/// A batch is handed over when it has so many bytes, or pieces: waking a thread costs more than writing a small file.
const BATCH_BYTES: usize = 512 * 1024;
const BATCH_PIECES: usize = 256;

/// How many batches may wait for the disk.
const BACKLOG: usize = 4;

/// What the writer is told.
#[derive(Debug)]
pub(super) enum Piece {
    /// A whole content.
    Whole { digest: Digest, content: Bytes },
    /// The beginning of a content that comes in pieces.
    Begin { digest: Digest, size: u64, offset: u64 },
    /// The next bytes of it.
    Data(Bytes),
    /// Its end.
    End,
    /// Contents, or a part of one, packed.
    Packed(Packed),
}

/// What the writer tells of a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    /// It is verified and in the store.
    Complete(Digest),
    /// It came packed, and what was in the pack is not it.
    Unusable(Digest),
}

/// What comes to the writer.
pub(super) type Inbox = mpsc::Receiver<Vec<Piece>>;

/// The writer has stopped; its own error says why.
#[derive(Debug)]
pub(super) struct Stopped;

/// Gathers pieces of contents and hands them over.
#[derive(Debug)]
pub(super) struct Gathering {
    batches: mpsc::Sender<Vec<Piece>>,
    batch: Vec<Piece>,
    bytes: usize,
    /// A short content of which the end has not come.
    short: Option<Short>,
    /// A pack of which the end has not come.
    packed: Option<(Packed, Vec<Bytes>)>,
}

#[derive(Debug)]
struct Short {
    digest: Digest,
    size: u64,
    pieces: Vec<Bytes>,
}

impl Gathering {
    /// Returns a gathering and where its batches come out.
    pub(super) fn new() -> (Self, Inbox) {
        let (batches, inbox) = mpsc::channel(BACKLOG);
        (Self { batches, batch: Vec::new(), bytes: 0, short: None, packed: None }, inbox)
    }

    /// A content begins.
    pub(super) async fn begin(&mut self, digest: Digest, size: u64, offset: u64) -> Result<(), Stopped> {
        if offset == 0 && size <= MAX_WHOLE_BYTES {
            self.short = Some(Short { digest, size, pieces: Vec::new() });
            return Ok(());
        }
        self.add(Piece::Begin { digest, size, offset }).await
    }

    /// A pack begins.
    pub(super) fn begin_pack(&mut self, packed: Packed) {
        self.packed = Some((packed, Vec::new()));
    }

    /// Bytes of the content, or pack, come.
    pub(super) async fn data(&mut self, data: Bytes) -> Result<(), Stopped> {
        if let Some((_, pieces)) = &mut self.packed {
            pieces.push(data);
            return Ok(());
        }
        match &mut self.short {
            Some(short) => {
                short.pieces.push(data);
                Ok(())
            }
            None => self.add(Piece::Data(data)).await,
        }
    }

    /// The content, or pack, is complete.
    pub(super) async fn end(&mut self) -> Result<(), Stopped> {
        if let Some((packed, pieces)) = self.packed.take() {
            return self.add(Piece::Packed(Packed { bytes: whole(pieces), ..packed })).await;
        }
        let Some(Short { digest, pieces, .. }) = self.short.take() else { return self.add(Piece::End).await };
        self.add(Piece::Whole { digest, content: whole(pieces) }).await
    }

    /// Hands over what is left, the beginning of a content that broke off too: the next attempt goes on from there.
    pub(super) async fn finish(mut self) -> Result<(), Stopped> {
        if let Some(Short { digest, size, pieces }) = self.short.take().filter(|short| !short.pieces.is_empty()) {
            self.batch.push(Piece::Begin { digest, size, offset: 0 });
            self.batch.extend(pieces.into_iter().map(Piece::Data));
        }
        if self.batch.is_empty() { Ok(()) } else { self.hand_over().await }
    }

    async fn add(&mut self, piece: Piece) -> Result<(), Stopped> {
        self.bytes += match &piece {
            Piece::Whole { content, .. } => content.len(),
            Piece::Data(data) => data.len(),
            Piece::Packed(packed) => packed.bytes.len(),
            Piece::Begin { .. } | Piece::End => 0,
        };
        self.batch.push(piece);
        if self.bytes >= BATCH_BYTES || self.batch.len() >= BATCH_PIECES { self.hand_over().await } else { Ok(()) }
    }

    /// Cancel safe: until there is room for it, the batch stays here.
    async fn hand_over(&mut self) -> Result<(), Stopped> {
        let room = self.batches.reserve().await.map_err(|_closed| Stopped)?;
        room.send(std::mem::take(&mut self.batch));
        self.bytes = 0;
        Ok(())
    }
}

/// Joins pieces; a single one is not copied.
fn whole(pieces: Vec<Bytes>) -> Bytes {
    match <[Bytes; 1]>::try_from(pieces) {
        Ok([whole]) => whole,
        Err(pieces) => pieces.concat().into(),
    }
}

/// Writes contents as they come; tells `done` what became of each; packs are unpacked against files below `root`. Blocking, until the gathering ends.
pub(super) fn write_contents(
    store: &Store,
    root: Option<&Root>,
    mut inbox: Inbox,
    done: &mpsc::UnboundedSender<Done>,
) -> Result<(), (Digest, FsError)> {
    let tell = |told| {
        // Nobody listens any more once the run was given up.
        let _ignored = done.send(told);
    };
    let mut unpacker = root.map(|root| Unpacker::new(store, root));
    let mut open: Option<(Digest, Incoming)> = None;
    while let Some(batch) = inbox.blocking_recv() {
        for piece in batch {
            match piece {
                Piece::Whole { digest, content } => {
                    store.put_expected(&digest, &content).map_err(|error| (digest, error))?;
                    tell(Done::Complete(digest));
                }
                Piece::Begin { digest, size, offset } => {
                    let incoming = store.receive(digest, size, offset).map_err(|error| (digest, error))?;
                    open = Some((digest, incoming));
                }
                Piece::Data(data) => {
                    if let Some((digest, incoming)) = &mut open {
                        incoming.write(&data).map_err(|error| (*digest, error))?;
                    }
                }
                Piece::Packed(packed) => {
                    if let Some(unpacker) = &mut unpacker {
                        unpacker.take(packed, &tell)?;
                    }
                }
                Piece::End => {
                    if let Some((digest, incoming)) = open.take() {
                        incoming.finish().map_err(|error| (digest, error))?;
                        tell(Done::Complete(digest));
                    }
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_broke_off_is_there_to_be_resumed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::ensure(dir.path()).unwrap();
        let (whole, broken) = (Digest::of(b"whole"), Digest::of(b"broken off"));
        let (mut gathering, inbox) = Gathering::new();
        let (done, mut outbox) = mpsc::unbounded_channel();
        let writer = tokio::task::spawn_blocking({
            let store = store.clone();
            move || write_contents(&store, None, inbox, &done)
        });
        gathering.begin(whole, 5, 0).await.unwrap();
        for piece in ["who", "le"] {
            gathering.data(piece.into()).await.unwrap();
        }
        gathering.end().await.unwrap();
        gathering.begin(broken, 10, 0).await.unwrap();
        gathering.data("broken".into()).await.unwrap();
        gathering.finish().await.unwrap();
        writer.await.unwrap().unwrap();
        assert_eq!(outbox.recv().await, Some(Done::Complete(whole)));
        assert_eq!(outbox.recv().await, None);
        assert_eq!(store.read(&whole, 100).unwrap().unwrap(), "whole");
        assert_eq!(store.partials().unwrap().get(&broken), Some(&6));
    }
}
