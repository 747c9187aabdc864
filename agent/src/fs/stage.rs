//! Files written in batches: all contents durable first, then only renames.
//!
//! What a batch leaves when the process dies are files named [`STAGED_PREFIX`] and 32 random hexadecimal digits, beside their
//! targets. The journal says in which directories to look for them, and by which mark to know them: `<state dir>/staged`, one
//! line a directory, written and synced *before* the first staged file of that directory is created. So every staged file,
//! however the machine stops, lies in a directory that the next run knows; it removes just the files with that mark there.
//! The journal is emptied when the last batch is committed.
//!
//! Limits: access control lists and extended attributes other than the SELinux label are not carried over from the file that
//! is replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use bytes::Bytes;
use direct_puppet_transport::protocol::{Digest, TreePath};
use rustix::fs::{AtFlags, Mode, OFlags, fstat, fsync, openat, renameat, unlinkat};
use rustix::io::Errno;

use super::attributes::apply;
use super::content::{Mismatch, Source, copy, keep_label};
use super::directories::Directories;
use super::journal::StageJournal;
use super::{Attributes, FsError, FsErrorKind, Root, Stat};
use crate::store::Taken;

/// What staged files begin with.
pub const STAGED_PREFIX: &str = ".direct-puppet-";

/// From how many files on one `syncfs` per file system is cheaper than an `fsync` of each (performance notes: 6 times at 1,000
/// files, no gain below some dozens, and `syncfs` pays for other writers too). Also how many staged files are kept open.
pub(super) const SYNCFS_FROM: usize = 64;

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
///
/// However large, it holds some dozens of descriptors.
#[derive(Debug)]
pub struct Stage<'a> {
    root: &'a Root,
    journal: &'a StageJournal,
    directories: Directories,
    files: Vec<Staged>,
}

#[derive(Debug)]
struct Staged {
    path: TreePath,
    digest: Digest,
    attributes: Attributes,
    origin: Origin,
    /// Open while the batch is small, to be synced by itself.
    file: Option<File>,
    /// What it was when it was complete.
    stat: Stat,
}

#[derive(Debug)]
enum Origin {
    /// A staged file beside the target; with the file of the store that it was copied from for the last time.
    Beside { name: Vec<u8>, used: Option<Taken> },
    /// A file of the store on the same file system, to be renamed.
    Store(Taken),
}

/// A staged file that was just written.
struct Copied {
    name: Vec<u8>,
    file: File,
    stat: Stat,
}

impl<'a> Stage<'a> {
    /// Starts an empty batch.
    #[must_use]
    pub fn new(root: &'a Root, journal: &'a StageJournal) -> Self {
        Self { root, journal, directories: Directories::default(), files: Vec::new() }
    }

    /// Stages a content for `path`, owner and mode set, verified against `digest`. The directory of `path` must exist; nothing
    /// at `path` is touched. Mode is 0644 where none is given.
    ///
    /// # Errors
    ///
    /// When the content is another, or the disk does not take it; nothing stays behind then.
    pub fn add(&mut self, path: &TreePath, source: ContentSource, digest: Digest, attributes: Attributes) -> Result<(), FsError> {
        let attributes = Attributes { mode: Some(attributes.mode.unwrap_or(0o644)), ..attributes };
        let mut staged = self.stage(path, source, digest, attributes).map_err(|error| {
            let is_mismatch = error.get_ref().is_some_and(|inner| inner.is::<Mismatch>());
            let error = self.root.error(path, "stage a new content for", error);
            match error.kind {
                _ if is_mismatch => error.with_kind(FsErrorKind::DigestMismatch, Some("the next run fetches it anew")),
                FsErrorKind::NotFound => error
                    .with_kind(FsErrorKind::NotFound, Some("is its directory there? Manage that too, with ensure => directory")),
                _ => error,
            }
        })?;
        if self.files.len() >= SYNCFS_FROM {
            staged.file = None;
        }
        self.files.push(staged);
        Ok(())
    }

    fn stage(&mut self, path: &TreePath, source: ContentSource, digest: Digest, attributes: Attributes) -> io::Result<Staged> {
        let directory = self.directories.get(self.root, &path.parent().unwrap_or_default())?;
        let (source, used) = match source {
            ContentSource::Take(taken) => {
                let file = File::open(taken.path())?;
                let (here, there) = (fstat(&directory)?, fstat(&file)?);
                if here.st_dev == there.st_dev && there.st_nlink == 1 {
                    let (origin, stat) = (Origin::Store(taken), Stat::from_raw(&there));
                    return Ok(Staged { path: path.clone(), digest, attributes, origin, file: Some(file), stat });
                }
                (Source::File(file), Some(taken))
            }
            ContentSource::Copy(file) => (Source::File(file), None),
            ContentSource::Bytes(bytes) => (Source::Bytes(bytes), None),
        };
        let Copied { name, file, stat } = self.write(&directory, path, source, digest, attributes)?;
        Ok(Staged { path: path.clone(), digest, attributes, origin: Origin::Beside { name, used }, file: Some(file), stat })
    }

    /// Writes a staged file beside the target.
    fn write(
        &self,
        directory: &OwnedFd,
        path: &TreePath,
        source: Source,
        digest: Digest,
        attributes: Attributes,
    ) -> io::Result<Copied> {
        self.journal.announce(&path.parent().unwrap_or_default())?;
        let name = self.journal.name();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(directory, &name[..], flags, Mode::RUSR | Mode::WUSR)?);
        let written = copy(source, &mut file, digest)
            .and_then(|()| apply(file.as_fd(), attributes))
            .and_then(|()| keep_label(directory, path.name().unwrap_or_default(), &file))
            .and_then(|()| Ok(Stat::from_raw(&fstat(&file)?)));
        match written {
            Ok(stat) => Ok(Copied { name, file, stat }),
            Err(error) => {
                unlinkat(directory, &name[..], AtFlags::empty())?;
                Err(error)
            }
        }
    }

    /// Returns where the staged content of `path` lies on disk, for a check before the commit: beside its target, or in the
    /// store's directory if it will be renamed from there.
    #[must_use]
    pub fn staged_path(&self, path: &TreePath) -> Option<PathBuf> {
        let staged = self.files.iter().find(|staged| staged.path == *path)?;
        match &staged.origin {
            Origin::Store(taken) => Some(taken.path().to_owned()),
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
        let mut prepared: Vec<(Staged, Result<(), FsError>)> = Vec::with_capacity(files.len());
        for mut staged in files {
            let result =
                self.prepare(&mut staged).map_err(|error| self.root.error(&staged.path, "prepare the content of", error));
            prepared.push((staged, result));
        }
        if let Err(error) = self.make_durable(&prepared) {
            for (staged, result) in prepared.iter_mut().filter(|(_, result)| result.is_ok()) {
                *result = Err(self.root.error(&staged.path, "make durable the content of", again(&error)));
            }
        }
        let mut renamed = Vec::with_capacity(prepared.len());
        for (mut staged, result) in prepared {
            let result = result.and_then(|()| self.rename(&mut staged));
            if result.is_err() {
                self.remove(&staged);
            }
            renamed.push((staged, result));
        }
        let touched = renamed.iter().filter(|(_, result)| result.is_ok());
        let unsynced = self.sync_directories(touched.map(|(staged, _)| staged.path.parent().unwrap_or_default()).collect());
        let finish = |(staged, result): (Staged, Result<(), FsError>)| {
            let written = result.and_then(|()| match unsynced.get(&staged.path.parent().unwrap_or_default()) {
                Some(error) => Err(self.root.error(&staged.path, "make durable the name of", again(error))),
                None => self.written(&staged),
            });
            (staged.path, written)
        };
        renamed.into_iter().map(finish).collect()
    }

    /// Gives a file of the store its owner and mode, before it is made durable with its content; the store is private to us.
    fn prepare(&mut self, staged: &mut Staged) -> io::Result<()> {
        let Origin::Store(taken) = &staged.origin else { return Ok(()) };
        let open = staged.file.as_ref().map_or_else(|| File::open(taken.path()), File::try_clone)?;
        let directory = self.directories.get(self.root, &staged.path.parent().unwrap_or_default())?;
        apply(open.as_fd(), staged.attributes)?;
        keep_label(&directory, staged.path.name().unwrap_or_default(), &open)?;
        staged.stat = Stat::from_raw(&fstat(&open)?);
        Ok(())
    }

    fn make_durable(&self, prepared: &[(Staged, Result<(), FsError>)]) -> io::Result<()> {
        let good = prepared.iter().filter(|(_, result)| result.is_ok());
        let open: Option<Vec<&File>> = good.map(|(staged, _)| staged.file.as_ref()).collect();
        match open {
            Some(open) if open.len() < SYNCFS_FROM => open.into_iter().try_for_each(File::sync_all),
            _ => self.directories.sync_all(),
        }
    }

    fn rename(&mut self, staged: &mut Staged) -> Result<(), FsError> {
        self.try_rename(staged).map_err(|error| {
            let is_directory = Errno::from_io_error(&error) == Some(Errno::ISDIR);
            let error = self.root.error(&staged.path, "rename a new content to", error);
            let hint = "a directory is there: remove it, or set force => true";
            if is_directory { error.with_kind(FsErrorKind::WrongKind, Some(hint)) } else { error }
        })
    }

    fn try_rename(&mut self, staged: &mut Staged) -> io::Result<()> {
        let name = staged.path.name().ok_or(Errno::INVAL)?;
        let directory = self.directories.get(self.root, &staged.path.parent().unwrap_or_default())?;
        if let Origin::Store(taken) = &mut staged.origin {
            match renameat(rustix::fs::CWD, taken.path(), &directory, name) {
                Err(Errno::XDEV) => self.copy_instead(staged, &directory)?,
                Err(error) => return Err(error.into()),
                Ok(()) => {
                    taken.used();
                    return Ok(());
                }
            }
        }
        let name = staged.path.name().ok_or(Errno::INVAL)?;
        let Origin::Beside { name: temporary, used } = &mut staged.origin else { return Err(Errno::INVAL.into()) };
        renameat(&directory, &temporary[..], &directory, name)?;
        if let Some(used) = used {
            match std::fs::remove_file(used.path()) {
                Ok(()) => used.used(),
                Err(error) => {
                    tracing::debug!(path = %used.path().display(), %error, "a content that is not needed any more stays in the store");
                }
            }
        }
        Ok(())
    }

    /// Stages a file of the store by copying. It looked as if it could be renamed, yet a mount is in between (a bind mount has
    /// the device of what it shows) or a project quota.
    fn copy_instead(&self, staged: &mut Staged, directory: &OwnedFd) -> io::Result<()> {
        let Origin::Store(taken) = &staged.origin else { return Ok(()) };
        let source = Source::File(File::open(taken.path())?);
        let Copied { name, file, stat } = self.write(directory, &staged.path, source, staged.digest, staged.attributes)?;
        if let Err(error) = file.sync_all() {
            unlinkat(directory, &name[..], AtFlags::empty())?;
            return Err(error);
        }
        let before = std::mem::replace(&mut staged.origin, Origin::Beside { name, used: None });
        if let (Origin::Beside { used, .. }, Origin::Store(taken)) = (&mut staged.origin, before) {
            *used = Some(taken);
        }
        staged.stat = stat;
        Ok(())
    }

    /// Makes the names in directories durable; returns those for which that failed.
    fn sync_directories(&mut self, touched: BTreeSet<TreePath>) -> BTreeMap<TreePath, io::Error> {
        if touched.len() >= SYNCFS_FROM {
            return match self.directories.sync_all() {
                Ok(()) => BTreeMap::new(),
                Err(error) => touched.into_iter().map(|parent| (parent, again(&error))).collect(),
            };
        }
        let sync = |parent: TreePath| {
            let result = self.directories.get(self.root, &parent).and_then(|directory| Ok(fsync(&directory)?));
            result.err().map(|error| (parent, error))
        };
        touched.into_iter().filter_map(sync).collect()
    }

    /// Returns what is at the path now, if it is still what was staged: the stat will be taken for a proof of the content.
    fn written(&self, staged: &Staged) -> Result<Written, FsError> {
        let fail = |error| self.root.error(&staged.path, "find after the rename", error);
        let stat = self.root.stat(&staged.path)?.ok_or_else(|| fail(Errno::NOENT.into()))?;
        let identity = |stat: &Stat| (stat.dev, stat.ino, stat.size, stat.mtime);
        if identity(&stat) == identity(&staged.stat) {
            return Ok(Written { stat, digest: staged.digest });
        }
        Err(fail(io::Error::other("somebody else changed it at the same time"))
            .with_kind(FsErrorKind::Other, Some("find out who else manages it; the next run looks at it again")))
    }

    fn remove(&mut self, staged: &Staged) {
        if let Origin::Beside { name, .. } = &staged.origin {
            let directory = self.directories.get(self.root, &staged.path.parent().unwrap_or_default());
            if let Err(error) = directory.and_then(|directory| Ok(unlinkat(&directory, &name[..], AtFlags::empty())?)) {
                tracing::debug!(path = %staged.path, %error, "a staged file stays until the next run");
            }
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

/// Returns the same error once more, for another file.
pub(super) fn again(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| io::Error::new(error.kind(), error.to_string()), io::Error::from_raw_os_error)
}

/// Returns a name that nobody can guess.
pub(super) fn temporary_name() -> Vec<u8> {
    format!("{STAGED_PREFIX}{}", random_hex(32)).into_bytes()
}

/// Returns random hexadecimal digits, an even number of them.
pub(super) fn random_hex(digits: usize) -> String {
    let mut random = vec![0; digits / 2];
    getrandom::fill(&mut random).expect("the kernel gives random bytes on every supported system");
    random.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_else_put_at_once_is_not_reported_as_ours() {
        let dir = tempfile::tempdir().unwrap();
        let (root, path) = (Root::open(dir.path()).unwrap(), TreePath::root().child(b"file").unwrap());
        let (journal, _) = StageJournal::open(dir.path(), &root).unwrap();
        let mut stage = Stage::new(&root, &journal);
        stage.add(&path, ContentSource::Bytes("ours".into()), Digest::of(b"ours"), Attributes::default()).unwrap();
        let mut staged = stage.files.pop().unwrap();
        stage.rename(&mut staged).unwrap();
        assert_eq!(stage.written(&staged).unwrap().stat.ino, staged.stat.ino);
        // Of the same length, so that only the inode tells.
        std::fs::write(dir.path().join("other"), "evil").unwrap();
        std::fs::rename(dir.path().join("other"), dir.path().join("file")).unwrap();
        assert!(stage.written(&staged).is_err());
    }
}
