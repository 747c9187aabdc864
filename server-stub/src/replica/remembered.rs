//! When what is live was last confirmed, on disk: a server that starts while whom it asks is away may go on as before.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use direct_puppet_agent::fs::FsError;
use direct_puppet_transport::protocol::{CodeId, Environment, VersionCounter};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::blocking;
use crate::code::Environments;
use crate::disk;
use crate::error::{ServerError, chain};
use crate::server::{now, uptime};

/// The name of the file, beside what is live of its environment.
const NAME: &str = "confirmed.json";

/// How often it is written while nothing changes: by so much a server believes less than it knew.
const EVERY: Duration = Duration::from_secs(10);

/// What a file says, by the clock of the machine. It counts only for the code that it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Confirmation {
    version: VersionCounter,
    code_id: CodeId,
    time_unix_seconds: u64,
    /// In which boot of the machine that was, and how long after its begin: while that lasts nobody sets this clock back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    boot: Option<Boot>,
}

/// A moment of one boot of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Boot {
    id: String,
    seconds: u64,
}

impl Boot {
    /// Returns the moment that it is; `None` where the system does not say which boot it is.
    fn now() -> Option<Self> {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
        Some(Self { id, seconds: uptime()? })
    }
}

impl Confirmation {
    /// Returns how long ago it was, in seconds; `None` when it cannot have been then. By the clock that the machine has been running on since,
    /// also while it slept; only of another boot there is no more to go by than the clock on the wall.
    fn age(&self) -> Option<u64> {
        let by_wall = now().checked_sub(self.time_unix_seconds)?;
        let (then, now) = (self.boot.as_ref(), Boot::now());
        match then.zip(now).filter(|(then, now)| then.id == now.id) {
            Some((then, now)) => Some(by_wall.max(now.seconds.checked_sub(then.seconds)?)),
            None => Some(by_wall),
        }
    }
}

/// When each file was written last, and of which code; held while one is written or removed.
type Written = BTreeMap<Environment, (Instant, CodeId)>;

/// The files of all environments.
#[derive(Debug)]
pub(super) struct Remembered {
    environments: Arc<Environments>,
    written: Arc<Mutex<Written>>,
}

impl Remembered {
    pub(super) fn new(environments: Arc<Environments>) -> Self {
        Self { environments, written: Arc::default() }
    }

    fn path(&self, environment: &Environment) -> PathBuf {
        self.environments.dir(environment).join(NAME)
    }

    /// Returns when each environment was last confirmed. What cannot be read, or lies in the future, was not. Blocking.
    pub(super) fn all(&self) -> BTreeMap<Environment, Instant> {
        let mut all = BTreeMap::new();
        for code in self.environments.all_live() {
            let version = &code.version;
            let found = disk::read_json::<Confirmation>(&self.path(&version.environment)).unwrap_or_else(|error| {
                tracing::warn!("{}", chain(&error));
                None
            });
            let is_it = |found: &Confirmation| found.version == version.version && found.code_id == version.code_id;
            let age = found.filter(is_it).and_then(|found| found.age());
            // A second more: it is written in whole ones.
            let when = age.and_then(|age| Instant::now().checked_sub(Duration::from_secs(age.saturating_add(1))));
            all.extend(when.map(|when| (version.environment.clone(), when)));
        }
        all
    }

    /// Notes that what is live of an environment was confirmed at `sent`, now and then.
    pub(super) fn note(&self, environment: &Environment, sent: Instant) {
        let Some(live) = self.environments.live(environment) else { return };
        {
            // One that is being written has not to be noted again.
            let Ok(mut written) = self.written.try_lock() else { return };
            let last = written.get(environment);
            if last.is_some_and(|(when, code_id)| when.elapsed() < EVERY && *code_id == live.version.code_id) {
                return;
            }
            written.insert(environment.clone(), (Instant::now(), live.version.code_id));
        }
        let time_unix_seconds = now().saturating_sub(sent.elapsed().as_secs());
        let boot = Boot::now().map(|now| Boot { seconds: now.seconds.saturating_sub(sent.elapsed().as_secs()), ..now });
        let confirmation = Confirmation { version: live.version.version, code_id: live.version.code_id, time_unix_seconds, boot };
        let (path, written, environment) = (self.path(environment), Arc::clone(&self.written), environment.clone());
        in_background(move || {
            let written = written.lock().unwrap_or_else(PoisonError::into_inner);
            // It may have been forgotten meanwhile.
            if written.contains_key(&environment) { disk::write_json_cache(&path, &confirmation) } else { Ok(()) }
        });
    }

    /// Forgets an environment of which nobody is to be answered.
    pub(super) fn forget(&self, environment: &Environment) {
        let (path, written, environment) = (self.path(environment), Arc::clone(&self.written), environment.clone());
        in_background(move || {
            let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
            written.remove(&environment);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FsError::new(&path, "remove", error).into()),
                _ => Ok(()),
            }
        });
    }
}

/// Does what nobody waits for. What cannot be written makes a server that starts know less.
fn in_background(work: impl FnOnce() -> Result<(), ServerError> + Send + 'static) {
    blocking::begin(move || {
        if let Err(error) = work() {
            tracing::warn!("{}", chain(&error));
        }
    });
}
