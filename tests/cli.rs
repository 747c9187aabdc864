//! The real programs together, over a Unix socket and over HTTP, as an administrator would use them.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use direct_puppet_tests::binaries::{binaries, json, run};
use direct_puppet_tests::site::{Site, files};

/// A server on a Unix socket and on a free port; stopped with SIGTERM when dropped.
struct Serving {
    child: Child,
    urls: Vec<String>,
    data: PathBuf,
}

impl Serving {
    fn start(dir: &Path, site: &Site) -> Self {
        let sockets = dir.join("sockets");
        fs::DirBuilder::new().mode(0o700).create(&sockets).unwrap();
        let data = dir.join("data");
        let mut command = Command::new(&binaries().server);
        command.arg("serve").arg("--data").arg(&data).arg("--staging").arg(site.dir());
        command
            .args(["--listen", "http://127.0.0.1:0"])
            .arg("--listen")
            .arg(format!("unix:{}", sockets.join("agent.sock").display()));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let urls = lines.take(2).map(|line| line.unwrap().strip_prefix("listening on ").unwrap().to_owned()).collect();
        Self { child, urls, data }
    }

    fn verb(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(&binaries().server);
        command.args(arguments).arg("--data").arg(&self.data).arg("--json");
        run(command)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        }
        assert!(self.child.wait().unwrap().success(), "the server did not stop as it should");
    }
}

#[test]
fn publish_run_plan_drift_and_undo_over_real_sockets() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::new(&dir.path().join("site"));
    site.fill(20, "one");
    let serving = Serving::start(dir.path(), &site);
    let published = serving.verb(&["publish"]);
    assert_eq!((published.status.code(), &json(&published)["environments"][0]["sequence"]), (Some(0), &1.into()));
    for (number, url) in serving.urls.iter().enumerate() {
        let root = dir.path().join(format!("root{number}"));
        fs::create_dir(&root).unwrap();
        let node = format!("node{number}");
        let agent = |verb: &str| {
            let mut command = Command::new(&binaries().agent);
            command.args([verb, "--server", url, "--node", &node, "--json"]).arg("--root").arg(&root);
            run(command)
        };
        let plan = agent("plan");
        assert_eq!(
            (plan.status.code(), root.join("srv").exists()),
            (Some(2), false),
            "{}",
            String::from_utf8_lossy(&plan.stderr)
        );
        let first = agent("run");
        assert_eq!((first.status.code(), &json(&first)["answer"]), (Some(2), &"catalog".into()));
        assert_eq!(files(&root.join("srv/tree")), files(&site.tree()));
        let second = json(&agent("run"));
        assert_eq!(
            (&second["status"], &second["answer"], &second["scan"]["opened"]),
            (&"unchanged".into(), &"current".into(), &0.into())
        );
        assert_eq!(agent("verify").status.code(), Some(0));
        fs::write(root.join("srv/tree/d01/file00001"), "drift").unwrap();
        assert_eq!(agent("verify").status.code(), Some(2));
        let repaired = json(&agent("run"));
        assert_eq!((&repaired["resources"]["changed"], &repaired["wire"]["contents_requested"]), (&1.into(), &1.into()));
        assert_eq!(agent("undo").status.code(), Some(2));
        assert_eq!(fs::read_to_string(root.join("srv/tree/d01/file00001")).unwrap(), "drift");
        assert_eq!(json(&agent("status"))["last_run"]["status"], "changed");
    }
    let nodes = json(&serving.verb(&["nodes"]));
    let nodes = nodes.as_array().unwrap();
    assert_eq!(nodes.len(), 2);
    for node in nodes {
        assert_eq!((&node["compiles"], &node["status"]), (&1.into(), &"changed".into()), "{node}");
        assert!(node["catalog_id"].is_string() && node["code_id"].is_string() && node["last_seen"].is_u64(), "{node}");
    }
    assert_eq!(serving.verb(&["recompile", "node1"]).status.code(), Some(0));
    assert_eq!(serving.verb(&["recompile", "nobody"]).status.code(), Some(1));
    assert_eq!(json(&serving.verb(&["versions"])).as_array().unwrap().len(), 1);
}
