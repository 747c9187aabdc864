//! Each single write of a server finds no space, in turn: what is live is the old or the new, as it was told, and a server that starts
//! again needs nothing done by hand.
//!
//! A library that is preloaded into the server (`full.c`, compiled when needed) has the nth write to a file of its data fail. It sees what
//! goes through the C library: every write of contents, manifests, history and state does.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use direct_puppet_tests::binaries::binaries;
use direct_puppet_tests::serving::{Serving, live};
use direct_puppet_tests::site::files;
use rustix::io::Errno;
use serde_json::Value;

use super::{World, said};

/// More writes than any of these acts has.
const MAX_WRITES: usize = 400;

/// Writes that find no space, preloaded into a server.
struct Full {
    library: PathBuf,
    dir: PathBuf,
    error: Errno,
}

impl Full {
    /// Compiles it; says so and returns nothing where there is no compiler.
    fn new(dir: &Path) -> Option<Self> {
        Self::with(dir, Errno::NOSPC)
    }

    /// As [`Full::new`], for writes that fail with this error.
    fn with(dir: &Path, error: Errno) -> Option<Self> {
        let library = dir.join("full.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/disk_full/full.c");
        let compiled =
            Command::new("cc").args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&library).arg(source).status();
        match compiled {
            Ok(status) => assert!(status.success(), "{source} does not compile"),
            Err(error) => {
                println!("LEFT OUT: writes that find no space need a C compiler, cc: {error}");
                return None;
            }
        }
        let full = Self { library, dir: dir.to_owned(), error };
        full.fail(0, 0);
        Some(full)
    }

    /// Has `count` writes fail from the nth on; counting begins anew.
    fn fail(&self, nth: usize, count: usize) {
        fs::write(self.dir.join("log"), "").unwrap();
        fs::write(self.dir.join("call.new"), format!("{nth} {count} {}", self.error.raw_os_error())).unwrap();
        fs::rename(self.dir.join("call.new"), self.dir.join("call")).unwrap();
    }

    /// Returns how many writes failed since, and how many did not.
    fn counts(&self) -> (usize, usize) {
        let log = fs::read_to_string(self.dir.join("log")).unwrap();
        (log.matches("full\n").count(), log.matches('.').count())
    }

    fn server(&self, world: &World) -> Serving {
        self.server_with(world, &["--staging", &world.staging()])
    }

    /// Starts the server of which writes fail, with these options.
    fn server_with(&self, world: &World, options: &[&str]) -> Serving {
        let dir = world.dir.path().join("a");
        fs::create_dir_all(dir.join("data")).unwrap();
        let mut command = Command::new(&binaries().server);
        command.env("LD_PRELOAD", &self.library).env("FULL_BELOW", dir.join("data").canonicalize().unwrap());
        command.env("FULL_CALL", self.dir.join("call")).env("FULL_LOG", self.dir.join("log"));
        let options: Vec<OsString> = ["--certname", "a"].iter().chain(options).map(OsString::from).collect();
        Serving::run(command, &dir, &[&world.url("a")], &options)
    }
}

/// What a server says of itself must be whole.
fn check(server: &Serving, world: &World, expected: &[&Value]) {
    assert!(expected.contains(&&live(server)), "{} is live, none of {expected:?}", live(server));
    let mut verified = server.verb(&["verify"]);
    if said(&verified).contains("that line was written again") {
        // It went live when the line of its history found no space.
        verified = server.verb(&["verify"]);
    }
    assert_eq!(verified.status.code(), Some(0), "{}", said(&verified));
    let run = world.agent("root", "a");
    assert!(matches!(run.status.code(), Some(0 | 2)), "{}", said(&run));
}

/// Fails each write of an act in turn, with this error, and after each the rest as well; returns how many failed.
fn sweep(count: usize, error: Errno, act: impl Fn(&Serving, &World, usize) -> bool) -> usize {
    let world = World::new();
    let Some(full) = Full::with(world.dir.path(), error) else { return 0 };
    let server = full.server(&world);
    assert!(server.verb(&["publish"]).status.success());
    assert_eq!(world.agent("root", "a").status.code(), Some(2));
    drop(server);
    let mut fired = 0;
    for nth in 1..MAX_WRITES {
        let server = full.server(&world);
        // Packs need many contents, large ones have files of their own.
        world.site.fill(80, &format!("v{nth}"));
        fs::write(world.site.tree().join("large"), vec![u8::try_from(nth % 251).unwrap(); 100_000]).unwrap();
        let before = live(&server);
        full.fail(nth, count);
        let succeeded = act(&server, &world, nth);
        let (failed, _) = full.counts();
        full.fail(0, 0);
        let after = live(&server);
        assert!(failed > 0 || succeeded, "it fails though every write is taken");
        check(&server, &world, &[&before, &after]);
        drop(server);
        let server = full.server(&world);
        assert_eq!(live(&server), after, "write {nth}");
        check(&server, &world, &[&after]);
        // Now there is room.
        let published = server.verb(&["publish"]);
        assert!(published.status.success(), "write {nth}: {}", said(&published));
        assert!(matches!(world.agent("root", "a").status.code(), Some(0 | 2)));
        assert_eq!(files(&world.dir.path().join("root/srv/tree")), files(&world.site.tree()), "write {nth}");
        if failed == 0 {
            return fired;
        }
        fired += failed;
    }
    panic!("more than {MAX_WRITES} writes");
}

/// Publishes, and looks that the answer is true; returns whether it was made live.
fn publish(server: &Serving, nth: usize) -> bool {
    let before = live(server);
    let published = server.verb(&["publish"]);
    let after = live(server);
    match published.status.success() {
        true => assert_ne!(before, after, "write {nth}"),
        false => {
            assert_eq!(before, after, "write {nth}: {}", said(&published));
            let said = said(&published);
            assert!(["space", "disk", "quota"].iter().any(|word| said.contains(word)), "write {nth}: {said}");
        }
    }
    published.status.success()
}

#[test]
fn a_publish_of_which_any_one_write_finds_no_space_is_made_or_refused() {
    let fired = sweep(1, Errno::NOSPC, |server, _, nth| publish(server, nth));
    println!("{fired} writes of publishes failed, one in each");
    assert!(fired == 0 || fired >= 6, "{fired}");
}

/// As when this user's quota is used up.
#[test]
fn a_publish_that_finds_no_space_from_any_write_on_is_made_or_refused() {
    let fired = sweep(MAX_WRITES, Errno::DQUOT, |server, _, nth| publish(server, nth));
    println!("{fired} writes of publishes failed, all from one on in each");
    assert!(fired == 0 || fired >= 10, "{fired}");
}

#[test]
fn a_run_for_which_any_write_of_the_server_finds_no_space_is_answered_or_refused() {
    let fired = sweep(1, Errno::DQUOT, |server, world, nth| {
        let published = server.verb(&["publish"]);
        // What follows: the compile, its catalog, the report.
        let run = world.agent("root", "a");
        let text = said(&run);
        assert!(matches!(run.status.code(), Some(0 | 1 | 2 | 4 | 6)), "write {nth}: {text}");
        assert!(!text.contains("panicked"), "{text}");
        published.status.success() && matches!(run.status.code(), Some(0 | 2))
    });
    println!("{fired} writes of publishes, compiles and reports failed, one in each");
    assert!(fired == 0 || fired >= 8, "{fired}");
}

/// Waits until two servers have the same live; a server that had no room tries again.
fn until_alike(one: &Serving, other: &Serving) {
    let begun = Instant::now();
    while live(one) != live(other) {
        assert!(begun.elapsed() < Duration::from_secs(60), "they never agree");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_replica_for_which_any_one_write_finds_no_space_has_the_old_or_the_new_and_goes_on() {
    let world = World::new();
    let Some(full) = Full::new(world.dir.path()) else { return };
    let primary = world.start("p", &["--staging", &world.staging(), "--successor", &world.url("a")]);
    let following = ["--primary", &world.url("p")];
    let mut replica = full.server_with(&world, &following);
    assert!(primary.verb(&["publish"]).status.success());
    until_alike(&replica, &primary);
    let mut fired = 0;
    for nth in 1..MAX_WRITES {
        world.site.fill(40, &format!("v{nth}"));
        fs::write(world.site.tree().join("large"), vec![u8::try_from(nth % 251).unwrap(); 100_000]).unwrap();
        let before = live(&replica);
        full.fail(nth, 1);
        assert!(primary.verb(&["publish"]).status.success());
        let after = live(&primary);
        // It comes to that write, or has it all without.
        let begun = Instant::now();
        while full.counts().0 == 0 && live(&replica) != after {
            assert!(begun.elapsed() < Duration::from_secs(60), "write {nth}: it does nothing");
            std::thread::sleep(Duration::from_millis(10));
        }
        // What is written after it went live as well.
        std::thread::sleep(Duration::from_millis(100));
        let (failed, _) = full.counts();
        full.fail(0, 0);
        if failed == 0 {
            println!("{fired} writes of a replica failed, one in each");
            assert!(fired >= 6, "{fired}");
            return;
        }
        fired += failed;
        if nth % 3 == 0 {
            // Started again just then.
            drop(replica);
            replica = full.server_with(&world, &following);
        }
        assert!([&before, &after].contains(&&live(&replica)), "write {nth}: neither old nor new");
        until_alike(&replica, &primary);
        check(&replica, &world, &[&after]);
    }
    panic!("more than {MAX_WRITES} writes");
}

#[test]
fn a_forced_promotion_of_which_any_one_write_finds_no_space_is_made_or_can_be_asked_again() {
    let world = World::new();
    let Some(full) = Full::new(world.dir.path()) else { return };
    let (a, p) = (world.url("a"), world.url("p"));
    let primary_options = ["--staging", &world.staging(), "--successor", &a];
    let mut primary = world.start("p", &primary_options);
    let replica = full.server_with(&world, &["--primary", &p, "--staging", &world.staging()]);
    assert!(primary.verb(&["publish"]).status.success());
    until_alike(&replica, &primary);
    let mut fired = 0;
    for nth in 1..MAX_WRITES {
        let code = live(&primary);
        drop(primary);
        full.fail(nth, 1);
        let promoted = replica.verb(&["promote", "--force"]);
        std::thread::sleep(Duration::from_millis(100));
        let (failed, _) = full.counts();
        full.fail(0, 0);
        assert!(failed > 0 || promoted.status.success(), "{}", said(&promoted));
        if !promoted.status.success() {
            let again = replica.verb(&["promote", "--force"]);
            assert!(again.status.success(), "write {nth}: {}", said(&again));
        }
        assert_eq!(live(&replica), code, "write {nth}: an acknowledged publish is lost");
        check(&replica, &world, &[&code]);
        world.site.fill(10, &format!("v{nth}"));
        let published = replica.verb(&["publish"]);
        assert!(published.status.success(), "write {nth}: {}", said(&published));
        // The old one comes back, follows, and takes over again.
        primary = world.start("p", &primary_options);
        until_alike(&replica, &primary);
        let back = primary.verb(&["promote"]);
        assert!(back.status.success(), "write {nth}: {}", said(&back));
        until_alike(&replica, &primary);
        if failed == 0 {
            println!("{fired} writes of forced promotions failed, one in each");
            assert!(fired >= 3, "{fired}");
            return;
        }
        fired += failed;
    }
    panic!("more than {MAX_WRITES} writes");
}
