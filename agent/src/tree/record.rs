//! What is remembered of one file, and when it may be believed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use direct_puppet_transport::protocol::Digest;

use crate::fs::{Stat, Time};

/// How much older than its record a file's last change must be. The kernel stamps files from a clock that ticks every 1 to 10 ms
/// (`CONFIG_HZ` 1000 to 100), so two writes within a tick look like one; twice that is on the safe side.
pub(super) const CLOCK_GRANULARITY: Duration = Duration::from_millis(20);

/// Nanoseconds since 1970 UTC; times beyond 1677 to 2262 stick to the end, which only makes a record less trusted.
pub(super) type Nanos = i64;

pub(super) fn nanos_of(time: Time) -> Nanos {
    time.seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(time.nanos))
}

pub(super) fn nanos_at(time: SystemTime) -> Nanos {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => nanos_in(after),
        Err(before) => nanos_in(before.duration()).saturating_neg(),
    }
}

pub(super) fn nanos_in(duration: Duration) -> Nanos {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// Whether what has this metadata could have been changed after `seen_at`, when it was taken or later, without a change of its
/// times. Only ctime counts: whatever changes content, target or entries sets it, and nobody can set it back. One in the future
/// proves nothing.
pub(crate) fn is_racy(stat: &Stat, seen_at: SystemTime) -> bool {
    nanos_at(seen_at).saturating_sub(nanos_of(stat.ctime)) <= nanos_in(CLOCK_GRANULARITY)
}

/// One file whose content was proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) dev: u64,
    pub(super) ino: u64,
    pub(super) size: u64,
    pub(super) mtime: Nanos,
    pub(super) ctime: Nanos,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Not later than the stat above was taken.
    pub(super) recorded_at: Nanos,
    /// When the content was last proved by digest, not merely by fingerprint.
    pub(super) proved_at: Nanos,
    pub(super) digest: Digest,
    /// None for large files and for files that were written, not read.
    pub(super) fingerprint: Option<u128>,
}

impl Record {
    pub(super) fn new(stat: &Stat, digest: Digest, fingerprint: Option<u128>, recorded_at: Nanos, proved_at: Nanos) -> Self {
        Self {
            dev: stat.dev,
            ino: stat.ino,
            size: stat.size,
            mtime: nanos_of(stat.mtime),
            ctime: nanos_of(stat.ctime),
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            recorded_at,
            proved_at,
            digest,
            fingerprint,
        }
    }

    /// Whether the file still looks as recorded.
    pub(super) fn holds(&self, stat: &Stat) -> bool {
        let now = Self::new(stat, self.digest, self.fingerprint, self.recorded_at, self.proved_at);
        *self == now
    }

    /// The last change that the file system noted.
    pub(super) fn changed_at(&self) -> Nanos {
        self.mtime.max(self.ctime)
    }

    /// Whether the file could have been changed after it was recorded without a change of its times.
    pub(super) fn is_racy(&self) -> bool {
        self.recorded_at.saturating_sub(self.changed_at()) <= nanos_in(CLOCK_GRANULARITY)
    }

    /// Whether an equal stat proves equal content: not racy, and the clock was not stepped back behind the record.
    pub(super) fn is_trusted(&self, now: Nanos) -> bool {
        !self.is_racy() && self.recorded_at <= now
    }

    /// Whether it is time to prove the content by digest again; `position` in [0, 1) spreads files over the second half of the
    /// interval, so that each is proved within it and the runs share the work.
    pub(super) fn is_due(&self, interval: Duration, position: f64, now: Nanos) -> bool {
        // A proof in the future: the clock was stepped back, the age is not known.
        now < self.proved_at || now >= self.due_at(interval, position)
    }

    /// When that time is.
    #[expect(clippy::cast_possible_truncation, reason = "a product below the interval, which fits")]
    pub(super) fn due_at(&self, interval: Duration, position: f64) -> Nanos {
        self.proved_at.saturating_add((nanos_in(interval) as f64 * (0.5 + 0.5 * position)) as Nanos)
    }
}
