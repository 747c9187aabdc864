//! What a peer can do wrong harms nobody else.

use std::time::Duration;

use bytes::Bytes;
use direct_puppet_server_stub::listen::Limits;
use direct_puppet_transport::protocol::limits::MAX_SMALL_MESSAGE_BYTES;
use direct_puppet_transport::protocol::{CatalogReply, Operation, Refusal, RefusalCode, codec};
use direct_puppet_transport::{
    CallError, Client, HttpOptions, HttpTransport, HttpVersion, Request, Response, Status, Transport as _, TransportErrorKind,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::site::{CHUNK_BYTES, Server, Site};
use crate::{check_in, fetch, report};

async fn refusal(response: Response) -> Refusal {
    assert_eq!(response.status, Status::Refused);
    let body = response.into_bytes(MAX_SMALL_MESSAGE_BYTES, "test").await.unwrap();
    codec::decode(&body, MAX_SMALL_MESSAGE_BYTES).unwrap()
}

/// Sends bytes on a connection of its own and returns all that comes back until the server closes it.
pub(crate) async fn raw(server: &Server, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_request_over_its_limit_is_refused_and_the_connection_lives_on() {
    for version in [HttpVersion::Http1, HttpVersion::Http2] {
        let server = Server::start(Site::new(0), None).await;
        let transport = server.transport(version, None);
        for over in [1, 8 << 20] {
            let body = Bytes::from(vec![0; MAX_SMALL_MESSAGE_BYTES as usize + over]);
            let response = transport.call(Request { operation: Operation::CheckIn, body }).await.unwrap();
            let refusal = refusal(response).await;
            assert_eq!(refusal.code, RefusalCode::BadRequest);
            assert!(refusal.message.contains("longer than"), "{refusal}");
        }
        assert_eq!(Client::new(transport).check_in(&check_in()).await.unwrap(), CatalogReply::FactsNeeded);
        assert_eq!(server.site.peers.lock().unwrap().len(), 1);
        server.stop().await;
    }
}

#[tokio::test]
async fn a_length_that_is_not_announced_is_counted() {
    let server = Server::start(Site::new(0), None).await;
    let mut request =
        b"POST /direct/v1/check_in HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n".to_vec();
    request.extend_from_slice(b"content-type: application/vnd.direct-puppet+msgpack\r\n\r\n");
    for _ in 0..=MAX_SMALL_MESSAGE_BYTES / CHUNK_BYTES {
        request.extend_from_slice(format!("{CHUNK_BYTES:x}\r\n").as_bytes());
        request.extend_from_slice(&vec![0; CHUNK_BYTES as usize]);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    assert!(raw(&server, &request).await.starts_with("HTTP/1.1 413 "));
    server.stop().await;
}

#[tokio::test]
async fn a_length_that_is_announced_too_long_is_refused_though_nothing_comes() {
    let server = Server::start(Site::new(0), None).await;
    let head = b"POST /direct/v1/check_in HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 99999999999\r\n\
        content-type: application/vnd.direct-puppet+msgpack\r\n\r\n";
    // Well before the 120 s that a body may take.
    let answer = tokio::time::timeout(Duration::from_secs(30), raw(&server, head)).await.unwrap();
    assert!(answer.contains("HTTP/1.1 413 "), "{answer}");
    server.stop().await;
}

/// Connects as one that sends most of a body, and is in no hurry for the rest.
async fn dawdle(server: &Server) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = b"POST /direct/v1/report HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\
        content-type: application/vnd.direct-puppet+msgpack\r\n\r\n";
    stream.write_all(head).await.unwrap();
    stream.write_all(&vec![0; 900_000]).await.unwrap();
    stream
}

#[tokio::test]
async fn large_requests_that_find_no_room_are_told_to_come_again_and_small_ones_are_answered() {
    let limits = Limits { max_held_bytes: 1 << 20, request_body_timeout: Duration::from_secs(5), ..Limits::default() };
    let server = Server::with_limits(Site::new(0), None, limits).await;
    let transport = server.transport(HttpVersion::Http1, None);
    let large = || Request { operation: Operation::Report, body: Bytes::from(vec![0; 500_000]) };
    let mut dawdling = dawdle(&server).await;
    let mut refused = None;
    for _ in 0..100 {
        // Until what was sent has come.
        let response = transport.call(large()).await.unwrap();
        let retry_after = response.retry_after;
        let refusal = refusal(response).await;
        if refusal.code == RefusalCode::Busy {
            refused = retry_after;
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        // Whoever comes second is turned away: that may have been the one that dawdles, while its body was on its way.
        if dawdling.try_read(&mut [0]).is_ok() {
            dawdling = dawdle(&server).await;
        }
    }
    assert!(refused.is_some(), "nobody was told to come again");
    assert_eq!(
        Client::new(server.transport(HttpVersion::Http1, None)).check_in(&check_in()).await.unwrap(),
        CatalogReply::FactsNeeded
    );
    // Its room is free again when it has gone away.
    drop(dawdling);
    let mut code = RefusalCode::Busy;
    for _ in 0..100 {
        code = refusal(transport.call(large()).await.unwrap()).await.code;
        if code != RefusalCode::Busy {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(code, RefusalCode::BadRequest, "zeros are no report");
    server.stop().await;
}

#[tokio::test]
async fn other_paths_methods_and_types() {
    let server = Server::start(Site::new(0), None).await;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").into_bytes();
    let put = |length: usize| {
        let body = "x".repeat(length);
        format!("PUT /echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
    };
    assert!(raw(&server, &get("/status")).await.ends_with("Plain"));
    assert!(raw(&server, &put(10)).await.ends_with("\r\n\r\nxxxxxxxxxx"));
    assert!(raw(&server, &put(11)).await.starts_with("HTTP/1.1 413 "));
    let unknown = raw(&server, &get("/direct/v1/unknown")).await;
    assert!(unknown.starts_with("HTTP/1.1 404 ") && unknown.contains("x-direct-puppet-status: refused"), "{unknown}");
    assert!(raw(&server, &get("/direct/v1/fetch")).await.starts_with("HTTP/1.1 405 "));
    let form = b"POST /direct/v1/fetch HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    assert!(raw(&server, form).await.starts_with("HTTP/1.1 415 "));
    assert!(server.site.peers.lock().unwrap().is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_handler_that_panics_refuses_and_the_server_goes_on() {
    for version in [HttpVersion::Http1, HttpVersion::Http2] {
        let server = Server::start(Site::new(0), None).await;
        let client = Client::new(server.transport(version, None));
        let Err(CallError::Refused(refusal)) = client.report(&report(false)).await else { panic!("not refused") };
        assert_eq!(refusal.code, RefusalCode::Internal);
        assert!(client.report(&report(true)).await.is_ok());
        server.stop().await;
    }
}

#[tokio::test]
async fn peers_that_dawdle_are_closed_and_free_their_place() {
    let short = Duration::from_millis(50);
    let limits = Limits {
        max_connections: 1,
        header_read_timeout: short,
        request_body_timeout: short,
        idle_timeout: short,
        drain_timeout: short,
        ..Limits::default()
    };
    let server = Server::with_limits(Site::new(0), None, limits).await;
    assert_eq!(raw(&server, b"").await, "");
    raw(&server, b"POST /direct/v1/check_in HT").await;
    assert_eq!(raw(&server, b"PRI * HTTP/2.0\r\n\r\nSM").await, "");
    let body = b"POST /direct/v1/fetch HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\
        content-type: application/vnd.direct-puppet+msgpack\r\n\r\nabc";
    assert!(raw(&server, body).await.starts_with("HTTP/1.1 408 "));
    let client = Client::new(server.transport(HttpVersion::Http1, None));
    assert_eq!(client.check_in(&check_in()).await.unwrap(), CatalogReply::FactsNeeded);
    server.stop().await;
}

#[tokio::test]
async fn a_peer_that_takes_nothing_is_cut() {
    let limits = Limits { max_connections: 1, stall_timeout: Duration::from_millis(50), ..Limits::default() };
    for version in [HttpVersion::Http1, HttpVersion::Http2] {
        let server = Server::with_limits(Site::new(1 << 30), None, limits.clone()).await;
        let stalled = Client::new(server.transport(version, None)).fetch(&fetch(1)).await.unwrap();
        // The one place is free again only when the stalled connection is gone.
        let client = Client::new(server.transport(version, None));
        assert_eq!(client.check_in(&check_in()).await.unwrap(), CatalogReply::FactsNeeded);
        assert_eq!(crate::read(stalled).await.unwrap_err().kind(), TransportErrorKind::Closed);
        server.stop().await;
    }
}

/// Answers one connection with fixed bytes.
async fn stranger(answer: &'static str) -> TransportErrorKindAndWait {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            stream.read_buf(&mut request).await.unwrap();
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    let transport = HttpTransport::new(&url, &HttpOptions::default()).unwrap();
    let error = transport.call(Request { operation: Operation::Fetch, body: Bytes::new() }).await.unwrap_err();
    served.await.unwrap();
    (error.kind(), error.retry_after().map(|wait| wait.as_secs()))
}

type TransportErrorKindAndWait = (TransportErrorKind, Option<u64>);

#[tokio::test]
async fn answers_of_something_in_between_are_told_from_the_servers() {
    use TransportErrorKind::{Closed, Protocol, Unavailable};
    let busy = "HTTP/1.1 503 Busy\r\nretry-after: 9\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(stranger(busy).await, (Unavailable, Some(9)));
    assert_eq!(stranger("HTTP/1.1 502 Bad\r\ncontent-length: 0\r\n\r\n").await, (Unavailable, None));
    assert_eq!(stranger("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await, (Protocol, None));
    let elsewhere = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(stranger(elsewhere).await, (Protocol, None));
    assert_eq!(stranger("SSH-2.0-OpenSSH_9.9\r\n").await, (Protocol, None));
    assert_eq!(stranger("").await, (Closed, None));
}
