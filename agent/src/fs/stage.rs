//! Files written in batches: all contents durable first, then only renames.
//!
//! What a batch leaves when the process dies are files named [`STAGED_PREFIX`] and 32 random hexadecimal digits, beside their
//! targets. The journal says in which directories to look for them: `<state dir>/staged`, one escaped path a line, written and
//! synced *before* the first staged file of that directory is created. So every staged file, however the machine stops, lies in
//! a directory that the next run knows; it removes just the files with such names there. The journal is emptied when the last
//! batch is committed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use bytes::Bytes;
use direct_puppet_transport::protocol::{Digest, TreePath};
use rustix::fs::{AtFlags, Mode, OFlags, fstat, fsync, openat, renameat, syncfs, unlinkat};
use rustix::io::Errno;

use super::journal::StageJournal;
use super::resolve::open_directory;
use super::root::apply;
use crate::store::Taken;

use super::{Attributes, FsError, FsErrorKind, Root, Stat};

/// What staged files begin with.
pub const STAGED_PREFIX: &str = ".direct-puppet-";

/// From how many files on one `syncfs` per file system is cheaper than an `fsync` of each (performance notes: 6 times at 1,000
/// files, no gain below some dozens, and `syncfs` pays for other writers too).
const SYNCFS_FROM: usize = 64;

/// Bytes copied at a time.
const COPY_BYTES: usize = 256 * 1024;

/// Where the bytes of a file come from.
#[derive(Debug)]
pub enum ContentSource {
    /// From memory.
    Bytes(Bytes),
    /// A file of the store, still needed there afterwards: copied, and verified while copied.
    Copy(File),
    /// A file of the store that is used for the last time, verified when it came in during this run: renamed into place when
    /// it is on the same file system, else copied and then removed.
    Take(Taken),
}

/// What a commit put in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Its metadata after the rename.
    pub stat: Stat,
    /// The digest of its content.
    pub digest: Digest,
}

/// A batch of files to be put in place. What is not committed is removed when it is dropped.
#[derive(Debug)]
pub struct Stage<'a> {
    root: &'a Root,
    journal: &'a StageJournal,
    directories: HashMap<TreePath, OwnedFd>,
    files: Vec<Staged>,
}

#[derive(Debug)]
struct Staged {
    path: TreePath,
    digest: Digest,
    origin: Origin,
}

#[derive(Debug)]
enum Origin {
    /// A staged file beside the target.
    Beside { name: Vec<u8>, file: File },
    /// A file of the store on the same file system, to be renamed.
    Store { taken: Taken, file: File, attributes: Attributes },
}

impl<'a> Stage<'a> {
    /// Starts an empty batch.
    #[must_use]
    pub fn new(root: &'a Root, journal: &'a StageJournal) -> Self {
        Self { root, journal, directories: HashMap::new(), files: Vec::new() }
    }

    /// Stages a content for `path`, owner and mode set, verified against `digest`. The directory of `path` must exist; nothing
    /// at `path` is touched. Mode is 0644 where none is given.
    ///
    /// # Errors
    ///
    /// When the content is another, or the disk does not take it; nothing stays behind then.
    pub fn add(&mut self, path: &TreePath, source: ContentSource, digest: Digest, attributes: Attributes) -> Result<(), FsError> {
        let attributes = Attributes { mode: Some(attributes.mode.unwrap_or(0o644)), ..attributes };
        let parent = path.parent().unwrap_or_default();
        self.open_directory(&parent)?;
        let Some(directory) = self.directories.get(&parent) else {
            return Err(self.root.error(path, "stage", io::Error::from(Errno::NOENT)));
        };
        let origin = match source {
            ContentSource::Take(taken) => File::open(taken.path()).and_then(|file| {
                if is_renamable(directory, &file)? {
                    return Ok(Origin::Store { taken, file, attributes });
                }
                let origin = self.write(directory, &parent, Source::File(file), digest, attributes)?;
                std::fs::remove_file(taken.path())?;
                Ok(origin)
            }),
            ContentSource::Copy(file) => self.write(directory, &parent, Source::File(file), digest, attributes),
            ContentSource::Bytes(bytes) => self.write(directory, &parent, Source::Bytes(bytes), digest, attributes),
        };
        let origin = origin.map_err(|error| {
            let is_mismatch = error.get_ref().is_some_and(|inner| inner.is::<Mismatch>());
            let error = self.root.error(path, "stage a new content for", error);
            if is_mismatch { error.with_kind(FsErrorKind::DigestMismatch, Some("the next run fetches it anew")) } else { error }
        })?;
        self.files.push(Staged { path: path.clone(), digest, origin });
        Ok(())
    }

    /// Returns where the staged content of `path` lies on disk, for a check before the commit; only files that are not
    /// renamed out of the store have such a place of their own beside the target.
    #[must_use]
    pub fn staged_path(&self, path: &TreePath) -> Option<PathBuf> {
        let staged = self.files.iter().find(|staged| staged.path == *path)?;
        match &staged.origin {
            Origin::Store { taken, .. } => Some(taken.path().to_owned()),
            Origin::Beside { name, .. } => {
                let parent = path.parent().unwrap_or_default();
                Some(self.root.display(&parent.child(name).ok()?))
            }
        }
    }

    /// Gives one staged file up.
    pub fn discard(&mut self, path: &TreePath) {
        if let Some(at) = self.files.iter().position(|staged| staged.path == *path) {
            let staged = self.files.remove(at);
            self.remove(&staged);
        }
    }

    /// Makes all contents durable, renames each over its target, makes the names durable. One result for each file added,
    /// in order; a target that is a directory is not replaced.
    ///
    /// # Errors
    ///
    /// Each file has its own; where its contents could not be made durable, no file is renamed.
    #[must_use]
    pub fn commit(mut self) -> Vec<(TreePath, Result<Written, FsError>)> {
        let files = std::mem::take(&mut self.files);
        if let Err(error) = self.make_durable(&files) {
            files.iter().for_each(|staged| self.remove(staged));
            let failed = |staged: Staged| {
                let again = io::Error::new(error.kind(), error.to_string());
                let failure = self.root.error(&staged.path, "make durable the content of", again);
                (staged.path, Err(failure))
            };
            return files.into_iter().map(failed).collect();
        }
        let mut touched: BTreeSet<TreePath> = BTreeSet::new();
        let mut results: Vec<(TreePath, Digest, Result<(), FsError>)> = Vec::with_capacity(files.len());
        for staged in files {
            let result = self.rename(&staged);
            if result.is_ok() {
                touched.insert(staged.path.parent().unwrap_or_default());
            } else {
                self.remove(&staged);
            }
            results.push((staged.path, staged.digest, result));
        }
        let unsynced: BTreeMap<TreePath, String> = touched
            .into_iter()
            .filter_map(|parent| {
                let error = fsync(self.directories.get(&parent)?).err()?;
                Some((parent, error.to_string()))
            })
            .collect();
        let finish = |(path, digest, result): (TreePath, Digest, Result<(), FsError>)| {
            let written = result.and_then(|()| match unsynced.get(&path.parent().unwrap_or_default()) {
                Some(error) => Err(self.root.error(&path, "make durable the name of", io::Error::other(error.clone()))),
                None => self.written(&path, digest),
            });
            (path, written)
        };
        results.into_iter().map(finish).collect()
    }

    fn open_directory(&mut self, parent: &TreePath) -> Result<(), FsError> {
        if !self.directories.contains_key(parent) {
            let fd =
                open_directory(self.root.fd(), parent).map_err(|error| self.root.error(parent, "open the directory", error))?;
            self.directories.insert(parent.clone(), fd);
        }
        Ok(())
    }

    /// Writes a staged file beside the target.
    fn write(
        &self,
        directory: &OwnedFd,
        parent: &TreePath,
        source: Source,
        digest: Digest,
        attributes: Attributes,
    ) -> io::Result<Origin> {
        self.journal.announce(parent)?;
        let name = temporary_name();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(directory, &name[..], flags, Mode::RUSR | Mode::WUSR)?);
        let written = copy(source, &mut file, digest).and_then(|()| apply(file.as_fd(), attributes));
        match written {
            Ok(()) => Ok(Origin::Beside { name, file }),
            Err(error) => {
                unlinkat(directory, &name[..], AtFlags::empty())?;
                Err(error)
            }
        }
    }

    fn make_durable(&self, files: &[Staged]) -> io::Result<()> {
        let file = |staged: &Staged| match &staged.origin {
            Origin::Beside { file, .. } | Origin::Store { file, .. } => file.try_clone(),
        };
        // Attributes of store files are set here, so that they are durable with the content; the store is private to us.
        for staged in files {
            if let Origin::Store { file, attributes, .. } = &staged.origin {
                apply(file.as_fd(), *attributes)?;
            }
        }
        if files.len() < SYNCFS_FROM {
            return files.iter().try_for_each(|staged| file(staged)?.sync_all());
        }
        let mut synced = BTreeSet::new();
        for staged in files {
            let file = file(staged)?;
            if synced.insert(fstat(&file)?.st_dev) {
                syncfs(&file)?;
            }
        }
        Ok(())
    }

    fn rename(&self, staged: &Staged) -> Result<(), FsError> {
        let fail = |error: io::Error| self.root.error(&staged.path, "rename a new content to", error);
        let (Some(directory), Some(name)) = (self.directories.get(&staged.path.parent().unwrap_or_default()), staged.path.name())
        else {
            return Err(fail(Errno::INVAL.into()));
        };
        let renamed = match &staged.origin {
            Origin::Beside { name: temporary, .. } => renameat(directory, &temporary[..], directory, name),
            Origin::Store { taken, .. } => renameat(rustix::fs::CWD, taken.path(), directory, name),
        };
        match renamed {
            Ok(()) => Ok(()),
            Err(Errno::ISDIR) => Err(fail(Errno::ISDIR.into())
                .with_kind(FsErrorKind::WrongKind, Some("a directory is there: remove it, or set force => true"))),
            Err(error) => Err(fail(error.into())),
        }
    }

    fn written(&self, path: &TreePath, digest: Digest) -> Result<Written, FsError> {
        match self.root.stat(path)? {
            Some(stat) => Ok(Written { stat, digest }),
            None => Err(self.root.error(path, "find after the rename", io::Error::from(Errno::NOENT))),
        }
    }

    fn remove(&self, staged: &Staged) {
        if let Origin::Beside { name, .. } = &staged.origin
            && let Some(directory) = self.directories.get(&staged.path.parent().unwrap_or_default())
            && let Err(error) = unlinkat(directory, &name[..], AtFlags::empty())
        {
            tracing::debug!(path = %staged.path, %error, "a staged file stays until the next run");
        }
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        for staged in std::mem::take(&mut self.files) {
            self.remove(&staged);
        }
    }
}

enum Source {
    Bytes(Bytes),
    File(File),
}

/// The content had another digest; inside an `io::Error`.
#[derive(Debug, thiserror::Error)]
#[error("content has digest {actual}, wanted is {wanted}")]
struct Mismatch {
    wanted: Digest,
    actual: Digest,
}

/// Copies and hashes in one pass.
fn copy(source: Source, target: &mut File, wanted: Digest) -> io::Result<()> {
    let mut hasher = wanted.verifier();
    match source {
        Source::Bytes(bytes) => {
            hasher.update(&bytes);
            target.write_all(&bytes)?;
        }
        Source::File(mut file) => {
            let length = file.metadata()?.len();
            let mut buffer = vec![0; COPY_BYTES.min(usize::try_from(length).unwrap_or(COPY_BYTES) + 1)];
            loop {
                let count = file.read(&mut buffer)?;
                if count == 0 {
                    break;
                }
                hasher.update(&buffer[..count]);
                target.write_all(&buffer[..count])?;
            }
        }
    }
    let actual = hasher.finish();
    if actual == wanted { Ok(()) } else { Err(io::Error::other(Mismatch { wanted, actual })) }
}

/// Whether a store file is on the file system of `directory` and has no other name.
fn is_renamable(directory: &OwnedFd, file: &File) -> io::Result<bool> {
    let (here, there) = (fstat(directory)?, fstat(file)?);
    Ok(here.st_dev == there.st_dev && there.st_nlink == 1)
}

/// Returns a name that nobody can guess.
pub(super) fn temporary_name() -> Vec<u8> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).expect("the kernel gives random bytes on every supported system");
    let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{STAGED_PREFIX}{hex}").into_bytes()
}

/// Whether a name is one of [`temporary_name`].
pub(super) fn is_temporary(name: &[u8]) -> bool {
    name.strip_prefix(STAGED_PREFIX.as_bytes())
        .is_some_and(|hex| hex.len() == 32 && hex.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}
