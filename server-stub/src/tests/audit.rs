//! Who was turned away, and what was done to the log that says so.

use bytes::Bytes;
use direct_puppet_transport::protocol::{Fetch, RefusalCode, SyncManifest};
use hyper::{Method, Request, StatusCode};

use super::routes::ask;
use super::*;
use crate::AdminRoutes;

/// Returns each line of the log as what was done and by whom, and about what.
fn lines(world: &World) -> Vec<(String, String, String)> {
    let text = fs::read_to_string(world.data().join("audit.jsonl")).unwrap_or_default();
    let said = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        (text("act"), text("who"), text("what"))
    };
    text.lines().map(said).collect()
}

#[tokio::test]
async fn whoever_is_turned_away_is_in_the_log() {
    let world = World::new();
    let server = world.open_with(|options| options.replicas = vec!["part=test".parse().unwrap()]);
    publish_all(&server).await;
    let routes = AdminRoutes::new(Arc::clone(&server), vec![certname("boss")]);
    let (node, part) = (Peer::certificate(certname("n1")), Peer::certificate(certname("part")));
    let published = lines(&world).len();
    let forbidden = |refusal: Refusal| assert_eq!(refusal.code, RefusalCode::Forbidden);
    forbidden(server.check_in(&node, check_in("n2", None)).await.unwrap_err());
    forbidden(server.report(&node, samples::report("n2")).await.unwrap_err());
    let fetch = |name: &str| Fetch { certname: certname(name), digests: Vec::new(), offsets: BTreeMap::new(), packed: None };
    forbidden(server.fetch(&node, fetch("n2")).await.err().unwrap());
    forbidden(server.sync_fetch(&node, fetch("n1")).await.err().unwrap());
    let manifest = SyncManifest {
        replica: certname("part"),
        environment: Environment::default(),
        code_id: live(&server).version.code_id,
        base: None,
    };
    forbidden(server.sync_manifest(&part, manifest).await.unwrap_err());
    assert_eq!(ask(&routes, &node, Method::POST, "/file-sync/v1/promote", "").await.0, StatusCode::FORBIDDEN);
    let page = Request::builder().method(Method::POST).uri("/file-sync/v1/publish").header("origin", "http://x");
    let response = routes.answer(&Peer::Plain, page.body(Bytes::new()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    let expected = [
        ("certificate n1", "check-in: "),
        ("certificate n1", "report: "),
        ("certificate n1", "fetch: "),
        ("certificate n1", "sync: n1 is no replica"),
        ("certificate part", "sync-manifest: environment production is not for part"),
        ("certificate n1", "POST /file-sync/v1/promote"),
        ("plain connection", "/file-sync/v1/publish from a web page"),
    ];
    let lines = &lines(&world)[published..];
    assert_eq!(lines.len(), expected.len(), "{lines:?}");
    for ((act, who, what), (expected_who, expected_what)) in lines.iter().zip(expected) {
        assert!(act == "denied" && who == expected_who && what.starts_with(expected_what), "{act} {who} {what}");
    }
    // What is refused for another reason is not.
    assert!(server.check_in(&node, CheckIn { environment: "nowhere".parse().unwrap(), ..check_in("n1", None) }).await.is_err());
    assert_eq!(self::lines(&world).len(), published + expected.len());
}

#[tokio::test]
async fn whoever_is_turned_away_all_the_time_does_not_fill_the_log() {
    let world = World::new();
    let server = world.open();
    for _ in 0..500 {
        assert!(server.check_in(&Peer::certificate(certname("n1")), check_in("n2", None)).await.is_err());
    }
    let count = lines(&world).len();
    // A minute may end meanwhile.
    assert!((10..=20).contains(&count), "{count} lines");
}

#[tokio::test]
async fn a_line_that_is_edited_or_taken_out_is_told_by_verify() {
    let world = World::new();
    let server = world.open();
    for number in 0..4 {
        world.stage("modules/app/files/tree/a", format!("content {number}"));
        publish_all(&server).await;
    }
    let path = world.data().join("audit.jsonl");
    assert_eq!(server.verify_as("uid 7").unwrap().audit_lines, [0; 0]);
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let write = |lines: &[&str]| fs::write(&path, lines.join("\n") + "\n").unwrap();
    let forged = lines[1].replacen("this process", "certificate boss", 1);
    assert_ne!(forged, lines[1]);
    write(&[lines[0], &forged, lines[2], lines[3], lines[4]]);
    assert_eq!(server.verify_as("uid 7").unwrap().audit_lines, [2, 3]);
    write(&[lines[0], lines[2], lines[3], lines[4]]);
    assert_eq!(server.verify_as("uid 7").unwrap().audit_lines, [2]);
}

/// One node alone is slowed, and pays for it alone.
#[tokio::test]
async fn a_node_that_floods_with_reports_is_told_to_wait_and_the_others_are_not() {
    let world = World::new();
    let server = world.open();
    let send = async |name: &str, number: u32| {
        let report = samples::report(name);
        let report = direct_puppet_transport::protocol::Report { transaction_uuid: format!("{number:032x}"), ..report };
        server.report(&Peer::certificate(certname(name)), report).await
    };
    let (mut taken, mut refused) = (0, 0);
    for number in 0..1_000 {
        match send("flood", number).await {
            Ok(_) => taken += 1,
            Err(refusal) => {
                assert!(refusal.code == RefusalCode::Busy && refusal.retry_after_seconds.is_some(), "{refusal}");
                refused += 1;
            }
        }
        if number % 100 == 0 {
            assert!(!send(&format!("quiet{number}"), number).await.unwrap().duplicate);
        }
    }
    // One more for each second that it took.
    assert!(taken >= 600 && refused > 0, "{taken} taken, {refused} refused");
    assert_eq!(server.nodes().unwrap().len(), 11);
}

/// What a large log takes no more is who was turned away; what administrators do it takes always.
#[tokio::test]
async fn a_log_that_is_large_takes_nobody_more_who_is_turned_away() {
    let world = World::new();
    let server = world.open();
    publish_all(&server).await;
    let path = world.data().join("audit.jsonl");
    let written = fs::read(&path).unwrap();
    let length = || fs::metadata(&path).unwrap().len();
    for (bytes, is_taken) in [((64 << 20) - 1, true), (64 << 20, false), (65 << 20, false)] {
        // What is before its lines takes no room on the disk.
        let tail = [b"\n", &written[..]].concat();
        let log = fs::File::create(&path).unwrap();
        log.set_len(bytes).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&log, &tail, bytes - tail.len() as u64).unwrap();
        let asked = server.check_in(&Peer::certificate(certname(&format!("n{bytes}"))), check_in("n2", None)).await;
        assert_eq!(asked.unwrap_err().code, RefusalCode::Forbidden);
        assert_eq!(length() > bytes, is_taken, "{} of {bytes} bytes", length());
        let before = length();
        world.stage("modules/app/files/tree/a", format!("content {bytes}"));
        assert!(publish_all(&server).await.changed);
        assert!(length() > before, "{bytes}");
    }
}
