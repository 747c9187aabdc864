//! Whoever cannot prove who they are gets nowhere, and hears why.

use direct_puppet_server_stub::listen::{HttpListener, ListenError, ServerTls};
use direct_puppet_transport::protocol::CatalogReply;
use direct_puppet_transport::{CallError, Client, HttpVersion, TlsFiles, TransportError, TransportErrorKind};

use crate::check_in;
use crate::site::{Server, Site};
use direct_puppet_tests::authority::{Authority, EXPIRED, NOT_YET, VALID};

/// Calls over both versions of HTTP and returns the two errors; the server must not have been asked anything.
async fn refused(server: &TlsFiles, node: &TlsFiles) -> Vec<TransportError> {
    let mut errors = Vec::new();
    for version in [HttpVersion::Http1, HttpVersion::Http2] {
        let server = Server::start(Site::new(0), Some(server.clone())).await;
        let client = Client::new(server.transport(version, Some(node.clone())));
        let Err(CallError::Transport(error)) = client.check_in(&check_in()).await else { panic!("{version:?}: let in") };
        assert_eq!(error.kind(), TransportErrorKind::Identity, "{version:?}: {error:?}");
        assert!(std::error::Error::source(&error).is_some());
        assert!(server.site.peers.lock().unwrap().is_empty());
        server.stop().await;
        errors.push(error);
    }
    errors
}

fn all_say(errors: &[TransportError], text: &str) {
    for error in errors {
        assert!(error.to_string().contains(text), "{error}");
    }
}

struct Case {
    authority: Authority,
    server: TlsFiles,
    node: TlsFiles,
    node_serial: u64,
}

impl Case {
    fn new() -> Self {
        let mut authority = Authority::new();
        let (server, _) = authority.issue("server.example.com", "127.0.0.1", VALID);
        let (node, node_serial) = authority.issue("node1.example.com", "node1.example.com", VALID);
        Self { authority, server, node, node_serial }
    }
}

#[tokio::test]
async fn a_server_of_another_authority() {
    let (case, mut other) = (Case::new(), Authority::new());
    let (server, _) = other.issue("server.example.com", "127.0.0.1", VALID);
    all_say(&refused(&server, &case.node).await, "nobody that this node trusts");
}

#[tokio::test]
async fn a_node_of_another_authority() {
    let (case, mut other) = (Case::new(), Authority::new());
    let (stranger, _) = other.issue("node1.example.com", "node1.example.com", VALID);
    refused(&case.server, &TlsFiles { ca: case.node.ca.clone(), ..stranger }).await;
}

#[tokio::test]
async fn certificates_out_of_their_time_point_at_the_clock() {
    let mut case = Case::new();
    for years in [EXPIRED, NOT_YET] {
        let (server, _) = case.authority.issue("server.example.com", "127.0.0.1", years);
        all_say(&refused(&server, &case.node).await, "check the clock");
        let (node, _) = case.authority.issue("node1.example.com", "node1.example.com", years);
        all_say(&refused(&case.server, &node).await, "check the clock");
    }
}

#[tokio::test]
async fn a_server_of_another_name() {
    let mut case = Case::new();
    let (server, _) = case.authority.issue("127.0.0.1", "other.example.com", VALID);
    all_say(&refused(&server, &case.node).await, "another name");
}

#[tokio::test]
async fn a_certificate_whose_name_is_no_certname() {
    let mut case = Case::new();
    let (node, _) = case.authority.issue("../node1", "node1.example.com", VALID);
    refused(&case.server, &node).await;
}

#[tokio::test]
async fn revoked_nodes_and_servers() {
    let mut case = Case::new();
    let (revoked, serial) = case.authority.issue("server.example.com", "127.0.0.1", VALID);
    let crl = Some(case.authority.revoke(&[case.node_serial, serial]));
    let server = TlsFiles { crl: crl.clone(), ..case.server.clone() };
    all_say(&refused(&server, &case.node).await, "revoked");
    all_say(&refused(&revoked, &TlsFiles { crl: crl.clone(), ..case.node.clone() }).await, "revoked");
    // A node that is not on the list is let in, with the list checked on both sides.
    let (good, _) = case.authority.issue("node2.example.com", "node2.example.com", VALID);
    let server = Server::start(Site::new(0), Some(server)).await;
    let client = Client::new(server.transport(HttpVersion::Negotiated, Some(TlsFiles { crl, ..good })));
    assert_eq!(client.check_in(&check_in()).await.unwrap(), CatalogReply::FactsNeeded);
    server.stop().await;
}

#[tokio::test]
async fn a_client_without_a_certificate_is_told_that_one_is_required() {
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let case = Case::new();
    let server = Server::start(Site::new(0), Some(case.server.clone())).await;
    let roots = direct_puppet_transport::http::pem::authorities(&case.node.ca).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let told = match tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await {
        Err(error) => error,
        Ok(mut stream) => {
            stream.write_all(b"GET /status HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
            stream.read_to_end(&mut Vec::new()).await.unwrap_err()
        }
    };
    assert!(told.to_string().contains("CertificateRequired"), "{told}");
    server.stop().await;
}

#[tokio::test]
async fn plain_http_is_for_loopback_unless_allowed() {
    let everywhere = "0.0.0.0:0".parse().unwrap();
    let refused = HttpListener::bind(everywhere, None, false).await.unwrap_err();
    assert!(matches!(refused, ListenError::PlainBeyondLoopback { .. }));
    HttpListener::bind(everywhere, None, true).await.unwrap();
    let tls = ServerTls::from(Case::new().server);
    let missing = HttpListener::bind(everywhere, Some(tls), false).await.unwrap_err();
    let source = std::error::Error::source(&missing).unwrap().to_string();
    assert!(source.contains("ca.pem"), "the files are gone with their directory: {source}");
}
