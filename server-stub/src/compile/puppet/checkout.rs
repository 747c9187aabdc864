//! The files of one version of the code, which nobody changes.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use direct_puppet_agent::fs::{FsError, ensure_private_dir};
use direct_puppet_agent::tree::Pool;
use direct_puppet_transport::protocol::{Algorithm, Digest, EntryKind, Environment, Hasher, Manifest, ManifestEntry, TreePath};
use rayon::prelude::*;

use super::error;
use crate::code::Code;
use crate::code::tree::{Modes, WriteOutError, is_written};
use crate::compile::{CompileError, CompileErrorKind};
use crate::disk;
use crate::error::chain;

/// Tells checkouts of one process apart.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// The files of one version. They are removed when nothing compiles from them any more.
///
/// ```text
/// <work>/<n>/environments/<environment>/…   the files
///           /conf, /var                     what Puppet takes for its own
///           /modules                        an empty directory: no modules that were not published
/// ```
///
/// The files of a version that nothing compiles from any more become those of the next one: only what differs is written. That takes a
/// look at the metadata of each before and after, and where anything was touched since it was written, by whatever code does when it compiles,
/// all are written anew. Those that stay are read before anything is compiled from them, and so are all before another process compiles from
/// them: what the disk has made of them meanwhile gets into no catalog.
#[derive(Debug)]
pub(super) struct Checkout {
    top: PathBuf,
    environment: Environment,
    /// The directory of the environment, as text and with a slash at its end.
    prefix: String,
    /// What is in it, and the digest of what its metadata were when all of it was there; `None` until then.
    written: Option<(Manifest, Digest)>,
}

impl Checkout {
    /// Writes code out below `work_dir`, or makes its files of those of `retired`, another version of the environment. Blocking.
    pub(super) fn make(work_dir: &Path, code: &Code, retired: Option<Self>) -> Result<Self, CompileError> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // The process that compiles runs in a directory of its own.
        let work_dir = std::path::absolute(work_dir).unwrap_or_else(|_| work_dir.to_owned());
        let top = work_dir.join(number.to_string());
        let environment = code.version.environment.clone();
        let files = top.join("environments").join(environment.as_str());
        let mut prefix = files.to_string_lossy().into_owned();
        prefix.push('/');
        // From here on, whatever fails, what was begun is removed.
        let mut checkout = Self { top, environment, prefix, written: None };
        let fail = |kind, message| CompileError::at(&error::place(code), message).with_kind(kind);
        for dir in [checkout.environments(), checkout.confdir(), checkout.vardir(), checkout.no_modules()] {
            ensure_private_dir(&dir)
                .map_err(|error| fail(CompileErrorKind::Disk, format!("no place to compile in: {}", chain(&error))))?;
        }
        let anew =
            || ensure_private_dir(&files).map_err(WriteOutError::from).and_then(|()| code.write_out(&files, Modes::Private));
        let written = match retired.and_then(|retired| retired.give_to(&files)) {
            Some(before) => code.write_changes(&before, &files).and_then(|()| match damaged(&files, &code.manifest)? {
                None => Ok(()),
                Some(path) => {
                    tell_damaged(&checkout.environment, &path);
                    fs::remove_dir_all(&files).map_err(|error| FsError::new(&files, "remove", error))?;
                    anew()
                }
            }),
            None => anew(),
        };
        let written = written.and_then(|()| Ok(state_of(&files, &code.manifest)?)).map_err(|failed| {
            let kind = failed.digest.map_or(CompileErrorKind::Disk, |digest| CompileErrorKind::Unreadable { digest });
            fail(kind, format!("its files could not be written out to be compiled: {}", chain(&*failed.error)))
        })?;
        checkout.written = Some((code.manifest.clone(), written));
        Ok(checkout)
    }

    /// Moves the files, if they are as they were written, and says what they are; `files` is not there yet.
    fn give_to(mut self, files: &Path) -> Option<Manifest> {
        let (manifest, written) = self.written.take()?;
        let own = self.environments().join(self.environment.as_str());
        if state_of(&own, &manifest).ok() != Some(written) {
            tracing::warn!(environment = %self.environment, "files that code is compiled from were touched: all are written anew");
            return None;
        }
        fs::rename(own, files).ok().map(|()| manifest)
    }

    /// Reads all of it again; returns a file that is not as it was written. An error says that this process could not read. Blocking.
    pub(super) fn damaged(&self) -> Result<Option<TreePath>, FsError> {
        let Some((manifest, _)) = &self.written else { return Ok(None) };
        damaged(&self.environments().join(self.environment.as_str()), manifest)
    }

    /// Takes what is there now for what was written, as after a change that metadata do not show.
    #[cfg(test)]
    pub(super) fn believe(&mut self) {
        if let Some((manifest, written)) = &mut self.written {
            *written = state_of(&self.top.join("environments").join(self.environment.as_str()), manifest).unwrap();
        }
    }

    pub(super) const fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The directory of environments.
    pub(super) fn environments(&self) -> PathBuf {
        self.top.join("environments")
    }

    pub(super) fn confdir(&self) -> PathBuf {
        self.top.join("conf")
    }

    pub(super) fn vardir(&self) -> PathBuf {
        self.top.join("var")
    }

    pub(super) fn no_modules(&self) -> PathBuf {
        self.top.join("modules")
    }

    /// Returns text with paths in it as they were published, which are the same on every server.
    pub(super) fn published(&self, text: &str) -> String {
        text.replace(&self.prefix, "")
    }

    /// Returns where a path lies in the published code; `None` if it does not.
    pub(super) fn tree_path(&self, path: &str) -> Option<TreePath> {
        TreePath::from_bytes(path.strip_prefix(&self.prefix)?.as_bytes()).ok()
    }
}

/// Says that a file is not what it was when it was written.
pub(super) fn tell_damaged(environment: &Environment, path: &TreePath) {
    tracing::warn!(%environment, %path, "a file that code is compiled from is damaged: all are written anew");
}

/// Returns a file or link below `top` that is not what the manifest says. As many threads read as there are cores.
fn damaged(top: &Path, manifest: &Manifest) -> Result<Option<TreePath>, FsError> {
    let written: Vec<&ManifestEntry> = manifest.entries().filter(|entry| is_written(entry, Modes::Private)).collect();
    let is_damaged = |entry: &&ManifestEntry| -> Result<bool, FsError> {
        let path = top.join(entry.path.as_path());
        let is_as_written = match &entry.kind {
            EntryKind::Directory => Ok(true),
            EntryKind::Link { target } => fs::read_link(&path).map(|there| there.as_os_str().as_bytes() == target),
            EntryKind::File { digest, .. } => fs::File::open(&path).and_then(|file| disk::is_content(file, digest)),
        };
        match is_as_written {
            Err(error) if disk::is_of_this_process(&error) => Err(FsError::new(&path, "read again", error)),
            found => Ok(!found.unwrap_or(false)),
        }
    };
    let look = |entry: &&ManifestEntry| is_damaged(entry).map(|is_damaged| is_damaged.then(|| entry.path.clone())).transpose();
    match Pool::new(0) {
        Ok(pool) => pool.install(|| written.par_iter().find_map_any(look)).transpose(),
        // Without more threads this one reads them.
        Err(_) => written.iter().find_map(look).transpose(),
    }
}

/// Returns a digest of which objects there are below `top` and when each was changed last. Nobody can set that time back, whatever the clock does,
/// and what comes or goes changes its directory.
fn state_of(top: &Path, manifest: &Manifest) -> Result<Digest, FsError> {
    let mut hasher = Hasher::new(Algorithm::Blake3);
    let mut add = |path: &Path| {
        let found = fs::symlink_metadata(path).map_err(|error| FsError::new(path, "look at", error))?;
        for number in [found.ino(), u64::from(found.mode()), found.ctime().cast_unsigned(), found.ctime_nsec().cast_unsigned()] {
            hasher.update(&number.to_le_bytes());
        }
        Ok(())
    };
    add(top)?;
    let mut written = manifest.entries().filter(|entry| is_written(entry, Modes::Private));
    written.try_for_each(|entry| add(&top.join(entry.path.as_path())))?;
    Ok(hasher.finish())
}

impl Drop for Checkout {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.top) {
            tracing::warn!(path = %self.top.display(), %error, "files of code that is not compiled any more stay until the next start");
        }
    }
}
