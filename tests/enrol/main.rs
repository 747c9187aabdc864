//! Nodes that get their certificates from the server itself, all at once; and one that loses its own.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod extensions;
mod killed;
mod programs;
mod routes;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use direct_puppet_server_stub::ca::{Autosign, Ca, CaOptions, Generate, Setup};
use direct_puppet_server_stub::listen::{HttpListener, Limits, ServerTls, Service};
use direct_puppet_server_stub::publish::PublishRequest;
use direct_puppet_server_stub::{AdminRoutes, BlobRoutes, CaRoutes, PuppetRoutes, Server, ServerOptions, Staging};
use direct_puppet_transport::enrol::{CaClient, EnrolError, EnrolTrust, Identity, RequestOptions, is_of_key, make_key, request};
use direct_puppet_transport::protocol::{Certname, CheckIn, Environment, ProtocolVersion};
use direct_puppet_transport::testing::samples;
use direct_puppet_transport::{Client, HttpOptions, HttpTransport, TlsFiles, TransportErrorKind};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Agents at once.
const AGENTS: usize = 200;

struct World {
    dir: TempDir,
    server: Arc<Server>,
    ca: Arc<Ca>,
    address: SocketAddr,
    authority: String,
    /// Added to the time that the authority's clock tells.
    later: Arc<Mutex<Duration>>,
    shutdown: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let staging = dir.path().join("staging");
        fs::create_dir_all(staging.join("environments/production")).unwrap();
        fs::write(staging.join("environments/production/site.yaml"), "nodes:\n  - match: \"*\"\n    classes: []\nclasses: {}\n")
            .unwrap();
        let options = ServerOptions::new(dir.path().join("data"), Staging::Environments(staging));
        let server = Server::open(ServerOptions { replicas: vec![name("replica").into()], ..options }).unwrap();
        assert_eq!(server.publish(PublishRequest::default()).await.unwrap()[0].error, None);
        let later = Arc::new(Mutex::new(Duration::ZERO));
        let told = Arc::clone(&later);
        let clock = Arc::new(move || (SystemTime::now() + *told.lock().unwrap()).into());
        let options = CaOptions { autosign: Autosign::Everybody, clock, ..CaOptions::default() };
        let cadir = dir.path().join("ca");
        let ca = Arc::new(Ca::create(&cadir, &Setup { name: "Puppet CA: test".to_owned() }, options).unwrap());
        let generate =
            Generate { name: name("server"), alternative_names: vec!["localhost".to_owned()], is_administrator: true, ttl: None };
        let own = ca.generate(&generate).unwrap();
        let (certificate, key) = (write(dir.path(), "server.pem", &own.certificate), write(dir.path(), "server.key", &own.key));
        let (authorities, lists) = (cadir.join("ca_crt.pem"), cadir.join("ca_crl.pem"));
        let tls = ServerTls { ca: authorities.clone(), certificate, key, crl: Some(lists), admits_anonymous: true };
        let listener = HttpListener::bind("127.0.0.1:0".parse().unwrap(), Some(tls), false).await.unwrap();
        let (address, shutdown) = (listener.local_addr(), CancellationToken::new());
        let admins = vec![name("boss")];
        let routes = Arc::new(AdminRoutes::new(Arc::clone(&server), admins.clone()));
        let routes = Arc::new(BlobRoutes::new(Arc::clone(&server), routes));
        let routes = Arc::new(PuppetRoutes::new(Arc::clone(&server), routes));
        let routes = Arc::new(CaRoutes::new(Arc::clone(&ca), Some(Arc::clone(&server)), admins, routes));
        tokio::spawn(listener.serve(
            Service { handler: Arc::<Server>::clone(&server), routes: Some(routes) },
            Limits::default(),
            shutdown.clone(),
        ));
        Self { dir, server, ca, address, authority: fs::read_to_string(authorities).unwrap(), later, shutdown }
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    fn client(&self, identity: Option<&Identity>) -> CaClient {
        CaClient::new(&self.url(), &EnrolTrust::Pem(self.authority.clone()), identity).unwrap()
    }

    /// Returns a transport with a certificate.
    fn transport(&self, node: &Node) -> Client<HttpTransport> {
        let file = |kind: &str, text: &str| write(self.dir.path(), &format!("{}.{kind}", node.name), text);
        let tls = TlsFiles {
            ca: self.dir.path().join("ca/ca_crt.pem"),
            certificate: file("pem", &node.certificate),
            key: file("key", &node.key),
            crl: Some(self.dir.path().join("ca/ca_crl.pem")),
        };
        Client::new(HttpTransport::new(&self.url(), &HttpOptions { tls: Some(tls), ..HttpOptions::default() }).unwrap())
    }
}

/// A node with its certificate.
#[derive(Debug, Clone)]
struct Node {
    name: Certname,
    key: String,
    certificate: String,
}

impl Node {
    async fn enrol(client: &CaClient, name: Certname) -> Self {
        let key = make_key().unwrap();
        client.submit(&name, request(&name, &key, &RequestOptions::default()).unwrap()).await.unwrap();
        let certificate = client.certificate(&name).await.unwrap().unwrap();
        assert!(is_of_key(&certificate, &key, &name).unwrap());
        Self { name, key, certificate }
    }

    fn identity(&self) -> Identity {
        Identity::Pem { certificate: self.certificate.clone(), key: self.key.clone() }
    }
}

fn name(text: &str) -> Certname {
    text.parse().unwrap()
}

fn write(dir: &Path, file: &str, text: &str) -> PathBuf {
    let path = dir.join(file);
    fs::write(&path, text).unwrap();
    path
}

fn check_in(name: &Certname) -> CheckIn {
    samples::check_in(name.as_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_agents_enrol_run_and_renew_at_once() {
    let world = Arc::new(World::new().await);
    let mut agents = JoinSet::new();
    for number in 0..AGENTS {
        let world = Arc::clone(&world);
        agents.spawn(async move {
            let node = Node::enrol(&world.client(None), name(&format!("n{number}.example.com"))).await;
            world.transport(&node).check_in(&check_in(&node.name)).await.unwrap();
            node
        });
    }
    let nodes = agents.join_all().await;
    // A year later, by the clock of the authority.
    *world.later.lock().unwrap() = Duration::from_secs(365 * 86_400);
    let mut agents = JoinSet::new();
    for node in nodes {
        let world = Arc::clone(&world);
        agents.spawn(async move {
            let renewed = world.client(Some(&node.identity())).renew().await.unwrap();
            assert!(is_of_key(&renewed, &node.key, &node.name).unwrap() && renewed != node.certificate);
        });
    }
    assert_eq!(agents.join_all().await.len(), AGENTS);
    let inventory = fs::read_to_string(world.dir.path().join("ca/inventory.txt")).unwrap();
    let mut serials: Vec<&str> = inventory.lines().map(|line| line.split(' ').next().unwrap()).collect();
    serials.sort_unstable();
    serials.dedup();
    assert_eq!((serials.len(), inventory.lines().count()), (2 * AGENTS + 1, 2 * AGENTS + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_is_refused_within_a_second_on_old_and_new_connections() {
    let world = World::new().await;
    let node = Node::enrol(&world.client(None), name("n1.example.com")).await;
    let other = Node::enrol(&world.client(None), name("n2.example.com")).await;
    let (transport, others) = (world.transport(&node), world.transport(&other));
    transport.check_in(&check_in(&node.name)).await.unwrap();
    // Another process revokes it: the server sees only the file.
    let same = Ca::open(world.ca.path(), CaOptions::default()).unwrap();
    same.revoke(std::slice::from_ref(&node.name)).unwrap();
    let begun = Instant::now();
    while transport.check_in(&check_in(&node.name)).await.is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(1), "it is still let in");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let error = world.client(Some(&node.identity())).renew().await.unwrap_err();
    assert!(matches!(&error, EnrolError::Transport(error) if error.kind() == TransportErrorKind::Identity), "{error:?}");
    others.check_in(&check_in(&other.name)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_certificate_gets_no_more_than_a_certificate() {
    let world = World::new().await;
    let client = world.client(None);
    assert_eq!(client.authority().await.unwrap(), world.authority);
    assert!(client.revocation_lists().await.unwrap().contains("BEGIN X509 CRL"));
    assert_eq!(client.certificate(&name("nobody")).await.unwrap(), None);
    assert!(matches!(client.renew().await.unwrap_err(), EnrolError::Refused { status: 403, .. }));
    let stranger = CaClient::new(&world.url(), &EnrolTrust::OnFirstUse, None).unwrap();
    assert_eq!(stranger.authority().await.unwrap(), world.authority);
    // Another authority does not vouch for this server.
    let other = World::new().await;
    let error =
        CaClient::new(&world.url(), &EnrolTrust::Pem(other.authority.clone()), None).unwrap().authority().await.unwrap_err();
    assert!(matches!(&error, EnrolError::Transport(error) if error.kind() == TransportErrorKind::Identity), "{error:?}");
}

/// Puppet's own agent, unmodified: trust on first use, a request, a run, and none any more once it is revoked.
#[tokio::test(flavor = "multi_thread")]
async fn puppets_agent_enrols_and_runs_until_it_is_revoked() {
    if !Command::new("puppet").arg("--version").output().is_ok_and(|output| output.status.success()) {
        eprintln!("LEFT OUT: no puppet here (Debian package puppet-agent)");
        return;
    }
    let world = World::new().await;
    let puppet = async |verb: &[&str]| {
        let mut command = Command::new("puppet");
        command.args(verb).args(["--color=false", "--server=localhost", "--certname=stock.example.com", "--waitforcert=0"]);
        command.arg(format!("--serverport={}", world.address.port())).env("LC_ALL", "C.UTF-8").env_remove("GEM_HOME");
        for name in ["confdir", "vardir", "rundir", "logdir", "publicdir", "ssldir"] {
            command.arg(format!("--{name}")).arg(world.dir.path().join("stock").join(name));
        }
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        eprintln!("--- {verb:?}: {:?}\n{text}", output.status.code());
        (output.status.code(), text)
    };
    let (code, text) = puppet(&["ssl", "bootstrap"]).await;
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = puppet(&["ssl", "verify"]).await;
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = puppet(&["agent", "--test"]).await;
    assert_eq!(code, Some(0), "{text}");
    world.ca.revoke(&[name("stock.example.com")]).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (code, text) = puppet(&["agent", "--test"]).await;
    assert!(code == Some(1) && text.contains("revoked"), "{text}");
}
