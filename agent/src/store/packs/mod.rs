//! Many small contents in one file, for a store that takes whole trees: a server's.
//!
//! ```text
//! <store>/packs/<32 hex>.pack     contents and their index; never changed
//!              /<32 hex>.gone     places of contents that were removed or found damaged, u32 LE each
//! ```
//!
//! A file of its own for each content costs several times what reading and hashing it does. A [`Batch`] writes one pack; readers
//! find contents by the first half of their digests, which is held in memory: 16 bytes for each content.

mod batch;
mod format;
mod retain;
mod salvage;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use direct_puppet_transport::protocol::{Algorithm, Digest};

use self::format::{Entry, Heads};
use super::{Store, list, remove_if_there};
use crate::fs::{FsError, ensure_private_dir};

pub use batch::Batch;

/// Largest content in a pack, in bytes: above it a file of its own costs little beside its bytes.
pub(super) const MAX_PACKED_BYTES: u64 = 64 * 1024;

/// The packs of a store.
pub(super) type Packs = Arc<RwLock<Vec<Arc<Pack>>>>;

/// One pack, open as long as somebody reads it.
#[derive(Debug)]
pub(super) struct Pack {
    path: PathBuf,
    file: File,
    heads: Heads,
    /// Places of contents that are not there any more.
    gone: RwLock<HashSet<u32>>,
}

/// A content in a pack.
#[derive(Debug)]
pub(super) struct Packed {
    pack: Arc<Pack>,
    place: usize,
    entry: Entry,
}

/// Whether an error says that bytes are lost, and not that this process may not or cannot read them now.
fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
        || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

impl Pack {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let heads = format::read_heads(&file)?;
        let gone = match std::fs::read(path.with_extension("gone")) {
            // The last may be torn: then it is found damaged once more.
            Ok(bytes) => bytes.as_chunks::<4>().0.iter().map(|place| u32::from_le_bytes(*place)).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => HashSet::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { path: path.to_owned(), file, heads, gone: RwLock::new(gone) })
    }

    fn is_gone(&self, place: usize) -> bool {
        let gone = self.gone.read().unwrap_or_else(PoisonError::into_inner);
        !gone.is_empty() && u32::try_from(place).is_ok_and(|place| gone.contains(&place))
    }

    /// Says for ever that the content at a place is not there.
    fn lose(&self, place: usize) -> Result<(), FsError> {
        let path = self.path.with_extension("gone");
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        let mut gone = self.gone.write().unwrap_or_else(PoisonError::into_inner);
        if gone.insert(place) {
            let append = || {
                let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
                // A crash may have cut the last one off: what follows would be read as others.
                let length = file.metadata()?.len();
                file.set_len(length - length % 4)?;
                file.write_all(&place.to_le_bytes())?;
                file.sync_all()
            };
            append().map_err(|error| FsError::new(&path, "note a content that is gone in", error))?;
        }
        Ok(())
    }

    /// Reads what lies at an entry: fewer bytes, when the pack is damaged.
    fn read(&self, entry: &Entry) -> io::Result<Bytes> {
        read_at(&self.file, entry.offset, entry.len)
    }
}

/// Reads what lies there: fewer bytes, when there are no more, and no more than a content in a pack has.
fn read_at(file: &File, offset: u64, len: u32) -> io::Result<Bytes> {
    let len = u64::from(len).min(MAX_PACKED_BYTES);
    let mut content = vec![0; usize::try_from(len).unwrap_or_default()];
    let mut filled = 0;
    while filled < content.len() {
        match file.read_at(&mut content[filled..], offset.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // No offset of a file.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => break,
            Err(error) => return Err(error),
        }
    }
    content.truncate(filled);
    Ok(content.into())
}

impl Packed {
    /// Where it lies.
    pub(super) fn path(&self) -> &Path {
        &self.pack.path
    }

    /// Reads it; not verified.
    pub(super) fn read(&self) -> Result<Bytes, FsError> {
        self.pack.read(&self.entry).map_err(|error| FsError::new(&self.pack.path, "read a content in the pack", error))
    }

    /// Says that it is damaged, and keeps what it is now beside the store's contents.
    pub(super) fn move_aside(&self, aside: &Path) -> Result<(), FsError> {
        tracing::warn!(pack = %self.pack.path.display(), digest = %self.entry.digest(), "a content does not match its digest and is moved aside");
        ensure_private_dir(aside)?;
        let path = aside.join(self.entry.digest().to_hex());
        if let Ok(found) = self.read() {
            std::fs::write(&path, found).map_err(|error| FsError::new(&path, "keep a damaged content in", error))?;
        }
        self.pack.lose(self.place)
    }
}

impl Store {
    /// Opens all packs; one whose index is damaged is moved aside, after what is whole in it was put into another, and the rest counts as
    /// absent.
    pub(super) fn open_packs(&self) -> Result<(), FsError> {
        let (mut packs, mut damaged) = (Vec::new(), Vec::new());
        for path in list(&self.dir.join("packs"))? {
            if path.extension().is_none_or(|extension| extension != "pack") {
                continue;
            }
            match Pack::open(&path) {
                Ok(pack) => packs.push(Arc::new(pack)),
                Err(error) if is_damage(&error) => damaged.push((path, error)),
                Err(error) => return Err(FsError::new(&path, "open the pack", error)),
            }
        }
        self.packs.write().unwrap_or_else(PoisonError::into_inner).append(&mut packs);
        damaged.into_iter().try_for_each(|(path, error)| self.replace_damaged(&path, &error))
    }

    /// Moves a damaged pack aside when what is whole in it was put into another. Where that cannot be done now, as without room, it stays where
    /// it is, and is looked at again when the store is opened the next time.
    fn replace_damaged(&self, path: &Path, error: &io::Error) -> Result<(), FsError> {
        let pack = path.display();
        match self.salvage(path) {
            Ok(saved) => {
                tracing::warn!(%pack, %error, saved, "a pack is damaged and is moved aside: of its contents some are saved");
            }
            Err(failed) if is_damage(&failed.source) => {
                tracing::warn!(%pack, %error, %failed, "a pack is damaged and is moved aside: its contents are to be brought again");
            }
            Err(failed) => {
                tracing::warn!(%pack, %error, %failed, "a pack is damaged, and its contents cannot be saved now");
                return Ok(());
            }
        }
        let aside = self.dir.join("damaged");
        ensure_private_dir(&aside)?;
        let aside = aside.join(path.file_name().unwrap_or_default());
        std::fs::rename(path, &aside).map_err(|error| FsError::new(path, "move aside the damaged pack", error))?;
        // How long it is kept there begins now.
        if let Err(error) = File::open(&aside).and_then(|file| file.set_modified(std::time::SystemTime::now())) {
            tracing::debug!(%error, "a damaged pack may be kept for less long");
        }
        remove_if_there(&path.with_extension("gone"))
    }

    pub(super) fn packs(&self) -> Vec<Arc<Pack>> {
        self.packs.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a pack has it, as far as half of its digest says.
    pub(super) fn has_packed(&self, digest: &Digest) -> bool {
        let packs = self.packs.read().unwrap_or_else(PoisonError::into_inner);
        digest.algorithm() == Algorithm::Blake3
            && packs.iter().any(|pack| pack.heads.places(digest.bytes()).any(|place| !pack.is_gone(place)))
    }

    /// Finds a content in a pack.
    pub(super) fn find_packed(&self, digest: &Digest) -> Result<Option<Packed>, FsError> {
        let packs = self.packs.read().unwrap_or_else(PoisonError::into_inner);
        if digest.algorithm() != Algorithm::Blake3 {
            return Ok(None);
        }
        for pack in packs.iter().rev() {
            for place in pack.heads.places(digest.bytes()) {
                if pack.is_gone(place) {
                    continue;
                }
                let entry = pack.heads.entry(&pack.file, place);
                let entry = entry.map_err(|error| FsError::new(&pack.path, "look into the pack", error))?;
                if entry.digest == *digest.bytes() {
                    return Ok(Some(Packed { pack: Arc::clone(pack), place, entry }));
                }
                // As good as impossible, but for damage: it must not pass for what is asked for.
                if !pack.read(&entry).is_ok_and(|content| entry.digest().verifies(&content)) {
                    pack.lose(place)?;
                }
            }
        }
        Ok(None)
    }

    /// Says that no pack has this content any more.
    pub(super) fn lose_packed(&self, digest: &Digest) -> Result<(), FsError> {
        while let Some(found) = self.find_packed(digest)? {
            found.pack.lose(found.place)?;
        }
        Ok(())
    }

    /// Returns every content that packs have.
    pub(super) fn packed_digests(&self) -> Result<Vec<Digest>, FsError> {
        let mut digests = Vec::new();
        for pack in self.packs() {
            digests.extend(pack.present()?.into_iter().map(|(_, entry)| entry.digest()));
        }
        Ok(digests)
    }
}

impl Pack {
    /// Returns what is there, with its places.
    fn present(&self) -> Result<Vec<(usize, Entry)>, FsError> {
        let entries = self.heads.entries(&self.file);
        let entries = entries.map_err(|error| FsError::new(&self.path, "list the pack", error))?;
        Ok(entries.into_iter().enumerate().filter(|(place, _)| !self.is_gone(*place)).collect())
    }

    /// Removes it; who reads it goes on.
    fn remove(&self) -> Result<(), FsError> {
        remove_if_there(&self.path)?;
        remove_if_there(&self.path.with_extension("gone"))
    }
}
