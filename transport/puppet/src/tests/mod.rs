//! A scripted server, and an agent's client against it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use direct_puppet_transport::http::{PlainRequest, PlainResponse};
use direct_puppet_transport::protocol::frame::FetchEvent;
use direct_puppet_transport::protocol::{CatalogReply, CheckIn, Digest, Fetch, Held, RefusalCode, SubmitFacts, VersionCounter};
use direct_puppet_transport::testing::samples;
use direct_puppet_transport::{CallError, Client, TransportError, TransportErrorKind};
use futures::{StreamExt as _, stream};
use serde_json::{Value as Json, json};

use crate::PuppetTransport;
use crate::api::Exchange;

mod hostile;
mod slow;

/// SHA-256 of `hello`.
const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

/// What is kept is there for a server that refuses to say it again.
#[tokio::test]
async fn a_server_that_refuses_leaves_the_node_where_it_was() {
    let (server, state) = (Scripted::default(), tempfile::tempdir().unwrap());
    let transport = PuppetTransport::over(server.clone(), Some(state.path().to_owned()));
    let (node, production) = ("n1".parse().unwrap(), "production".parse().unwrap());
    server.answers("node/n1", 200, r#"{"name":"n1","environment":"test"}"#);
    transport.environment(&node, &production).await;
    for status in [400, 403, 404, 500, 503] {
        server.answers("node/n1", status, "no");
        assert_eq!(transport.environment(&node, &production).await.as_str(), "test", "{status}");
    }
}

/// What a script answers to a path (without query): status, body, and whether it says how long that is.
type Script = BTreeMap<String, (u16, Bytes, bool)>;

#[derive(Debug, Clone, Default)]
struct Scripted {
    script: Arc<Mutex<Script>>,
    asked: Arc<Mutex<Vec<PlainRequest>>>,
}

#[async_trait]
impl Exchange for Scripted {
    async fn send(&self, request: PlainRequest) -> Result<PlainResponse, TransportError> {
        let path = request.path.split('?').next().unwrap().to_owned();
        self.asked.lock().unwrap().push(request);
        let answer = self.script.lock().unwrap().get(&path).cloned();
        let (status, body, is_sized) = answer.unwrap_or((404, "{\"message\":\"not there\"}".into(), true));
        let length = is_sized.then_some(body.len() as u64);
        let chunks: Vec<_> = body.chunks(100_000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        let retry_after = (status == 503).then(|| Duration::from_secs(7));
        Ok(PlainResponse { status, length, retry_after, body: stream::iter(chunks).boxed() })
    }

    fn endpoint(&self) -> &str {
        "https://puppet:8140"
    }

    fn is_local(&self) -> bool {
        false
    }
}

impl Scripted {
    fn answers(&self, path: &str, status: u16, body: impl Into<Bytes>) {
        self.script.lock().unwrap().insert(format!("/puppet/v3/{path}"), (status, body.into(), true));
    }

    /// Returns what was asked since the last time, as method and path with query.
    fn asked(&self) -> Vec<String> {
        let asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.iter().map(|request| format!("{} {}", request.method.name(), request.path)).collect()
    }

    fn client(&self) -> Client<PuppetTransport> {
        Client::new(PuppetTransport::over(self.clone(), None))
    }
}

fn facts(held: Option<Held>) -> SubmitFacts {
    let check_in = CheckIn { held, ..samples::check_in("n1") };
    SubmitFacts { check_in, facts: BTreeMap::from([("kernel".to_owned(), "Linux & \"more\" %".into())]) }
}

fn catalog(resources: Json, more: Json) -> String {
    let mut document = json!({ "name": "n1", "environment": "production", "version": 7, "catalog_uuid": "u-1", "resources": resources, "edges": [] });
    document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    document.to_string()
}

fn metadata() -> Json {
    json!({ "type": "file", "mode": 420, "checksum": { "type": "sha256", "value": format!("{{sha256}}{HELLO}") } })
}

fn hello() -> Digest {
    format!("sha256:{HELLO}").parse().unwrap()
}

/// A catalog with a static file and an open one.
fn mixed() -> String {
    let mut inlined = metadata();
    inlined["content_uri"] = "puppet:///modules/app/files/a b".into();
    let files = json!([
        { "type": "File", "title": "/a", "parameters": { "source": "puppet:///modules/app/a b" } },
        { "type": "File", "title": "/b", "parameters": { "source": "puppet:///site/gone" } },
    ]);
    catalog(files, json!({ "code_id": "c 1", "metadata": { "/a": inlined } }))
}

async fn fetched(client: &Client<PuppetTransport>, digest: Digest) -> Result<Option<Bytes>, CallError> {
    let fetch = Fetch { certname: "n1".parse().unwrap(), digests: vec![digest], offsets: BTreeMap::new(), packed: None };
    let mut stream = client.fetch(&fetch).await?;
    let mut content = None;
    while let Some(event) = stream.next().await? {
        match event {
            FetchEvent::Blob { .. } => content = Some(Vec::new()),
            FetchEvent::Data(data) => content.as_mut().unwrap().extend_from_slice(&data),
            _ => {}
        }
    }
    Ok(content.map(Bytes::from))
}

#[tokio::test]
async fn a_run() {
    let server = Scripted::default();
    server.answers("catalog/n1", 200, mixed());
    server.answers("static_file_content/modules/app/files/a%20b", 200, "hello");
    server.answers("report/n1", 200, "[\"store\"]");
    let client = server.client();
    assert_eq!(client.check_in(&facts(None).check_in).await.unwrap(), CatalogReply::FactsNeeded);
    assert_eq!(server.asked(), [""; 0]);
    let CatalogReply::Catalog { catalog_id, code_id, version, catalog, .. } = client.submit_facts(&facts(None)).await.unwrap()
    else {
        panic!("no catalog")
    };
    let read = direct_puppet_transport::protocol::Catalog::decode(&catalog, catalog_id).unwrap();
    assert_eq!(read.resources[0].unusable, None);
    assert!(read.resources[1].unusable.as_ref().unwrap().contains("puppet:///site/gone (not there)"), "{read:?}");
    let query = "environment=production&links=manage&checksum_type=sha256&source_permissions=ignore";
    assert_eq!(
        server.asked(),
        [
            "POST /puppet/v3/catalog/n1?environment=production".to_owned(),
            format!("GET /puppet/v3/file_metadata/site/gone?{query}")
        ]
    );
    assert_eq!(fetched(&client, hello()).await.unwrap().unwrap(), "hello");
    assert_eq!(
        server.asked(),
        ["GET /puppet/v3/static_file_content/modules/app/files/a%20b?environment=production&code_id=c%201"]
    );

    // The same catalog again is the one that is held; what was accepted elsewhere stays.
    let held = Held { catalog_id, code_id, version: VersionCounter { epoch: 3, sequence: 4 } };
    let again = client.submit_facts(&facts(Some(held))).await.unwrap();
    assert_eq!(again, CatalogReply::Current { code_id, version: held.version, unconfirmed_seconds: None });
    assert_eq!(version, VersionCounter::default());
    // Nothing is asked about a content that no catalog of this server names, nor for nothing.
    server.asked();
    assert_eq!(fetched(&client, Digest::of(b"other")).await.unwrap(), None);
    let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".parse().unwrap();
    assert_eq!(fetched(&client, empty).await.unwrap(), Some(Bytes::new()));
    assert_eq!(server.asked(), [""; 0]);
}

#[tokio::test]
async fn a_piece_of_a_file_is_asked_about_in_each_run_and_fetched_by_its_source() {
    let server = Scripted::default();
    let pieces = json!([{
        "type": "Concat_fragment",
        "title": "p",
        "parameters": { "target": "/x", "source": ["puppet:///modules/m/no", "puppet:///modules/m/p"] },
    }]);
    server.answers("catalog/n1", 200, catalog(pieces, json!({ "code_id": "c1" })));
    server.answers("file_metadata/modules/m/p", 200, metadata().to_string());
    server.answers("file_content/modules/m/p", 200, "hello");
    let client = server.client();
    let CatalogReply::Catalog { catalog_id, catalog, .. } = client.submit_facts(&facts(None)).await.unwrap() else {
        panic!("no catalog")
    };
    let read = direct_puppet_transport::protocol::Catalog::decode(&catalog, catalog_id).unwrap();
    assert_eq!(read.contents().map(|(digest, _)| digest).collect::<Vec<_>>(), [hello()]);
    let query = "environment=production&links=follow&checksum_type=sha256&source_permissions=ignore";
    let asked = ["no", "p"].map(|name| format!("GET /puppet/v3/file_metadata/modules/m/{name}?{query}"));
    assert_eq!(server.asked()[1..], asked);
    assert_eq!(fetched(&client, hello()).await.unwrap().unwrap(), "hello");
    assert!(server.asked()[0].starts_with("GET /puppet/v3/file_content/modules/m/p"));
}

#[tokio::test]
async fn facts_are_encoded_twice_in_the_form() {
    let server = Scripted::default();
    server.answers("catalog/n1", 200, mixed());
    server.client().submit_facts(&facts(None)).await.unwrap();
    let body = server.asked.lock().unwrap()[0].body.clone();
    let form = String::from_utf8(body.to_vec()).unwrap();
    assert!(form.contains("&checksum_type=sha256") && form.contains("static_catalog=true"), "{form}");
    assert!(form.starts_with("facts_format=application%2Fjson&facts=%257B%2522name%2522%253A%2522n1%2522"), "{form}");
}

#[tokio::test]
async fn no_fact_is_another_certname() {
    let server = Scripted::default();
    server.answers("catalog/n1", 200, mixed());
    let mut facts = facts(None);
    facts.facts.extend([("clientcert".to_owned(), "other".into()), ("clientversion".to_owned(), "0.1".into())]);
    server.client().submit_facts(&facts).await.unwrap();
    let form = String::from_utf8(server.asked.lock().unwrap()[0].body.to_vec()).unwrap();
    assert!(form.contains("%2522clientcert%2522%253A%2522n1%2522") && !form.contains("other"), "{form}");
    assert!(form.contains("%2522clientversion%2522%253A%25227.23.0%2522"), "{form}");
}

#[tokio::test]
async fn the_server_is_told_what_permissions_are_used_for() {
    for (said, sent) in [(json!("use"), "use"), (json!("use_when_creating"), "use_when_creating"), (json!("ignore"), "ignore")] {
        let server = Scripted::default();
        let parameters = json!({ "source": "puppet:///site/x", "source_permissions": said });
        let files = json!([{ "type": "File", "title": "/x", "parameters": parameters }]);
        server.answers("catalog/n1", 200, catalog(files, json!({})));
        server.client().submit_facts(&facts(None)).await.unwrap();
        assert!(server.asked()[1].ends_with(&format!("&source_permissions={sent}")), "{sent}");
    }
}

#[tokio::test]
async fn a_report_is_taken_when_the_status_says_so() {
    let server = Scripted::default();
    // Longer than any list of processors.
    server.answers("report/n1", 204, vec![b'x'; 1 << 20]);
    server.client().report(&samples::report("n1")).await.unwrap();
    for (status, code) in [
        (403, RefusalCode::Forbidden),
        (413, RefusalCode::BadRequest),
        (404, RefusalCode::NotFound),
        (500, RefusalCode::Internal),
    ] {
        server.answers("report/n1", status, "no");
        let CallError::Refused(refusal) = server.client().report(&samples::report("n1")).await.unwrap_err() else {
            panic!("{status}")
        };
        assert_eq!(refusal.code, code, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_with_nothing_new() {
    let server = Scripted::default();
    let held = Held {
        catalog_id: direct_puppet_transport::protocol::CatalogId::of(b"x"),
        code_id: direct_puppet_transport::protocol::Manifest::default().code_id(),
        version: VersionCounter::default(),
    };
    let check_in = CheckIn { wait_seconds: 90, ..facts(Some(held)).check_in };
    let begun = tokio::time::Instant::now();
    let reply = server.client().check_in(&check_in).await.unwrap();
    assert!(matches!(reply, CatalogReply::Current { code_id, .. } if code_id == held.code_id));
    assert_eq!((begun.elapsed(), server.asked().len()), (Duration::from_secs(90), 0));
}

#[tokio::test]
async fn the_environment_is_the_server_s() {
    let server = Scripted::default();
    let transport = PuppetTransport::over(server.clone(), None);
    let (node, production) = ("n1".parse().unwrap(), "production".parse().unwrap());
    server.answers("node/n1", 200, r#"{"name":"n1","environment":"test"}"#);
    assert_eq!(transport.environment(&node, &production).await.as_str(), "test");
    // Nothing of last time is kept here.
    for status in [400, 403, 404, 500, 503] {
        server.answers("node/n1", status, "no");
        assert_eq!(transport.environment(&node, &production).await, production, "{status}");
    }
    // A catalog of another environment than was asked for is not applied under the wrong name.
    server.answers("catalog/n1", 200, mixed().replace("\"production\"", "\"test\""));
    let CallError::Refused(refusal) = server.client().submit_facts(&facts(None)).await.unwrap_err() else { panic!() };
    assert!(refusal.message.contains("in environment test, not production"), "{refusal}");
}
