//! Which directories may hold staged files, and how ours are told from others'.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use direct_puppet_transport::protocol::TreePath;
use rustix::fs::{AtFlags, Dir, unlinkat};
use rustix::io::Errno;

use super::resolve::open_directory;
use super::stage::{STAGED_PREFIX, random_hex};
use super::{FsError, Root, write_state};

/// Name of the journal in the state directory.
const JOURNAL: &str = "staged";

/// Hexadecimal digits of a staged name that say whose it is, and as many that tell it from the others: 64 bits each.
const HALF_DIGITS: usize = 16;

/// Remembers, durably and before they exist, where staged files lie, so that a later run can remove what a crash left.
///
/// One line for each directory: a random mark of this journal, a space, the escaped path. All staged names of the journal
/// begin with [`STAGED_PREFIX`] and the mark, so that what another agent, with another state directory, has staged in the same
/// directory is not touched. Names are never written: a line is synced once for each directory, not for each file.
#[derive(Debug)]
pub struct StageJournal {
    path: PathBuf,
    mark: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    file: Option<File>,
    announced: HashSet<TreePath>,
}

impl StageJournal {
    /// Opens the journal in `state_dir`, removing below `root` whatever an interrupted run left staged; returns how many. What
    /// cannot be removed now, as on a file system that became read-only, is tried again by the next run. The caller holds the
    /// run lock. Blocking.
    ///
    /// # Errors
    ///
    /// When the journal cannot be read or emptied.
    pub fn open(state_dir: &Path, root: &Root) -> Result<(Self, u64), FsError> {
        let path = state_dir.join(JOURNAL);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(FsError::new(&path, "read the journal of staged files", error)),
        };
        let (mut removed, mut left) = (0, Vec::new());
        // The last line may be torn: then nothing was staged in its directory yet.
        for line in bytes.split(|&byte| byte == b'\n') {
            let Some((mark, directory)) = parse(line) else { continue };
            let cleaned = clean(root, &directory, mark);
            removed += cleaned.removed;
            if let Some(error) = cleaned.error {
                tracing::warn!(%error, "staged files of an interrupted run stay until they can be removed");
                left.extend_from_slice(line);
                left.push(b'\n');
            }
        }
        let journal = Self { path, mark: random_hex(HALF_DIGITS), state: Mutex::default() };
        if !left.is_empty() {
            write_state(&journal.path, &left, 0o600)?;
        } else if !bytes.is_empty() {
            journal.clear()?;
        }
        Ok((journal, removed))
    }

    /// Returns a journal that is not looked into and nothing is written to, for who only looks at the machine.
    pub(crate) fn unused(state_dir: &Path) -> Self {
        Self { path: state_dir.join(JOURNAL), mark: random_hex(HALF_DIGITS), state: Mutex::default() }
    }

    /// Returns a new name for a staged file: nobody can guess it, and a later run knows it for ours.
    pub(super) fn name(&self) -> Vec<u8> {
        format!("{STAGED_PREFIX}{}{}", self.mark, random_hex(HALF_DIGITS)).into_bytes()
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
            file.write_all(format!("{} {directory}\n", self.mark).as_bytes())?;
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

/// Takes a line apart; none of ours is skipped.
fn parse(line: &[u8]) -> Option<(&str, TreePath)> {
    let (mark, directory) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    let is_mark = mark.len() == HALF_DIGITS && mark.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    Some((mark, directory.parse().ok()?)).filter(|_| is_mark)
}

/// What came of one directory.
struct Cleaned {
    removed: u64,
    error: Option<FsError>,
}

/// Removes staged files of one mark from one directory; one that is gone, or reached through a link by now, has none of ours.
fn clean(root: &Root, path: &TreePath, mark: &str) -> Cleaned {
    let mut cleaned = Cleaned { removed: 0, error: None };
    let result = open_directory(root.fd(), path).and_then(|directory| {
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let ours = name.to_bytes().strip_prefix(STAGED_PREFIX.as_bytes()).and_then(|rest| rest.strip_prefix(mark.as_bytes()));
            if ours.is_some_and(|rest| rest.len() == HALF_DIGITS) {
                match unlinkat(directory.as_fd(), name, AtFlags::empty()) {
                    Ok(()) => cleaned.removed += 1,
                    // Gone; or a directory, which we never stage: somebody put it in the way, it is theirs.
                    Err(Errno::NOENT | Errno::ISDIR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    });
    cleaned.error = match result.map_err(|error| (Errno::from_io_error(&error), error)) {
        Ok(()) | Err((Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP), _)) => None,
        Err((_, error)) => Some(root.error(path, "remove staged files from", error)),
    };
    cleaned
}
