//! The server as nodes and administrators meet it, over real directories and no socket.

mod answers;
mod audit;
mod bookkeeping;
mod clocks;
mod compilers;
mod contents;
mod damage;
mod environments;
mod extensions;
mod flipped;
mod guide;
mod history;
mod links;
pub(crate) mod log;
mod packs;
mod pieces;
mod promotion;
mod publish;
mod races;
mod replica;
mod restored;
mod role;
mod rollout;
mod routes;
mod share;
mod shared;
mod shared_races;
pub(crate) mod sim;
mod staging;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use direct_puppet_transport::protocol::{
    Catalog, CatalogReply, Certname, CheckIn, Environment, Held, ProtocolVersion, Refusal, SubmitFacts, Value,
};
use direct_puppet_transport::testing::samples;
use direct_puppet_transport::{Handler as _, Peer};

use crate::code::Code;
use crate::compile::{CompileError, CompileRequest, Compiled, Compiler, ManifestCompiler};
use crate::publish::{EnvironmentResult, PublishRequest};
use crate::{Server, ServerOptions, Staging};

const SITE: &str = "\
nodes:
  - match: \"*\"
    classes: [base]
classes:
  base:
    - file: /etc/motd
      content: \"{{ node }} runs {{ facts.kernel }}\\n\"
    - file: /srv/app
      source: puppet:///modules/app/tree
      recurse: true
";

/// The manifest compiler, counting.
#[derive(Debug, Default)]
struct Counting {
    inner: ManifestCompiler,
    compiles: AtomicU64,
    /// Whoever holds it keeps compiles from ending.
    gate: tokio::sync::Mutex<()>,
}

impl Compiler for Counting {
    fn name_and_version(&self) -> &str {
        self.inner.name_and_version()
    }

    fn check(&self, code: &Code) -> Result<(), CompileError> {
        self.inner.check(code)
    }

    fn compile(&self, request: &CompileRequest) -> Result<Compiled, CompileError> {
        self.compiles.fetch_add(1, Ordering::SeqCst);
        drop(self.gate.blocking_lock());
        self.inner.compile(request)
    }
}

/// A data directory and a staging directory with one environment.
pub(crate) struct World {
    dir: tempfile::TempDir,
    compiler: Arc<Counting>,
}

impl World {
    pub(crate) fn new() -> Self {
        let world = Self { dir: tempfile::tempdir().unwrap(), compiler: Arc::default() };
        world.stage("site.yaml", SITE);
        world.stage("modules/app/files/tree/a", "content a");
        world
    }

    pub(crate) fn environment(&self) -> PathBuf {
        self.dir.path().join("staging/environments/production")
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn stage(&self, path: &str, content: impl AsRef<[u8]>) {
        self.stage_in("production", path, content);
    }

    /// Stages a file of an environment; another than the first one is made like that if there is none.
    pub(crate) fn stage_in(&self, environment: &str, path: &str, content: impl AsRef<[u8]>) {
        let top = self.dir.path().join("staging/environments").join(environment);
        if top != self.environment() && !top.exists() {
            fs::create_dir_all(&top).unwrap();
            fs::copy(self.environment().join("site.yaml"), top.join("site.yaml")).unwrap();
        }
        let path = top.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn open(&self) -> Arc<Server> {
        self.open_with(|_| {})
    }

    fn open_with(&self, change: impl FnOnce(&mut ServerOptions)) -> Arc<Server> {
        let staging = Staging::Environments(self.dir.path().join("staging"));
        let compiler: Arc<dyn Compiler> = Arc::<Counting>::clone(&self.compiler);
        let mut options = ServerOptions { compiler, ..ServerOptions::new(self.data(), staging) };
        change(&mut options);
        Server::open(options).unwrap()
    }

    fn compiles(&self) -> u64 {
        self.compiler.compiles.load(Ordering::SeqCst)
    }
}

/// How much a campaign does: as that of the tests' support, which depends on this crate.
#[expect(clippy::disallowed_methods, reason = "a knob of tests")]
fn campaign(full: usize) -> usize {
    if std::env::var("CAMPAIGN").is_ok_and(|size| size == "long") { full } else { full.div_ceil(10) }
}

async fn publish(server: &Arc<Server>, request: PublishRequest) -> EnvironmentResult {
    let mut results = server.publish(request).await.unwrap();
    assert_eq!(results.len(), 1);
    results.remove(0)
}

/// Returns the live code of the one environment.
fn live(server: &Server) -> Arc<Code> {
    server.environments.live(&Environment::default()).unwrap()
}

async fn publish_all(server: &Arc<Server>) -> EnvironmentResult {
    let result = publish(server, PublishRequest::default()).await;
    assert_eq!(result.error, None);
    result
}

/// Edits a file with a checksum as a program would that writes one.
fn edited(text: &str, from: &str, to: &str) -> String {
    let (kept, _) = text.rsplit_once(",\"check\":").unwrap();
    assert!(kept.contains(from), "{kept}");
    String::from_utf8(crate::disk::checked(format!("{}}}", kept.replace(from, to)).into())).unwrap()
}

fn certname(name: &str) -> Certname {
    name.parse().unwrap()
}

fn check_in(name: &str, held: Option<Held>) -> CheckIn {
    CheckIn { held, ..samples::check_in(name) }
}

fn facts(kernel: &str) -> BTreeMap<String, Value> {
    BTreeMap::from([("kernel".to_owned(), kernel.into())])
}

async fn submit(server: &Server, name: &str, held: Option<Held>, kernel: &str) -> Result<CatalogReply, Refusal> {
    let request = SubmitFacts { check_in: check_in(name, held), facts: facts(kernel) };
    server.submit_facts(&Peer::InProcess, request).await
}

/// Sends facts and returns the catalog that comes back.
async fn compiled(server: &Server, name: &str) -> (Held, Catalog) {
    match submit(server, name, None, "Linux").await.unwrap() {
        CatalogReply::Catalog { catalog_id, code_id, version, catalog, .. } => {
            (Held { catalog_id, code_id, version }, Catalog::decode(&catalog, catalog_id).unwrap())
        }
        other => panic!("no catalog but {other:?}"),
    }
}
