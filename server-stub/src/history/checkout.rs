//! Writing a version out as files.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use direct_puppet_agent::fs::FsError;
use direct_puppet_transport::protocol::{Digest, EntryKind, Environment, Manifest, ManifestEntry};

use super::VersionName;
use crate::code::Version;
use crate::error::ServerError;
use crate::server::Server;

/// Bytes copied at a time.
const COPY_BYTES: usize = 256 * 1024;

impl Server {
    /// Writes a version out to a directory that is not there yet: whole and durable, or not at all. Blocking.
    ///
    /// # Errors
    ///
    /// When the version is not there any more, a content is damaged, something is at `dir`, or the disk does not take it.
    pub fn checkout(&self, environment: &Environment, name: VersionName, dir: &Path) -> Result<Version, ServerError> {
        let (version, manifest) = self.find_manifest(environment, name)?;
        self.bring_contents(&manifest)?;
        let fail = |attempt, error| ServerError::from(FsError::new(dir, attempt, error));
        if fs::symlink_metadata(dir).is_ok() {
            let error = io::Error::other("something is there: choose a directory that is not there yet");
            return Err(fail("write out a version to", error));
        }
        let mut beside = dir.as_os_str().to_owned();
        beside.push(format!(".{}", std::process::id()));
        let beside = Path::new(&beside);
        DirBuilder::new().mode(0o700).create(beside).map_err(|error| fail("make a directory beside", error))?;
        let written = self.write_out(&manifest, beside).and_then(|()| {
            let finish = || -> io::Result<()> {
                rustix::fs::syncfs(File::open(beside)?)?;
                fs::rename(beside, dir)?;
                File::open(dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))?.sync_all()
            };
            finish().map_err(|error| fail("make durable a version in", error))
        });
        if written.is_err() {
            drop(fs::remove_dir_all(beside));
        }
        written.map(|()| version)
    }

    fn write_out(&self, manifest: &Manifest, top: &Path) -> Result<(), ServerError> {
        let mut modes = Vec::new();
        for entry in manifest.entries() {
            let path = top.join(entry.path.as_path());
            let fail = |error| ServerError::from(FsError::new(&path, "write out", error));
            match &entry.kind {
                EntryKind::Directory => {
                    if !entry.path.is_root() {
                        DirBuilder::new().mode(0o700).create(&path).map_err(fail)?;
                    }
                    // Last, and from below: a directory without permission to write takes no files.
                    modes.push((path, entry.mode));
                }
                EntryKind::Link { target } => {
                    std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(target), &path).map_err(fail)?;
                }
                EntryKind::File { digest, .. } => self.write_file(entry, digest, &path)?,
            }
        }
        for (path, mode) in modes.into_iter().rev() {
            fs::set_permissions(&path, Permissions::from_mode(mode))
                .map_err(|error| FsError::new(&path, "set the permissions of", error))?;
        }
        Ok(())
    }

    fn write_file(&self, entry: &ManifestEntry, digest: &Digest, path: &Path) -> Result<(), ServerError> {
        let damaged = |reason: &str| ServerError::Damaged { path: self.store.path_of(digest), reason: reason.to_owned() };
        let mut from = self.store.open(digest)?.ok_or_else(|| damaged("it is missing: publish again"))?;
        let mut hasher = digest.verifier();
        let mut copy = || -> io::Result<()> {
            let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            let mut buffer = vec![0; COPY_BYTES];
            loop {
                let count = from.read(&mut buffer)?;
                if count == 0 {
                    return to.set_permissions(Permissions::from_mode(entry.mode));
                }
                hasher.update(&buffer[..count]);
                to.write_all(&buffer[..count])?;
            }
        };
        copy().map_err(|error| FsError::new(path, "write out", error))?;
        if hasher.finish() == *digest { Ok(()) } else { Err(damaged("it is not what its name says: run verify")) }
    }
}
