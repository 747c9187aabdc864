//! One suite over every transport, each in front of the real listener where there is one.
//!
//! A transport of one's own joins by one more test below: `conformance::run` with a function that puts a handler behind it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use direct_puppet_server_stub::listen::{HttpListener, Limits, ServerTls, Service, Threads, UnixListener};
use direct_puppet_tests::authority::{Authority, VALID};
use direct_puppet_transport::testing::conformance::{self, Guard};
use direct_puppet_transport::{
    Handler, HttpOptions, HttpTransport, HttpVersion, MemoryTransport, Retry, RetryPolicy, Timeout, Timeouts, TlsFiles,
    Transport, UnixTransport,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A server that runs until this is dropped.
struct Running {
    task: JoinHandle<()>,
    _directory: Option<TempDir>,
}

impl Guard for Running {
    fn cut(&mut self) -> bool {
        self.task.abort();
        true
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Made<G> = (Arc<dyn Transport>, G);

async fn memory(handler: Arc<dyn Handler>) -> Made<()> {
    (Arc::new(MemoryTransport::new(handler)), ())
}

async fn framed(handler: Arc<dyn Handler>) -> Made<()> {
    (Arc::new(MemoryTransport::framed(handler)), ())
}

async fn unix(handler: Arc<dyn Handler>) -> Made<Running> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    let listener = UnixListener::bind(&path, 0o600).await.unwrap();
    let task = tokio::spawn(listener.serve(handler, Limits::default(), CancellationToken::new()));
    (Arc::new(UnixTransport::new(&path)), Running { task, _directory: Some(directory) })
}

async fn http(handler: Arc<dyn Handler>, version: HttpVersion, tls: Option<(TlsFiles, TlsFiles)>) -> Made<Running> {
    http_within(Limits::default(), None, handler, version, tls).await
}

async fn http_within(
    limits: Limits,
    threads: Option<&Arc<Threads>>,
    handler: Arc<dyn Handler>,
    version: HttpVersion,
    tls: Option<(TlsFiles, TlsFiles)>,
) -> Made<Running> {
    let (server, node) = tls.unzip();
    let loopback = "127.0.0.1:0".parse().unwrap();
    let listener = HttpListener::bind(loopback, server.map(ServerTls::from), false).await.unwrap();
    let listener = match threads {
        Some(threads) => listener.on_threads(Arc::clone(threads)),
        None => listener,
    };
    let options = HttpOptions { tls: node, version, ..HttpOptions::default() };
    let transport = HttpTransport::new(&listener.url(), &options).unwrap();
    let service = Service { handler, routes: None };
    let task = tokio::spawn(listener.serve(service, limits, CancellationToken::new()));
    (Arc::new(transport), Running { task, _directory: None })
}

async fn https(name: &str, version: HttpVersion, limits: Limits, threads: Option<&Arc<Threads>>) {
    let mut authority = Authority::new();
    let (server, _) = authority.issue("server.example.com", "127.0.0.1", VALID);
    let (node, _) = authority.issue("node1", "node1", VALID);
    let tls = || Some((server.clone(), node.clone()));
    conformance::run(name, |handler| http_within(limits.clone(), threads, handler, version, tls())).await;
}

/// What an agent really uses.
fn wrapped(inner: Arc<dyn Transport>) -> Arc<dyn Transport> {
    // Nothing is to time out here; the budget is below the wait that a refusal in the suite asks for, so nothing waits for it.
    let timeouts = Timeouts { response: Duration::from_secs(100), stall: Duration::from_secs(100) };
    let policy = RetryPolicy { budget: Duration::from_secs(15), ..RetryPolicy::default() };
    Arc::new(Retry::new(Timeout::new(inner, timeouts), policy))
}

#[tokio::test]
async fn memory_direct() {
    conformance::run("memory", memory).await;
}

#[tokio::test]
async fn memory_framed() {
    conformance::run("framed memory", framed).await;
}

#[tokio::test]
async fn unix_socket() {
    conformance::run("unix", unix).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unix_socket_on_many_threads() {
    conformance::run("unix on many threads", unix).await;
}

#[tokio::test]
async fn unix_socket_with_retry_and_timeout() {
    let make = |handler| async {
        let (transport, guard) = unix(handler).await;
        (wrapped(transport), guard)
    };
    conformance::run("unix, retry, timeout", make).await;
}

#[tokio::test]
async fn http_1() {
    conformance::run("HTTP/1.1", |handler| http(handler, HttpVersion::Http1, None)).await;
}

#[tokio::test]
async fn http_2() {
    conformance::run("HTTP/2", |handler| http(handler, HttpVersion::Http2, None)).await;
}

/// Each connection is left as soon as nothing happens on it for a moment.
fn parked() -> Limits {
    Limits { park_after: Duration::ZERO, ..Limits::default() }
}

#[tokio::test]
async fn http_1_parked() {
    conformance::run("HTTP/1.1, parked", |handler| http_within(parked(), None, handler, HttpVersion::Http1, None)).await;
}

#[tokio::test]
async fn http_1_over_tls_parked() {
    https("HTTP/1.1 over TLS, parked", HttpVersion::Http1, parked(), None).await;
}

#[tokio::test]
async fn http_1_over_tls() {
    https("HTTP/1.1 over TLS", HttpVersion::Http1, Limits::default(), None).await;
}

#[tokio::test]
async fn http_2_over_tls() {
    https("HTTP/2 over TLS", HttpVersion::Http2, Limits::default(), None).await;
}

/// As the program serves: the runtime of the listener only takes connections.
#[tokio::test]
async fn http_1_over_tls_on_threads_of_their_own() {
    https("HTTP/1.1 over TLS on threads", HttpVersion::Http1, parked(), Some(&threads())).await;
}

#[tokio::test]
async fn http_2_over_tls_on_threads_of_their_own() {
    https("HTTP/2 over TLS on threads", HttpVersion::Http2, Limits::default(), Some(&threads())).await;
}

fn threads() -> Arc<Threads> {
    Arc::new(Threads::start(NonZero::new(2).unwrap()).unwrap())
}
