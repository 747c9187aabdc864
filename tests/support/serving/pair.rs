//! Two servers that know each other.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "for tests")]

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Serving;
use crate::binaries::{binaries, json};
use crate::site::Site;

/// Two servers on Unix sockets that know each other, each with staging of its own.
#[derive(Debug)]
pub struct Pair {
    dir: tempfile::TempDir,
    /// Their staging.
    pub sites: [Site; 2],
}

impl Pair {
    /// Makes their directories; neither is started.
    #[must_use]
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::DirBuilder::new().mode(0o700).create(dir.path().join("sockets")).unwrap();
        let sites = [0, 1].map(|server| Site::new(&dir.path().join(format!("site{server}"))));
        Self { dir, sites }
    }

    fn url(&self, server: usize) -> String {
        format!("unix:{}", self.dir.path().join(format!("sockets/{server}.sock")).display())
    }

    /// Returns the data directory of a server.
    #[must_use]
    pub fn data(&self, server: usize) -> PathBuf {
        self.dir.path().join(format!("server{server}/data"))
    }

    /// Starts a server; the first is a primary that knows its successor, the second follows.
    #[must_use]
    pub fn start(&self, server: usize) -> Serving {
        let dir = self.dir.path().join(format!("server{server}"));
        fs::create_dir_all(&dir).unwrap();
        let role = if server == 0 { "--successor" } else { "--primary" };
        let options: Vec<OsString> = vec![
            "--staging".into(),
            self.sites[server].dir().into(),
            "--certname".into(),
            format!("server{server}").into(),
            role.into(),
            self.url(1 - server).into(),
        ];
        Serving::following(&dir, &[&self.url(server)], &options)
    }

    /// Publishes `files` files of a version at a server; returns the code.
    #[must_use]
    pub fn publish(&self, serving: &Serving, server: usize, files: usize, version: &str) -> Value {
        self.sites[server].fill(files, version);
        let output = serving.verb(&["publish"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        json(&output)["environments"][0]["code_id"].clone()
    }

    /// Returns a verb for the data of a server, running or not.
    #[must_use]
    pub fn verb(&self, server: usize, arguments: &[&str]) -> Command {
        let mut command = Command::new(&binaries().server);
        command.args(arguments).arg("--data").arg(self.data(server)).arg("--json");
        command
    }

    /// Returns the code that is live at a server, running or not, as its file says: a running one is not asked.
    #[must_use]
    pub fn live(&self, server: usize) -> Value {
        let path = self.data(server).join("code/production/live.json");
        match fs::read(path) {
            Ok(live) => serde_json::from_slice::<Value>(&live).unwrap()["code_id"].clone(),
            Err(_) => Value::Null,
        }
    }
}

impl Default for Pair {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns the code that a server answers from, or nothing.
#[must_use]
pub fn live(serving: &Serving) -> Value {
    let explained = serving.verb(&["explain"]);
    if explained.status.success() { json(&explained)["version"]["code_id"].clone() } else { Value::Null }
}

/// Waits until something is so.
pub fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what} never happened");
        std::thread::sleep(Duration::from_millis(20));
    }
}
