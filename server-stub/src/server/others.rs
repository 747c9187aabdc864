//! What a server does with the others: asks them, tells them, and is one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use direct_puppet_transport::protocol::{Certname, Deployed, Environment};

use super::Server;
use crate::code::Code;
use crate::error::{ServerError, chain};
use crate::publish::EnvironmentResult;
use crate::replica::{Follower, Following, Upstream};
use crate::role::Others;
use crate::shared;

/// How long a confirmation is waited for where the last one failed, and an older one will do.
const PATIENCE: Duration = Duration::from_secs(1);

/// What was confirmed with the primary.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Confirmed {
    /// For how long it could not be, where the options allow answers then.
    pub unconfirmed_for: Option<Duration>,
    /// Environments that are live here and not at the primary; nobody is answered from them.
    pub orphans: Arc<BTreeSet<Environment>>,
    /// Environments of which what is live at the primary could not be brought, and why.
    pub behind: BTreeMap<Environment, String>,
}

impl Confirmed {
    /// Returns it when no environment is behind.
    ///
    /// # Errors
    ///
    /// When what is live of some environment could not be brought.
    pub fn whole(self) -> Result<Self, ServerError> {
        if self.behind.is_empty() {
            return Ok(self);
        }
        let reasons: Vec<String> =
            self.behind.iter().map(|(environment, reason)| format!("environment {environment}: {reason}")).collect();
        Err(ServerError::Unconfirmed { reason: reasons.join("; ") })
    }
}

/// What became of code that was to go live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GoneLive {
    /// It is live.
    Here,
    /// It is live in the store that servers share, and not yet here: why.
    Elsewhere(String),
    /// Another server was faster, and it is not.
    Outrun,
}

impl GoneLive {
    /// Notes in the result of a publish that did it; `None` when another server was faster.
    pub(crate) fn noted(self, result: EnvironmentResult) -> Option<EnvironmentResult> {
        match self {
            Self::Here => Some(result),
            Self::Outrun => None,
            Self::Elsewhere(reason) => {
                let note = format!("it is live, and this server follows as soon as it can: {reason}");
                tracing::error!(environment = %result.environment, "{note}");
                let note = result.note.iter().chain([&note]).cloned().collect::<Vec<_>>().join("; ");
                Some(EnvironmentResult { note: Some(note), ..result })
            }
        }
    }
}

impl Server {
    /// Without a word to the other servers, nothing that concerns them is done: one of them may have taken over.
    pub(crate) fn refuse_offline(&self) -> Result<(), ServerError> {
        if self.options.is_offline && self.role.others() != Others::None {
            return Err(ServerError::Offline);
        }
        Ok(())
    }

    /// Whether there are other servers that nodes may ask.
    pub(crate) fn has_others(&self) -> bool {
        self.peers.is_some() || !self.options.replicas.is_empty()
    }

    /// A replica makes nothing live by itself.
    pub(crate) fn refuse_as_replica(&self) -> Result<(), ServerError> {
        self.refuse_offline()?;
        match &self.upstream {
            _ if self.shared.is_some() => Ok(()),
            _ if self.role.is_primary() => Ok(()),
            Some(upstream) => Err(ServerError::Replica { primary: upstream.endpoint().to_owned() }),
            None => Err(ServerError::Replaced { epoch: self.role.epoch() }),
        }
    }

    /// On a primary: warns of replicas that are behind, or were not heard of, once until they are well again. Returns of which it did.
    pub(crate) fn look_at_followers(&self) -> BTreeMap<Certname, String> {
        if self.shared.is_some() || !self.role.is_primary() {
            self.followers.await_none();
            return BTreeMap::new();
        }
        let behind = self.followers.newly_behind(&self.live_versions(), &self.options.replicas, self.own_name());
        for (replica, reason) in &behind {
            tracing::warn!(%replica, "a replica is behind: {reason}");
        }
        behind
    }

    /// Returns the name by which others know this server. One list of them may serve all, and name this one too.
    pub(crate) fn own_name(&self) -> Option<&Certname> {
        let peers = self.options.primary.as_ref().or(self.options.successors.as_ref());
        peers.map(|peers| &peers.name)
    }

    /// Returns what is held while contents are brought that nothing refers to yet: a collection waits for it. `None` where there is no other
    /// server to bring them from.
    pub(crate) async fn hold_collections(&self) -> Option<shared::Held> {
        Some(Arc::new(self.upstream.as_ref()?.hold_collections().await))
    }

    /// Refuses to make a version on top of what is live here, when a replica has a later one: it would replace that without a word.
    pub(crate) fn refuse_behind(&self, environment: &Environment) -> Result<(), ServerError> {
        let deployed = self.followers.deployed(environment).into_iter();
        deployed
            .map(|(name, there)| (name.to_string(), there))
            .try_for_each(|(name, there)| self.refuse_later(&name, environment, there))
    }

    /// Refuses a version of this server's own epoch that another has and this one, the primary, has not: its data directory was put back to
    /// an earlier state.
    pub(crate) fn refuse_later(&self, name: &str, environment: &Environment, there: Deployed) -> Result<(), ServerError> {
        // No one is ahead of a primary: looked at now, what is here is at least what any other was told.
        if self.role.leads() != Some(there.version.epoch) {
            return Ok(());
        }
        let here = self.environments.last(environment).map(|last| (last.version, last.code_id));
        if here.is_some_and(|(version, code_id)| version > there.version || (version, code_id) == (there.version, there.code_id))
        {
            return Ok(());
        }
        let last = here.map_or("nothing".to_owned(), |(version, code_id)| format!("{version} ({code_id})"));
        let reason = format!(
            "{name} has version {} ({}) of {environment} from this primary, which itself has {last} as the last: its data directory was put \
             back to an earlier state. Promote a server that has everything, or this one with force: then it is told what is left out",
            there.version, there.code_id
        );
        tracing::error!("{reason}");
        Err(ServerError::Unconfirmed { reason })
    }

    /// Makes sure that nobody who asked before this returns is answered from code that was replaced before he asked: a replica asks its
    /// primary what is live and brings it. One environment that cannot be brought keeps no other from being confirmed.
    ///
    /// # Errors
    ///
    /// When no primary can be asked.
    ///
    /// # Cancel safety
    ///
    /// Safe: the confirmation goes on for others who wait for it.
    pub async fn confirm(&self) -> Result<Confirmed, ServerError> {
        let Some(upstream) = self.to_confirm_with().await? else { return Ok(Confirmed::default()) };
        let answer = upstream.confirm().await.map_err(|reason| ServerError::Unconfirmed { reason })?;
        Ok(Confirmed { unconfirmed_for: None, orphans: Arc::clone(&answer.orphans), behind: answer.arrivals().await })
    }

    /// As [`Server::confirm`], for one environment: it waits for no other, and where the options allow answers that are not confirmed it
    /// says for how long this one was not.
    pub(crate) async fn confirm_environment(&self, environment: &Environment) -> Result<Confirmed, ServerError> {
        let Some(upstream) = self.to_confirm_with().await? else { return Ok(Confirmed::default()) };
        let allowed = || {
            let age = upstream.unconfirmed_for(environment).filter(|age| *age <= self.options.unconfirmed_for)?;
            Some(Confirmed { unconfirmed_for: Some(age), orphans: upstream.orphans(), behind: BTreeMap::new() })
        };
        // Of what is not here, nothing is known.
        let has_failed = upstream.has_failed() && self.environments.live(environment).is_some();
        if has_failed
            && upstream.has_just_failed()
            && let Some(confirmed) = allowed()
        {
            return Ok(confirmed);
        }
        let confirmed = async {
            let asked = upstream.confirm();
            let answer = match has_failed && allowed().is_some() {
                // Nobody waits long for one who was away when he was last asked: that he is back is found out all the same.
                true => {
                    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err("there was no answer yet".to_owned()))?
                }
                false => asked.await?,
            };
            answer.arrival(environment).await?;
            Ok(Confirmed { unconfirmed_for: None, orphans: Arc::clone(&answer.orphans), behind: BTreeMap::new() })
        };
        // Boxed, so that those who then wait for minutes do not hold room for it.
        Box::pin(confirmed).await.or_else(|reason| allowed().ok_or(ServerError::Unconfirmed { reason }))
    }

    /// Returns the way to whom this server asks what is live; `None` on a primary.
    async fn to_confirm_with(&self) -> Result<Option<&Arc<Upstream>>, ServerError> {
        if self.role.is_primary() {
            self.cleared().await?;
        }
        if self.role.is_primary() {
            return Ok(None);
        }
        self.upstream.as_ref().map(Some).ok_or_else(|| ServerError::Replaced { epoch: self.role.epoch() })
    }

    /// Brings what is live in the store that servers share, of one environment; returns whether that is live here and not there. Nothing
    /// where there is no store. Blocking.
    pub(crate) fn catch_up(&self, environment: &Environment) -> Result<bool, ServerError> {
        let (Some(_), Some(upstream)) = (&self.shared, &self.upstream) else { return Ok(false) };
        shared::wait(async {
            let brought = async {
                let answer = upstream.confirm().await?;
                answer.arrival(environment).await?;
                Ok(answer.orphans.contains(environment))
            };
            brought.await.map_err(|reason| ServerError::Unconfirmed { reason })
        })
    }

    /// Hears how new code is to reach nodes, where servers share a store. Blocking.
    pub(crate) fn catch_up_rollout(&self) -> Result<(), ServerError> {
        let (Some(_), Some(upstream)) = (&self.shared, &self.upstream) else { return Ok(()) };
        shared::wait(async { upstream.confirm().await.map(drop).map_err(|reason| ServerError::Unconfirmed { reason }) })
    }

    /// Returns the environments that are live here, and were not at the primary when it was last asked: what was published in them was
    /// not taken over.
    pub(crate) fn orphans(&self) -> Arc<BTreeSet<Environment>> {
        match &self.upstream {
            Some(upstream) if !self.role.is_primary() => upstream.orphans(),
            _ => Arc::default(),
        }
    }

    /// Makes code live that was made on top of `base`, which was live. Blocking; one at a time.
    pub(crate) fn go_live(&self, base: Option<&Code>, code: Code) -> Result<GoneLive, ServerError> {
        if let (Some(shared), Some(upstream)) = (&self.shared, &self.upstream) {
            return shared::wait(async {
                // This may take long, and nodes are answered meanwhile.
                let Some(prepared) = shared.prepare(base, &code).await? else { return Ok(GoneLive::Outrun) };
                // Nothing is brought meanwhile, so that what is live here only grows.
                let turn = upstream.turn(&code.version.environment);
                let _turn = turn.lock().await;
                if !shared.commit(&prepared).await? {
                    return Ok(GoneLive::Outrun);
                }
                // From here on it is live, whatever fails: until this server has it, it answers nobody.
                Ok(self.environments.switch(code).map_or_else(|error| GoneLive::Elsewhere(chain(&error)), |()| GoneLive::Here))
            });
        }
        self.environments.switch(code).map(|()| GoneLive::Here)
    }

    /// Returns how this server stands to whom it asks; `None` on a primary.
    pub(crate) fn following(&self) -> Option<Following> {
        self.upstream.as_ref().filter(|_| !self.role.is_primary()).map(|upstream| upstream.following())
    }

    /// Returns what this server is among the others.
    pub(crate) fn role_name(&self) -> &'static str {
        match (&self.shared, self.role.is_primary()) {
            (Some(_), _) => "equal",
            (None, true) => "primary",
            (None, false) => "replica",
        }
    }

    /// Returns the other servers that are known here, as they were last heard of. Blocking.
    pub(crate) fn others(&self) -> Result<BTreeMap<String, Follower>, ServerError> {
        if let Some(shared) = &self.shared {
            return shared::wait(async { Ok(shared.servers().await?) });
        }
        Ok(self.followers.all().into_iter().map(|(name, follower)| (name.to_string(), follower)).collect())
    }

    /// Hears of what was published at other servers, where they share a store. Blocking.
    pub(crate) fn learn(&self, environment: &Environment) -> Result<(), ServerError> {
        let Some(shared) = &self.shared else { return Ok(()) };
        let history = shared::wait(async { Ok(shared.history(environment).await?) })?;
        self.environments.learn(environment, &history)
    }
}
