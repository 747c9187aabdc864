//! A server over TLS, and agents of Puppet with directories of their own.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;

use direct_puppet_server_stub::listen::{HttpListener, Limits, ServerTls, Service};
use direct_puppet_server_stub::publish::PublishRequest;
use direct_puppet_server_stub::{AdminRoutes, PuppetRoutes, Server, ServerOptions, Staging};
use direct_puppet_tests::authority::{Authority, VALID};
use direct_puppet_transport::TlsFiles;
use serde_json::Value as Json;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::library;
#[allow(unused_imports, reason = "another suite has a server of ours only")]
pub(crate) use crate::library::has_agent as has_puppet;

/// Everything that a test needs, removed at its end.
pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) server: Arc<Server>,
    pub(crate) authority: Authority,
    tls: TlsFiles,
    pub(crate) address: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl World {
    /// Starts a server whose staging is empty.
    pub(crate) async fn new() -> Self {
        Self::with(|_| ()).await
    }

    /// Starts one with other options.
    pub(crate) async fn with(change: impl FnOnce(&mut ServerOptions)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let staging = dir.path().join("staging");
        fs::create_dir_all(staging.join("environments/production")).unwrap();
        let mut options = ServerOptions::new(dir.path().join("data"), Staging::Environments(staging));
        library::compile_with_it(&mut options);
        change(&mut options);
        let server = Server::open(options).unwrap();
        let mut authority = Authority::new();
        let (tls, _) = authority.issue("server.example.com", "localhost", VALID);
        let (address, shutdown, task) = listen(&server, &tls, "127.0.0.1:0".parse().unwrap()).await;
        Self { dir, server, authority, tls, address, shutdown, task }
    }

    /// Writes files of the environment `production`.
    pub(crate) fn stage(&self, files: &[(&str, &str)]) {
        for (path, content) in files {
            let path = self.environment().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
    }

    pub(crate) fn environment(&self) -> PathBuf {
        self.dir.path().join("staging/environments/production")
    }

    pub(crate) async fn publish(&self) {
        let results = self.server.publish(PublishRequest::default()).await.unwrap();
        assert_eq!(results[0].error, None);
    }

    /// Returns how often a catalog was compiled, for all nodes together.
    pub(crate) fn compiles(&self) -> u64 {
        self.server.nodes().unwrap().iter().map(|node| node.compiles).sum()
    }

    /// Returns the reports that are kept, oldest first.
    pub(crate) fn reports(&self) -> Vec<Json> {
        let mut paths = Vec::new();
        for node in fs::read_dir(self.dir.path().join("data/nodes")).unwrap() {
            let reports = fs::read_dir(node.unwrap().path().join("reports")).into_iter().flatten();
            paths.extend(reports.map(|entry| entry.unwrap().path()));
        }
        paths.sort_by_key(|path| path.file_name().unwrap().to_owned());
        paths.iter().map(|path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap()).collect()
    }

    /// Returns an agent that has a certificate and has never run.
    pub(crate) fn agent(&mut self, certname: &str) -> StockAgent {
        self.authority.install(certname, certname);
        let dir = self.dir.path().join("agents").join(certname);
        fs::create_dir_all(&dir).unwrap();
        StockAgent { certname: certname.to_owned(), dir, ssldir: self.authority.ssldir().to_owned(), port: self.address.port() }
    }

    /// Stops listening.
    pub(crate) async fn stop(&mut self) {
        self.shutdown.cancel();
        (&mut self.task).await.unwrap();
    }

    /// Listens again, where it did.
    pub(crate) async fn start(&mut self) {
        (self.address, self.shutdown, self.task) = listen(&self.server, &self.tls, self.address).await;
    }
}

async fn listen(server: &Arc<Server>, tls: &TlsFiles, address: SocketAddr) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
    let listener = HttpListener::bind(address, Some(ServerTls::from(tls.clone())), false).await.unwrap();
    let (address, shutdown) = (listener.local_addr(), CancellationToken::new());
    let admin = Arc::new(AdminRoutes::new(Arc::clone(server), Vec::new()));
    let routes = Arc::new(PuppetRoutes::new(Arc::clone(server), admin));
    let service = Service { handler: Arc::<Server>::clone(server), routes: Some(routes) };
    let task = tokio::spawn(listener.serve(service, Limits::default(), shutdown.clone()));
    (address, shutdown, task)
}

/// Puppet's agent with its directories.
pub(crate) struct StockAgent {
    certname: String,
    pub(crate) dir: PathBuf,
    ssldir: PathBuf,
    port: u16,
}

impl StockAgent {
    /// Runs `puppet agent --test` with more arguments; returns its exit status and what it said.
    pub(crate) async fn run(&self, arguments: &[&str]) -> (i32, String) {
        self.run_as(&["--test"], arguments).await
    }

    /// Runs it as the service does, once: then what is cached may be used where the server does not answer.
    pub(crate) async fn run_once(&self, arguments: &[&str]) -> (i32, String) {
        self.run_as(&["--onetime", "--no-daemonize", "--verbose", "--detailed-exitcodes"], arguments).await
    }

    async fn run_as(&self, kind: &[&str], arguments: &[&str]) -> (i32, String) {
        let mut command = library::puppet();
        command.arg("agent").args(kind).args(["--color=false", "--server=localhost", "--certificate_revocation=false"]);
        command.arg(format!("--serverport={}", self.port)).arg(format!("--certname={}", self.certname));
        command.arg("--ssldir").arg(&self.ssldir);
        for name in ["confdir", "vardir", "rundir", "logdir", "publicdir"] {
            command.arg(format!("--{name}")).arg(self.dir.join(name));
        }
        command.args(arguments).env("LC_ALL", "C.UTF-8").env_remove("GEM_HOME");
        let output: Output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        eprintln!("--- {} {arguments:?}: {:?}\n{text}", self.certname, output.status.code());
        (output.status.code().unwrap(), text)
    }
}

pub(crate) fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
