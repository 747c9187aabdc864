//! A server, a site, and nodes below directories of their own, over any transport.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use direct_puppet_agent::system::System;
use direct_puppet_agent::{Agent, AgentBuilder, Outcome, RunError, RunOptions};
use direct_puppet_server_stub::publish::{EnvironmentResult, PublishRequest};
use direct_puppet_server_stub::{Server, ServerOptions, Staging};
use direct_puppet_transport::protocol::{Operation, Value};
use direct_puppet_transport::{Request, Response, Transport, TransportError};
use futures::{StreamExt as _, TryStreamExt as _};
use tempfile::TempDir;

use crate::link::Link;
use crate::site::Site;

/// Everything that a test needs, removed at its end.
#[derive(Debug)]
pub struct World {
    dir: TempDir,
    /// The server.
    pub server: Arc<Server>,
    /// What it publishes.
    pub site: Site,
    link: Link,
}

impl World {
    /// Makes a world whose nodes reach the server over `link`.
    ///
    /// # Panics
    ///
    /// When the machine does not allow it.
    pub async fn new(link: Link) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let site = Site::new(&dir.path().join("staging"));
        let options = ServerOptions::new(dir.path().join("data"), Staging::Environments(site.dir().to_owned()));
        let server = Server::open(options).expect("a server can be opened");
        link.open(dir.path(), Arc::clone(&server)).await;
        Self { dir, server, site, link }
    }

    /// Returns a directory for the test.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Publishes everything, and expects it to work.
    ///
    /// # Panics
    ///
    /// When the code is refused.
    pub async fn publish(&self) -> EnvironmentResult {
        let results = self.server.publish(PublishRequest::default()).await.expect("staging can be listed");
        let result = results.into_iter().next().expect("there is one environment");
        assert_eq!(result.error, None);
        result
    }

    /// Returns a node that has never run.
    ///
    /// # Panics
    ///
    /// When its directory cannot be made.
    #[must_use]
    pub fn node(&self, name: &str) -> Node {
        let root = self.dir.path().join("roots").join(name);
        std::fs::create_dir_all(&root).expect("a root can be made");
        let log = Arc::new(Log::default());
        let transport = Logged { inner: self.link.transport(), log: Arc::clone(&log) };
        Node { name: name.to_owned(), root, transport, log, facts: BTreeMap::new() }
    }

    /// Returns how often a catalog was compiled, for all nodes together.
    #[must_use]
    pub fn compiles(&self) -> u64 {
        self.server.nodes().expect("no store can fail").iter().map(|node| node.compiles).sum()
    }
}

/// One node.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its managed root.
    pub root: PathBuf,
    /// What it says and hears.
    pub log: Arc<Log>,
    /// Facts that it has beside a few fixed ones.
    pub facts: BTreeMap<String, Value>,
    transport: Logged,
}

impl Node {
    /// Returns a builder for an agent of this node; the caller gives the transport.
    ///
    /// # Panics
    ///
    /// When its name is none.
    #[must_use]
    pub fn builder(&self) -> AgentBuilder<()> {
        let system = FixedFacts { facts: self.facts.clone() };
        Agent::builder().certname(self.name.parse().expect("a valid name")).root(&self.root).system(system)
    }

    /// Returns an agent of this node.
    ///
    /// # Panics
    ///
    /// When the options are refused.
    #[must_use]
    pub fn agent(&self) -> Agent<Logged> {
        self.builder().transport(self.transport.clone()).build().expect("the options are valid")
    }

    /// Makes a run.
    ///
    /// # Errors
    ///
    /// When the run does not happen.
    pub async fn try_run(&self) -> Result<Outcome, RunError> {
        self.agent().run(&RunOptions::default()).await
    }

    /// Makes a run that must not fail.
    ///
    /// # Panics
    ///
    /// When it does.
    pub async fn run(&self) -> Outcome {
        let outcome = self.try_run().await.unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!(outcome.resources.failed, 0, "{:#?}", outcome.messages);
        outcome
    }

    /// Returns a path below the root.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Returns the transport, to be wrapped.
    #[must_use]
    pub fn transport(&self) -> Logged {
        self.transport.clone()
    }
}

/// Real time and randomness, facts of the test.
#[derive(Debug)]
struct FixedFacts {
    facts: BTreeMap<String, Value>,
}

impl System for FixedFacts {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn random(&self) -> [u8; 16] {
        direct_puppet_agent::system::RealSystem::default().random()
    }

    fn facts(&self) -> Result<BTreeMap<String, Value>, String> {
        let networking = Value::Hash([("hostname".to_owned(), Value::from("node"))].into());
        let mut facts: BTreeMap<String, Value> =
            [("kernel".to_owned(), Value::from("Linux")), ("networking".to_owned(), networking)].into();
        facts.extend(self.facts.clone());
        Ok(facts)
    }
}

/// One call.
#[derive(Debug, Clone)]
pub struct Call {
    /// What was asked.
    pub operation: Operation,
    /// The request.
    pub request: bytes::Bytes,
    /// Bytes of the response taken so far.
    pub response_bytes: u64,
}

/// Calls, in order.
#[derive(Debug, Default)]
pub struct Log(Mutex<Vec<Call>>);

impl Log {
    /// Takes what was logged so far.
    #[must_use]
    pub fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A transport that logs its calls.
#[derive(Debug, Clone)]
pub struct Logged {
    inner: Arc<dyn Transport>,
    log: Arc<Log>,
}

#[async_trait]
impl Transport for Logged {
    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        let at = {
            let mut log = self.log.0.lock().unwrap_or_else(PoisonError::into_inner);
            log.push(Call { operation: request.operation, request: request.body.clone(), response_bytes: 0 });
            log.len() - 1
        };
        let mut response = self.inner.call(request).await?;
        let log = Arc::clone(&self.log);
        let count = move |chunk: &bytes::Bytes| {
            if let Some(call) = log.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(at) {
                call.response_bytes += chunk.len() as u64;
            }
        };
        response.body = response.body.inspect_ok(count).boxed();
        Ok(response)
    }

    fn endpoint(&self) -> &str {
        self.inner.endpoint()
    }

    fn is_local(&self) -> bool {
        self.inner.is_local()
    }
}
