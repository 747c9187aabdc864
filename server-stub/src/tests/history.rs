//! Old versions: compared, put back, written out, checked, collected.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use direct_puppet_transport::protocol::{Digest, Environment};

use super::{World, compiled, live, publish_all};
use crate::ServerError;
use crate::code::Version;
use crate::disk::append_json;
use crate::history::{Change, CollectRequest, Difference, RollbackRequest, VersionName};
use crate::server::now;

fn name(text: &str) -> VersionName {
    text.parse().unwrap()
}

fn environment() -> Environment {
    Environment::default()
}

const NOW: CollectRequest = CollectRequest { grace_seconds: 0, dry_run: false };

#[tokio::test]
async fn versions_are_named_compared_and_made_live_again() {
    let world = World::new();
    let tree = world.environment().join("modules/app/files/tree");
    let server = world.open();
    let first = publish_all(&server).await;
    fs::write(tree.join("added"), "new").unwrap();
    fs::write(tree.join("a"), "another content").unwrap();
    fs::set_permissions(tree.join("a"), fs::Permissions::from_mode(0o600)).unwrap();
    publish_all(&server).await;
    let path = |name: &str| format!("modules/app/files/tree/{name}");
    let differences = server.diff(&environment(), name("1.1"), VersionName::Live).unwrap();
    let expected = [("a", Change::Content), ("added", Change::Added)];
    assert_eq!(differences, expected.map(|(name, change)| Difference { path: path(name), change }));
    let back = server.diff(&environment(), VersionName::Live, VersionName::Code(first.code_id.unwrap())).unwrap();
    assert_eq!(back[1].change, Change::Removed);
    for wrong in ["1.9", "2.1"] {
        assert!(matches!(server.diff(&environment(), name(wrong), VersionName::Live), Err(ServerError::NoVersion { .. })));
    }
    assert!("newest".parse::<VersionName>().is_err());

    let request = RollbackRequest { message: "it broke".to_owned(), ..RollbackRequest::new(environment(), name("1.1")) };
    let result = server.rollback(request.clone()).await.unwrap();
    assert_eq!((result.code_id, result.sequence, result.changed), (first.code_id, 3, true));
    assert_eq!(live(&server).version.message, "rollback to 1.1: it broke");
    // Again is nothing, and staging can be published again.
    assert!(!server.rollback(request.clone()).await.unwrap().changed);
    assert_eq!(publish_all(&server).await.sequence, 4);
    // What is damaged is never made live.
    let digest = Digest::of(fs::read(tree.join("a")).unwrap().as_slice());
    server.rollback(request.clone()).await.unwrap();
    fs::write(server.store.path_of(&digest), "flipped").unwrap();
    let error = server.rollback(RollbackRequest { to: name("1.2"), ..request }).await.unwrap_err();
    assert!(matches!(error, ServerError::Damaged { .. }), "{error}");
    assert_eq!(live(&server).version.code_id, first.code_id.unwrap());
}

/// As a publish: once for each id, on top of what was meant, and not at all where somebody only wants to know.
#[tokio::test]
async fn going_back_is_asked_again_without_harm() {
    let world = World::new();
    let server = world.open();
    let first = publish_all(&server).await;
    world.stage("modules/app/files/tree/a", "content b");
    let second = publish_all(&server).await;
    let back = RollbackRequest { request_id: Some("back".to_owned()), ..RollbackRequest::new(environment(), name("1.1")) };
    // Only to know.
    let would_be = server.rollback(RollbackRequest { dry_run: true, ..back.clone() }).await.unwrap();
    assert_eq!((would_be.changed, would_be.code_id, would_be.sequence), (true, first.code_id, 3));
    assert_eq!(live(&server).version.code_id, second.code_id.unwrap());
    // Another has published since.
    let on_first = RollbackRequest { if_live: first.code_id, ..back.clone() };
    let error = server.rollback(on_first).await.unwrap_err();
    assert!(error.code() == "conflict" && error.to_string().contains(&second.code_id.unwrap().to_string()), "{error}");
    let made = server.rollback(RollbackRequest { if_live: second.code_id, ..back.clone() }).await.unwrap();
    assert_eq!((made.changed, made.code_id, made.sequence), (true, first.code_id, 3));
    assert_eq!(live(&server).version.request_id.as_deref(), Some("back"));
    // The answer was lost, and somebody has published meanwhile: that stays.
    world.stage("modules/app/files/tree/a", "content c");
    let third = publish_all(&server).await;
    let again = server.rollback(back.clone()).await.unwrap();
    assert_eq!((again.changed, again.code_id, again.sequence), (true, first.code_id, 3));
    assert!(again.note.as_ref().is_some_and(|note| note.contains("1.4 is live since")), "{again:?}");
    assert_eq!(live(&server).version.code_id, third.code_id.unwrap());
    // So it is after a start, and though how requests were answered is forgotten: the history has it.
    drop(server);
    let server = world.open();
    assert_eq!(server.rollback(back.clone()).await.unwrap().sequence, 3);
    drop(server);
    fs::remove_file(world.data().join("code/production/answered.json")).unwrap();
    let server = world.open();
    assert_eq!(server.rollback(back).await.unwrap().sequence, 3);
    // What changed nothing is remembered too.
    let live_already =
        RollbackRequest { request_id: Some("nothing".to_owned()), ..RollbackRequest::new(environment(), name("1.4")) };
    assert!(!server.rollback(live_already.clone()).await.unwrap().changed);
    world.stage("modules/app/files/tree/a", "content d");
    let fourth = publish_all(&server).await;
    assert!(!server.rollback(live_already.clone()).await.unwrap().changed);
    assert_eq!(live(&server).version.code_id, fourth.code_id.unwrap());
    // What was live then is not what is live now: the answer stays.
    let to_live = RollbackRequest { to: VersionName::Live, request_id: Some("live".to_owned()), ..live_already.clone() };
    let said = server.rollback(to_live.clone()).await.unwrap();
    world.stage("modules/app/files/tree/a", "content e");
    let fourth = publish_all(&server).await;
    assert_eq!(server.rollback(to_live).await.unwrap().sequence, said.sequence);
    // An id that was for something else says nothing of this.
    for to in ["1.2", "1.4", "live"] {
        let other = RollbackRequest { to: name(to), request_id: Some("back".to_owned()), ..live_already.clone() };
        let error = server.rollback(other).await.unwrap_err();
        assert!(error.code() == "conflict" && error.to_string().contains("give another id"), "{to}: {error}");
    }
    assert_eq!(live(&server).version.code_id, fourth.code_id.unwrap());
    for wrong in [String::new(), "i".repeat(257)] {
        let error = server.rollback(RollbackRequest { request_id: Some(wrong), ..live_already.clone() }).await.unwrap_err();
        assert_eq!(error.code(), "bad_request");
    }
}

#[tokio::test]
async fn a_version_is_written_out_as_it_was() {
    let world = World::new();
    let tree = world.environment().join("modules/app/files/tree");
    std::os::unix::fs::symlink("a", tree.join("link")).unwrap();
    fs::set_permissions(tree.join("a"), fs::Permissions::from_mode(0o750)).unwrap();
    let server = world.open();
    publish_all(&server).await;
    let dir = world.data().join("out");
    server.checkout(&environment(), VersionName::Live, &dir).unwrap();
    let out = dir.join("modules/app/files/tree");
    assert_eq!(fs::read(out.join("a")).unwrap(), fs::read(tree.join("a")).unwrap());
    assert_eq!(fs::metadata(out.join("a")).unwrap().permissions().mode() & 0o7777, 0o750);
    assert_eq!(fs::read_link(out.join("link")).unwrap(), std::path::Path::new("a"));
    assert!(server.checkout(&environment(), VersionName::Live, &dir).is_err(), "what is there is not written over");
    // What one left that was killed, under the same process id.
    fs::create_dir(world.data().join(format!("again.{}", std::process::id()))).unwrap();
    server.checkout(&environment(), VersionName::Live, &world.data().join("again")).unwrap();
    // A damaged content: nothing is left of the attempt.
    let digest = Digest::of(fs::read(tree.join("a")).unwrap().as_slice());
    fs::write(server.store.path_of(&digest), "flipped").unwrap();
    assert!(server.checkout(&environment(), VersionName::Live, &world.data().join("other")).is_err());
    let left: Vec<_> = fs::read_dir(world.data()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("other")), "{left:?}");
}

#[tokio::test]
async fn a_flipped_bit_is_found_and_the_next_publish_heals_it() {
    let world = World::new();
    let server = world.open();
    publish_all(&server).await;
    assert_eq!(server.verify().unwrap().problems, []);
    let file = world.environment().join("modules/app/files/tree/a");
    let digest = Digest::of(fs::read(&file).unwrap().as_slice());
    fs::write(server.store.path_of(&digest), "flipped").unwrap();
    let verified = server.verify().unwrap();
    assert_eq!((verified.versions, verified.problems.len()), (1, 1));
    assert_eq!(verified.problems[0].path.as_deref(), Some("modules/app/files/tree/a"));
    publish_all(&server).await;
    assert_eq!(server.verify().unwrap().problems, []);
    fs::remove_file(
        server.environments.dir(&environment()).join("manifests").join(live(&server).version.code_id.digest().to_hex()),
    )
    .unwrap();
    let verified = server.verify().unwrap();
    assert!(verified.problems.len() == 1 && verified.problems[0].reason.contains("written again"), "{:?}", verified.problems);
    assert_eq!(server.verify().unwrap().problems, [], "what is live is known, and was written from memory");
}

#[tokio::test]
async fn what_nothing_refers_to_is_collected_and_nothing_else() {
    let world = World::new();
    let tree = world.environment().join("modules/app/files/tree");
    let server = world.open();
    let mut contents = Vec::new();
    for number in 0..4 {
        fs::write(tree.join("a"), format!("content {number}")).unwrap();
        publish_all(&server).await;
        contents.push(Digest::of(format!("content {number}").as_bytes()));
        if number == 1 {
            // A node that goes on with the second.
            compiled(&server, "n1").await;
        }
    }
    let dry = server.collect(CollectRequest { dry_run: true, grace_seconds: 3600 }).unwrap();
    assert_eq!((dry.collected.len(), dry.contents), (0, 0), "all were live within the hour");
    let dry = server.collect(CollectRequest { dry_run: true, ..NOW }).unwrap();
    assert_eq!((dry.collected.len(), dry.kept), (2, 2));
    let done = server.collect(NOW).unwrap();
    assert_eq!((done.collected, done.contents), (dry.collected, 2));
    let has: Vec<bool> = contents.iter().map(|digest| server.store.has(digest)).collect();
    assert_eq!(has, [false, true, false, true]);
    assert_eq!(server.verify().unwrap().problems, []);
    assert!(matches!(server.diff(&environment(), name("1.1"), VersionName::Live), Err(ServerError::NoVersion { .. })));
    server.diff(&environment(), name("1.2"), VersionName::Live).unwrap();
    // Published again, it is there again.
    fs::write(tree.join("a"), "content 0").unwrap();
    publish_all(&server).await;
    assert_eq!(server.verify().unwrap().problems, []);
    server.diff(&environment(), name("1.1"), name("1.2")).unwrap();
}

/// Times of publishes, in hours before now; what a collection with a day of grace takes of them.
#[tokio::test]
async fn a_publish_under_a_clock_that_was_behind_ends_no_grace() {
    for (hours_ago, gone) in [
        (&[100_i64, 90, 80, 1][..], &[0, 1][..]),
        // 1970, on a machine whose clock has no battery: what was live before may have been so a minute ago.
        (&[100, 50, 500_000, 500_000], &[0]),
        // Right again: both were replaced before that.
        (&[100, 50, 500_000, 40, 30], &[0, 1, 2, 3]),
        (&[100, 50, 500_000, 20, 10], &[0]),
        // A clock that was ahead for one publish.
        (&[100, 90, -500_000, 80, 70, 60], &[0, 2, 3, 4]),
    ] {
        let world = World::new();
        let server = world.open();
        let mut codes = Vec::new();
        for number in 0..hours_ago.len() {
            world.stage("modules/app/files/tree/a", format!("content {number}"));
            codes.push(publish_all(&server).await.code_id.unwrap());
        }
        let path = world.data().join("code/production/history.jsonl");
        let published: Vec<Version> = server.environments.history(&environment()).unwrap();
        fs::remove_file(&path).unwrap();
        for (version, hours) in published.into_iter().zip(hours_ago) {
            let time_unix_seconds = now().saturating_add_signed(-hours * 3600);
            append_json(&path, &Version { time_unix_seconds, ..version }).unwrap();
        }
        let done = server.collect(CollectRequest { grace_seconds: 24 * 3600, dry_run: false }).unwrap();
        let expected: Vec<_> = gone.iter().map(|at| (environment(), codes[*at])).collect();
        let mut collected = done.collected;
        collected.sort_by_key(|(_, code)| codes.iter().position(|other| other == code));
        assert_eq!(collected, expected, "{hours_ago:?}");
    }
}

/// A collection takes away what a verification that goes on beside it has begun to read.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_collected_meanwhile_is_no_damage() {
    let world = World::new();
    let server = world.open();
    let mut collected = 0;
    for round in 0..20 {
        for version in 0..3 {
            for file in 0..100 {
                world.stage(&format!("modules/app/files/tree/f{file}"), format!("{round} {version} {file}"));
            }
            publish_all(&server).await;
        }
        let verifying = std::thread::spawn({
            let server = Arc::clone(&server);
            move || server.verify().unwrap()
        });
        std::thread::sleep(std::time::Duration::from_millis(round));
        collected += server.collect(NOW).unwrap().contents;
        assert_eq!(verifying.join().unwrap().problems, []);
    }
    assert!(collected > 0);
}

#[tokio::test]
async fn what_a_line_of_the_history_told_of_stays_though_it_is_damaged() {
    let world = World::new();
    let server = world.open();
    for number in 0..3 {
        world.stage("modules/app/files/tree/a", format!("content {number}"));
        publish_all(&server).await;
    }
    let path = world.data().join("code/production/history.jsonl");
    let lines = fs::read_to_string(&path).unwrap();
    let damaged: Vec<String> =
        lines.lines().enumerate().map(|(at, line)| if at == 1 { line.replacen('{', "z", 1) } else { line.to_owned() }).collect();
    fs::write(&path, damaged.join("\n") + "\n").unwrap();
    let verified = server.verify().unwrap();
    assert!(verified.problems.len() == 1 && verified.problems[0].reason.starts_with("line 2 of its history"), "{verified:?}");
    for request in [CollectRequest::default(), NOW] {
        server.collect(request).unwrap();
        assert!(server.store.has(&Digest::of(b"content 1")), "{request:?}");
    }
    // With its history whole again, what is not needed goes.
    fs::write(&path, lines).unwrap();
    server.collect(NOW).unwrap();
    assert!(!server.store.has(&Digest::of(b"content 1")));
}

#[tokio::test]
async fn a_node_that_went_back_is_explained_by_what_it_has() {
    use crate::history::ExplainRequest;
    let world = World::new();
    let server = world.open();
    let ask = ExplainRequest {
        environment: None,
        version: None,
        node: Some("n1".parse().unwrap()),
        path: Some("/srv/app/a".to_owned()),
    };
    let of = |content: &str| Some(Digest::of(content.as_bytes()));
    let first = publish_all(&server).await;
    let held = compiled(&server, "n1").await.0;
    world.stage("modules/app/files/tree/a", "content b");
    let second = publish_all(&server).await;
    compiled(&server, "n1").await;
    assert_eq!(server.explain(&ask).unwrap().origin.unwrap().digest, of("content b"));
    let request = RollbackRequest::new(environment(), name("1.1"));
    server.rollback(request).await.unwrap();
    // It was compiled before, and is given again.
    assert_eq!(compiled(&server, "n1").await.0.catalog_id, held.catalog_id);
    let found = server.explain(&ask).unwrap();
    assert_eq!((Some(found.version.code_id), found.origin.unwrap().digest), (first.code_id, of("content a")));
    // Of a version that is named, its own catalog tells.
    let found =
        server.explain(&ExplainRequest { version: Some(VersionName::Code(second.code_id.unwrap())), ..ask.clone() }).unwrap();
    assert_eq!(found.origin.unwrap().digest, of("content b"));
    drop(server);
    let server = world.open();
    assert_eq!(server.explain(&ask).unwrap().origin.unwrap().digest, of("content a"), "a restart remembers");
}

#[tokio::test]
async fn what_is_live_and_what_a_node_has_is_explained() {
    use crate::history::ExplainRequest;
    use crate::publish::PublishRequest;
    let world = World::new();
    let server = world.open();
    world.stage(".r10k-deploy.json", r#"{"name":"production","signature":"4711abc","started_at":"once"}"#);
    let author = crate::code::Author { name: "A. Operator".to_owned(), email: "a@example.com".to_owned() };
    let request = PublishRequest { message: "a new app".to_owned(), author: author.clone(), ..PublishRequest::default() };
    let first = super::publish(&server, request).await;
    compiled(&server, "n1").await;
    // What a deploy tool writes about itself is no code: the same code again is the same code.
    world.stage(".r10k-deploy.json", r#"{"name":"production","signature":"4711abc","started_at":"again"}"#);
    assert!(!publish_all(&server).await.changed);
    let ask = ExplainRequest { environment: Some(environment()), version: None, node: None, path: None };
    let live = server.explain(&ask).unwrap();
    assert_eq!((&live.version.author, live.version.message.as_str()), (&author, "a new app"));
    assert_eq!((Some(live.version.code_id), live.version.revision.as_deref()), (first.code_id, Some("4711abc")));
    let of_node = ExplainRequest { node: Some("n1".parse().unwrap()), path: Some("/srv/app/a".to_owned()), ..ask.clone() };
    let found = server.explain(&of_node).unwrap();
    let origin = found.origin.unwrap();
    assert_eq!((origin.resource.as_str(), origin.source.as_deref()), ("File[/srv/app]", Some("puppet:///modules/app/tree/a")));
    assert_eq!((origin.digest, found.version), (Some(Digest::of(b"content a")), live.version));
    let unmanaged = server.explain(&ExplainRequest { path: Some("/etc/passwd".to_owned()), ..of_node.clone() }).unwrap();
    assert_eq!(unmanaged.origin, None);
    let stranger = ExplainRequest { node: Some("n2".parse().unwrap()), ..of_node };
    assert!(matches!(server.explain(&stranger), Err(ServerError::UnknownNode { .. })));
    let odd = PublishRequest { revision: Some("a\nb".to_owned()), ..PublishRequest::default() };
    assert!(matches!(server.publish(odd).await, Err(ServerError::Unpublishable { .. })));
}

/// Another server may have given it to the node, and no catalog of it is here.
#[tokio::test]
async fn the_code_that_a_node_says_it_holds_stays() {
    use direct_puppet_transport::protocol::{CatalogId, Held, VersionCounter};
    use direct_puppet_transport::testing::samples;
    use direct_puppet_transport::{Handler as _, Peer};
    let world = World::new();
    let server = world.open();
    let mut codes = Vec::new();
    for number in 0..4 {
        world.stage("modules/app/files/tree/a", format!("content {number}"));
        codes.push(publish_all(&server).await.code_id.unwrap());
    }
    let has = || [0, 1, 2, 3].map(|number| server.store.has(&Digest::of(format!("content {number}").as_bytes())));
    let held =
        Held { catalog_id: CatalogId::of(b"of another"), code_id: codes[0], version: VersionCounter { epoch: 1, sequence: 1 } };
    server.check_in(&Peer::InProcess, super::check_in("n1", Some(held))).await.unwrap();
    let report = direct_puppet_transport::protocol::Report { code_id: Some(codes[2]), ..samples::report("n2") };
    server.report(&Peer::InProcess, report).await.unwrap();
    assert_eq!(server.collect(NOW).unwrap().collected, [(environment(), codes[1])]);
    assert_eq!(has(), [true, false, true, true]);
    server.diff(&environment(), VersionName::Code(codes[0]), VersionName::Code(codes[2])).unwrap();
    // It goes when no node says so any more.
    server.check_in(&Peer::InProcess, super::check_in("n1", Some(Held { code_id: codes[3], ..held }))).await.unwrap();
    assert_eq!(server.collect(NOW).unwrap().collected, [(environment(), codes[0])]);
    assert_eq!(has(), [false, false, true, true]);
}

#[tokio::test]
async fn what_a_node_goes_on_with_stays_though_the_history_does_not_tell_of_it() {
    for is_used in [true, false] {
        let world = World::new();
        let server = world.open();
        world.stage("modules/app/files/other", "beside");
        let first = publish_all(&server).await.code_id.unwrap();
        if is_used {
            compiled(&server, "n1").await;
        }
        fs::remove_file(world.environment().join("modules/app/files/other")).unwrap();
        for number in 1..3 {
            world.stage("modules/app/files/tree/a", format!("content {number}"));
            publish_all(&server).await;
        }
        let path = world.data().join("code/production/history.jsonl");
        let lines = fs::read_to_string(&path).unwrap();
        fs::write(&path, lines.split_once('\n').unwrap().1).unwrap();
        server.collect(NOW).unwrap();
        let is_left =
            (server.environments.manifest(&environment(), first).unwrap().is_some(), server.store.has(&Digest::of(b"beside")));
        assert_eq!(is_left, (is_used, is_used));
        assert!(!server.store.has(&Digest::of(b"content 1")) && server.store.has(&Digest::of(b"content 2")));
    }
}
