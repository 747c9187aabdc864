//! What is known of a promotion while it is under way, and what is said when it goes no further.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use direct_puppet_transport::Transport;
use direct_puppet_transport::protocol::{Rollout, SyncEpochReply};

use super::asked::LeftOut;
use crate::error::ServerError;

/// A promotion under way.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// The epoch that is to begin.
    pub(super) epoch: u64,
    /// Which servers have heard of which.
    pub(super) claimed: BTreeSet<(u64, u64)>,
    /// Who has heard of it.
    pub(super) stepped_down: BTreeSet<String>,
    /// Who took themselves for primary before, with how new code is to reach nodes, as they said last.
    pub(super) primaries: BTreeMap<String, Option<Rollout>>,
    /// The pause that another has heard of.
    pub(super) pause: Option<String>,
    pub(super) left_out: Vec<LeftOut>,
}

impl Step {
    pub(super) fn leave_out(&mut self, transport: &Arc<dyn Transport>, reason: String) {
        self.left_out.push(LeftOut { server: transport.endpoint().to_owned(), reason });
    }

    /// Hears how new code is to reach nodes, of a peer that has stepped down.
    pub(super) fn hear(&mut self, transport: &Arc<dyn Transport>, reply: &SyncEpochReply) {
        match self.primaries.get_mut(transport.endpoint()) {
            Some(said) if reply.rollout.is_some() => said.clone_from(&reply.rollout),
            Some(_) => {}
            None if self.pause.is_none() => self.pause = reply.rollout.as_ref().and_then(|rollout| rollout.paused.clone()),
            None => {}
        }
    }

    /// Returns how new code is to reach nodes where that is not as this server would have it, which is `own`.
    pub(super) fn rollout(&self, own: Rollout) -> Option<Rollout> {
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

    pub(super) fn refuse_left_out(&self) -> Result<(), ServerError> {
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
    pub(super) fn failed(&self, reason: &str) -> ServerError {
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
