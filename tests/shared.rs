//! Equal servers that share a store: local files, and a real PostgreSQL that crashes.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::fs;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use direct_puppet_tests::binaries::{binaries, json, run};
use direct_puppet_tests::campaign;
use direct_puppet_tests::equals::Equals;
use direct_puppet_tests::postgres::Postgres;
use direct_puppet_tests::s3::S3;
use direct_puppet_tests::serving::{Serving, live};
use direct_puppet_tests::site::files;
use direct_puppet_tests::wire::Wire;
use serde_json::Value;

#[path = "shared/history.rs"]
mod history;
#[path = "shared/trouble.rs"]
mod trouble;

const FILES: usize = 60;

fn message(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// `reports` says how many reports of a run are in the store, by its id.
fn one_truth(equals: &Equals, start: impl Fn(usize) -> Serving, reports: impl Fn(&str) -> usize) {
    let servers = [start(0), start(1)];
    let root = equals.node("node");
    // Whatever was published where, it is what a node gets from either, at once and compiled once.
    let mut compiles = 0;
    for turn in 0..6 {
        let (there, here) = (turn % 2, (turn / 2) % 2);
        let published = equals.publish(&servers[there], there, FILES, &format!("v{turn}"));
        assert_eq!((&published["changed"], &published["sequence"]), (&true.into(), &(turn + 1).into()), "{published}");
        let first = equals.agent(&root, here);
        assert_eq!(first.status.code(), Some(2), "{}", message(&first));
        assert_eq!(files(&root.join("srv/tree")), files(&equals.sites[there].tree()));
        compiles += 1;
        let (first, second) = (json(&first), json(&equals.agent(&root, 1 - here)));
        assert_eq!((&second["answer"], &second["status"]), (&"current".into(), &"unchanged".into()));
        assert_eq!(first["catalog_id"], second["catalog_id"]);
        // An agent that has lost its disk gets the same catalog and its contents from the one that has not compiled it.
        let bare = equals.node(&format!("bare{turn}"));
        let again = json(&equals.agent(&bare, 1 - here));
        assert_eq!(again["catalog_id"], first["catalog_id"]);
        assert_eq!(files(&bare.join("srv/tree")), files(&equals.sites[there].tree()));
    }
    let counted = |server: &Serving| json(&server.verb(&["nodes"]))[0]["compiles"].as_u64().unwrap();
    assert_eq!(servers.each_ref().map(counted), [compiles; 2], "each was compiled once, whoever was asked");

    // History, rollback and the content of versions that were live elsewhere only.
    let versions = servers.each_ref().map(|server| json(&server.verb(&["versions"])));
    assert_eq!(versions[0].as_array().unwrap().len(), 6);
    let codes = |versions: &Value| versions.as_array().unwrap().iter().map(|one| one["code_id"].clone()).collect::<Vec<_>>();
    assert_eq!(codes(&versions[0]), codes(&versions[1]));
    let back = servers[1].verb(&["rollback", "1.1", "--message", "back"]);
    assert!(back.status.success(), "{}", message(&back));
    assert_eq!(equals.agent(&root, 0).status.code(), Some(2));
    assert_eq!(live(&servers[0]), codes(&versions[0])[0]);

    // What an administrator orders at one is done at all.
    let before = counted(&servers[1]);
    assert_eq!(json(&equals.agent(&root, 1))["answer"], "current");
    assert_eq!(counted(&servers[1]), before);
    assert!(servers[0].verb(&["recompile", "node1.example.com"]).status.success());
    assert!(equals.agent(&root, 1).status.success());
    assert_eq!(counted(&servers[1]), before + 1, "it was compiled again, by the other");
    let paused = servers[1].verb(&["rollout", "--pause", "wait"]);
    assert!(paused.status.success(), "{}", message(&paused));
    equals.publish(&servers[1], 1, FILES, "paused");
    let held = json(&equals.agent(&root, 0));
    assert_eq!(held["status"], "unchanged", "{held}");
    let resumed = servers[0].verb(&["rollout", "--resume"]);
    assert!(resumed.status.success(), "{}", message(&resumed));
    assert_eq!(equals.agent(&root, 1).status.code(), Some(2));
    let rollout = json(&servers[0].verb(&["rollout"]));
    let nodes = &rollout["environments"][0]["nodes"][live(&servers[0]).as_str().unwrap()];
    assert_eq!(nodes.as_array().unwrap().len(), 1, "{rollout}");
    assert!(message(&servers[0].verb(&["promote"])).contains("none of them is primary"));

    // A new server needs nothing but the store.
    let [first, second] = servers;
    drop(first);
    fs::remove_dir_all(equals.data(0)).unwrap();
    let first = start(0);
    let outcome = json(&equals.agent(&root, 0));
    assert_eq!(outcome["answer"], "current");
    assert_eq!(reports(outcome["transaction_uuid"].as_str().unwrap()), 1, "the report of each run is there, once");
    assert_eq!(first.verb(&["verify"]).status.code(), Some(0));
    for server in [&first, &second] {
        let collected = server.verb(&["gc", "--grace-days", "0"]);
        assert!(collected.status.success(), "{}", message(&collected));
    }
    let bare = equals.node("after-gc");
    assert_eq!(equals.agent(&bare, 0).status.code(), Some(2));
    // One that does not run is not asked to speak for all.
    drop(second);
    let mut command = Command::new(&binaries().server);
    command.args(["publish", "--data"]).arg(equals.data(1)).arg("--staging").arg(equals.sites[1].dir());
    assert!(message(&run(command)).contains("start it"));
}

/// How many reports of a run are in a store of files.
fn reports_in_files(equals: &Equals, uuid: &str) -> usize {
    files(&equals.dir.path().join("store/pointers/report"))
        .into_keys()
        .filter(|path| path.to_string_lossy().contains(uuid))
        .count()
}

#[test]
fn one_truth_in_local_files() {
    let equals = Equals::new(None);
    one_truth(&equals, |server| equals.start(server, &[]), |uuid| reports_in_files(&equals, uuid));
}

#[test]
fn one_truth_in_postgresql() {
    let Some(postgres) = Postgres::start(&[]) else { return };
    let equals = Equals::new(Some(&postgres.url()));
    let reports = |uuid: &str| {
        let named = format!("SELECT count(*) FROM direct_puppet.pointer WHERE name LIKE 'report/%{uuid}'");
        postgres.sql(&named).0.parse().unwrap()
    };
    one_truth(&equals, |server| equals.start(server, &[]), reports);
}

/// Contents in an object store, where each server has its keys from its environment.
#[test]
fn one_truth_with_contents_in_an_object_store() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("contents")).unwrap();
    let Some(s3) = S3::start(dir.path()) else { return };
    let equals = Equals::new(None);
    let start = |server| equals.start_with_objects(&s3, server, "s3://contents/of/servers");
    one_truth(&equals, start, |uuid| reports_in_files(&equals, uuid));
    assert!(!files(&dir.path().join("contents/of/servers")).is_empty(), "they are somewhere else");
}

/// Publishers at both servers at once: each acknowledged publish is in the one history, under a counter of its own.
fn publishers_at_once(store: Option<&str>) {
    const EACH: usize = 8;
    let equals = Equals::new(store);
    let servers = [equals.start(0, &[]), equals.start(1, &[])];
    let published: Vec<Value> = std::thread::scope(|scope| {
        let (equals, servers) = (&equals, &servers);
        let publisher = |server: usize| {
            scope.spawn(move || {
                let publish = |turn| equals.publish(&servers[server], server, FILES, &format!("s{server}t{turn}"));
                (0..EACH).map(publish).collect::<Vec<_>>()
            })
        };
        let publishers = [0, 1].map(publisher);
        publishers.into_iter().flat_map(|publisher| publisher.join().unwrap()).collect()
    });
    assert!(published.iter().all(|one| one["changed"] == true));
    let history = json(&servers[0].verb(&["versions"]));
    assert_eq!(history.as_array().unwrap().len(), 2 * EACH);
    for one in &published {
        let is_it = |line: &&Value| line["sequence"] == one["sequence"] && line["code_id"] == one["code_id"];
        assert_eq!(history.as_array().unwrap().iter().filter(is_it).count(), 1, "{one} is lost");
    }
    let begun = Instant::now();
    while live(&servers[0]) != live(&servers[1]) {
        assert!(begun.elapsed() < Duration::from_secs(20), "they never agreed");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn of_publishers_at_once_none_is_lost_in_local_files() {
    publishers_at_once(None);
}

#[test]
fn of_publishers_at_once_none_is_lost_in_postgresql() {
    let Some(postgres) = Postgres::start(&[]) else { return };
    publishers_at_once(Some(&postgres.url()));
}

#[test]
fn while_postgresql_is_gone_nothing_unconfirmed_is_answered() {
    let Some(mut postgres) = Postgres::start(&[]) else { return };
    let equals = Equals::new(Some(&postgres.url()));
    let (strict, bounded) = (equals.start(0, &[]), equals.start(1, &["--unconfirmed-for", "600"]));
    let root = equals.node("node");
    equals.publish(&strict, 0, FILES, "v0");
    assert_eq!(equals.agent(&root, 1).status.code(), Some(2));
    postgres.kill();
    let refused = json(&equals.agent(&root, 0));
    assert_eq!((&refused["answer"], &refused["status"]), (&"cached".into(), &"unchanged".into()));
    let allowed = json(&equals.agent(&root, 1));
    assert_eq!((&allowed["answer"], &allowed["status"]), (&"current".into(), &"unchanged".into()));
    for server in [&strict, &bounded] {
        let refused = server.verb(&["publish"]);
        assert_eq!(refused.status.code(), Some(1));
        let said = format!("{}{}", message(&refused), String::from_utf8_lossy(&refused.stdout));
        assert!(said.contains("postgres://"), "{said}");
    }
    // A server starts without it, and answers when it is there.
    strict.kill();
    let strict = equals.start(0, &[]);
    assert_eq!(json(&equals.agent(&root, 0))["answer"], "cached");
    postgres.resume();
    let begun = Instant::now();
    while json(&equals.agent(&root, 0))["answer"] != "current" {
        assert!(begun.elapsed() < Duration::from_secs(30), "it is never answered again");
    }
    equals.publish(&strict, 0, FILES, "v1");
    // The other may go on with what it has confirmed before until it finds the store again.
    let begun = Instant::now();
    while equals.agent(&root, 1).status.code() != Some(2) {
        assert!(begun.elapsed() < Duration::from_secs(30), "it never hears of the new code");
    }
}

/// `LISTEN` and `NOTIFY` are a hint: a server that hears nothing of them answers from the newest code all the same, and follows.
#[test]
fn a_server_that_no_notification_of_postgresql_reaches_answers_what_was_just_published() {
    let Some(postgres) = Postgres::start(&[]) else { return };
    let equals = Equals::new(Some(&postgres.url()));
    let deaf_dir = equals.dir.path().join("deaf");
    fs::create_dir(&deaf_dir).unwrap();
    let wire = Wire::before_postgres_without_notifications(postgres.dir(), &deaf_dir);
    let (hears, deaf) = (equals.start(0, &[]), equals.start_with(&Postgres::url_in(&deaf_dir), 1, &[]));
    let root = equals.node("node");
    for turn in 0..5 {
        let published = equals.publish(&hears, 0, FILES, &format!("v{turn}"));
        let run = equals.agent(&root, 1);
        assert_eq!(run.status.code(), Some(2), "{}", message(&run));
        assert_eq!(json(&run)["code_id"], published["code_id"], "turn {turn}");
    }
    // Nobody asks it, and it follows.
    let published = equals.publish(&hears, 0, FILES, "unasked");
    let begun = Instant::now();
    while live(&deaf) != published["code_id"] {
        assert!(begun.elapsed() < Duration::from_secs(60), "it never follows");
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("{} notifications kept back; it followed after {:?}", wire.kept_back(), begun.elapsed());
    assert!(wire.kept_back() > 0, "it was told of nothing that it could have heard");
}

#[test]
fn postgresql_or_a_server_that_crashes_in_a_publish_loses_nothing_that_was_acknowledged() {
    let Some(mut postgres) = Postgres::start(&[]) else { return };
    let equals = Equals::new(Some(&postgres.url()));
    let mut servers = [Some(equals.start(0, &[])), Some(equals.start(1, &[]))];
    equals.publish(servers[0].as_ref().unwrap(), 0, FILES, "begin");
    let (mut cut_off, kills) = (0, campaign(100));
    for kill in 0..kills {
        let at = kill % 2;
        equals.sites[at].fill(FILES, &format!("k{kill}"));
        let before = live(servers[at].as_ref().unwrap());
        let id = format!("request{kill}");
        let mut command = Command::new(&binaries().server);
        command.args(["publish", "--json", "--request-id", &id, "--data"]).arg(equals.data(at));
        let publish = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(200).mul_f64(((kill * 37) % 100) as f64 / 100.0));
        let kills_server = kill % 4 >= 2;
        if kills_server {
            servers[at].take().unwrap().kill();
            servers[at] = Some(equals.start(at, &[]));
        } else {
            postgres.kill();
            postgres.resume();
        }
        let output = publish.wait_with_output().unwrap();
        let acknowledged = output.status.success().then(|| json(&output)["environments"][0]["code_id"].clone());
        cut_off += usize::from(acknowledged.is_none());
        // Asked again with the same id it is published once.
        let begun = Instant::now();
        let again = loop {
            let again = servers[at].as_ref().unwrap().verb(&["publish", "--request-id", &id]);
            if again.status.success() {
                break json(&again)["environments"][0].clone();
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{}", message(&again));
        };
        if let Some(acknowledged) = &acknowledged {
            assert_eq!(again["code_id"], *acknowledged, "kill {kill}: an acknowledged publish is lost");
        }
        assert_ne!(again["code_id"], before);
        let history = json(&servers[at].as_ref().unwrap().verb(&["versions"]));
        let of_it = history.as_array().unwrap().iter().filter(|line| line["request_id"] == id.as_str()).count();
        assert_eq!(of_it, 1, "kill {kill}");
        let begun = Instant::now();
        while live(servers[1 - at].as_ref().unwrap()) != again["code_id"] {
            assert!(begun.elapsed() < Duration::from_secs(60), "the other never has it");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    println!("store: {kills} kills, {cut_off} cut a publish off");
    assert!(cut_off > 0, "no kill hit a publish");
    for server in servers.iter().flatten() {
        assert_eq!(server.verb(&["verify"]).status.code(), Some(0));
    }
}

#[test]
fn a_collection_in_postgresql_that_is_cut_off_takes_nothing_that_is_needed() {
    let Some(mut postgres) = Postgres::start(&[]) else { return };
    let equals = Equals::new(Some(&postgres.url()));
    let mut servers = [Some(equals.start(0, &[])), Some(equals.start(1, &[]))];
    let contents = |postgres: &Postgres| postgres.sql("SELECT count(*) FROM direct_puppet.blob").0.parse::<u64>().unwrap();
    // What was put a moment ago may be of a publish that goes on.
    let age = |postgres: &Postgres| assert!(postgres.sql("UPDATE direct_puppet.blob SET touched = now() - interval '2 days'").1);
    let gc = ["gc", "--grace-days", "0"];
    let (mut cut_off, kills) = (0, campaign(100));
    for kill in 0..kills {
        let at = kill % 2;
        for version in 0..3 {
            equals.publish(servers[0].as_ref().unwrap(), 0, FILES, &format!("k{kill}v{version}"));
        }
        age(&postgres);
        let mut command = Command::new(&binaries().server);
        command.args(gc).arg("--data").arg(equals.data(at));
        let collects = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(150).mul_f64(((kill * 37) % 100) as f64 / 100.0));
        if kill % 4 >= 2 {
            servers[at].take().unwrap().kill();
            servers[at] = Some(equals.start(at, &[]));
        } else {
            postgres.kill();
            postgres.resume();
        }
        cut_off += usize::from(!collects.wait_with_output().unwrap().status.success());
        for server in servers.iter().flatten() {
            let begun = Instant::now();
            loop {
                let verified = server.verb(&["verify"]);
                if verified.status.success() {
                    break;
                }
                assert!(begun.elapsed() < Duration::from_secs(60), "kill {kill}: {}", String::from_utf8_lossy(&verified.stdout));
            }
        }
    }
    println!("store: {kills} kills, {cut_off} cut a collection off");
    assert!(cut_off > 0, "no kill hit a collection");
    // One that goes on to its end takes the rest, and what is live is all there for a server that has nothing.
    for version in 0..2 {
        equals.publish(servers[0].as_ref().unwrap(), 0, FILES, &format!("v{version}"));
    }
    let before = contents(&postgres);
    age(&postgres);
    let collected = servers[0].as_ref().unwrap().verb(&gc);
    assert!(collected.status.success(), "{}", message(&collected));
    let after = contents(&postgres);
    println!("{before} contents before, {after} after it");
    assert!(after < before && after >= FILES as u64, "{before} contents before, {after} after it");
    drop(servers[1].take());
    fs::remove_dir_all(equals.data(1)).unwrap();
    let _bare = equals.start(1, &[]);
    assert_eq!(equals.agent(&equals.node("after-gc"), 1).status.code(), Some(2));
}

#[test]
fn options_that_do_not_go_together_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (options, wanted) in [
        (&["--store", "postgres://h/d"][..], "--certname"),
        (&["--store", "mysql://h/d", "--certname", "a"], "there is no store of the kind"),
        (&["--store", "file://relative", "--certname", "a"], "not absolute"),
        (&["--store", "postgres://h/d", "--certname", "a", "--primary", "unix:/tmp/a"], "--primary"),
        (&["--unconfirmed-for", "5"], "--unconfirmed-for"),
        (&["--store", "s3://bucket", "--certname", "a"], "--contents"),
        (&["--store", "postgres://h/d", "--certname", "a", "--contents", "http://h"], "s3://bucket/prefix"),
    ] {
        let mut command = Command::new(&binaries().server);
        command.args(["serve", "--listen", "http://127.0.0.1:0", "--staging", "/tmp", "--data"]);
        let output = run({
            command.arg(dir.path().join("data")).args(options);
            command
        });
        assert!(!output.status.success() && message(&output).contains(wanted), "{options:?}: {}", message(&output));
    }
}
