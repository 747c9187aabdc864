//! The HTTP transport against the HTTP listener, over real sockets on loopback.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test fails by panicking")]

#[path = "http/identity.rs"]
mod identity;
#[path = "http/limits.rs"]
mod limits;
#[path = "http/packed.rs"]
mod packed;
#[path = "http/park.rs"]
mod park;
#[path = "http/resumed.rs"]
mod resumed;
#[path = "http/site.rs"]
mod site;
#[path = "http/threads.rs"]
mod threads;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use direct_puppet_tests::authority::{Authority, VALID};
use direct_puppet_transport::protocol::frame::FetchEvent;
use direct_puppet_transport::protocol::{CatalogReply, CheckIn, Digest, Fetch, RefusalCode, Report, SubmitFacts, Value};
use direct_puppet_transport::testing::samples;
use direct_puppet_transport::{
    CallError, Client, ConnectOptions, FetchStream, HttpVersion, Peer, TlsFiles, Transport, TransportErrorKind, connect,
};
use site::{CHUNK_BYTES, Server, Site};

pub(crate) fn check_in() -> CheckIn {
    samples::check_in("node1.example.com")
}

fn facts(count: i64) -> SubmitFacts {
    let facts = (0..count).map(|number| (format!("fact{number}"), Value::Integer(number))).collect();
    SubmitFacts { check_in: check_in(), facts }
}

pub(crate) fn fetch(count: u8) -> Fetch {
    let digests = (0..count).map(|number| Digest::of(&[number])).collect();
    Fetch { certname: check_in().certname, digests, offsets: BTreeMap::new(), packed: None }
}

pub(crate) fn report(completed: bool) -> Report {
    Report { transaction_completed: completed, ..samples::report("node1.example.com") }
}

/// Reads a fetch to its end and returns how many bytes of contents came.
pub(crate) async fn read(mut stream: FetchStream) -> Result<u64, direct_puppet_transport::TransportError> {
    let mut bytes = 0;
    while let Some(event) = stream.next().await? {
        if let FetchEvent::Data(data) = event {
            bytes += data.len() as u64;
        }
    }
    Ok(bytes)
}

/// Makes every call once and checks what the server saw of the peer.
async fn all_operations(transport: impl Transport, server: Server, peer: Peer) {
    let client = Client::new(transport);
    assert_eq!(client.check_in(&check_in()).await.unwrap(), CatalogReply::FactsNeeded);
    let CatalogReply::Catalog { catalog, .. } = client.submit_facts(&facts(3)).await.unwrap() else { panic!("no catalog") };
    assert_eq!(catalog.len(), 100_000);
    let bytes = read(client.fetch(&fetch(3)).await.unwrap()).await.unwrap();
    assert_eq!(bytes, 3 * server.site.content_bytes);
    assert!(!client.report(&report(true)).await.unwrap().duplicate);
    let Err(CallError::Refused(refusal)) = client.submit_facts(&facts(0)).await else { panic!("not refused") };
    assert_eq!((refusal.code, refusal.retry_after_seconds), (RefusalCode::Busy, Some(17)));
    assert_eq!(*server.site.peers.lock().unwrap(), vec![peer; 5]);
    server.stop().await;
}

fn identities() -> (Authority, TlsFiles, TlsFiles) {
    let mut authority = Authority::new();
    let (server, _) = authority.issue("server.example.com", "127.0.0.1", VALID);
    let (node, _) = authority.issue("node1.example.com", "node1.example.com", VALID);
    (authority, server, node)
}

#[tokio::test]
async fn all_operations_over_plain_http_1() {
    let server = Server::start(Site::new(10 * CHUNK_BYTES), None).await;
    all_operations(server.transport(HttpVersion::Http1, None), server, Peer::Plain).await;
}

#[tokio::test]
async fn all_operations_over_plain_http_2() {
    let server = Server::start(Site::new(10 * CHUNK_BYTES), None).await;
    all_operations(server.transport(HttpVersion::Http2, None), server, Peer::Plain).await;
}

#[tokio::test]
async fn all_operations_over_tls_and_the_peer_is_who_its_certificate_names() {
    let (_authority, files, node) = identities();
    for version in [HttpVersion::Negotiated, HttpVersion::Http1, HttpVersion::Http2] {
        let server = Server::start(Site::new(10 * CHUNK_BYTES), Some(files.clone())).await;
        let peer = Peer::certificate("node1.example.com".parse().unwrap());
        all_operations(server.transport(version, Some(node.clone())), server, peer).await;
    }
}

#[tokio::test]
async fn a_transport_by_url() {
    let (_authority, files, node) = identities();
    let server = Server::start(Site::new(CHUNK_BYTES), Some(files)).await;
    let options = ConnectOptions { tls: Some(node), ..ConnectOptions::default() };
    let transport = connect(&server.url, &options).unwrap();
    all_operations(transport, server, Peer::certificate("node1.example.com".parse().unwrap())).await;
    let server = Server::start(Site::new(CHUNK_BYTES), None).await;
    let transport = connect(&server.url, &ConnectOptions::default()).unwrap();
    all_operations(transport, server, Peer::Plain).await;
}

#[tokio::test]
async fn a_content_that_breaks_off_is_never_a_clean_end() {
    let (_authority, files, node) = identities();
    for (tls, version) in
        [(false, HttpVersion::Http1), (false, HttpVersion::Http2), (true, HttpVersion::Http1), (true, HttpVersion::Http2)]
    {
        let mut site = Site::new(10 * CHUNK_BYTES);
        site.break_at = Some(5 * CHUNK_BYTES);
        let server = Server::start(site, tls.then(|| files.clone())).await;
        let transport = server.transport(version, tls.then(|| node.clone()));
        // The body by itself must break off, not only the frames in it.
        let client = Client::new(transport);
        let error = read(client.fetch(&fetch(1)).await.unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), TransportErrorKind::Closed, "{version:?} {error:?}");
        let source = std::error::Error::source(&error).unwrap();
        assert!(!source.is::<direct_puppet_transport::protocol::frame::FetchError>(), "the body ended cleanly: {source}");
        // What broke off harms no other call.
        assert_eq!(client.check_in(&check_in()).await.unwrap(), CatalogReply::FactsNeeded);
        server.stop().await;
    }
}

#[tokio::test]
async fn nothing_is_made_much_ahead_of_a_caller_that_does_not_read() {
    const CONTENT_BYTES: u64 = 256 << 20;
    // Windows of HTTP/2, or the kernel's socket buffers, and some chunks in the hands of each side.
    const AHEAD_BYTES: u64 = 32 << 20;
    for version in [HttpVersion::Http1, HttpVersion::Http2] {
        let server = Server::start(Site::new(CONTENT_BYTES), None).await;
        let client = Client::new(server.transport(version, None));
        let mut stream = client.fetch(&fetch(1)).await.unwrap();
        let mut read = 0;
        while read < 8 << 20 {
            if let Some(FetchEvent::Data(data)) = stream.next().await.unwrap() {
                read += data.len() as u64;
            }
        }
        // Other calls go on meanwhile, and give the server all the time it wants to run ahead.
        for _ in 0..50 {
            client.check_in(&check_in()).await.unwrap();
        }
        let produced = server.site.produced.load(Ordering::SeqCst);
        assert!(produced < read + AHEAD_BYTES, "{version:?}: {produced} bytes were made, {read} were taken");
        drop(stream);
        server.stop().await;
    }
}

#[tokio::test]
async fn a_fetch_that_runs_is_finished_when_the_server_stops() {
    for version in [HttpVersion::Http1, HttpVersion::Http2] {
        let mut site = Site::new(20 * CHUNK_BYTES);
        site.gate = tokio::sync::Semaphore::new(3);
        let server = Server::start(site, None).await;
        let client = Client::new(server.transport(version, None));
        let mut stream = client.fetch(&fetch(1)).await.unwrap();
        assert!(matches!(stream.next().await.unwrap(), Some(FetchEvent::Blob { .. })));
        server.shutdown.cancel();
        // New connections are refused while the old one lives on.
        while tokio::net::TcpStream::connect(server.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert!(!server.task.is_finished());
        server.site.gate.add_permits(100);
        assert_eq!(read(stream).await.unwrap(), 20 * CHUNK_BYTES);
        server.stop().await;
    }
}
