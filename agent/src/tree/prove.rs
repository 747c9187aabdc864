//! One file: the cheapest proof of what its content is.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use direct_puppet_transport::protocol::Digest;
use direct_puppet_transport::protocol::manifest::UNKNOWN_SIZE;
use rustix::io::Errno;

use super::cache::StatCache;
use super::dir::{self, Dir};
use super::hash::{SMALL_FILE_BYTES, hash_large, read_small};
use super::record::{Nanos, Record};
use super::scan::{ContentState, ScanCounters, Scanned, WantedContent};
use crate::fs::{FileKind, Stat};

/// What is to be done with large files now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Large {
    /// Leave them for later: inside a parallel loop, hashing with all threads would start other files on this thread meanwhile.
    Postpone,
    /// Hash them, with all threads of the pool.
    Hash,
}

/// What becomes of the record.
#[derive(Debug)]
pub(super) enum Update {
    Keep,
    Forget,
    Put(Box<Record>),
}

/// The answer for one file.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) scanned: Scanned,
    pub(super) update: Update,
    pub(super) counters: ScanCounters,
}

impl Looked {
    pub(super) fn new(stat: Option<Stat>, content: ContentState, update: Update) -> Self {
        let counters = ScanCounters { listed: 1, ..ScanCounters::default() };
        Self { scanned: Scanned { stat, content }, update, counters }
    }

    pub(super) fn absent() -> Self {
        Self::new(None, ContentState::Absent, Update::Forget)
    }

    pub(super) fn blocked() -> Self {
        Self::new(None, ContentState::Blocked, Update::Keep)
    }

    pub(super) fn failed(attempt: &str, errno: Errno) -> Self {
        let hint = match errno {
            Errno::LOOP | Errno::NOTDIR => ": a component on the way is a symbolic link or no directory, which is never followed",
            _ => "",
        };
        Self::new(None, ContentState::Failed(format!("could not {attempt}: {errno}{hint}")), Update::Keep)
    }
}

/// What all files of a scan share.
#[derive(Debug)]
pub(super) struct Prover<'a> {
    pub(super) cache: &'a StatCache,
    pub(super) reproof_interval: Duration,
    pub(super) verify_all: bool,
    pub(super) now: Nanos,
    pub(super) interrupt: &'a AtomicBool,
}

/// What reading found.
struct Read {
    fingerprint: Option<u128>,
    /// None when the fingerprint is proof enough.
    digest: Option<Digest>,
}

impl Prover<'_> {
    /// Looks at one file; `None` when it is large and those are postponed.
    pub(super) fn look(&self, dir: &Dir<'_>, wanted: &WantedContent, buffer: &mut Vec<u8>, large: Large) -> Option<Looked> {
        let Some(name) = wanted.path.name() else {
            return Some(Looked::new(None, ContentState::OtherKind, Update::Forget));
        };
        let stat = match dir.stat(name) {
            Ok(Some(stat)) => stat,
            Ok(None) => return Some(Looked::absent()),
            Err(errno) => return Some(Looked::failed("look at it", errno)),
        };
        if stat.kind() != FileKind::File {
            return Some(Looked::new(Some(stat), ContentState::OtherKind, Update::Forget));
        }
        let sized;
        let wanted = if wanted.size == UNKNOWN_SIZE {
            // Whatever is there has the right length; the digest decides.
            sized = WantedContent { size: stat.size, ..wanted.clone() };
            &sized
        } else {
            wanted
        };
        // Verifying everything, and due proofs, leave no record to rely on.
        let record = self.cache.get(&wanted.path).filter(|record| !self.verify_all && !self.is_due(wanted, record));
        if let Some(looked) = record.and_then(|record| self.by_stat(record, wanted, &stat)) {
            return Some(looked);
        }
        if !wanted.replace || stat.size != wanted.size {
            return Some(Looked::new(Some(stat), ContentState::Different(None), Update::Keep));
        }
        if stat.size > SMALL_FILE_BYTES && large == Large::Postpone {
            return None;
        }
        Some(self.by_reading(dir, name, wanted, record, buffer, large))
    }

    fn is_due(&self, wanted: &WantedContent, record: &Record) -> bool {
        record.is_due(self.reproof_interval, self.cache.key().position(&wanted.path), self.now)
    }

    fn by_stat(&self, record: &Record, wanted: &WantedContent, stat: &Stat) -> Option<Looked> {
        let comparable = record.digest.algorithm() == wanted.digest.algorithm();
        if !comparable || !record.is_trusted(self.now) || !record.holds(stat) {
            return None;
        }
        let mut looked = Looked::new(Some(*stat), compare(record.digest, wanted.digest), Update::Keep);
        looked.counters.stat_proved = u64::from(looked.scanned.content == ContentState::Same);
        Some(looked)
    }

    fn by_reading(
        &self,
        dir: &Dir<'_>,
        name: &[u8],
        wanted: &WantedContent,
        record: Option<&Record>,
        buffer: &mut Vec<u8>,
        large: Large,
    ) -> Looked {
        let file = match dir.open_file(name) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Looked::absent(),
            Err(Errno::LOOP) => return Looked::new(None, ContentState::OtherKind, Update::Forget),
            Err(errno) => return Looked::failed("open it", errno),
        };
        let opened = |mut looked: Looked, bytes| {
            looked.counters.opened = 1;
            looked.counters.bytes_hashed = bytes;
            looked
        };
        let before = match dir::stat_of(&file) {
            Ok(stat) => stat,
            Err(errno) => return opened(Looked::failed("look at it", errno), 0),
        };
        if before.kind() != FileKind::File {
            return opened(Looked::new(Some(before), ContentState::OtherKind, Update::Forget), 0);
        }
        let changing = |bytes| opened(Looked::new(Some(before), ContentState::Different(None), Update::Keep), bytes);
        // It may have grown since it was postponed, or not postponed.
        if before.size != wanted.size || (before.size > SMALL_FILE_BYTES && large == Large::Postpone) {
            return changing(0);
        }
        let known = record.filter(|record| {
            record.size == before.size && record.digest == wanted.digest && dir::is_private(&before) && dir.is_private()
        });
        let read = match self.read(&file, wanted, known, buffer) {
            Ok(Some(read)) => read,
            Ok(None) => return changing(before.size),
            Err(source) => {
                let state = ContentState::Failed(format!("could not read it: {source}"));
                return opened(Looked::new(Some(before), state, Update::Keep), 0);
            }
        };
        // Changed while it was read: nothing is proved and nothing recorded. Whoever acts on it looks again.
        if dir::stat_of(&file) != Ok(before) {
            return changing(before.size);
        }
        opened(self.judge(before, wanted, known, &read), before.size)
    }

    /// Reads the content; `None` when it had not the wanted size after all.
    fn read(
        &self,
        file: &std::fs::File,
        wanted: &WantedContent,
        known: Option<&Record>,
        buffer: &mut Vec<u8>,
    ) -> std::io::Result<Option<Read>> {
        if wanted.size > SMALL_FILE_BYTES {
            let limit = wanted.size.saturating_add(1);
            let (digest, size) = hash_large(file, wanted.digest.algorithm(), limit, self.interrupt)?;
            return Ok((size == wanted.size).then_some(Read { fingerprint: None, digest: Some(digest) }));
        }
        if !read_small(file, wanted.size, buffer)? {
            return Ok(None);
        }
        let fingerprint = Some(self.cache.key().fingerprint(buffer));
        let proved = known.is_some_and(|record| record.fingerprint == fingerprint);
        let digest = (!proved).then(|| {
            let mut hasher = wanted.digest.verifier();
            hasher.update(buffer);
            hasher.finish()
        });
        Ok(Some(Read { fingerprint, digest }))
    }

    fn judge(&self, stat: Stat, wanted: &WantedContent, known: Option<&Record>, read: &Read) -> Looked {
        let proved_at = if read.digest.is_some() { self.now } else { known.map_or(Nanos::MIN, |record| record.proved_at) };
        let digest = read.digest.unwrap_or(wanted.digest);
        let record = Record::new(&stat, digest, read.fingerprint, self.now, proved_at);
        let mut looked = Looked::new(Some(stat), compare(digest, wanted.digest), Update::Put(Box::new(record)));
        looked.counters.fingerprint_proved = u64::from(read.digest.is_none());
        looked
    }
}

fn compare(digest: Digest, wanted: Digest) -> ContentState {
    if digest == wanted { ContentState::Same } else { ContentState::Different(Some(digest)) }
}
