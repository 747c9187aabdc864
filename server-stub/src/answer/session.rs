//! Who names a version is answered from nothing older: what a publish has just made, or what a node has had.

use direct_puppet_transport::protocol::{Environment, Refusal, RefusalCode, VersionCounter};

use super::UNCONFIRMED_SECONDS;
use crate::server::Server;

/// Refuses what cannot be answered from what is live here, for now.
pub(super) fn stale(message: String) -> Refusal {
    Refusal { retry_after_seconds: Some(UNCONFIRMED_SECONDS), ..Refusal::new(RefusalCode::Stale, message) }
}

impl Server {
    /// Refuses to answer from older code than this version of an environment.
    pub(crate) fn refuse_older(&self, environment: &Environment, at_least: VersionCounter) -> Result<(), Refusal> {
        match self.environments.live(environment).map(|live| live.version.version) {
            Some(here) if here < at_least => Err(stale(format!(
                "version {here} of {environment} is live here, and {at_least} was asked for: ask another server"
            ))),
            _ => Ok(()),
        }
    }

    /// Refuses to answer from code that was made without this version of an environment.
    pub(crate) fn refuse_without(&self, environment: &Environment, at_least: VersionCounter) -> Result<(), Refusal> {
        match self.environments.live(environment) {
            Some(live) if at_least.sequence > 0 && live.version.leaves_out(at_least) => Err(stale(format!(
                "version {at_least} of {environment} was asked for, and {}, which is live, was made without it: a promotion has not \
                 taken it over, publish it again",
                live.version.version
            ))),
            _ => Ok(()),
        }
    }
}
