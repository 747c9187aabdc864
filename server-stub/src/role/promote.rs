//! Promotion: a replica becomes primary, by an administrator's word.
//!
//! The old primary is asked to step down first: it finishes the publish that is under way, takes no other, and what it has then is
//! taken over whole. Only when it cannot be asked does `force` leave it out; what it had beyond is then listed there when it returns.

use std::sync::{Arc, PoisonError};

use direct_puppet_transport::Transport;
use direct_puppet_transport::protocol::{Certname, PublishedVersion, VersionCounter};
use serde::{Deserialize, Serialize};

use super::peers::ask;
use crate::blocking;
use crate::code::{Code, Version};
use crate::error::ServerError;
use crate::server::{Server, now};

/// Returns the message of a version that a promotion takes over: it still says why the code was published.
fn taken_over(before: &Version) -> String {
    const PREFIX: &str = "taken over from ";
    // Of one that was itself taken over, what was said first.
    let why = match before.message.strip_prefix(PREFIX) {
        Some(rest) => rest.split_once(": ").map_or("", |(_, why)| why),
        None => before.message.as_str(),
    };
    let colon = if why.is_empty() { "" } else { ": " };
    format!("{PREFIX}{}{colon}{why}", before.version)
}

/// How often an epoch is raised until it is new to a peer.
const CLAIMS: usize = 8;

/// How to promote.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromoteRequest {
    /// Leave out servers that cannot be asked to step down, because they were stopped: publishes that are only there are not taken
    /// over.
    pub force: bool,
}

/// What a promotion did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promoted {
    /// The epoch that begins.
    pub epoch: u64,
    /// What is live in it: the code that was, with new counters.
    pub live: Vec<Version>,
}

impl Server {
    /// Makes this server the primary. `who` asked for it.
    ///
    /// # Errors
    ///
    /// When it is one already, or its primary cannot be asked to step down and `force` is not set; nothing is changed here then.
    ///
    /// # Cancel safety
    ///
    /// When it is dropped, the old primary may have stepped down already: ask again.
    pub async fn promote(self: &Arc<Self>, request: &PromoteRequest, who: &str) -> Result<Promoted, ServerError> {
        self.refuse_offline()?;
        if self.shared.is_some() {
            let reason = "it shares a store with its equals, and none of them is primary".to_owned();
            return Err(ServerError::NotPromoted { reason });
        }
        if self.role.is_primary() && !request.force {
            return Err(ServerError::NotPromoted { reason: "it is the primary".to_owned() });
        }
        let mut epoch = self.role.epoch() + 1;
        if let (Some(peers), Some(upstream)) = (&self.peers, &self.upstream) {
            let mut left_out = Vec::new();
            for transport in &peers.transports {
                match self.claim(transport, &peers.name, &mut epoch).await {
                    Ok(live) => {
                        for published in live {
                            let taken = upstream.take(transport, published).await;
                            taken.map_err(|reason| ServerError::NotPromoted { reason })?;
                        }
                    }
                    Err(reason) => left_out.push(reason),
                }
            }
            if !left_out.is_empty() && !request.force {
                let reason = format!(
                    "a server could not be asked to step down ({}): when it is stopped, promote with force",
                    left_out.join("; ")
                );
                return Err(ServerError::NotPromoted { reason });
            }
        }
        let (server, who) = (Arc::clone(self), who.to_owned());
        blocking::run(move || server.take_over(epoch, &who)).await?
    }

    /// Asks a peer to step down before `epoch`, which is raised until it is new to it; returns what is live there.
    async fn claim(
        &self,
        transport: &Arc<dyn Transport>,
        name: &Certname,
        epoch: &mut u64,
    ) -> Result<Vec<PublishedVersion>, String> {
        for _ in 0..CLAIMS {
            let reply = ask(transport, name, *epoch).await?;
            if reply.is_raised {
                return Ok(reply.live);
            }
            // Another promotion may have begun that one: two servers never begin the same.
            *epoch = reply.epoch.max(*epoch) + 1;
        }
        Err(format!("{} goes on to know higher epochs", transport.endpoint()))
    }

    fn take_over(&self, epoch: u64, who: &str) -> Result<Promoted, ServerError> {
        let _turn = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        if epoch <= self.role.epoch() {
            return Err(ServerError::NotPromoted { reason: "another promotion was faster".to_owned() });
        }
        self.audit("promote", who, &format!("epoch {epoch}"))?;
        self.role.promote(epoch)?;
        self.watch.clear();
        self.begin_epoch()?;
        Ok(Promoted { epoch, live: self.live_versions() })
    }

    /// Gives what is live the counters of this server's epoch, as far as it has not; ends what a crash left of a promotion. Blocking.
    pub(crate) fn begin_epoch(&self) -> Result<(), ServerError> {
        let epoch = self.role.epoch();
        for code in self.environments.all_live() {
            let before = &code.version;
            if !self.role.is_primary() || before.version.epoch >= epoch {
                continue;
            }
            let version = Version {
                version: VersionCounter { epoch, sequence: 1 },
                time_unix_seconds: now(),
                message: taken_over(before),
                request_id: None,
                new_contents: 0,
                lineage: before.lineage.iter().copied().chain([before.version]).collect(),
                ..before.clone()
            };
            self.environments.switch(Code::new(version, code.manifest.clone(), self.store.clone()))?;
        }
        Ok(())
    }
}
