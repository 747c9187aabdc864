//! Asking the primary which code is live: shared, paced, and in the background.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use direct_puppet_agent::store::Store;
use direct_puppet_transport::protocol::{
    Answered, Certname, Deployed, Environment, NodesByCode, ProtocolVersion, PublishedVersion, SyncConfirm, SyncConfirmed,
};
use direct_puppet_transport::{Client, Transport};
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use tokio::time::Instant;

use super::answer::{Answer, Brings};
use super::bring::{Way, Why};
use super::remembered::Remembered;
use super::room::Leftovers;
use crate::answer::is_epoch_passed_over;
use crate::blocking;
use crate::code::{Environments, Version};
use crate::error::{ServerError, chain};
use crate::role::{Hearing, Peers, Trust};
use crate::rollout::Gate;
#[cfg(test)]
use crate::tests::sim::{Bug, is_planted};

/// The least time from one confirmation to the next: at most five a second reach the primary, however many nodes ask here.
const PACE: Duration = Duration::from_millis(200);

/// How long the primary may take to say what is live.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What the primary answered, or why it could not be asked.
type Confirmation = Shared<BoxFuture<'static, Result<Arc<Answer>, String>>>;

/// A confirmation that could not be had is not tried again for so long where an older one will do.
const FAILURE_PACE: Duration = Duration::from_secs(5);

/// What came of the confirmations so far.
#[derive(Debug, Default)]
struct Past {
    /// When the last one that was answered was sent.
    answered: Option<Instant>,
    /// Why it was last not remembered how requests to publish were answered.
    unlearned: Option<String>,
    /// The same for each environment of which what was answered is here.
    arrived: BTreeMap<Environment, Instant>,
    /// Environments of which what was answered could not be brought, and why.
    behind: BTreeMap<Environment, String>,
    /// Environments that were live here and not there.
    orphans: Arc<BTreeSet<Environment>>,
    failed: Option<Instant>,
    /// Why the last one failed, if none was answered since.
    failure: Option<String>,
}

/// How a server stands to whom it asks.
#[derive(Debug, Clone)]
pub(crate) struct Following {
    /// Whom it asked last.
    pub(crate) endpoint: String,
    /// How long ago that was confirmed what was confirmed last.
    pub(crate) confirmed_ago: Option<Duration>,
    /// Why it cannot be now.
    pub(crate) failure: Option<String>,
    /// Environments of which it is told what is live, and has not all of it yet.
    pub(crate) bringing: BTreeSet<Environment>,
}

/// What is said of a server that would not answer requests to publish as they were answered before.
const UNLEARNED: &str = "how requests to publish were answered is not remembered here";

/// The ways to the servers of which one is primary.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(super) clients: Vec<Way>,
    /// The one that was primary when it was last asked.
    primary: AtomicUsize,
    past: Mutex<Past>,
    /// What a server that starts still knows; of no use where nobody is answered unconfirmed.
    remembered: Option<Remembered>,
    pub(super) name: Certname,
    pub(super) environments: Arc<Environments>,
    pub(super) store: Store,
    pub(super) collecting: Arc<RwLock<()>>,
    pub(super) leftovers: Arc<Leftovers>,
    pub(super) gate: Arc<Gate>,
    pub(super) hearing: Hearing,
    pub(super) brings: Brings,
    /// Held while a confirmation is under way, with the time when the last was sent.
    sending: tokio::sync::Mutex<Option<Instant>>,
    /// The confirmation that was not sent yet: who comes now may still use it.
    next: Mutex<Option<Confirmation>>,
}

impl Upstream {
    /// Makes the ways to `peers`; with `remembers`, what was confirmed before a restart counts. Blocking.
    pub(crate) fn new(
        peers: &Peers,
        environments: Arc<Environments>,
        leftovers: Arc<Leftovers>,
        gate: Arc<Gate>,
        hearing: Hearing,
        remembers: bool,
    ) -> Self {
        let remembered = remembers.then(|| Remembered::new(Arc::clone(&environments)));
        let past = Past { arrived: remembered.as_ref().map(Remembered::all).unwrap_or_default(), ..Past::default() };
        Self {
            clients: peers.transports.iter().map(|transport| Client::new(Arc::clone(transport))).collect(),
            primary: AtomicUsize::default(),
            past: Mutex::new(past),
            remembered,
            name: peers.name.clone(),
            environments,
            store: leftovers.store.clone(),
            collecting: Arc::clone(&leftovers.collecting),
            leftovers,
            gate,
            hearing,
            brings: Brings::default(),
            sending: tokio::sync::Mutex::default(),
            next: Mutex::default(),
        }
    }

    /// Returns the address of the server that was primary when it was last asked.
    pub(crate) fn endpoint(&self) -> &str {
        self.clients.get(self.primary.load(Ordering::Relaxed)).map_or("no server", |client| client.transport().endpoint())
    }

    /// Returns for how long an environment could not be confirmed; `None` if it never was, as far as this server knows.
    pub(crate) fn unconfirmed_for(&self, environment: &Environment) -> Option<Duration> {
        let past = self.past();
        let is_here = self.environments.live(environment).is_some() && !past.orphans.contains(environment);
        let confirmed = match is_here || past.behind.contains_key(environment) || self.brings.are_bringing(environment) {
            true => past.arrived.get(environment).copied(),
            // Nobody has it.
            false => past.answered,
        };
        Some(confirmed?.elapsed())
    }

    pub(crate) fn following(&self) -> Following {
        let (confirmed, failure) = {
            let past = self.past();
            // `None` is less than any time.
            let behind = past.behind.keys().map(|environment| past.arrived.get(environment).copied());
            let reasons = past.behind.iter().map(|(environment, reason)| format!("environment {environment}: {reason}"));
            let unlearned = past.unlearned.iter().map(|reason| format!("{UNLEARNED}: {reason}"));
            let reasons: Vec<String> = past.failure.iter().cloned().chain(reasons).chain(unlearned).collect();
            let failure = (!reasons.is_empty()).then(|| reasons.join("; "));
            (behind.chain([past.answered]).min().flatten(), failure)
        };
        Following {
            endpoint: self.endpoint().to_owned(),
            confirmed_ago: confirmed.map(|confirmed| confirmed.elapsed()),
            failure,
            bringing: self.brings.all(),
        }
    }

    /// Why how requests to publish were answered could not be written, the last time.
    pub(super) fn unlearned(&self) -> Option<String> {
        self.past().unlearned.as_ref().map(|reason| format!("{UNLEARNED}: {reason}"))
    }

    /// Returns the environments that are live here, and were not at the primary when it was last asked.
    pub(crate) fn orphans(&self) -> Arc<BTreeSet<Environment>> {
        Arc::clone(&self.past().orphans)
    }

    /// Remembers that what is live of an environment is here, by a question that was sent at `sent`.
    pub(super) fn arrived(&self, environment: &Environment, sent: Instant) {
        if let Some(remembered) = &self.remembered {
            remembered.note(environment, sent);
        }
        let mut past = self.past();
        past.behind.remove(environment);
        let arrived = past.arrived.entry(environment.clone()).or_insert(sent);
        *arrived = sent.max(*arrived);
    }

    /// Remembers why what is live of an environment is not here.
    pub(super) fn is_behind(&self, environment: &Environment, reason: &str) {
        self.past().behind.insert(environment.clone(), reason.to_owned());
    }

    fn answered(&self, sent: Instant, live: &[PublishedVersion], orphans: &Arc<BTreeSet<Environment>>) {
        let mut past = self.past();
        past.answered = past.answered.max(Some(sent));
        past.behind.retain(|environment, _| live.iter().any(|published| published.environment == *environment));
        for environment in orphans.difference(&past.orphans) {
            if let Some(remembered) = &self.remembered {
                remembered.forget(environment);
            }
            tracing::warn!(
                %environment,
                "this environment is live here and not at the primary: no promotion has taken over what was published in it"
            );
        }
        past.orphans = Arc::clone(orphans);
        past.failed = None;
        past.failure = None;
    }

    /// Whether asking failed, and nothing was answered since.
    pub(crate) fn has_failed(&self) -> bool {
        self.past().failed.is_some()
    }

    /// Whether that was just now.
    pub(crate) fn has_just_failed(&self) -> bool {
        self.past().failed.is_some_and(|failed| failed.elapsed() < FAILURE_PACE)
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what was live at the primary when this was called, with what brings it here. The confirmation that it waits for was sent
    /// after it was called; it goes on when a caller goes away. Nobody is to be answered from an environment that is live here and not
    /// there, as when an administrator promoted a server that had nothing.
    pub(crate) async fn confirm(self: &Arc<Self>) -> Result<Arc<Answer>, String> {
        #[cfg(test)]
        if (is_planted(Bug::StaleConfirm) || is_planted(Bug::SessionIgnored)) && self.past().answered.is_some() {
            return Ok(Arc::new(Answer::new(Arc::default(), BTreeMap::new())));
        }
        let confirmation = self.board();
        confirmation.await
    }

    fn board(self: &Arc<Self>) -> Confirmation {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(confirmation) = &*next {
            return confirmation.clone();
        }
        let this = Arc::clone(self);
        let task = tokio::spawn(async move {
            let mut last = this.sending.lock().await;
            if let Some(last) = *last {
                tokio::time::sleep_until(last + PACE).await;
            }
            *last = Some(Instant::now());
            // From here on it is under way: who comes now must wait for the one after it.
            #[cfg(test)]
            if is_planted(Bug::ConfirmReused) {
                let asked = this.ask(0, None).await;
                if let Ok(answer) = &asked {
                    answer.arrivals().await;
                }
                *this.next.lock().unwrap_or_else(PoisonError::into_inner) = None;
                return asked.map(Arc::new);
            }
            *this.next.lock().unwrap_or_else(PoisonError::into_inner) = None;
            this.ask(0, None).await.map(Arc::new)
        });
        let confirmation = async move { task.await.unwrap_or_else(|error| Err(error.to_string())) }.boxed().shared();
        *next = Some(confirmation.clone());
        confirmation
    }

    /// Asks what is live and begins to bring it, from whichever server is primary; tells it which code nodes have.
    pub(crate) async fn ask(self: &Arc<Self>, wait_seconds: u32, nodes: Option<&NodesByCode>) -> Result<Answer, String> {
        let (mut reasons, begun) = (Vec::new(), Instant::now());
        let first = self.primary.load(Ordering::Relaxed);
        for at in 0..self.clients.len() {
            let at = (first + at) % self.clients.len();
            match self.ask_one(&self.clients[at], wait_seconds, nodes).await {
                Ok(answer) => {
                    self.primary.store(at, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(reason) => reasons.push(reason),
            }
        }
        let reason = reasons.join("; ");
        let mut past = self.past();
        // A question that was held for news may end long after a newer one was answered.
        if past.answered.is_none_or(|answered| answered <= begun) {
            past.failed = Some(Instant::now());
            past.failure = Some(reason.clone());
        }
        Err(reason)
    }

    async fn ask_one(self: &Arc<Self>, client: &Way, wait_seconds: u32, nodes: Option<&NodesByCode>) -> Result<Answer, String> {
        let sent = Instant::now();
        let told = self.environments.all_live();
        let deployed = told.iter().map(|code| {
            let version = &code.version;
            (version.environment.clone(), Deployed { code_id: version.code_id, version: version.version })
        });
        let request = SyncConfirm {
            protocol: ProtocolVersion::CURRENT,
            replica: self.name.clone(),
            deployed: deployed.collect(),
            wait_seconds,
            rollout: self.gate.rollout(),
            epoch: self.hearing.role.epoch(),
            answered: self.environments.answers.known(),
            nodes: nodes.cloned(),
        };
        let limit = ANSWER_TIMEOUT + Duration::from_secs(u64::from(wait_seconds));
        let confirmed = match tokio::time::timeout(limit, client.sync_confirm(&request)).await {
            Ok(confirmed) => confirmed.map_err(|error| chain(&error))?,
            Err(_) => {
                let endpoint = client.transport().endpoint();
                return Err(format!("{endpoint} did not say what is live within {} s", limit.as_secs()));
            }
        };
        self.believe(client, &confirmed).await?;
        if confirmed.is_part != self.hearing.role.is_part() {
            let role = Arc::clone(&self.hearing.role);
            let noted = blocking::run(move || role.is_given_part(confirmed.is_part)).await;
            noted.map_err(ServerError::from).flatten().map_err(|error| chain(&error))?;
        }
        let mut orphans: BTreeSet<Environment> = told.iter().map(|code| code.version.environment.clone()).collect();
        for published in &confirmed.live {
            orphans.remove(&published.environment);
            let told = told.iter().find(|code| code.version.environment == published.environment);
            if let Some(told) = told {
                self.refuse_other(client, published, &told.version)?;
            }
        }
        if self.gate.rollout() != confirmed.rollout {
            let epoch = confirmed.known_epoch();
            let (gate, role, rollout) = (Arc::clone(&self.gate), Arc::clone(&self.hearing.role), confirmed.rollout);
            let is_of_primary = move || role.leads().is_none() && role.epoch() <= epoch;
            let set = blocking::run(move || gate.set_if(is_of_primary, rollout)).await;
            set.map_err(ServerError::from).and_then(|set| set).map_err(|error| chain(&error))?;
        }
        // Nodes are answered all the same; the next answer has it again.
        let unlearned = self.learn(&confirmed.live, confirmed.answered).await.err();
        let before = std::mem::replace(&mut self.past().unlearned, unlearned.clone());
        if let Some(reason) = unlearned.filter(|reason| before.as_ref() != Some(reason)) {
            tracing::warn!("{UNLEARNED}: {reason}");
        }
        let orphans = Arc::new(orphans);
        self.answered(sent, &confirmed.live, &orphans);
        let mut brings = BTreeMap::new();
        for published in confirmed.live {
            let environment = published.environment.clone();
            brings.extend(self.begin(client, published, sent).map(|bring| (environment, bring)));
        }
        Ok(Answer::new(orphans, brings))
    }

    /// Learns how another server answered requests to publish, so that this one would answer them the same.
    pub(crate) async fn learn(
        &self,
        live: &[PublishedVersion],
        mut answered: BTreeMap<Environment, Vec<Answered>>,
    ) -> Result<(), String> {
        answered.retain(|environment, _| live.iter().any(|published| published.environment == *environment));
        if answered.is_empty() {
            return Ok(());
        }
        let environments = Arc::clone(&self.environments);
        let learn = move || {
            // One that cannot be written keeps no other from being.
            let learnt = answered.into_iter().map(|(environment, answers)| environments.answers.learn(&environment, answers));
            learnt.fold(Ok(()), Result::and)
        };
        let learnt = blocking::run(learn).await;
        learnt.map_err(ServerError::from).and_then(|learnt| learnt).map_err(|error| chain(&error))
    }

    /// Checks that a primary has no older version than the one that this server has told it of, nor another under the same counter.
    fn refuse_other(&self, client: &Way, there: &PublishedVersion, here: &Version) -> Result<(), String> {
        if there.version > here.version || (there.version == here.version && there.code_id == here.code_id) {
            return Ok(());
        }
        Err(format!(
            "{} says that version {} of {} is live as {}, this server has {} as {}: is that the right primary?",
            client.transport().endpoint(),
            there.version,
            there.environment,
            there.code_id,
            here.version,
            here.code_id
        ))
    }

    /// Checks that whoever answered was not replaced; remembers the epoch in which it is primary before its answer is used.
    async fn believe(&self, client: &Way, confirmed: &SyncConfirmed) -> Result<(), String> {
        let (there, here) = (confirmed.known_epoch(), self.hearing.role.epoch());
        if is_epoch_passed_over() {
            return Ok(());
        }
        if there < here {
            return Err(format!(
                "{} is primary of epoch {there} only, and epoch {here} has begun since: have it follow the server that was promoted, \
                 and name that one to this server",
                client.transport().endpoint()
            ));
        }
        self.hear(there).await
    }

    /// Hears of the epoch of a server that this one has asked.
    pub(crate) async fn hear(&self, epoch: u64) -> Result<(), String> {
        // A server that has nothing yet may be new at a site where many were promoted.
        let is_new = self.environments.epoch() == 0 && self.hearing.role.epoch() <= 1;
        let trust = if is_new { Trust::First } else { Trust::Near };
        self.hearing.hear(epoch, trust).await.map(drop).map_err(|error| chain(&error))
    }

    /// Returns a lock; while it is held nothing of the environment is brought.
    pub(crate) fn turn(&self, environment: &Environment) -> Arc<tokio::sync::Mutex<()>> {
        self.brings.turn(environment)
    }

    /// Returns a guard; while it is held no collection removes what nothing refers to yet.
    pub(crate) async fn hold_collections(&self) -> tokio::sync::OwnedRwLockReadGuard<()> {
        Arc::clone(&self.leftovers.bringing).read_owned().await
    }

    /// Returns a guard; while it is held nothing is brought. `None` when something is just now.
    pub(crate) fn hold_brings(&self) -> Option<tokio::sync::RwLockWriteGuard<'_, ()>> {
        self.leftovers.bringing.try_write().ok()
    }

    /// Takes what is live at a server that stepped down, unless what is here is newer.
    pub(crate) async fn take(&self, transport: &Arc<dyn Transport>, published: PublishedVersion) -> Result<(), String> {
        self.bring(&Client::new(Arc::clone(transport)), published, Why::TakenOver).await
    }
}
