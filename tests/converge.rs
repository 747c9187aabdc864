//! What a run costs when there is little to do, over every transport.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::os::unix::fs::MetadataExt as _;

use direct_puppet_agent::undo::UndoOptions;
use direct_puppet_agent::{Answer, RunOptions};
use direct_puppet_tests::link::Link;
use direct_puppet_tests::site::{body, files};
use direct_puppet_tests::world::World;
use direct_puppet_transport::protocol::{Digest, Fetch, Operation, RunStatus, Value, codec};

fn operations(calls: &[direct_puppet_tests::world::Call]) -> Vec<Operation> {
    calls.iter().map(|call| call.operation).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_steady_state_is_one_short_check_in() {
    for link in Link::all() {
        let world = World::new(link).await;
        world.site.fill(50, "one");
        world.publish().await;
        let node = world.node("node1");
        let first = node.run().await;
        assert_eq!((first.status, first.answer), (RunStatus::Changed, Some(Answer::Catalog)));
        assert_eq!(
            operations(&node.log.take()),
            [Operation::CheckIn, Operation::SubmitFacts, Operation::Fetch, Operation::Report]
        );
        assert_eq!(world.compiles(), 1);

        let second = node.run().await;
        assert_eq!((second.status, second.answer), (RunStatus::Unchanged, Some(Answer::Current)));
        let calls = node.log.take();
        assert_eq!(operations(&calls), [Operation::CheckIn, Operation::Report]);
        assert!(calls[0].request.len() <= 256 && calls[0].response_bytes <= 256, "{calls:?}");
        assert_eq!((second.scan.listed, second.scan.stat_proved, second.scan.opened), (50, 50, 0));
        assert_eq!((second.wire.contents_requested, second.scan.missing), (0, 0));
        assert_eq!(world.compiles(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_facts_do_not_compile() {
    for link in Link::all() {
        let world = World::new(link).await;
        world.site.manifest(
            "nodes: [{ match: \"*\", classes: [base] }]\nclasses:\n  base:\n    - file: /motd\n      content: \"{{ facts.role }}\\n\"\n",
        );
        world.publish().await;
        let mut node = world.node("node1");
        node.facts.insert("role".to_owned(), Value::from("db"));
        node.run().await;
        node.facts.insert("role".to_owned(), Value::from("web"));
        let outcome = node.run().await;
        assert_eq!((world.compiles(), outcome.answer), (1, Some(Answer::Current)));
        assert_eq!(std::fs::read_to_string(node.path("/motd")).unwrap(), "db\n");

        // An administrator can have it compiled again; that is the only other way.
        world.server.recompile(&"node1".parse().unwrap(), "test").unwrap();
        node.run().await;
        assert_eq!(world.compiles(), 2);
        assert_eq!(std::fs::read_to_string(node.path("/motd")).unwrap(), "web\n");
        let audit = std::fs::read_to_string(world.path().join("data/audit.jsonl")).unwrap();
        assert!(audit.contains("recompile") && audit.contains("node1"), "{audit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_code_compiles_once_for_a_node_however_often_it_asks() {
    for link in Link::all() {
        let world = World::new(link).await;
        world.site.fill(5, "one");
        world.publish().await;
        // Many agents that all say to be the same node, each with a root of its own.
        let clones: Vec<_> = (0..32)
            .map(|number| {
                let mut node = world.node(&format!("clone{number}"));
                "node1".clone_into(&mut node.name);
                node
            })
            .collect();
        for (version, compiles) in [("one", 1), ("two", 2)] {
            world.site.fill(5, version);
            world.publish().await;
            let runs = clones.iter().map(|node| async move { node.run().await });
            let outcomes = futures::future::join_all(runs).await;
            assert_eq!(world.compiles(), compiles);
            assert!(outcomes.iter().all(|outcome| outcome.catalog_id == outcomes[0].catalog_id));
        }
        for node in &clones {
            node.run().await;
        }
        assert_eq!(world.compiles(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_code_with_the_same_catalog_sends_only_its_code_id() {
    for link in Link::all() {
        let world = World::new(link).await;
        world.site.fill(5, "one");
        world.publish().await;
        let node = world.node("node1");
        let first = node.run().await;
        std::fs::write(world.site.environment().join("unused.txt"), "nobody manages this").unwrap();
        assert!(world.publish().await.changed);
        drop(node.log.take());
        let second = node.run().await;
        assert_eq!(
            (second.status, second.answer, second.catalog_id),
            (RunStatus::Unchanged, Some(Answer::Current), first.catalog_id)
        );
        assert_ne!(second.code_id, first.code_id);
        let calls = node.log.take();
        assert_eq!(operations(&calls), [Operation::CheckIn, Operation::SubmitFacts, Operation::Report]);
        assert!(calls[..2].iter().all(|call| call.response_bytes <= 256), "{calls:?}");
        // And from then on the new code is what the node says it holds.
        node.run().await;
        assert_eq!(operations(&node.log.take()), [Operation::CheckIn, Operation::Report]);
        // However often that happens, code that changes the catalog is compiled once and reaches the node.
        for number in 0..4 {
            std::fs::write(world.site.environment().join("unused.txt"), number.to_string()).unwrap();
            world.publish().await;
            assert_eq!(node.run().await.catalog_id, first.catalog_id);
        }
        world.site.fill(5, "two");
        world.publish().await;
        let before = world.compiles();
        let changed = node.run().await;
        assert_eq!((changed.status, changed.answer), (RunStatus::Changed, Some(Answer::Catalog)));
        assert_eq!(world.compiles(), before + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_10000_files_the_3_that_drift_are_asked_for_at_once() {
    for link in Link::all() {
        let world = World::new(link).await;
        world.site.fill(10_000, "one");
        world.publish().await;
        let node = world.node("node1");
        node.run().await;
        let tree = node.path("/srv/tree");
        let drifted = [7, 4_000, 9_999].map(|number: usize| (number, tree.join(format!("d{:02}/file{number:05}", number % 16))));
        for (_, path) in &drifted {
            std::fs::write(path, "drift").unwrap();
        }
        drop(node.log.take());
        let outcome = node.run().await;
        assert_eq!((outcome.scan.missing, outcome.wire.contents_requested, outcome.wire.contents_received), (3, 3, 3));
        assert_eq!((outcome.resources.out_of_sync, outcome.resources.changed), (3, 3));
        assert!(outcome.events().all(|event| event.corrective_change), "{:?}", outcome.report.resource_statuses);
        let calls = node.log.take();
        let fetches: Vec<Fetch> = calls
            .iter()
            .filter(|call| call.operation == Operation::Fetch)
            .map(|call| codec::decode(&call.request, 1 << 20).unwrap())
            .collect();
        assert_eq!(fetches.len(), 1);
        let mut expected = drifted.clone().map(|(number, _)| Digest::of(body(number, "one").as_bytes()));
        expected.sort();
        assert_eq!(fetches[0].digests, expected);
        for (number, path) in &drifted {
            assert_eq!(std::fs::read_to_string(path).unwrap(), body(*number, "one"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_node_has_elsewhere_is_never_asked_for() {
    for link in Link::all() {
        let world = World::new(link).await;
        let tree = world.site.tree();
        std::fs::write(tree.join("one"), "the same content").unwrap();
        world.publish().await;
        let node = world.node("node1");
        node.run().await;
        // The same content under another path; and a content whose old form is only in the store, as a backup.
        std::fs::create_dir(tree.join("sub")).unwrap();
        std::fs::write(tree.join("sub/two"), "the same content").unwrap();
        world.publish().await;
        let outcome = node.run().await;
        assert_eq!((outcome.resources.changed, outcome.wire.contents_requested), (2, 0));
        for (content, requested) in [("another content", 1), ("the same content", 0)] {
            std::fs::write(tree.join("one"), content).unwrap();
            std::fs::write(tree.join("sub/two"), content).unwrap();
            world.publish().await;
            assert_eq!(node.run().await.wire.contents_requested, requested, "{content}");
        }
        assert_eq!(std::fs::read_to_string(node.path("/srv/tree/sub/two")).unwrap(), "the same content");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_changes_nothing_and_says_all() {
    let world = World::new(Link::memory()).await;
    world.site.fill(3, "one");
    world.publish().await;
    let node = world.node("node1");
    node.run().await;
    let path = node.path("/srv/tree/d01/file00001");
    std::fs::write(&path, "drift\n").unwrap();
    let before = std::fs::metadata(&path).unwrap();
    let outcome = node.agent().plan().await.unwrap();
    assert_eq!((outcome.exit_code(), outcome.resources.out_of_sync, outcome.resources.changed), (2, 1, 0));
    let (resource, diff) = &outcome.diffs[0];
    assert!(resource.contains("file00001") && diff.contains("-drift") && diff.contains("+one 1"), "{diff}");
    let after = std::fs::metadata(&path).unwrap();
    assert_eq!((before.ino(), before.ctime_nsec()), (after.ino(), after.ctime_nsec()));
    assert_eq!(node.run().await.resources.changed, 1);
    assert_eq!(node.agent().plan().await.unwrap().exit_code(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn undo_puts_back_what_the_last_run_replaced() {
    let world = World::new(Link::memory()).await;
    world.site.fill(3, "one");
    world.publish().await;
    let node = world.node("node1");
    node.run().await;
    let old = files(&node.path("/srv/tree"));
    world.site.fill(4, "two");
    world.publish().await;
    node.run().await;
    assert_ne!(files(&node.path("/srv/tree")), old);
    let undone = node.agent().undo(UndoOptions::default()).await.unwrap();
    assert_eq!(undone.failed, []);
    assert_eq!(files(&node.path("/srv/tree")), old);
    // The next run makes it as the catalog says again, from what is here.
    let outcome = node.run().await;
    // Three files as they were, one that was not there, and its directory.
    assert_eq!(outcome.resources.changed, 5);
    assert_eq!(files(&node.path("/srv/tree")), files(&world.site.tree()));
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_choose_resources() {
    let world = World::new(Link::memory()).await;
    world.site.manifest(
        "nodes: [{ match: \"*\", classes: [a, b] }]\nclasses:\n  a:\n    - file: /a\n      content: a\n  b:\n    - file: /b\n      content: b\n",
    );
    world.publish().await;
    let node = world.node("node1");
    let options = RunOptions { tags: vec!["b".to_owned()], ..RunOptions::default() };
    let outcome = node.agent().run(&options).await.unwrap();
    assert_eq!((outcome.resources.changed, outcome.resources.skipped), (1, 1));
    assert!(!node.path("/a").exists() && node.path("/b").exists());
}
