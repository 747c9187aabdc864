//! Sessions of TLS that are resumed: who was let in once is let in faster, and no longer than otherwise.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use direct_puppet_tests::authority::{Authority, VALID};
use direct_puppet_transport::TlsFiles;
use direct_puppet_transport::http::{pem, wire};
use direct_puppet_transport::protocol::{Operation, codec};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

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
async fn a_session_ends_with_the_certificate_that_began_it() {
    let (mut authority, server, _) = identities();
    let servers = [Server::start(Site::new(0), Some(server.clone())).await, Server::start(Site::new(0), Some(server)).await];
    let end = SystemTime::now() + Duration::from_secs(4);
    let files = authority.issue_until("node1.example.com", "node1.example.com", end);
    let nodes = VERSIONS.map(|version| node(&files, version));
    for (server, node) in servers.iter().zip(&nodes) {
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
            assert_eq!(check_in_once(server, node).await.unwrap(), (expected, true));
        }
    }
    tokio::time::sleep(end.duration_since(SystemTime::now()).unwrap() + Duration::from_millis(1500)).await;
    for (server, node) in servers.into_iter().zip(&nodes) {
        for _ in 0..3 {
            assert!(!matches!(check_in_once(&server, node).await, Ok((_, true))));
        }
        assert_eq!(count_of_peers(&server), 2);
        server.stop().await;
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
