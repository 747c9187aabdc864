//! The private copy of staging.

use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Seek as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use direct_puppet_agent::fs::{FileKind, FsError, Root};
use direct_puppet_agent::tree::{Pool, Tree, TreeEntry, WalkOptions, list_tree};
use direct_puppet_transport::protocol::path::escape;
use direct_puppet_transport::protocol::{Digest, EntryKind, Environment, ManifestEntry, TreePath};
use rayon::prelude::*;

use super::index::StagingIndex;
use super::revision::DEPLOY_RECORDS;
use crate::disk;
use crate::error::ServerError;
use crate::server::Server;

/// What was copied.
pub(super) struct Copied {
    pub(super) entries: Vec<ManifestEntry>,
    listed: Listing,
    pool: Pool,
    pub(super) files: u64,
    pub(super) files_read: u64,
    pub(super) new_contents: u64,
    pub(super) index: StagingIndex,
}

impl Copied {
    /// Refuses staging that has changed since it was copied into `entries`: what was copied may be a mixture. Blocking.
    pub(super) fn refuse_unstable(&self, entries: &[ManifestEntry], dir: &Path) -> Result<(), ServerError> {
        let changed = self.listed.differences(entries, &list(dir, &self.pool)?);
        if changed.is_empty() { Ok(()) } else { Err(ServerError::Unstable { paths: changed }) }
    }
}

/// What a listing was, in eight bytes for each entry: paths are in the manifest that is made of it, in the same order.
struct Listing {
    marks: Vec<u64>,
    hasher: RandomState,
}

impl Listing {
    fn of(tree: &Tree) -> Self {
        let hasher = RandomState::new();
        Self { marks: tree.entries.iter().map(|entry| mark(&hasher, entry)).collect(), hasher }
    }

    /// Paths that came, went or changed since.
    fn differences(&self, entries: &[ManifestEntry], after: &Tree) -> Vec<String> {
        let mut before = entries.iter().zip(&self.marks).peekable();
        let mut paths = Vec::new();
        for entry in &after.entries {
            while let Some((gone, _)) = before.next_if(|(before, _)| before.path < entry.path) {
                paths.push(gone.path.to_string());
            }
            let before = before.next_if(|(before, _)| before.path == entry.path);
            if before.is_none_or(|(_, before)| *before != mark(&self.hasher, entry)) {
                paths.push(entry.path.to_string());
            }
        }
        paths.extend(before.map(|(gone, _)| gone.path.to_string()));
        paths
    }
}

fn mark(hasher: &RandomState, entry: &TreeEntry) -> u64 {
    hasher.hash_one((&entry.stat, &entry.target))
}

/// Copies an environment into the store; it may be a mixture until [`Copied::refuse_unstable`] has found that it is none. Blocking.
pub(super) fn copy(server: &Server, environment: &Environment, dir: &Path) -> Result<Copied, ServerError> {
    let begun = SystemTime::now();
    let mut index = StagingIndex::load(&server.environments.dir(environment))?;
    let pool = Pool::new(0).map_err(|source| ServerError::Staging { path: dir.to_owned(), source })?;
    let listed = list(dir, &pool)?;
    check(&listed)?;
    let root = Root::open(dir).map_err(unreadable)?;
    let counts = Counts::default();
    let proved = index.proved(&listed.entries);
    let copier = Copier { server, root: &root, counts: &counts };
    let entries: Result<Vec<ManifestEntry>, ServerError> =
        pool.install(|| listed.entries.par_iter().zip(proved).map(|(entry, proved)| copier.entry(entry, proved)).collect());
    let new = counts.new.into_inner().unwrap_or_else(PoisonError::into_inner);
    let entries = match entries {
        Ok(entries) => entries,
        Err(error) => {
            if disk::is_full(&error) {
                // What was copied leaves no room for a publish that fits.
                new.iter().try_for_each(|digest| server.store.discard(digest))?;
            }
            return Err(error);
        }
    };
    let digests = entries.iter().zip(&listed.entries).filter_map(|(entry, listed)| match entry.kind {
        EntryKind::File { digest, .. } => Some((&entry.path, listed.stat, digest)),
        _ => None,
    });
    index.replace(digests, begun);
    Ok(Copied {
        files: entries.iter().filter(|entry| matches!(entry.kind, EntryKind::File { .. })).count() as u64,
        entries,
        listed: Listing::of(&listed),
        pool,
        files_read: counts.read.into_inner(),
        new_contents: new.len() as u64,
        index,
    })
}

fn list(dir: &Path, pool: &Pool) -> Result<Tree, ServerError> {
    let is_left_out = |path: &TreePath, kind: FileKind| match kind {
        FileKind::Directory => is_checkout(path),
        _ => DEPLOY_RECORDS.iter().any(|name| path.as_bytes() == name.as_bytes()),
    };
    let options = WalkOptions { ignore: Some(&is_left_out), ..WalkOptions::default() };
    let tree = list_tree(dir, &options, pool).map_err(|error| ServerError::Staging { path: error.path, source: error.source })?;
    match tree.unlisted.into_iter().next() {
        Some(first) => Err(ServerError::Staging { path: first.path, source: first.source }),
        None => Ok(Tree { entries: tree.entries, unlisted: Vec::new() }),
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

/// Whether a directory is what a checkout keeps about itself. Below `files` it is a content for nodes like any other.
fn is_checkout(path: &TreePath) -> bool {
    path.name() == Some(b".git") && !path.as_bytes().split(|&byte| byte == b'/').any(|name| name == b"files")
}

/// Refuses what cannot be published, all of it at once.
fn check(tree: &Tree) -> Result<(), ServerError> {
    let problem = |entry: &TreeEntry| match (entry.stat.kind(), &entry.target) {
        (FileKind::Other, _) => Some(format!("{} (a device, socket or fifo)", entry.path)),
        (FileKind::Link, Some(target)) if leads_out(&entry.path, target) => {
            Some(format!("{} (a link that leads out of the environment, to {})", entry.path, escape(target)))
        }
        _ => None,
    };
    let paths: Vec<String> = tree.entries.iter().filter_map(problem).collect();
    if paths.is_empty() { Ok(()) } else { Err(ServerError::Unpublishable { paths }) }
}

/// Whether a relative target climbs above the environment. An absolute one is meant for the node and is only data here.
fn leads_out(path: &TreePath, target: &[u8]) -> bool {
    if target.starts_with(b"/") {
        return false;
    }
    let mut depth = path.depth() - 1;
    for name in target.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." if depth == 0 => return true,
            b".." => depth -= 1,
            _ => depth += 1,
        }
    }
    false
}

#[derive(Debug, Default)]
struct Counts {
    read: AtomicU64,
    /// Contents that the store did not have.
    new: Mutex<Vec<Digest>>,
}

struct Copier<'a> {
    server: &'a Server,
    root: &'a Root,
    counts: &'a Counts,
}

impl Copier<'_> {
    fn entry(&self, entry: &TreeEntry, proved: Option<Digest>) -> Result<ManifestEntry, ServerError> {
        let kind = match entry.stat.kind() {
            FileKind::Directory => EntryKind::Directory,
            FileKind::Link => EntryKind::Link { target: entry.target.clone().unwrap_or_default() },
            _ => self.file(entry, proved)?,
        };
        let mode = if matches!(kind, EntryKind::Link { .. }) { 0 } else { entry.stat.permissions() };
        Ok(ManifestEntry { path: entry.path.clone(), mode, kind })
    }

    fn file(&self, entry: &TreeEntry, proved: Option<Digest>) -> Result<EntryKind, ServerError> {
        let size = entry.stat.size;
        if let Some(digest) = proved.filter(|digest| self.server.store.has(digest)) {
            return Ok(EntryKind::File { digest, size });
        }
        let file = match self.root.open_file(&entry.path) {
            Ok(file) => file,
            // It went away, or became something else, since it was listed.
            Err(_) if self.root.stat(&entry.path).ok().flatten() != Some(entry.stat) => {
                return Err(ServerError::Unstable { paths: vec![entry.path.to_string()] });
            }
            Err(error) => return Err(unreadable(error)),
        };
        let put = self.server.store.put_file(&file).map_err(|error| match read_again(&file) {
            Ok(_) => ServerError::Disk(error),
            Err(source) => ServerError::Staging { path: self.root.path().join(entry.path.as_path()), source },
        })?;
        self.counts.read.fetch_add(1, Ordering::Relaxed);
        if put.is_new {
            self.counts.new.lock().unwrap_or_else(PoisonError::into_inner).push(put.digest);
        }
        if put.size != size {
            return Err(ServerError::Unstable { paths: vec![entry.path.to_string()] });
        }
        Ok(EntryKind::File { digest: put.digest, size })
    }
}
