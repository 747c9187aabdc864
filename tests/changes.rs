//! Changes that are awkward to make in one run.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::os::unix::fs::symlink;

use direct_puppet_agent::undo::UndoOptions;
use direct_puppet_tests::link::Link;
use direct_puppet_tests::world::World;
use direct_puppet_transport::protocol::RunStatus;

fn manifest(resources: &str) -> String {
    format!("nodes:\n  - match: \"*\"\n    classes: [base]\nclasses:\n  base:\n{resources}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_becomes_a_directory_with_contents_and_back() {
    let world = World::new(Link::memory()).await;
    let tree = world.site.tree();
    fs::write(tree.join("x"), "a file").unwrap();
    fs::write(tree.join("y"), "y").unwrap();
    world.publish().await;
    let node = world.node("node1");
    node.run().await;
    fs::remove_file(tree.join("x")).unwrap();
    fs::create_dir_all(tree.join("x/deep")).unwrap();
    fs::write(tree.join("x/deep/er"), "new below").unwrap();
    // A link in the way goes as well: it is what the source says, not where it leads, that counts.
    fs::remove_file(node.path("/srv/tree/y")).unwrap();
    fs::remove_file(tree.join("y")).unwrap();
    fs::create_dir(tree.join("y")).unwrap();
    fs::write(tree.join("y/below"), "below").unwrap();
    symlink("/nowhere", node.path("/srv/tree/y")).unwrap();
    world.publish().await;
    let outcome = node.run().await;
    assert_eq!(outcome.wire.contents_received, 2);
    assert_eq!(fs::read_to_string(node.path("/srv/tree/x/deep/er")).unwrap(), "new below");
    assert_eq!(fs::read_to_string(node.path("/srv/tree/y/below")).unwrap(), "below");
    assert_eq!(node.run().await.status, RunStatus::Unchanged);
    // And back, by undo; then forward again.
    let undone = node.agent().undo(UndoOptions::default()).await.unwrap();
    assert_eq!((undone.failed, undone.run), (vec![], outcome.transaction_uuid));
    assert_eq!(fs::read_to_string(node.path("/srv/tree/x")).unwrap(), "a file");
    assert_eq!(fs::read_link(node.path("/srv/tree/y")).unwrap(), std::path::Path::new("/nowhere"));
    assert_eq!(node.run().await.status, RunStatus::Changed);
    fs::remove_dir_all(tree.join("x")).unwrap();
    fs::write(tree.join("x"), "a file again").unwrap();
    world.publish().await;
    node.run().await;
    assert_eq!(fs::read_to_string(node.path("/srv/tree/x")).unwrap(), "a file again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_followed_link_costs_nothing_once_what_it_points_to_is_right() {
    let world = World::new(Link::memory()).await;
    fs::write(world.site.tree().join("one"), "content\n".repeat(1000)).unwrap();
    world.site.manifest(&manifest(
        "    - file: /followed\n      ensure: file\n      links: follow\n      source: puppet:///modules/app/tree/one\n",
    ));
    world.publish().await;
    let node = world.node("node1");
    fs::write(node.path("/target"), "old").unwrap();
    symlink("target", node.path("/followed")).unwrap();
    assert_eq!(node.run().await.status, RunStatus::Changed);
    assert_eq!(fs::read_to_string(node.path("/target")).unwrap(), "content\n".repeat(1000));
    assert!(node.path("/followed").is_symlink());
    let second = node.run().await;
    assert_eq!((second.status, second.wire.contents_requested, second.scan.opened), (RunStatus::Unchanged, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_never_removes_its_own_state() {
    let world = World::new(Link::memory()).await;
    let node = world.node("node1");
    for purge in [
        "    - file: /var\n      ensure: directory\n      recurse: true\n      purge: true\n      force: true\n",
        "    - file: /var/lib\n      ensure: absent\n      force: true\n",
        "    - file: /var/lib/direct-puppet/undo\n      ensure: absent\n      force: true\n",
    ] {
        world.site.manifest(&manifest(purge));
        world.publish().await;
        fs::create_dir_all(node.path("/var/other/deep")).unwrap();
        let outcome = node.try_run().await.unwrap();
        assert!(node.path("/var/lib/direct-puppet/last_run_report.json").exists(), "{purge}");
        assert_eq!(outcome.resources.failed, u64::from(purge.contains("absent")), "{purge}: {:?}", outcome.messages);
        assert_eq!(node.path("/var/other").exists(), purge.contains("absent"), "{purge}");
    }
}
