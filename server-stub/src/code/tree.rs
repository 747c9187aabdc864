//! Writing a version out as files.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use direct_puppet_agent::fs::FsError;
use direct_puppet_agent::store::Store;
use direct_puppet_transport::protocol::{Digest, EntryKind, Manifest, ManifestEntry};

use super::Code;
use crate::error::ServerError;

/// Bytes copied at a time.
const COPY_BYTES: usize = 256 * 1024;

/// Which permissions the files get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Modes {
    /// Those that were published.
    Published,
    /// Those of files that only this user reads, and nobody writes.
    Private,
}

/// Why a version could not be written out.
#[derive(Debug)]
pub(crate) struct WriteOutError {
    /// The content that is missing or damaged, if one is.
    pub(crate) digest: Option<Digest>,
    /// What went wrong.
    pub(crate) error: Box<ServerError>,
}

impl<E: Into<ServerError>> From<E> for WriteOutError {
    fn from(error: E) -> Self {
        Self { digest: None, error: Box::new(error.into()) }
    }
}

impl Code {
    /// Writes all of it out below `top`, which is there. Every content is verified. Blocking.
    pub(crate) fn write_out(&self, top: &Path, modes: Modes) -> Result<(), WriteOutError> {
        write_out(&self.store, &self.manifest, top, modes)
    }

    /// Makes all of it of what [`Code::write_out`] has written below `top` of the manifest `before`, with the modes of files that only this
    /// user reads. Nothing but what differs is touched, in the order of paths; every content of that is verified. After an error it is
    /// neither. Blocking.
    pub(crate) fn write_changes(&self, before: &Manifest, top: &Path) -> Result<(), WriteOutError> {
        let is_directory = |entry: Option<&ManifestEntry>| entry.is_some_and(|entry| entry.kind == EntryKind::Directory);
        let stays = |entry: &ManifestEntry, other: &Manifest| is_directory(Some(entry)) && is_directory(other.get(&entry.path));
        let mut gone: Vec<&ManifestEntry> = before.changed_since(&self.manifest).collect();
        gone.retain(|entry| is_written(entry, Modes::Private) && !stays(entry, &self.manifest));
        // From below: a directory goes when it is empty.
        for entry in gone.into_iter().rev() {
            let path = top.join(entry.path.as_path());
            let removed = if is_directory(Some(entry)) { fs::remove_dir(&path) } else { fs::remove_file(&path) };
            removed.map_err(|error| FsError::new(&path, "remove", error))?;
        }
        for entry in self.manifest.changed_since(before).filter(|entry| !stays(entry, before)) {
            write_entry(&self.store, entry, &top.join(entry.path.as_path()), Modes::Private)?;
        }
        Ok(())
    }
}

/// Writes what a manifest lists out below `top`, which is there; nothing is made durable. Every content is verified. Blocking.
pub(crate) fn write_out(store: &Store, manifest: &Manifest, top: &Path, modes: Modes) -> Result<(), WriteOutError> {
    let mut directories = Vec::new();
    for entry in manifest.entries() {
        let path = top.join(entry.path.as_path());
        write_entry(store, entry, &path, modes)?;
        if entry.kind == EntryKind::Directory {
            // Last, and from below: a directory without permission to write takes no files.
            directories.push((path, entry.mode));
        }
    }
    if modes == Modes::Published {
        for (path, mode) in directories.into_iter().rev() {
            fs::set_permissions(&path, Permissions::from_mode(mode))
                .map_err(|error| FsError::new(&path, "set the permissions of", error))?;
        }
    }
    Ok(())
}

fn write_entry(store: &Store, entry: &ManifestEntry, path: &Path, modes: Modes) -> Result<(), WriteOutError> {
    let fail = |error| FsError::new(path, "write out", error);
    match &entry.kind {
        EntryKind::Directory => DirBuilder::new().mode(0o700).create(path).map_err(fail)?,
        _ if !is_written(entry, modes) => {}
        EntryKind::Link { target } => {
            std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(target), path).map_err(fail)?;
        }
        EntryKind::File { digest, .. } => write_file(store, entry, digest, path, modes)?,
    }
    Ok(())
}

/// Whether an entry is written at all: a compiler shall see nothing but what its catalog is named after.
pub(crate) fn is_written(entry: &ManifestEntry, modes: Modes) -> bool {
    !matches!(&entry.kind, EntryKind::Link { target } if modes == Modes::Private && target.starts_with(b"/"))
}

fn write_file(store: &Store, entry: &ManifestEntry, digest: &Digest, path: &Path, modes: Modes) -> Result<(), WriteOutError> {
    let damaged = |reason: &str| WriteOutError {
        digest: Some(*digest),
        error: Box::new(ServerError::Damaged { path: store.path_of(digest), reason: reason.to_owned() }),
    };
    let mode = match modes {
        Modes::Published => entry.mode,
        Modes::Private => 0o400 | entry.mode & 0o100,
    };
    let mut from = store.content(digest)?.ok_or_else(|| damaged("it is missing: publish again"))?;
    let mut hasher = digest.verifier();
    let mut copy = || -> io::Result<()> {
        let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let count = from.read(&mut buffer)?;
            if count == 0 {
                return to.set_permissions(Permissions::from_mode(mode));
            }
            hasher.update(&buffer[..count]);
            to.write_all(&buffer[..count])?;
        }
    };
    copy().map_err(|error| FsError::new(path, "write out", error))?;
    if hasher.finish() == *digest { Ok(()) } else { Err(damaged("it is not what its name says: run verify")) }
}
