//! One file: the cheapest proof of what its content is.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use direct_puppet_transport::protocol::Digest;
use direct_puppet_transport::protocol::manifest::UNKNOWN_SIZE;
use rustix::io::Errno;

use super::cache::StatCache;
use super::dir::{self, Dir};
use super::hash::SMALL_FILE_BYTES;
use super::read::{Content, Expected, Fingerprint, Found, read};
use super::record::{Nanos, Record};
use super::scan::{ContentState, Proof, ScanCounters, Scanned, WantedContent};
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
    pub(super) proof: Proof,
    pub(super) now: Nanos,
    pub(super) interrupt: &'a AtomicBool,
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
        let record = self.cache.get(&wanted.path).filter(|record| match self.proof {
            // Due proofs leave no record to rely on.
            Proof::Stat => !self.is_due(wanted, record),
            Proof::Fingerprint => true,
            Proof::Digest => false,
        });
        let by_stat = record.filter(|_| self.proof == Proof::Stat).and_then(|record| self.by_stat(record, wanted, &stat));
        if let Some(looked) = by_stat {
            return Some(looked);
        }
        if !wanted.replace || stat.size != wanted.size {
            return Some(Looked::new(Some(stat), ContentState::Different(None), Update::Keep));
        }
        if stat.size > SMALL_FILE_BYTES && large == Large::Postpone {
            return None;
        }
        Some(self.by_reading(dir, name, (wanted, &stat), record, buffer))
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
        (wanted, before): (&WantedContent, &Stat),
        record: Option<&Record>,
        buffer: &mut Vec<u8>,
    ) -> Looked {
        let known = record.filter(|record| {
            record.size == before.size && record.digest == wanted.digest && dir::is_private(before) && dir.is_private()
        });
        let fingerprint = known.and_then(|record| record.fingerprint).map_or(Fingerprint::Wanted, Fingerprint::IsProof);
        let expected = Expected { digest: wanted.digest, size: wanted.size, fingerprint };
        let opened = |mut looked: Looked, bytes| {
            looked.counters.opened = 1;
            looked.counters.bytes_hashed = bytes;
            looked
        };
        match read(dir, name, before, &expected, self.cache.key(), buffer, self.interrupt) {
            Content::Read(found) => opened(self.judge(*before, wanted, known, &found), before.size),
            // Changed while it was read: nothing is proved and nothing recorded. Whoever acts on it looks again.
            Content::Changing => opened(Looked::new(Some(*before), ContentState::Different(None), Update::Keep), before.size),
            Content::Absent => Looked::absent(),
            Content::Link => Looked::new(None, ContentState::OtherKind, Update::Forget),
            Content::Unopened(errno) => Looked::failed("open it", errno),
            Content::Unread(source) => {
                let state = ContentState::Failed(format!("could not read it: {source}"));
                opened(Looked::new(Some(*before), state, Update::Keep), 0)
            }
        }
    }

    fn judge(&self, stat: Stat, wanted: &WantedContent, known: Option<&Record>, found: &Found) -> Looked {
        let proved_at = if found.digest.is_some() { self.now } else { known.map_or(Nanos::MIN, |record| record.proved_at) };
        let digest = found.digest.unwrap_or(wanted.digest);
        let record = Record::new(&stat, digest, found.fingerprint, self.now, proved_at);
        let mut looked = Looked::new(Some(stat), compare(digest, wanted.digest), Update::Put(Box::new(record)));
        looked.counters.fingerprint_proved = u64::from(found.digest.is_none());
        looked
    }
}

fn compare(digest: Digest, wanted: Digest) -> ContentState {
    if digest == wanted { ContentState::Same } else { ContentState::Different(Some(digest)) }
}
