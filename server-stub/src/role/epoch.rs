//! What begins with an epoch: everything live has a version of it, with the history that it had.
//!
//! That may come late, as when a disk was full, or code that was damaged here was brought from another server since.

use std::sync::{Arc, PoisonError, TryLockError};
use std::time::Duration;

use super::Role;
use crate::blocking;
use crate::code::{Environments, Version};
use crate::error::{ServerError, chain};
use crate::server::{Server, now};

/// How the message of a version begins that a promotion took over.
const PREFIX: &str = "taken over from ";

/// Whether a promotion made a version, of code that was live before.
pub(crate) fn is_taken_over(version: &Version) -> bool {
    version.version.sequence == 1 && !version.lineage.is_empty() && version.message.starts_with(PREFIX)
}

/// Returns the message of a version that a promotion takes over: it still says why the code was published.
fn taken_over(before: &Version) -> String {
    // Of one that was itself taken over, what was said first.
    let why = match before.message.strip_prefix(PREFIX) {
        Some(rest) => rest.split_once(": ").map_or("", |(_, why)| why),
        None => before.message.as_str(),
    };
    let colon = if why.is_empty() { "" } else { ": " };
    format!("{PREFIX}{}{colon}{why}", before.version)
}

/// When a promotion that is not at its end is tried to be ended again.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Gives what is live the counters of the epoch of which this server is primary, as far as it has not; ends what a crash or a full disk left of a
/// promotion. Where that fails for one environment it does not for others. Blocking.
pub(super) fn begin_epoch(role: &Role, environments: &Environments) -> Result<(), ServerError> {
    let Some(epoch) = role.leads() else { return Ok(()) };
    environments.begin_epoch(epoch, |before| Version {
        time_unix_seconds: now(),
        message: taken_over(before),
        request_id: None,
        new_contents: 0,
        ..before.clone()
    })
}

fn end_promotion(role: &Role, environments: &Environments) -> bool {
    let begun = begin_epoch(role, environments);
    if let Err(error) = &begun {
        let epoch = role.epoch();
        tracing::error!("primary of epoch {epoch}, but not all that is live is written as of it yet: {}", chain(error));
    }
    begun.is_ok()
}

impl Server {
    /// As [`begin_epoch`]; returns whether it came to its end, and tells in the log what did not. Blocking.
    pub(crate) fn end_promotion(&self) -> bool {
        end_promotion(&self.role, &self.environments)
    }

    /// Ends a promotion of which something is left, or to which something came later: code that was damaged here and was brought since.
    pub(crate) async fn end_promotion_as_is_due(&self) {
        let Some(epoch) = self.role.leads() else { return };
        if self.environments.all_live().iter().all(|code| code.version.version.epoch >= epoch) {
            return;
        }
        let (role, environments) = (Arc::clone(&self.role), Arc::clone(&self.environments));
        let publishing = Arc::clone(&self.publishing);
        let end = move || {
            // Whoever holds it ends the promotion himself, or this is tried again.
            let turn = publishing.try_lock();
            if !matches!(turn, Err(TryLockError::WouldBlock)) {
                end_promotion(&role, &environments);
            }
        };
        if let Err(error) = blocking::run(end).await {
            tracing::warn!(%error, "a promotion could not be ended");
        }
    }

    /// Tries again, for as long as this server is primary, to end a promotion.
    pub(crate) fn end_promotion_later(self: &Arc<Self>) {
        let server = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(TRY_AGAIN_AFTER).await;
                let Some(server) = server.upgrade().filter(|server| server.role.is_primary()) else { return };
                let end = move || {
                    let _turn = server.publishing.lock().unwrap_or_else(PoisonError::into_inner);
                    server.end_promotion()
                };
                if blocking::run(end).await.unwrap_or_default() {
                    return;
                }
            }
        });
    }
}
