//! Sessions of TLS that are resumed: who was let in once is let in faster, and no longer than otherwise.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use direct_puppet_tests::authority::{Authority, VALID};
use direct_puppet_transport::http::{pem, wire};
use direct_puppet_transport::protocol::{Operation, codec};
use direct_puppet_transport::{CallError, Client, HttpOptions, HttpTransport, HttpVersion, TlsFiles, TransportErrorKind};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::site::{Server, Site};
use crate::{check_in, identities};

const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

/// A node that keeps the sessions of its connections.
fn node(files: &TlsFiles, version: &'static SupportedProtocolVersion) -> TlsConnector {
    let roots = pem::authorities(&files.ca).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(pem::certificates(&files.certificate).unwrap(), pem::private_key(&files.key).unwrap())
        .unwrap();
    TlsConnector::from(Arc::new(config))
}

/// Checks in over a connection of its own, and returns how that began and whether it was answered.
async fn check_in_once(server: &Server, node: &TlsConnector) -> io::Result<(HandshakeKind, bool)> {
    let stream = TcpStream::connect(server.address).await?;
    let mut stream = node.connect(ServerName::from(server.address.ip()), stream).await?;
    let kind = stream.get_ref().1.handshake_kind().unwrap();
    let body = codec::encode(&check_in()).unwrap();
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: server\r\ncontent-type: {}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        wire::path_of(Operation::CheckIn),
        wire::CONTENT_TYPE,
        body.len()
    );
    stream.write_all(&[head.as_bytes(), &body].concat()).await?;
    let mut answer = Vec::new();
    // To the end: what the server sends last are the tickets.
    stream.read_to_end(&mut answer).await?;
    Ok((kind, answer.starts_with(b"HTTP/1.1 200 ")))
}

fn count_of_peers(server: &Server) -> usize {
    server.site.peers.lock().unwrap().len()
}

#[tokio::test]
async fn a_session_is_resumed_by_the_node_that_began_it() {
    let (_authority, server, files) = identities();
    for version in VERSIONS {
        let server = Server::start(Site::new(0), Some(server.clone())).await;
        let (first, other) = (node(&files, version), node(&files, version));
        for (node, expected) in [
            (&first, HandshakeKind::Full),
            (&first, HandshakeKind::Resumed),
            (&first, HandshakeKind::Resumed),
            (&other, HandshakeKind::Full),
        ] {
            assert_eq!(check_in_once(&server, node).await.unwrap(), (expected, true), "{version:?}");
        }
        let peers = server.site.peers.lock().unwrap().clone();
        assert_eq!(peers.len(), 4);
        assert!(peers.iter().all(|peer| *peer == peers[0] && format!("{peer:?}").contains("node1.example.com")), "{peers:?}");
        server.stop().await;
    }
}

#[tokio::test]
async fn who_was_revoked_resumes_nothing() {
    for version in VERSIONS {
        let mut authority = Authority::new();
        let (server, server_serial) = authority.issue("server.example.com", "127.0.0.1", VALID);
        let (files, serial) = authority.issue("node1.example.com", "node1.example.com", VALID);
        let nobody = server_serial + 100;
        let server = TlsFiles { crl: Some(authority.revoke(&[nobody])), ..server };
        let server = Server::start(Site::new(0), Some(server)).await;
        let node = node(&files, version);
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
            assert_eq!(check_in_once(&server, &node).await.unwrap(), (expected, true), "{version:?}");
        }
        let _list = authority.revoke(&[nobody, serial]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let answered = count_of_peers(&server);
        for _ in 0..3 {
            assert!(!matches!(check_in_once(&server, &node).await, Ok((_, true))), "{version:?}");
        }
        assert_eq!(count_of_peers(&server), answered);
        // Whoever is on no list any more has to show a certificate again.
        let _list = authority.revoke(&[nobody]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(check_in_once(&server, &node).await.unwrap(), (HandshakeKind::Full, true), "{version:?}");
        server.stop().await;
    }
}

#[tokio::test]
async fn a_session_ends_with_the_certificate_that_began_it_or_its_issuer() {
    let end = SystemTime::now() + Duration::from_secs(6);
    let (mut authority, server, _) = identities();
    let name = "node1.example.com";
    let mut ends = Vec::new();
    for files in [authority.issue_until(name, name, end), authority.issue_under(name, name, end)] {
        for version in VERSIONS {
            let server = Server::start(Site::new(0), Some(server.clone())).await;
            let node = node(&files, version);
            for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
                assert_eq!(check_in_once(&server, &node).await.unwrap(), (expected, true));
            }
            ends.push((server, node));
        }
    }
    past(end).await;
    for (server, node) in ends {
        for _ in 0..3 {
            assert!(!matches!(check_in_once(&server, &node).await, Ok((_, true))));
        }
        assert_eq!(count_of_peers(&server), 2);
        server.stop().await;
    }
}

/// Waits until what ended then has ended, by the second.
async fn past(end: SystemTime) {
    tokio::time::sleep(end.duration_since(SystemTime::now()).unwrap() + Duration::from_millis(1500)).await;
}

/// Takes connections one after the other, notes how each begins, and answers that there is no service now.
async fn refusing(files: TlsFiles) -> (String, Arc<Mutex<Vec<HandshakeKind>>>) {
    let (chain, key) = (pem::certificates(&files.certificate).unwrap(), pem::private_key(&files.key).unwrap());
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.ticketer = rustls::crypto::ring::Ticketer::new().unwrap();
    let (listener, begun) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Arc::new(Mutex::new(Vec::new())));
    let url = format!("https://{}", listener.local_addr().unwrap());
    let (acceptor, kinds) = (TlsAcceptor::from(Arc::new(config)), Arc::clone(&begun));
    tokio::spawn(async move {
        loop {
            let Ok(mut stream) = acceptor.accept(listener.accept().await.unwrap().0).await else { continue };
            kinds.lock().unwrap().push(stream.get_ref().1.handshake_kind().unwrap());
            let _head = stream.read(&mut [0; 4096]).await;
            let _sent =
                stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
            let _closed = stream.shutdown().await;
        }
    });
    (url, begun)
}

#[tokio::test]
async fn an_agent_resumes_with_a_server_whose_certificate_still_counts() {
    let end = SystemTime::now() + Duration::from_secs(4);
    let mut authority = Authority::new();
    let (node, _) = authority.issue("node1.example.com", "node1.example.com", VALID);
    let (url, begun) = refusing(authority.issue_until("server.example.com", "127.0.0.1", end)).await;
    let options = HttpOptions { tls: Some(node), version: HttpVersion::Http1, ..HttpOptions::default() };
    let client = Client::new(HttpTransport::new(&url, &options).unwrap());
    let kind = async || match client.check_in(&check_in()).await {
        Err(CallError::Transport(error)) => Some(error.kind()),
        _ => None,
    };
    for _ in 0..3 {
        assert_ne!(kind().await, Some(TransportErrorKind::Identity));
    }
    let (full, resumed) = (HandshakeKind::Full, HandshakeKind::Resumed);
    assert_eq!(*begun.lock().unwrap(), [full, resumed, resumed]);
    past(end).await;
    for _ in 0..2 {
        assert_eq!(kind().await, Some(TransportErrorKind::Identity));
    }
}

#[tokio::test]
async fn another_server_knows_no_session_of_this_one() {
    let (_authority, files, node_files) = identities();
    let a = Server::start(Site::new(0), Some(files.clone())).await;
    let b = Server::start(Site::new(0), Some(files)).await;
    for version in VERSIONS {
        let node = node(&node_files, version);
        for (server, expected) in [(&a, HandshakeKind::Full), (&a, HandshakeKind::Resumed), (&b, HandshakeKind::Full)] {
            assert_eq!(check_in_once(server, &node).await.unwrap(), (expected, true), "{version:?}");
        }
    }
    a.stop().await;
    b.stop().await;
}
