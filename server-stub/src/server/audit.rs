//! The audit log: what administrators did, and who was turned away.
//!
//! Of those who are turned away it takes so many in a minute: whoever is turned away again and again shall not fill the disk.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use direct_puppet_transport::Peer;
use direct_puppet_transport::protocol::{Refusal, RefusalCode};
use serde::Serialize;

use super::{Server, now};
use crate::answer::name_of;
use crate::blocking;
use crate::code::Author;
use crate::disk;
use crate::error::{ServerError, chain};

/// The audit log, in the data directory.
pub(crate) const AUDIT: &str = "audit.jsonl";

/// A line of the audit log.
#[derive(Debug, Serialize)]
struct Audit<'a> {
    time_unix_seconds: u64,
    act: &'a str,
    /// Whoever asked, as the system or his certificate says; not as he says.
    who: &'a str,
    /// Whose work he says it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    author: Option<&'a Author>,
    what: &'a str,
}

/// Writes a line, durably. Blocking.
fn write(data: &Path, act: &str, who: &str, author: Option<&Author>, what: &str) -> Result<(), ServerError> {
    let author = author.filter(|author| **author != Author::default());
    disk::append_chained(&data.join(AUDIT), &Audit { time_unix_seconds: now(), act, who, author, what })
}

/// Lines of one peer in a minute,
const PER_PEER: u32 = 10;
/// and of all.
const PER_MINUTE: u32 = 60;

const MINUTE: Duration = Duration::from_secs(60);

/// In a log of so many bytes who was turned away is not written any more: it is to be put elsewhere, or emptied, by an administrator.
const MAX_LOG_BYTES: u64 = 64 << 20;

/// Longest text of what was asked.
const MAX_CHARS: usize = 300;

/// Lines so far.
#[derive(Debug, Default)]
pub(crate) struct Denials(Mutex<Minute>);

#[derive(Debug, Default)]
struct Minute {
    began: Option<Instant>,
    by_peer: HashMap<String, u32>,
    count: u32,
    left_out: u64,
    /// The log was full when it was last to be written.
    is_log_full: bool,
}

impl Denials {
    /// Takes a line of a peer; `None` when there were enough in this minute, else how many were left out since the last.
    fn take(&self, who: &str, now: Instant) -> Option<u64> {
        let mut minute = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if minute.began.is_none_or(|began| now.saturating_duration_since(began) >= MINUTE) {
            *minute = Minute { began: Some(now), by_peer: HashMap::new(), count: 0, ..*minute };
        }
        if minute.count == PER_MINUTE || minute.by_peer.get(who).is_some_and(|count| *count == PER_PEER) {
            minute.left_out += 1;
            return None;
        }
        minute.count += 1;
        *minute.by_peer.entry(who.to_owned()).or_default() += 1;
        Some(std::mem::take(&mut minute.left_out))
    }

    /// Counts a line that was taken and not written, and those that were left out before it, as left out.
    fn not_written(&self, left_out: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).left_out += left_out + 1;
    }

    /// Hears whether the log is full; returns whether it has become so.
    fn is_newly_full(&self, is_full: bool) -> bool {
        let mut minute = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let was_full = std::mem::replace(&mut minute.is_log_full, is_full);
        is_full && !was_full
    }
}

impl Server {
    /// Records, durably, what an administrator is about to do. Blocking.
    pub(crate) fn audit(&self, act: &str, who: &str, what: &str) -> Result<(), ServerError> {
        self.audit_work(act, who, None, what)
    }

    /// As [`Server::audit`], with whose work he says it is.
    pub(crate) fn audit_work(&self, act: &str, who: &str, author: Option<&Author>, what: &str) -> Result<(), ServerError> {
        write(&self.options.data_dir, act, who, author, what)
    }

    /// As [`Server::audit`], for what must be possible on a full disk.
    pub(crate) fn audit_if_possible(&self, act: &str, who: &str, what: &str) -> Result<(), ServerError> {
        match self.audit(act, who, what) {
            Err(error) if disk::is_full(&error) => {
                tracing::warn!(act, who, what, "this is not in the audit log: {}", chain(&error));
                Ok(())
            }
            written => written,
        }
    }

    /// Records that a peer was turned away from `what`. That the log takes no line is no reason not to answer.
    pub(crate) async fn denied(&self, peer: &Peer, what: &str) {
        let who = name_of(peer);
        let Some(left_out) = self.denials.take(&who, Instant::now()) else { return };
        let others = if left_out > 0 { format!(", and {left_out} others before it") } else { String::new() };
        let what = format!("{}{others}", what.chars().take(MAX_CHARS).flat_map(char::escape_debug).collect::<String>());
        let (data, denials) = (self.options.data_dir.clone(), Arc::clone(&self.denials));
        // Whoever hangs up meanwhile is written down, or counted, all the same.
        let write = move || {
            let is_full = data.join(AUDIT).metadata().is_ok_and(|found| found.len() >= MAX_LOG_BYTES);
            let written = if is_full { Ok(()) } else { write(&data, "denied", &who, None, &what) };
            if is_full || written.is_err() {
                denials.not_written(left_out);
            }
            if denials.is_newly_full(is_full) {
                tracing::warn!("who is turned away is only counted from now on: {AUDIT} has 64 MiB, put it elsewhere");
            }
            written
        };
        if let Err(error) = blocking::run(write).await.map_err(ServerError::from).flatten() {
            tracing::warn!("{}", chain(&error));
        }
    }

    /// Returns an answer; records it when it turned the peer away from `what`.
    pub(crate) async fn recorded<T>(&self, peer: &Peer, what: &str, answer: Result<T, Refusal>) -> Result<T, Refusal> {
        if let Err(refusal) = &answer
            && refusal.code == RefusalCode::Forbidden
        {
            self.denied(peer, &format!("{what}: {}", refusal.message)).await;
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_of_each_in_a_minute_and_the_rest_counted() {
        let denials = Denials::default();
        let begin = Instant::now();
        let taken = |who: &str, from: Instant, times: u32| (0..times).filter_map(|_| denials.take(who, from)).collect::<Vec<_>>();
        assert_eq!(taken("a", begin, 100), [0; 10]);
        // One that makes noise hides nobody else.
        assert_eq!(taken("b", begin + MINUTE / 2, 1), [90]);
        assert_eq!(taken("a", begin + MINUTE / 2, 5), [0; 0]);
        let all: usize = (0..100).map(|number| taken(&format!("n{number}"), begin + MINUTE / 2, 1).len()).sum();
        assert_eq!(all, 49);
        assert_eq!(taken("a", begin + MINUTE, 2), [51, 0]);
        assert_eq!(taken("a", begin + MINUTE * 3, 1), [0]);
    }

    #[test]
    fn what_is_not_written_is_counted_and_of_a_full_log_it_is_said_once() {
        let denials = Denials::default();
        let begin = Instant::now();
        assert!(!denials.is_newly_full(false));
        let is_new: Vec<bool> = (0..3)
            .map(|minute| {
                let left_out = denials.take("a", begin + MINUTE * minute).unwrap();
                assert_eq!(left_out, u64::from(minute));
                denials.not_written(left_out);
                denials.is_newly_full(true)
            })
            .collect();
        assert_eq!(is_new, [true, false, false]);
        assert_eq!(denials.take("a", begin + MINUTE * 3), Some(3));
        assert!(!denials.is_newly_full(false));
        assert_eq!(denials.take("a", begin + MINUTE * 4), Some(0));
        assert!(denials.is_newly_full(true));
    }
}
