//! Asking the primary which code is live: shared, paced, and in the background.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use direct_puppet_agent::store::Store;
use direct_puppet_transport::protocol::{
    Certname, Deployed, Environment, ProtocolVersion, PublishedVersion, SyncConfirm, SyncConfirmed,
};
use direct_puppet_transport::{Client, Transport};
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use tokio::time::Instant;

use crate::answer::is_epoch_passed_over;
use crate::blocking;
use crate::code::{Code, Environments};
use crate::error::{ServerError, chain};
use crate::role::{Hearing, Peers, Trust};
use crate::rollout::Gate;
#[cfg(test)]
use crate::tests::sim::{Bug, is_planted};

/// The least time from one confirmation to the next: at most five a second reach the primary, however many nodes ask here.
const PACE: Duration = Duration::from_millis(200);

/// Longest time that a confirmation may take, with what it has to bring.
const DEADLINE: Duration = Duration::from_secs(120);

/// How long the primary may take to say what is live.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Environments that the primary does not have, or why it could not be asked.
type Confirmation = Shared<BoxFuture<'static, Result<Arc<BTreeSet<Environment>>, String>>>;

/// A confirmation that could not be had is not tried again for so long where an older one will do.
const FAILURE_PACE: Duration = Duration::from_secs(5);

/// When a confirmation was last had, and when one last failed.
#[derive(Debug, Default)]
struct Past {
    /// When the last one that was answered was sent.
    confirmed: Option<Instant>,
    failed: Option<Instant>,
    /// Why it failed, if nothing was confirmed since.
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
}

/// The ways to the servers of which one is primary.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(super) clients: Vec<Client<Arc<dyn Transport>>>,
    /// The one that was primary when it was last asked.
    primary: AtomicUsize,
    past: Mutex<Past>,
    pub(super) name: Certname,
    pub(super) environments: Arc<Environments>,
    pub(super) store: Store,
    pub(super) collecting: Arc<RwLock<()>>,
    pub(super) gate: Arc<Gate>,
    hearing: Hearing,
    /// Held while something is brought, so that each version is brought once.
    pub(super) bringing: tokio::sync::Mutex<()>,
    /// Held while a confirmation is under way, with the time when the last was sent.
    sending: tokio::sync::Mutex<Option<Instant>>,
    /// The confirmation that was not sent yet: who comes now may still use it.
    next: Mutex<Option<Confirmation>>,
}

impl Upstream {
    pub(crate) fn new(
        peers: &Peers,
        environments: Arc<Environments>,
        store: Store,
        collecting: Arc<RwLock<()>>,
        gate: Arc<Gate>,
        hearing: Hearing,
    ) -> Self {
        Self {
            clients: peers.transports.iter().map(|transport| Client::new(Arc::clone(transport))).collect(),
            primary: AtomicUsize::default(),
            past: Mutex::default(),
            name: peers.name.clone(),
            environments,
            store,
            collecting,
            gate,
            hearing,
            bringing: tokio::sync::Mutex::default(),
            sending: tokio::sync::Mutex::default(),
            next: Mutex::default(),
        }
    }

    /// Returns the address of the server that was primary when it was last asked.
    pub(crate) fn endpoint(&self) -> &str {
        self.clients.get(self.primary.load(Ordering::Relaxed)).map_or("no server", |client| client.transport().endpoint())
    }

    /// Returns for how long nothing could be confirmed; `None` if nothing ever was since this server started.
    pub(crate) fn unconfirmed_for(&self) -> Option<Duration> {
        Some(self.past().confirmed?.elapsed())
    }

    pub(crate) fn following(&self) -> Following {
        let (confirmed_ago, failure) = {
            let past = self.past();
            (past.confirmed.map(|confirmed| confirmed.elapsed()), past.failure.clone())
        };
        Following { endpoint: self.endpoint().to_owned(), confirmed_ago, failure }
    }

    /// Whether asking failed just now.
    pub(crate) fn has_just_failed(&self) -> bool {
        self.past().failed.is_some_and(|failed| failed.elapsed() < FAILURE_PACE)
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when everything that was live at the primary when this was called is live here. The confirmation that it waits for
    /// was sent after it was called; it goes on when a caller goes away. Returns the environments that are live here and not there,
    /// as when an administrator promoted a server that had nothing: nobody is to be answered from them.
    pub(crate) async fn confirm(self: &Arc<Self>) -> Result<Arc<BTreeSet<Environment>>, String> {
        #[cfg(test)]
        if is_planted(Bug::StaleConfirm) && self.unconfirmed_for().is_some() {
            return Ok(Arc::default());
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
                let asked = this.ask(0).await;
                *this.next.lock().unwrap_or_else(PoisonError::into_inner) = None;
                return asked.map(Arc::new);
            }
            *this.next.lock().unwrap_or_else(PoisonError::into_inner) = None;
            match tokio::time::timeout(DEADLINE, this.ask(0)).await {
                Ok(asked) => asked.map(Arc::new),
                Err(_) => Err(format!("{} did not answer within {} s", this.endpoint(), DEADLINE.as_secs())),
            }
        });
        let confirmation = async move { task.await.unwrap_or_else(|error| Err(error.to_string())) }.boxed().shared();
        *next = Some(confirmation.clone());
        confirmation
    }

    /// Asks what is live and brings it, from whichever server is primary. Returns the environments that are live here and not there.
    pub(super) async fn ask(&self, wait_seconds: u32) -> Result<BTreeSet<Environment>, String> {
        let sent = Instant::now();
        let mut reasons = Vec::new();
        let first = self.primary.load(Ordering::Relaxed);
        for at in 0..self.clients.len() {
            let at = (first + at) % self.clients.len();
            match self.ask_one(&self.clients[at], wait_seconds).await {
                Ok(orphans) => {
                    self.primary.store(at, Ordering::Relaxed);
                    let mut past = self.past();
                    past.confirmed = past.confirmed.max(Some(sent));
                    past.failed = None;
                    past.failure = None;
                    return Ok(orphans);
                }
                Err(reason) => reasons.push(reason),
            }
        }
        let reason = reasons.join("; ");
        let mut past = self.past();
        past.failed = Some(Instant::now());
        past.failure = Some(reason.clone());
        Err(reason)
    }

    async fn ask_one(&self, client: &Client<Arc<dyn Transport>>, wait_seconds: u32) -> Result<BTreeSet<Environment>, String> {
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
        let mut orphans: BTreeSet<Environment> = told.iter().map(|code| code.version.environment.clone()).collect();
        for published in confirmed.live {
            orphans.remove(&published.environment);
            let of_it = |code: &&Arc<Code>| code.version.environment == published.environment;
            let told = told.iter().find(of_it).map(|code| code.version.version).unwrap_or_default();
            if published.version < told {
                return Err(format!(
                    "{} says that version {} of {} is live, this server has {told}: is that the right primary?",
                    client.transport().endpoint(),
                    published.version,
                    published.environment,
                ));
            }
            self.bring(client, published).await?;
        }
        if self.gate.rollout() != confirmed.rollout {
            let (gate, rollout) = (Arc::clone(&self.gate), confirmed.rollout);
            let set = blocking::run(move || gate.set(rollout)).await;
            set.map_err(ServerError::from).and_then(|set| set).map_err(|error| chain(&error))?;
        }
        Ok(orphans)
    }

    /// Checks that whoever answered was not replaced; remembers the epoch in which it is primary before its answer is used.
    async fn believe(&self, client: &Client<Arc<dyn Transport>>, confirmed: &SyncConfirmed) -> Result<(), String> {
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

    /// Returns a guard; while it is held nothing is brought.
    pub(crate) async fn nothing_is_brought(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.bringing.lock().await
    }

    /// As [`Upstream::nothing_is_brought`]. Blocking.
    pub(crate) fn wait_until_nothing_is_brought(&self) -> tokio::sync::MutexGuard<'_, ()> {
        futures::executor::block_on(self.bringing.lock())
    }

    /// Takes what is live at a server that stepped down, unless what is here is newer.
    pub(crate) async fn take(&self, transport: &Arc<dyn Transport>, published: PublishedVersion) -> Result<(), String> {
        self.bring(&Client::new(Arc::clone(transport)), published).await
    }
}
