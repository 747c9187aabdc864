//! Reading and hashing file contents from open descriptors.
//!
//! Small files go through one buffer per thread. Large ones are read and hashed by all threads of the pool. They are not memory-mapped: a
//! file truncated while it is mapped kills the process (SIGBUS), and a mapped file counts as resident memory.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use direct_puppet_transport::protocol::{Algorithm, Digest, Hasher};
use rayon::prelude::*;

use super::{Pool, subtrees};

/// Up to this size, in bytes, a file is read into memory at once and hashed by one thread: BLAKE3 gains from threads above some
/// 128 KiB, and one such buffer per thread stays far below the memory limit of a run.
pub const SMALL_FILE_BYTES: u64 = 1 << 20;
const PIECE_BYTES: usize = 1 << 20;
/// Buffers grow by so much at least: most files fit into the first.
const BUFFER_STEP_BYTES: usize = 64 * 1024;

/// Reads all of a file that should have `size` bytes, at most [`SMALL_FILE_BYTES`], never more than one byte beyond; `None` when it had not
/// exactly that size. `buffer` is made as large as needed and meant to be used again.
///
/// A file of that size takes one call: it is asked for one byte more than it has. That a shorter answer is the end holds for a regular
/// file only, and only if its size is still the same afterwards, which the caller looks at.
pub(super) fn read_small<'a>(file: &File, size: u64, buffer: &'a mut Vec<u8>) -> io::Result<Option<&'a [u8]>> {
    let Ok(size) = usize::try_from(size) else { return Ok(None) };
    if buffer.len() <= size {
        buffer.resize((size + 1).next_multiple_of(BUFFER_STEP_BYTES), 0);
    }
    let mut filled = 0;
    while filled < size || filled == 0 {
        match rustix::io::read(file, &mut buffer[filled..=size]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(if filled == size { Some(&buffer[..size]) } else { None })
}

fn hash_pieces(mut file: &File, mut hasher: Hasher, limit: u64, interrupt: &AtomicBool) -> io::Result<(Digest, u64)> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut total = 0_u64;
    while total < limit {
        if interrupt.load(Ordering::Relaxed) {
            return Err(io::Error::other("interrupted"));
        }
        let most = usize::try_from(limit - total).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        match file.read(&mut piece[..most]) {
            Ok(0) => break,
            Ok(read) => {
                hasher.update(&piece[..read]);
                total += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok((hasher.finish(), total))
}

/// Hashes a file of `size` bytes, more than [`SMALL_FILE_BYTES`], with all threads of the current pool (SHA-256: one); `None` when it has
/// not exactly that size. Call it inside [`Pool::install`] only, with a file that nobody has read from yet.
pub(super) fn hash_large(file: &File, algorithm: Algorithm, size: u64, interrupt: &AtomicBool) -> io::Result<Option<Digest>> {
    if algorithm != Algorithm::Blake3 {
        let (digest, found) = hash_pieces(file, Hasher::new(algorithm), size.saturating_add(1), interrupt)?;
        return Ok((found == size).then_some(digest));
    }
    let Some(hash) = subtrees::hash(file, size, interrupt)? else { return Ok(None) };
    match file.read_exact_at(&mut [0], size) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Some(Digest::from_blake3(hash))),
        Err(error) => Err(error),
        Ok(()) => Ok(None),
    }
}

/// Returns the BLAKE3 digest and the length of what `file` holds from its current offset on, computed by the calling thread.
///
/// # Errors
///
/// When reading fails.
///
/// # Blocking
///
/// Reads the whole file, in pieces of 1 MiB.
pub fn hash_file(file: &File) -> io::Result<(Digest, u64)> {
    hash_pieces(file, Hasher::new(Algorithm::Blake3), u64::MAX, &AtomicBool::new(false))
}

/// Hashes (BLAKE3) the file that `open` returns for each item; one result per item, in order, with the length in bytes.
///
/// Small files are spread over the pool; files above [`SMALL_FILE_BYTES`] follow one after the other, each with all threads.
/// Every file is opened just before it is read, a large one twice. Once `interrupt` is set the remaining items fail.
///
/// # Blocking
///
/// Until all are hashed.
pub fn hash_files_parallel<T: Sync>(
    pool: &Pool,
    items: &[T],
    open: impl Fn(&T) -> io::Result<File> + Sync,
    interrupt: &AtomicBool,
) -> Vec<io::Result<(Digest, u64)>> {
    let small = |item: &T, buffer: &mut Vec<u8>| -> io::Result<Option<(Digest, u64)>> {
        if interrupt.load(Ordering::Relaxed) {
            return Err(io::Error::other("interrupted"));
        }
        let file = open(item)?;
        if file.metadata()?.len() > SMALL_FILE_BYTES || !read_up_to(&file, SMALL_FILE_BYTES, buffer)? {
            return Ok(None);
        }
        Ok(Some((Digest::of(buffer), buffer.len() as u64)))
    };
    pool.install(|| {
        let firsts: Vec<_> = items.par_iter().with_min_len(16).map_init(Vec::new, |buffer, item| small(item, buffer)).collect();
        let large = |item: &T| {
            let file = open(item)?;
            let size = file.metadata()?.len();
            let hashed = if size > SMALL_FILE_BYTES { hash_large(&file, Algorithm::Blake3, size, interrupt)? } else { None };
            // What changes just now is read to wherever its end is.
            hashed.map_or_else(|| hash_file(&file), |digest| Ok((digest, size)))
        };
        let finish = |(first, item): (io::Result<Option<_>>, &T)| first.and_then(|done| done.map_or_else(|| large(item), Ok));
        firsts.into_iter().zip(items).map(finish).collect()
    })
}

/// Reads all of a file of unknown size; returns whether it fitted into `limit` bytes.
fn read_up_to(mut file: &File, limit: u64, buffer: &mut Vec<u8>) -> io::Result<bool> {
    buffer.clear();
    let read = Read::take(&mut file, limit.saturating_add(1)).read_to_end(buffer)?;
    Ok(read as u64 <= limit)
}

#[cfg(test)]
mod tests {
    use std::io::Seek as _;

    use super::*;

    #[test]
    fn all_ways_of_hashing_agree() {
        let dir = tempfile::tempdir().unwrap();
        let pool = Pool::new(2).unwrap();
        let quiet = AtomicBool::new(false);
        // Nothing, one byte, around the size where the way changes, and several pieces.
        let sizes = [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 17];
        let paths: Vec<_> = sizes.iter().map(|size| dir.path().join(size.to_string())).collect();
        let contents: Vec<Vec<u8>> =
            sizes.iter().map(|&size| (0..size).map(|i| u8::try_from(i % 251).unwrap()).collect()).collect();
        for (path, content) in paths.iter().zip(&contents) {
            std::fs::write(path, content).unwrap();
        }
        let parallel = hash_files_parallel(&pool, &paths, |path| File::open(path), &quiet);
        for ((path, content), parallel) in paths.iter().zip(&contents).zip(parallel) {
            let expected = (Digest::of(content), content.len() as u64);
            assert_eq!(parallel.unwrap(), expected);
            assert_eq!(hash_file(&File::open(path).unwrap()).unwrap(), expected);
        }
    }

    #[test]
    fn reads_at_most_one_byte_beyond_the_declared_size() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, [1; 100]).unwrap();
        let mut buffer = Vec::new();
        let mut read = |size| read_small(&File::open(&path).unwrap(), size, &mut buffer).unwrap().map(<[u8]>::to_vec);
        assert_eq!(read(100), Some(vec![1; 100]));
        for size in [0, 10, 99, 101, 300] {
            assert_eq!(read(size), None, "{size}");
        }
        let file = File::open(&path).unwrap();
        assert_eq!(read_small(&file, 10, &mut buffer).unwrap(), None);
        assert_eq!((&file).stream_position().unwrap(), 11);
        std::fs::write(&path, []).unwrap();
        assert_eq!(read_small(&File::open(&path).unwrap(), 0, &mut buffer).unwrap(), Some(&[][..]));
    }

    #[test]
    fn a_large_file_has_its_size_or_no_digest() {
        let dir = tempfile::tempdir().unwrap();
        let (path, pool, quiet) = (dir.path().join("f"), Pool::new(2).unwrap(), AtomicBool::new(false));
        let content = vec![7; 3 * PIECE_BYTES];
        std::fs::write(&path, &content).unwrap();
        for algorithm in [Algorithm::Blake3, Algorithm::Sha256] {
            let hash = |size: usize| {
                let file = File::open(&path).unwrap();
                pool.install(|| hash_large(&file, algorithm, size as u64, &quiet)).unwrap()
            };
            assert_eq!(hash(content.len()), Some(Digest::by(algorithm, &content)));
            assert_eq!((hash(content.len() - 1), hash(content.len() + 1)), (None, None));
        }
    }

    #[test]
    fn an_unreadable_item_fails_alone_and_an_interrupt_fails_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let good = dir.path().join("good");
        std::fs::write(&good, b"x").unwrap();
        let paths = [dir.path().join("none"), good];
        let pool = Pool::new(1).unwrap();
        let results = hash_files_parallel(&pool, &paths, |path| File::open(path), &AtomicBool::new(false));
        assert_eq!(results[0].as_ref().unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(results[1].as_ref().unwrap(), &(Digest::of(b"x"), 1));
        let results = hash_files_parallel(&pool, &paths, |path| File::open(path), &AtomicBool::new(true));
        assert!(results.iter().all(Result::is_err));
    }
}
