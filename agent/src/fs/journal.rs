//! Which directories may hold staged files.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use direct_puppet_transport::protocol::TreePath;
use rustix::fs::{AtFlags, Dir, unlinkat};

use super::resolve::open_directory;
use super::stage::is_temporary;
use super::{FsError, Root};

/// Name of the journal in the state directory.
const JOURNAL: &str = "staged";

/// Remembers, durably and before they exist, where staged files lie, so that a later run can remove what a crash left; see
/// the module's head.
#[derive(Debug)]
pub struct StageJournal {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    file: Option<File>,
    announced: HashSet<TreePath>,
}

impl StageJournal {
    /// Opens the journal in `state_dir`, removing below `root` whatever an interrupted run left staged; returns how many.
    /// The caller holds the run lock. Blocking.
    ///
    /// # Errors
    ///
    /// When the journal cannot be read or emptied.
    pub fn open(state_dir: &Path, root: &Root) -> Result<(Self, u64), FsError> {
        let path = state_dir.join(JOURNAL);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(FsError::new(&path, "read the journal of staged files", error)),
        };
        let mut removed = 0;
        for directory in text.lines().filter_map(|line| line.parse::<TreePath>().ok()) {
            removed += clean(root, &directory)?;
        }
        let journal = Self { path, state: Mutex::default() };
        if !text.is_empty() {
            journal.clear()?;
        }
        Ok((journal, removed))
    }

    /// Says that a file will be staged in `directory`.
    pub(super) fn announce(&self, directory: &TreePath) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.announced.contains(directory) {
            return Ok(());
        }
        if state.file.is_none() {
            state.file = Some(OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?);
            File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
        }
        if let Some(file) = &mut state.file {
            file.write_all(format!("{directory}\n").as_bytes())?;
            file.sync_data()?;
        }
        state.announced.insert(directory.clone());
        Ok(())
    }

    /// Says that nothing is staged any more. Blocking.
    ///
    /// # Errors
    ///
    /// When the journal cannot be removed; it then names directories that need not be looked at.
    pub fn clear(&self) -> Result<(), FsError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = State::default();
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(FsError::new(&self.path, "remove the journal of staged files", error))
            }
            _ => Ok(()),
        }
    }
}

/// Removes staged files from one directory; one that is gone, or reached through a link by now, has none of ours.
fn clean(root: &Root, path: &TreePath) -> Result<u64, FsError> {
    let Ok(directory) = open_directory(root.fd(), path) else { return Ok(0) };
    let clean = || -> io::Result<u64> {
        let mut removed = 0;
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            if is_temporary(entry.file_name().to_bytes()) {
                unlinkat(directory.as_fd(), entry.file_name(), AtFlags::empty())?;
                removed += 1;
            }
        }
        Ok(removed)
    };
    clean().map_err(|error| root.error(path, "remove staged files from", error))
}
