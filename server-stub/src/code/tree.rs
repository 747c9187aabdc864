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
}

/// Writes what a manifest lists out below `top`, which is there; nothing is made durable. Every content is verified. Blocking.
pub(crate) fn write_out(store: &Store, manifest: &Manifest, top: &Path, modes: Modes) -> Result<(), WriteOutError> {
    let mut directories = Vec::new();
    for entry in manifest.entries() {
        let path = top.join(entry.path.as_path());
        let fail = |error| FsError::new(&path, "write out", error);
        match &entry.kind {
            EntryKind::Directory => {
                DirBuilder::new().mode(0o700).create(&path).map_err(fail)?;
                // Last, and from below: a directory without permission to write takes no files.
                directories.push((path, entry.mode));
            }
            // A compiler shall see nothing but what its catalog is named after.
            EntryKind::Link { target } if modes == Modes::Private && target.starts_with(b"/") => {}
            EntryKind::Link { target } => {
                std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(target), &path).map_err(fail)?;
            }
            EntryKind::File { digest, .. } => write_file(store, entry, digest, &path, modes)?,
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
