//! Shapes of answers.

use super::*;

const SHA256_ABC: &str = "{sha256}ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn find<'a>(catalog: &'a Json, resource_type: &str, title: &str) -> &'a Json {
    let is_it = |resource: &&Json| resource["type"] == resource_type && resource["title"] == title;
    catalog["resources"].as_array().unwrap().iter().find(is_it).unwrap_or_else(|| panic!("no {resource_type}[{title}]"))
}

#[tokio::test]
async fn a_static_catalog_whose_contents_are_there_and_one_compile_for_all_who_ask() {
    let world = World::new().await;
    let (status, body) = world.catalog("n1", form("n1")).await;
    assert_eq!(status, StatusCode::OK, "{body:?}");
    let catalog: Json = serde_json::from_slice(&body).unwrap();
    let code_id = world.server.live_versions()[0].code_id.to_string();
    assert_eq!(
        (&catalog["name"], &catalog["environment"], &catalog["code_id"], &catalog["catalog_format"], &catalog["classes"]),
        (&"n1".into(), &"production".into(), &code_id.as_str().into(), &2.into(), &json!(["base"]))
    );
    let uuid = catalog["catalog_uuid"].as_str().unwrap();
    assert_eq!(uuid.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
    assert_eq!(find(&catalog, "File", "/etc/motd")["parameters"]["content"], "n1 runs Linux\n");
    let secret = find(&catalog, "File", "/etc/key");
    assert_eq!((&secret["parameters"]["content"], &secret["sensitive_parameters"]), (&"hush".into(), &json!(["content"])));
    assert_eq!((&secret["kind"], &secret["exported"]), (&"compilable_type".into(), &false.into()));
    assert_eq!(find(&catalog, "Class", "Base")["kind"], "class");
    assert!(catalog["edges"].as_array().unwrap().contains(&json!({"source": "Class[Base]", "target": "File[/etc/motd]"})));

    let metadata = &catalog["metadata"]["/etc/app"];
    assert_eq!(metadata["checksum"], json!({"type": "sha256", "value": SHA256_ABC}));
    assert_eq!(
        (&metadata["content_uri"], &metadata["source"], &metadata["relative_path"], &metadata["type"]),
        (&"puppet:///modules/app/files/a b".into(), &"puppet:///modules/app/a b".into(), &Json::Null, &"file".into())
    );
    let tree = catalog["recursive_metadata"]["/srv/app"]["puppet:///modules/app/tree"].as_array().unwrap();
    let listed: Vec<(&str, &str)> =
        tree.iter().map(|file| (file["relative_path"].as_str().unwrap(), file["type"].as_str().unwrap())).collect();
    assert_eq!(listed, [(".", "directory"), (".git", "directory"), (".git/x", "file"), ("link", "link"), ("one", "file")]);
    assert_eq!(tree[3]["destination"], "one");

    // New code does not take away what this catalog names.
    world.stage("modules/app/files/a b", "new");
    world.publish().await;
    let path =
        format!("/puppet/v3/static_file_content/modules/app/files/a%20b?environment=production&code_id={}", encoded(&code_id));
    assert_eq!(world.get("n2", &path).await, (StatusCode::OK, "abc".into()));
    assert_eq!(world.get("n2", "/puppet/v3/file_content/modules/app/a%20b?environment=production").await.1, "new");

    assert_eq!(world.compiles(), 1);
    let (_, new) = world.catalog("n1", form("n1")).await;
    assert_eq!(world.compiles(), 2);
    let other = form_with(&json!({ "name": "n1", "values": { "kernel": "Other" } }));
    assert_eq!(world.catalog("n1", other).await.1, new, "changed facts alone change nothing");
    // Without facts, and by GET, the catalog that there is comes all the same.
    let query = "environment=production&static_catalog=true&checksum_type=sha256";
    assert_eq!(world.get("n1", &format!("/puppet/v3/catalog/n1?{query}")).await.1, new);
    let md5 = world.json("n1", &format!("/puppet/v3/catalog/n1?{}", query.replace("sha256", "md5"))).await;
    assert_eq!(md5["metadata"]["/etc/app"]["checksum"]["type"], "md5");
    let plain = world.json("n1", "/puppet/v3/catalog/n1?environment=production").await;
    assert!(plain.get("metadata").is_none() && plain.get("recursive_metadata").is_none());
    assert_eq!(world.compiles(), 2);
    assert_eq!(world.get("n9", "/puppet/v3/catalog/n9?environment=production").await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_source_that_only_the_node_has_may_come_first() {
    let world = World::new().await;
    let site = SITE.replace("source: puppet:///modules/app/a b", "source: [/etc/override, puppet:///modules/app/a b]");
    world.stage("site.yaml", &site);
    world.publish().await;
    let catalog: Json = serde_json::from_slice(&world.catalog("n1", form("n1")).await.1).unwrap();
    assert_eq!(catalog["metadata"].get("/etc/app"), None, "agents look for no source of what is described");
    assert_eq!(find(&catalog, "File", "/etc/app")["parameters"]["source"], json!(["/etc/override", "puppet:///modules/app/a b"]));
}

#[tokio::test]
async fn a_content_that_was_lost_is_compiled_anew_when_the_agent_asks_again() {
    let world = World::new().await;
    let (_, first) = world.catalog("n1", form("n1")).await;
    fs::remove_file(world.server.store.path_of(&direct_puppet_transport::protocol::Digest::of(b"hush"))).unwrap();
    // Not that which was kept ready.
    let plain = "/puppet/v3/catalog/n1?environment=production";
    assert_eq!(world.get("n1", plain).await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(world.get("n1", plain).await.0, StatusCode::BAD_REQUEST, "it is asked for its facts");
    let (status, again) = world.catalog("n1", form("n1")).await;
    let parameters = |body: &[u8]| find(&serde_json::from_slice(body).unwrap(), "File", "/etc/key")["parameters"].clone();
    assert_eq!((status, parameters(&again)), (StatusCode::OK, parameters(&first)));
}

#[tokio::test]
async fn files_of_other_modules_are_not_given_while_the_module_path_is_lost() {
    const SETTINGS: &str = "modulepath = site:modules\n";
    let world = World::new().await;
    for (path, content) in [("environment.conf", SETTINGS), ("site/app/files/x", "site"), ("modules/app/files/x", "modules")] {
        world.stage(path, content);
    }
    world.publish().await;
    let settings = world.server.store.path_of(&direct_puppet_transport::protocol::Digest::of(SETTINGS.as_bytes()));
    fs::rename(&settings, world.dir.path().join("away")).unwrap();
    for path in ["file_content/modules/app/x", "file_metadata/modules/app/x"] {
        let path = format!("/puppet/v3/{path}?environment=production");
        assert_eq!(world.get("n1", &path).await.0, StatusCode::INTERNAL_SERVER_ERROR, "{path}");
    }
    fs::rename(world.dir.path().join("away"), &settings).unwrap();
    let (status, content) = world.get("n1", "/puppet/v3/file_content/modules/app/x?environment=production").await;
    assert_eq!((status, &content[..]), (StatusCode::OK, &b"site"[..]));
}

#[tokio::test]
async fn a_rollout_that_is_paused_holds_for_stock_agents() {
    let world = World::new().await;
    let (_, first) = world.catalog("n1", form("n1")).await;
    set_rollout(&world, Some("lunch")).await;
    assert_eq!(world.catalog("n1", form("n1")).await.1, first);
    world.stage("modules/app/files/a b", "new");
    world.publish().await;
    assert_eq!(world.catalog("n1", form("n1")).await.1, first, "it keeps what it has");
    assert_eq!((world.catalog("n2", form("n2")).await.0, world.compiles()), (StatusCode::OK, 2), "who has nothing gets the new");
    set_rollout(&world, None).await;
    assert_ne!(world.catalog("n1", form("n1")).await.1, first);
    assert_eq!(world.compiles(), 3);
}

/// Nodes are given their catalogs by any of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_is_paused_holds_for_stock_agents_at_servers_that_share_a_store() {
    let world = World::new_with(share("a")).await;
    let beside = World::open(world.dir.path(), tempfile::tempdir().unwrap(), share("b"));
    for content in ["older", "old"] {
        world.stage("modules/app/files/a b", content);
        world.publish().await;
        world.catalog("n1", form("n1")).await;
    }
    let (_, held) = world.catalog("n1", form("n1")).await;
    set_rollout(&world, Some("lunch")).await;
    world.stage("modules/app/files/a b", "new");
    world.publish().await;
    for server in [&beside, &world, &beside] {
        assert_eq!(server.catalog("n1", form("n1")).await.1, held, "it keeps what it has");
    }
    assert_eq!(beside.catalog("n2", form("n2")).await.0, StatusCode::OK, "who has nothing gets the new");
    assert_eq!(world.server.nodes.summary(&"n1".parse().unwrap()).map(|node| node.compiles), Some(2));
    set_rollout(&beside, None).await;
    assert_ne!(beside.catalog("n1", form("n1")).await.1, held);
}

/// Of servers that follow one another none knows what the others have given.
#[tokio::test]
async fn while_a_rollout_is_paused_a_node_of_another_server_is_sent_back_there() {
    let world = World::new_with(|_, options| options.replicas = vec!["r1".parse().unwrap()]).await;
    let (_, first) = world.catalog("n1", form("n1")).await;
    set_rollout(&world, Some("lunch")).await;
    world.stage("modules/app/files/a b", "new");
    world.publish().await;
    assert_eq!(world.catalog("n1", form("n1")).await.1, first);
    let (status, body) = world.catalog("n2", form("n2")).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(String::from_utf8_lossy(&body).contains("the rollout is paused"), "{body:?}");
    set_rollout(&world, None).await;
    assert_eq!(world.catalog("n2", form("n2")).await.0, StatusCode::OK);
}

#[tokio::test]
async fn code_that_does_not_compile_is_told_with_its_place_once() {
    let world = World::new().await;
    world.stage("site.yaml", "nodes:\n  - match: n2\n    classes: []\nclasses: {}\n");
    world.publish().await;
    for _ in 0..2 {
        let (status, body) = world.catalog("n1", form("n1")).await;
        let told: Json = serde_json::from_slice(&body).unwrap();
        assert_eq!((status, &told["issue_kind"]), (StatusCode::INTERNAL_SERVER_ERROR, &"RUNTIME_ERROR".into()));
        assert!(told["message"].as_str().unwrap().starts_with("Server Error: site.yaml: no node rule matches n1"), "{told}");
    }
}

#[tokio::test]
async fn metadata_of_mounts() {
    let world = World::new().await;
    let at = "environment=production&links=manage&checksum_type=sha256&source_permissions=ignore";
    let file = world.json("n1", &format!("/puppet/v3/file_metadata/modules/app/a%20b?{at}")).await;
    let expected = json!({
        "path": "/environments/production/modules/app/files/a b", "relative_path": null, "links": "manage", "owner": 0, "group": 0,
        "mode": 420, "checksum": { "type": "sha256", "value": SHA256_ABC }, "type": "file", "destination": null,
    });
    assert_eq!(file, expected);
    for path in ["modules/app//tree/one", "modules/app/./tree/.//one"] {
        let found = world.json("n1", &format!("/puppet/v3/file_metadata/{path}?{at}")).await;
        assert_eq!(found["path"], "/environments/production/modules/app/files/tree/one", "{path}");
    }
    let link = world.json("n1", &format!("/puppet/v3/file_metadata/modules/app/tree/link?{at}")).await;
    let one = world.json("n1", &format!("/puppet/v3/file_metadata/modules/app/tree/one?{at}")).await;
    assert_eq!((&link["type"], &link["destination"], &link["checksum"]), (&"link".into(), &"one".into(), &one["checksum"]));
    let followed =
        world.json("n1", &format!("/puppet/v3/file_metadata/modules/app/tree/link?{}", at.replace("manage", "follow"))).await;
    assert_eq!((&followed["type"], &followed["checksum"]), (&"file".into(), &one["checksum"]));
    let directory = world.json("n1", &format!("/puppet/v3/file_metadata/modules/app/tree?{at}")).await;
    let time = directory["checksum"]["value"].as_str().unwrap();
    assert!(time.starts_with("{ctime}2") && time.ends_with(" +0000") && time.len() == 32, "{time}");

    let names = |list: &Json| -> Vec<String> {
        list.as_array().unwrap().iter().map(|file| file["relative_path"].as_str().unwrap().to_owned()).collect()
    };
    let all = "recurse=true&max_files=-1&ignore=.svn&ignore=CVS&ignore=.git&ignore=.hg&links=follow&checksum_type=md5&source_permissions=use";
    let tree = world.json("n1", &format!("/puppet/v3/file_metadatas/modules/app/tree?environment=production&{all}")).await;
    assert_eq!(names(&tree), [".", "link", "one"]);
    let plugins = world.json("n1", &format!("/puppet/v3/file_metadatas/plugins?environment=production&{all}")).await;
    assert_eq!(names(&plugins), [".", "facter", "facter/a.rb", "facter/b.rb"]);
    // The first module counts, and its content is what is served.
    assert_eq!(plugins[2]["path"], "/environments/production/modules/app/lib");
    assert_eq!(world.get("n1", "/puppet/v3/file_content/plugins/facter/a.rb?environment=production").await.1, "# a\n");
    assert_eq!(world.get("n1", "/puppet/v3/file_content/plugins/facter/b.rb?environment=production").await.1, "# b\n");
    let empty = world.json("n1", &format!("/puppet/v3/file_metadatas/pluginfacts?environment=production&{all}")).await;
    assert_eq!((names(&empty), &empty[0]["type"]), (vec![".".to_owned()], &"directory".into()));
    let top = world.json("n1", &format!("/puppet/v3/file_metadatas/plugins?recurse=false&{at}")).await;
    assert_eq!(names(&top), ["."]);
    let limited = world.json("n1", &format!("/puppet/v3/file_metadatas/plugins?recurse=true&recurselimit=1&{at}")).await;
    assert_eq!(names(&limited), [".", "facter"]);
    let (status, _) = world.get("n1", &format!("/puppet/v3/file_metadatas/plugins?recurse=true&max_files=2&{at}")).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);

    // New code is seen at once.
    world.stage("modules/app/lib/facter/c.rb", "# c\n");
    world.publish().await;
    let plugins = world.json("n1", &format!("/puppet/v3/file_metadatas/plugins?environment=production&{all}")).await;
    assert_eq!(names(&plugins), [".", "facter", "facter/a.rb", "facter/c.rb", "facter/b.rb"]);
}

#[tokio::test]
async fn nodes_environments_and_status() {
    let world = World::new().await;
    let node = world.json("n1", "/puppet/v3/node/n1?environment=production&configured_environment=production").await;
    assert_eq!(node, json!({"name": "n1", "environment": "production", "parameters": {}}));
    let environments = world.json("n1", "/puppet/v3/environments").await;
    assert_eq!(environments["environments"].as_object().unwrap().keys().collect::<Vec<_>>(), ["production"]);
    assert_eq!(world.get("n1", "/status/v1/simple/master").await.1, "running");
    assert_eq!(world.json("n1", "/status/v1/services").await["server"]["state"], "running");
}

#[tokio::test]
async fn a_bucket_is_a_nodes_own() {
    let world = World::new().await;
    let path = "/puppet/v3/file_bucket_file/sha256/ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad/etc/motd?environment=production";
    let ask = async |name: &str, method: Method, body: &str| {
        world.send(&node(name), request(method, path).body(Bytes::from(body.to_owned())).unwrap()).await
    };
    assert_eq!(ask("n1", Method::HEAD, "").await.0, StatusCode::NOT_FOUND);
    assert_eq!(ask("n1", Method::PUT, "abd").await.0, StatusCode::BAD_REQUEST);
    assert_eq!(ask("n1", Method::PUT, "abc").await.0, StatusCode::OK);
    assert_eq!(ask("n1", Method::PUT, "abc").await.0, StatusCode::OK);
    assert_eq!(ask("n1", Method::HEAD, "").await.0, StatusCode::OK);
    assert_eq!(ask("n1", Method::GET, "").await, (StatusCode::OK, "abc".into()));
    assert_eq!(ask("n2", Method::HEAD, "").await.0, StatusCode::NOT_FOUND, "whoever knows a digest has not the content yet");
    assert_eq!(ask("n2", Method::GET, "").await.0, StatusCode::NOT_FOUND);
    // What the disk has damaged is given to nobody, and is there again when it is put in anew.
    let bucket = fs::read_dir(world.dir.path().join("data/nodes")).unwrap().map(|node| node.unwrap().path().join("bucket"));
    let stored = bucket.filter(|dir| dir.exists()).map(|dir| fs::read_dir(dir).unwrap().next().unwrap().unwrap().path());
    let stored: Vec<_> = stored.collect();
    for method in [Method::GET, Method::HEAD, Method::PUT] {
        fs::write(&stored[0], "abd").unwrap();
        if method != Method::PUT {
            assert_eq!(ask("n1", method, "").await.0, StatusCode::NOT_FOUND);
        }
        assert_eq!(ask("n1", Method::PUT, "abc").await.0, StatusCode::OK);
        assert_eq!(ask("n1", Method::GET, "").await, (StatusCode::OK, "abc".into()));
    }
    assert_eq!(world.server.verify().unwrap().damaged, Vec::<String>::new());
    fs::write(&stored[0], "abd").unwrap();
    let verified = world.server.verify().unwrap().damaged;
    assert!(verified.len() == 1 && verified[0].contains("bucket"), "{verified:?}");
    assert_eq!(ask("n1", Method::HEAD, "").await.0, StatusCode::NOT_FOUND);
    assert_eq!(world.server.verify().unwrap().damaged, Vec::<String>::new());
    let listing = request(Method::GET, &format!("{path}&list_all=true")).body(Bytes::new()).unwrap();
    assert_eq!(world.send(&node("n1"), listing).await.0, StatusCode::BAD_REQUEST);
}

/// What Puppet 7.23 sends, cut down.
const REPORT: &str = r#"{
    "host": "n1", "time": "2026-11-22T12:45:52.233219295+00:00", "transaction_uuid": "b6f640dd-1930-4328-a631-fcad3e53396b",
    "report_format": 12, "puppet_version": "7.23.0", "status": "changed", "transaction_completed": true, "noop": false,
    "noop_pending": true, "environment": "production", "configuration_version": 1795351223, "corrective_change": true,
    "code_id": "CODE_ID", "catalog_uuid": "c303599f-4125-404c-bdae-1165ee2155c3", "cached_catalog_status": "on_failure",
    "logs": [{"level": "info", "message": "m", "source": "Puppet", "tags": ["info"], "time": "2026-11-22T12:45:53+00:00",
        "file": null, "line": null}],
    "metrics": {"resources": {"name": "resources", "label": "Resources", "values": [["total", "Total", 2], ["odd", "Odd", null]]}},
    "resource_statuses": {
        "File[/a]": {"title": "/a", "file": "x.pp", "line": 4, "resource": "File[/a]", "failed": false, "changed": true,
            "out_of_sync": true, "skipped": false, "corrective_change": true, "events": [{"audited": false, "property": "ensure",
            "previous_value": "absent", "desired_value": ["directory"], "message": "created (corrective)", "name": "directory_created",
            "status": "success", "time": "2026-11-22T12:46:02Z", "redacted": null, "corrective_change": true}]},
        "File[/b]": {"title": "/b", "out_of_sync": false, "events": []}
    }
}"#;

#[tokio::test]
async fn a_report_is_kept_as_ours_are() {
    let world = World::new().await;
    assert_eq!(world.catalog("n1", form("n1")).await.0, StatusCode::OK);
    let code_id = world.server.live_versions()[0].code_id;
    let report = REPORT.replace("CODE_ID", &code_id.to_string());
    for _ in 0..2 {
        let put = request(Method::PUT, "/puppet/v3/report/n1?environment=production").header(CONTENT_TYPE, "application/json");
        assert_eq!(world.send(&node("n1"), put.body(Bytes::from(report.clone())).unwrap()).await.0, StatusCode::OK);
    }
    let dirs = fs::read_dir(world.dir.path().join("data/nodes")).unwrap().map(|dir| dir.unwrap().path().join("reports"));
    let kept: Vec<Json> = dirs
        .flat_map(|dir| fs::read_dir(dir).unwrap())
        .map(|entry| serde_json::from_slice(&fs::read(entry.unwrap().path()).unwrap()).unwrap())
        .collect();
    assert_eq!(kept.len(), 1, "sent twice it is kept once");
    let kept = &kept[0];
    for (name, expected) in [
        ("status", json!("changed")),
        ("transaction_uuid", json!("b6f640dd19304328a631fcad3e53396b")),
        ("configuration_version", json!("1795351223")),
        ("cached_catalog_status", json!("on_failure")),
        ("code_id", json!(code_id)),
        ("time_unix_nanos", json!(1_795_351_552_233_219_295_i64)),
        ("metrics", json!({"resources": {"total": 2.0}})),
    ] {
        assert_eq!(kept[name], expected, "{name}");
    }
    let statuses = kept["resource_statuses"].as_array().unwrap();
    assert_eq!((statuses.len(), &statuses[0]["resource"]), (1, &"File[/a]".into()));
    let event = &statuses[0]["events"][0];
    assert_eq!((&event["message"], &event["desired_value"]), (&"created".into(), &r#"["directory"]"#.into()));
    let summary = world.server.nodes().unwrap().remove(0);
    assert_eq!(summary.catalog_id.map(|id| json!(id)), Some(kept["catalog_id"].clone()));
}
