//! Who is primary: which epoch this server knows, and whether it leads, follows or was replaced.
//!
//! An explicit promotion begins a new epoch. Whoever hears of a higher epoch than its own is no primary any more, and remembers
//! that before it says so. A primary that has peers asks them when it starts, before it answers anybody: one of them may have taken
//! over while it was away.

mod peers;
mod promote;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::disk;
use crate::error::ServerError;

pub use peers::Peers;
pub(crate) use peers::Watch;
pub use promote::{PromoteRequest, Promoted};

/// Format of `role.json`.
const FORMAT: u32 = 1;

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

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct RoleFile {
    format: u32,
    epoch: u64,
    standing: Standing,
}

/// The role of a server; kept in `<data>/role.json` once it is another than what the options say.
#[derive(Debug)]
pub(crate) struct Role {
    path: PathBuf,
    has_primary: bool,
    now: Mutex<RoleFile>,
}

impl Role {
    /// Loads it; `known` is the highest epoch of any code here. Blocking.
    pub(crate) fn open(data: &Path, has_primary: bool, known: u64) -> Result<Self, ServerError> {
        let path = data.join("role.json");
        let mut now =
            disk::read_json::<RoleFile>(&path)?.unwrap_or(RoleFile { format: FORMAT, epoch: 1, standing: Standing::Configured });
        if now.format != FORMAT {
            return Err(ServerError::Format { path, format: now.format });
        }
        if known > now.epoch && now.standing == Standing::Promoted {
            // It followed another one since, which was promoted later.
            now.standing = Standing::Replaced;
        }
        now.epoch = now.epoch.max(known);
        Ok(Self { path, has_primary, now: Mutex::new(now) })
    }

    /// Returns the highest epoch that this server knows.
    pub(crate) fn epoch(&self) -> u64 {
        self.lock().epoch
    }

    pub(crate) fn is_primary(&self) -> bool {
        match self.lock().standing {
            Standing::Configured => !self.has_primary,
            Standing::Promoted => true,
            Standing::Replaced => false,
        }
    }

    /// Hears of an epoch; returns whether it was news. Durable before it returns. Blocking; a primary's publishes must have been stopped by the caller.
    pub(crate) fn hear(&self, epoch: u64) -> Result<bool, ServerError> {
        let mut now = self.lock();
        if epoch <= now.epoch {
            return Ok(false);
        }
        let is_primary = now.standing == Standing::Promoted || (now.standing == Standing::Configured && !self.has_primary);
        let standing = if is_primary { Standing::Replaced } else { now.standing };
        let next = RoleFile { epoch, standing, ..*now };
        disk::write_json(&self.path, &next)?;
        if is_primary {
            tracing::warn!(epoch, "another server has taken over: this one publishes nothing any more");
        }
        *now = next;
        Ok(true)
    }

    /// Makes this server the primary of a new epoch. Durable before it returns. Blocking.
    fn promote(&self, epoch: u64) -> Result<(), ServerError> {
        let mut now = self.lock();
        let next = RoleFile { epoch, standing: Standing::Promoted, ..*now };
        disk::write_json(&self.path, &next)?;
        *now = next;
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
        let role = Role::open(dir.path(), false, 0).unwrap();
        assert!(role.is_primary() && role.epoch() == 1);
        role.hear(1).unwrap();
        assert!(role.is_primary());
        role.hear(2).unwrap();
        for role in [role, Role::open(dir.path(), false, 0).unwrap(), Role::open(dir.path(), true, 0).unwrap()] {
            assert!(!role.is_primary() && role.epoch() == 2);
        }
    }

    #[test]
    fn a_promoted_replica_stays_primary_until_it_hears_of_another() {
        let dir = tempfile::tempdir().unwrap();
        let role = Role::open(dir.path(), true, 3).unwrap();
        assert!(!role.is_primary() && role.epoch() == 3);
        role.promote(4).unwrap();
        assert!(Role::open(dir.path(), true, 4).unwrap().is_primary());
        assert!(!Role::open(dir.path(), true, 5).unwrap().is_primary(), "it followed another since");
        role.hear(6).unwrap();
        assert!(!Role::open(dir.path(), true, 4).unwrap().is_primary());
    }
}
