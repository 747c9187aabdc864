//! Contents copied into the store.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use direct_puppet_transport::protocol::{Algorithm, Digest, Hasher};

use super::{Put, READ_BYTES, Store, remove_if_there};
use crate::fs::{FsError, FsErrorKind};

impl Store {
    /// Copies an open file in, from where it is read now, and says what was copied, by its BLAKE3 digest. That it is
    /// there already is success.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or the disk does not take it.
    pub fn put_file(&self, source: &File) -> Result<Put, FsError> {
        let length = source.metadata().map_or(READ_BYTES as u64, |found| found.len());
        let mut source = source;
        // One more than the file has shows its end.
        self.put_all(&mut source, usize::try_from(length.saturating_add(1)).unwrap_or(READ_BYTES).min(READ_BYTES))
    }

    /// Copies everything that a reader gives; as [`Store::put_file`].
    ///
    /// # Errors
    ///
    /// As [`Store::put_file`].
    pub fn put_reader(&self, source: &mut dyn Read) -> Result<Put, FsError> {
        self.put_all(source, READ_BYTES)
    }

    /// Copies everything, the first `first_bytes` of it in memory.
    fn put_all(&self, source: &mut dyn Read, first_bytes: usize) -> Result<Put, FsError> {
        let mut buffer = vec![0; first_bytes];
        let first = fill(source, &mut buffer).map_err(|error| FsError::new(&self.dir, "read what is to be stored in", error))?;
        if first < buffer.len() {
            // It is whole already: what is there need not be written again.
            return self.put_bytes(&buffer[..first]);
        }
        let temporary = self.temporary();
        let copied = self.copy(source, &buffer, &temporary).map_err(|error| FsError::new(&temporary, "copy a content to", error));
        match copied {
            Ok((digest, size)) => {
                let is_new = !self.has(&digest);
                self.publish(&temporary, &digest)?;
                Ok(Put { digest, size, is_new })
            }
            Err(error) => {
                remove_if_there(&temporary)?;
                Err(error)
            }
        }
    }

    fn copy(&self, source: &mut dyn Read, first: &[u8], temporary: &Path) -> io::Result<(Digest, u64)> {
        let mut target = create(temporary)?;
        let mut hasher = Hasher::new(Algorithm::Blake3);
        hasher.update(first);
        target.write_all(first)?;
        let mut size = first.len() as u64;
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let count = fill(source, &mut buffer)?;
            if count == 0 {
                return Ok((hasher.finish(), size));
            }
            hasher.update(&buffer[..count]);
            target.write_all(&buffer[..count])?;
            size += count as u64;
        }
    }

    /// Puts a content in that came from somewhere, verified; it is durable after [`Store::sync`].
    ///
    /// # Errors
    ///
    /// [`FsErrorKind::DigestMismatch`] when the bytes have another digest; or when the disk does not take them.
    pub fn put_expected(&self, digest: &Digest, content: &[u8]) -> Result<(), FsError> {
        let path = self.path_of(digest);
        if !digest.verifies(content) {
            let error = io::Error::other(format!("it has digest {}", Digest::of(content)));
            let hint = "it was thrown away; the next run fetches it anew";
            return Err(FsError::new(&path, "receive a content for", error).with_kind(FsErrorKind::DigestMismatch, Some(hint)));
        }
        let temporary = self.temporary();
        let written = create(&temporary).and_then(|mut file| file.write_all(content));
        if let Err(error) = written {
            remove_if_there(&temporary)?;
            return Err(FsError::new(&temporary, "receive a content in", error));
        }
        self.publish(&temporary, digest)
    }

    /// Puts bytes in; that they are there already is success.
    ///
    /// # Errors
    ///
    /// When the disk does not take them.
    pub fn put_bytes(&self, content: &[u8]) -> Result<Put, FsError> {
        let (digest, size) = (Digest::of(content), content.len() as u64);
        if let Some(found) = self.find_packed(&digest)?
            && found.read().is_ok_and(|there| there == content)
        {
            self.note(found.path().to_owned());
            return Ok(Put { digest, size, is_new: false });
        }
        self.put_own_file(digest, content)
    }

    /// Puts bytes in, in a file of their own, whatever packs have.
    pub(super) fn put_own_file(&self, digest: Digest, content: &[u8]) -> Result<Put, FsError> {
        let size = content.len() as u64;
        let path = self.path_of(&digest);
        // Read, for a power cut or a bad disk may have damaged it; noted, for who put it may not have lived to sync it.
        if is_content(&path, content).unwrap_or(false) {
            self.note(path);
            return Ok(Put { digest, size, is_new: false });
        }
        let temporary = self.temporary();
        let written = create(&temporary).and_then(|mut file| file.write_all(content));
        if let Err(error) = written {
            remove_if_there(&temporary)?;
            return Err(FsError::new(&temporary, "write a content to", error));
        }
        self.publish(&temporary, &digest)?;
        Ok(Put { digest, size, is_new: true })
    }

    pub(super) fn temporary(&self) -> PathBuf {
        let mut random = [0; 16];
        getrandom::fill(&mut random).expect("the kernel gives random bytes on every supported system");
        let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        self.dir.join("incoming").join(format!("{hex}.put"))
    }
}

/// Whether a file has exactly this content.
fn is_content(path: &Path, content: &[u8]) -> io::Result<bool> {
    let mut file = File::open(path)?;
    if file.metadata()?.len() != content.len() as u64 {
        return Ok(false);
    }
    let mut buffer = vec![0; content.len().clamp(1, READ_BYTES)];
    for expected in content.chunks(buffer.len()) {
        if fill(&mut file, &mut buffer[..expected.len()])? != expected.len() || buffer[..expected.len()] != *expected {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Reads until the buffer is full or the reader is at its end.
fn fill(source: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
