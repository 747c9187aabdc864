//! A primary and a replica as real programs: HTTPS between them, certificates on both sides.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Output;

use direct_puppet_tests::authority::Authority;
use direct_puppet_tests::binaries::{binaries, json, run};
use direct_puppet_tests::serving::Serving;
use direct_puppet_tests::site::{Site, files};

struct Servers {
    authority: Authority,
    site: Site,
    dir: tempfile::TempDir,
}

impl Servers {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let site = Site::new(&dir.path().join("site"));
        let mut authority = Authority::new();
        for (name, alternative) in [
            ("primary.example.com", "127.0.0.1"),
            ("replica.example.com", "127.0.0.1"),
            ("stranger.example.com", "127.0.0.1"),
            ("node1.example.com", "node1.example.com"),
        ] {
            authority.install(name, alternative);
        }
        Self { authority, site, dir }
    }

    fn options(&self, name: &str, more: &[&str]) -> Vec<OsString> {
        let mut options: Vec<OsString> =
            vec!["--ssldir".into(), self.authority.ssldir().into(), "--certname".into(), name.into()];
        options.extend(more.iter().map(OsString::from));
        options
    }

    fn primary(&self, url: &str) -> Serving {
        let dir = self.dir.path().join("primary");
        fs::create_dir_all(&dir).unwrap();
        Serving::listening(&dir, &self.site, &[url], &self.options("primary.example.com", &["--replica", "replica.example.com"]))
    }

    fn follower(&self, name: &str, primary: &str) -> Serving {
        let dir = self.dir.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        Serving::following(&dir, &["https://127.0.0.1:0"], &self.options(name, &["--primary", primary]))
    }

    fn agent(&self, root: &Path, url: &str, verb: &[&str]) -> Output {
        fs::create_dir_all(root).unwrap();
        let mut command = binaries().agent(root, verb);
        command.args(["--server", url, "--ssldir"]).arg(self.authority.ssldir());
        run(command)
    }
}

#[test]
fn a_node_of_a_replica_gets_what_was_just_published_and_nothing_unconfirmed() {
    let servers = Servers::new();
    servers.site.fill(20, "one");
    let primary = servers.primary("https://127.0.0.1:0");
    assert_eq!(primary.verb(&["publish"]).status.code(), Some(0));
    let replica = servers.follower("replica.example.com", &primary.urls[0]);
    let root = servers.dir.path().join("root");
    for version in ["one", "two", "three"] {
        servers.site.fill(20, version);
        assert_eq!(primary.verb(&["publish"]).status.code(), Some(0));
        let outcome = servers.agent(&root, &replica.urls[0], &["run"]);
        assert_eq!(outcome.status.code(), Some(2), "{}", String::from_utf8_lossy(&outcome.stderr));
        assert_eq!(files(&root.join("srv/tree")), files(&servers.site.tree()), "{version}");
    }
    let (here, there) = (json(&replica.verb(&["versions"])), json(&primary.verb(&["versions"])));
    assert_eq!(here.as_array().unwrap().last().unwrap()["code_id"], there.as_array().unwrap().last().unwrap()["code_id"]);
    assert_eq!(replica.verb(&["verify"]).status.code(), Some(0));
    assert_eq!(replica.verb(&["publish"]).status.code(), Some(1), "a replica publishes nothing");

    // The primary goes: nothing is answered that may have been replaced. A node goes on with what it has, and says so.
    let url = primary.urls[0].clone();
    drop(primary);
    let cached = json(&servers.agent(&root, &replica.urls[0], &["run"]));
    assert_eq!((&cached["answer"], &cached["status"]), (&"cached".into(), &"unchanged".into()));
    assert!(cached["messages"].to_string().contains("could not be confirmed"), "{}", cached["messages"]);
    // It comes back, at the same place, and all goes on.
    let primary = servers.primary(&url);
    let current = json(&servers.agent(&root, &replica.urls[0], &["run"]));
    assert_eq!((&current["answer"], &current["status"]), (&"current".into(), &"unchanged".into()));

    // Who was not named does not follow, whatever certificate he has: the primary says so, and nobody is answered from there.
    let stranger = servers.follower("stranger.example.com", &primary.urls[0]);
    let bare = servers.dir.path().join("bare");
    let refused = servers.agent(&bare, &stranger.urls[0], &["run"]);
    assert_has_no_code(&stranger, &refused, &["stranger.example.com is no replica of this server"]);
}

/// Asserts that a server answered nobody, for one of these reasons, and has brought nothing.
fn assert_has_no_code(server: &Serving, refused: &Output, reasons: &[&str]) {
    let said = format!("{}{}", String::from_utf8_lossy(&refused.stdout), String::from_utf8_lossy(&refused.stderr));
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("could not be confirmed") && reasons.iter().any(|reason| said.contains(reason)), "{said}");
    assert_eq!(json(&server.verb(&["versions"])), serde_json::json!([]));
}

#[test]
fn a_certificate_of_a_foreign_authority_does_not_follow_whatever_name_is_in_it() {
    let servers = Servers::new();
    servers.site.fill(3, "one");
    let primary = servers.primary("https://127.0.0.1:0");
    assert_eq!(primary.verb(&["publish"]).status.code(), Some(0));
    let mut foreign = Authority::new();
    foreign.install("replica.example.com", "127.0.0.1");
    // It trusts the primary: what is wrong is what the primary finds.
    fs::copy(servers.authority.ssldir().join("certs/ca.pem"), foreign.ssldir().join("certs/ca.pem")).unwrap();
    let start = |name: &str, ssldir: &Path| {
        let dir = servers.dir.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        let mut options: Vec<OsString> = vec!["--ssldir".into(), ssldir.into()];
        options.extend(["--certname", "replica.example.com", "--primary", &primary.urls[0]].map(OsString::from));
        Serving::following(&dir, &["http://127.0.0.1:0"], &options)
    };
    let run_at = |server: &Serving, root: &str| {
        let root = servers.dir.path().join(root);
        fs::create_dir_all(&root).unwrap();
        let mut command = binaries().agent(&root, &["run"]);
        command.args(["--server", &server.urls[0]]);
        run(command)
    };
    let forged = start("forged", foreign.ssldir());
    // The alert may come after the connection's end has been noticed.
    assert_has_no_code(&forged, &run_at(&forged, "root1"), &["alert", "was cut off by the peer"]);
    // The same with the right certificate is answered.
    let right = start("right", servers.authority.ssldir());
    assert_eq!(run_at(&right, "root2").status.code(), Some(2));
}
