//! The disk's side of packs: unpacked against the node's own files, each content verified as if it had come whole.
//!
//! Memory: one pack, what it refers to and what comes out of it, each within the limits that its header was checked against. A file that
//! changed since the scan makes other bytes of a pack, which its digest shows: nothing of that stays, and it is asked for otherwise.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use direct_puppet_transport::protocol::compress::decompress;
use direct_puppet_transport::protocol::{Digest, Encoding, Pack, PackBase};

use super::packed::{Item, Packed};
use super::write::Done;
use crate::fs::{FsError, FsErrorKind, Root};
use crate::store::{Incoming, Store};

/// How much is copied at a time.
const COPY_BYTES: usize = 256 * 1024;

/// Unpacks, and remembers a content that comes in parts.
#[derive(Debug)]
pub(super) struct Unpacker<'a> {
    store: &'a Store,
    root: &'a Root,
    open: Option<Open>,
}

/// A content of which parts have come.
#[derive(Debug)]
struct Open {
    item: Arc<Item>,
    /// `None` when it was given up: what still comes of it is passed over.
    incoming: Option<Incoming>,
    base: Option<File>,
}

impl<'a> Unpacker<'a> {
    pub(super) const fn new(store: &'a Store, root: &'a Root) -> Self {
        Self { store, root, open: None }
    }

    /// Takes a pack; tells which contents are in the store, and which were not what they should be.
    ///
    /// # Errors
    ///
    /// When the disk does not take it.
    pub(super) fn take(&mut self, packed: Packed, tell: &dyn Fn(Done)) -> Result<(), (Digest, FsError)> {
        if packed.is_whole() { self.take_whole(&packed, tell) } else { self.take_part(&packed, tell) }
    }

    fn take_whole(&mut self, packed: &Packed, tell: &dyn Fn(Done)) -> Result<(), (Digest, FsError)> {
        let content = match self.unpack_whole(packed) {
            Ok(content) => content,
            Err(error) => {
                tracing::info!(%error, contents = packed.items.len(), "a pack is no good, its contents are asked for again");
                packed.items.iter().for_each(|item| tell(Done::Unusable(item.digest)));
                return Ok(());
            }
        };
        let mut rest = &content[..];
        for item in &packed.items {
            // The sizes were compared with the pack's before it was taken in.
            let size = usize::try_from(item.size).unwrap_or(usize::MAX).min(rest.len());
            let (one, others) = rest.split_at(size);
            rest = others;
            match self.store.put_expected(&item.digest, one) {
                Ok(()) => tell(Done::Complete(item.digest)),
                Err(error) if error.kind == FsErrorKind::DigestMismatch => tell(Done::Unusable(item.digest)),
                Err(error) => return Err((item.digest, error)),
            }
        }
        Ok(())
    }

    fn unpack_whole(&self, packed: &Packed) -> io::Result<Vec<u8>> {
        let mut bases = Vec::new();
        match packed.pack.base {
            Some(range) if packed.pack.count == 1 => {
                let base = open_base(self.root, packed.items.first())?;
                bases = read_at(base.as_ref(), range)?;
            }
            Some(range) => {
                // Their lengths make up the range, which is within its limit.
                bases.reserve_exact(usize::try_from(range.size).map_err(io::Error::other)?);
                for item in &packed.items {
                    let base = item.base.as_ref().ok_or(io::ErrorKind::NotFound)?;
                    let file = open_base(self.root, Some(item))?.ok_or(io::ErrorKind::NotFound)?;
                    if file.take(base.size.saturating_add(1)).read_to_end(&mut bases)? as u64 != base.size {
                        return Err(io::Error::other(format!("{} has another length now", base.path.absolute())));
                    }
                }
            }
            None => {}
        }
        unpack(&packed.pack, &packed.bytes, &bases)
    }

    fn take_part(&mut self, packed: &Packed, tell: &dyn Fn(Done)) -> Result<(), (Digest, FsError)> {
        let Some(item) = packed.items.first() else { return Ok(()) };
        let (pack, digest) = (&packed.pack, item.digest);
        if pack.at == 0 {
            let incoming = self.store.receive(digest, item.size, 0).map_err(|error| (digest, error))?;
            let base = open_base(self.root, Some(item)).unwrap_or(None);
            self.open = Some(Open { item: Arc::clone(item), incoming: Some(incoming), base });
        }
        let Some(open) = self.open.as_mut().filter(|open| open.item.digest == digest) else { return Ok(()) };
        let Some(incoming) = open.incoming.as_mut() else { return Ok(()) };
        match write_part(incoming, open.base.as_ref(), packed) {
            Ok(()) if pack.at + pack.size < item.size => Ok(()),
            Ok(()) => {
                let finished = open.incoming.take().map_or(Ok(()), Incoming::finish);
                self.open = None;
                match finished {
                    Ok(()) => tell(Done::Complete(digest)),
                    Err(error) if error.kind == FsErrorKind::DigestMismatch => tell(Done::Unusable(digest)),
                    Err(error) => return Err((digest, error)),
                }
                Ok(())
            }
            Err(PartError::Disk(error)) => Err((digest, error)),
            Err(PartError::Unusable(error)) => {
                tracing::info!(%error, %digest, "a part is no good, its content is asked for again");
                open.incoming = None;
                // Nobody goes on from what was made with another base.
                self.store.discard(&digest).map_err(|error| (digest, error))?;
                tell(Done::Unusable(digest));
                Ok(())
            }
        }
    }
}

/// Why a part was not written.
enum PartError {
    /// It is not what it should be, or the base is not.
    Unusable(io::Error),
    Disk(FsError),
}

fn write_part(incoming: &mut Incoming, base: Option<&File>, packed: &Packed) -> Result<(), PartError> {
    let pack = &packed.pack;
    match (pack.encoding, pack.base) {
        (Encoding::Copy, Some(range)) => {
            let mut done = 0;
            while done < range.size {
                let size = (range.size - done).min(COPY_BYTES as u64);
                let piece = read_at(base, PackBase { at: range.at + done, size }).map_err(PartError::Unusable)?;
                incoming.write(&piece).map_err(PartError::Disk)?;
                done += size;
            }
            Ok(())
        }
        (_, range) => {
            let base = range.map_or(Ok(Vec::new()), |range| read_at(base, range)).map_err(PartError::Unusable)?;
            let part = unpack(pack, &packed.bytes, &base).map_err(PartError::Unusable)?;
            incoming.write(&part).map_err(PartError::Disk)
        }
    }
}

/// Returns exactly as many bytes as the pack should have.
pub(super) fn unpack(pack: &Pack, bytes: &[u8], base: &[u8]) -> io::Result<Vec<u8>> {
    match pack.encoding {
        // As long as the pack says: its length was compared, and the stream gave no other.
        Encoding::Identity => Ok(bytes.to_vec()),
        Encoding::Zstd => {
            let size = usize::try_from(pack.size).map_err(io::Error::other)?;
            decompress(bytes, base, size).map_err(io::Error::other)
        }
        other => Err(io::Error::other(format!("encoding {other:?} was not asked for"))),
    }
}

fn open_base(root: &Root, item: Option<&Arc<Item>>) -> io::Result<Option<File>> {
    let Some(base) = item.and_then(|item| item.base.as_ref()) else { return Ok(None) };
    root.open_file(&base.path).map(Some).map_err(io::Error::other)
}

fn read_at(base: Option<&File>, range: PackBase) -> io::Result<Vec<u8>> {
    let base = base.ok_or(io::ErrorKind::NotFound)?;
    let mut bytes = vec![0; usize::try_from(range.size).map_err(io::Error::other)?];
    base.read_exact_at(&mut bytes, range.at)?;
    Ok(bytes)
}
