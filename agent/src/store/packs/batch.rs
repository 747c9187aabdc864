//! Writing a pack.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use direct_puppet_transport::hashing::FastState;
use direct_puppet_transport::protocol::Digest;

use super::format::{self, Entry, MAGIC};
use super::{MAX_PACKED_BYTES, Pack};
use crate::fs::{FsError, ensure_private_dir};
use crate::store::put::create;
use crate::store::{Put, Store, remove_if_there};
use crate::tree::{OneRead, ReadTogether};

/// Bytes that are held before they are written.
const WRITE_BYTES: usize = 1024 * 1024;

/// From how many bytes on what was read together is written as it lies in its buffer: fewer go into that of the batch.
const DIRECT_BYTES: usize = 128 * 1024;

/// From how many contents on they go into a pack of their own; fewer get files, so that there are not very many packs.
const PACK_FROM: usize = 64;

/// Contents that are put into a store together; safe for use by several threads.
///
/// Small ones are in the store when [`Batch::finish`] has returned, large ones at once, both durable after [`Store::sync`]. A batch that
/// is dropped leaves nothing of its small ones.
#[derive(Debug)]
pub struct Batch {
    store: Store,
    /// There were contents with files of their own when it began: another of the same content would only be there twice.
    has_files: bool,
    writing: Mutex<Writing>,
}

#[derive(Debug, Default)]
struct Writing {
    /// What was taken so far.
    taken: HashSet<Digest, FastState>,
    entries: Vec<Entry>,
    /// What is not written yet, and where in the pack it begins.
    buffer: Vec<u8>,
    begin: u64,
    file: Option<(PathBuf, Arc<File>)>,
    /// A write failed: the pack has a hole.
    has_failed: bool,
}

impl Store {
    /// Returns a batch of contents to put.
    #[must_use]
    pub fn batch(&self) -> Batch {
        let writing = Writing { buffer: MAGIC.to_vec(), ..Writing::default() };
        let has_files = std::fs::read_dir(self.dir.join("blobs")).map_or(true, |mut found| found.next().is_some());
        Batch { store: self.clone(), has_files, writing: Mutex::new(writing) }
    }
}

impl Batch {
    /// Copies an open file in, from where it is read now; `size` is how long it was when it was last looked at, in bytes. As
    /// [`Store::put_file`], which it is for large files.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or the disk does not take it.
    pub fn put_file(&self, mut source: &File, size: u64) -> Result<Put, FsError> {
        if size > MAX_PACKED_BYTES {
            return self.store.put_file(source);
        }
        let wanted = usize::try_from(size).unwrap_or_default();
        // One more shows that it has grown.
        let mut content = vec![0; wanted + 1];
        let mut filled = 0;
        // That it ends where it should need not be asked.
        while filled != wanted || filled == 0 {
            match source.read(&mut content[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(FsError::new(&self.store.dir, "read what is to be stored in", error)),
            }
            if filled == content.len() {
                return self.store.put_reader(&mut content.as_slice().chain(source));
            }
        }
        self.put_bytes(&content[..filled])
    }

    /// Puts bytes in; that they are there already is success.
    ///
    /// # Errors
    ///
    /// When the disk does not take them.
    pub fn put_bytes(&self, content: &[u8]) -> Result<Put, FsError> {
        let digest = Digest::of(content);
        if let Some(put) = self.put_elsewhere(digest, content)? {
            return Ok(put);
        }
        let is_new = self.append(digest, content)?;
        Ok(Put { digest, size: content.len() as u64, is_new })
    }

    /// Puts what was read together; returns what became of each, by its place among what was to be read. Contents that are there already move
    /// others in the buffer, which is then only good to be used again.
    ///
    /// # Errors
    ///
    /// When the disk does not take it.
    pub fn put_together(&self, read: &mut ReadTogether) -> Result<Vec<(usize, Put)>, FsError> {
        let ReadTogether { bytes, files } = read;
        let (mut puts, mut left) = (Vec::with_capacity(files.len()), Vec::with_capacity(files.len()));
        for one in files.iter() {
            match self.put_elsewhere(one.digest, &bytes[one.place.clone()])? {
                Some(put) => puts.push((one.index, put)),
                None => left.push(one),
            }
        }
        let mut writing = self.writing();
        let (mut new, mut end) = (Vec::with_capacity(left.len()), 0);
        for OneRead { index, digest, place } in left {
            let is_new = writing.taken.insert(*digest);
            puts.push((*index, Put { digest: *digest, size: place.len() as u64, is_new }));
            if is_new {
                // What lay between is there already.
                if place.start != end {
                    bytes.copy_within(place.clone(), end);
                }
                new.push(Entry {
                    digest: *digest.bytes(),
                    offset: end as u64,
                    len: u32::try_from(place.len()).unwrap_or(u32::MAX),
                });
                end += place.len();
            }
        }
        let is_direct = end >= DIRECT_BYTES && (writing.file.is_some() || writing.entries.len() + new.len() >= PACK_FROM);
        let at = writing.begin + writing.buffer.len() as u64;
        writing.entries.extend(new.into_iter().map(|entry| Entry { offset: entry.offset + at, ..entry }));
        if is_direct {
            self.write_out(writing, &bytes[..end])?;
        } else {
            writing.buffer.extend_from_slice(&bytes[..end]);
            if writing.buffer.len() >= WRITE_BYTES {
                self.write_out(writing, &[])?;
            }
        }
        Ok(puts)
    }

    /// Puts a content that does not go into this pack: it is large, or it is there already.
    fn put_elsewhere(&self, digest: Digest, content: &[u8]) -> Result<Option<Put>, FsError> {
        let size = content.len() as u64;
        if size > MAX_PACKED_BYTES || self.has_files && self.store.has_file(&digest) {
            return self.store.put_bytes(content).map(Some);
        }
        if let Some(found) = self.store.find_packed(&digest)? {
            // Read, for a power cut or a bad disk may have damaged it; noted, for who put it may not have lived to sync it.
            if found.read().is_ok_and(|there| there == content) {
                self.store.note(found.path().to_owned());
                return Ok(Some(Put { digest, size, is_new: false }));
            }
            found.move_aside(&self.store.dir.join("damaged"))?;
        }
        Ok(None)
    }

    /// Takes a content, wherever else it is; returns whether this batch did not have it.
    pub(super) fn append(&self, digest: Digest, content: &[u8]) -> Result<bool, FsError> {
        let mut writing = self.writing();
        if !writing.taken.insert(digest) {
            return Ok(false);
        }
        let offset = writing.begin + writing.buffer.len() as u64;
        let len = u32::try_from(content.len()).unwrap_or(u32::MAX);
        writing.entries.push(Entry { digest: *digest.bytes(), offset, len });
        writing.buffer.extend_from_slice(content);
        if writing.buffer.len() >= WRITE_BYTES {
            self.write_out(writing, &[])?;
        }
        Ok(true)
    }

    /// Writes what is held, and `more` behind it.
    fn write_out(&self, mut writing: MutexGuard<'_, Writing>, more: &[u8]) -> Result<(), FsError> {
        // Until it is written the pack has a hole.
        let (path, file) = self.file(&mut writing).inspect_err(|_| writing.has_failed = true)?;
        let buffer = std::mem::take(&mut writing.buffer);
        let (begin, at) = (writing.begin, writing.begin + buffer.len() as u64);
        writing.begin = at + more.len() as u64;
        // Others go on meanwhile.
        drop(writing);
        let written = file.write_all_at(&buffer, begin).and_then(|()| file.write_all_at(more, at));
        written.map_err(|error| {
            self.writing().has_failed = true;
            FsError::new(&path, "write contents to", error)
        })
    }

    /// Puts what was taken into the store.
    ///
    /// # Errors
    ///
    /// When the disk does not take it; nothing of the small contents is then in the store.
    pub fn finish(self) -> Result<(), FsError> {
        let mut writing = std::mem::take(&mut *self.writing());
        if writing.has_failed {
            // Dropped as it was, so that what is left of it goes.
            *self.writing() = writing;
            let error = io::Error::other("an earlier write failed");
            return Err(FsError::new(&self.store.dir, "finish a pack in", error));
        }
        if writing.file.is_none() && writing.entries.len() < PACK_FROM {
            for entry in &writing.entries {
                let begin = usize::try_from(entry.offset).unwrap_or_default();
                let content = &writing.buffer[begin..begin + usize::try_from(entry.len).unwrap_or_default()];
                self.store.put_own_file(entry.digest(), content)?;
            }
            return Ok(());
        }
        let (path, file) = self.file(&mut writing)?;
        let end = writing.begin + writing.buffer.len() as u64;
        let (index, heads) = format::encode(&mut writing.entries, end);
        writing.buffer.extend_from_slice(&index);
        let target = self.store.dir.join("packs").join(path.file_name().unwrap_or_default()).with_extension("pack");
        let place = || -> io::Result<File> {
            file.write_all_at(&writing.buffer, writing.begin)?;
            ensure_private_dir(&self.store.dir.join("packs")).map_err(|error| error.source)?;
            let readable = File::open(&path)?;
            std::fs::rename(&path, &target)?;
            Ok(readable)
        };
        let placed = place();
        if placed.is_ok() {
            writing.file = None;
        }
        *self.writing() = writing;
        let file = placed.map_err(|error| FsError::new(&target, "put in place the pack", error))?;
        self.store.note(target.clone());
        let pack = Pack { path: target, file, heads, gone: RwLock::default() };
        self.store.packs.write().unwrap_or_else(PoisonError::into_inner).push(Arc::new(pack));
        Ok(())
    }

    /// Returns the file that becomes the pack.
    fn file(&self, writing: &mut Writing) -> Result<(PathBuf, Arc<File>), FsError> {
        if let Some((path, file)) = &writing.file {
            return Ok((path.clone(), Arc::clone(file)));
        }
        let path = self.store.temporary();
        let file = create(&path).map_err(|error| FsError::new(&path, "begin a pack at", error))?;
        let file = Arc::new(file);
        writing.file = Some((path.clone(), Arc::clone(&file)));
        Ok((path, file))
    }

    fn writing(&self) -> MutexGuard<'_, Writing> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let file = self.writing().file.take();
        if let Some((path, _)) = file
            && let Err(error) = remove_if_there(&path)
        {
            tracing::debug!(%error, "an unfinished pack stays until the store is opened again");
        }
    }
}
