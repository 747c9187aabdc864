//! The private copy of staging.

use std::cell::OnceCell;
use std::fs::File;
use std::io::{self, Seek as _};
use std::iter::Peekable;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use direct_puppet_agent::fs::{FileKind, FsError, Root};
use direct_puppet_agent::store::{Batch, Put};
use direct_puppet_agent::tree::{FileReader, Pool, TreeEntry};
use direct_puppet_transport::protocol::manifest::Entries;
use direct_puppet_transport::protocol::path::escape;
use direct_puppet_transport::protocol::{Digest, EntryKind, Environment, Manifest, ManifestEntry, TreePath};
use rayon::prelude::*;

use super::index::{StagingIndex, is_before};
use super::listing::{Listing, list};
use crate::code::links;
use crate::disk;
use crate::error::ServerError;
use crate::server::Server;

/// Files of one directory that one task copies.
pub(super) const FILES_PER_TASK: usize = 128;

/// An entry, and its content if that is known.
type Known<'a> = (&'a TreeEntry, Option<Digest>);

/// What was copied.
pub(super) struct Copied {
    /// What is in it.
    pub(super) manifest: Manifest,
    /// Whether it differs from what it was compared with.
    pub(super) is_changed: bool,
    /// The device and inode of staging.
    top: (u64, u64),
    listed: Listing,
    pool: Pool,
    /// Files that had changed so shortly before they were read that a change after it may have left their times as they are.
    recent: Vec<(TreePath, Digest)>,
    pub(super) files: u64,
    pub(super) files_read: u64,
    pub(super) new_contents: u64,
    pub(super) index: StagingIndex,
}

impl Copied {
    /// Refuses staging that has changed since it was copied: what was copied may be a mixture. Blocking.
    pub(super) fn refuse_unstable(&self, dir: &Path) -> Result<(), ServerError> {
        let mut changed = self.listed.changed(self.manifest.entries(), dir, &self.pool)?;
        refuse_another(dir, self.top)?;
        let root = Root::open(dir).map_err(unreadable)?;
        let changed_since =
            |(path, digest): &(TreePath, Digest)| match root.open_file(path).map(|file| disk::is_content(file, digest)) {
                Ok(Ok(true)) => None,
                Ok(Ok(false)) => Some(Ok(path.to_string())),
                Ok(Err(source)) => Some(Err(ServerError::Staging { path: dir.join(path.as_path()), source })),
                Err(error) => match root.stat(path) {
                    Ok(Some(stat)) if stat.kind() == FileKind::File && error.source.kind() != io::ErrorKind::NotFound => {
                        Some(Err(unreadable(error)))
                    }
                    // It went away, or is no file any more.
                    Ok(_) => Some(Ok(path.to_string())),
                    Err(error) => Some(Err(unreadable(error))),
                },
            };
        if changed.is_empty() {
            let again = || self.recent.par_iter().filter_map(changed_since).collect::<Result<Vec<_>, _>>();
            changed = self.pool.install(again)?;
        }
        if changed.is_empty() { Ok(()) } else { Err(ServerError::Unstable { paths: changed }) }
    }
}

/// Copies an environment into the store; it may be a mixture until [`Copied::refuse_unstable`] has found that it is none. `before` is what
/// it was when it was last published: what did not change since is not in memory again. Blocking.
pub(super) fn copy(server: &Server, environment: &Environment, dir: &Path, before: &Manifest) -> Result<Copied, ServerError> {
    server.leftovers.discard(true);
    let begun = SystemTime::now();
    let top = disk::identity(dir).map_err(|source| ServerError::Staging { path: dir.to_owned(), source })?;
    let mut index = StagingIndex::open(&server.environments.dir(environment), begun)?;
    let pool = Pool::new(0).map_err(|source| ServerError::Staging { path: dir.to_owned(), source })?;
    let root = Root::open(dir).map_err(unreadable)?;
    let counts = Counts::default();
    let batch = server.store.batch();
    let reader = FileReader::open(dir, 0).map_err(|source| ServerError::Staging { path: dir.to_owned(), source })?;
    let copier = Copier { server, root: &root, reader: &reader, batch: &batch, counts: &counts };
    let (mut listed, mut delta, mut problems, mut files) = (Listing::default(), Delta::since(before), Vec::new(), 0);
    let each = |piece: Vec<TreeEntry>| {
        problems.extend(piece.iter().filter_map(problem));
        if !problems.is_empty() {
            // Nothing is published; all of what cannot be is told at once.
            return Ok(());
        }
        listed.add(&piece);
        let recorded = index.recorded(&piece)?;
        pool.install(|| copier.refuse_without_room(&piece, &recorded))?;
        let known = copier.known(&piece, &recorded, &pool)?;
        // Files of one directory are opened from it.
        let is_same = |a: &Known<'_>, b: &Known<'_>| a.0.path.parent_bytes() == b.0.path.parent_bytes();
        let entries: Vec<Known<'_>> = piece.iter().zip(known).collect();
        let runs: Vec<&[Known<'_>]> = entries.chunk_by(is_same).flat_map(|run| run.chunks(FILES_PER_TASK)).collect();
        let copy_all = || runs.par_iter().flat_map_iter(|run| copier.run(run)).collect();
        let copied: Result<Vec<ManifestEntry>, ServerError> = pool.install(copy_all);
        for ((entry, recorded), copied) in piece.iter().zip(recorded).zip(copied?) {
            let digest = match copied.kind {
                EntryKind::File { digest, .. } => Some(digest),
                _ => None,
            };
            files += u64::from(digest.is_some());
            index.found(entry, recorded, digest);
            delta.take(copied);
        }
        Ok(())
    };
    let mut copied = list(dir, &pool, each);
    if copied.is_ok() && problems.is_empty() {
        copied = batch.finish().map_err(ServerError::from);
    }
    let new = counts.new.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Err(error) = copied {
        if disk::is_full(&error) {
            // What was copied leaves no room for a publish that fits.
            server.leftovers.note(new);
            server.leftovers.discard(true);
        }
        return Err(error);
    }
    if !problems.is_empty() {
        return Err(ServerError::Unpublishable { paths: problems });
    }
    // It was opened twice and listed, by its name: all of that was one directory.
    refuse_another(dir, top)?;
    let (removed, changed) = delta.end();
    let is_changed = !removed.is_empty() || !changed.is_empty();
    let manifest = before.with_delta(removed, changed);
    let manifest = manifest.map_err(|error| ServerError::Unpublishable { paths: vec![error.to_string()] })?;
    // What a link leads to may have changed, and not the link itself.
    let problems: Vec<String> = manifest.entries().filter_map(|entry| leading_out(&manifest, entry)).collect();
    if !problems.is_empty() {
        return Err(ServerError::Unpublishable { paths: problems });
    }
    Ok(Copied {
        manifest,
        is_changed,
        top,
        listed,
        pool,
        recent: counts.recent.into_inner().unwrap_or_else(PoisonError::into_inner),
        files,
        files_read: counts.read.into_inner(),
        new_contents: new.len() as u64,
        index,
    })
}

/// What differs from another manifest.
struct Delta<'a> {
    before: Peekable<Entries<'a>>,
    removed: Vec<TreePath>,
    changed: Vec<ManifestEntry>,
}

impl<'a> Delta<'a> {
    fn since(before: &'a Manifest) -> Self {
        Self { before: before.entries().peekable(), removed: Vec::new(), changed: Vec::new() }
    }

    /// Takes the next entry, in path order.
    fn take(&mut self, entry: ManifestEntry) {
        while let Some(gone) = self.before.next_if(|before| before.path < entry.path) {
            self.removed.push(gone.path.clone());
        }
        if self.before.next_if(|before| before.path == entry.path) != Some(&entry) {
            self.changed.push(entry);
        }
    }

    fn end(mut self) -> (Vec<TreePath>, Vec<ManifestEntry>) {
        self.removed.extend(self.before.map(|gone| gone.path.clone()));
        (self.removed, self.changed)
    }
}

/// Refuses staging that was replaced as a whole since it was looked at.
fn refuse_another(dir: &Path, top: (u64, u64)) -> Result<(), ServerError> {
    match disk::identity(dir) {
        Ok(found) if found == top => Ok(()),
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(ServerError::Staging { path: dir.to_owned(), source }),
        _ => Err(ServerError::Unstable { paths: vec![dir.display().to_string()] }),
    }
}

fn unreadable(error: FsError) -> ServerError {
    ServerError::Staging { path: error.path, source: error.source }
}

/// Reads a file for nobody: whose fault was it that it could not be copied?
fn read_again(mut file: &File) -> io::Result<u64> {
    file.rewind()?;
    io::copy(&mut file, &mut io::sink())
}

/// Says why an entry cannot be published.
fn problem(entry: &TreeEntry) -> Option<String> {
    match (entry.stat.kind(), &entry.target) {
        (FileKind::Other, _) => Some(format!("{} (a device, socket or fifo)", entry.path)),
        // Through other links it may lead out all the same: that is looked at when all are known.
        (FileKind::Link, Some(target)) if links::leads_out(&Manifest::default(), &entry.path, target) => {
            Some(out_of_environment(&entry.path, target))
        }
        _ => None,
    }
}

/// Says why an entry is a link that cannot be published.
fn leading_out(manifest: &Manifest, entry: &ManifestEntry) -> Option<String> {
    let EntryKind::Link { target } = &entry.kind else { return None };
    links::leads_out(manifest, &entry.path, target).then(|| out_of_environment(&entry.path, target))
}

fn out_of_environment(path: &TreePath, target: &[u8]) -> String {
    format!("{path} (a link that leads out of the environment, to {})", escape(target))
}

#[derive(Debug, Default)]
struct Counts {
    read: AtomicU64,
    /// Contents that the store did not have.
    new: Mutex<Vec<Digest>>,
    recent: Mutex<Vec<(TreePath, Digest)>>,
}

pub(super) struct Copier<'a> {
    pub(super) server: &'a Server,
    root: &'a Root,
    pub(super) reader: &'a FileReader,
    pub(super) batch: &'a Batch,
    counts: &'a Counts,
}

impl Copier<'_> {
    /// Counts a file that was read, which began at `read_at` or later.
    pub(super) fn was_read(&self, entry: &TreeEntry, put: Put, read_at: SystemTime) {
        self.counts.read.fetch_add(1, Ordering::Relaxed);
        if put.is_new {
            self.counts.new.lock().unwrap_or_else(PoisonError::into_inner).push(put.digest);
        }
        if !is_before(entry.stat.ctime, read_at) {
            let read = (entry.path.clone(), put.digest);
            self.counts.recent.lock().unwrap_or_else(PoisonError::into_inner).push(read);
        }
    }

    /// Copies entries of one directory, as far as their contents are not known.
    fn run(&self, run: &[Known<'_>]) -> Vec<Result<ManifestEntry, ServerError>> {
        let directory = OnceCell::new();
        run.iter().map(|(entry, known)| self.entry(entry, *known, &directory)).collect()
    }

    fn entry(
        &self,
        entry: &TreeEntry,
        known: Option<Digest>,
        directory: &OnceCell<Option<Root>>,
    ) -> Result<ManifestEntry, ServerError> {
        let kind = match entry.stat.kind() {
            FileKind::Directory => EntryKind::Directory,
            FileKind::Link => EntryKind::Link { target: entry.target.clone().unwrap_or_default() },
            _ => match known {
                Some(digest) => EntryKind::File { digest, size: entry.stat.size },
                None => self.file(entry, directory)?,
            },
        };
        let mode = if matches!(kind, EntryKind::Link { .. }) { 0 } else { entry.stat.permissions() };
        Ok(ManifestEntry { path: entry.path.clone(), mode, kind })
    }

    pub(super) fn open(&self, path: &TreePath, directory: &OnceCell<Option<Root>>) -> Result<File, FsError> {
        let (Some(parent), Some(name)) = (path.parent(), path.name()) else { return self.root.open_file(path) };
        let directory = directory.get_or_init(|| self.root.below(&parent).ok());
        match (directory, TreePath::from_bytes(name)) {
            (Some(directory), Ok(name)) => directory.open_file(&name),
            _ => self.root.open_file(path),
        }
    }

    fn file(&self, entry: &TreeEntry, directory: &OnceCell<Option<Root>>) -> Result<EntryKind, ServerError> {
        let (size, read_at) = (entry.stat.size, SystemTime::now());
        let file = match self.open(&entry.path, directory) {
            Ok(file) => file,
            // It went away, or became something else, since it was listed.
            Err(_) if self.root.stat(&entry.path).ok().flatten() != Some(entry.stat) => {
                return Err(ServerError::Unstable { paths: vec![entry.path.to_string()] });
            }
            Err(error) => return Err(unreadable(error)),
        };
        let put = self.batch.put_file(&file, size).map_err(|error| match read_again(&file) {
            Ok(_) => ServerError::Disk(error),
            Err(source) => ServerError::Staging { path: self.root.path().join(entry.path.as_path()), source },
        })?;
        self.was_read(entry, put, read_at);
        if put.size != size {
            return Err(ServerError::Unstable { paths: vec![entry.path.to_string()] });
        }
        Ok(EntryKind::File { digest: put.digest, size })
    }
}

#[cfg(test)]
mod tests;
