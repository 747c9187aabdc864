//! Equal servers that share a store.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "for tests")]

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::binaries::{binaries, json, run};
use crate::s3::S3;
use crate::serving::Serving;
use crate::site::Site;

/// Two servers on Unix sockets, with staging of their own and one store.
#[derive(Debug)]
pub struct Equals {
    /// Where everything of them is.
    pub dir: tempfile::TempDir,
    /// The store's URL.
    pub store: String,
    /// What is staged at each.
    pub sites: [Site; 2],
}

impl Equals {
    /// Nothing runs yet; without a store's URL it is of local files.
    #[must_use]
    pub fn new(store: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::DirBuilder::new().mode(0o700).create(dir.path().join("sockets")).unwrap();
        let sites = [0, 1].map(|server| Site::new(&dir.path().join(format!("site{server}"))));
        let files = || format!("file://{}", dir.path().join("store").display());
        Self { store: store.map_or_else(files, str::to_owned), dir, sites }
    }

    /// Returns where a server listens.
    #[must_use]
    pub fn url(&self, server: usize) -> String {
        format!("unix:{}", self.dir.path().join(format!("sockets/{server}.sock")).display())
    }

    /// Returns the data directory of a server.
    #[must_use]
    pub fn data(&self, server: usize) -> PathBuf {
        self.dir.path().join(format!("server{server}/data"))
    }

    /// Starts a server, with more options.
    #[must_use]
    pub fn start(&self, server: usize, more: &[&str]) -> Serving {
        self.start_with(&self.store, server, more)
    }

    /// Starts a server that reaches the store in its own way.
    #[must_use]
    pub fn start_with(&self, store: &str, server: usize, more: &[&str]) -> Serving {
        self.start_by(Command::new(&binaries().server), store, server, more)
    }

    /// Starts a server that keeps contents in an object store, at a URL, and has its keys from its environment.
    #[must_use]
    pub fn start_with_objects(&self, s3: &S3, server: usize, contents: &str) -> Serving {
        let mut command = Command::new(&binaries().server);
        command.envs(s3.environment());
        self.start_by(command, &self.store, server, &["--contents", contents])
    }

    fn start_by(&self, command: Command, store: &str, server: usize, more: &[&str]) -> Serving {
        let dir = self.dir.path().join(format!("server{server}"));
        fs::create_dir_all(&dir).unwrap();
        let mut options: Vec<OsString> = vec!["--staging".into(), self.sites[server].dir().into()];
        options.extend(["--store", store, "--certname", &format!("server{server}")].map(OsString::from));
        options.extend(more.iter().map(OsString::from));
        Serving::run(command, &dir, &[&self.url(server)], &options)
    }

    /// Stages so many files of a version at a server and publishes them there, by a program of its own.
    pub fn publish(&self, serving: &Serving, server: usize, files: usize, version: &str) -> Value {
        self.sites[server].fill(files, version);
        let output = serving.verb(&["publish", "--message", version]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        json(&output)["environments"][0].clone()
    }

    /// Makes the root of a node.
    #[must_use]
    pub fn node(&self, name: &str) -> PathBuf {
        let root = self.dir.path().join(name);
        fs::create_dir_all(&root).unwrap();
        root
    }

    /// Runs the agent of a node against a server.
    #[must_use]
    pub fn agent(&self, root: &Path, server: usize) -> Output {
        let mut command = binaries().agent(root, &["run"]);
        command.args(["--server", &self.url(server)]);
        run(command)
    }
}
