//! Each single write of a server finds no space, in turn: what is live is the old or the new, as it was told, and a server that starts
//! again needs nothing done by hand.
//!
//! A library that is preloaded into the server (`full.c`, compiled when needed) has the nth write to a file of its data fail. It sees what
//! goes through the C library: every write of contents, manifests, history and state does.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use direct_puppet_tests::binaries::binaries;
use direct_puppet_tests::serving::{Serving, live};
use direct_puppet_tests::site::files;
use serde_json::Value;

use super::{World, said};

/// More writes than any of these acts has.
const MAX_WRITES: usize = 400;

/// Writes that find no space, preloaded into a server.
struct Full {
    library: PathBuf,
    dir: PathBuf,
}

impl Full {
    /// Compiles it; says so and returns nothing where there is no compiler.
    fn new(dir: &Path) -> Option<Self> {
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
        let full = Self { library, dir: dir.to_owned() };
        full.fail(0, 0);
        Some(full)
    }

    /// Has `count` writes fail from the nth on; counting begins anew.
    fn fail(&self, nth: usize, count: usize) {
        fs::write(self.dir.join("log"), "").unwrap();
        fs::write(self.dir.join("call.new"), format!("{nth} {count}")).unwrap();
        fs::rename(self.dir.join("call.new"), self.dir.join("call")).unwrap();
    }

    /// Returns how many writes failed since, and how many did not.
    fn counts(&self) -> (usize, usize) {
        let log = fs::read_to_string(self.dir.join("log")).unwrap();
        (log.matches("full\n").count(), log.matches('.').count())
    }

    fn server(&self, world: &World) -> Serving {
        let dir = world.dir.path().join("a");
        fs::create_dir_all(dir.join("data")).unwrap();
        let mut command = Command::new(&binaries().server);
        command.env("LD_PRELOAD", &self.library).env("FULL_BELOW", dir.join("data").canonicalize().unwrap());
        command.env("FULL_CALL", self.dir.join("call")).env("FULL_LOG", self.dir.join("log"));
        let options: [OsString; 4] = ["--certname".into(), "a".into(), "--staging".into(), world.staging().into()];
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

/// Fails each write of an act in turn, and after each the rest as well; returns how many failed.
fn sweep(count: usize, act: impl Fn(&Serving, &World, usize) -> bool) -> usize {
    let world = World::new();
    let Some(full) = Full::new(world.dir.path()) else { return 0 };
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
            assert!(said(&published).contains("space") || said(&published).contains("disk"), "write {nth}: {}", said(&published));
        }
    }
    published.status.success()
}

#[test]
fn a_publish_of_which_any_one_write_finds_no_space_is_made_or_refused() {
    let fired = sweep(1, |server, _, nth| publish(server, nth));
    println!("{fired} writes of publishes failed, one in each");
    assert!(fired == 0 || fired >= 6, "{fired}");
}

#[test]
fn a_publish_that_finds_no_space_from_any_write_on_is_made_or_refused() {
    let fired = sweep(MAX_WRITES, |server, _, nth| publish(server, nth));
    println!("{fired} writes of publishes failed, all from one on in each");
    assert!(fired == 0 || fired >= 10, "{fired}");
}

#[test]
fn a_run_for_which_any_write_of_the_server_finds_no_space_is_answered_or_refused() {
    let fired = sweep(1, |server, world, nth| {
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
