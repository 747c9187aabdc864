//! Damage on disk: what suffers is what is damaged, and it heals.

use direct_puppet_transport::FetchItem;
use direct_puppet_transport::protocol::{Digest, Fetch, RefusalCode, VersionCounter};
use futures::StreamExt as _;

use super::log::Log;
use super::promotion::{Port, peers, port};
use super::role::{Two, promote};
use super::*;
use crate::ServerError;
use crate::history::{CollectRequest, RollbackRequest};

/// Fetches a content; tells whether it came.
async fn comes(server: &Server, name: &str, digest: Digest) -> bool {
    let request = Fetch { certname: certname(name), digests: vec![digest], offsets: BTreeMap::new(), packed: None };
    let mut items = server.fetch(&Peer::InProcess, request).await.unwrap();
    matches!(items.next().await, Some(Ok(FetchItem::Content(_))))
}

/// Returns the one file of a node whose name ends so.
fn file_of(world: &World, name: &str, end: &str) -> PathBuf {
    let dir = world.data().join("nodes").join(Digest::of(name.as_bytes()).to_hex());
    let mut found = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    found.find(|path| path.to_str().unwrap().ends_with(end)).unwrap()
}

fn is_current(reply: &CatalogReply) -> bool {
    matches!(reply, CatalogReply::Current { .. })
}

#[tokio::test]
async fn a_node_whose_file_is_damaged_is_compiled_again_and_nobody_else() {
    let world = World::new();
    let server = world.open();
    publish_all(&server).await;
    let (first, _) = compiled(&server, "n1").await;
    let (second, _) = compiled(&server, "n2").await;
    drop(server);
    fs::write(file_of(&world, "n1", "node.json"), "{\"format\":1,").unwrap();
    let server = world.open();
    assert_eq!(server.nodes().unwrap().len(), 1);
    // What that node has is not known: it is told, and nothing goes.
    let verified = server.verify().unwrap();
    assert!(verified.damaged[0].contains("node.damaged"), "{verified:?}");
    let refused = server.collect(CollectRequest { grace_seconds: 0, dry_run: false }).unwrap_err();
    assert!(matches!(&refused, ServerError::Damaged { path, .. } if path.ends_with("node.damaged")), "{refused}");
    assert!(is_current(&server.check_in(&Peer::InProcess, check_in("n2", Some(second))).await.unwrap()));
    assert_eq!(world.compiles(), 2);
    let again = submit(&server, "n1", Some(first), "Linux").await.unwrap();
    assert!(is_current(&again), "the same code and facts make the same catalog");
    assert_eq!((world.compiles(), server.nodes().unwrap().len()), (3, 2));
    assert!(file_of(&world, "n1", "node.damaged").is_file());
    assert_eq!(server.verify().unwrap().damaged, [""; 0]);
    server.collect(CollectRequest { grace_seconds: 0, dry_run: false }).unwrap();
}

#[tokio::test]
async fn what_a_server_can_do_without_is_told_when_it_is_damaged() {
    let world = World::new();
    let request = PublishRequest { request_id: Some("one".to_owned()), ..PublishRequest::default() };
    let server = world.open();
    server.publish(request.clone()).await.unwrap();
    let path = world.data().join("code/production/answered.json");
    let mut text = fs::read(&path).unwrap();
    let at = text.len() / 2;
    text[at] ^= 1;
    fs::write(&path, text).unwrap();
    fs::write(world.data().join("followers.json"), "{").unwrap();
    let damaged = server.verify().unwrap().damaged;
    assert_eq!(damaged.len(), 2, "{damaged:?}");
    assert!(damaged[0].contains("answered.json") && damaged[1].contains("followers.json"), "{damaged:?}");
    drop(server);
    let server = world.open();
    world.stage("modules/app/files/tree/new", "new content");
    server.publish(PublishRequest { request_id: Some("two".to_owned()), ..request }).await.unwrap();
    assert_eq!(server.verify().unwrap().damaged.len(), 1, "the next publish writes it anew");
}

#[tokio::test]
async fn a_damaged_catalog_is_compiled_again() {
    let world = World::new();
    let server = world.open();
    publish_all(&server).await;
    compiled(&server, "n1").await;
    drop(server);
    fs::write(file_of(&world, "n1", ".catalog"), "no catalog").unwrap();
    let server = world.open();
    let content = Digest::of(b"content a");
    assert!(!comes(&server, "n1", content).await);
    compiled(&server, "n1").await;
    assert!(comes(&server, "n1", content).await);
    assert_eq!(world.compiles(), 2);
}

#[tokio::test]
async fn a_content_that_a_compile_made_is_made_again() {
    let world = World::new();
    let server = world.open();
    publish_all(&server).await;
    let (held, _) = compiled(&server, "n1").await;
    let rendered = Digest::of(b"n1 runs Linux\n");
    for damage in ["gone", "changed"] {
        let path = server.store.path_of(&rendered);
        match damage {
            "gone" => fs::remove_file(path).unwrap(),
            _ => fs::write(path, "n1 runs Plan 9\n").unwrap(),
        }
        assert!(!comes(&server, "n1", rendered).await, "{damage}");
        submit(&server, "n1", Some(held), "Linux").await.unwrap();
        assert!(comes(&server, "n1", rendered).await, "{damage}");
    }
    assert_eq!(world.compiles(), 3);
}

#[tokio::test]
async fn an_environment_whose_code_is_damaged_is_not_served_until_it_is_published_again() {
    let world = World::new();
    let server = world.open();
    publish_all(&server).await;
    let sequence = publish_all(&server).await.sequence;
    let (held, _) = compiled(&server, "n1").await;
    drop(server);
    let manifests = world.data().join("code/production/manifests");
    for entry in fs::read_dir(manifests).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let server = world.open();
    let refusal = server.check_in(&Peer::InProcess, check_in("n1", Some(held))).await.unwrap_err();
    assert!(refusal.code == RefusalCode::NotPublished && refusal.message.contains("damaged"), "{refusal}");
    let healed = publish_all(&server).await;
    assert!(healed.changed && healed.sequence > sequence, "{healed:?}");
    submit(&server, "n1", Some(held), "Linux").await.unwrap();
}

/// Turns a bit in the manifest that is live in an environment.
fn damage_live(world: &World, server: &Server) {
    let path = world.data().join("code/production/manifests").join(live(server).version.code_id.digest().to_hex());
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
}

#[tokio::test]
async fn while_an_environment_is_damaged_nothing_is_collected_and_it_can_be_rolled_back() {
    use crate::history::{CollectRequest, RollbackRequest};
    let world = World::new();
    let server = world.open();
    let first = publish_all(&server).await;
    world.stage("modules/app/files/tree/a", "content b");
    let second = publish_all(&server).await;
    damage_live(&world, &server);
    drop(server);
    let server = world.open();
    let verified = server.verify().unwrap();
    let is_told = |problem: &crate::history::Problem| Some(problem.code_id) == second.code_id;
    assert!(!verified.problems.is_empty() && verified.problems.iter().all(is_told), "{verified:?}");
    let now = CollectRequest { grace_seconds: 0, dry_run: false };
    assert!(matches!(server.collect(now), Err(ServerError::Damaged { .. })));
    assert_eq!(server.versions(None).unwrap().len(), 2);
    let request = RollbackRequest::new(Environment::default(), "1.1".parse().unwrap());
    let back = server.rollback(request).await.unwrap();
    assert_eq!((back.code_id, back.sequence), (first.code_id, 3));
    compiled(&server, "n1").await;
    server.collect(now).unwrap();
    assert_eq!(server.verify().unwrap().problems, []);
}

#[tokio::test]
async fn a_primary_whose_environment_is_damaged_has_it_from_a_peer() {
    let two = Two::new();
    let (a, b) = (two.start_a(), two.start_b());
    publish_all(&a).await;
    let (held, _) = compiled(&b, "n1").await;
    damage_live(&two.a, &a);
    two.stop_a(a);
    let a = two.start_a();
    assert!(a.environments.is_lost(&Environment::default()));
    compiled(&a, "n1").await;
    assert_eq!((live(&a).version.code_id, live(&a).version.version), (held.code_id, held.version));
    assert_eq!(a.verify().unwrap().problems, []);
    assert!(is_current(&b.check_in(&Peer::InProcess, check_in("n1", Some(held))).await.unwrap()));
}

/// Brought when a new epoch has begun already, it is of that epoch: who has it as of the old one follows.
#[tokio::test]
async fn what_a_promoted_server_has_from_a_peer_later_is_of_its_epoch() {
    let [wp, wb, wc] = [World::new(), World::new(), World::new()];
    let p = wp.open();
    let (to_p, to_c) = (port(&p), Arc::<Port>::default());
    let follow = |world: &World, name: &str, ways: &[&Arc<Port>]| world.open_with(|options| options.primary = peers(name, ways));
    let c = follow(&wc, "c", &[&to_p]);
    *to_c.server.lock().unwrap() = Some(Arc::clone(&c));
    let b = follow(&wb, "b", &[&to_p, &to_c]);
    publish_all(&p).await;
    for server in [&b, &c] {
        server.confirm().await.unwrap().whole().unwrap();
    }
    damage_live(&wb, &b);
    drop(b);
    let b = follow(&wb, "b", &[&to_p, &to_c]);
    assert!(b.environments.is_lost(&Environment::default()));
    for way in [&to_p, &to_c] {
        way.is_cut.store(true, Ordering::SeqCst);
    }
    let promoted = promote(&b, true).await.unwrap();
    assert_eq!((promoted.epoch, promoted.live.len(), promoted.left_out.len()), (2, 0, 2), "{promoted:?}");
    to_c.is_cut.store(false, Ordering::SeqCst);
    drop(b.tell_peers(b.peers.as_ref().unwrap()).await);
    let (here, there) = (live(&b), live(&c));
    assert_eq!(here.version.code_id, there.version.code_id);
    assert_eq!(here.version.version, VersionCounter { epoch: 2, sequence: 1 });
    assert_eq!(here.version.lineage, [there.version.version]);
}

#[tokio::test]
async fn a_catalog_or_what_compiling_it_made_is_verified_too() {
    let world = World::new();
    let server = world.open();
    publish_all(&server).await;
    compiled(&server, "n1").await;
    assert_eq!(server.verify().unwrap().problems, []);
    let rendered = server.store.path_of(&Digest::of(b"n1 runs Linux\n"));
    for path in [rendered, file_of(&world, "n1", ".catalog")] {
        let mut bytes = fs::read(&path).unwrap();
        bytes[3] ^= 1;
        fs::write(&path, bytes).unwrap();
        let verified = server.verify().unwrap();
        assert!(verified.problems.len() == 1 && verified.problems[0].reason.contains("node n1"), "{verified:?}");
        compiled(&server, "n1").await;
        assert_eq!(server.verify().unwrap().problems, []);
    }
    assert_eq!(world.compiles(), 3);
}

/// Follows until a content is here again.
async fn mended(server: &Server, content: Digest) {
    follows_until(server, || server.store.has(&content)).await;
}

/// A primary that asks nobody can only say so.
#[test]
fn what_is_damaged_on_a_server_that_asks_no_other_is_told() {
    let log = Log::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let told = std::sync::Mutex::new(String::new());
    let is_told = || {
        let mut told = told.lock().unwrap();
        told.push_str(&log.take());
        told.contains("--successor")
    };
    log.of(|| {
        runtime.block_on(async {
            let world = World::new();
            let server = world.open();
            publish_all(&server).await;
            damage(&server, "content a", false);
            assert!(!server.verify().unwrap().problems.is_empty());
            follows_until(&server, is_told).await;
        });
    });
    let told = told.into_inner().unwrap();
    assert!(told.contains(&Digest::of(b"content a").to_string()) && told.contains("modules/app/files/tree/a"), "{told}");
}

async fn follows_until(server: &Server, is_mended: impl Fn() -> bool + Send + Sync) {
    let stop = tokio_util::sync::CancellationToken::new();
    let comes = async {
        while !is_mended() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = comes => {}
        () = server.follow(&stop) => panic!("it stopped"),
        () = tokio::time::sleep(std::time::Duration::from_secs(20)) => panic!("it was not mended"),
    }
}

#[tokio::test]
async fn what_is_damaged_on_one_server_is_brought_from_another() {
    let two = Two::new();
    let (a, b) = (two.start_a(), two.start_b());
    publish_all(&a).await;
    let (_, catalog) = compiled(&b, "n1").await;
    let content = Digest::of(b"content a");
    assert!(catalog.contents().any(|(named, _)| named == content));
    for (server, flip) in [(&b, true), (&b, false), (&a, true)] {
        let path = server.store.path_of(&content);
        if flip {
            fs::write(&path, "Content a").unwrap();
        } else {
            fs::remove_file(&path).unwrap();
        }
        // Whoever finds it, a node or the administrator, has it mended.
        if flip {
            assert_eq!(server.verify().unwrap().problems.len(), 1);
        } else {
            assert!(!comes(server, "n1", content).await);
        }
        mended(server, content).await;
        assert_eq!(server.verify().unwrap().problems, []);
    }
    assert!(comes(&b, "n1", content).await);
}

#[tokio::test]
async fn what_is_damaged_of_a_version_that_is_not_live_is_brought_from_another_server_too() {
    let two = Two::new();
    let (a, b) = (two.start_a(), two.start_b());
    let first = publish_all(&a).await;
    b.confirm().await.unwrap();
    two.a.stage("modules/app/files/tree/a", "second");
    publish_all(&a).await;
    b.confirm().await.unwrap();
    let content = Digest::of(b"content a");
    for server in [&b, &a] {
        fs::write(server.store.path_of(&content), "Content a").unwrap();
        assert_eq!(server.verify().unwrap().problems.len(), 1);
        mended(server, content).await;
        assert_eq!(server.verify().unwrap().problems, []);
        // So is its manifest.
        let dir = server.environments.dir(&Environment::default()).join("manifests");
        let path = dir.join(first.code_id.unwrap().digest().to_hex());
        let whole = fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        fs::write(&path, flipped).unwrap();
        assert_eq!(server.verify().unwrap().problems.len(), 1);
        follows_until(server, || fs::read(&path).unwrap() == whole).await;
        assert_eq!(server.verify().unwrap().problems, []);
    }
    // Who goes back to it need not have verified before.
    fs::write(a.store.path_of(&content), "Content a").unwrap();
    let request = RollbackRequest::new(Environment::default(), format!("{}.{}", first.epoch, first.sequence).parse().unwrap());
    let back = a.rollback(request).await.unwrap();
    assert!(back.changed && back.code_id == first.code_id, "{back:?}");
    assert_eq!(a.verify().unwrap().problems, []);
}

/// The file that says what is live is the whole truth: the history only tells of it.
#[tokio::test]
async fn what_is_live_is_live_though_the_history_cannot_be_written() {
    let world = World::new();
    let history = world.data().join("code/production/history.jsonl");
    fs::create_dir_all(&history).unwrap();
    let server = world.open();
    assert!(publish_all(&server).await.changed);
    compiled(&server, "n1").await;
    drop(server);
    fs::remove_dir(&history).unwrap();
    let server = world.open();
    assert_eq!(server.versions(None).unwrap().len(), 1, "the start writes the line that is missing");
    assert!(!publish_all(&server).await.changed);
}

/// What is live is in one file: without it there would be an environment less, and counters would begin anew.
#[tokio::test]
async fn a_file_of_what_is_live_that_is_missing_or_damaged_is_found() {
    let world = World::new();
    let live = world.data().join("code/production/live.json");
    let server = world.open();
    publish_all(&server).await;
    world.stage("modules/app/files/tree/a", "second");
    publish_all(&server).await;
    // While the server runs, verify writes it again.
    let text = fs::read_to_string(&live).unwrap();
    fs::remove_file(&live).unwrap();
    let found = server.verify().unwrap();
    assert!(found.problems.len() == 1 && found.problems[0].reason.contains("it is missing"), "{found:?}");
    assert_eq!((fs::read_to_string(&live).unwrap(), server.verify().unwrap().problems), (text.clone(), vec![]));
    let history = world.data().join("code/production/history.jsonl");
    fs::remove_file(&history).unwrap();
    let found = server.verify().unwrap();
    assert!(found.problems.len() == 1 && found.problems[0].reason.contains("does not tell of what is live"), "{found:?}");
    assert_eq!(server.verify().unwrap().problems, []);
    drop(server);
    for damaged in [None, Some(text.replace("\"sequence\": 2", "\"sequence\": 9"))] {
        match &damaged {
            None => fs::remove_file(&live).unwrap(),
            Some(text) => fs::write(&live, text).unwrap(),
        }
        let server = world.open();
        assert!(server.environments.is_lost(&Environment::default()), "{damaged:?}");
        let refusal = server.check_in(&Peer::InProcess, check_in("n1", None)).await.unwrap_err();
        assert_eq!(refusal.code, RefusalCode::NotPublished, "{}", refusal.message);
        assert_eq!(server.verify().unwrap().problems.len(), 1);
        drop(server);
    }
    // What comes next stands above what was live, also where it is the same code.
    let server = world.open();
    let request = || RollbackRequest::new(Environment::default(), "1.2".parse().unwrap());
    let tried = server.rollback(RollbackRequest { dry_run: true, ..request() }).await.unwrap();
    assert!(tried.changed && server.environments.is_lost(&Environment::default()), "{tried:?}");
    // Asked again it is answered the same, by whichever name.
    for (to, request_id) in [("1.2", "back"), ("live", "back")] {
        let again = RollbackRequest { to: to.parse().unwrap(), request_id: Some(request_id.to_owned()), ..request() };
        let result = server.rollback(again).await.unwrap();
        assert!(result.changed && result.sequence == 3, "{to}: {result:?}");
    }
    server.check_in(&Peer::InProcess, check_in("n1", None)).await.unwrap();
    world.stage("modules/app/files/tree/a", "third");
    assert_eq!(publish_all(&server).await.sequence, 4);
    assert_eq!(server.verify().unwrap().problems, []);
}

/// Who goes back to an older program is told so, and nothing is overwritten.
#[tokio::test]
async fn what_a_later_program_wrote_is_left_alone() {
    let world = World::new();
    let server = world.open();
    publish_all(&server).await;
    compiled(&server, "n1").await;
    drop(server);
    for path in [world.data().join("code/production/live.json"), file_of(&world, "n1", "node.json")] {
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, edited(&text, "\"format\": 1", "\"format\": 2")).unwrap();
        let staging = Staging::Environments(world.dir.path().join("staging"));
        let error = Server::open(ServerOptions::new(world.data(), staging)).unwrap_err();
        assert!(matches!(&error, ServerError::Format { path: at, format: 2 } if *at == path), "{error}");
        fs::write(&path, text).unwrap();
    }
    world.open();
}

const TEMPLATE: &str = "kernel {{ facts.kernel }}\n";

/// Stages a site that needs a template; returns it.
fn stage_template(world: &World) -> String {
    let site = format!("{SITE}    - file: /etc/kernel\n      template: app/kernel.j2\n");
    world.stage("site.yaml", &site);
    world.stage("modules/app/templates/kernel.j2", TEMPLATE);
    site
}

/// Damages a content: its bytes, or all of it.
fn damage(server: &Server, content: &str, is_gone: bool) {
    let path = server.store.path_of(&Digest::of(content.as_bytes()));
    if is_gone { fs::remove_file(path).unwrap() } else { fs::write(path, "flipped").unwrap() }
}

#[tokio::test]
async fn a_compile_that_met_a_damaged_content_is_made_when_that_is_whole() {
    let world = World::new();
    let site = stage_template(&world);
    let server = world.open();
    publish_all(&server).await;
    for (number, (content, file, is_gone)) in
        [(&*site, "site.yaml", false), (TEMPLATE, "kernel.j2", false), (&*site, "site.yaml", true), (TEMPLATE, "kernel.j2", true)]
            .into_iter()
            .enumerate()
    {
        damage(&server, content, is_gone);
        let node = format!("n{number}");
        for _ in 0..2 {
            let refusal = submit(&server, &node, None, "Linux").await.unwrap_err();
            assert_eq!((refusal.code, refusal.retry_after_seconds), (RefusalCode::Internal, Some(5)), "{refusal}");
            assert!(refusal.code.is_retryable() && refusal.message.contains(file), "{refusal}");
            assert!(!refusal.message.contains("blobs"), "{refusal}");
        }
        assert!(!publish_all(&server).await.changed);
        compiled(&server, &node).await;
    }
    // One that is too long is the code's own fault.
    world.stage("modules/app/templates/kernel.j2", "x".repeat((4 << 20) + 1));
    assert_eq!(publish(&server, PublishRequest::default()).await.error.unwrap().code, "compile");
}

#[tokio::test]
async fn what_a_compile_on_a_replica_misses_is_brought_from_its_primary() {
    let two = Two::new();
    let site = stage_template(&two.a);
    let (a, b) = (two.start_a(), two.start_b());
    publish_all(&a).await;
    b.confirm().await.unwrap();
    for (number, content) in [&*site, TEMPLATE].into_iter().enumerate() {
        damage(&b, content, number == 0);
        let node = format!("n{number}");
        assert_eq!(submit(&b, &node, None, "Linux").await.unwrap_err().code, RefusalCode::Internal);
        mended(&b, Digest::of(content.as_bytes())).await;
        compiled(&b, &node).await;
    }
}

/// Half a line, as a crash leaves it, costs that line only.
#[tokio::test]
async fn a_torn_line_costs_no_other() {
    let world = World::new();
    let server = world.open();
    publish_all(&server).await;
    world.stage("modules/app/files/tree/a", "second");
    publish_all(&server).await;
    drop(server);
    let (collected, audit) = (world.data().join("code/production/collected.jsonl"), world.data().join("audit.jsonl"));
    fs::write(&collected, "{\"code_id\":\"blake3:00").unwrap();
    let before = fs::read_to_string(&audit).unwrap();
    fs::write(&audit, format!("{before}{{\"time_unix_se")).unwrap();
    let server = world.open();
    let now = CollectRequest { grace_seconds: 0, dry_run: false };
    assert_eq!(server.collect_as(now, "test").await.unwrap().collected.len(), 1);
    assert_eq!(server.verify().unwrap().problems, []);
    let after = fs::read_to_string(&audit).unwrap();
    let line: serde_json::Value = serde_json::from_str(after.strip_prefix(&before).unwrap()).unwrap();
    assert_eq!(line["act"], "gc");
}

#[tokio::test]
async fn a_flipped_bit_in_a_pack_is_found_never_served_and_mended_from_another_server() {
    let two = Two::new();
    for number in 0..100 {
        two.a.stage(&format!("modules/app/files/tree/many/{number}"), format!("packed {number:03}"));
    }
    let (a, b) = (two.start_a(), two.start_b());
    publish_all(&a).await;
    compiled(&a, "n1").await;
    compiled(&b, "n1").await;
    let content = Digest::of(b"packed 042");
    assert!(!a.store.path_of(&content).exists() && comes(&a, "n1", content).await, "it is in a pack");
    let dir = two.a.data().join("store/packs");
    let pack = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).next().unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    let at = bytes.windows(10).position(|window| window == b"packed 042").unwrap();
    bytes[at] ^= 1;
    fs::write(&pack, bytes).unwrap();
    assert!(!comes(&a, "n1", content).await && !a.store.has(&content));
    assert!(comes(&a, "n1", Digest::of(b"packed 041")).await, "only what is damaged suffers");
    mended(&a, content).await;
    assert_eq!(a.verify().unwrap().problems, []);
    assert!(comes(&a, "n1", content).await);
}
