//! What the primary answered, and how that comes here: each environment by itself, so that none waits for another.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use direct_puppet_transport::protocol::{Environment, PublishedVersion};
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, join_all};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::bring::{Way, Why};
use super::confirm::Upstream;

/// Longest time that anybody waits for what has to be brought; it goes on for those who come later.
const DEADLINE: Duration = Duration::from_secs(120);

/// Environments that are brought at once.
const MAX_BRINGS: usize = 4;

/// A version on its way; it goes on when nobody waits.
type Bring = Shared<BoxFuture<'static, Result<(), String>>>;

/// What the primary said is live.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Environments that are live here and not there.
    pub(crate) orphans: Arc<BTreeSet<Environment>>,
    /// What is not here yet.
    pub(super) brings: BTreeMap<Environment, Bring>,
    deadline: Instant,
}

impl Answer {
    pub(super) fn new(orphans: Arc<BTreeSet<Environment>>, brings: BTreeMap<Environment, Bring>) -> Self {
        Self { orphans, brings, deadline: Instant::now() + DEADLINE }
    }

    /// Returns when what is live there of an environment is live here, or why it cannot be.
    pub(crate) async fn arrival(&self, environment: &Environment) -> Result<(), String> {
        let Some(bring) = self.brings.get(environment) else { return Ok(()) };
        match tokio::time::timeout_at(self.deadline, bring.clone()).await {
            Ok(brought) => brought,
            Err(_) => Err(format!("environment {environment} is still being brought after {} s", DEADLINE.as_secs())),
        }
    }

    /// Returns when everything is here, with the environments that cannot be brought, and why.
    pub(crate) async fn arrivals(&self) -> BTreeMap<Environment, String> {
        let arrival = async |environment: &Environment| (environment.clone(), self.arrival(environment).await);
        let arrivals = join_all(self.brings.keys().map(arrival)).await;
        arrivals.into_iter().filter_map(|(environment, arrived)| Some((environment, arrived.err()?))).collect()
    }
}

/// What is being brought.
#[derive(Debug)]
pub(super) struct Brings {
    under_way: Mutex<HashMap<Environment, UnderWay>>,
    /// For each environment, held while it is brought.
    turns: Mutex<HashMap<Environment, Arc<tokio::sync::Mutex<()>>>>,
    pub(super) places: Semaphore,
}

#[derive(Debug)]
struct UnderWay {
    published: PublishedVersion,
    /// When the last question was sent that was answered with it.
    sent: Instant,
    bring: Bring,
}

impl Default for Brings {
    fn default() -> Self {
        Self { under_way: Mutex::default(), turns: Mutex::default(), places: Semaphore::new(MAX_BRINGS) }
    }
}

impl Brings {
    /// Returns the lock of an environment.
    pub(super) fn turn(&self, environment: &Environment) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(turns.entry(environment.clone()).or_default())
    }

    /// Whether a version of an environment is on its way.
    pub(super) fn are_bringing(&self, environment: &Environment) -> bool {
        self.under_way().contains_key(environment)
    }

    /// Returns the environments of which something is being brought.
    pub(super) fn all(&self) -> BTreeSet<Environment> {
        self.under_way().keys().cloned().collect()
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<Environment, UnderWay>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a bring; returns when it was last asked for, unless a newer one is under way.
    fn end(&self, published: &PublishedVersion) -> Option<Instant> {
        let mut under_way = self.under_way();
        under_way.get(&published.environment).filter(|found| found.published == *published)?;
        under_way.remove(&published.environment).map(|ended| ended.sent)
    }
}

impl Upstream {
    /// Begins to bring what a question was answered with that was sent at `sent`, or joins in; `None` when it is here.
    pub(super) fn begin(self: &Arc<Self>, client: &Way, published: PublishedVersion, sent: Instant) -> Option<Bring> {
        if self.is_here(&published) {
            self.arrived(&published.environment, sent);
            return None;
        }
        let environment = published.environment.clone();
        let mut under_way = self.brings.under_way();
        if let Some(found) = under_way.get_mut(&environment)
            && found.published == published
            && found.bring.peek().is_none()
        {
            found.sent = found.sent.max(sent);
            return Some(found.bring.clone());
        }
        let (this, client, wanted) = (Arc::clone(self), client.clone(), published.clone());
        let task = tokio::spawn(async move {
            let brought = this.bring(&client, wanted.clone(), Why::News).await;
            let asked = this.brings.end(&wanted);
            match &brought {
                Ok(()) => this.arrived(&wanted.environment, asked.unwrap_or(sent)),
                Err(reason) => this.is_behind(&wanted.environment, reason),
            }
            brought
        });
        let bring = async move { task.await.unwrap_or_else(|error| Err(error.to_string())) }.boxed().shared();
        under_way.insert(environment, UnderWay { published, sent, bring: bring.clone() });
        Some(bring)
    }
}
