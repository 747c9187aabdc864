//! BLAKE3 of one large file by all threads, each of which reads what it hashes.
//!
//! BLAKE3 is a tree: what lies at a multiple of a power of two and is as long, or is the end, has a chaining value of its own, and those
//! add up to the digest (section 2.1 of its paper). So no thread waits for another that reads, and what a thread read is still in its
//! core's cache when it hashes it.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use blake3::hazmat::{ChainingValue, HasherExt as _, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};

/// What a thread reads and hashes at a time, in bytes: it fits into the second-level cache of a core.
const PIECE_BYTES: u64 = 256 * 1024;
/// Threads read no farther apart than this, in bytes, so that a disk reads ahead of all of them.
const WINDOW_BYTES: u64 = 32 << 20;

thread_local! {
    static PIECE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Hashes the first `size` bytes, of which there are more than [`blake3::CHUNK_LEN`], with all threads of the current pool; `None` when
/// the file has fewer.
pub(super) fn hash(file: &File, size: u64, interrupt: &AtomicBool) -> io::Result<Option<blake3::Hash>> {
    let both = both(file, 0, size, interrupt)?;
    Ok(both.map(|(left, right)| merge_subtrees_root(&left, &right, Mode::Hash)))
}

/// Returns the values of the two subtrees that `size` bytes at `at` are made of.
fn both(file: &File, at: u64, size: u64, interrupt: &AtomicBool) -> io::Result<Option<(ChainingValue, ChainingValue)>> {
    let left = left_subtree_len(size);
    let first = || subtree(file, at, left, interrupt);
    let second = || subtree(file, at + left, size - left, interrupt);
    if size > WINDOW_BYTES {
        let Some(first) = first()? else { return Ok(None) };
        return Ok(second()?.map(|second| (first, second)));
    }
    let (first, second) = rayon::join(first, second);
    Ok(first?.zip(second?))
}

fn subtree(file: &File, at: u64, size: u64, interrupt: &AtomicBool) -> io::Result<Option<ChainingValue>> {
    if size > PIECE_BYTES {
        let both = both(file, at, size, interrupt)?;
        return Ok(both.map(|(left, right)| merge_subtrees_non_root(&left, &right, Mode::Hash)));
    }
    if interrupt.load(Ordering::Relaxed) {
        return Err(io::Error::other("interrupted"));
    }
    PIECE.with_borrow_mut(|piece| {
        piece.resize(usize::try_from(size).map_err(io::Error::other)?, 0);
        match file.read_exact_at(piece, at) {
            Ok(()) => Ok(Some(blake3::Hasher::new().set_input_offset(at).update(piece).finalize_non_root())),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Pool;

    #[test]
    fn it_is_the_digest_of_the_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let pool = Pool::new(3).unwrap();
        let quiet = AtomicBool::new(false);
        let content: Vec<u8> = (0..WINDOW_BYTES + 3 * PIECE_BYTES).map(|i| u8::try_from(i * i % 251).unwrap()).collect();
        std::fs::write(&path, &content).unwrap();
        let file = File::open(&path).unwrap();
        let chunk = blake3::CHUNK_LEN as u64;
        let around = |size: u64| [size - 1, size, size + 1];
        let sizes = [2 * chunk, PIECE_BYTES, PIECE_BYTES + chunk, 3 * PIECE_BYTES, WINDOW_BYTES, WINDOW_BYTES + 2 * PIECE_BYTES];
        for size in sizes.into_iter().flat_map(around) {
            let expected = blake3::hash(&content[..usize::try_from(size).unwrap()]);
            assert_eq!(pool.install(|| hash(&file, size, &quiet)).unwrap(), Some(expected), "{size}");
        }
        assert_eq!(pool.install(|| hash(&file, content.len() as u64 + 1, &quiet)).unwrap(), None);
        assert!(pool.install(|| hash(&file, PIECE_BYTES + 1, &AtomicBool::new(true))).is_err());
    }
}
