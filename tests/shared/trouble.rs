//! Stores that lose a bit, or answer nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use direct_puppet_tests::binaries::{binaries, json};
use direct_puppet_tests::disk::Disk;
use direct_puppet_tests::equals::Equals;
use direct_puppet_tests::postgres::Postgres;
use direct_puppet_tests::s3::S3;
use direct_puppet_tests::serving::{Serving, live};
use direct_puppet_tests::site::files;

use super::{FILES, message};

/// What one server has put is damaged in the store: it says so, and puts it again when another asks for it.
fn heals(equals: &Equals, first: &Serving) {
    heals_with(equals, first, |server| equals.start(server, &[]));
}

fn heals_with(equals: &Equals, first: &Serving, start: impl Fn(usize) -> Serving) {
    // Whoever reads it again finds all of it: 60 files, the large one and the site, or the manifest that names them.
    let found = first.verb(&["verify"]);
    assert_eq!(found.status.code(), Some(1));
    assert!(!json(&found)["in_store"]["problems"].as_array().unwrap().is_empty(), "{}", json(&found));
    let second = start(1);
    let root = equals.node("node");
    let begun = Instant::now();
    while live(&second) != live(first) {
        assert!(begun.elapsed() < Duration::from_secs(60), "it is never healed");
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("healed within {:?}", begun.elapsed());
    let begun = Instant::now();
    loop {
        let found = second.verb(&["verify"]);
        if found.status.success() {
            assert_eq!(json(&found)["in_store"]["contents"], FILES + 2);
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", json(&found));
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(equals.agent(&root, 1).status.code(), Some(2));
    assert_eq!(files(&root.join("srv/tree")), files(&equals.sites[0].tree()));
    assert_eq!(second.verb(&["verify"]).status.code(), Some(0));
}

#[test]
fn what_is_damaged_or_missing_in_postgresql_is_put_again_by_a_server_that_has_it() {
    let Some(postgres) = Postgres::start(&[]) else { return };
    let equals = Equals::new(Some(&postgres.url()));
    let first = equals.start(0, &[]);
    fs::write(equals.sites[0].tree().join("large"), "large ".repeat(500_000)).unwrap();
    equals.publish(&first, 0, FILES, "v0");
    // Contents, the manifest, one of several rows: a bit of each; some are gone, and of some the bytes only.
    let (_, is_done) = postgres.sql(
        "UPDATE direct_puppet.chunk SET data = set_byte(data, 0, 255 - get_byte(data, 0)) WHERE length(data) > 0;
         DELETE FROM direct_puppet.blob WHERE digest IN (SELECT digest FROM direct_puppet.blob ORDER BY digest DESC LIMIT 3);
         DELETE FROM direct_puppet.chunk WHERE number > 0 OR digest IN (SELECT digest FROM direct_puppet.blob ORDER BY digest LIMIT 3);",
    );
    assert!(is_done);
    heals(&equals, &first);
    let begun = Instant::now();
    while postgres.sql("SELECT count(*) FROM direct_puppet.pointer WHERE name LIKE 'live/wanted/%'").0 != "0" {
        assert!(begun.elapsed() < Duration::from_secs(20), "something is wanted for ever");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn what_is_damaged_or_missing_in_a_store_of_files_is_put_again_by_a_server_that_has_it() {
    let equals = Equals::new(None);
    let first = equals.start(0, &[]);
    fs::write(equals.sites[0].tree().join("large"), "large ".repeat(500_000)).unwrap();
    equals.publish(&first, 0, FILES, "v0");
    damage(&equals.dir.path().join("store/store/blobs"));
    heals(&equals, &first);
}

#[test]
fn what_is_damaged_or_missing_in_an_object_store_is_put_again_by_a_server_that_has_it() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("contents")).unwrap();
    let Some(s3) = S3::start(dir.path()) else { return };
    let equals = Equals::new(None);
    let start = |server| equals.start_with_objects(&s3, server, "s3://contents");
    let first = start(0);
    fs::write(equals.sites[0].tree().join("large"), "large ".repeat(500_000)).unwrap();
    equals.publish(&first, 0, FILES, "v0");
    damage(&dir.path().join("contents/blobs"));
    heals_with(&equals, &first, start);
}

/// Damages a bit of each content, files, the large one and the manifest; some it removes.
fn damage(store: &Path) {
    let contents = files(store);
    assert!(contents.len() > FILES, "{} contents", contents.len());
    for (number, path) in contents.keys().enumerate() {
        let path = store.join(path);
        if number % 20 == 7 {
            fs::remove_file(&path).unwrap();
            continue;
        }
        let mut bytes = fs::read(&path).unwrap();
        if let Some(byte) = bytes.first_mut() {
            *byte ^= 1;
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, bytes).unwrap();
    }
}

/// A database that takes connections and says nothing, as one whose machine hangs: nobody waits for it for ever, and what was not acknowledged
/// is published once all the same when it goes on.
#[test]
fn while_postgresql_hangs_nobody_waits_for_ever_and_nothing_unconfirmed_is_answered() {
    let Some(postgres) = Postgres::start(&[]) else { return };
    let equals = Equals::new(Some(&postgres.url()));
    let (strict, bounded) = (equals.start(0, &[]), equals.start(1, &["--unconfirmed-for", "600"]));
    let root = equals.node("node");
    equals.publish(&strict, 0, FILES, "v0");
    for server in [0, 1] {
        assert!(matches!(equals.agent(&root, server).status.code(), Some(0 | 2)));
    }
    let before = live(&strict);
    equals.sites[0].fill(FILES, "v1");
    postgres.freeze();
    let begun = Instant::now();
    let mut publish = Command::new(&binaries().server);
    publish.args(["publish", "--json", "--request-id", "one", "--data"]).arg(equals.data(0));
    let publish = publish.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let refused = json(&equals.agent(&root, 0));
    assert_eq!((&refused["answer"], &refused["status"]), (&"cached".into(), &"unchanged".into()));
    let allowed = json(&equals.agent(&root, 1));
    assert_eq!((&allowed["answer"], &allowed["status"]), (&"current".into(), &"unchanged".into()));
    let refused = publish.wait_with_output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let said = format!("{}{}", message(&refused), String::from_utf8_lossy(&refused.stdout));
    assert!(said.contains("postgres://"), "{said}");
    println!("a node and a publisher were told after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(240), "{:?}", begun.elapsed());
    postgres.thaw();
    let begun = Instant::now();
    let again = loop {
        let again = strict.verb(&["publish", "--request-id", "one"]);
        if again.status.success() {
            break json(&again)["environments"][0]["code_id"].clone();
        }
        assert!(begun.elapsed() < Duration::from_secs(90), "{}", message(&again));
        std::thread::sleep(Duration::from_millis(200));
    };
    assert_ne!(again, before);
    let history = json(&strict.verb(&["versions"]));
    assert_eq!(history.as_array().unwrap().iter().filter(|line| line["request_id"] == "one").count(), 1, "{history}");
    let begun = Instant::now();
    while live(&bounded) != again {
        assert!(begun.elapsed() < Duration::from_secs(90), "the other never has it");
        std::thread::sleep(Duration::from_millis(50));
    }
    for server in [0, 1] {
        assert!(matches!(equals.agent(&root, server).status.code(), Some(0 | 2)));
    }
    assert_eq!(files(&root.join("srv/tree")), files(&equals.sites[0].tree()));
}

/// A database whose disk is full: a publish that does not fit is refused, what is live stays so and is answered, and when there is room
/// all goes on.
#[test]
fn a_database_whose_disk_is_full_keeps_what_is_live() {
    let Some(postgres) = Postgres::start(&[]) else { return };
    let Some(disk) = Disk::mount_with(&postgres.dir().join("small"), "size=24m,mode=0700") else { return };
    postgres.lie_in(&postgres.dir().join("small"));
    let equals = Equals::new(Some(&postgres.url()));
    let servers = [0, 1].map(|server| equals.start(server, &[]));
    let root = equals.node("node");
    equals.publish(&servers[0], 0, FILES, "v0");
    assert_eq!(equals.agent(&root, 1).status.code(), Some(2));
    let before = live(&servers[0]);
    // Nothing that a database could make smaller.
    let mut state = 1_u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_le_bytes()[5]
    };
    let large: Vec<u8> = std::iter::repeat_with(&mut noise).take(32 << 20).collect();
    fs::write(equals.sites[0].tree().join("large"), large).unwrap();
    for _ in 0..2 {
        let refused = servers[0].verb(&["publish", "--request-id", "large"]);
        let said = format!("{}{}", message(&refused), String::from_utf8_lossy(&refused.stdout));
        assert!(refused.status.code() == Some(1) && said.contains("space"), "{said}");
        for server in [0, 1] {
            assert_eq!(live(&servers[server]), before);
            let outcome = json(&equals.agent(&root, server));
            assert_eq!((&outcome["answer"], &outcome["status"]), (&"current".into(), &"unchanged".into()), "{outcome}");
        }
    }
    disk.resize("200m");
    let published = servers[0].verb(&["publish", "--request-id", "large"]);
    assert!(published.status.success(), "{}", message(&published));
    assert_eq!(equals.agent(&root, 1).status.code(), Some(2));
    for server in &servers {
        assert_eq!(server.verb(&["verify"]).status.code(), Some(0));
    }
}
