//! Every route times every identity, over real TLS: the operations of the protocol, and each line of the tables from which the server
//! answers everything else. A route that is new is tried by its rule; one of the protocol that has none here fails the test.

use direct_puppet_server_stub::every_route::{Audience, RouteLine, every_route};
use direct_puppet_transport::protocol::{Fetch, Operation, SubmitFacts, codec};
use hyper::Method;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

/// The clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    /// Without a certificate.
    Nobody,
    /// The node that routes name.
    Own,
    Other,
    /// A server that follows this one.
    Replica,
    /// Its certificate has `pp_cli_auth`.
    Authority,
    /// Named as an administrator of the server.
    Administrator,
    /// The node that routes name has lost this one.
    Revoked,
}

const EVERYBODY: [Who; 7] = [Who::Nobody, Who::Own, Who::Other, Who::Replica, Who::Authority, Who::Administrator, Who::Revoked];

impl Who {
    const fn name(self) -> &'static str {
        match self {
            Self::Own | Self::Nobody | Self::Revoked => "n1",
            Self::Other => "n2",
            Self::Replica => "replica",
            Self::Authority => "cli",
            Self::Administrator => "boss",
        }
    }

    fn is_in(self, audience: Audience) -> bool {
        match audience {
            Audience::Anybody => self != Self::Revoked,
            Audience::Node => !matches!(self, Self::Nobody | Self::Revoked),
            Audience::Own => self == Self::Own,
            Audience::Administrator => self == Self::Administrator,
            Audience::Authority => matches!(self, Self::Administrator | Self::Authority),
        }
    }
}

/// Returns the status of an answer; `None` when the connection was refused.
async fn status(world: &World, identity: Option<&Identity>, method: &str, path: &str, body: &[u8]) -> Option<u16> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(world.authority.as_bytes()).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match identity {
        Some(Identity::Pem { certificate, key }) => config
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap(),
        _ => config.with_no_client_auth(),
    };
    let stream = TcpStream::connect(world.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.ok()?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAccept: */*\r\n\
         Content-Type: application/vnd.direct-puppet+msgpack\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).await.ok()?;
    let mut answer = Vec::new();
    // What was answered counts, also where the other end does not take its leave.
    let _end = stream.read_to_end(&mut answer).await;
    let text = String::from_utf8_lossy(&answer).into_owned();
    Some(text.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().unwrap())
}

fn identities(world: &World) -> Vec<(Who, Option<Identity>)> {
    let make = |who: Who| {
        if who == Who::Nobody {
            return (who, None);
        }
        let generate = Generate {
            name: name(who.name()),
            alternative_names: Vec::new(),
            is_administrator: who == Who::Authority,
            ttl: None,
        };
        let made = world.ca.generate(&generate).unwrap();
        if who == Who::Revoked {
            world.ca.clean(&[name(who.name())]).unwrap();
        }
        (who, Some(Identity::Pem { certificate: made.certificate, key: made.key }))
    };
    // The revoked one first, for it has the name of another.
    EVERYBODY.into_iter().rev().map(make).collect()
}

/// Returns an example of what follows a path.
fn argument(line: &RouteLine) -> &'static str {
    const DIGEST: &str = "sha256/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    match line.path {
        path if !path.ends_with('/') => "",
        path if line.audience == Audience::Own || path.starts_with("/puppet-ca/") => "n1",
        "/puppet/v3/static_file_content/" => "modules/app/files/x",
        "/puppet/v3/file_bucket_file/" => DIGEST,
        "/status/v1/simple/" => "server",
        "/direct/v1/blob/" => "blake3:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        path if path.starts_with("/puppet/v3/file_") => "plugins",
        path => panic!("{path} is new: say here what follows it"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_times_every_identity() {
    let world = World::new().await;
    let identities = identities(&world);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut seen = 0;
    for line in every_route() {
        let is_admins =
            ["/file-sync/", "/admin/", "/status/v1/services/file-sync"].iter().any(|under| line.path.starts_with(under));
        assert_eq!(is_admins, line.audience == Audience::Administrator, "{line:?}");
        assert!(line.audience != Audience::Authority || line.path.starts_with("/puppet-ca/v1/"), "{line:?}");
        let path = format!("{}{}?environment=production", line.path, argument(&line));
        for (who, identity) in &identities {
            let status = status(&world, identity.as_ref(), line.method.as_str(), &path, b"").await;
            let is_in = status.is_some_and(|status| status != 403);
            assert_eq!(is_in, who.is_in(line.audience), "{} {path} by {who:?}: {status:?}", line.method);
            assert!(!is_in || status != Some(500), "{} {path} by {who:?}", line.method);
            seen += 1;
        }
    }
    assert!(seen > 40 * EVERYBODY.len(), "{seen}");
    for path in ["/", "/puppet/v3/nosuch/x", "/puppet-ca/v2/sign", "/direct/v1/nosuch"] {
        let nobody = status(&world, None, "GET", path, b"").await;
        assert_eq!(nobody, Some(403), "{path}: without a certificate there is nothing to find out");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_times_every_identity() {
    let world = World::new().await;
    let identities = identities(&world);
    tokio::time::sleep(Duration::from_secs(1)).await;
    // In the name of the first node, or of the replica.
    for operation in Operation::ALL {
        let fetch = |certname: Certname| Fetch { certname, digests: Vec::new(), offsets: Default::default(), packed: None };
        let replica = name("replica");
        let (allowed, body) = match operation {
            Operation::CheckIn => (Who::Own, codec::encode(&check_in(&name("n1")))),
            Operation::SubmitFacts => {
                (Who::Own, codec::encode(&SubmitFacts { check_in: check_in(&name("n1")), facts: Default::default() }))
            }
            Operation::Fetch => (Who::Own, codec::encode(&fetch(name("n1")))),
            Operation::Report => {
                let report = serde_json::json!({
                    "host": "n1", "environment": "production", "transaction_uuid": "0".repeat(32), "report_format": 1,
                    "time_unix_nanos": 1, "status": "unchanged", "transaction_completed": true,
                });
                (Who::Own, codec::encode(&report))
            }
            Operation::SyncConfirm => {
                let asked = serde_json::json!({ "protocol": ProtocolVersion::CURRENT, "replica": replica, "epoch": 0 });
                (Who::Replica, codec::encode(&asked))
            }
            Operation::SyncEpoch => {
                let asked = serde_json::json!({ "protocol": ProtocolVersion::CURRENT, "replica": replica, "epoch": 0 });
                (Who::Replica, codec::encode(&asked))
            }
            Operation::SyncManifest => {
                let asked = direct_puppet_transport::protocol::SyncManifest {
                    replica,
                    environment: Environment::default(),
                    code_id: world.server.live_versions()[0].code_id,
                    base: None,
                };
                (Who::Replica, codec::encode(&asked))
            }
            Operation::SyncFetch => (Who::Replica, codec::encode(&fetch(replica))),
            operation => panic!("{operation} is new: say here who may"),
        };
        let (path, body) = (format!("/direct/v1/{operation}"), body.unwrap());
        for (who, identity) in &identities {
            let status = status(&world, identity.as_ref(), Method::POST.as_str(), &path, &body).await;
            if *who == allowed {
                assert_eq!(status, Some(200), "{operation} by {who:?}");
            } else {
                assert!(status.is_none_or(|status| status == 403), "{operation} by {who:?}: {status:?}");
            }
        }
    }
}
