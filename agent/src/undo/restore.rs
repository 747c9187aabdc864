//! Putting back: first what the run made goes, from below, then what it replaced comes back, from above.

use std::collections::BTreeMap;
use std::path::Path;

use direct_puppet_transport::protocol::path::{escape, unescape};
use direct_puppet_transport::protocol::{Digest, TreePath};

use super::log::{entries, keep, logs};
use super::{Left, Previous, UndoOptions, UndoOutcome};
use crate::apply::error_chain;
use crate::error::RunError;
use crate::fs::{Attributes, ContentSource, FileKind, FsError, Root, Stage, StageJournal, Stat, ensure_private_dir};
use crate::lock::{RunLock, own_file};
use crate::store::Store;
use crate::tree::forget_settled;

/// Permissions that an unprivileged process needs on a directory in which it creates something.
const OWN_WRITE_AND_SEARCH: u32 = 0o300;

/// Puts back what the last run replaced. Blocking. Killed half way, it goes on from there when called again.
pub(crate) fn undo(state_dir: &Path, root: &Path, options: UndoOptions) -> Result<UndoOutcome, RunError> {
    let root = Root::open(root)?;
    ensure_private_dir(state_dir)?;
    let _lock = RunLock::take(state_dir)?;
    forget_settled(state_dir)?;
    let (journal, _) = StageJournal::open(state_dir, &root)?;
    let store = Store::ensure(&state_dir.join("store"))?;
    let Some((log, run_time_unix_seconds)) = logs(state_dir)?.pop() else {
        return Err(RunError::Config {
            reason: format!("nothing to undo: no run recorded in {} changed a file", state_dir.display()),
        });
    };
    let run = log.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut undo = Undo {
        root: &root,
        store: &store,
        journal: &journal,
        state_dir,
        options,
        is_root: rustix::process::geteuid().is_root(),
        late: Vec::new(),
        outcome: UndoOutcome { run, run_time_unix_seconds, ..UndoOutcome::default() },
    };
    undo.put_back(merged(entries(&log)?));
    if undo.outcome.failed.is_empty() {
        std::fs::remove_file(&log).map_err(|error| own_file(&log, "remove the undo log", error))?;
    }
    Ok(undo.outcome)
}

/// What is known of one path.
#[derive(Debug)]
struct Change {
    previous: Previous,
    left: Left,
}

/// Joins several changes of one path: what was there before the first, what was left by the last.
fn merged(entries: Vec<super::UndoEntry>) -> BTreeMap<TreePath, Change> {
    let mut changes: BTreeMap<TreePath, Change> = BTreeMap::new();
    for entry in entries {
        match changes.get_mut(&entry.path) {
            None => drop(changes.insert(entry.path, Change { previous: entry.previous, left: entry.left })),
            Some(change) => {
                if matches!(change.previous, Previous::Attributes { .. }) {
                    change.previous = with_attributes_of(entry.previous, &change.previous);
                }
                // Attributes say nothing of what is there.
                if !matches!(entry.left, Left::Attributes { .. }) || matches!(change.left, Left::Attributes { .. }) {
                    change.left = entry.left;
                }
            }
        }
    }
    changes
}

/// Returns what was there, with the permissions and owner that it had still earlier.
fn with_attributes_of(previous: Previous, earlier: &Previous) -> Previous {
    let Previous::Attributes { mode, uid, gid } = *earlier else { return previous };
    match previous {
        Previous::File { digest, .. } => Previous::File { digest, mode, uid, gid },
        Previous::Directory { .. } => Previous::Directory { mode, uid, gid },
        Previous::Attributes { .. } => Previous::Attributes { mode, uid, gid },
        other => other,
    }
}

struct Undo<'a> {
    root: &'a Root,
    store: &'a Store,
    journal: &'a StageJournal,
    state_dir: &'a Path,
    options: UndoOptions,
    is_root: bool,
    /// Attributes of directories, set when they are filled.
    late: Vec<(TreePath, Attributes)>,
    outcome: UndoOutcome,
}

/// How what is there now compares.
#[derive(Debug, PartialEq, Eq)]
enum Now {
    AsBefore,
    AsLeft,
    /// Something else; in words.
    Changed(String),
}

impl Undo<'_> {
    fn put_back(&mut self, changes: BTreeMap<TreePath, Change>) {
        let is_new = |change: &Change| change.previous == Previous::Absent;
        for (path, change) in changes.iter().rev().filter(|(_, change)| is_new(change)) {
            self.one(path, change);
        }
        for (path, change) in changes.iter().filter(|(_, change)| !is_new(change)) {
            self.one(path, change);
        }
        for (path, attributes) in std::mem::take(&mut self.late).into_iter().rev() {
            if let Err(error) = self.root.set_attributes(&path, attributes) {
                self.outcome.failed.push((path.absolute(), error_chain(&error)));
            }
        }
    }

    fn one(&mut self, path: &TreePath, change: &Change) {
        match self.try_one(path, change) {
            Ok(true) => self.outcome.restored.push(path.absolute()),
            Ok(false) => {}
            Err(reason) => self.outcome.failed.push((path.absolute(), reason)),
        }
    }

    /// Puts one path back; returns whether there was anything to do.
    fn try_one(&mut self, path: &TreePath, change: &Change) -> Result<bool, String> {
        let text = |error: FsError| error_chain(&error);
        let found = match self.root.stat(path) {
            // What held it is no directory any more.
            Err(error) if error.kind == crate::fs::FsErrorKind::NotBeneath => None,
            other => other.map_err(text)?,
        };
        match self.compare(path, change, found.as_ref()).map_err(text)? {
            Now::AsBefore => return Ok(false),
            Now::AsLeft => {}
            Now::Changed(what) if !self.options.force => {
                return Err(format!(
                    "left alone: the run left {}, now there is {what}; to put back what was there before all the same, \
                     use \"direct-puppet undo --force\"",
                    described(&change.left)
                ));
            }
            Now::Changed(_) => self.keep_found(path, found.as_ref())?,
        }
        self.restore(path, &change.previous, found.as_ref())?;
        Ok(true)
    }

    /// Keeps a file of others in the store.
    fn keep_found(&mut self, path: &TreePath, found: Option<&Stat>) -> Result<(), String> {
        let text = |error: FsError| error_chain(&error);
        if found.is_none_or(|stat| stat.kind() != FileKind::File) {
            return Ok(());
        }
        let file = self.root.open_file(path).map_err(text)?;
        let digest = self.store.put_file(&file).map_err(text)?.digest;
        self.store.sync().map_err(text)?;
        let kept = (path.absolute(), digest);
        keep(self.state_dir, std::slice::from_ref(&kept)).map_err(text)?;
        self.outcome.kept.push(kept);
        Ok(())
    }

    fn compare(&self, path: &TreePath, change: &Change, found: Option<&Stat>) -> Result<Now, FsError> {
        let digest = match found {
            Some(stat) if stat.kind() == FileKind::File => {
                let hashed = crate::tree::hash_file(&self.root.open_file(path)?);
                Some(hashed.map_err(|error| own_file(&self.root.display(path), "read", error))?.0)
            }
            _ => None,
        };
        let target = match found {
            Some(stat) if stat.kind() == FileKind::Link => Some(escape(&self.root.read_link(path)?).into_owned()),
            _ => None,
        };
        let is_directory = found.is_some_and(|stat| stat.kind() == FileKind::Directory);
        let has = |mode: u32, uid: u32, gid: u32| {
            found.is_some_and(|stat| stat.permissions() == mode && (!self.is_root || (stat.uid, stat.gid) == (uid, gid)))
        };
        let is_before = match &change.previous {
            Previous::Absent => found.is_none(),
            Previous::File { digest: before, mode, uid, gid } => digest == Some(*before) && has(*mode, *uid, *gid),
            Previous::Link { target: before } => target.as_ref() == Some(before),
            Previous::Directory { mode, uid, gid } => is_directory && has(*mode, *uid, *gid),
            Previous::Attributes { mode, uid, gid } => has(*mode, *uid, *gid),
            Previous::Dropped => false,
        };
        let is_left = match &change.left {
            Left::Absent => found.is_none(),
            // Attributes that drifted are put back with the content.
            Left::File { digest: left } => digest == Some(*left),
            Left::Link { target: left } => target.as_ref() == Some(left),
            Left::Directory => is_directory,
            Left::Attributes { mode, uid, gid } => found.is_some_and(|stat| {
                mode.is_none_or(|mode| mode == stat.permissions())
                    && uid.is_none_or(|uid| uid == stat.uid)
                    && gid.is_none_or(|gid| gid == stat.gid)
            }),
        };
        Ok(match (is_before, is_left) {
            (true, _) => Now::AsBefore,
            (false, true) => Now::AsLeft,
            // An undo that was cut off may have cleared the way. Whoever did: nothing is lost by putting back.
            (false, false) if found.is_none() => Now::AsLeft,
            (false, false) => Now::Changed(match (digest, target) {
                (Some(digest), _) => format!("a file with content {digest}"),
                (_, Some(target)) => format!("a link to {target}"),
                _ if is_directory => "a directory, or one with other permissions".to_owned(),
                _ => "something else".to_owned(),
            }),
        })
    }

    fn attributes(&self, mode: u32, uid: u32, gid: u32) -> Attributes {
        Attributes { mode: Some(mode), uid: self.is_root.then_some(uid), gid: self.is_root.then_some(gid) }
    }

    fn restore(&mut self, path: &TreePath, previous: &Previous, found: Option<&Stat>) -> Result<(), String> {
        let text = |error: FsError| error_chain(&error);
        let kind = found.map(Stat::kind);
        match previous {
            Previous::Absent => self.clear(path, kind),
            Previous::Dropped => Err("its content was not kept (backup => false)".to_owned()),
            Previous::Link { target } => {
                let target = unescape(target).ok_or_else(|| "the undo log has a link target that cannot be read".to_owned())?;
                if kind == Some(FileKind::Directory) {
                    self.clear(path, kind)?;
                }
                self.root.put_link(path, &target, Attributes::default(), self.journal).map_err(text)
            }
            Previous::Directory { mode, uid, gid } => {
                let attributes = self.attributes(*mode, *uid, *gid);
                if kind != Some(FileKind::Directory) {
                    self.clear(path, kind)?;
                    let first = if self.is_root { *mode } else { mode | OWN_WRITE_AND_SEARCH };
                    self.root.create_dir(path, Attributes { mode: Some(first), ..attributes }).map_err(text)?;
                }
                self.late.push((path.clone(), attributes));
                Ok(())
            }
            Previous::Attributes { mode, uid, gid } => {
                if found.is_none() {
                    return Err("it is not there any more: its permissions cannot be put back".to_owned());
                }
                self.late.push((path.clone(), self.attributes(*mode, *uid, *gid)));
                Ok(())
            }
            Previous::File { digest, mode, uid, gid } => {
                if kind == Some(FileKind::Directory) {
                    self.clear(path, kind)?;
                }
                self.restore_file(path, *digest, self.attributes(*mode, *uid, *gid))
            }
        }
    }

    /// Removes what is at a path; of directories only empty ones.
    fn clear(&self, path: &TreePath, kind: Option<FileKind>) -> Result<(), String> {
        let text = |error: FsError| error_chain(&error);
        match kind {
            None => Ok(()),
            Some(FileKind::Directory) => self
                .root
                .remove_dir(path)
                .map_err(|error| format!("{}: it holds what the run did not make: move that away first", error_chain(&error))),
            Some(_) => self.root.remove_file(path).map_err(text),
        }
    }

    fn restore_file(&self, path: &TreePath, digest: Digest, attributes: Attributes) -> Result<(), String> {
        let text = |error: FsError| error_chain(&error);
        let content = self.store.open(&digest).map_err(text)?;
        let content = content.ok_or_else(|| format!("its content {digest} is not in the store any more"))?;
        let mut stage = Stage::new(self.root, self.journal);
        stage.add(path, ContentSource::Copy(content), digest, attributes).map_err(text)?;
        stage.commit().into_iter().try_for_each(|(_, result)| result.map(|_| ()).map_err(text))
    }
}

fn described(left: &Left) -> String {
    match left {
        Left::Absent => "nothing".to_owned(),
        Left::File { digest } => format!("a file with content {digest}"),
        Left::Link { target } => format!("a link to {target}"),
        Left::Directory => "a directory".to_owned(),
        Left::Attributes { .. } => "other permissions or owners".to_owned(),
    }
}
