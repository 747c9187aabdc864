//! Reading the content of one file: opened, read, hashed, and known to be what its metadata spoke of.

use std::sync::atomic::AtomicBool;

use direct_puppet_transport::protocol::Digest;
use rustix::io::Errno;

use super::dir::{self, Dir};
use super::fingerprint::FingerprintKey;
use super::hash::{SMALL_FILE_BYTES, hash_large, read_small};
use crate::fs::Stat;

/// The content that a file should have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    pub(super) digest: Digest,
    /// In bytes.
    pub(super) size: u64,
    pub(super) fingerprint: Fingerprint,
}

/// What a fingerprint is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fingerprint {
    /// Nothing.
    Unneeded,
    /// To be kept.
    Wanted,
    /// This one, of a content that was once proved to have the digest, is proof enough.
    IsProof(u128),
}

/// What reading found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// `None` for large files, and where it is not needed.
    pub(super) fingerprint: Option<u128>,
    /// `None` when the fingerprint is the one expected.
    pub(super) digest: Option<Digest>,
}

/// What became of reading a file.
#[derive(Debug)]
pub(super) enum Content {
    /// All of it was read, and nothing changed since the metadata was taken.
    Read(Found),
    /// It was opened, but is not, or did not stay, what the metadata says.
    Changing,
    /// It is not there any more.
    Absent,
    /// It is a link by now.
    Link,
    /// It could not be opened.
    Unopened(Errno),
    /// It could not be read.
    Unread(std::io::Error),
}

/// Reads a file of a directory whose metadata, taken by name just before, is `before`: a regular file of the expected size. It is opened
/// by that name, so that nothing but a regular file is opened, read once, and looked at again: the same object with the same times is
/// the file that was looked at, and had this content all the while. Large files are hashed with all threads of the pool.
pub(super) fn read(
    dir: &Dir<'_>,
    name: &[u8],
    before: &Stat,
    expected: &Expected,
    key: &FingerprintKey,
    buffer: &mut Vec<u8>,
    interrupt: &AtomicBool,
) -> Content {
    let file = match dir.open_file(name) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Content::Absent,
        Err(Errno::LOOP) => return Content::Link,
        Err(errno) => return Content::Unopened(errno),
    };
    read_open(&file, |after| after == before, expected, key, buffer, interrupt)
}

/// As [`read`], for a file that is open; `is_it` says of its metadata, as they are then, whether it is the one that is meant, and as it was.
pub(super) fn read_open(
    file: &std::fs::File,
    is_it: impl FnOnce(&Stat) -> bool,
    expected: &Expected,
    key: &FingerprintKey,
    buffer: &mut Vec<u8>,
    interrupt: &AtomicBool,
) -> Content {
    let found = find(file, expected, key, buffer, interrupt);
    match (dir::stat_of(file), found) {
        (Ok(after), found) if is_it(&after) => match found {
            Ok(Some(found)) => Content::Read(found),
            Ok(None) => Content::Changing,
            Err(source) => Content::Unread(source),
        },
        (Err(errno), _) => Content::Unread(errno.into()),
        _ => Content::Changing,
    }
}

/// Reads and hashes; `None` when it had not the expected size after all.
fn find(
    file: &std::fs::File,
    expected: &Expected,
    key: &FingerprintKey,
    buffer: &mut Vec<u8>,
    interrupt: &AtomicBool,
) -> std::io::Result<Option<Found>> {
    if expected.size > SMALL_FILE_BYTES {
        let digest = hash_large(file, expected.digest.algorithm(), expected.size, interrupt)?;
        return Ok(digest.map(|digest| Found { fingerprint: None, digest: Some(digest) }));
    }
    let Some(content) = read_small(file, expected.size, buffer)? else { return Ok(None) };
    let fingerprint = (expected.fingerprint != Fingerprint::Unneeded).then(|| key.fingerprint(content));
    let is_proved = fingerprint.is_some_and(|found| expected.fingerprint == Fingerprint::IsProof(found));
    let digest = (!is_proved).then(|| Digest::by(expected.digest.algorithm(), content));
    Ok(Some(Found { fingerprint, digest }))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use direct_puppet_transport::protocol::TreePath;

    use super::super::dir::RootDir;
    use super::super::fingerprint::KEY_BYTES;
    use super::*;

    #[test]
    fn only_what_was_looked_at_counts_as_read() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("f");
        fs::write(&path, "content").unwrap();
        let root = RootDir::open(place.path()).unwrap();
        let dir = root.dir(&TreePath::default()).unwrap().unwrap();
        let key = FingerprintKey::new([7; KEY_BYTES]);
        let digest = Digest::of(b"content");
        let expected = Expected { digest, size: 7, fingerprint: Fingerprint::Wanted };
        let read_it = |before: &Stat| read(&dir, b"f", before, &expected, &key, &mut Vec::new(), &AtomicBool::new(false));
        let before = dir.stat(b"f").unwrap().unwrap();
        let found = Found { fingerprint: Some(key.fingerprint(b"content")), digest: Some(digest) };
        assert!(matches!(read_it(&before), Content::Read(read) if read == found));
        // Another file with the same content, and one that is longer.
        fs::write(place.path().join("other"), "content").unwrap();
        fs::rename(place.path().join("other"), &path).unwrap();
        assert!(matches!(read_it(&before), Content::Changing));
        let before = dir.stat(b"f").unwrap().unwrap();
        assert!(matches!(read_it(&before), Content::Read(read) if read == found));
        fs::write(&path, "content, and more").unwrap();
        assert!(matches!(read_it(&before), Content::Changing));
        fs::remove_file(&path).unwrap();
        assert!(matches!(read_it(&before), Content::Absent));
        std::os::unix::fs::symlink("g", &path).unwrap();
        assert!(matches!(read_it(&before), Content::Link));
    }
}
