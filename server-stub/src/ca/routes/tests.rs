//! Every path of the authority for every kind of peer, from the table.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use direct_puppet_transport::Peer;
use hyper::{Method, Request, Response, StatusCode};

use super::super::tests::{World, certname, request};
use super::super::{CaOptions, Generate};
use super::CaRoutes;
use super::table::{Endpoint, ROUTES, Rule};
use crate::listen::{ClientCertificate, RouteBody, Routes};
use crate::{Server, ServerOptions, Staging};

#[derive(Debug)]
struct Nothing;

#[async_trait]
impl Routes for Nothing {
    async fn route(&self, _peer: &Peer, _request: Request<Bytes>) -> Option<Response<RouteBody>> {
        None
    }

    fn max_body_bytes(&self, _path: &str) -> u64 {
        0
    }
}

/// Who may do what: a new endpoint is in this list, or the tests do not build.
const fn expected(endpoint: Endpoint) -> Rule {
    match endpoint {
        Endpoint::Certificate | Endpoint::GetList | Endpoint::GetRequest | Endpoint::PutRequest => Rule::Anybody,
        Endpoint::Renewal | Endpoint::Expirations => Rule::Node,
        Endpoint::PutLists
        | Endpoint::DeleteRequest
        | Endpoint::GetStatus
        | Endpoint::PutStatus
        | Endpoint::DeleteStatus
        | Endpoint::Statuses
        | Endpoint::Sign
        | Endpoint::SignAll
        | Endpoint::Clean => Rule::Administrator,
    }
}

fn certificate(world: &World, name: &str, is_administrator: bool) -> Arc<ClientCertificate> {
    use rustls::pki_types::pem::PemObject as _;
    let generate = Generate { name: certname(name), alternative_names: Vec::new(), is_administrator, ttl: None };
    let made = world.ca.generate(&generate).unwrap();
    let der = rustls::pki_types::CertificateDer::from_pem_slice(made.certificate.as_bytes()).unwrap();
    Arc::new(ClientCertificate::of(&der).unwrap())
}

#[tokio::test]
async fn every_path_lets_in_exactly_who_its_rule_says() {
    let world = World::new(CaOptions::default());
    let routes = CaRoutes::new(Arc::clone(&world.ca), None, vec![certname("boss")], Arc::new(Nothing));
    let (node, other) = (certificate(&world, "n1", false), certificate(&world, "n2", false));
    let (boss, cli) = (certificate(&world, "boss", false), certificate(&world, "cli", true));
    let shown =
        |certificate: &Arc<ClientCertificate>| (Peer::certificate(certificate.name.clone()), Some(Arc::clone(certificate)));
    let stranger = Peer::Process { uid: 4_000_000_000, gid: 0, pid: 1 };
    // Each with what it may do: nodes' things, administrators' things.
    let peers = [
        ((Peer::Anonymous, None), false, false),
        (shown(&node), true, false),
        (shown(&other), true, false),
        (shown(&boss), true, true),
        (shown(&cli), true, true),
        ((Peer::Plain, None), true, true),
        ((stranger, None), false, false),
    ];
    for route in ROUTES {
        assert_eq!(route.rule, expected(route.endpoint), "{}", route.path);
        let path = if route.path.ends_with('/') { format!("{}n1", route.path) } else { route.path.to_owned() };
        for ((peer, certificate), is_node, is_administrator) in &peers {
            let mut asked = Request::builder().method(route.method.clone()).uri(&path).body(Bytes::new()).unwrap();
            if let Some(certificate) = certificate {
                asked.extensions_mut().insert(Arc::clone(certificate));
            }
            // What is let in must not change what the next is asked about.
            let is_harmless = route.method == Method::GET || !is_administrator;
            let may = match route.rule {
                Rule::Anybody => true,
                Rule::Node => *is_node,
                Rule::Administrator => *is_administrator,
            };
            if may && !is_harmless && matches!(route.endpoint, Endpoint::DeleteStatus | Endpoint::DeleteRequest) {
                continue;
            }
            let status = routes.route(peer, asked).await.unwrap().status();
            assert_eq!(status != StatusCode::FORBIDDEN, may, "{} {path} {peer:?}: {status}", route.method);
        }
        assert_eq!(routes.is_open(&route.method, &path), route.rule == Rule::Anybody, "{path}");
    }
    assert!(!routes.is_open(&Method::GET, "/puppet/v3/catalog/n1"));
}

#[tokio::test]
async fn agents_and_administrators_get_puppets_answers() {
    let world = World::new(CaOptions::default());
    let routes = CaRoutes::new(Arc::clone(&world.ca), None, Vec::new(), Arc::new(Nothing));
    let ask = async |method: Method, path: &str, body: Vec<u8>| {
        let asked = Request::builder().method(method).uri(format!("/puppet-ca/v1/{path}")).body(Bytes::from(body)).unwrap();
        let answer = routes.route(&Peer::Plain, asked).await.unwrap();
        let (parts, RouteBody::Whole(body)) = answer.into_parts() else { panic!("a stream") };
        (parts.status.as_u16(), String::from_utf8(body.to_vec()).unwrap(), parts.headers)
    };
    assert_eq!(ask(Method::GET, "certificate/n1", vec![]).await.0, 404);
    assert_eq!(ask(Method::PUT, "certificate_request/n1", request("n1", |_| {})).await.0, 200);
    assert_eq!(ask(Method::PUT, "certificate_request/n1", request("n1", |_| {})).await.0, 400);
    assert!(ask(Method::GET, "certificate_request/n1", vec![]).await.1.contains("BEGIN CERTIFICATE REQUEST"));
    for bad in ["certificate/..%2f..%2fca_key", "certificate/N1", "certificate_status/a%00b", "certificate/a/b"] {
        assert_eq!(ask(Method::GET, bad, vec![]).await.0, 400, "{bad}");
    }
    assert_eq!(ask(Method::PUT, "certificate_status/n1", b"{\"desired_state\":\"signed\"}".to_vec()).await.0, 204);
    assert_eq!(ask(Method::PUT, "certificate_status/n1", b"{\"desired_state\":\"signed\"}".to_vec()).await.0, 409);
    assert_eq!(ask(Method::PUT, "certificate_status/n1", b"{\"desired_state\":\"gone\"}".to_vec()).await.0, 400);
    let (status, pem, headers) = ask(Method::GET, "certificate/n1", vec![]).await;
    assert!(status == 200 && pem.contains("BEGIN CERTIFICATE"), "{pem}");
    assert!(headers.contains_key("last-modified"));
    let (_, text, _) = ask(Method::GET, "certificate_statuses/all?state=signed", vec![]).await;
    let statuses: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&statuses[0]["name"], &statuses[0]["state"], &statuses[0]["serial_number"]),
        (&"n1".into(), &"signed".into(), &2.into())
    );
    assert_eq!(
        ask(Method::POST, "sign", b"{\"certnames\":[\"n1\"]}".to_vec()).await.1,
        r#"{"signed":[],"no-csr":["n1"],"signing-errors":[]}"#
    );
    assert_eq!(ask(Method::POST, "sign", b"[]".to_vec()).await.0, 422);
    assert_eq!(ask(Method::PUT, "clean", b"{\"certnames\":[\"n1\"]}".to_vec()).await.0, 200);
    // Of n8 there is a request, of n9 nothing.
    assert_eq!(ask(Method::PUT, "certificate_request/n8", request("n8", |_| {})).await.0, 200);
    for (name, state, status) in [("n8", "revoked", 409), ("n9", "revoked", 404), ("n9", "signed", 404)] {
        let body = format!("{{\"desired_state\":\"{state}\"}}").into_bytes();
        assert_eq!(ask(Method::PUT, &format!("certificate_status/{name}"), body).await.0, status, "{name} {state}");
    }
    assert_eq!(ask(Method::POST, "certificate_renewal", vec![]).await.0, 400);
    assert!(ask(Method::GET, "expirations", vec![]).await.1.contains("\"Puppet CA: test\":\"2040-12-28T00:00:00UTC\""));
    assert_eq!(ask(Method::DELETE, "certificate/n1", vec![]).await.0, 405);
}

#[tokio::test]
async fn whoever_is_turned_away_is_in_the_audit_log() {
    let world = World::new(CaOptions::default());
    let data = tempfile::tempdir().unwrap();
    let server = Server::open(ServerOptions::new(data.path().join("data"), Staging::Nowhere)).unwrap();
    let routes = CaRoutes::new(Arc::clone(&world.ca), Some(server), vec![certname("boss")], Arc::new(Nothing));
    let ask = async |peer: &Peer, path: &str, origin: Option<&str>| {
        let mut asked = Request::builder().uri(format!("/puppet-ca/v1/{path}"));
        if let Some(origin) = origin {
            asked = asked.header("origin", origin);
        }
        routes.route(peer, asked.body(Bytes::new()).unwrap()).await.unwrap().status()
    };
    let node = Peer::certificate(certname("n1"));
    assert_eq!(ask(&node, "certificate_status/n2", None).await, StatusCode::FORBIDDEN);
    assert_eq!(ask(&Peer::Plain, "certificate/ca", Some("http://x")).await, StatusCode::FORBIDDEN);
    assert_eq!(ask(&node, "certificate/ca", None).await, StatusCode::OK);
    let log = std::fs::read_to_string(data.path().join("data/audit.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let expected =
        [("certificate n1", "/puppet-ca/v1/certificate_status/n2"), ("plain connection", "/puppet-ca/v1/certificate/ca")];
    assert_eq!(lines.len(), expected.len(), "{log}");
    for (line, (who, what)) in lines.iter().zip(expected) {
        assert!(line["act"] == "denied" && line["who"] == who && line["what"] == what, "{line}");
    }
}

#[test]
fn who_is_turned_away_for_others_is_told_when_to_come_again() {
    let response = super::failed(&super::CaError::Busy { limit: 16 }).response();
    assert_eq!(
        (response.status(), &response.headers()["retry-after"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"10".parse().unwrap())
    );
    let response = super::failed(&super::CaError::NoRequest { name: certname("a") }).response();
    assert!(!response.headers().contains_key("retry-after"));
}
