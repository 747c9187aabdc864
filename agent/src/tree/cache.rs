//! What earlier scans proved, kept over runs.
//!
//! Two files in the state directory, both mode 0600 and replaced atomically: `scan-key`, 192 random bytes made at first use, and
//! `scan-cache` (layout: see the `format` module). A record is dropped by [`StatCache::forget`], by a damaged file or
//! another key, and by any change of what it says; it survives restarts, upgrades and other catalogs.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use direct_puppet_transport::protocol::{Digest, TreePath};

use super::dir::{Dir, RootDir};
use super::fingerprint::{FingerprintKey, KEY_BYTES};
use super::format::{self, Records};
use super::record::{CLOCK_GRANULARITY, Nanos, Record, nanos_at, nanos_in, nanos_of};
use super::scan::WantedContent;
use crate::fs::{FsError, FsErrorKind, Root, Stat};

/// Longest wait of [`StatCache::save`].
const LONGEST_WAIT: Duration = Duration::from_millis(30);
/// A larger cache file is no cache: room for some five million records.
const MAX_CACHE_BYTES: u64 = 1 << 30;

/// What earlier scans proved, on disk.
#[derive(Debug)]
pub struct StatCache {
    records: Records,
    key: FingerprintKey,
    state_dir: PathBuf,
    changed: bool,
    /// Paths that this process wrote itself since the last save.
    written: HashSet<TreePath>,
}

impl StatCache {
    /// Loads the cache, or starts an empty one when there is none or it is damaged. Makes the state directory and the key
    /// when they are not there.
    ///
    /// # Errors
    ///
    /// When the key can neither be read nor made; never because of a damaged cache.
    pub fn load(state_dir: &Path) -> Result<Self, FsError> {
        let (key, is_new) = load_key(state_dir)?;
        let records = if is_new { None } else { load_records(&state_dir.join("scan-cache"), &key) };
        Ok(Self {
            records: records.unwrap_or_default(),
            key,
            state_dir: state_dir.to_owned(),
            changed: false,
            written: HashSet::new(),
        })
    }

    /// Records a file that was just written and made durable; `stat` as it was after the rename.
    pub fn record(&mut self, path: &TreePath, stat: &Stat, digest: Digest) {
        let now = nanos_at(SystemTime::now());
        self.put(path, Record::new(stat, digest, None, now, now));
        self.written.insert(path.clone());
    }

    /// Makes room for so many more files, so that recording them never holds the table twice.
    pub fn reserve(&mut self, files: usize) {
        self.records.reserve(files);
        self.written.reserve(files);
    }

    /// Forgets a path.
    pub fn forget(&mut self, path: &TreePath) {
        self.changed |= self.records.remove(path).is_some();
    }

    /// Forgets all paths but those that `keep` wants: call it with the paths of the whole catalog, not of a part of it.
    pub fn keep_only(&mut self, keep: impl Fn(&TreePath) -> bool) {
        let before = self.records.len();
        self.records.retain(|path, _| keep(path));
        self.changed |= self.records.len() != before;
    }

    /// Returns how many files are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Returns whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Waits until the files given to [`StatCache::record`] cannot be racy any more (at most 30 ms, and only when there are such),
    /// looks at them again, forgets those that changed meanwhile, and writes the cache atomically. Writes nothing when nothing changed.
    ///
    /// # Errors
    ///
    /// When the root cannot be opened or the cache cannot be written; the next run then reads more files.
    pub fn save(&mut self, root: &Root) -> Result<(), FsError> {
        self.save_below(root.path())
    }

    /// As [`StatCache::save`], for a root given by its path.
    ///
    /// # Errors
    ///
    /// As [`StatCache::save`].
    pub fn save_below(&mut self, root: &Path) -> Result<(), FsError> {
        self.settle(root)?;
        if self.changed {
            let path = self.state_dir.join("scan-cache");
            let fill = |file: &mut File| format::encode(&self.records, &self.key.checksum_key(), file);
            replace(&self.state_dir, "scan-cache", fill).map_err(|source| error(&path, "write the scan cache", source))?;
            self.changed = false;
        }
        Ok(())
    }

    /// Returns which content was last seen at a path, and its length in bytes; the file may have another by now.
    #[must_use]
    pub fn last_seen(&self, path: &TreePath) -> Option<(Digest, u64)> {
        self.records.get(path).map(|record| (record.digest, record.size))
    }

    pub(super) fn get(&self, path: &TreePath) -> Option<&Record> {
        self.records.get(path)
    }

    /// Returns when a file that has its wanted content, and `stat`, is to be proved by digest again; `None` when the next scan
    /// would not believe its metadata.
    pub(super) fn due_at(&self, wanted: &WantedContent, stat: &Stat, interval: Duration) -> Option<Nanos> {
        let record = self.records.get(&wanted.path)?;
        let is_believed = record.digest == wanted.digest && !record.is_racy() && record.holds(stat);
        is_believed.then(|| record.due_at(interval, self.key.position(&wanted.path)))
    }

    /// Returns the fingerprint of a wanted content that was proved by digest, where there is one.
    pub(super) fn fingerprint_of(&self, wanted: &WantedContent) -> Option<u128> {
        self.records.get(&wanted.path).filter(|record| record.digest == wanted.digest)?.fingerprint
    }

    pub(super) fn put(&mut self, path: &TreePath, record: Record) {
        let old = self.records.insert(path.clone(), record);
        self.changed |= old != Some(record);
        self.written.remove(path);
    }

    pub(super) const fn key(&self) -> &FingerprintKey {
        &self.key
    }

    fn settle(&mut self, root: &Path) -> Result<(), FsError> {
        let mut now = nanos_at(SystemTime::now());
        // Times further in the future than any wait stay racy: such a file is read at every run.
        let horizon = now.saturating_add(nanos_in(LONGEST_WAIT.saturating_sub(CLOCK_GRANULARITY)));
        // Only what this process wrote itself. A racy record made by reading somebody else's file stays racy: that file may have
        // been changed again in the same tick, after it was read, and only another reading can tell.
        let mut racy: Vec<TreePath> = std::mem::take(&mut self.written).into_iter().collect();
        racy.retain(|path| self.records.get(path).is_some_and(|record| record.is_racy() && record.changed_at() < horizon));
        let Some(newest) = racy.iter().filter_map(|path| Some(self.records.get(path)?.changed_at())).max() else { return Ok(()) };
        racy.sort_unstable();
        now = wait_until_past(newest, now);
        let root_dir = RootDir::open(root).map_err(|errno| error(root, "open the managed root", errno.into()))?;
        // In path order most neighbours share a directory: each is opened about once.
        let mut open: Option<(TreePath, Option<Dir<'_>>)> = None;
        for path in racy {
            let Some(record) = self.records.get(&path).copied() else { continue };
            let parent = path.parent().unwrap_or_default();
            let (_, dir) = match open.take_if(|(at, _)| *at == parent) {
                Some(same) => open.insert(same),
                None => open.insert((parent.clone(), root_dir.dir(&parent).ok().flatten())),
            };
            let stat = dir.as_ref().zip(path.name()).and_then(|(dir, name)| dir.stat(name).ok()?);
            if stat.is_some_and(|stat| is_untouched(&record, &stat)) {
                self.put(&path, Record { recorded_at: now, ..record });
            } else {
                self.forget(&path);
            }
        }
        Ok(())
    }
}

fn is_untouched(record: &Record, stat: &Stat) -> bool {
    (record.dev, record.ino, record.size, record.mtime, record.ctime)
        == (stat.dev, stat.ino, stat.size, nanos_of(stat.mtime), nanos_of(stat.ctime))
}

/// Waits until a change made from now on must have another time than `newest`; returns the time then.
fn wait_until_past(newest: Nanos, now: Nanos) -> Nanos {
    // One millisecond more, because a record counts as racy up to and including the granularity.
    let left = newest.saturating_add(nanos_in(CLOCK_GRANULARITY)).saturating_add(1_000_000).saturating_sub(now);
    let Ok(left @ 1..) = u64::try_from(left) else { return now };
    std::thread::sleep(Duration::from_nanos(left).min(LONGEST_WAIT));
    nanos_at(SystemTime::now())
}

fn load_records(path: &Path, key: &FingerprintKey) -> Option<Records> {
    let mut bytes = Vec::new();
    let file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    if length > MAX_CACHE_BYTES {
        return None;
    }
    bytes.reserve_exact(usize::try_from(length).ok()?);
    file.take(MAX_CACHE_BYTES).read_to_end(&mut bytes).ok()?;
    let records = format::decode(&bytes, &key.checksum_key());
    if records.is_none() {
        tracing::warn!(path = %path.display(), "the scan cache is damaged or of another version: starting an empty one");
    }
    records
}

/// Returns the key and whether it is new.
fn load_key(state_dir: &Path) -> Result<(FingerprintKey, bool), FsError> {
    let path = state_dir.join("scan-key");
    match read_key(&path) {
        Ok(Some(key)) => return Ok((FingerprintKey::new(key), false)),
        Ok(None) => {}
        Err(source) if source.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(error(&path, "read the secret of this host's fingerprints", source)),
    }
    let mut key = [0; KEY_BYTES];
    getrandom::fill(&mut key).map_err(|source| error(&path, "get random bytes for", io::Error::other(source)))?;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state_dir)
        .map_err(|source| error(state_dir, "create the state directory", source))?;
    replace(state_dir, "scan-key", |file| file.write_all(&key))
        .map_err(|source| error(&path, "write the secret of this host's fingerprints", source))?;
    Ok((FingerprintKey::new(key), true))
}

/// Returns the secret of this host, if there is one already.
pub(super) fn known_key(state_dir: &Path) -> Option<FingerprintKey> {
    read_key(&state_dir.join("scan-key")).ok().flatten().map(FingerprintKey::new)
}

/// `None` when what is there is no key, or one that others could have read.
fn read_key(path: &Path) -> io::Result<Option<[u8; KEY_BYTES]>> {
    let file = File::open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(KEY_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes.try_into().ok())
}

/// Puts a file in the state directory in place: written beside, made durable, renamed.
fn replace(dir: &Path, name: &str, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.new"));
    // What a crash left there is of no use, and could have other permissions.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    fill(&mut file)?;
    file.sync_all()?;
    std::fs::rename(&temporary, dir.join(name))?;
    File::open(dir)?.sync_all()
}

pub(super) fn error(path: &Path, attempt: &'static str, source: io::Error) -> FsError {
    let kind = match source.kind() {
        io::ErrorKind::NotFound => FsErrorKind::NotFound,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => FsErrorKind::Denied,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FsErrorKind::Full,
        io::ErrorKind::NotADirectory => FsErrorKind::WrongKind,
        _ => FsErrorKind::Other,
    };
    let hint = match kind {
        FsErrorKind::Denied => Some("run as the user who owns it, or choose another directory"),
        FsErrorKind::Full => Some("free some space"),
        _ => None,
    };
    FsError { path: path.to_owned(), attempt, kind, hint, source }
}
