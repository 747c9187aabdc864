//! Power cuts of servers: what was acknowledged is there afterwards, and nothing is half there.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use direct_puppet_tests::binaries::{binaries, json, run};
use direct_puppet_tests::serving::{Serving, live};
use direct_puppet_tests::site::{Site, files};
use serde_json::Value;

use super::{FILES, SYNCS, Sync, Xfs, missing_tool};

/// A server whose data are on a file system of their own.
struct World {
    dir: tempfile::TempDir,
    xfs: Xfs,
    site: Site,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::DirBuilder::new().mode(0o700).create(dir.path().join("sockets")).unwrap();
        let mount = dir.path().join("cut/data");
        let xfs = Xfs::make_at(dir.path(), &mount).expect("an XFS can be made and mounted");
        fs::set_permissions(&mount, fs::Permissions::from_mode(0o700)).unwrap();
        let site = Site::new(&dir.path().join("site"));
        site.fill(FILES, "v0");
        rustix::fs::sync();
        Self { dir, xfs, site }
    }

    fn url(&self, name: &str) -> String {
        format!("unix:{}", self.dir.path().join(format!("sockets/{name}.sock")).display())
    }

    /// Starts a server; that of the name `cut` is the one whose power is cut.
    fn start(&self, name: &str, sync: Sync, options: &[&str]) -> Serving {
        let mut command = match sync {
            Sync::Real => Command::new(&binaries().server),
            Sync::Removed => {
                let mut command = Command::new("strace");
                command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={SYNCS}"), "-e"]);
                command.arg(format!("inject={SYNCS}:retval=0")).arg(&binaries().server);
                command
            }
        };
        command.process_group(0);
        let mut all: Vec<OsString> = vec!["--certname".into(), name.into()];
        all.extend(options.iter().map(OsString::from));
        let dir = self.dir.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        Serving::run(command, &dir, &[&self.url(name)], &all)
    }

    fn staging(&self) -> String {
        self.site.dir().to_string_lossy().into_owned()
    }

    /// Cuts the power of a server.
    fn cut(&self, server: Serving) {
        self.xfs.lose_power();
        let group = rustix::process::Pid::from_raw(i32::try_from(server.pid()).unwrap()).unwrap();
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
        server.kill();
        self.xfs.come_back();
    }

    fn agent(&self, root: &str, server: &str) -> Output {
        let root = self.dir.path().join(root);
        fs::create_dir_all(&root).unwrap();
        let mut command = binaries().agent(&root, &["run"]);
        command.args(["--server", &self.url(server)]);
        run(command)
    }

    fn has_arrived(&self, root: &str) -> bool {
        files(&self.dir.path().join(root).join("srv/tree")) == files(&self.site.tree())
    }
}

fn publish(serving: &Serving) -> Value {
    let published = serving.verb(&["publish"]);
    assert!(published.status.success(), "{}", String::from_utf8_lossy(&published.stderr));
    json(&published)["environments"][0]["code_id"].clone()
}

fn count_of_versions(serving: &Serving) -> usize {
    let versions = json(&serving.verb(&["versions"]));
    versions.as_array().or_else(|| versions["versions"].as_array()).map_or(0, Vec::len)
}

/// Whether no version and no content has a problem. What is known of a node is a cache: it may be lost, which `verify` tells, and is there
/// again when the node has checked in.
fn is_verified(serving: &Serving) -> bool {
    json(&serving.verb(&["verify"]))["problems"].as_array().is_some_and(Vec::is_empty)
}

fn reports(data: &Path) -> usize {
    let nodes = fs::read_dir(data.join("nodes")).into_iter().flatten().map(|node| node.unwrap().path().join("reports"));
    nodes.map(|dir| fs::read_dir(dir).into_iter().flatten().count()).sum()
}

/// What was acknowledged before a power cut, and is not there after it.
fn lost_after_acknowledged(sync: Sync) -> Vec<String> {
    let world = World::new();
    let options = ["--staging", &world.staging()];
    let server = world.start("cut", Sync::Real, &options);
    publish(&server);
    drop(server);
    rustix::fs::sync();
    let server = world.start("cut", sync, &options);
    world.site.fill(FILES, "v1");
    let first = publish(&server);
    assert_eq!(world.agent("root", "cut").status.code(), Some(2));
    world.site.fill(FILES / 2, "v2");
    let second = publish(&server);
    // Back to the first, so that the last thing is a rollback.
    let back = server.verb(&["rollback", first.as_str().unwrap()]);
    assert!(back.status.success(), "{}", String::from_utf8_lossy(&back.stderr));
    let report_count = reports(&world.dir.path().join("cut/data"));
    assert_eq!(report_count, 1);
    world.cut(server);
    let mut lost = Vec::new();
    let mut note = |is_there: bool, what: &str| lost.extend((!is_there).then(|| what.to_owned()));
    note(reports(&world.dir.path().join("cut/data")) == report_count, "a report");
    let started = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.start("cut", Sync::Real, &options)));
    let Ok(server) = started else { return vec!["the whole server".to_owned()] };
    note(live(&server) == first, "what is live");
    note(count_of_versions(&server) == 4, "a version");
    note(is_verified(&server), "contents");
    note(server.verb(&["diff", first.as_str().unwrap(), second.as_str().unwrap()]).status.success(), "the version before");
    lost
}

#[test]
fn what_a_server_acknowledged_survives_a_power_cut() {
    if let Some(tool) = missing_tool() {
        println!("LEFT OUT: the power cuts of servers need {tool}; run as root with xfsprogs and strace installed");
        return;
    }
    assert_eq!(lost_after_acknowledged(Sync::Real), [""; 0]);
    let lost = lost_after_acknowledged(Sync::Removed);
    println!("control without fsync: lost {}", lost.join(", "));
    assert!(!lost.is_empty(), "the harness finds no loss even without fsync: it proves nothing");
}

#[test]
fn a_power_cut_in_a_publish_leaves_the_old_or_the_new_version() {
    if let Some(tool) = missing_tool() {
        println!("LEFT OUT: the power cuts of servers need {tool}; run as root with xfsprogs and strace installed");
        return;
    }
    let world = World::new();
    let options = ["--staging", &world.staging()];
    let mut server = world.start("cut", Sync::Real, &options);
    publish(&server);
    let (mut olds, mut news) = (0, 0);
    for round in 0..12u64 {
        let before = live(&server);
        world.site.fill(FILES, &format!("v{}", round + 1));
        let data = world.dir.path().join("cut/data");
        let mut publishing = Command::new(&binaries().server);
        publishing.args(["publish", "--json", "--data"]).arg(data).stdout(std::process::Stdio::piped());
        let mut publishing = publishing.stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(round * 4));
        world.cut(server);
        let answered = publishing.wait().unwrap().success();
        server = world.start("cut", Sync::Real, &options);
        let now = live(&server);
        assert!(is_verified(&server), "round {round}: {}", String::from_utf8_lossy(&server.verb(&["verify"]).stdout));
        assert!(!answered || now != before, "round {round}: it was acknowledged and is not live");
        *(if now == before { &mut olds } else { &mut news }) += 1;
        let again = publish(&server);
        assert!(now == before || now == again, "round {round}: what is live is neither the old nor the new version");
        assert!(matches!(world.agent("root", "cut").status.code(), Some(0 | 2)) && world.has_arrived("root"), "round {round}");
        assert_eq!(server.verb(&["verify"]).status.code(), Some(0), "round {round}");
    }
    println!("12 power cuts in publishes: {olds} left the old version, {news} the new one");
}

#[test]
fn a_replica_whose_power_is_cut_has_whole_versions_and_follows_again() {
    if let Some(tool) = missing_tool() {
        println!("LEFT OUT: the power cuts of servers need {tool}; run as root with xfsprogs and strace installed");
        return;
    }
    let world = World::new();
    let (primary_url, staging) = (world.url("primary"), world.staging());
    let primary = world.start("primary", Sync::Real, &["--staging", &staging]);
    publish(&primary);
    let options = ["--primary", &primary_url, "--unconfirmed-for", "3600"];
    for round in 0..6u64 {
        let mut replica = world.start("cut", Sync::Real, &options);
        assert!(matches!(world.agent("root", "cut").status.code(), Some(0 | 2)));
        let before = live(&primary);
        world.site.fill(FILES, &format!("v{}", round + 1));
        let after = publish(&primary);
        std::thread::sleep(Duration::from_millis(round * 5));
        assert!(!replica.is_killed());
        world.cut(replica);
        let replica = world.start("cut", Sync::Real, &options);
        let now = live(&replica);
        assert!(now == before || now == after, "round {round}: {now}");
        assert!(is_verified(&replica), "round {round}: {}", String::from_utf8_lossy(&replica.verb(&["verify"]).stdout));
        assert!(matches!(world.agent("root", "cut").status.code(), Some(0 | 2)) && world.has_arrived("root"), "round {round}");
        assert_eq!((live(&replica), replica.verb(&["verify"]).status.code()), (after, Some(0)));
    }
}
