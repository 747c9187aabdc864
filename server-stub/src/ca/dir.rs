//! The directory of the authority, in the layout of Puppet's `cadir`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, fchown, lchown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use direct_puppet_agent::fs::{FsError, write_state};
use direct_puppet_transport::protocol::Certname;
use rustix::fs::{FlockOperation, flock};

use super::{CaError, inventory};
use crate::disk;

/// Paths in the directory, and what is read and written there.
#[derive(Debug)]
pub(super) struct Dir {
    path: PathBuf,
    /// Held with the lock of the file: that one is between processes.
    turn: Mutex<()>,
}

/// The right to change the directory, until dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    file: File,
    _guard: MutexGuard<'a, ()>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Err(error) = flock(&self.file, FlockOperation::Unlock) {
            tracing::debug!(%error, "the lock of the certificate authority goes with its descriptor");
        }
    }
}

impl Dir {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self { path, turn: Mutex::new(()) }
    }

    /// Makes the directories, which only their owner may look into where keys are.
    pub(super) fn create(path: &Path) -> Result<(), CaError> {
        for (dir, mode) in [
            (path.to_owned(), 0o755),
            (path.join("signed"), 0o755),
            (path.join("requests"), 0o755),
            (path.join("private"), 0o750),
        ] {
            let is_new = !dir.exists();
            let made = std::fs::DirBuilder::new().recursive(true).mode(mode).create(&dir);
            made.map_err(|error| FsError::new(&dir, "make", error))?;
            if is_new {
                give(&dir)?;
            }
        }
        Ok(())
    }

    /// Replaces a file, durably.
    #[expect(clippy::unused_self, reason = "only what is in the directory is written so")]
    pub(super) fn write(&self, path: &Path, content: &[u8], mode: u32) -> Result<(), CaError> {
        write_state(path, content, mode)?;
        give(path)
    }

    pub(super) fn certificates(&self) -> PathBuf {
        self.path.join("ca_crt.pem")
    }

    pub(super) fn key(&self) -> PathBuf {
        self.path.join("ca_key.pem")
    }

    pub(super) fn lists(&self) -> PathBuf {
        self.path.join("ca_crl.pem")
    }

    pub(super) fn public_key(&self) -> PathBuf {
        self.path.join("ca_pub.pem")
    }

    pub(super) fn serial(&self) -> PathBuf {
        self.path.join("serial")
    }

    /// Is there while an authority is made.
    pub(super) fn begun(&self) -> PathBuf {
        self.path.join(".begun")
    }

    pub(super) fn inventory(&self) -> PathBuf {
        self.path.join("inventory.txt")
    }

    pub(super) fn signed(&self, name: &Certname) -> PathBuf {
        self.path.join("signed").join(format!("{name}.pem"))
    }

    pub(super) fn request(&self, name: &Certname) -> PathBuf {
        self.path.join("requests").join(format!("{name}.pem"))
    }

    /// Waits for the right to change something here; other processes wait too. Blocking.
    pub(super) fn turn(&self) -> Result<Turn<'_>, CaError> {
        let guard = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.path.join(".lock");
        let file = open_given(&path, OpenOptions::new().write(true).mode(0o600));
        let file = file.map_err(|error| FsError::new(&path, "open the lock", error))?;
        flock(&file, FlockOperation::LockExclusive).map_err(|error| FsError::new(&path, "lock", error.into()))?;
        Ok(Turn { file, _guard: guard })
    }

    /// Returns the number of the next certificate, after making sure that no later one has it. A number is lost in a crash, never
    /// given twice.
    pub(super) fn take_serial(&self, _turn: &Turn<'_>) -> Result<u64, CaError> {
        let path = self.serial();
        let text = read_text(&path)?.ok_or_else(|| {
            CaError::damaged(&path, "it is not there: write the number of the next certificate into it, in hexadecimal")
        })?;
        let next = u64::from_str_radix(text.trim(), 16).ok().filter(|&next| next > 0);
        let next = next.ok_or_else(|| CaError::damaged(&path, "it holds no hexadecimal number"))?;
        // A directory that was restored from a backup may have a number that is too low.
        let listed = inventory::last_serial(&self.inventory_text()?).map_or(Some(0), |last| last.checked_add(1));
        let after = listed.map(|listed| next.max(listed)).and_then(|next| Some((next, next.checked_add(1)?)));
        let (serial, after) = after.ok_or_else(|| CaError::damaged(&path, "no number is left"))?;
        self.write(&path, format!("{after:04X}").as_bytes(), 0o644)?;
        Ok(serial)
    }

    /// Returns the inventory; an empty one when there is none.
    pub(super) fn inventory_text(&self) -> Result<String, CaError> {
        Ok(read_text(&self.inventory())?.unwrap_or_default())
    }

    /// Adds a line to the inventory, durably; half a line that a crash left there is ended first.
    pub(super) fn append_inventory(&self, _turn: &Turn<'_>, line: &inventory::Line) -> Result<(), CaError> {
        let path = self.inventory();
        let is_whole = self.inventory_text()?.chars().next_back().is_none_or(|last| last == '\n');
        let append = || -> io::Result<()> {
            let mut file = open_given(&path, OpenOptions::new().append(true).mode(0o644))?;
            let text = line.text();
            file.write_all(if is_whole { text } else { format!("\n{text}") }.as_bytes())?;
            file.sync_all()?;
            File::open(&self.path)?.sync_all()
        };
        append().map_err(|error| FsError::new(&path, "append to", error).into())
    }

    /// Returns the names of which there are files.
    pub(super) fn names(&self, below: &str) -> Result<Vec<Certname>, CaError> {
        let path = self.path.join(below);
        let list = || std::fs::read_dir(&path)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>();
        let found = list().map_err(|error| FsError::new(&path, "list", error))?;
        let name = |file: &std::ffi::OsString| file.to_str()?.strip_suffix(".pem")?.parse().ok();
        let mut names: Vec<Certname> = found.iter().filter_map(name).collect();
        names.sort();
        Ok(names)
    }
}

/// Returns to whom what root makes in a directory is to belong: its owner, when that is another, so that a server that runs as that one is
/// not locked out by a command of root.
fn heir(path: &Path) -> io::Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let Some(dir) = path.parent() else { return Ok(None) };
    // One name alone lies in the working directory.
    let found = std::fs::metadata(if dir.as_os_str().is_empty() { Path::new(".") } else { dir })?;
    Ok((found.uid() != 0).then(|| (found.uid(), found.gid())))
}

/// Gives what root has just made to the owner of its directory. No link is followed.
fn give(path: &Path) -> Result<(), CaError> {
    let given = heir(path).and_then(|heir| heir.map_or(Ok(()), |(user, group)| lchown(path, Some(user), Some(group))));
    given.map_err(|error| FsError::new(path, "give to the owner of its directory", error).into())
}

/// Opens a file, which is made if there is none, and then belongs to the owner of its directory. One that is there keeps its owner: it may
/// be a link that this one has laid.
fn open_given(path: &Path, options: &OpenOptions) -> io::Result<File> {
    match options.clone().create_new(true).open(path) {
        Ok(file) => {
            if let Some((user, group)) = heir(path)? {
                fchown(&file, Some(user), Some(group))?;
            }
            Ok(file)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.open(path),
        Err(error) => Err(error),
    }
}

/// Reads a text file; `None` when there is none.
pub(super) fn read_text(path: &Path) -> Result<Option<String>, CaError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FsError::new(path, "read", error).into()),
    }
}

/// Removes a file, durably; returns whether it was there.
pub(super) fn remove(path: &Path) -> Result<bool, CaError> {
    match std::fs::remove_file(path) {
        Ok(()) => {
            if let Some(dir) = path.parent() {
                disk::sync_dir(dir).map_err(|error| CaError::damaged(dir, crate::error::chain(&error)))?;
            }
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(FsError::new(path, "remove", error).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_alone_lies_in_the_working_directory() {
        assert!(heir(Path::new("ca9")).is_ok());
    }
}
