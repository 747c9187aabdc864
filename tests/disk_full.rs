//! Servers whose disk is full: what was live stays so and is served, and when there is room again all goes on by itself.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use direct_puppet_tests::binaries::{binaries, json, run};
use direct_puppet_tests::disk::Disk;
use direct_puppet_tests::serving::{Serving, live};
use direct_puppet_tests::site::{Site, files};

#[path = "disk_full/sent.rs"]
mod sent;
#[path = "disk_full/writes.rs"]
mod writes;

const FILES: usize = 30;

struct World {
    dir: tempfile::TempDir,
    site: Site,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::DirBuilder::new().mode(0o700).create(dir.path().join("sockets")).unwrap();
        let site = Site::new(&dir.path().join("site"));
        site.fill(FILES, "v0");
        Self { dir, site }
    }

    fn url(&self, name: &str) -> String {
        format!("unix:{}", self.dir.path().join(format!("sockets/{name}.sock")).display())
    }

    fn start(&self, name: &str, options: &[&str]) -> Serving {
        let mut all: Vec<OsString> = vec!["--certname".into(), name.into()];
        all.extend(options.iter().map(OsString::from));
        let dir = self.dir.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        Serving::following(&dir, &[&self.url(name)], &all)
    }

    fn staging(&self) -> String {
        self.site.dir().to_string_lossy().into_owned()
    }

    fn agent(&self, root: &str, server: &str) -> Output {
        let root = self.dir.path().join(root);
        fs::create_dir_all(&root).unwrap();
        let mut command = binaries().agent(&root, &["run"]);
        command.args(["--server", &self.url(server)]);
        run(command)
    }

    /// Stages more than the small disk takes: one large file, and many.
    fn stage_too_much(&self) {
        fs::write(self.site.tree().join("big"), vec![7; 5 << 20]).unwrap();
        for number in 0..40 {
            fs::write(self.site.tree().join(format!("more{number}")), vec![number; 100_000]).unwrap();
        }
    }

    fn stage_less(&self) {
        fs::remove_file(self.site.tree().join("big")).unwrap();
        (0..40).for_each(|number| fs::remove_file(self.site.tree().join(format!("more{number}"))).unwrap());
    }

    fn has_arrived(&self, root: &str) -> bool {
        files(&self.dir.path().join(root).join("srv/tree")) == files(&self.site.tree())
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_publish_that_does_not_fit_leaves_what_is_live() {
    let world = World::new();
    let Some(_disk) = Disk::mount(&world.dir.path().join("a/data")) else { return };
    let server = world.start("a", &["--staging", &world.staging()]);
    assert!(server.verb(&["publish"]).status.success());
    assert_eq!(world.agent("root", "a").status.code(), Some(2));
    let before = live(&server);
    world.stage_too_much();
    for _ in 0..2 {
        let refused = server.verb(&["publish"]);
        assert!(refused.status.code() == Some(1) && said(&refused).contains("space"), "{}", said(&refused));
        assert_eq!(live(&server), before);
        let outcome = json(&world.agent("root", "a"));
        assert_eq!((&outcome["answer"], &outcome["status"]), (&"current".into(), &"unchanged".into()));
    }
    world.stage_less();
    world.site.fill(FILES, "v1");
    let published = server.verb(&["publish"]);
    assert!(published.status.success(), "{}", said(&published));
    assert_eq!(world.agent("root", "a").status.code(), Some(2));
    assert!(world.has_arrived("root"));
    assert_eq!(server.verb(&["verify"]).status.code(), Some(0));
}

/// A server that copies from another, or from a store, and has no room: it refuses what it cannot confirm, and goes on when it fits.
fn a_copy_that_does_not_fit(primary: &[&str], replica: &[&str], world: &World) {
    let Some(_disk) = Disk::mount(&world.dir.path().join("b/data")) else { return };
    let (first, second) = (world.start("a", primary), world.start("b", replica));
    assert!(first.verb(&["publish"]).status.success());
    assert_eq!(world.agent("root", "b").status.code(), Some(2));
    let before = live(&second);
    world.stage_too_much();
    assert!(first.verb(&["publish"]).status.success());
    let outcome = json(&world.agent("root", "b"));
    assert_eq!((&outcome["answer"], &outcome["status"]), (&"cached".into(), &"unchanged".into()));
    assert!(outcome["messages"].to_string().contains("space"), "{}", outcome["messages"]);
    assert_eq!(live(&second), before);
    // The other one has room.
    assert_eq!(world.agent("root", "a").status.code(), Some(2));
    world.stage_less();
    world.site.fill(FILES, "v1");
    assert!(first.verb(&["publish"]).status.success());
    let begun = Instant::now();
    while live(&second) != live(&first) {
        assert!(begun.elapsed() < Duration::from_secs(90), "it never goes on");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(world.agent("root", "b").status.code(), Some(2));
    assert!(world.has_arrived("root"));
    assert_eq!(second.verb(&["verify"]).status.code(), Some(0));
}

#[test]
fn a_replica_whose_disk_is_full_answers_nothing_old() {
    let world = World::new();
    let (a, b, staging) = (world.url("a"), world.url("b"), world.staging());
    a_copy_that_does_not_fit(&["--staging", &staging, "--successor", &b], &["--primary", &a], &world);
}

#[test]
fn an_equal_server_whose_disk_is_full_answers_nothing_old() {
    let world = World::new();
    let (store, staging) = (format!("file://{}", world.dir.path().join("store").display()), world.staging());
    a_copy_that_does_not_fit(&["--staging", &staging, "--store", &store], &["--store", &store], &world);
}

/// The store that servers share is on a disk of its own, and that is full: nobody publishes more than it takes, and what is live is answered.
#[test]
fn a_store_whose_disk_is_full_keeps_what_is_live() {
    let world = World::new();
    let Some(_disk) = Disk::mount(&world.dir.path().join("disk")) else { return };
    let (store, staging) = (format!("file://{}", world.dir.path().join("disk/store").display()), world.staging());
    let (a, b) = (world.start("a", &["--staging", &staging, "--store", &store]), world.start("b", &["--store", &store]));
    assert!(a.verb(&["publish"]).status.success());
    assert_eq!(world.agent("root", "b").status.code(), Some(2));
    let before = live(&a);
    world.stage_too_much();
    for _ in 0..2 {
        let refused = a.verb(&["publish"]);
        assert!(refused.status.code() == Some(1) && said(&refused).contains("space"), "{}", said(&refused));
        assert_eq!((live(&a), live(&b)), (before.clone(), before.clone()));
        // Where the disk takes no report either, that is all that fails.
        let outcome = json(&world.agent("root", "b"));
        assert_eq!((&outcome["answer"], &outcome["status"]), (&"current".into(), &"unchanged".into()));
    }
    world.stage_less();
    world.site.fill(FILES, "v1");
    // What was put of the refused ones stays a day, and is in the way.
    let room = fs::read_dir(world.dir.path().join("disk/store/store/blobs")).unwrap().flatten();
    room.filter(|entry| fs::read_dir(entry.path()).unwrap().flatten().all(|file| file.metadata().unwrap().len() >= 100_000))
        .for_each(|entry| fs::remove_dir_all(entry.path()).unwrap());
    let published = a.verb(&["publish"]);
    assert!(published.status.success(), "{}", said(&published));
    assert_eq!(world.agent("root", "b").status.code(), Some(2));
    assert!(world.has_arrived("root"));
    for server in [&a, &b] {
        assert_eq!(server.verb(&["verify"]).status.code(), Some(0));
    }
}

/// The files that Puppet code is compiled from are written beside the contents. Where there is no room for them nobody has looked at the
/// code, and it is not published.
#[test]
fn code_that_there_is_no_room_to_compile_is_refused() {
    if !Command::new("ruby").args(["-e", "require 'puppet'"]).output().is_ok_and(|output| output.status.success()) {
        println!("LEFT OUT: ruby has no Puppet library here (Debian package puppet-agent)");
        return;
    }
    let world = World::new();
    let Some(_disk) = Disk::mount_with(&world.dir.path().join("a/data"), "size=24m,mode=0700") else { return };
    let environment = world.site.environment();
    let manifest = |text: &str| {
        fs::create_dir_all(environment.join("manifests")).unwrap();
        fs::write(environment.join("manifests/site.pp"), text).unwrap();
    };
    fs::remove_file(environment.join("site.yaml")).unwrap();
    manifest(
        "file { '/srv': ensure => directory }\nfile { '/srv/tree': ensure => directory, recurse => true, source => 'puppet:///modules/app/tree' }\n",
    );
    fs::write(world.site.tree().join("big"), vec![7; 5 << 20]).unwrap();
    let server = world.start("a", &["--staging", &world.staging()]);
    let published = server.verb(&["publish"]);
    assert!(published.status.success(), "{}", said(&published));
    let run = world.agent("root", "a");
    assert_eq!(run.status.code(), Some(2), "{}", said(&run));
    let before = live(&server);
    fs::write(world.site.tree().join("more"), vec![8; 7 << 20]).unwrap();
    for text in ["notify { 'fine': }\n", "this is no manifest {\n"] {
        manifest(text);
        let refused = server.verb(&["publish"]);
        let result = &json(&refused)["environments"][0];
        assert!(refused.status.code() == Some(1) && result["error"]["code"] == "disk", "{}", said(&refused));
        assert!(said(&refused).contains("space") && live(&server) == before, "{}", said(&refused));
        assert_eq!(json(&world.agent("root", "a"))["status"], "unchanged");
    }
    fs::remove_file(world.site.tree().join("more")).unwrap();
    manifest("this is no manifest {\n");
    let refused = server.verb(&["publish"]);
    let result = &json(&refused)["environments"][0];
    assert!(refused.status.code() == Some(1) && result["error"]["code"] == "compile", "{}", said(&refused));
    manifest("notify { 'fine': }\n");
    let published = server.verb(&["publish"]);
    assert!(published.status.success(), "{}", said(&published));
    assert_eq!(world.agent("root", "a").status.code(), Some(2));
}
