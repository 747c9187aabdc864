//! Many small files read at once, into few buffers, for who copies a tree.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use direct_puppet_transport::protocol::{Digest, TreePath};
use rayon::prelude::*;

use super::Pool;
use super::dir::{Dir, RootDir};

/// What one thread reads at a time, in bytes, but for the last file of it, and in files.
const RUN_BYTES: u64 = 512 * 1024;
const RUN_FILES: usize = 512;

/// For fewer files no threads are started.
const APART_FROM: usize = 1024;

/// A file to be read: where it lies, and how many bytes it had when it was looked at.
#[derive(Debug, Clone, Copy)]
pub struct FileToRead<'a> {
    /// Below the reader's directory.
    pub path: &'a TreePath,
    /// In bytes.
    pub size: u64,
}

/// Contents that were read, one after another in one buffer.
#[derive(Debug)]
pub struct ReadTogether {
    /// What was read of them, and perhaps more behind it.
    pub(crate) bytes: Vec<u8>,
    pub(crate) files: Vec<OneRead>,
}

/// One of them.
#[derive(Debug, Clone)]
pub(crate) struct OneRead {
    /// Its place among the files that were to be read.
    pub(crate) index: usize,
    pub(crate) digest: Digest,
    /// Where its content lies in the buffer.
    pub(crate) place: Range<usize>,
}

/// Reads small files of one directory and what lies below it.
#[derive(Debug)]
pub struct FileReader {
    root: RootDir,
    threads: usize,
    /// Buffers that were used before.
    spare: Mutex<Vec<Vec<u8>>>,
}

impl FileReader {
    /// Opens a directory; 0 for as many threads as there are cores.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub fn open(dir: &Path, threads: usize) -> io::Result<Self> {
        Ok(Self { root: RootDir::open(dir)?, threads, spare: Mutex::default() })
    }

    /// Reads and hashes (BLAKE3) files, each at once, so they are to be small, and all to fit into memory; best in the order of paths. One that
    /// cannot be opened or read, or has not as many bytes as was said, is left out: who needs it reads it by itself, and learns why.
    ///
    /// # Errors
    ///
    /// When no thread can be started.
    ///
    /// # Blocking
    ///
    /// Until all are read. Few are read by threads of the pool that the caller runs in.
    pub fn read(&self, files: &[FileToRead<'_>]) -> io::Result<Vec<ReadTogether>> {
        let (mut runs, mut begin, mut bytes) = (Vec::new(), 0, 0);
        for (at, file) in files.iter().enumerate() {
            bytes += file.size;
            if bytes >= RUN_BYTES || at + 1 - begin >= RUN_FILES || at + 1 == files.len() {
                runs.push(begin..at + 1);
                (begin, bytes) = (at + 1, 0);
            }
        }
        let read = || runs.into_par_iter().map(|run| self.read_run(files, run)).collect();
        // Each is opened, read and closed by one thread, which calls nothing else.
        if files.len() < APART_FROM { Ok(read()) } else { Pool::apart(self.threads, &self.root, read) }
    }

    /// Takes a buffer back, to be used again.
    pub fn reuse(&self, read: ReadTogether) {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(read.bytes);
    }

    fn read_run(&self, files: &[FileToRead<'_>], run: Range<usize>) -> ReadTogether {
        let mut bytes = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        let sizes = files[run.clone()].iter().map(|file| usize::try_from(file.size).unwrap_or(usize::MAX));
        // One more shows that the last has grown.
        let wanted = sizes.fold(1, usize::saturating_add);
        if bytes.len() < wanted {
            bytes.resize(wanted, 0);
        }
        let (mut read, mut filled) = (Vec::with_capacity(run.len()), 0);
        let mut open: Option<(&[u8], Option<Dir<'_>>)> = None;
        for index in run {
            let FileToRead { path, size } = files[index];
            let above = path.parent_bytes();
            if open.as_ref().is_none_or(|(parent, _)| *parent != above) {
                open = Some((above, self.root.dir(&path.parent().unwrap_or_default()).ok().flatten()));
            }
            let (Some((_, Some(dir))), Some(name), Ok(size)) = (&open, path.name(), usize::try_from(size)) else { continue };
            let Ok(file) = dir.open_file(name) else { continue };
            let place = filled..filled + size;
            if fill(&file, &mut bytes[place.start..=place.end]).is_ok_and(|count| count == size) {
                read.push(OneRead { index, digest: Digest::of(&bytes[place.clone()]), place: place.clone() });
                filled = place.end;
            }
        }
        ReadTogether { bytes, files: read }
    }
}

/// Reads a file to its end, or until the buffer is full, which is one byte longer than the file should be. That it ends where it should need
/// not be asked.
fn fill(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let (wanted, mut filled) = (buffer.len() - 1, 0);
    while filled != wanted || filled == 0 {
        match rustix::io::read(file, &mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if filled == buffer.len() {
            break;
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(dir: &Path, files: &[(&str, u64)]) -> Vec<(usize, Vec<u8>)> {
        let paths: Vec<(TreePath, u64)> = files.iter().map(|(path, size)| (path.parse().unwrap(), *size)).collect();
        let files: Vec<FileToRead<'_>> = paths.iter().map(|(path, size)| FileToRead { path, size: *size }).collect();
        let reader = FileReader::open(dir, 2).unwrap();
        let mut found = Vec::new();
        // The second time with buffers that were used.
        for _ in 0..2 {
            found.clear();
            for run in reader.read(&files).unwrap() {
                for OneRead { index, digest, place } in &run.files {
                    let content = run.bytes[place.clone()].to_vec();
                    assert_eq!(*digest, Digest::of(&content));
                    found.push((*index, content));
                }
                reader.reuse(run);
            }
        }
        found
    }

    #[test]
    fn what_is_as_it_was_said_is_read_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("d/e")).unwrap();
        for (path, content) in
            [("a", "aaa"), ("d/b", "b"), ("d/e/c", "ccccc"), ("d/empty", ""), ("grown", "1234"), ("shrunk", "1")]
        {
            fs::write(dir.path().join(path), content).unwrap();
        }
        std::os::unix::fs::symlink("a", dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("d", dir.path().join("linked")).unwrap();
        let wanted = [
            ("a", 3),
            ("d", 0),
            ("d/b", 1),
            ("d/e/c", 5),
            ("d/empty", 0),
            ("gone", 2),
            ("grown", 3),
            ("link", 3),
            ("linked/b", 1),
            ("none/x", 1),
            ("shrunk", 2),
        ];
        let found = read(dir.path(), &wanted);
        let text = |index: usize| found.iter().find(|(at, _)| *at == index).map(|(_, content)| String::from_utf8_lossy(content));
        for (index, (path, _)) in wanted.iter().enumerate() {
            let expected = match *path {
                "a" => Some("aaa"),
                "d/b" => Some("b"),
                "d/e/c" => Some("ccccc"),
                "d/empty" => Some(""),
                _ => None,
            };
            assert_eq!(text(index).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn many_are_read_by_threads_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let content = |number: usize| format!("content {number} ").repeat(number % 90);
        let paths: Vec<String> = (0..APART_FROM + 500).map(|number| format!("d{}/f{number:05}", number / 300)).collect();
        for (number, path) in paths.iter().enumerate() {
            fs::create_dir_all(dir.path().join(path).parent().unwrap()).unwrap();
            fs::write(dir.path().join(path), content(number)).unwrap();
        }
        let sizes: Vec<(&str, u64)> =
            paths.iter().enumerate().map(|(number, path)| (path.as_str(), content(number).len() as u64)).collect();
        let mut found = read(dir.path(), &sizes);
        found.sort();
        assert_eq!(found.len(), paths.len());
        assert!(found.iter().all(|(index, read)| *read == content(*index).into_bytes()));
    }
}
