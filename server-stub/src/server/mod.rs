//! The server: everything that its parts share.

mod audit;
mod options;
mod others;

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, RwLock};

use direct_puppet_agent::fs::ensure_private_dir;
use direct_puppet_agent::store::Store;
use direct_puppet_transport::protocol::{Certname, Digest};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::answer::pieces::Cuts;
use crate::answer::{Flights, Given};
use crate::blocking;
use crate::code::{Environments, Version};
use crate::disk;
use crate::error::ServerError;
use crate::nodes::{NodeSummary, Nodes};
use crate::publish::{self, EnvironmentResult, PublishRequest};
use crate::replica::{Followers, Leftovers, Mending, Upstream};
use crate::role::{Hearing, Others, Peers, Role, Watch};
use crate::rollout::Gate;
use crate::shared::{self, Shared};

pub(crate) use audit::AUDIT;
use audit::Denials;
pub use options::{ServerOptions, Staging};
pub use others::Confirmed;

/// The reference server. Shared by reference among listeners; holds its data directory's lock.
#[derive(Debug)]
pub struct Server {
    pub(crate) options: ServerOptions,
    pub(crate) store: Store,
    pub(crate) environments: Arc<Environments>,
    pub(crate) role: Arc<Role>,
    /// The other servers.
    pub(crate) peers: Option<Peers>,
    pub(crate) watch: Watch,
    /// Which server this is, to itself and to those that reach it by several addresses: random.
    pub(crate) instance: u64,
    pub(crate) gate: Arc<Gate>,
    pub(crate) mending: Arc<Mending>,
    /// This server's part in a store that it shares.
    pub(crate) shared: Option<Arc<Shared>>,
    /// The way to the primary, while this is a replica.
    pub(crate) upstream: Option<Arc<Upstream>>,
    /// Who follows this server.
    pub(crate) followers: Followers,
    /// What they were told of.
    pub(crate) given: Given,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) flights: Flights,
    pub(crate) workers: Arc<Semaphore>,
    /// How many contents may be compressed at once.
    pub(crate) packing: Arc<Semaphore>,
    /// How large contents are cut that were asked for lately.
    pub(crate) cuts: Arc<Cuts>,
    pub(crate) publishing: Arc<Mutex<()>>,
    /// Whose turn it is to take a thread and wait for `publishing` there.
    turns: Arc<tokio::sync::Mutex<()>>,
    denials: Arc<Denials>,
    pub(crate) stopping: CancellationToken,
    /// Held for reading by what puts contents into the store, for writing by what removes them.
    pub(crate) collecting: Arc<RwLock<()>>,
    pub(crate) leftovers: Arc<Leftovers>,
    _lock: disk::DataLock,
}

/// Who acts where a program asks its own server.
pub(crate) const OWN: &str = "this process";

impl Server {
    /// Opens the data directory, or makes it. Blocking.
    ///
    /// # Errors
    ///
    /// When another process works with it, or a file in it is damaged.
    pub fn open(options: ServerOptions) -> Result<Arc<Self>, ServerError> {
        ensure_private_dir(&options.data_dir)?;
        let lock = disk::lock(&options.data_dir)?;
        let store = Store::ensure(&options.data_dir.join("store"))?;
        store.remove_leftovers()?;
        let environments = Arc::new(Environments::open(&options.data_dir, &store)?);
        let collecting = Arc::default();
        let gate = Arc::new(Gate::open(&options.data_dir)?);
        let nodes = Arc::new(Nodes::open(&options)?);
        let flights = Flights::default();
        let publishing: Arc<Mutex<()>> = Arc::default();
        let leftovers = {
            let (environments, nodes) = (Arc::clone(&environments), Arc::clone(&nodes));
            Leftovers::new(store.clone(), environments, nodes, Arc::clone(&publishing), Arc::clone(&collecting))
        };
        let leftovers = Arc::new(leftovers);
        let share = |sharing| {
            Shared::new(
                sharing,
                Arc::clone(&leftovers),
                Arc::clone(&environments),
                Arc::clone(&nodes),
                flights.clone(),
                options.reports_per_node,
            )
        };
        let shared = options.sharing.as_ref().map(share);
        let peers = shared.as_ref().map(Shared::peers).or_else(|| options.primary.clone()).or_else(|| options.successors.clone());
        let others = match (&shared, &options.primary, &options.successors) {
            (Some(_), ..) => Others::Store,
            (None, Some(_), _) => Others::Primary,
            (None, None, Some(_)) => Others::Successors,
            (None, None, None) => Others::None,
        };
        let others = Some(others).filter(|_| !options.is_offline);
        let role = Arc::new(Role::open(&options.data_dir, others, environments.epoch())?);
        if let Some(epoch) = role.leads() {
            environments.answer_live(epoch);
        }
        let hearing = Hearing { role: Arc::clone(&role), publishing, environments: Arc::clone(&environments) };
        let upstream = |peers| {
            let (environments, leftovers, gate) = (Arc::clone(&environments), Arc::clone(&leftovers), Arc::clone(&gate));
            let remembers = !options.unconfirmed_for.is_zero();
            Arc::new(Upstream::new(peers, environments, leftovers, gate, hearing.clone(), remembers))
        };
        let upstream = peers.as_ref().map(upstream);
        let server = Self {
            environments,
            role,
            peers,
            watch: Watch::default(),
            instance: RandomState::new().hash_one(std::process::id()) | 1,
            gate,
            mending: Arc::default(),
            upstream,
            followers: Followers::open(&options.data_dir),
            given: Given::default(),
            nodes,
            flights,
            shared,
            workers: Arc::new(Semaphore::new(options.compile_workers.max(1))),
            packing: Arc::new(Semaphore::new(options.pack_workers.max(1))),
            cuts: Arc::default(),
            publishing: hearing.publishing,
            turns: Arc::default(),
            denials: Arc::default(),
            stopping: CancellationToken::new(),
            collecting,
            leftovers,
            store,
            options,
            _lock: lock,
        };
        let server = Arc::new(server);
        if !server.end_promotion() && tokio::runtime::Handle::try_current().is_ok() {
            server.end_promotion_later();
        }
        Ok(server)
    }

    /// Has check-ins that are held for news answered now: call it before the listeners stop, which wait for what is under way.
    pub fn stop_holding(&self) {
        self.stopping.cancel();
    }

    /// Publishes staged code; one result for each environment. In the audit log this process has done it.
    ///
    /// # Errors
    ///
    /// When staging cannot be listed at all, a text of the request is too long, or this is a replica; what is wrong with one environment
    /// is in its result.
    ///
    /// # Cancel safety
    ///
    /// When it is dropped, it may be published all the same: ask again with the same request id.
    pub async fn publish(self: &Arc<Self>, request: PublishRequest) -> Result<Vec<EnvironmentResult>, ServerError> {
        self.publish_as(request, OWN).await
    }

    /// As [`Server::publish`], for `who`: the peer as it was authenticated. Who the request says its author is stands beside it.
    ///
    /// # Errors
    ///
    /// As [`Server::publish`].
    pub async fn publish_as(self: &Arc<Self>, request: PublishRequest, who: &str) -> Result<Vec<EnvironmentResult>, ServerError> {
        self.refuse_as_replica()?;
        self.cleared().await?;
        let who = who.to_owned();
        self.in_turn(move |server| publish::publish(server, &request, &who)).await
    }

    /// Does work of which one is done at a time, on a thread for work that blocks. Who waits for his turn holds no thread: where servers
    /// share a store, the one whose turn it is needs more of them to end. First come, first served.
    ///
    /// # Cancel safety
    ///
    /// When it is dropped before its turn came nothing is done; later the work goes on.
    pub(crate) async fn in_turn<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, ServerError> + Send + 'static,
    ) -> Result<T, ServerError> {
        let turn = Arc::clone(&self.turns).lock_owned().await;
        let server = Arc::clone(self);
        let in_turn = move || {
            let done = work(&server);
            drop(turn);
            done
        };
        blocking::run(in_turn).await?
    }

    /// Returns what is live, by environment.
    #[must_use]
    pub fn live_versions(&self) -> Vec<Version> {
        self.environments.all_live().iter().map(|code| code.version.clone()).collect()
    }

    /// Returns whether a file of the live code of some environment has this content.
    pub(crate) fn is_published(&self, digest: &Digest) -> bool {
        self.environments.has_content(digest)
    }

    /// Returns what is known of every node, by name; of servers that share a store, what any of them knows. Blocking.
    ///
    /// # Errors
    ///
    /// When the store cannot be asked.
    pub fn nodes(&self) -> Result<Vec<NodeSummary>, ServerError> {
        let mut nodes: BTreeMap<Certname, NodeSummary> =
            self.nodes.summaries().into_iter().map(|node| (node.certname.clone(), node)).collect();
        if let Some(shared) = &self.shared {
            for there in shared::wait(async { Ok(shared.readable_summaries().await?) })? {
                // How often all servers have compiled for it only the store knows.
                let compiles = there.compiles;
                let known = match nodes.remove(&there.certname) {
                    Some(here) => NodeSummary { compiles, ..here.joined(there) },
                    None => there,
                };
                nodes.insert(known.certname.clone(), known);
            }
        }
        Ok(nodes.into_values().collect())
    }

    /// Has the catalogs of a node compiled again when it next checks in: the only cause of a compile beside new code. It is
    /// recorded who asked. Blocking.
    ///
    /// # Errors
    ///
    /// When no such node is known, the record cannot be written, or the server shares a store and does not run.
    pub fn recompile(&self, certname: &Certname, who: &str) -> Result<(), ServerError> {
        // What is forgotten here only is brought from the store again.
        if self.role.others() == Others::Store {
            self.refuse_offline()?;
        }
        self.audit("recompile", who, certname.as_str())?;
        self.flights.forget(certname);
        let Some(shared) = &self.shared else { return self.nodes.forget_catalogs(certname) };
        if !self.nodes()?.iter().any(|node| node.certname == *certname) {
            return Err(ServerError::UnknownNode { certname: certname.to_string() });
        }
        shared::wait(async { Ok(shared.recompile(certname).await?) })?;
        match self.nodes.forget_catalogs(certname) {
            // It is another server's.
            Err(ServerError::UnknownNode { .. }) => Ok(()),
            done => done,
        }
    }
}

/// Seconds since 1970 UTC.
pub(crate) fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.as_secs());
    #[cfg(test)]
    let now = now.saturating_add_signed(CLOCKS.get().0);
    now
}

/// Seconds since the machine was started; `None` where the system does not say.
pub(crate) fn uptime() -> Option<u64> {
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let seconds: u64 = uptime.split('.').next()?.parse().ok()?;
    #[cfg(test)]
    let seconds = seconds.saturating_add(CLOCKS.get().1);
    Some(seconds)
}

#[cfg(test)]
thread_local! {
    static CLOCKS: std::cell::Cell<(i64, u64)> = const { std::cell::Cell::new((0, 0)) };
}

/// Sets the clock of this thread, which simulates a world of its own, forward or back by seconds.
#[cfg(test)]
pub(crate) fn jump_clock(seconds: i64) {
    CLOCKS.set((seconds, 0));
}

/// As [`jump_clock`], and has the machine of this thread run for so many seconds longer.
#[cfg(test)]
pub(crate) fn set_clocks(seconds: i64, longer: u64) {
    CLOCKS.set((seconds, longer));
}
