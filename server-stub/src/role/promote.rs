//! Promotion: a replica becomes primary, by an administrator's word.
//!
//! The old primary is asked to step down first: it finishes the publish that is under way, takes no other, and what it has then is
//! taken over whole. Only when it cannot be asked does `force` leave it out; what it had beyond is then listed there when it returns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use direct_puppet_transport::Transport;
use direct_puppet_transport::protocol::{Certname, Rollout, SyncEpochReply};

use super::asked::{LeftOut, PromoteRequest, Promoted};
use super::epoch::begin_epoch;
use super::peers::Peers;
use crate::blocking;
use crate::error::{ServerError, chain};
use crate::replica::Upstream;
use crate::server::Server;
#[cfg(test)]
use crate::tests::sim::{Bug, is_planted};

/// How often an epoch is raised until it is new to all peers.
const CLAIMS: usize = 8;

/// A promotion under way.
#[derive(Debug, Default)]
struct Step {
    /// The epoch that is to begin.
    epoch: u64,
    /// Which servers have heard of which.
    claimed: BTreeSet<(u64, u64)>,
    /// Who has heard of it.
    stepped_down: BTreeSet<String>,
    /// Who took themselves for primary before, with how new code is to reach nodes, as they said last.
    primaries: BTreeMap<String, Option<Rollout>>,
    /// The pause that another has heard of.
    pause: Option<String>,
    left_out: Vec<LeftOut>,
}

/// What a look at a peer found, which has not stepped down.
struct Looked {
    is_primary: bool,
    /// How new code is to reach nodes.
    rollout: Option<Rollout>,
    /// Why what it has could not be brought.
    failed: Option<String>,
}

impl Step {
    fn leave_out(&mut self, transport: &Arc<dyn Transport>, reason: String) {
        self.left_out.push(LeftOut { server: transport.endpoint().to_owned(), reason });
    }

    /// Hears how new code is to reach nodes, of a peer that has stepped down.
    fn hear(&mut self, transport: &Arc<dyn Transport>, reply: &SyncEpochReply) {
        match self.primaries.get_mut(transport.endpoint()) {
            Some(said) if reply.rollout.is_some() => said.clone_from(&reply.rollout),
            Some(_) => {}
            None if self.pause.is_none() => self.pause = reply.rollout.as_ref().and_then(|rollout| rollout.paused.clone()),
            None => {}
        }
    }

    /// Returns how new code is to reach nodes where that is not as this server would have it, which is `own`.
    fn rollout(&self, own: Rollout) -> Option<Rollout> {
        // Where several took themselves for primary, what one of them keeps back is kept back.
        let mut said = self.primaries.values().flatten();
        let is_paused = |rollout: &&Rollout| rollout.paused.is_some();
        match said.clone().find(is_paused).or_else(|| said.next_back()) {
            Some(said) => Some(said.clone()),
            // Nobody is primary any more, or who was is away: what anybody keeps back is kept back, and nothing else of others counts.
            None if own.paused.is_none() => self.pause.clone().map(|pause| Rollout { paused: Some(pause), ..own }),
            None => None,
        }
    }

    fn refuse_left_out(&self) -> Result<(), ServerError> {
        if self.left_out.is_empty() {
            return Ok(());
        }
        let reasons: Vec<&str> = self.left_out.iter().map(|left_out| left_out.reason.as_str()).collect();
        let reason = format!(
            "a server could not be asked to step down, or what it has could not be brought ({}): when it is stopped, promote with force",
            reasons.join("; ")
        );
        Err(self.failed(&reason))
    }

    /// Returns the error of a promotion that goes no further.
    fn failed(&self, reason: &str) -> ServerError {
        if self.stepped_down.is_empty() {
            return ServerError::NotPromoted { reason: reason.to_owned() };
        }
        let stepped_down: Vec<&str> = self.stepped_down.iter().map(String::as_str).collect();
        let reason = format!(
            "{reason}. No server may be primary now, for {} heard of a new epoch already: promote again, here or elsewhere",
            stepped_down.join(" and ")
        );
        ServerError::NotPromoted { reason }
    }
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
        // In the same order everywhere: of two promotions at once, the first peer stops one.
        transports.sort_by_key(|transport| transport.endpoint());
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
            }
            let Some(known) = known else {
                return if request.force { Ok(()) } else { step.refuse_left_out() };
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
        // It is primary from here on, and what is live here is, whatever its counters say.
        let unfinished = begin_epoch(&self.role, &self.environments).err().map(|error| chain(&error));
        Ok(Promoted { epoch, live: self.live_versions(), left_out: step.left_out, unfinished })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(per_second: u32, paused: Option<&str>) -> Option<Rollout> {
        Some(Rollout { per_second, paused: paused.map(str::to_owned) })
    }

    #[test]
    fn new_code_reaches_nodes_as_the_primary_said_and_no_pause_is_lost() {
        let own = || said(50, None).unwrap();
        let of = |primaries: &[(&str, Option<Rollout>)], pause: Option<&str>| {
            let primaries = primaries.iter().map(|(name, said)| ((*name).to_owned(), said.clone())).collect();
            Step { primaries, pause: pause.map(str::to_owned), ..Step::default() }
        };
        let paused = said(5, Some("a fault"));
        // One primary: as it said, whatever others have heard.
        assert_eq!(of(&[("a", said(7, None))], Some("of old")).rollout(own()), said(7, None));
        // Two that take themselves for one: a pause counts, in whichever order they were asked.
        for primaries in [[("a", paused.clone()), ("b", said(7, None))], [("a", said(7, None)), ("b", paused.clone())]] {
            assert_eq!(of(&primaries, None).rollout(own()), paused);
        }
        // Nobody is primary any more, or it does not say: a pause, and no rate.
        for primaries in [&[][..], &[("a", None)]] {
            assert_eq!(of(primaries, Some("of old")).rollout(own()), said(50, Some("of old")));
            assert_eq!(of(primaries, None).rollout(own()), None);
        }
        assert_eq!(of(&[], Some("of old")).rollout(said(50, Some("ours")).unwrap()), None);
    }
}
