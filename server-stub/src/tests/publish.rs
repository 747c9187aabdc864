//! Publishing.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::sync::atomic::AtomicBool;

use direct_puppet_transport::protocol::{EntryKind, TreePath};

use super::*;

#[tokio::test]
async fn unchanged_staging_publishes_nothing() {
    let world = World::new();
    let server = world.open();
    let first = publish_all(&server).await;
    assert!(first.changed && first.sequence == 1 && first.files == 2 && first.new_contents == 2);
    let history = fs::read(world.data().join("code/production/history.jsonl")).unwrap();
    let again = publish_all(&server).await;
    assert!(!again.changed);
    assert_eq!((again.code_id, again.sequence), (first.code_id, 1));
    assert_eq!(fs::read(world.data().join("code/production/history.jsonl")).unwrap(), history);
    world.stage("modules/app/files/tree/a", "content b, longer");
    let next = publish_all(&server).await;
    assert!(next.changed && next.sequence == 2 && next.new_contents == 1 && next.code_id != first.code_id);
}

#[tokio::test]
async fn a_dry_run_and_a_repeated_request_leave_live_alone() {
    let world = World::new();
    let server = world.open();
    let dry = publish(&server, PublishRequest { dry_run: true, ..PublishRequest::default() }).await;
    assert!(dry.changed && dry.error.is_none());
    assert!(server.environments.live(&Environment::default()).is_none());
    let request = PublishRequest { request_id: Some("r1".to_owned()), ..PublishRequest::default() };
    let first = publish(&server, request.clone()).await;
    assert_eq!((first.code_id, first.sequence), (dry.code_id, 1));
    world.stage("modules/app/files/tree/a", "something else");
    let again = publish(&server, request).await;
    assert_eq!((again.code_id, again.sequence, again.changed), (first.code_id, 1, true));
    assert_eq!(server.versions(None).unwrap().len(), 1);
    // What would happen is told, whatever was published under the id.
    let dry = PublishRequest { request_id: Some("r1".to_owned()), dry_run: true, ..PublishRequest::default() };
    let dry = publish(&server, dry).await;
    assert!(dry.changed && dry.code_id != first.code_id, "{dry:?}");
    let unset = PublishRequest { request_id: Some(String::new()), ..PublishRequest::default() };
    assert!(matches!(server.publish(unset).await, Err(crate::ServerError::EmptyRequestId)));
}

#[tokio::test]
async fn a_syntax_error_names_its_place_and_keeps_the_live_code() {
    let world = World::new();
    let server = world.open();
    let first = publish_all(&server).await;
    for (file, content, place) in [
        ("site.yaml", "nodes: []\nclasses:\n  base: [\n", "site.yaml:3:9: "),
        ("site.yaml", &SITE.replace("{{ node }}", "{% if %}"), "site.yaml:6: "),
        ("modules/app/templates/t.j2", "line one\n{% if %}\n", "modules/app/templates/t.j2:2"),
    ] {
        world.stage(file, content);
        let refused = publish(&server, PublishRequest::default()).await;
        let error = refused.error.unwrap();
        assert_eq!(error.code, "compile");
        assert_eq!(error.message.matches(place).count(), 1, "{}", error.message);
        assert_eq!((refused.code_id, refused.sequence, refused.changed), (first.code_id, 1, false));
        assert_eq!(Some(live(&server).version.code_id), first.code_id);
        world.stage("site.yaml", SITE);
    }
}

#[tokio::test]
async fn what_cannot_be_published_is_named() {
    let world = World::new();
    let server = world.open();
    let _socket = std::os::unix::net::UnixListener::bind(world.environment().join("socket")).unwrap();
    symlink("../../../outside", world.environment().join("modules/link")).unwrap();
    let error = publish(&server, PublishRequest::default()).await.error.unwrap();
    assert_eq!(error.code, "unpublishable");
    assert!(error.message.contains("socket") && error.message.contains("modules/link"), "{}", error.message);
}

#[tokio::test]
async fn links_odd_names_and_empty_files_are_published_as_they_are() {
    let world = World::new();
    let tree = world.environment().join("modules/app/files/tree");
    symlink("a", tree.join("link")).unwrap();
    fs::write(tree.join("empty"), "").unwrap();
    fs::create_dir(tree.join("empty dir")).unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"sp ace\nnew\xffline");
    fs::write(tree.join(odd), "odd").unwrap();
    for dir in [tree.join(".git"), world.environment().join("modules/app/.git")] {
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("HEAD"), "").unwrap();
    }
    fs::write(world.environment().join(".git"), "gitdir: elsewhere").unwrap();
    let server = world.open();
    assert_eq!(publish_all(&server).await.files, 5);
    let code = live(&server);
    let kind = |name: &[u8]| {
        let path = TreePath::from_bytes(&[b"modules/app/files/tree/", name].concat()).unwrap();
        code.manifest.get(&path).map(|entry| entry.kind.clone())
    };
    assert_eq!(kind(b"link"), Some(EntryKind::Link { target: b"a".to_vec() }));
    assert!(matches!(kind(b"empty"), Some(EntryKind::File { size: 0, .. })));
    assert_eq!(kind(b"empty dir"), Some(EntryKind::Directory));
    assert!(matches!(kind(odd.as_bytes()), Some(EntryKind::File { size: 3, .. })));
    // A content for nodes like any other; that of the module's own checkout is not.
    assert_eq!(kind(b".git"), Some(EntryKind::Directory));
    let is_of_a_checkout = |path: &[u8]| path == b".git" || path.starts_with(b"modules/app/.git");
    assert!(!code.manifest.entries().any(|entry| is_of_a_checkout(entry.path.as_bytes())));
}

#[tokio::test]
async fn a_link_that_leads_out_of_the_environment_is_refused_also_through_another() {
    let world = World::new();
    let dir = world.environment().join("modules/app/files/tree/deep");
    fs::create_dir_all(&dir).unwrap();
    let server = world.open();
    symlink("../../../../..", dir.join("top")).unwrap();
    symlink("/etc/hostname", dir.join("of the node")).unwrap();
    symlink("/usr/share", dir.join("of the node, too")).unwrap();
    symlink("gone/../a", dir.join("broken")).unwrap();
    let told = publish_all(&server).await.note.unwrap();
    assert!(told.contains("links to absolute paths") && told.ends_with("deep/of the node, and 1 others"), "{told}");
    world.stage("modules/app/files/tree/a", "second");
    assert_eq!(publish_all(&server).await.note, None, "of those that are new only");
    for target in ["../../../../../..", "top/..", "top/modules/../../etc", "top/modules/app/files/tree/deep/top/../x"] {
        symlink(target, dir.join("out")).unwrap();
        let error = publish(&server, PublishRequest::default()).await.error.unwrap();
        let named = "modules/app/files/tree/deep/out (a link that leads out";
        assert!(error.code == "unpublishable" && error.message.contains(named), "{target}: {error:?}");
        assert!(!error.message.contains("deep/top ("), "{error:?}");
        fs::remove_file(dir.join("out")).unwrap();
    }
    // The link is as it was, and what it goes through is not.
    fs::create_dir(dir.join("way")).unwrap();
    symlink("way/../../a", dir.join("in")).unwrap();
    publish_all(&server).await;
    fs::remove_dir(dir.join("way")).unwrap();
    symlink("top", dir.join("way")).unwrap();
    let error = publish(&server, PublishRequest::default()).await.error.unwrap();
    assert!(error.message.contains("deep/in (a link that leads out"), "{error:?}");
}

/// Tools stage beside what is deployed, and turn a link over to it when it is whole.
#[tokio::test]
async fn an_environment_may_be_a_link_to_where_it_is_staged() {
    let world = World::new();
    let (link, release) = (world.environment(), world.environment().parent().unwrap().join("release-1"));
    fs::rename(&link, &release).unwrap();
    symlink("release-1", &link).unwrap();
    let server = world.open();
    let request = PublishRequest { environments: vec![Environment::default()], ..PublishRequest::default() };
    let result = publish(&server, request).await;
    assert!(result.error.is_none() && result.changed, "{result:?}");
    let missing = PublishRequest { environments: vec!["nowhere".parse().unwrap()], ..PublishRequest::default() };
    symlink("gone", link.parent().unwrap().join("nowhere")).unwrap();
    assert_eq!(publish(&server, missing).await.error.unwrap().code, "no_environment");
}

/// While a writer replaces files as fast as it can, what is published is one state of staging or nothing.
#[tokio::test(flavor = "multi_thread")]
async fn staging_that_changes_underneath_is_refused_with_its_paths() {
    let world = World::new();
    for number in 0..200 {
        world.stage(&format!("modules/app/files/tree/f{number:03}"), "0");
    }
    let server = world.open();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (tree, stop) = (world.environment().join("modules/app/files/tree"), Arc::clone(&stop));
        move || {
            for round in 1_u64.. {
                for number in 0..200 {
                    fs::write(tree.join(format!("f{number:03}")), round.to_string()).unwrap();
                }
                if stop.load(Ordering::SeqCst) {
                    return;
                }
            }
        }
    });
    let mut refused = 0;
    for _ in 0..10 {
        let result = publish(&server, PublishRequest::default()).await;
        if let Some(error) = result.error {
            assert_eq!(error.code, "unstable", "{}", error.message);
            assert!(error.paths.iter().all(|path| path.starts_with("modules/app/files/tree")), "{:?}", error.paths);
            assert!(!error.paths.is_empty());
            refused += 1;
        }
    }
    stop.store(true, Ordering::SeqCst);
    writer.join().unwrap();
    assert!(refused > 0, "the writer never met a publish");
    // It holds still now, and whatever is published hashes to what its manifest says.
    publish_all(&server).await;
    let code = live(&server);
    for entry in code.manifest.entries().filter(|entry| matches!(entry.kind, EntryKind::File { .. })) {
        assert!(code.read(&entry.path, 1 << 20).unwrap().is_some());
    }
}

/// Readers that hold code see one version of it, whatever is published meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn the_switch_is_atomic_for_readers() {
    let world = World::new();
    world.stage("modules/app/files/tree/b", "0");
    world.stage("modules/app/files/tree/a", "0");
    let server = world.open();
    publish_all(&server).await;
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let (server, stop) = (Arc::clone(&server), Arc::clone(&stop));
            std::thread::spawn(move || {
                let path = |name: &str| -> TreePath { format!("modules/app/files/tree/{name}").parse().unwrap() };
                let mut newest = 0;
                while !stop.load(Ordering::SeqCst) {
                    let code = live(&server);
                    assert_eq!(code.read(&path("a"), 100).unwrap(), code.read(&path("b"), 100).unwrap());
                    assert!(code.version.version.sequence >= newest);
                    newest = code.version.version.sequence;
                }
            })
        })
        .collect();
    for round in 1..=20 {
        world.stage("modules/app/files/tree/a", round.to_string());
        world.stage("modules/app/files/tree/b", round.to_string());
        let result = publish_all(&server).await;
        assert_eq!(Some(live(&server).version.code_id), result.code_id);
    }
    stop.store(true, Ordering::SeqCst);
    readers.into_iter().for_each(|reader| reader.join().unwrap());
}

/// The states that a crash in the middle of a switch can leave, made by hand: each opens, and the next publish goes through.
#[tokio::test]
async fn a_data_directory_opens_after_a_crash_anywhere_in_a_switch() {
    let world = World::new();
    let environment = world.data().join("code/production");
    let history = environment.join("history.jsonl");
    let first = publish(&world.open(), PublishRequest { request_id: Some("r1".to_owned()), ..PublishRequest::default() }).await;
    let line = fs::read(&history).unwrap();

    // Live was switched, its line was not written, or only half of it: it is there afterwards, and stays when more is published.
    for left in [&b""[..], &line[..line.len() / 2]] {
        fs::write(&history, left).unwrap();
        let server = world.open();
        assert_eq!(server.versions(None).unwrap().len(), 1);
        assert_eq!(fs::read(&history).unwrap(), line);
    }
    // A manifest and a new pointer that were not renamed.
    fs::write(environment.join("live.json.new"), "half").unwrap();
    fs::write(environment.join("manifests/0000.new"), "half").unwrap();
    let server = world.open();
    assert_eq!(Some(live(&server).version.code_id), first.code_id);
    world.stage("modules/app/files/tree/a", "second");
    assert_eq!(publish_all(&server).await.sequence, 2);
    let ids: Vec<_> = server.versions(None).unwrap().into_iter().map(|listed| listed.version.request_id).collect();
    assert_eq!(ids, [Some("r1".to_owned()), None]);
}

#[tokio::test]
async fn one_server_at_a_time_uses_a_data_directory() {
    let world = World::new();
    let _server = world.open();
    let staging = Staging::Environments(world.dir.path().join("staging"));
    let error = Server::open(ServerOptions::new(world.data(), staging)).unwrap_err();
    assert!(matches!(error, crate::ServerError::Busy { .. }));
}

#[tokio::test]
async fn publishing_a_large_tree_again_reads_only_what_changed() {
    const FILES: u64 = 2_000;
    let world = World::new();
    for number in 0..FILES {
        world.stage(&format!("modules/app/files/tree/d{:02}/f{number}", number % 50), number.to_string());
    }
    let server = world.open();
    assert_eq!(publish_all(&server).await.files, FILES + 2);
    // What was written just before the first listing is read once more, and then believed.
    publish_all(&server).await;
    world.stage("modules/app/files/tree/d00/f0", "changed");
    let again = publish_all(&server).await;
    assert!(again.changed && again.files_read < FILES / 2, "{} files were read", again.files_read);
    assert_eq!(again.new_contents, 1);
}

#[tokio::test]
async fn an_environment_that_is_empty_or_disappears_harms_no_other() {
    let world = World::new();
    let server = world.open();
    let empty = world.environment().parent().unwrap().join("empty");
    fs::create_dir(&empty).unwrap();
    let results = server.publish(PublishRequest::default()).await.unwrap();
    assert_eq!(results.iter().map(|result| result.environment.as_str()).collect::<Vec<_>>(), ["empty", "production"]);
    assert!(results[1].changed && results[1].error.is_none());
    // Without a `site.yaml` there is nothing to compile: that is said, and nothing of it is live.
    let error = results[0].error.as_ref().unwrap();
    assert!(error.message.contains("site.yaml"), "{}", error.message);
    assert_eq!(server.live_versions().len(), 1);
    // One that was live stays so when its staging goes away, until somebody publishes something else there.
    let before = live(&server).version.clone();
    fs::remove_dir_all(world.environment()).unwrap();
    let left = server.publish(PublishRequest::default()).await.unwrap();
    assert_eq!(left.iter().map(|result| result.environment.as_str()).collect::<Vec<_>>(), ["empty", "production"]);
    assert!(left[1].note.as_ref().unwrap().contains("not staged here") && left[1].code_id == Some(before.code_id), "{left:?}");
    let request = PublishRequest { environments: vec![Environment::default()], ..PublishRequest::default() };
    let error = publish(&server, request).await.error.unwrap();
    assert_eq!(error.code, "no_environment");
    assert_eq!(live(&server).version, before);
    assert!(matches!(server.check_in(&Peer::InProcess, check_in("n1", None)).await, Ok(CatalogReply::FactsNeeded)));
    // Nothing at all is most likely the wrong place.
    fs::remove_dir_all(&empty).unwrap();
    let error = server.publish(PublishRequest::default()).await.unwrap_err();
    assert_eq!(error.code(), "nothing_staged", "{error}");
    // While it is being copied.
    fs::create_dir_all(world.environment()).unwrap();
    for number in 0..3_000 {
        world.stage(&format!("modules/app/files/tree/f{number}"), format!("{number}"));
    }
    let (gone, server_too) = (world.environment(), Arc::clone(&server));
    let publishing = tokio::spawn(async move {
        let request = PublishRequest { environments: vec![Environment::default()], ..PublishRequest::default() };
        publish(&server_too, request).await
    });
    tokio::task::spawn_blocking(move || fs::remove_dir_all(gone)).await.unwrap().unwrap();
    let result = publishing.await.unwrap();
    assert!(result.error.is_some() && live(&server).version == before, "{result:?}");
}

/// Who has looked at what is live is told when another has published since; asked again with its id, one that was made is answered the same.
#[tokio::test]
async fn what_is_published_on_top_of_what_was_seen_replaces_nothing_else() {
    let world = World::new();
    let server = world.open();
    let first = publish_all(&server).await.code_id;
    let on = |if_live, id: &str| PublishRequest {
        environments: vec![Environment::default()],
        if_live,
        request_id: Some(id.to_owned()),
        ..PublishRequest::default()
    };
    world.stage("modules/app/files/tree/a", "second");
    let second = publish(&server, on(first, "two")).await;
    assert_eq!((&second.error, second.changed), (&None, true));
    world.stage("modules/app/files/tree/a", "third");
    for _ in 0..2 {
        let refused = publish(&server, on(first, "three")).await;
        let error = refused.error.as_ref().unwrap();
        assert_eq!((error.code.as_str(), refused.code_id), ("conflict", second.code_id));
        for id in [first, second.code_id] {
            assert!(error.message.contains(&id.unwrap().to_string()), "{}", error.message);
        }
        assert_eq!(Some(live(&server).version.code_id), second.code_id);
    }
    let dry = publish(&server, PublishRequest { dry_run: true, ..on(first, "three") }).await;
    assert_eq!(dry.error.unwrap().code, "conflict");
    // Its answer was lost: it is none that comes too late.
    let again = publish(&server, on(first, "two")).await;
    assert_eq!((again.error, again.code_id, again.changed), (None, second.code_id, true));
    let third = publish(&server, on(second.code_id, "three")).await;
    assert_eq!((third.error, third.changed), (None, true));
    // Of many who have seen the same, one is made.
    world.stage("modules/app/files/tree/a", "fourth");
    let publishers = (0..8).map(|number| {
        let (server, request) = (Arc::clone(&server), on(third.code_id, &format!("four {number}")));
        tokio::spawn(async move { publish(&server, request).await })
    });
    let results = futures::future::join_all(publishers).await;
    let made = results.iter().filter(|result| result.as_ref().unwrap().error.is_none()).count();
    assert_eq!(made, 1);
    let history = server.versions(None).unwrap();
    assert_eq!(history.len(), 4);
    // A condition on many is one that nobody can mean.
    for environments in [Vec::new(), vec![Environment::default(), "test".parse().unwrap()]] {
        let request = PublishRequest { environments, ..on(third.code_id, "five") };
        assert!(matches!(server.publish(request).await, Err(crate::ServerError::IfLiveOfOne)));
    }
}
