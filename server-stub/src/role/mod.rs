//! Who is primary: which epoch this server knows, and whether it leads, follows or was replaced.
//!
//! An explicit promotion begins a new epoch. Whoever hears of a higher epoch than its own is no primary any more, and remembers
//! that before it says so. A primary that has peers asks them when it starts, before it answers anybody: one of them may have taken
//! over while it was away.

mod asked;
mod epoch;
mod peers;
mod promote;
mod step;

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::disk;
use crate::error::ServerError;

pub use asked::{LeftOut, PromoteRequest, Promoted};
pub(crate) use epoch::is_taken_over;
pub use peers::Peers;
pub(crate) use peers::{Hearing, Watch};

/// Format of `role.json`.
const FORMAT: u32 = 1;

/// How far above its own a server believes an epoch to be: promotions are rare, and nobody shall bring the numbers to their end.
const MAX_STEP: u64 = 1_000;

/// The highest epoch that a server believes which never knew one.
const MAX_FIRST: u64 = u64::MAX >> 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Standing {
    /// As it is started: whoever has a primary to follow is a replica.
    Configured,
    /// Promoted: a primary, whatever it is started to follow.
    Promoted,
    /// Another server has taken over.
    Replaced,
}

/// Which other servers there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Others {
    /// None.
    #[default]
    None,
    /// Those that may be promoted in this one's place.
    Successors,
    /// Those of which one is the primary.
    Primary,
    /// Equal ones, which share a store.
    Store,
}

/// Which epochs are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Those not far above the own one.
    Near,
    /// The first one that a server without any code hears of, from a server that it was told to ask.
    First,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct RoleFile {
    format: u32,
    epoch: u64,
    standing: Standing,
    /// Which others the server was last run with: a verb that works while no server runs cannot ask them.
    #[serde(default)]
    others: Others,
    /// The primary gives this server only some environments.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_part: bool,
}

impl RoleFile {
    const fn is_primary(&self) -> bool {
        if matches!(self.others, Others::Store) {
            return false;
        }
        match self.standing {
            Standing::Configured => !matches!(self.others, Others::Primary),
            Standing::Promoted => true,
            Standing::Replaced => false,
        }
    }
}

/// The role of a server; kept in `<data>/role.json` once it is another than what the options say.
#[derive(Debug)]
pub(crate) struct Role {
    path: PathBuf,
    now: Mutex<RoleFile>,
    /// Tells those who wait that this server was replaced or promoted.
    changed: Notify,
}

impl Role {
    /// Loads it; `others` are those that the server is run with, `None` to keep what it was last run with; `known` is the highest
    /// epoch of any code here. Blocking.
    pub(crate) fn open(data: &Path, others: Option<Others>, known: u64) -> Result<Self, ServerError> {
        let path = data.join("role.json");
        let initial = RoleFile { format: FORMAT, epoch: 1, standing: Standing::Configured, others: Others::None, is_part: false };
        let mut now = disk::read_json::<RoleFile>(&path)?.unwrap_or(initial);
        if now.format != FORMAT {
            return Err(ServerError::Format { path, format: now.format });
        }
        if known > now.epoch && now.standing == Standing::Promoted {
            // It followed another one since, which was promoted later.
            now.standing = Standing::Replaced;
        }
        now.epoch = now.epoch.max(known);
        if let Some(others) = others.filter(|others| *others != now.others) {
            now.others = others;
            disk::write_json(&path, &now)?;
        }
        Ok(Self { path, now: Mutex::new(now), changed: Notify::new() })
    }

    /// Returns the highest epoch that this server knows.
    pub(crate) fn epoch(&self) -> u64 {
        self.lock().epoch
    }

    pub(crate) fn is_primary(&self) -> bool {
        self.lock().is_primary()
    }

    /// Returns which other servers there are.
    pub(crate) fn others(&self) -> Others {
        self.lock().others
    }

    /// Returns the epoch in which this server is primary; `None` when it is none.
    pub(crate) fn leads(&self) -> Option<u64> {
        let now = self.lock();
        now.is_primary().then_some(now.epoch)
    }

    /// Whether another server has taken over, and this one was not promoted since.
    pub(crate) fn is_replaced(&self) -> bool {
        self.lock().standing == Standing::Replaced
    }

    /// Whether the primary gave this server only some environments when it was last asked.
    pub(crate) fn is_part(&self) -> bool {
        self.lock().is_part
    }

    /// Remembers whether the primary gives this server only some environments. Blocking where that is news.
    pub(crate) fn is_given_part(&self, is_part: bool) -> Result<(), ServerError> {
        let mut now = self.lock();
        if now.is_part != is_part {
            let next = RoleFile { is_part, ..*now };
            disk::write_json(&self.path, &next)?;
            *now = next;
        }
        Ok(())
    }

    /// Checks that an epoch is not too far above the highest that is known here.
    pub(crate) fn believe(&self, epoch: u64) -> Result<(), ServerError> {
        let known = self.epoch();
        match epoch > known.saturating_add(MAX_STEP) {
            true => Err(ServerError::EpochTooFar { epoch, known }),
            false => Ok(()),
        }
    }

    /// Hears of an epoch; returns whether it was news. Durable before it returns. Blocking; a primary's publishes must have been stopped
    /// by the caller.
    pub(crate) fn hear(&self, epoch: u64, trust: Trust) -> Result<bool, ServerError> {
        self.raise(&mut self.lock(), epoch, trust)
    }

    /// As [`Role::hear`], of a server that publishes nothing; `None`, and nothing is done, when this one is primary.
    pub(crate) fn hear_as_follower(&self, epoch: u64, trust: Trust) -> Result<Option<bool>, ServerError> {
        let mut now = self.lock();
        if now.is_primary() { Ok(None) } else { self.raise(&mut now, epoch, trust).map(Some) }
    }

    fn raise(&self, now: &mut RoleFile, epoch: u64, trust: Trust) -> Result<bool, ServerError> {
        if epoch <= now.epoch {
            return Ok(false);
        }
        let most = match trust {
            Trust::Near => now.epoch.saturating_add(MAX_STEP),
            Trust::First => MAX_FIRST,
        };
        if epoch > most {
            return Err(ServerError::EpochTooFar { epoch, known: now.epoch });
        }
        let is_primary = now.is_primary();
        let standing = if is_primary { Standing::Replaced } else { now.standing };
        let next = RoleFile { epoch, standing, ..*now };
        disk::write_json(&self.path, &next)?;
        if is_primary {
            tracing::warn!(epoch, "another server has taken over: this one publishes nothing any more");
        }
        *now = next;
        if is_primary {
            self.changed.notify_waiters();
        }
        Ok(true)
    }

    /// Waits until this server is no primary any more.
    pub(crate) async fn replaced(&self) {
        self.becomes(false).await;
    }

    /// Waits until this server is primary.
    pub(crate) async fn promoted(&self) {
        self.becomes(true).await;
    }

    async fn becomes(&self, is_primary: bool) {
        loop {
            let mut told = pin!(self.changed.notified());
            // From here on nothing is missed.
            told.as_mut().enable();
            if self.is_primary() == is_primary {
                return;
            }
            told.await;
        }
    }

    /// Makes this server the primary of a new epoch, unless it heard of that one meanwhile. Durable before it returns. Blocking.
    fn promote(&self, epoch: u64) -> Result<(), ServerError> {
        let mut now = self.lock();
        if epoch <= now.epoch {
            return Err(ServerError::NotPromoted { reason: format!("epoch {} has begun elsewhere", now.epoch) });
        }
        let next = RoleFile { epoch, standing: Standing::Promoted, ..*now };
        disk::write_json(&self.path, &next)?;
        *now = next;
        self.changed.notify_waiters();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, RoleFile> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_higher_epoch_ends_a_primary_and_a_restart_remembers() {
        let dir = tempfile::tempdir().unwrap();
        let role = Role::open(dir.path(), Some(Others::None), 0).unwrap();
        assert!(role.is_primary() && role.epoch() == 1);
        role.hear(1, Trust::Near).unwrap();
        assert!(role.is_primary());
        role.hear(2, Trust::Near).unwrap();
        for role in [
            role,
            Role::open(dir.path(), Some(Others::None), 0).unwrap(),
            Role::open(dir.path(), Some(Others::Primary), 0).unwrap(),
        ] {
            assert!(!role.is_primary() && role.epoch() == 2);
        }
    }

    #[test]
    fn an_epoch_far_above_the_own_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let role = Role::open(dir.path(), Some(Others::None), 7).unwrap();
        for epoch in [7 + MAX_STEP + 1, u64::MAX] {
            let error = role.hear(epoch, Trust::Near).unwrap_err();
            assert!(matches!(error, ServerError::EpochTooFar { known: 7, .. }), "{error}");
            assert!(role.leads() == Some(7));
        }
        assert!(role.hear(u64::MAX, Trust::First).is_err());
        assert!(role.hear(7 + MAX_STEP, Trust::Near).unwrap());
        assert_eq!((role.leads(), role.is_replaced(), role.epoch()), (None, true, 7 + MAX_STEP));
        assert!(role.hear(1_000_000, Trust::First).unwrap());
    }

    #[test]
    fn a_promoted_replica_stays_primary_until_it_hears_of_another() {
        let dir = tempfile::tempdir().unwrap();
        let role = Role::open(dir.path(), Some(Others::Primary), 3).unwrap();
        assert!(!role.is_primary() && role.epoch() == 3);
        role.promote(4).unwrap();
        assert!(Role::open(dir.path(), Some(Others::Primary), 4).unwrap().is_primary());
        assert!(!Role::open(dir.path(), Some(Others::Primary), 5).unwrap().is_primary(), "it followed another since");
        role.hear(6, Trust::Near).unwrap();
        assert!(!Role::open(dir.path(), Some(Others::Primary), 4).unwrap().is_primary());
    }

    #[test]
    fn whom_a_server_worked_with_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        for others in [Others::Primary, Others::Successors, Others::None] {
            drop(Role::open(dir.path(), Some(others), 1).unwrap());
            let role = Role::open(dir.path(), None, 1).unwrap();
            assert_eq!((role.others(), role.is_primary()), (others, others != Others::Primary));
        }
    }
}
