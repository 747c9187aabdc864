//! Who may ask for what, and what is refused whoever asks.

use std::collections::BTreeSet;

use super::*;
use crate::puppet_api::table::{ROUTES, Rule};

/// A digest that no bucket has.
const DIGEST: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// An example of every path that concerns a node by name, every other path that nodes use, and every path for all; written down beside
/// the table, so that a line more in one of them must come into the other as well.
const OWN: [&str; 4] = ["/puppet/v3/node/", "/puppet/v3/catalog/", "/puppet/v3/facts/", "/puppet/v3/report/"];
const NODES: [(&str, &str); 6] = [
    ("/puppet/v3/file_metadata/", "modules/app/tree"),
    ("/puppet/v3/file_metadatas/", "plugins"),
    ("/puppet/v3/file_content/", "modules/app/a%20b"),
    ("/puppet/v3/static_file_content/", "modules/app/files/tree/one"),
    ("/puppet/v3/file_bucket_file/", "sha256/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    ("/puppet/v3/environments", ""),
];
const ALL: [(&str, &str); 2] = [("/status/v1/simple/", "server"), ("/status/v1/services", "")];

#[tokio::test]
async fn every_path_times_every_identity() {
    let world = World::new().await;
    let stranger = Peer::Process { uid: 4_000_000_000, gid: 0, pid: 1 };
    let mut seen = 0;
    for route in ROUTES {
        let (argument, own, other, nobody) = if OWN.contains(&route.path) {
            ("n1", true, false, false)
        } else if let Some((_, argument)) = NODES.iter().find(|(path, _)| *path == route.path) {
            (*argument, true, true, false)
        } else {
            let (_, argument) = ALL.iter().find(|(path, _)| *path == route.path).expect(route.path);
            (*argument, true, true, true)
        };
        let path = format!("{}{argument}?environment=production", route.path);
        let method = &route.method;
        for (peer, expected) in [(node("n1"), own), (node("n2"), other), (node("n1.evil"), other), (stranger.clone(), nobody)] {
            let (status, body) = world.send(&peer, request(method.clone(), &path).body(Bytes::new()).unwrap()).await;
            assert_eq!(status != StatusCode::FORBIDDEN, expected, "{method} {path} by {peer:?}: {status} {body:?}");
            seen += 1;
        }
        let page = request(method.clone(), &path).header("origin", "http://x").body(Bytes::new()).unwrap();
        assert_eq!(world.send(&Peer::Plain, page).await.0, StatusCode::FORBIDDEN, "{path}: from a web page");
        let (status, _) = world.send(&node("n1"), request(Method::DELETE, &path).body(Bytes::new()).unwrap()).await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
    }
    let paths = |is_own: bool| {
        let lines = ROUTES.iter().filter(|route| !is_own || route.rule == Rule::Own);
        lines.map(|route| route.path).collect::<BTreeSet<_>>().len()
    };
    assert_eq!((paths(false), seen), (OWN.len() + NODES.len() + ALL.len(), 60));
    assert_eq!(paths(true), OWN.len());
    assert_eq!(world.compiles(), 0);
    let elsewhere = request(Method::GET, "/puppet/v3/nosuch/x").body(Bytes::new()).unwrap();
    assert!(world.routes.route(&node("n1"), elsewhere).await.is_none());
    // What was there before is still there.
    assert_eq!(world.get("n1", "/status/v1/simple").await.1, "running");
    assert_eq!(world.get("n1", "/admin/v1/nodes").await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn hostile_names() {
    let world = World::new().await;
    let long = "a".repeat(300);
    for name in ["..%2fn1", "n1%2f..%2fn1", "N1", "n1/", "n1/n1", "%00", "%ff", "n1%0a", "-n1", &long, "%zz", "n1%20", ".n1"] {
        for route in ROUTES.iter().filter(|route| route.rule == Rule::Own) {
            let path = format!("{}{name}?environment=production", route.path);
            let (status, body) = world.send(&node("n1"), request(route.method.clone(), &path).body(Bytes::new()).unwrap()).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{path}: {body:?}");
        }
    }
    for environment in ["", "..", "a%2fb", "a-b", "%ff", &long] {
        let path = format!("/puppet/v3/node/n1?environment={environment}");
        assert_eq!(world.get("n1", &path).await.0, StatusCode::BAD_REQUEST, "{path}");
    }
    let (status, body) = world.get("n1", "/puppet/v3/file_metadatas/plugins?environment=nowhere").await;
    let told: Json = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, told["issue_kind"].as_str()), (StatusCode::NOT_FOUND, Some("RESOURCE_NOT_FOUND")));
}

#[tokio::test]
async fn malformed_catalog_requests() {
    let world = World::new().await;
    let with = |facts: &str| format!("environment=production&facts_format=application/json&facts={}", encoded(facts));
    for form in [
        String::new(),
        "facts=%".to_owned(),
        "facts=%ff".to_owned(),
        "&&&=&=&".to_owned(),
        "a&".repeat(2000),
        with("%7"),
        with("%22x%22"),
        with("{"),
        with("[]"),
        with("null"),
        with(r#"{"name":"n1"}"#),
        with(r#"{"name":"n1","values":[]}"#),
        with(r#"{"name":"n2","values":{}}"#),
        with(r#"{"name":1,"values":{}}"#),
        with(r#"{"name":"n1","values":{"a":18446744073709551615}}"#),
        with(&format!(r#"{{"name":"n1","values":{{"a":{}1}}}}"#, "[".repeat(10_000))),
        with(&format!(r#"{{"name":"n1","values":{{"a":{}{}}}}}"#, "[".repeat(100), "]".repeat(100))),
        form("n1").replace("facts_format=application%2Fjson", "facts_format=yaml"),
        form("n1").replace("facts_format=application%2Fjson", "x=y"),
        form("n1").replace("static_catalog=true", "static_catalog=maybe"),
        form("n1").replace("sha256.sha384.md5", "crc32"),
    ] {
        let shown: String = form.chars().take(100).collect();
        let (status, body) = world.catalog("n1", form).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{shown}: {body:?}");
        let told: Json = serde_json::from_slice(&body).unwrap();
        assert!(told["message"].is_string() && told["issue_kind"].is_string());
    }
    let large = with(&format!(r#"{{"name":"n1","values":{{"a":"{}"}}}}"#, "x".repeat(17 << 20)));
    assert_eq!(world.catalog("n1", large).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(world.compiles(), 0);
    let path = "/puppet/v3/catalog/n1?environment=production";
    let typed = |content_type: &str, accept: &str| {
        let request = Request::builder().method(Method::POST).uri(path).header(ACCEPT, accept).header(CONTENT_TYPE, content_type);
        request.body(Bytes::from(form("n1"))).unwrap()
    };
    let form_type = "application/x-www-form-urlencoded";
    for (request, expected) in [
        (typed("application/json", ACCEPTED), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (typed(form_type, "text/html"), StatusCode::NOT_ACCEPTABLE),
        (typed(form_type, "*/*"), StatusCode::OK),
        (typed(&format!("{form_type}; charset=utf-8"), "application/json"), StatusCode::OK),
    ] {
        assert_eq!(world.send(&node("n1"), request).await.0, expected);
    }
    let bare = Request::builder().method(Method::POST).uri(path).header(CONTENT_TYPE, form_type);
    assert_eq!(world.send(&node("n1"), bare.body(Bytes::from(form("n1"))).unwrap()).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn nothing_but_files_of_modules_is_given() {
    let world = World::new().await;
    let code_id = world.server.live_versions()[0].code_id;
    let live = |path: &str| format!("/puppet/v3/static_file_content/{path}?environment=production&code_id={code_id}");
    for path in [
        "modules/app/manifests/init.pp",
        "site.yaml",
        "modules/app/files/..%2fmanifests/init.pp",
        "modules/app/files/%2e%2e/manifests/init.pp",
    ] {
        assert_eq!(world.get("n1", &live(path)).await.0, StatusCode::FORBIDDEN, "{path}");
    }
    // A link that leads out of what is given.
    assert_eq!(world.get("n1", &live("modules/app/files/out")).await.0, StatusCode::NOT_FOUND);
    for path in ["modules/app/files/none", "modules/app/files/tree", "modules/none/files/x"] {
        assert_eq!(world.get("n1", &live(path)).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    let unknown = live("modules/app/files/tree/one").replace(&code_id.to_string(), &format!("blake3:{DIGEST}"));
    assert_eq!(world.get("n1", &unknown).await.0, StatusCode::NOT_FOUND);
    for query in ["", "?environment=production", "?environment=production&code_id=", "?code_id=1", "?environment=a-b&code_id=1"] {
        let path = format!("/puppet/v3/static_file_content/modules/app/files/tree/one{query}");
        assert_eq!(world.get("n1", &path).await.0, StatusCode::BAD_REQUEST, "{path}");
    }
    for path in [
        "nomount/x",
        "modules",
        "modules/app/none",
        "modules//app/tree",
        "modules/..%2fapp/tree",
        "modules/app/..%2fmanifests%2finit.pp",
        "scripts/app/x",
    ] {
        for kind in ["file_metadata", "file_metadatas", "file_content"] {
            let path = format!("/puppet/v3/{kind}/{path}?environment=production");
            assert_eq!(world.get("n1", &path).await.0, StatusCode::NOT_FOUND, "{path}");
        }
    }
    for query in ["checksum_type=crc", "links=maybe", "recurse=x", "recurselimit=x", "max_files=-7"] {
        let path = format!("/puppet/v3/file_metadatas/modules/app/tree?environment=production&{query}");
        assert_eq!(world.get("n1", &path).await.0, StatusCode::BAD_REQUEST, "{path}");
    }
}

#[tokio::test]
async fn malformed_reports_and_facts() {
    let world = World::new().await;
    let put = async |kind: &str, content_type: &str, body: String| {
        let request =
            request(Method::PUT, &format!("/puppet/v3/{kind}/n1?environment=production")).header(CONTENT_TYPE, content_type);
        world.send(&node("n1"), request.body(body.into()).unwrap()).await
    };
    let good = json!({
        "host": "n1", "time": "2026-11-22T12:45:52.233219295+00:00", "transaction_uuid": "b6f640dd-1930-4328-a631-fcad3e53396b",
        "report_format": 12, "status": "failed", "logs": null, "metrics": {}, "resource_statuses": {}, "environment": null,
    });
    let changed = |name: &str, value: Json| {
        let mut report = good.clone();
        report[name] = value;
        report.to_string()
    };
    let deep = (0..70).fold(json!(1), |value, _| json!([value]));
    for body in [
        String::new(),
        "[]".to_owned(),
        "{}".to_owned(),
        changed("host", "n2".into()),
        changed("time", "now".into()),
        changed("transaction_uuid", "../../x".into()),
        changed("status", "fine".into()),
        changed("environment", "../x".into()),
        changed("logs", json!([{ "level": "loud" }])),
        changed("resource_statuses", json!({ "File[/a]": { "events": [{ "status": "?" }] } })),
        changed("metrics", json!({ "a": { "values": [["b"]] } })),
        // Each event of ours has the name of its resource.
        changed("resource_statuses", json!({ "x".repeat(1 << 20): { "events": vec![json!({ "status": "noop" }); 100] } })),
        changed("resource_statuses", json!({ "File[/a]": { "events": [{ "status": "noop", "message": deep }] } })),
    ] {
        let shown: String = body.chars().take(200).collect();
        let (status, text) = put("report", "application/json", body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{shown}: {text:?}");
    }
    assert_eq!(put("report", "text/yaml", good.to_string()).await.0, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(put("report", "application/json", good.to_string()).await, (StatusCode::OK, "[]".into()));
    assert_eq!(put("facts", "application/json", r#"{"name":"n2","values":{}}"#.to_owned()).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(put("facts", "application/json", r#"{"name":"n1","values":{"a":[1]}}"#.to_owned()).await.0, StatusCode::OK);
    assert_eq!(world.compiles(), 0);
}

#[test]
fn every_body_has_a_limit() {
    for route in ROUTES {
        assert!((1..=64 << 20).contains(&route.max_body_bytes), "{}", route.path);
    }
}

#[tokio::test]
async fn a_replica_of_some_environments_is_in_no_other_and_whoever_is_turned_away_is_in_the_log() {
    let world = World::new_with(|_, options| options.replicas = vec!["part=test".parse().unwrap()]).await;
    for route in ROUTES {
        let of_node = OWN.contains(&route.path).then_some("part");
        let Some(argument) =
            of_node.or_else(|| NODES.iter().find(|(path, _)| *path == route.path).map(|(_, argument)| *argument))
        else {
            continue;
        };
        let ask = async |environment: &str| {
            let path = format!("{}{argument}?environment={environment}", route.path);
            world.send(&node("part"), request(route.method.clone(), &path).body(Bytes::new()).unwrap()).await
        };
        let (status, body) = ask("production").await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{} {}: {body:?}", route.method, route.path);
        assert_ne!(ask("test").await.0, StatusCode::FORBIDDEN, "{} {}", route.method, route.path);
    }
    // In the form, where Puppet's agents put it, it counts just the same.
    for (name, expected) in [("part", StatusCode::FORBIDDEN), ("n1", StatusCode::OK)] {
        let path = format!("/puppet/v3/catalog/{name}");
        let facts = format!("%7B%22name%22%3A%22{name}%22%2C%22values%22%3A%7B%22kernel%22%3A%22Linux%22%7D%7D");
        let body = format!("environment=production&facts_format=application%2Fjson&facts={facts}");
        let form = request(Method::POST, &path).header("content-type", "application/x-www-form-urlencoded");
        let (status, said) = world.send(&node(name), form.body(body.into()).unwrap()).await;
        assert_eq!(status, expected, "{name}: {said:?}");
    }
    for (name, expected) in [("part", &[][..]), ("n1", &["production"])] {
        let told = world.json(name, "/puppet/v3/environments").await;
        assert!(told["environments"].as_object().unwrap().keys().eq(expected), "{name}: {told}");
    }
    assert_eq!(world.get("n1", "/puppet/v3/node/n2?environment=production").await.0, StatusCode::FORBIDDEN);
    let log = fs::read_to_string(world.dir.path().join("data/audit.jsonl")).unwrap();
    let denied: Vec<Json> =
        log.lines().map(|line| serde_json::from_str(line).unwrap()).filter(|line: &Json| line["act"] == "denied").collect();
    let has =
        |who: &str, what: &str| denied.iter().any(|line| line["who"] == who && line["what"].as_str().unwrap().starts_with(what));
    assert!(has("certificate part", "/puppet/v3/node/part: ") && has("certificate n1", "/puppet/v3/node/n2: "), "{denied:?}");
}
