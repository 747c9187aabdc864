//! The world outside the managed root: time, randomness, facts. Behind one trait, so that a run can be replayed.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::SystemTime;

use direct_puppet_transport::protocol::Value;

use crate::facts;

/// Time, randomness and facts of the machine that a run is on.
pub trait System: Debug + Send + Sync + 'static {
    /// Returns the wall-clock time.
    fn now(&self) -> SystemTime;

    /// Returns random bytes that nobody can guess.
    fn random(&self) -> [u8; 16];

    /// Gathers the facts. Blocking. Called only when the server needs them.
    ///
    /// # Errors
    ///
    /// A text that says which fact could not be found out and why.
    fn facts(&self) -> Result<BTreeMap<String, Value>, String>;
}

/// The real machine.
#[derive(Debug, Clone, Default)]
pub struct RealSystem {
    /// Facts added to, or put in place of, those of the machine.
    pub extra_facts: BTreeMap<String, Value>,
}

impl System for RealSystem {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn random(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the kernel gives random bytes on every supported system");
        bytes
    }

    fn facts(&self) -> Result<BTreeMap<String, Value>, String> {
        let mut facts = facts::gather();
        facts.extend(self.extra_facts.clone());
        Ok(facts)
    }
}

/// Returns the name of this host, in lower case; empty if the kernel knows none.
#[must_use]
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().to_lowercase()
}

/// Returns nanoseconds since 1970 UTC; 0 for times before it.
#[must_use]
pub fn unix_nanos(time: SystemTime) -> i64 {
    let nanos = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    i64::try_from(nanos).unwrap_or(i64::MAX)
}
