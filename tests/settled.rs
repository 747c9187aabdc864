//! The settled record: a run that ends by it says just what a run without it would have said.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use direct_puppet_agent::tree::{Proof, ScanCounters};
use direct_puppet_agent::undo::UndoOptions;
use direct_puppet_agent::{Answer, Outcome, RunOptions};
use direct_puppet_tests::link::Link;
use direct_puppet_tests::world::{Node, World};
use direct_puppet_transport::protocol::RunStatus;
use proptest::prelude::*;

/// One resource of each kind that can be settled.
const SITE: &str = r#"
nodes: [{ match: "*", classes: [base] }]
classes:
  base:
    - file: /etc
      ensure: directory
    - file: /etc/motd
      content: "hello\n"
      mode: "u=rw,g=r,o="
    - file: /purged
      source: puppet:///modules/app/tree
      recurse: true
      purge: true
      force: true
    - file: /kept
      source: puppet:///modules/app/tree
      recurse: true
      mode: "0755"
    - file: /plain
      source: puppet:///modules/app/tree
      recurse: remote
    - file: /purged/d01/own
      content: "own\n"
    - file: /gone
      ensure: absent
    - file: /no/such/dir/gone
      ensure: absent
    - file: /link
      ensure: link
      target: /etc/motd
    - file: /once
      content: "once\n"
      replace: false
    - file: /present
      ensure: present
    - exec: made
      command: /usr/bin/true
      creates: /etc/motd
    - exec: reload
      command: /usr/bin/true
      refreshonly: true
"#;

/// Added where owners can be set.
const OWNED: &str = "    - file: /owned\n      content: owned\n      owner: web\n      group: web\n";

fn record_of(node: &Node) -> PathBuf {
    node.path("/var/lib/direct-puppet/settled")
}

/// What tells one record from the next.
fn identity(path: &Path) -> Option<Vec<u8>> {
    fs::read(path).ok()
}

/// Makes a node with files in three directories, converged and settled.
async fn settled_node(world: &World) -> Node {
    world.site.fill(6, "one");
    symlink("d01/file00001", world.site.tree().join("link")).unwrap();
    let is_root = rustix::process::geteuid().is_root();
    world.site.manifest(&format!("{SITE}{}", if is_root { OWNED } else { "" }));
    world.publish().await;
    let node = world.node("node1");
    fs::create_dir_all(node.path("/etc")).unwrap();
    fs::write(node.path("/etc/passwd"), "root:x:0:0::/:\nweb:x:1001:1001::/:\n").unwrap();
    fs::write(node.path("/etc/group"), "root:x:0:\nweb:x:1001:\n").unwrap();
    node.run().await;
    settle(&node).await;
    node
}

/// Runs until there is a record: at once, unless something is so new that its times prove nothing.
async fn settle(node: &Node) -> Outcome {
    for _ in 0..50 {
        let outcome = node.run().await;
        assert_eq!(outcome.status, RunStatus::Unchanged, "{:?}", outcome.events().collect::<Vec<_>>());
        if record_of(node).exists() {
            return outcome;
        }
    }
    panic!("no record was written");
}

/// Makes a run and returns whether it ended by the record.
async fn run_by_record(node: &Node) -> (Outcome, bool) {
    let before = identity(&record_of(node));
    let outcome = node.try_run().await.unwrap();
    let by_record = before.is_some() && identity(&record_of(node)) == before;
    (outcome, by_record)
}

/// What a run without the record finds, without changing anything.
async fn oracle(node: &Node) -> Outcome {
    let agent = node.builder().settled(false).transport(node.transport()).build().unwrap();
    agent.run(&RunOptions { noop: true, report: false, ..RunOptions::default() }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_by_the_record_says_what_a_whole_run_says() {
    for link in Link::all() {
        let world = World::new(link).await;
        let node = settled_node(&world).await;
        let whole = oracle(&node).await;
        let (fast, by_record) = run_by_record(&node).await;
        assert!(by_record);
        assert_eq!((fast.status, fast.answer, fast.exit_code()), (RunStatus::Unchanged, Some(Answer::Current), 0));
        assert_eq!((fast.resources, fast.scan), (whole.resources, whole.scan));
        assert_eq!((fast.catalog_id, fast.code_id, fast.version), (whole.catalog_id, whole.code_id, whole.version));
        assert_eq!((&fast.messages, fast.scan.opened), (&whole.messages, 0));
        assert!(fast.scan.listed > 20 && fast.resources.total > 30, "{fast:?}");
        let (fast, whole) = (&fast.report, &whole.report);
        for section in ["resources", "changes", "events", "scan"] {
            assert_eq!(fast.metrics[section], whole.metrics[section], "{section}");
        }
        // The types of resources are not known without the catalog, nor how long each took.
        let whole_times = whole.metrics["time"].keys().filter(|name| fast.metrics["time"].contains_key(*name));
        assert_eq!(fast.metrics["time"].keys().collect::<Vec<_>>(), whole_times.collect::<Vec<_>>());
        assert_eq!(fast.resource_statuses, whole.resource_statuses);
        assert!(fast.transaction_completed && !fast.noop);
        let last = fs::read_to_string(node.path("/var/lib/direct-puppet/last_run_report.json")).unwrap();
        assert!(last.replace('-', "").contains(&fast.transaction_uuid));
    }
}

/// Verifies the node and returns whether that was done by the record: only a whole run reads the scan cache.
async fn verify_by_record(node: &Node, proof: Proof) -> (Outcome, bool) {
    let cache = node.path("/var/lib/direct-puppet/scan-cache");
    let good = fs::read(&cache).unwrap();
    fs::write(&cache, "damaged").unwrap();
    let outcome = node.builder().transport(node.transport()).build().unwrap().verify_by(proof).await.unwrap();
    let by_record = identity(&cache).is_some_and(|found| found == b"damaged");
    fs::write(&cache, good).unwrap();
    (outcome, by_record)
}

/// What a verification without the record finds.
async fn verification_oracle(node: &Node, proof: Proof) -> Outcome {
    node.builder().settled(false).transport(node.transport()).build().unwrap().verify_by(proof).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_by_the_record_says_what_a_whole_one_says() {
    let world = World::new(Link::memory()).await;
    let node = settled_node(&world).await;
    // The first one learns the fingerprints, here and there.
    for proof in [Proof::Digest, Proof::Digest, Proof::Fingerprint] {
        let record = identity(&record_of(&node));
        let (fast, by_record) = verify_by_record(&node, proof).await;
        let whole = verification_oracle(&node, proof).await;
        assert!(by_record, "{proof:?}");
        assert_eq!((fast.status, fast.answer, fast.noop), (RunStatus::Unchanged, Some(Answer::Cached), true));
        assert_eq!((fast.status, fast.answer, fast.noop), (whole.status, whole.answer, whole.noop));
        assert_eq!((fast.resources, fast.scan), (whole.resources, whole.scan), "{proof:?}");
        assert_eq!((fast.catalog_id, fast.code_id, fast.version), (whole.catalog_id, whole.code_id, whole.version));
        assert_eq!((&fast.messages, fast.exit_code()), (&whole.messages, whole.exit_code()));
        assert_eq!(fast.report.resource_statuses, whole.report.resource_statuses);
        // All but the one that is never replaced, and so never read.
        assert_eq!((fast.scan.opened, fast.scan.stat_proved), (fast.scan.listed - 1, 0));
        // Where owners can be set, one file belongs to another user: its fingerprint is no proof.
        let by_digest = u64::from(rustix::process::geteuid().is_root());
        let proved = if proof == Proof::Fingerprint { fast.scan.opened - by_digest } else { 0 };
        assert_eq!(fast.scan.fingerprint_proved, proved);
        assert_eq!(identity(&record_of(&node)), record, "the record is as it was");
    }
    let (_, by_record) = run_by_record(&node).await;
    assert!(by_record);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalog_and_the_scan_cache_are_not_read() {
    let world = World::new(Link::memory()).await;
    let node = settled_node(&world).await;
    let state = node.path("/var/lib/direct-puppet");
    // Not readable as what it is: only a run that reads it would find out and write another.
    fs::write(state.join("scan-cache"), "damaged").unwrap();
    let (_, by_record) = run_by_record(&node).await;
    assert!(by_record);
    assert_eq!(fs::read_to_string(state.join("scan-cache")).unwrap(), "damaged");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_use_the_record_does_not() {
    let world = World::new(Link::memory()).await;
    let node = settled_node(&world).await;
    // Noop runs neither use nor remove it: they would not see what they are asked for.
    let before = identity(&record_of(&node));
    assert_eq!(oracle(&node).await.resources.out_of_sync, 0);
    assert_eq!(identity(&record_of(&node)), before);
    for options in [
        RunOptions { tags: vec!["base".to_owned()], ..RunOptions::default() },
        RunOptions { skip_tags: vec!["nothing".to_owned()], ..RunOptions::default() },
        RunOptions { proof: Proof::Digest, ..RunOptions::default() },
    ] {
        settle(&node).await;
        node.agent().run(&options).await.unwrap();
        assert!(!record_of(&node).exists(), "{options:?}");
    }
    settle(&node).await;
    let without = node.builder().settled(false).transport(node.transport()).build().unwrap();
    without.run(&RunOptions::default()).await.unwrap();
    assert!(!record_of(&node).exists());
    // One that was made for another interval of proofs says nothing.
    let before = settle(&node).await;
    let other = node.builder().reproof_interval(Duration::from_secs(3600)).transport(node.transport()).build().unwrap();
    let record = identity(&record_of(&node));
    let after = other.run(&RunOptions::default()).await.unwrap();
    assert_ne!(identity(&record_of(&node)), record);
    assert_eq!(after.scan, before.scan);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_code_with_the_same_catalog_keeps_the_record() {
    let world = World::new(Link::memory()).await;
    let node = settled_node(&world).await;
    fs::write(world.site.environment().join("unused.txt"), "nobody manages this").unwrap();
    assert!(world.publish().await.changed);
    let (outcome, by_record) = run_by_record(&node).await;
    assert!(by_record);
    let (again, _) = run_by_record(&node).await;
    assert_eq!((again.code_id, again.version), (outcome.code_id, outcome.version));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_catalog_and_undo_make_it_unusable_before_anything_is_touched() {
    let world = World::new(Link::memory()).await;
    let node = settled_node(&world).await;
    world.site.fill(7, "two");
    world.publish().await;
    assert_eq!(node.run().await.status, RunStatus::Changed);
    assert!(!record_of(&node).exists());
    settle(&node).await;
    let undone = node.agent().undo(UndoOptions::default()).await.unwrap();
    assert_eq!(undone.failed, []);
    assert!(!record_of(&node).exists());
    assert_eq!(node.run().await.status, RunStatus::Changed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_or_catalog_costs_a_whole_run() {
    let world = World::new(Link::memory()).await;
    let node = settled_node(&world).await;
    let good = fs::read(record_of(&node)).unwrap();
    for at in [0, 9, 50, good.len() / 2, good.len() - 1] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        fs::write(record_of(&node), &bytes).unwrap();
        settle(&node).await;
        assert_ne!(fs::read(record_of(&node)).unwrap(), bytes, "{at}");
    }
    for length in [0, 30, 200, good.len() - 1] {
        fs::write(record_of(&node), &good[..length]).unwrap();
        settle(&node).await;
        assert_ne!(fs::read(record_of(&node)).unwrap().len(), length);
    }
    // The catalog on disk: it is asked for again, as without the record.
    let dir = node.path("/var/lib/direct-puppet/catalog");
    let catalog = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let catalog = catalog.into_iter().find(|path| path.extension().is_some_and(|found| found == "catalog")).unwrap();
    let whole = fs::read(&catalog).unwrap();
    fs::write(&catalog, "damaged").unwrap();
    assert_eq!(node.run().await.answer, Some(Answer::Catalog));
    assert_eq!(fs::read(&catalog).unwrap(), whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_proved_again_in_time_and_in_few_runs() {
    let world = World::new(Link::memory()).await;
    let node = settled_node(&world).await;
    let (mut opened, mut by_record) = (0, 0);
    for half_hours in 1..=24_u32 {
        let system = Later { ahead: Duration::from_secs(1800) * half_hours };
        let agent = node.builder().system(system).transport(node.transport()).build().unwrap();
        let before = identity(&record_of(&node));
        let outcome = agent.run(&RunOptions::default()).await.unwrap();
        assert_eq!(outcome.status, RunStatus::Unchanged);
        opened += outcome.scan.opened;
        by_record += u32::from(identity(&record_of(&node)) == before);
    }
    // All but the one that is never replaced, and so never read.
    let listed = oracle(&node).await.scan.listed;
    assert!(opened >= listed - 1, "{opened} of {listed}");
    assert!(by_record >= 16, "{by_record}");
}

/// A clock that is ahead, on a machine that gives facts as the others here do.
#[derive(Debug)]
struct Later {
    ahead: Duration,
}

impl direct_puppet_agent::system::System for Later {
    fn now(&self) -> SystemTime {
        SystemTime::now() + self.ahead
    }

    fn random(&self) -> [u8; 16] {
        direct_puppet_agent::system::RealSystem::default().random()
    }

    fn facts(&self) -> Result<std::collections::BTreeMap<String, direct_puppet_transport::protocol::Value>, String> {
        Ok(std::collections::BTreeMap::new())
    }
}

/// Something that others may do to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Nothing,
    Touch,
    Chmod(u32),
    Chown,
    Rewrite,
    RewriteAndSetBack,
    Append,
    Replace,
    Remove,
    IntoDirectory,
    IntoLink,
    ParentIntoLink,
    SwapParents,
    NewBeside,
    NewDirectoryBeside,
    LinkElsewhere,
    Accounts,
    Create,
}

const PATHS: [&str; 19] = [
    "/etc/motd",
    "/etc",
    "/purged/d01/file00001",
    "/purged/d02/file00002",
    "/purged/d01/own",
    "/purged/d03",
    "/purged/link",
    "/purged",
    "/kept/d01/file00001",
    "/kept/d02",
    "/plain/d01/file00001",
    "/plain/d03",
    "/gone",
    "/no/such/dir/gone",
    "/link",
    "/once",
    "/present",
    "/owned",
    "/elsewhere",
];

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        Just(Act::Nothing),
        Just(Act::Touch),
        prop_oneof![Just(0o600_u32), Just(0o644), Just(0o640), Just(0o755), Just(0o1777)].prop_map(Act::Chmod),
        Just(Act::Chown),
        Just(Act::Rewrite),
        Just(Act::RewriteAndSetBack),
        Just(Act::Append),
        Just(Act::Replace),
        Just(Act::Remove),
        Just(Act::IntoDirectory),
        Just(Act::IntoLink),
        Just(Act::ParentIntoLink),
        Just(Act::SwapParents),
        Just(Act::NewBeside),
        Just(Act::NewDirectoryBeside),
        Just(Act::LinkElsewhere),
        Just(Act::Accounts),
        Just(Act::Create),
    ]
}

/// Does it; what cannot be done is not done.
fn perform(node: &Node, act: Act, path: &Path) -> std::io::Result<()> {
    let remove = |path: &Path| {
        if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
    };
    let parent = path.parent().unwrap();
    let is_own = parent == node.root;
    match act {
        Act::Nothing => {}
        Act::Touch => fs::File::open(path)?.set_modified(SystemTime::now())?,
        Act::Chmod(mode) => fs::set_permissions(path, fs::Permissions::from_mode(mode))?,
        Act::Chown => std::os::unix::fs::lchown(path, Some(7), Some(7))?,
        Act::Rewrite | Act::RewriteAndSetBack => {
            let modified = fs::metadata(path)?.modified()?;
            let mut bytes = fs::read(path)?;
            bytes.iter_mut().for_each(|byte| *byte ^= 1);
            fs::write(path, bytes)?;
            if act == Act::RewriteAndSetBack {
                fs::File::options().write(true).open(path)?.set_modified(modified)?;
            }
        }
        Act::Append => fs::write(path, [fs::read(path)?, b"more".to_vec()].concat())?,
        Act::Replace => {
            // The same content in another inode.
            let aside = node.root.join("aside");
            fs::copy(path, &aside)?;
            fs::rename(&aside, path)?;
        }
        Act::Remove => remove(path)?,
        Act::IntoDirectory => {
            remove(path)?;
            fs::create_dir(path)?;
        }
        Act::IntoLink => {
            let aside = node.root.join("moved");
            fs::rename(path, &aside)?;
            symlink(&aside, path)?;
        }
        Act::ParentIntoLink if !is_own => {
            let aside = node.root.join("moved");
            fs::rename(parent, &aside)?;
            symlink(&aside, parent)?;
        }
        Act::SwapParents if !is_own => {
            let (other, aside) = (parent.with_file_name("d02"), node.root.join("moved"));
            fs::rename(parent, &aside)?;
            fs::rename(&other, parent)?;
            fs::rename(&aside, &other)?;
        }
        Act::ParentIntoLink | Act::SwapParents => {}
        Act::NewBeside => fs::write(parent.join("new"), "new")?,
        Act::NewDirectoryBeside => fs::create_dir(parent.join("newdir"))?,
        Act::LinkElsewhere => {
            remove(path)?;
            symlink("/nowhere", path)?;
        }
        Act::Accounts => fs::write(node.path("/etc/passwd"), "root:x:0:0::/:\nweb:x:1002:1002::/:\n")?,
        Act::Create => {
            fs::create_dir_all(parent)?;
            fs::write(path, "created")?;
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 20, ..ProptestConfig::default() })]

    /// The whole run is the oracle: what the record calls unchanged, it must find nothing to do about.
    #[test]
    fn the_record_never_hides_what_a_whole_run_finds(
        rounds in proptest::collection::vec(
            proptest::collection::vec((act(), 0..PATHS.len()), 0..3), 1..5)
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new(Link::memory()).await;
            let node = settled_node(&world).await;
            for acts in rounds {
                for (act, path) in &acts {
                    let _may_fail = perform(&node, *act, &node.path(PATHS[*path]));
                }
                for proof in [Proof::Digest, Proof::Fingerprint] {
                    let (fast, by_record) = verify_by_record(&node, proof).await;
                    let whole = verification_oracle(&node, proof).await;
                    prop_assert_eq!(whole.resources, fast.resources, "{:?}", acts);
                    prop_assert_eq!((&whole.messages, whole.status), (&fast.messages, fast.status), "{:?}", acts);
                    if by_record {
                        // How many had a fingerprint may differ.
                        let scan = ScanCounters { fingerprint_proved: whole.scan.fingerprint_proved, ..fast.scan };
                        prop_assert_eq!(whole.scan, scan, "{:?}", acts);
                        prop_assert_eq!((whole.resources.out_of_sync, whole.resources.failed), (0, 0), "{:?}", acts);
                    }
                }
                let whole = oracle(&node).await;
                let (fast, by_record) = run_by_record(&node).await;
                if by_record {
                    prop_assert_eq!(whole.resources, fast.resources, "{:?}", acts);
                    prop_assert_eq!(whole.scan, fast.scan, "{:?}", acts);
                    prop_assert_eq!((whole.resources.out_of_sync, whole.resources.failed), (0, 0), "{:?}", acts);
                    prop_assert_eq!((&whole.messages, fast.status), (&fast.messages, RunStatus::Unchanged));
                }
                let is_harmless = acts.iter().all(|(act, _)| *act == Act::Nothing);
                prop_assert!(by_record || !is_harmless, "{:?}", acts);
                if fast.resources.failed > 0 {
                    // Something that the catalog does not allow to be replaced; the next round needs a node in sync.
                    break;
                }
                settle_quietly(&node).await;
            }
            Ok(())
        })?;
    }
}

/// Runs until there is a record, or until it is plain that there will be none.
async fn settle_quietly(node: &Node) {
    for _ in 0..20 {
        if record_of(node).exists() || node.try_run().await.unwrap().resources.failed > 0 {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_check_depends_on_keeps_the_record() {
    let world = World::new(Link::memory()).await;
    let node = settled_node(&world).await;
    // A file beside others in directories whose entries nobody looks at, and content that is not replaced.
    fs::write(node.path("/etc/other"), "new").unwrap();
    fs::write(node.path("/plain/d01/other"), "new").unwrap();
    fs::write(node.path("/present"), "anything").unwrap();
    let (outcome, by_record) = run_by_record(&node).await;
    assert!(by_record && outcome.status == RunStatus::Unchanged);
    assert_eq!(outcome.scan, oracle(&node).await.scan);
    // And what one does depend on does not.
    fs::write(node.path("/purged/d01/other"), "new").unwrap();
    let (outcome, by_record) = run_by_record(&node).await;
    assert!(!by_record && outcome.status == RunStatus::Changed && !node.path("/purged/d01/other").exists());
}
