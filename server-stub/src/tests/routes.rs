//! Administrators over HTTP, without a socket.

use bytes::Bytes;
use hyper::{Method, Request, Response, StatusCode};

use super::replica::Pair;
use super::*;
use crate::AdminRoutes;

async fn respond(routes: &AdminRoutes, peer: &Peer, method: Method, path: &str, body: &str) -> Response<Bytes> {
    let request = Request::builder().method(method).uri(path).body(Bytes::from(body.to_owned())).unwrap();
    routes.answer(peer, request).await.unwrap()
}

pub(super) async fn ask(routes: &AdminRoutes, peer: &Peer, method: Method, path: &str, body: &str) -> (StatusCode, String) {
    let response = respond(routes, peer, method, path, body).await;
    (response.status(), String::from_utf8(response.into_body().to_vec()).unwrap())
}

#[tokio::test]
async fn publish_answers_with_honest_codes() {
    const PUBLISH: &str = "/file-sync/v1/publish";
    let world = World::new();
    let routes = AdminRoutes::new(world.open(), Vec::new());
    let publish = async |body: &str| {
        let (status, text) = ask(&routes, &Peer::Plain, Method::POST, PUBLISH, body).await;
        (status, serde_json::from_str::<serde_json::Value>(&text).unwrap())
    };
    let (status, first) = publish("").await;
    assert_eq!((status, &first["environments"][0]["sequence"]), (StatusCode::OK, &1.into()));
    let (status, answer) = publish(r#"{"environments":["production"],"message":"m","author":{"name":"a","email":"b"}}"#).await;
    assert_eq!((status, &answer["environments"][0]["changed"]), (StatusCode::OK, &false.into()));
    for body in ["{", "[]", "null", r#"{"enviroments":[]}"#, r#"{"environments":["../x"]}"#, r#"{"submodule-id":"production"}"#] {
        let (status, answer) = publish(body).await;
        assert_eq!((status, &answer["error"]["code"]), (StatusCode::BAD_REQUEST, &"bad_request".into()), "{body}");
    }
    // Or as file sync names what is to be published.
    let (status, answer) = publish(r#"{"repo-id":"puppet-code","submodule-id":"production","message":"m"}"#).await;
    assert_eq!((status, &answer["environments"][0]["sequence"]), (StatusCode::OK, &1.into()));
    assert_eq!(publish(r#"{"repo-id":"puppet-code"}"#).await.0, StatusCode::OK);
    for body in [
        r#"{"repo-id":"other"}"#,
        r#"{"repo-id":"puppet-code","environments":["production"]}"#,
        r#"{"repo-id":"puppet-code","submodule-id":"../x"}"#,
        r#"{"repo-id":"puppet-code","unknown":1}"#,
    ] {
        assert_eq!(publish(body).await.0, StatusCode::BAD_REQUEST, "{body}");
    }
    assert_eq!(publish(r#"{"environments":["nowhere"]}"#).await.0, StatusCode::NOT_FOUND);
    world.stage("site.yaml", "nodes: [");
    let (status, answer) = publish("").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(answer["environments"][0]["code_id"], first["environments"][0]["code_id"]);
    let other = world.dir.path().join("staging/environments/other");
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("site.yaml"), SITE.replace("puppet:///modules/app/tree", "/local")).unwrap();
    assert_eq!(publish("").await.0, StatusCode::MULTI_STATUS);
}

#[tokio::test]
async fn only_administrators_are_answered() {
    let world = World::new();
    let server = world.open();
    publish_all(&server).await;
    compiled(&server, "n1").await;
    let routes = AdminRoutes::new(server, vec![certname("boss")]);
    let (boss, node) = (Peer::certificate(certname("boss")), Peer::certificate(certname("n1")));
    for (method, path, body, expected) in [
        (Method::POST, "/file-sync/v1/publish", "", StatusCode::OK),
        (Method::GET, "/file-sync/v1/versions", "", StatusCode::OK),
        (Method::GET, "/admin/v1/nodes", "", StatusCode::OK),
        (Method::POST, "/admin/v1/recompile", r#"{"certname":"n1"}"#, StatusCode::NO_CONTENT),
        (Method::POST, "/admin/v1/recompile", r#"{"certname":"unknown"}"#, StatusCode::NOT_FOUND),
    ] {
        assert_eq!(ask(&routes, &node, method.clone(), path, body).await.0, StatusCode::FORBIDDEN, "{path}");
        assert_eq!(ask(&routes, &boss, method.clone(), path, body).await.0, expected, "{path} {body}");
        let other = if method == Method::GET { Method::POST } else { Method::GET };
        assert_eq!(ask(&routes, &boss, other, path, body).await.0, StatusCode::METHOD_NOT_ALLOWED, "{path}");
    }
    let (status, text) = ask(&routes, &node, Method::GET, "/status/v1/simple", "").await;
    assert_eq!((status, text.as_str()), (StatusCode::OK, "running"));
    let elsewhere = Request::builder().uri("/elsewhere").body(Bytes::new()).unwrap();
    assert!(routes.answer(&boss, elsewhere).await.is_none());
    let page = Request::builder().method(Method::POST).uri("/file-sync/v1/publish").header("origin", "http://x");
    let response = routes.answer(&Peer::Plain, page.body(Bytes::new()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn file_sync_answers_as_puppets_does() {
    let world = World::new();
    let server = world.open_with(|options| options.replicas = vec![certname("replica1").into()]);
    let routes = AdminRoutes::new(Arc::clone(&server), Vec::new());
    let post = async |path: &str, body: &str| {
        let (status, text) = ask(&routes, &Peer::Plain, Method::POST, &format!("/file-sync/v1/{path}"), body).await;
        (status, serde_json::from_str::<serde_json::Value>(&text).unwrap())
    };
    let (_, nothing) = post("latest-commits", "").await;
    assert_eq!(nothing["puppet-code"]["commit"], serde_json::Value::Null);
    for body in ["", "{}", r#"{"repo-id":"confd-data"}"#, r#"{"commit-all":true,"submodule-id":"production"}"#] {
        assert_eq!(post("commit", body).await.0, StatusCode::BAD_REQUEST, "{body}");
    }
    let (status, committed) = post("commit", r#"{"commit-all":true,"message":"m","author":{"name":"a","email":"b"}}"#).await;
    let code_id = live(&server).version.code_id.digest().to_hex();
    assert_eq!((status, &committed["puppet-code"]["submodules"]["production"]), (StatusCode::OK, &code_id.clone().into()));
    assert_eq!(committed["puppet-code"]["versions"], serde_json::json!({ "production": "1.1" }));
    let mut latest = post("latest-commits", "{}").await.1;
    latest["puppet-code"]["versions"] = committed["puppet-code"]["versions"].clone();
    assert_eq!(latest, committed);
    let path = "/status/v1/services/file-sync-storage-service";
    let (_, status) = ask(&routes, &Peer::Plain, Method::GET, path, "").await;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    // One that never came is listed too.
    assert_eq!(status["status"]["clients"], serde_json::json!({ "replica1": null }));
    let commit = &status["status"]["repos"]["puppet-code"]["submodules"]["production"]["latest_commit"];
    assert_eq!(
        (&commit["commit"], &commit["message"], &commit["identity"]["email"]),
        (&code_id.into(), &"m".into(), &"b".into())
    );
    assert!(commit["date"].as_str().unwrap().starts_with("20"), "{commit}");
    world.stage("site.yaml", "nodes: [");
    let (status, refused) = post("commit", r#"{"repo-id":"puppet-code","submodule-id":"production"}"#).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(refused["puppet-code"]["submodules"]["production"]["error"]["type"], "publish-error");
    world.stage("site.yaml", format!("{SITE}# changed\n"));
    assert_eq!(post("publish", "").await.0, StatusCode::OK);
    let (status, back) = post("rollback", r#"{"environment":"production","to":"1.1"}"#).await;
    assert_eq!((status, &back["sequence"]), (StatusCode::OK, &3.into()));
    assert_eq!(post("rollback", r#"{"environment":"production","to":"9.9"}"#).await.0, StatusCode::NOT_FOUND);
}

/// They go with every version to every other server.
#[tokio::test]
async fn texts_that_are_too_long_are_refused_by_name() {
    use serde_json::json;
    let world = World::new();
    let server = world.open();
    publish_all(&server).await;
    let routes = AdminRoutes::new(Arc::clone(&server), Vec::new());
    type Body = fn(&str) -> serde_json::Value;
    let cases: [(&str, &str, usize, Body); 8] = [
        ("publish", "message", 4096, |text| json!({ "message": text })),
        ("publish", "author.name", 256, |text| json!({ "author": { "name": text } })),
        ("commit", "author.email", 256, |text| json!({ "commit-all": true, "author": { "email": text } })),
        ("publish", "request_id", 256, |text| json!({ "request_id": text })),
        ("publish", "revision", 200, |text| json!({ "revision": text })),
        ("rollback", "message", 4096, |text| json!({ "environment": "production", "to": "live", "message": text })),
        ("rollback", "author.name", 256, |text| json!({ "environment": "production", "to": "live", "author": { "name": text } })),
        ("rollout", "pause", 4096, |text| json!({ "pause": text })),
    ];
    for (path, field, limit, body) in cases {
        let path = format!("/file-sync/v1/{path}");
        let ask =
            async |bytes: usize| ask(&routes, &Peer::Plain, Method::POST, &path, &body(&"x".repeat(bytes)).to_string()).await;
        let (status, text) = ask(limit + 1).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path} {text}");
        let error: serde_json::Value = serde_json::from_str(&text).unwrap();
        let (code, message) = (&error["error"]["code"], error["error"]["message"].as_str().unwrap());
        assert!(code == "bad_request" && message.contains(field) && message.contains(&limit.to_string()), "{text}");
        assert_eq!(ask(limit).await.0, StatusCode::OK, "{path} {field}");
    }
    assert_eq!(server.versions(None).unwrap().len(), 1);
}

/// Whoever the request says it is from: the log names the peer.
#[tokio::test]
async fn the_audit_log_names_who_was_authenticated() {
    let world = World::new();
    let server = world.open();
    let routes = AdminRoutes::new(Arc::clone(&server), vec![certname("boss")]);
    let boss = Peer::certificate(certname("boss"));
    let claimed = r#""author":{"name":"mallory","email":"m@example.com"}"#;
    let post = async |path: &str, body: &str| ask(&routes, &boss, Method::POST, path, body).await.0;
    assert_eq!(post("/file-sync/v1/publish", &format!("{{{claimed}}}")).await, StatusCode::OK);
    world.stage("modules/app/files/tree/a", "second");
    assert_eq!(post("/file-sync/v1/commit", &format!("{{\"commit-all\":true,{claimed}}}")).await, StatusCode::OK);
    let back = format!("{{\"environment\":\"production\",\"to\":\"1.1\",{claimed}}}");
    assert_eq!(post("/file-sync/v1/rollback", &back).await, StatusCode::OK);
    compiled(&server, "n1").await;
    assert_eq!(post("/admin/v1/recompile", r#"{"certname":"n1"}"#).await, StatusCode::NO_CONTENT);
    server.collect_as(crate::history::CollectRequest { grace_seconds: 0, dry_run: true }, "uid 7").await.unwrap();
    server.verify_as("uid 7").unwrap();
    world.stage("modules/app/files/tree/a", "third");
    publish_all(&server).await;
    let audit = fs::read_to_string(world.data().join("audit.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = audit.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said = |line: &serde_json::Value| {
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        (text(&line["act"]), text(&line["who"]), text(&line["author"]["name"]))
    };
    let expected = [
        ("publish", "certificate boss", "mallory"),
        ("publish", "certificate boss", "mallory"),
        ("rollback", "certificate boss", "mallory"),
        ("recompile", "certificate boss", ""),
        ("gc", "uid 7", ""),
        ("verify", "uid 7", ""),
        ("publish", "this process", ""),
    ];
    let expected = expected.map(|(act, who, author)| (act.to_owned(), who.to_owned(), author.to_owned()));
    assert_eq!(lines.iter().map(said).collect::<Vec<_>>(), expected);
    assert!(lines[4]["what"].as_str().unwrap().contains("dry run") && lines[3]["author"].is_null(), "{audit}");
}

#[tokio::test]
async fn a_commit_is_tried_out_and_asked_again_as_a_publish_is() {
    let world = World::new();
    let server = world.open();
    let routes = AdminRoutes::new(Arc::clone(&server), Vec::new());
    let commit = async |more: &str| {
        let body = format!("{{\"commit-all\":true{more}}}");
        ask(&routes, &Peer::Plain, Method::POST, "/file-sync/v1/commit", &body).await.0
    };
    let would_be =
        ask(&routes, &Peer::Plain, Method::POST, "/file-sync/v1/commit", r#"{"commit-all":true,"dry-run":true}"#).await;
    assert_eq!(would_be.0, StatusCode::OK);
    assert!(server.environments.all_live().is_empty());
    let made = ask(&routes, &Peer::Plain, Method::POST, "/file-sync/v1/commit", r#"{"commit-all":true}"#).await;
    assert_eq!(would_be, made, "it would be what it then is, the repository's commit too");
    world.stage("modules/app/files/tree/a", "first");
    assert_eq!(commit(r#","dry-run":true"#).await, StatusCode::OK);
    assert_eq!(commit(r#","request-id":"one""#).await, StatusCode::OK);
    world.stage("modules/app/files/tree/a", "second");
    assert_eq!(commit(r#","request_id":"one""#).await, StatusCode::OK);
    assert_eq!(live(&server).version.version.sequence, 2, "the same request publishes once");
    assert_eq!(commit(r#","request-id":"two","dry_run":false"#).await, StatusCode::OK);
    assert_eq!(live(&server).version.version.sequence, 3);
    assert_eq!(commit(r#","if-live":"x""#).await, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_replica_is_told_to_sync_and_says_how_it_stands() {
    const STATUS: &str = "/status/v1/services/file-sync-client-service";
    const FORCE: &str = "/file-sync/v1/force-sync";
    const LATEST: &str = "/file-sync/v1/latest-commits";
    let pair = Pair::new();
    publish_all(&pair.primary).await;
    let replica = pair.replica();
    let routes = AdminRoutes::new(Arc::clone(&replica), Vec::new());
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let status = async || json(&ask(&routes, &Peer::Plain, Method::GET, STATUS, "").await.1);
    let before = status().await;
    assert_eq!((&before["state"], &before["status"]["role"]), (&"running".into(), &"replica".into()));
    assert!(before["status"]["seconds_since_confirmed"].is_null() && before["status"]["primary"] == "memory:primary", "{before}");
    assert_eq!(before["status"]["repos"]["puppet-code"]["submodules"], json("{}"));
    // It brings what it has not, and answers with what is live then.
    let (code, synced) = ask(&routes, &Peer::Plain, Method::POST, FORCE, "").await;
    let commit = live(&pair.primary).version.code_id.digest().to_hex();
    assert_eq!((code, &json(&synced)["puppet-code"]["submodules"]["production"]), (StatusCode::OK, &commit.as_str().into()));
    let latest = ask(&routes, &Peer::Plain, Method::POST, LATEST, "").await;
    assert_eq!((latest.0, &json(&latest.1)), (StatusCode::OK, &json(&synced)));
    let production = |status: &serde_json::Value| status["status"]["repos"]["puppet-code"]["submodules"]["production"].clone();
    let after = status().await;
    assert_eq!(production(&after)["status"], "ok");
    assert_eq!(production(&after)["latest_commit"]["commit"], commit.as_str());
    // The whole is told as it is everywhere else.
    assert_eq!(after["status"]["repos"]["puppet-code"]["latest_commit"]["commit"], json(&synced)["puppet-code"]["commit"]);
    assert!(after["status"]["seconds_since_confirmed"].is_u64(), "{after}");
    // Its primary is gone: refused, with a time to ask again, and the status says why.
    pair.cut();
    let refused = respond(&routes, &Peer::Plain, Method::POST, FORCE, "").await;
    assert_eq!((refused.status(), &refused.headers()["retry-after"]), (StatusCode::SERVICE_UNAVAILABLE, &"5".parse().unwrap()));
    assert_eq!(json(std::str::from_utf8(refused.body()).unwrap())["error"]["code"], "unconfirmed");
    // Nor is anybody told what is live, for it may have been replaced.
    assert_eq!(ask(&routes, &Peer::Plain, Method::POST, LATEST, "").await.0, StatusCode::SERVICE_UNAVAILABLE);
    let cut = status().await;
    assert_eq!((&cut["state"], &production(&cut)["status"]), (&"error".into(), &"error".into()));
    assert!(production(&cut)["cause"]["message"].as_str().unwrap().contains("memory:primary"), "{cut}");
    assert_eq!(production(&cut)["latest_commit"]["commit"], commit.as_str());
    // A primary follows nobody.
    let routes = AdminRoutes::new(Arc::clone(&pair.primary), Vec::new());
    let primary = json(&ask(&routes, &Peer::Plain, Method::GET, STATUS, "").await.1);
    assert_eq!((&primary["state"], &primary["status"]["role"]), (&"running".into(), &"primary".into()));
    assert!(primary["status"]["primary"].is_null(), "{primary}");
    assert_eq!(ask(&routes, &Peer::Plain, Method::POST, FORCE, "").await.0, StatusCode::OK);
    for (method, path) in [(Method::POST, FORCE), (Method::GET, STATUS)] {
        let node = Peer::certificate(certname("n1"));
        assert_eq!(ask(&routes, &node, method, path, "").await.0, StatusCode::FORBIDDEN, "{path}");
    }
}
