//! Many nodes that wait for news at one server: what each costs, and how a publish wakes them.
//!
//! Each has a connection of its own, which most machines do not allow 100,000 times. So as many as this machine allows wait at a server on
//! it, and 100,000 (`CAMPAIGN=long`; else 1,000) at one in a virtual machine.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use direct_puppet_tests::authority::{Authority, VALID};
use direct_puppet_tests::campaign;
use direct_puppet_tests::guest::Guest;
use direct_puppet_tests::serving::Serving;
use direct_puppet_tests::site::Site;
use direct_puppet_transport::http::pem;
use direct_puppet_transport::protocol::{CatalogReply, CheckIn, Held, Operation, SubmitFacts, codec};
use direct_puppet_transport::testing::samples;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

#[path = "waiting/replica.rs"]
mod replica;

/// What a server takes once, however many nodes there are, for its threads and for what happens at the same time.
const ONCE: usize = 8 << 20;

/// What 100,000 waiting nodes may take of the server's memory, in bytes.
const MOST: usize = 2 << 30;

/// What a waiting node may take of it beside what is taken once.
const MOST_EACH: usize = (MOST - ONCE) / 100_000;

/// Memory of the virtual machine in which they all wait, in MiB: the other end of each connection is in it too.
const GUEST_MIB: u32 = 16 * 1024;

/// Mappings of memory that a program in it may need for each node: of user-mode Linux each page can be one.
const MAPPINGS_EACH: usize = 40;

/// Seconds that a node waits at most before it asks again.
const WAIT_SECONDS: u32 = 590;

/// A connection, with TLS or without.
trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

/// A node with a connection of its own, spoken to without a client library: the test has as many as the server.
struct Node {
    name: String,
    stream: Box<dyn Connection>,
}

/// What a node shows to the server.
type Identity = Arc<ClientConfig>;

impl Node {
    async fn connect(number: usize, server: SocketAddr, identity: Option<Identity>, net: u8) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // Each address has some 28,000 ports, and those of another test are kept by the kernel for a while.
        let own = Ipv4Addr::new(127, 0, net, u8::try_from(1 + number / 20_000).unwrap());
        socket.bind(SocketAddr::new(IpAddr::V4(own), 0)).unwrap_or_else(|error| panic!("{own}: {error}"));
        let stream = socket.connect(server).await.unwrap();
        let stream: Box<dyn Connection> = match identity {
            None => Box::new(stream),
            Some(identity) => {
                let name = ServerName::IpAddress(server.ip().into());
                Box::new(TlsConnector::from(identity).connect(name, stream).await.unwrap())
            }
        };
        Self { name: name(number), stream }
    }

    async fn ask(&mut self, operation: Operation, message: &(impl Serialize + Sync)) -> CatalogReply {
        let body = codec::encode(message).unwrap();
        let head = format!(
            "POST /direct/v1/{operation} HTTP/1.1\r\nhost: server\r\ncontent-type: application/vnd.direct-puppet+msgpack\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        self.stream.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
        let mut answer = Vec::new();
        loop {
            let mut chunk = [0; 2048];
            let count = self.stream.read(&mut chunk).await.unwrap();
            assert!(count > 0, "the server hung up on {}", self.name);
            answer.extend_from_slice(&chunk[..count]);
            let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
            assert!(head.starts_with("http/1.1 200"), "{head}");
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse::<usize>().unwrap();
            if answer.len() >= end + 4 + length {
                return codec::decode(&answer[end + 4..end + 4 + length], 1 << 20).unwrap();
            }
        }
    }

    fn check_in(&self, held: Option<Held>, wait_seconds: u32) -> CheckIn {
        CheckIn { held, wait_seconds, ..samples::check_in(&self.name) }
    }

    async fn catalog(&mut self) -> Held {
        let request = SubmitFacts { check_in: self.check_in(None, 0), facts: [].into() };
        match self.ask(Operation::SubmitFacts, &request).await {
            CatalogReply::Catalog { catalog_id, code_id, version, .. } => Held { catalog_id, code_id, version },
            other => panic!("no catalog but {other:?}"),
        }
    }
}

fn name(number: usize) -> String {
    format!("node{number}.example.com")
}

/// Issues a node's certificate.
fn identity(authority: &mut Authority, number: usize) -> Identity {
    let (files, _) = authority.issue(&name(number), &name(number), VALID);
    let (chain, key) = (pem::certificates(&files.certificate).unwrap(), pem::private_key(&files.key).unwrap());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let roots = pem::authorities(&files.ca).unwrap();
    Arc::new(builder.with_root_certificates(roots).with_client_auth_cert(chain, key).unwrap())
}

/// Returns how many bytes of memory a process has.
fn memory(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// Returns how many files this process may open, after it allowed itself as many as it can.
fn open_files() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    maximum.map_or(usize::MAX, |maximum| usize::try_from(maximum).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_nodes_wait_at_little_cost_and_a_publish_wakes_them_at_the_rate_that_was_set() {
    wait_and_wake(None, campaign(20_000), Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tls_they_do_too() {
    wait_and_wake(Some(Authority::new()), campaign(20_000), Duration::from_secs(5)).await;
}

/// The name of the test that is run in the virtual machine.
const IN_A_MACHINE: &str = "in_a_machine_of_its_own";

#[test]
fn a_hundred_thousand_do_at_one_server_in_a_machine_that_allows_so_many_connections() {
    let guest = match Guest::find() {
        Ok(guest) => guest,
        Err(missing) => {
            println!("LEFT OUT: a virtual machine in which a hundred thousand nodes wait; it needs {missing}");
            return;
        }
    };
    // System calls are slow there: a short campaign shows that the machine works.
    let nodes = if campaign(100) == 100 { 100_000 } else { 1_000 };
    let mappings = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap().trim().parse::<usize>().unwrap();
    if mappings < nodes * MAPPINGS_EACH {
        println!("LEFT OUT: {nodes} nodes in a virtual machine need sysctl -w vm.max_map_count={}", nodes * MAPPINGS_EACH);
        return;
    }
    let program = std::env::current_exe().unwrap();
    let test = ["--exact", IN_A_MACHINE, "--ignored", "--nocapture"];
    let said = match guest.run(&program, &test, &[("NODES", &nodes.to_string())], if nodes == 1_000 { 2_048 } else { GUEST_MIB })
    {
        Ok(said) => said,
        Err(why) => {
            println!("LEFT OUT: {nodes} nodes in a virtual machine, which did not come up: {why}");
            return;
        }
    };
    assert!(said.contains("test result: ok. 1 passed"), "{said}");
    let waited = said.lines().filter(|line| line.contains("nodes wait") || line.contains("woken at"));
    let waited: Vec<&str> = waited.inspect(|line| println!("in a machine of their own, {line}")).collect();
    assert!(waited.iter().any(|line| line.contains(&format!("{nodes} nodes wait, https"))), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it wants more connections than most machines allow: the test above starts it in a machine of its own, and fails unless it ran there"]
async fn in_a_machine_of_its_own() {
    let nodes = asked_nodes();
    wait_and_wake(Some(Authority::new()), nodes, Duration::from_secs(if nodes < 10_000 { 5 } else { 100 })).await;
}

/// Returns how many nodes the test above wants in the virtual machine.
#[expect(clippy::disallowed_methods, reason = "it is told by the test that started this one")]
fn asked_nodes() -> usize {
    std::env::var("NODES").unwrap().parse().unwrap()
}

/// Has nodes wait, and wakes them at a rate by which that takes so long.
async fn wait_and_wake(mut authority: Option<Authority>, wanted: usize, waking: Duration) {
    let nodes = wanted.min(open_files() - 2_000);
    if nodes < wanted {
        println!("only {nodes} of {wanted} nodes: this process may not open more files");
    }
    let dir = tempfile::tempdir().unwrap();
    let site = Site::new(&dir.path().join("site"));
    site.fill(1, "one");
    let mut options: Vec<OsString> = vec!["--max-connections".into(), (nodes + 100).to_string().into()];
    let scheme = if let Some(authority) = &mut authority {
        authority.install("server.example.com", "127.0.0.1");
        options.extend(["--ssldir".into(), authority.ssldir().into(), "--certname".into(), "server.example.com".into()]);
        "https"
    } else {
        "http"
    };
    let server = Serving::listening(dir.path(), &site, &[&format!("{scheme}://127.0.0.1:0")], &options);
    assert!(server.verb(&["publish"]).status.success());
    let address: SocketAddr = server.urls[0].split_once("://").unwrap().1.trim_end_matches('/').parse().unwrap();
    // All have a catalog before they wait, a few at a time.
    let before = memory(server.pid());
    let turns = Arc::new(tokio::sync::Semaphore::new(64));
    let mut waits = JoinSet::new();
    for number in 0..nodes {
        let identity = authority.as_mut().map(|authority| identity(authority, number));
        let net = 1 + u8::from(identity.is_some());
        let turns = Arc::clone(&turns);
        waits.spawn(async move {
            let turn = turns.acquire_owned().await.unwrap();
            let mut node = Node::connect(number, address, identity, net).await;
            let held = node.catalog().await;
            drop(turn);
            let request = node.check_in(Some(held), WAIT_SECONDS);
            loop {
                let asked = Instant::now();
                let reply = node.ask(Operation::CheckIn, &request).await;
                if !matches!(reply, CatalogReply::Current { .. }) {
                    return (reply, Instant::now());
                }
                assert!(asked.elapsed() > Duration::from_secs(u64::from(WAIT_SECONDS) - 10), "{} did not wait", node.name);
            }
        });
    }
    // The first to be answered would be one that did not wait.
    let begun = Instant::now();
    let pause = Duration::from_millis(500 + nodes as u64 / 3);
    while direct_puppet_tests::binaries::json(&server.verb(&["nodes"])).as_array().unwrap().len() < nodes {
        assert!(begun.elapsed() < Duration::from_secs(1_800), "the nodes never came");
        tokio::time::sleep(pause).await;
    }
    // The last of them have their catalogs, and have to come back to wait.
    tokio::time::sleep(Duration::from_secs(2) + pause).await;
    assert!(waits.try_join_next().is_none(), "a node was answered though nothing is new");
    let taken = memory(server.pid()).saturating_sub(before);
    let each = taken / nodes;
    println!(
        "{nodes} nodes wait, {scheme}: {each} bytes of the server's memory for each, {} MiB in all",
        memory(server.pid()) >> 20
    );
    assert!(taken.saturating_sub(ONCE) / nodes <= MOST_EACH, "{each} bytes for each node");
    assert!(memory(server.pid()) <= MOST, "{} bytes", memory(server.pid()));

    let rate = nodes.div_ceil(usize::try_from(waking.as_secs()).unwrap());
    assert!(server.verb(&["rollout", "--per-second", &rate.to_string()]).status.success());
    site.fill(1, "two");
    let published = Instant::now();
    assert!(server.verb(&["publish"]).status.success());
    let mut ends = Vec::new();
    while let Some(ended) = waits.join_next().await {
        let (reply, end) = ended.unwrap();
        assert_eq!(reply, CatalogReply::FactsNeeded);
        ends.push(end.saturating_duration_since(published));
    }
    ends.sort_unstable();
    let last = *ends.last().unwrap();
    let quarters = [1, 2, 3].map(|quarter| ends[nodes * quarter / 4]);
    println!("woken at {rate} a second: a quarter of them after {quarters:?}, the last after {last:?}");
    assert_eq!(ends.len(), nodes);
    assert!(last >= waking.mul_f64(0.8), "the rate was not kept: {last:?}");
    // Evenly, and not all at the end, or at once.
    for (at, quarter) in quarters.iter().zip([0.25, 0.5, 0.75]) {
        assert!(*at + Duration::from_secs(1) >= waking.mul_f64(quarter), "more than the rate: {quarters:?}");
        assert!(*at <= last.mul_f64(quarter + 0.35), "not evenly: {quarters:?} of {last:?}");
    }
    // However busy the machine is: nobody waits until his time is over.
    assert!(last <= waking.mul_f64(5.0), "they were woken too slowly: {last:?}");
}
