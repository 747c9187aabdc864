//! The server: everything that its parts share.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use direct_puppet_agent::fs::ensure_private_dir;
use direct_puppet_agent::store::Store;
use direct_puppet_transport::protocol::{Certname, Digest, Environment};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::answer::Flights;
use crate::blocking;
use crate::code::{Code, Environments, Version};
use crate::compile::{Compiler, ManifestCompiler};
use crate::disk;
use crate::error::ServerError;
use crate::nodes::{NodeSummary, Nodes};
use crate::publish::{self, EnvironmentResult, PublishRequest};
use crate::replica::{Follower, Followers, Following, Mending, Upstream};
use crate::role::{Others, Peers, Role, Watch};
use crate::rollout::Gate;
use crate::shared::{self, Shared, Sharing};

/// Where staged code is.
#[derive(Debug, Clone)]
pub enum Staging {
    /// `<dir>/environments/<environment>/…`, as Puppet's code directory.
    Environments(PathBuf),
    /// One directory that is an environment itself.
    Single {
        /// The environment.
        environment: Environment,
        /// Its directory.
        dir: PathBuf,
    },
    /// Nowhere: this server publishes nothing of its own.
    Nowhere,
}

impl Staging {
    /// Returns the staging that `site` is: with a `site.yaml` it is `environment` itself, else it holds environments.
    #[must_use]
    pub fn of_site(site: &Path, environment: &Environment) -> Self {
        if site.join("site.yaml").exists() {
            Self::Single { environment: environment.clone(), dir: site.to_owned() }
        } else {
            Self::Environments(site.to_owned())
        }
    }

    /// Returns where an environment is staged; `None` if it cannot be.
    pub(crate) fn dir_of(&self, wanted: &Environment) -> Option<PathBuf> {
        match self {
            Self::Environments(dir) => Some(dir.join("environments").join(wanted.as_str())),
            Self::Single { environment, dir } => (environment == wanted).then(|| dir.clone()),
            Self::Nowhere => None,
        }
    }

    /// Returns the environments that are staged, by name. Blocking.
    pub(crate) fn environments(&self) -> Result<Vec<Environment>, ServerError> {
        match self {
            Self::Single { environment, .. } => Ok(vec![environment.clone()]),
            Self::Nowhere => Err(ServerError::NoStaging),
            Self::Environments(dir) => {
                let path = dir.join("environments");
                let fail = |source| ServerError::Staging { path: path.clone(), source };
                let mut found = Vec::new();
                for entry in std::fs::read_dir(&path).map_err(fail)? {
                    let entry = entry.map_err(fail)?;
                    let name = entry.file_name();
                    if let Some(environment) = name.to_str().and_then(|name| name.parse().ok())
                        && entry.path().is_dir()
                    {
                        found.push(environment);
                    }
                }
                found.sort();
                Ok(found)
            }
        }
    }
}

/// What a server is made from.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Where it keeps everything.
    pub data_dir: PathBuf,
    /// Where code is staged.
    pub staging: Staging,
    /// What makes catalogs. Default: the manifest compiler.
    pub compiler: Arc<dyn Compiler>,
    /// How many catalogs are compiled at once. Default: one per core.
    pub compile_workers: usize,
    /// How many reports are kept for each node. Default: 100.
    pub reports_per_node: usize,
    /// Certificates of the servers that may follow this one. Default: none.
    pub replicas: Vec<Certname>,
    /// Servers of which one is the primary that this server follows; then it publishes nothing itself, until it is promoted.
    /// Default: none.
    pub primary: Option<Peers>,
    /// On a primary: servers that may be promoted in its place. They are asked whenever it starts, before it answers. Default: none.
    pub successors: Option<Peers>,
    /// On a replica: for how long what was last confirmed is still answered when no primary can be asked. Default: not at all.
    pub unconfirmed_for: Duration,
    /// A store that this server shares with others, which are then its equals; neither `primary` nor `successors` is given then. The
    /// server must be opened within a tokio runtime of several threads. Default: none.
    pub sharing: Option<Sharing>,
    /// For a single act of an administrator while no server runs: the other servers are those that the server was last run with, which
    /// cannot be asked, and what needs their word is refused. Default: no.
    pub is_offline: bool,
}

impl ServerOptions {
    /// Returns defaults for these directories.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>, staging: Staging) -> Self {
        Self {
            data_dir: data_dir.into(),
            staging,
            compiler: Arc::new(ManifestCompiler::default()),
            compile_workers: std::thread::available_parallelism().map_or(2, std::num::NonZero::get),
            reports_per_node: 100,
            replicas: Vec::new(),
            primary: None,
            successors: None,
            unconfirmed_for: Duration::ZERO,
            sharing: None,
            is_offline: false,
        }
    }
}

/// What was confirmed with the primary.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Confirmed {
    /// For how long it could not be, where the options allow answers then.
    pub unconfirmed_for: Option<Duration>,
    /// Environments that are live here and not at the primary; nobody is answered from them.
    pub orphans: Arc<BTreeSet<Environment>>,
}

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
    pub(crate) gate: Arc<Gate>,
    pub(crate) mending: Arc<Mending>,
    /// This server's part in a store that it shares.
    pub(crate) shared: Option<Arc<Shared>>,
    /// The way to the primary, while this is a replica.
    pub(crate) upstream: Option<Arc<Upstream>>,
    /// Who follows this server.
    pub(crate) followers: Followers,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) flights: Flights,
    pub(crate) workers: Arc<Semaphore>,
    pub(crate) publishing: Arc<Mutex<()>>,
    pub(crate) stopping: CancellationToken,
    /// Held for reading by what puts contents into the store, for writing by what removes them.
    pub(crate) collecting: Arc<RwLock<()>>,
    _lock: File,
}

/// A line of the audit log.
#[derive(Debug, Serialize)]
struct Audit<'a> {
    time_unix_seconds: u64,
    act: &'a str,
    who: &'a str,
    what: &'a str,
}

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
        let nodes = Arc::new(Nodes::open(&options.data_dir, options.reports_per_node)?);
        let flights = Flights::default();
        let share = |sharing| {
            Shared::new(
                sharing,
                store.clone(),
                Arc::clone(&environments),
                Arc::clone(&nodes),
                flights.clone(),
                options.reports_per_node,
            )
        };
        let shared = options.sharing.as_ref().map(share);
        let peers = shared.as_ref().map(Shared::peers).or_else(|| options.primary.clone()).or_else(|| options.successors.clone());
        let upstream = |peers| {
            Arc::new(Upstream::new(peers, Arc::clone(&environments), store.clone(), Arc::clone(&collecting), Arc::clone(&gate)))
        };
        let upstream = peers.as_ref().map(upstream);
        let others = match (&shared, &options.primary, &options.successors) {
            (Some(_), ..) => Others::Store,
            (None, Some(_), _) => Others::Primary,
            (None, None, Some(_)) => Others::Successors,
            (None, None, None) => Others::None,
        };
        let others = Some(others).filter(|_| !options.is_offline);
        let role = Arc::new(Role::open(&options.data_dir, others, environments.epoch())?);
        let server = Self {
            environments,
            role,
            peers,
            watch: Watch::default(),
            gate,
            mending: Arc::default(),
            upstream,
            followers: Followers::default(),
            nodes,
            flights,
            shared,
            workers: Arc::new(Semaphore::new(options.compile_workers.max(1))),
            publishing: Arc::default(),
            stopping: CancellationToken::new(),
            collecting,
            store,
            options,
            _lock: lock,
        };
        server.begin_epoch()?;
        Ok(Arc::new(server))
    }

    /// Has check-ins that are held for news answered now: call it before the listeners stop, which wait for what is under way.
    pub fn stop_holding(&self) {
        self.stopping.cancel();
    }

    /// Publishes staged code; one result for each environment.
    ///
    /// # Errors
    ///
    /// When staging cannot be listed at all, or this is a replica; what is wrong with one environment is in its result.
    pub async fn publish(self: &Arc<Self>, request: PublishRequest) -> Result<Vec<EnvironmentResult>, ServerError> {
        self.refuse_as_replica()?;
        self.cleared().await?;
        let server = Arc::clone(self);
        blocking::run(move || publish::publish(&server, &request)).await?
    }

    /// Without a word to the other servers, nothing that concerns them is done: one of them may have taken over.
    pub(crate) fn refuse_offline(&self) -> Result<(), ServerError> {
        if self.options.is_offline && self.role.others() != Others::None {
            return Err(ServerError::Offline);
        }
        Ok(())
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

    /// Makes sure that nobody who asked before this returns is answered from code that was replaced before he asked: a replica asks its
    /// primary what is live and brings it.
    ///
    /// # Errors
    ///
    /// When no primary can be asked, or what it has cannot be brought.
    ///
    /// # Cancel safety
    ///
    /// Safe: the confirmation goes on for others who wait for it.
    pub async fn confirm(&self) -> Result<Confirmed, ServerError> {
        if self.role.is_primary() {
            self.cleared().await?;
        }
        if self.role.is_primary() {
            return Ok(Confirmed::default());
        }
        let Some(upstream) = &self.upstream else { return Err(ServerError::Replaced { epoch: self.role.epoch() }) };
        let allowed = || {
            let age = upstream.unconfirmed_for().filter(|age| *age <= self.options.unconfirmed_for)?;
            Some(Confirmed { unconfirmed_for: Some(age), orphans: Arc::default() })
        };
        if upstream.has_just_failed()
            && let Some(confirmed) = allowed()
        {
            return Ok(confirmed);
        }
        match upstream.confirm().await {
            Ok(orphans) => Ok(Confirmed { unconfirmed_for: None, orphans }),
            Err(reason) => allowed().ok_or(ServerError::Unconfirmed { reason }),
        }
    }

    /// Returns every version of an environment, or of all, oldest first. Blocking.
    ///
    /// # Errors
    ///
    /// When the history cannot be read.
    pub fn versions(&self, environment: Option<&Environment>) -> Result<Vec<Version>, ServerError> {
        let mut versions = Vec::new();
        for code in self.environments.all_live() {
            if environment.is_none_or(|wanted| *wanted == code.version.environment) {
                self.learn(&code.version.environment)?;
                versions.extend(self.environments.history(&code.version.environment)?);
            }
        }
        Ok(versions)
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

    /// Brings what is live in the store that servers share; returns the environments that are live here and not there. Nothing where
    /// there is none. Blocking.
    pub(crate) fn catch_up(&self) -> Result<Arc<BTreeSet<Environment>>, ServerError> {
        let (Some(_), Some(upstream)) = (&self.shared, &self.upstream) else { return Ok(Arc::default()) };
        shared::wait(async { upstream.confirm().await.map_err(|reason| ServerError::Unconfirmed { reason }) })
    }

    /// Makes code live that was made on top of `base`, which was live. Returns whether it did: where servers share a store, another one
    /// may have been faster. Blocking; one at a time.
    pub(crate) fn go_live(&self, base: Option<&Code>, code: Code) -> Result<bool, ServerError> {
        if let (Some(shared), Some(upstream)) = (&self.shared, &self.upstream) {
            return shared::wait(async {
                // This may take long, and nodes are answered meanwhile.
                let Some(prepared) = shared.prepare(base, &code).await? else { return Ok(false) };
                // Nothing is brought meanwhile, so that what is live here only grows.
                let _turn = upstream.nothing_is_brought().await;
                if !shared.commit(&prepared).await? {
                    return Ok(false);
                }
                self.environments.switch(code).map(|()| true)
            });
        }
        self.environments.switch(code).map(|()| true)
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

    /// Returns what is known of every node, by name; of servers that share a store, what any of them knows. Blocking.
    ///
    /// # Errors
    ///
    /// When the store cannot be asked.
    pub fn nodes(&self) -> Result<Vec<NodeSummary>, ServerError> {
        let mut nodes: BTreeMap<Certname, NodeSummary> =
            self.nodes.summaries().into_iter().map(|node| (node.certname.clone(), node)).collect();
        if let Some(shared) = &self.shared {
            for there in shared::wait(async { Ok(shared.summaries().await?) })? {
                match nodes.get_mut(&there.certname) {
                    // How often all servers have compiled for it only the store knows.
                    Some(here) if here.last_seen > there.last_seen => here.compiles = there.compiles,
                    _ => drop(nodes.insert(there.certname.clone(), there)),
                }
            }
        }
        Ok(nodes.into_values().collect())
    }

    /// Has the catalogs of a node compiled again when it next checks in: the only cause of a compile beside new code. It is
    /// recorded who asked. Blocking.
    ///
    /// # Errors
    ///
    /// When no such node is known, or the record cannot be written.
    pub fn recompile(&self, certname: &Certname, who: &str) -> Result<(), ServerError> {
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

    /// Records, durably, what an administrator did. Blocking.
    pub(crate) fn audit(&self, act: &str, who: &str, what: &str) -> Result<(), ServerError> {
        let line = Audit { time_unix_seconds: now(), act, who, what };
        disk::append_json(&self.options.data_dir.join("audit.jsonl"), &line)
    }
}

/// Seconds since 1970 UTC.
pub(crate) fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.as_secs());
    #[cfg(test)]
    let now = now.saturating_add_signed(CLOCK_JUMP.load(std::sync::atomic::Ordering::SeqCst));
    now
}

#[cfg(test)]
static CLOCK_JUMP: std::sync::atomic::AtomicI64 = std::sync::atomic::AtomicI64::new(0);

/// Sets the clock forward or back, by seconds.
#[cfg(test)]
pub(crate) fn jump_clock(seconds: i64) {
    CLOCK_JUMP.store(seconds, std::sync::atomic::Ordering::SeqCst);
}
