//! Keeps what is about to be replaced or removed.

use direct_puppet_transport::protocol::path::escape;
use direct_puppet_transport::protocol::{Algorithm, Digest, TreePath};

use super::parameters::{Backup, Parameters};
use crate::fs::{Attributes, ContentSource, FileKind, FsError, FsErrorKind, Stage, Stat};
use crate::provider::{Context, Ownership};
use crate::undo::{Left, Previous, UndoEntry};

/// Entries that are recorded at once: each record is one wait for the disk.
pub(super) const MAX_ENTRIES: usize = 1024;

/// Collects entries of the undo log, and records them before the changes that they take back.
#[derive(Debug)]
pub(super) struct Keeper<'a> {
    context: &'a Context,
    parameters: &'a Parameters,
    entries: Vec<UndoEntry>,
}

impl<'a> Keeper<'a> {
    pub(super) const fn new(context: &'a Context, parameters: &'a Parameters) -> Self {
        Self { context, parameters, entries: Vec::new() }
    }

    /// Keeps permissions and owner of what is at `path`, of which only these will change.
    pub(super) fn keep_attributes(&mut self, path: &TreePath, stat: &Stat, to: Attributes) -> Result<(), FsError> {
        let previous = Previous::Attributes { mode: stat.permissions(), uid: stat.uid, gid: stat.gid };
        let left = Left::Attributes { mode: to.mode, uid: to.uid, gid: to.gid };
        self.push(UndoEntry { path: path.clone(), previous, left })
    }

    /// Keeps what is at `path`, in place of which will be what `left` says; a directory with everything in it. What was kept
    /// counts after [`Keeper::record`].
    pub(super) fn keep(&mut self, path: &TreePath, stat: Option<&Stat>, left: Left) -> Result<(), FsError> {
        let Some(stat) = stat else {
            return self.push(UndoEntry { path: path.clone(), previous: Previous::Absent, left });
        };
        let mut left = Some(left);
        let mut open = vec![(path.clone(), *stat)];
        while let Some((path, stat)) = open.pop() {
            // Of what is below nothing is left.
            let left = left.take().unwrap_or(Left::Absent);
            let previous = self.previous(&path, &stat, &left)?;
            if stat.kind() == FileKind::Directory {
                let children = self.context.root().list(&path)?;
                open.extend(children.into_iter().filter_map(|child| Some((path.child(&child.name).ok()?, child.stat))));
            }
            self.push(UndoEntry { path, previous, left })?;
        }
        Ok(())
    }

    fn push(&mut self, entry: UndoEntry) -> Result<(), FsError> {
        self.entries.push(entry);
        if self.entries.len() >= MAX_ENTRIES { self.record() } else { Ok(()) }
    }

    /// Makes everything kept so far durable, contents before the entries that name them.
    pub(super) fn record(&mut self) -> Result<(), FsError> {
        if self.entries.iter().any(|entry| matches!(entry.previous, Previous::File { .. })) {
            self.context.store().sync()?;
        }
        self.context.record_undo(&self.entries)?;
        self.entries.clear();
        Ok(())
    }

    fn previous(&self, path: &TreePath, stat: &Stat, left: &Left) -> Result<Previous, FsError> {
        let (mode, uid, gid) = (stat.permissions(), stat.uid, stat.gid);
        match stat.kind() {
            FileKind::Directory => Ok(Previous::Directory { mode, uid, gid }),
            FileKind::Link => {
                let target = self.context.root().read_link(path)?;
                if let Some(copy) = self.suffixed(path, left)? {
                    self.context.root().put_link(&copy, &target, Attributes::default(), self.context.stage_journal())?;
                }
                Ok(Previous::Link { target: escape(&target).into_owned() })
            }
            FileKind::File if self.parameters.backup != Backup::No => {
                let digest = put(self.context, path)?;
                if let Some(copy) = self.suffixed(path, left)? {
                    self.copy(path, &copy, &digest, stat)?;
                }
                Ok(Previous::File { digest, mode, uid, gid })
            }
            FileKind::File | FileKind::Other => Ok(Previous::Dropped),
        }
    }

    /// Returns where a copy beside the file goes. What is purged has none: the next run would purge the copy, and copy it again.
    fn suffixed(&self, path: &TreePath, left: &Left) -> Result<Option<TreePath>, FsError> {
        let Backup::Suffix(suffix) = &self.parameters.backup else { return Ok(None) };
        if *left == Left::Absent && *path != self.parameters.path {
            return Ok(None);
        }
        let name = [path.as_bytes(), suffix.as_bytes()].concat();
        TreePath::from_bytes(&name).map(Some).map_err(|error| FsError {
            path: self.context.root().display(path),
            attempt: "name the backup of",
            kind: FsErrorKind::Other,
            hint: Some("choose a shorter suffix or backup => true"),
            source: std::io::Error::other(error),
        })
    }

    /// Puts a copy beside the file, with its mode and owner.
    fn copy(&self, path: &TreePath, copy: &TreePath, digest: &Digest, stat: &Stat) -> Result<(), FsError> {
        let root = self.context.root();
        let file = root.open_file(path)?;
        debug_assert_eq!(digest.algorithm(), Algorithm::Blake3, "the store hashes with BLAKE3");
        let keep = |id| Some(id).filter(|_| self.context.options().ownership == Ownership::Managed);
        let attributes = Attributes { mode: Some(stat.permissions()), uid: keep(stat.uid), gid: keep(stat.gid) };
        let mut stage = Stage::new(root, self.context.stage_journal());
        stage.add(copy, ContentSource::Copy(file), *digest, attributes)?;
        stage.commit().into_iter().try_for_each(|(_, written)| written.map(drop))
    }
}

/// Copies a file into the store and makes sure that it stays there.
pub(in crate::provider) fn put(context: &Context, path: &TreePath) -> Result<Digest, FsError> {
    let file = context.root().open_file(path)?;
    let digest = context.store().put_file(&file)?.digest;
    context.keep_in_store(&digest);
    if !context.store().has(&digest) {
        // It was there already and was moved out, as its last use, before it was said to stay.
        let file = context.root().open_file(path)?;
        context.store().put_file(&file)?;
    }
    Ok(digest)
}
