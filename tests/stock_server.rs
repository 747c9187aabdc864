//! Our agent at a server that it only knows by Puppet's HTTP API: our own server's, in every run of the suite, and a real Puppet Server where
//! one is told of.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

#[path = "library/installed.rs"]
#[allow(dead_code, reason = "for the same half")]
mod library;
#[path = "stock_server/own.rs"]
mod own;
#[path = "library/puppet_server.rs"]
mod puppet_server;
#[path = "stock_server/real.rs"]
mod real;
#[path = "stock_agent/world.rs"]
#[allow(dead_code, reason = "the half that runs Puppet's agent is for another suite")]
mod world;

use std::path::{Path, PathBuf};
use std::process::Command;

use direct_puppet_tests::binaries::{binaries, json};
use serde_json::Value as Json;

/// Our agent as a node of a Puppet Server.
struct Node {
    server: String,
    certname: String,
    environment: String,
    ssldir: PathBuf,
    dir: PathBuf,
}

/// What a run said.
#[derive(Debug)]
struct Ran {
    code: i32,
    json: Json,
    text: String,
}

impl Ran {
    /// Returns how many contents the run asked for.
    fn contents(&self) -> u64 {
        self.json["wire"]["contents_requested"].as_u64().unwrap()
    }

    fn answer(&self) -> &str {
        self.json["answer"].as_str().unwrap()
    }
}

impl Node {
    /// Makes a run below a root of its own.
    async fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new(&binaries().agent);
        command.arg("run").args(arguments).args(["--json", "--node", &self.certname, "--environment", &self.environment]);
        command.arg("--server").arg(&self.server).arg("--ssldir").arg(&self.ssldir);
        command.arg("--root").arg(self.dir.join("root")).arg("--state-dir").arg(self.dir.join("state"));
        command.env_remove("DIRECT_PUPPET_SERVER");
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        eprintln!("--- {} {arguments:?}: {:?}\n{text}", self.certname, output.status.code());
        Ran { code: output.status.code().unwrap(), json: json(&output), text }
    }

    fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.at(path)).ok()
    }

    fn write(&self, path: &str, text: &str) {
        std::fs::write(self.at(path), text).unwrap();
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.join("root").join(path)
    }
}

/// First run, no change, noop, drift, and a server that is away: the same for whichever server it is, which has
/// `motd` and `copy` with the content `hello\n`, and `tree/a` with `a\n`.
async fn five_runs(node: &Node) {
    std::fs::create_dir_all(node.dir.join("root")).unwrap();
    let first = node.run(&[]).await;
    assert_eq!((first.code, first.answer()), (2, "catalog"), "{}", first.text);
    assert_eq!((node.read("motd").as_deref(), node.read("copy").as_deref()), (Some("hello\n"), Some("hello\n")));
    assert_eq!(node.read("tree/a").as_deref(), Some("a\n"));
    assert_eq!(first.contents(), 2, "equal contents are asked for once: {}", first.text);

    let second = node.run(&[]).await;
    assert_eq!((second.code, second.answer(), second.contents()), (0, "current", 0), "{}", second.text);

    node.write("motd", "drift\n");
    let noop = node.run(&["--noop"]).await;
    assert_eq!((noop.code, node.read("motd").as_deref()), (2, Some("drift\n")), "{}", noop.text);
    // The other file has the content: nobody is asked for it.
    let mended = node.run(&[]).await;
    assert_eq!((mended.code, node.read("motd").as_deref(), mended.contents()), (2, Some("hello\n"), 0), "{}", mended.text);

    std::fs::remove_file(node.at("tree/a")).unwrap();
    let cached = node.run(&["--use-cached-catalog"]).await;
    assert_eq!((cached.code, cached.answer(), cached.contents()), (2, "cached", 1), "{}", cached.text);
    assert_eq!(node.read("tree/a").as_deref(), Some("a\n"));
}

/// A run while the server is away: the cached catalog is applied with what the node has.
async fn away(node: &Node) {
    node.write("copy", "drift\n");
    let ran = node.run(&[]).await;
    assert_eq!((ran.code, ran.answer(), node.read("copy").as_deref()), (2, "cached", Some("hello\n")), "{}", ran.text);
    let refused = node.run(&["--no-cache-on-failure"]).await;
    assert_eq!(refused.code, 1, "{}", refused.text);
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}
