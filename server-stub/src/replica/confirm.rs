//! Asking the primary which code is live: shared, paced, and in the background.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use direct_puppet_agent::store::Store;
use direct_puppet_transport::protocol::{Certname, Deployed, ProtocolVersion, SyncConfirm};
use direct_puppet_transport::{Client, Transport};
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Primary;
use crate::code::Environments;
use crate::error::chain;

/// The least time from one confirmation to the next: at most five a second reach the primary, however many nodes ask here.
const PACE: Duration = Duration::from_millis(200);

/// Longest time that a confirmation may take, with what it has to bring.
const DEADLINE: Duration = Duration::from_secs(120);

/// How long the primary may take to say what is live.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the primary is asked to hold its answer while there is no news.
const HOLD_SECONDS: u32 = 240;

/// How long to leave a primary alone that could not be asked; doubles up to [`LONGEST_QUIET`].
const QUIET: Duration = Duration::from_secs(1);
const LONGEST_QUIET: Duration = Duration::from_secs(30);

type Confirmation = Shared<BoxFuture<'static, Result<(), String>>>;

/// The way to the primary.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(super) client: Client<Arc<dyn Transport>>,
    pub(super) name: Certname,
    pub(super) environments: Arc<Environments>,
    pub(super) store: Store,
    pub(super) collecting: Arc<RwLock<()>>,
    /// Held while something is brought, so that each version is brought once.
    pub(super) bringing: tokio::sync::Mutex<()>,
    /// Held while a confirmation is under way, with the time when the last was sent.
    sending: tokio::sync::Mutex<Option<Instant>>,
    /// The confirmation that was not sent yet: who comes now may still use it.
    next: Mutex<Option<Confirmation>>,
}

impl Upstream {
    pub(crate) fn new(primary: Primary, environments: Arc<Environments>, store: Store, collecting: Arc<RwLock<()>>) -> Self {
        Self {
            client: Client::new(primary.transport),
            name: primary.name,
            environments,
            store,
            collecting,
            bringing: tokio::sync::Mutex::default(),
            sending: tokio::sync::Mutex::default(),
            next: Mutex::default(),
        }
    }

    pub(crate) fn endpoint(&self) -> &str {
        self.client.transport().endpoint()
    }

    /// Returns when everything that was live at the primary when this was called is live here. The confirmation that it waits for
    /// was sent after it was called; it goes on when a caller goes away.
    pub(crate) async fn confirm(self: &Arc<Self>) -> Result<(), String> {
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
            *this.next.lock().unwrap_or_else(PoisonError::into_inner) = None;
            match tokio::time::timeout(DEADLINE, this.ask(0)).await {
                Ok(asked) => asked,
                Err(_) => Err(format!("{} did not answer within {} s", this.endpoint(), DEADLINE.as_secs())),
            }
        });
        let confirmation = async move { task.await.unwrap_or_else(|error| Err(error.to_string())) }.boxed().shared();
        *next = Some(confirmation.clone());
        confirmation
    }

    /// Asks once what is live and brings it.
    async fn ask(&self, wait_seconds: u32) -> Result<(), String> {
        let live = self.environments.all_live();
        let deployed = live.iter().map(|code| {
            let version = &code.version;
            (version.environment.clone(), Deployed { code_id: version.code_id, version: version.version })
        });
        let request = SyncConfirm {
            protocol: ProtocolVersion::CURRENT,
            replica: self.name.clone(),
            deployed: deployed.collect(),
            wait_seconds,
        };
        let limit = ANSWER_TIMEOUT + Duration::from_secs(u64::from(wait_seconds));
        let confirmed = match tokio::time::timeout(limit, self.client.sync_confirm(&request)).await {
            Ok(confirmed) => confirmed.map_err(|error| chain(&error))?,
            Err(_) => return Err(format!("{} did not say what is live within {} s", self.endpoint(), limit.as_secs())),
        };
        for published in confirmed.live {
            self.bring(published).await?;
        }
        Ok(())
    }

    /// Brings news as they come, until `stop`.
    pub(crate) async fn follow(&self, stop: &CancellationToken) {
        let mut quiet = QUIET;
        loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                asked = self.ask(HOLD_SECONDS) => asked,
            };
            match asked {
                Ok(()) => quiet = QUIET,
                Err(reason) => {
                    tracing::warn!(primary = self.endpoint(), reason, "the primary cannot be followed for now");
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(quiet) => {}
                    }
                    quiet = (quiet * 2).min(LONGEST_QUIET);
                }
            }
        }
    }
}
