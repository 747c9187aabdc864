//! How fast new code reaches the nodes that wait for it, and whether it does.
//!
//! A publish wakes waiting nodes one after the other, so many a second. While a rollout is paused, a node that has other code keeps it:
//! it is told so, and goes on with the catalog that it has. Nodes without a catalog, and who asks for a version by name, are served.

mod status;

use std::path::{Path, PathBuf};
use std::time::Duration;

use direct_puppet_agent::fs::FsError;
use direct_puppet_transport::protocol::Rollout;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use crate::disk;
use crate::error::ServerError;
use crate::publish::{MAX_MESSAGE_BYTES, check_text};
use crate::server::Server;
use crate::shared;

pub use status::{EnvironmentRollout, ReplicaRollout, RolloutStatus};

/// Format of `rollout.json`.
const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct RolloutFile {
    format: u32,
    #[serde(flatten)]
    rollout: Rollout,
}

/// What an administrator wants of the rollout; what is left out stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RolloutRequest {
    /// How many waiting nodes are woken in a second; 0 for all at once.
    pub per_second: Option<u32>,
    /// Pause it, and why; at most 4096 bytes.
    pub pause: Option<String>,
    /// Go on.
    pub resume: bool,
}

impl RolloutRequest {
    /// Returns what is to be after it.
    fn applied_to(&self, before: &Rollout) -> Rollout {
        let paused = if self.resume { None } else { self.pause.clone().or_else(|| before.paused.clone()) };
        Rollout { per_second: self.per_second.unwrap_or(before.per_second), paused }
    }
}

/// Lets nodes through to new code.
#[derive(Debug)]
pub(crate) struct Gate {
    path: PathBuf,
    rollout: watch::Sender<Rollout>,
    /// Held while an administrator sets some of them, so that of two at once neither takes back what the other set.
    setting: std::sync::Mutex<()>,
    /// Held while they are written: an administrator sets them while they are heard of from another server.
    writing: std::sync::Mutex<()>,
    /// When the next node may be woken.
    next: Mutex<Instant>,
    waiting: watch::Sender<u64>,
}

/// One node that waits; counted as long as this lives.
struct Waiting<'a>(&'a Gate);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.send_modify(|waiting| *waiting -= 1);
    }
}

impl Gate {
    /// Loads the rules. Blocking.
    pub(crate) fn open(data: &Path) -> Result<Self, ServerError> {
        let path = data.join("rollout.json");
        let rollout = match disk::read_json::<RolloutFile>(&path) {
            Ok(Some(file)) if file.format != FORMAT => return Err(ServerError::Format { path, format: file.format }),
            Ok(file) => file.map(|file| file.rollout).unwrap_or_default(),
            Err(ServerError::Damaged { reason, .. }) => {
                // Whether it was paused is not known. A server that follows another is told.
                tracing::error!(path = %path.display(), reason, "how new code is rolled out is damaged and moved aside: it is paused");
                std::fs::rename(&path, path.with_extension("damaged"))
                    .map_err(|error| FsError::new(&path, "move aside", error))?;
                let why = "rollout.json was damaged: set the rate again if there was one, then --resume".to_owned();
                let rollout = Rollout { paused: Some(why), ..Rollout::default() };
                disk::write_json(&path, &RolloutFile { format: FORMAT, rollout: rollout.clone() })?;
                rollout
            }
            Err(error) => return Err(error),
        };
        let next = Mutex::new(Instant::now());
        Ok(Self {
            path,
            rollout: watch::channel(rollout).0,
            setting: std::sync::Mutex::default(),
            writing: std::sync::Mutex::default(),
            next,
            waiting: watch::channel(0).0,
        })
    }

    pub(crate) fn rollout(&self) -> Rollout {
        self.rollout.borrow().clone()
    }

    /// Sets the rules, durably. Blocking.
    pub(crate) fn set(&self, rollout: Rollout) -> Result<(), ServerError> {
        self.set_if(|| true, rollout)
    }

    /// Sets the rules, as another server said them, if they still count then: those of a server that was primary do not. Blocking.
    pub(crate) fn set_if(&self, do_count: impl FnOnce() -> bool, rollout: Rollout) -> Result<(), ServerError> {
        let _turn = self.writing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !do_count() {
            return Ok(());
        }
        if *self.rollout.borrow() != rollout {
            disk::write_json(&self.path, &RolloutFile { format: FORMAT, rollout: rollout.clone() })?;
            self.rollout.send_replace(rollout);
        }
        Ok(())
    }

    /// Returns a guard; while it is held no administrator sets the rules.
    pub(crate) fn hold_setting(&self) -> std::sync::MutexGuard<'_, ()> {
        self.setting.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Returns when it is a waiting node's turn. Cancel safe: who goes away costs the others nothing.
    pub(crate) async fn turn(&self) {
        self.waiting.send_modify(|waiting| *waiting += 1);
        let _waiting = Waiting(self);
        let mut rules = self.rollout.subscribe();
        loop {
            // The sender is in `self`: it does not go away.
            let Ok(rollout) = rules.wait_for(|rollout| rollout.paused.is_none()).await.map(|rollout| rollout.clone()) else {
                return;
            };
            let Some(interval) = interval(&rollout) else { return };
            // One after the other, in the order in which they came.
            let mut next = self.next.lock().await;
            if rules.has_changed().unwrap_or(false) {
                continue;
            }
            tokio::select! {
                biased;
                _ = rules.changed() => {}
                () = tokio::time::sleep_until(*next) => {
                    // From when it was due, not from when the clock noticed: else the rate would fall behind.
                    *next = (*next + interval).max(Instant::now());
                    return;
                }
            }
        }
    }
}

/// The time between two nodes; `None` when there is none.
fn interval(rollout: &Rollout) -> Option<Duration> {
    (rollout.per_second > 0).then(|| Duration::from_secs(1) / rollout.per_second)
}

impl Server {
    /// Sets how new code reaches nodes; it is recorded who asked. Blocking.
    ///
    /// # Errors
    ///
    /// On a replica, which has its rules from the primary; when the reason is too long; or when they cannot be written.
    pub fn set_rollout(&self, request: &RolloutRequest, who: &str) -> Result<(), ServerError> {
        if *request == RolloutRequest::default() {
            return Ok(());
        }
        if request.resume && request.pause.is_some() {
            return Err(ServerError::PauseAndResume);
        }
        self.refuse_as_replica()?;
        check_text("pause", request.pause.as_deref().unwrap_or_default(), MAX_MESSAGE_BYTES)?;
        let _turn = self.gate.hold_setting();
        self.catch_up_rollout()?;
        let change = |before: &Rollout| {
            let rollout = request.applied_to(before);
            if rollout == *before {
                return Ok(None);
            }
            let paused = rollout.paused.as_deref().map_or_else(|| "running".to_owned(), |why| format!("paused: {why}"));
            self.audit("rollout", who, &format!("{} nodes a second, {paused}", rollout.per_second))?;
            Ok(Some(rollout))
        };
        let changed = match &self.shared {
            Some(shared) => shared::wait(shared.change_rollout(change))?,
            None => change(&self.gate.rollout())?,
        };
        let Some(rollout) = changed else { return Ok(()) };
        // In a store another server may have set it since: it is heard of as that is, or the next answer says it.
        if self.shared.is_none() || self.catch_up_rollout().is_err() {
            self.gate.set(rollout)?;
            // Who takes over hears of it after this server has stepped down: then it was in time.
            self.refuse_as_replica()?;
        }
        // Replicas that hold a confirmation open hear of it.
        self.environments.touch();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_a_second_go_through_and_none_while_it_is_paused() {
        let dir = tempfile::tempdir().unwrap();
        let gate = Gate::open(dir.path()).unwrap();
        let begun = Instant::now();
        for _ in 0..100 {
            gate.turn().await;
        }
        assert_eq!(begun.elapsed(), Duration::ZERO, "there is no limit at first");
        gate.set(Rollout { per_second: 10, paused: None }).unwrap();
        // Who gave up does not cost a turn.
        for _ in 0..50 {
            drop(tokio::time::timeout(Duration::ZERO, gate.turn()).await);
        }
        let begun = Instant::now();
        futures::future::join_all((0..21).map(|_| gate.turn())).await;
        assert!((1_900..2_200).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
        gate.set(Rollout { per_second: 10, paused: Some("it broke".to_owned()) }).unwrap();
        let waited = tokio::time::timeout(Duration::from_secs(3600), gate.turn()).await;
        assert!(waited.is_err() && *gate.waiting.borrow() == 0);
        let (_, ()) = tokio::join!(gate.turn(), async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            gate.set(Rollout { per_second: 0, paused: None }).unwrap();
        });
        // A restart remembers.
        gate.set(Rollout { per_second: 7, paused: Some("again".to_owned()) }).unwrap();
        assert_eq!(Gate::open(dir.path()).unwrap().rollout(), gate.rollout());
    }

    #[test]
    fn what_is_damaged_pauses_until_somebody_resumes() {
        let dir = tempfile::tempdir().unwrap();
        let gate = Gate::open(dir.path()).unwrap();
        gate.set(Rollout { per_second: 7, ..Rollout::default() }).unwrap();
        let path = dir.path().join("rollout.json");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("per_second", "per_secona")).unwrap();
        for _ in 0..2 {
            let rollout = Gate::open(dir.path()).unwrap().rollout();
            assert!(rollout.paused.is_some_and(|why| why.contains("damaged")));
        }
        assert!(dir.path().join("rollout.damaged").exists());
    }
}
