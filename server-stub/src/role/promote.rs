//! Promotion: a replica becomes primary, by an administrator's word.
//!
//! The old primary is asked to step down first: it finishes the publish that is under way, takes no other, and what it has then is
//! taken over whole. Only when it cannot be asked does `force` leave it out; what it had beyond is then listed there when it returns.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use direct_puppet_transport::Transport;
use direct_puppet_transport::protocol::{Certname, Rollout, SyncEpochReply};

use super::asked::{PromoteRequest, Promoted};
use super::epoch::begin_epoch;
use super::peers::Peers;
use super::step::Step;
use crate::blocking;
use crate::error::{ServerError, chain};
use crate::replica::Upstream;
use crate::server::Server;
#[cfg(test)]
use crate::tests::sim::{Bug, is_planted};

/// How often an epoch is raised until it is new to all peers.
const CLAIMS: usize = 8;

/// What a look at a peer found, which has not stepped down.
struct Looked {
    is_primary: bool,
    /// How new code is to reach nodes.
    rollout: Option<Rollout>,
    /// Why what it has could not be brought.
    failed: Option<String>,
}

/// Takes what is live at a peer, as far as that can be brought.
async fn take(transport: &Arc<dyn Transport>, upstream: &Upstream, reply: SyncEpochReply) -> Result<(), String> {
    #[cfg(test)]
    if is_planted(Bug::NothingTakenOver) {
        return Ok(());
    }
    let mut failed: Vec<String> = upstream.learn(&reply.live, reply.answered).await.err().into_iter().collect();
    for published in reply.live {
        let environment = published.environment.clone();
        if let Err(reason) = upstream.take(transport, published).await {
            failed.push(format!("environment {environment} of {}: {reason}", transport.endpoint()));
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
}

impl Server {
    /// Makes this server the primary. `who` asked for it.
    ///
    /// # Errors
    ///
    /// When it is one already, or another server cannot be asked to step down and `force` is not set. All are asked, and what they have
    /// is brought, before the first one steps down; when it fails later all the same, the error says so.
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
        if self.role.is_part() && !self.role.is_primary() {
            let reason = "its primary gives it only some environments, and the others would be lost: promote a server that has all, or name \
                          this one to the primary without environments first"
                .to_owned();
            return Err(ServerError::NotPromoted { reason });
        }
        let mut step = Step::default();
        match (&self.peers, &self.upstream) {
            (Some(peers), Some(upstream)) => self.meet(peers, upstream, request, &mut step).await?,
            _ if self.role.is_replaced() && !request.force => {
                let reason = format!(
                    "another server has taken over, in epoch {}, and this one was told of none that it could ask to step down: start \
                     it with --primary for each other server; or promote with force, and lose what was published there",
                    self.role.epoch()
                );
                return Err(ServerError::NotPromoted { reason });
            }
            _ => step.epoch = self.next_epoch(0).map_err(|reason| step.failed(&reason))?,
        }
        let (server, who) = (Arc::clone(self), who.to_owned());
        // All of it, though whoever asked goes away meanwhile.
        let take_over = move || {
            let promoted = server.take_over(step, &who)?;
            if let Some(reason) = &promoted.unfinished {
                tracing::error!(
                    "primary of epoch {}, but not all that is live is written as of it yet: {reason}",
                    promoted.epoch
                );
                server.end_promotion_later();
            }
            Ok(promoted)
        };
        blocking::run(take_over).await?
    }

    /// Asks all peers first, then has each step down; takes what they have.
    async fn meet(
        &self,
        peers: &Peers,
        upstream: &Upstream,
        request: &PromoteRequest,
        step: &mut Step,
    ) -> Result<(), ServerError> {
        // Each server once, though it is named by several addresses, and this one not at all.
        let (mut instances, mut transports) = (BTreeSet::from([self.instance]), Vec::new());
        for transport in &peers.transports {
            match self.look_at(transport, &peers.name, upstream).await {
                Ok((instance, _)) if instance != 0 && !instances.insert(instance) => continue,
                Ok((_, Looked { is_primary, rollout, failed })) => {
                    if is_primary {
                        step.primaries.insert(transport.endpoint().to_owned(), rollout);
                    }
                    if let Some(reason) = failed {
                        step.leave_out(transport, reason);
                    }
                }
                Err(reason) => step.leave_out(transport, reason),
            }
            transports.push(transport);
        }
        if !request.force {
            step.refuse_left_out()?;
        }
        step.epoch = self.next_epoch(0).map_err(|reason| step.failed(&reason))?;
        // First who may be busy with a publish: when it cannot step down now, nobody else has. Then in the same order everywhere: of two
        // promotions at once, the first peer stops one.
        transports.sort_by_key(|transport| (!step.primaries.contains_key(transport.endpoint()), transport.endpoint()));
        for _ in 0..CLAIMS {
            step.left_out.clear();
            let mut known = None;
            for transport in &transports {
                match self.claim(transport, &peers.name, upstream, step).await {
                    Ok(None) => {}
                    Ok(Some(epoch)) => {
                        known = Some(epoch);
                        break;
                    }
                    Err(reason) => step.leave_out(transport, reason),
                }
                if !request.force {
                    step.refuse_left_out()?;
                }
            }
            let Some(known) = known else {
                return Ok(());
            };
            // Another promotion may have begun that one. All are asked again: two servers never begin the same, for no peer is raised
            // to the same one twice.
            step.epoch = self.next_epoch(known).map_err(|reason| step.failed(&reason))?;
        }
        Err(step.failed("other servers go on to know higher epochs"))
    }

    /// Asks a peer which epoch it knows, which ends nobody, and takes what is live there: when it has stepped down, little is left to be
    /// brought, and nothing that cannot be. Returns which server it is, and what was found.
    async fn look_at(
        &self,
        transport: &Arc<dyn Transport>,
        name: &Certname,
        upstream: &Upstream,
    ) -> Result<(u64, Looked), String> {
        let reply = self.ask(transport, name, self.role.epoch()).await?;
        let SyncEpochReply { instance, is_primary, .. } = reply;
        let (rollout, mut failed) = (reply.rollout.clone(), None);
        if instance != self.instance {
            upstream.hear(reply.epoch).await?;
            failed = take(transport, upstream, reply).await.err();
        }
        Ok((instance, Looked { is_primary, rollout, failed }))
    }

    /// Asks a peer to step down before the epoch that is to begin, and takes what is live there. Returns the epoch that it knows
    /// when that is none below.
    async fn claim(
        &self,
        transport: &Arc<dyn Transport>,
        name: &Certname,
        upstream: &Upstream,
        step: &mut Step,
    ) -> Result<Option<u64>, String> {
        let reply = self.ask(transport, name, step.epoch).await?;
        let is_claimed = reply.epoch == step.epoch && step.claimed.contains(&(step.epoch, reply.instance));
        if reply.instance == self.instance || is_claimed {
            // It was reached by another address before, or could not be told from others then.
            return Ok(None);
        }
        if !reply.is_raised {
            // Not heard of: that may be of a promotion that asks this server as well, and must be news to it then.
            self.role.believe(reply.epoch).map_err(|error| error.to_string())?;
            return Ok(Some(reply.epoch.max(step.epoch)));
        }
        if reply.instance != 0 {
            step.claimed.insert((step.epoch, reply.instance));
        }
        step.hear(transport, &reply);
        step.stepped_down.insert(transport.endpoint().to_owned());
        take(transport, upstream, reply).await.map(|()| None)
    }

    /// Returns an epoch above all that are known.
    fn next_epoch(&self, known: u64) -> Result<u64, String> {
        let known = known.max(self.role.epoch());
        known.checked_add(1).ok_or_else(|| format!("no epoch comes after {known}"))
    }

    fn take_over(&self, step: Step, who: &str) -> Result<Promoted, ServerError> {
        let _turn = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let epoch = step.epoch;
        if epoch <= self.role.epoch() {
            return Err(step.failed("another promotion was faster"));
        }
        // No node gets what an administrator has kept back, and nobody sets something else before it counts.
        let setting = self.gate.hold_setting();
        let rollout = if self.role.is_primary() { None } else { step.rollout(self.gate.rollout()) };
        let keep_back = || rollout.clone().map_or(Ok(()), |rollout| self.gate.set(rollout));
        let recorded = self.audit("promote", who, &format!("epoch {epoch}")).and_then(|()| keep_back());
        let recorded = recorded.and_then(|()| self.role.promote(epoch));
        recorded.map_err(|error| step.failed(&chain(&error)))?;
        // What was heard of the old primary meanwhile may have come last.
        if let Err(error) = keep_back() {
            tracing::error!(
                "how new code reaches nodes may not be as it was at the old primary: set it again: {}",
                chain(&error)
            );
        }
        drop(setting);
        self.watch.clear();
        self.environments.answer_live(epoch);
        // It is primary from here on, and what is live here is, whatever its counters say.
        let unfinished = begin_epoch(&self.role, &self.environments).err().map(|error| chain(&error));
        Ok(Promoted { epoch, live: self.live_versions(), left_out: step.left_out, unfinished })
    }
}
