//! Open, read and close of each file, with BLAKE3 and without.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::read as read_some;

use super::stat::each;

/// A little more than most files need; larger ones take several reads.
const BUFFER_BYTES: usize = 256 * 1024;

pub(super) fn read(root: &Path, list: &Path) -> anyhow::Result<()> {
    let mut seen = 0;
    let mut hasher = blake3::Hasher::new();
    each_piece(root, list, |piece, is_last| {
        hasher.update(piece);
        if is_last {
            seen ^= hasher.finalize().as_bytes()[0];
            hasher.reset();
        }
    })?;
    std::hint::black_box(seen);
    Ok(())
}

/// As [`read`], without a hash.
pub(super) fn read_only(root: &Path, list: &Path) -> anyhow::Result<()> {
    let mut seen = 0;
    each_piece(root, list, |piece, _| seen ^= piece.first().copied().unwrap_or_default())?;
    std::hint::black_box(seen);
    Ok(())
}

/// Calls back for each piece that is read of each file, and says which is the last of its file.
fn each_piece(root: &Path, list: &Path, mut work: impl FnMut(&[u8], bool)) -> anyhow::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    each(root, list, |dir, name| {
        let file = openat(dir, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        loop {
            let count = read_some(&file, &mut buffer[..])?;
            // A short read ends a regular file.
            work(&buffer[..count], count < BUFFER_BYTES);
            if count < BUFFER_BYTES {
                return Ok(());
            }
        }
    })
}

/// As [`read`], of what a walk finds.
pub(super) fn walk(root: &Path) -> anyhow::Result<()> {
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    let mut seen = 0;
    for entry in walkdir::WalkDir::new(root) {
        let entry = entry?;
        if entry.file_type().is_file() {
            buffer.clear();
            File::open(entry.path())?.read_to_end(&mut buffer)?;
            seen ^= blake3::hash(&buffer).as_bytes()[0];
        }
    }
    std::hint::black_box(seen);
    Ok(())
}
