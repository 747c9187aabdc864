//! The Unix listener: its socket file, its peers, its end.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use direct_puppet_server_stub::listen::Limits;
use direct_puppet_server_stub::listen::UnixListener;
use direct_puppet_server_stub::listen::unix::UnixListenError;
use direct_puppet_transport::protocol::{CatalogReply, CheckIn, Fetch, Refusal, Report, ReportAccepted, SubmitFacts};
use direct_puppet_transport::testing::{MockHandler, samples};
use direct_puppet_transport::{CallError, Client, FetchItems, Handler, Peer, TransportError, TransportErrorKind, UnixTransport};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    (directory, path)
}

fn check_in() -> CheckIn {
    samples::check_in("node1")
}

fn mock() -> Arc<dyn Handler> {
    let mut handler = MockHandler::new();
    handler.expect_check_in().returning(|_, _| Ok(CatalogReply::FactsNeeded));
    Arc::new(handler)
}

fn kind(error: &CallError) -> TransportErrorKind {
    let CallError::Transport(error) = error else { panic!("not a transport error: {error:?}") };
    TransportError::kind(error)
}

#[tokio::test]
async fn the_socket_has_its_mode_and_is_gone_at_the_end() {
    let (_directory, path) = place();
    let listener = UnixListener::bind(&path, 0o600).await.unwrap();
    let found = std::fs::symlink_metadata(&path).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o7777, 0o600);
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    listener.serve(mock(), Limits::default(), shutdown).await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_socket_that_somebody_answers_on_is_not_taken_and_a_stale_one_is() {
    let (_directory, path) = place();
    let first = UnixListener::bind(&path, 0o600).await.unwrap();
    assert!(matches!(UnixListener::bind(&path, 0o600).await, Err(UnixListenError::Busy { .. })));
    drop(first);
    assert!(path.exists(), "nothing is stale here");
    let second = UnixListener::bind(&path, 0o600).await.unwrap();
    // Its end leaves a socket alone that is another server's.
    std::fs::remove_file(&path).unwrap();
    let third = UnixListener::bind(&path, 0o600).await.unwrap();
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    second.serve(mock(), Limits::default(), shutdown).await;
    assert!(path.exists());
    drop(third);
}

#[tokio::test]
async fn a_file_that_is_no_socket_and_a_directory_that_others_write_are_refused() {
    let (directory, path) = place();
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(UnixListener::bind(&path, 0o600).await, Err(UnixListenError::NoSocket { .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    let path = directory.path().join("other.sock");
    for mode in [0o777, 0o1777, 0o770] {
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        assert!(matches!(UnixListener::bind(&path, 0o600).await, Err(UnixListenError::OpenDirectory { .. })), "{mode:o}");
    }
    let gone = Path::new("/nonexistent/agent.sock");
    assert!(matches!(UnixListener::bind(gone, 0o600).await, Err(UnixListenError::Bind { .. })));
}

#[tokio::test]
async fn the_kernel_says_who_the_peer_is() {
    let (_directory, path) = place();
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let us = Peer::Process { uid, gid, pid: i32::try_from(std::process::id()).unwrap() };
    let mut handler = MockHandler::new();
    handler.expect_check_in().withf(move |peer, _| *peer == us).times(1).returning(|_, _| Ok(CatalogReply::FactsNeeded));
    let listener = UnixListener::bind(&path, 0o600).await.unwrap();
    let shutdown = CancellationToken::new();
    let served = tokio::spawn(listener.serve(Arc::new(handler), Limits::default(), shutdown.clone()));
    Client::new(UnixTransport::new(&path)).check_in(&check_in()).await.unwrap();
    shutdown.cancel();
    served.await.unwrap();
}

#[tokio::test]
async fn nobody_there_is_a_connect_error() {
    let (_directory, path) = place();
    let client = Client::new(UnixTransport::new(&path));
    assert_eq!(kind(&client.check_in(&check_in()).await.unwrap_err()), TransportErrorKind::Connect);
    drop(UnixListener::bind(&path, 0o600).await.unwrap());
    assert_eq!(kind(&client.check_in(&check_in()).await.unwrap_err()), TransportErrorKind::Connect);
}

/// Answers a check-in when it is let.
#[derive(Debug)]
struct Gated {
    gate: Semaphore,
    is_asked: Semaphore,
}

impl Default for Gated {
    fn default() -> Self {
        Self { gate: Semaphore::new(0), is_asked: Semaphore::new(0) }
    }
}

#[async_trait]
impl Handler for Gated {
    async fn check_in(&self, _: &Peer, _: CheckIn) -> Result<CatalogReply, Refusal> {
        self.is_asked.add_permits(1);
        self.gate.acquire().await.unwrap().forget();
        Ok(CatalogReply::FactsNeeded)
    }

    async fn submit_facts(&self, _: &Peer, _: SubmitFacts) -> Result<CatalogReply, Refusal> {
        panic!("a bug in the handler")
    }

    async fn fetch(&self, _: &Peer, _: Fetch) -> Result<FetchItems, Refusal> {
        panic!("a bug in the handler")
    }

    async fn report(&self, _: &Peer, _: Report) -> Result<ReportAccepted, Refusal> {
        panic!("a bug in the handler")
    }
}

#[tokio::test]
async fn a_request_under_way_is_finished_at_the_end_and_no_new_one_begins() {
    let (_directory, path) = place();
    let (handler, shutdown) = (Arc::new(Gated::default()), CancellationToken::new());
    let listener = UnixListener::bind(&path, 0o600).await.unwrap();
    let served = tokio::spawn(listener.serve(Arc::<Gated>::clone(&handler), Limits::default(), shutdown.clone()));
    let client = Client::new(UnixTransport::new(&path));
    let finished = AtomicBool::new(false);
    let call = async {
        client.check_in(&check_in()).await.unwrap();
        finished.store(true, Ordering::SeqCst);
    };
    let end = async {
        handler.is_asked.acquire().await.unwrap().forget();
        shutdown.cancel();
        while path.exists() {
            tokio::task::yield_now().await;
        }
        assert!(!finished.load(Ordering::SeqCst) && !served.is_finished());
        let late = Client::new(UnixTransport::new(&path)).check_in(&check_in()).await;
        assert_eq!(kind(&late.unwrap_err()), TransportErrorKind::Connect);
        handler.gate.add_permits(1);
    };
    tokio::join!(call, end);
    served.await.unwrap();
}

#[tokio::test]
async fn what_does_not_finish_in_time_is_cut() {
    let (_directory, path) = place();
    let (handler, shutdown) = (Arc::new(Gated::default()), CancellationToken::new());
    let limits = Limits { drain_timeout: Duration::from_millis(10), ..Limits::default() };
    let listener = UnixListener::bind(&path, 0o600).await.unwrap();
    let served = tokio::spawn(listener.serve(Arc::<Gated>::clone(&handler), limits, shutdown.clone()));
    let client = Client::new(UnixTransport::new(&path));
    let request = check_in();
    let end = async {
        handler.is_asked.acquire().await.unwrap().forget();
        shutdown.cancel();
        served.await.unwrap();
    };
    let (answer, ()) = tokio::join!(client.check_in(&request), end);
    assert_eq!(kind(&answer.unwrap_err()), TransportErrorKind::Closed);
}

#[tokio::test]
async fn a_quiet_peer_loses_its_place_and_a_panic_costs_one_connection() {
    let (_directory, path) = place();
    let (handler, shutdown) = (Arc::new(Gated::default()), CancellationToken::new());
    handler.gate.add_permits(1);
    let limits = Limits { max_connections: 1, idle_timeout: Duration::from_millis(20), ..Limits::default() };
    let listener = UnixListener::bind(&path, 0o600).await.unwrap();
    let served = tokio::spawn(listener.serve(Arc::<Gated>::clone(&handler), limits, shutdown.clone()));
    // The only place is taken by one that says nothing, then by one that makes the handler panic.
    let mut quiet = UnixStream::connect(&path).await.unwrap();
    let client = Client::new(UnixTransport::new(&path));
    let facts = SubmitFacts { check_in: check_in(), facts: Default::default() };
    assert_eq!(kind(&client.submit_facts(&facts).await.unwrap_err()), TransportErrorKind::Closed);
    assert_eq!(quiet.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(client.check_in(&check_in()).await.unwrap(), CatalogReply::FactsNeeded);
    shutdown.cancel();
    served.await.unwrap();
}
