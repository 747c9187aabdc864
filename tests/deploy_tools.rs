//! Real deploy tools stage and publish: r10k with its postrun command, and git.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use direct_puppet_tests::binaries::{binaries, json};
use direct_puppet_tests::serving::Serving;
use serde_json::Value;

fn is_there(tool: &str) -> bool {
    Command::new(tool).arg("--version").output().is_ok() || Command::new(tool).arg("version").output().is_ok()
}

fn git(dir: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command.current_dir(dir).env("GIT_CONFIG_GLOBAL", "/dev/null").env("HOME", dir);
    command.args(["-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=production"]);
    let output = command.args(arguments).output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A control repo with the branch `production`.
struct ControlRepo(PathBuf);

impl ControlRepo {
    fn new(dir: PathBuf) -> Self {
        fs::create_dir_all(&dir).unwrap();
        git(&dir, &["init", "--quiet"]);
        fs::write(dir.join("site.yaml"), "nodes:\n  - match: \"*\"\n    classes: [base]\nclasses:\n  base: []\n").unwrap();
        let repo = Self(dir);
        repo.commit("first");
        repo
    }

    /// Commits everything; returns the commit.
    fn commit(&self, message: &str) -> String {
        fs::write(self.0.join("README"), message).unwrap();
        git(&self.0, &["add", "--all"]);
        git(&self.0, &["commit", "--quiet", "--message", message]);
        git(&self.0, &["rev-parse", "HEAD"])
    }
}

/// Returns the versions, oldest first.
fn versions(server: &Serving) -> Vec<Value> {
    json(&server.verb(&["versions"])).as_array().unwrap().clone()
}

#[test]
fn r10k_publishes_what_it_has_deployed() {
    if !is_there("r10k") || !is_there("git") {
        println!("LEFT OUT: a deploy by r10k, which needs r10k and git to be installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let repo = ControlRepo::new(dir.path().join("control"));
    git(&repo.0, &["branch", "testing"]);
    let staging = dir.path().join("staging");
    fs::create_dir_all(staging.join("environments")).unwrap();
    let server = Serving::following(dir.path(), &["http://127.0.0.1:0"], &["--staging".into(), (&staging).into()]);
    let config = format!(
        "cachedir: {cache}\nsources:\n  main:\n    remote: {remote}\n    basedir: {staging}/environments\n\
         postrun: ['{program}', 'publish', '--data', '{data}', '--message', 'by r10k']\n",
        cache = dir.path().join("cache").display(),
        remote = repo.0.display(),
        staging = staging.display(),
        program = binaries().server.display(),
        data = dir.path().join("data").display(),
    );
    fs::write(dir.path().join("r10k.yaml"), config).unwrap();
    let deploy = || -> Output {
        let mut command = Command::new("r10k");
        command.args(["deploy", "environment", "--config"]).arg(dir.path().join("r10k.yaml")).env("HOME", dir.path());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output
    };
    deploy();
    let first = versions(&server);
    assert_eq!(first.len(), 2, "{first:?}");
    let head = git(&repo.0, &["rev-parse", "HEAD"]);
    for version in &first {
        assert_eq!(version["revision"], head.as_str());
        assert_eq!(version["message"], "by r10k");
    }
    // A deploy of what is there already makes nothing new.
    deploy();
    assert_eq!(versions(&server), first);
    // One environment moves; the other keeps its code.
    let second = repo.commit("second");
    deploy();
    let now = versions(&server);
    assert_eq!(now.len(), 3);
    let moved = now.iter().find(|version| version["revision"] == second.as_str()).unwrap();
    assert_eq!((&moved["environment"], &moved["sequence"]), (&"production".into(), &2.into()));
    let explained = json(&server.verb(&["explain", "1.2"]));
    assert_eq!(explained["version"]["revision"], second.as_str());
}

#[test]
fn g10k_publishes_what_it_has_deployed() {
    if !is_there("g10k") || !is_there("git") {
        println!("LEFT OUT: a deploy by g10k, which needs g10k and git to be installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let repo = ControlRepo::new(dir.path().join("control"));
    let staging = dir.path().join("staging");
    fs::create_dir_all(staging.join("environments")).unwrap();
    let server = Serving::following(dir.path(), &["http://127.0.0.1:0"], &["--staging".into(), (&staging).into()]);
    // It cuts the elements of postrun at blanks.
    let config = format!(
        "---\n:cachedir: '{cache}'\nsources:\n  main:\n    remote: '{remote}'\n    basedir: '{staging}/environments/'\n\
         postrun: ['{program}', 'publish', '--data', '{data}', '--message', 'by-g10k']\n",
        cache = dir.path().join("cache").display(),
        remote = repo.0.display(),
        staging = staging.display(),
        program = binaries().server.display(),
        data = dir.path().join("data").display(),
    );
    fs::write(dir.path().join("g10k.yaml"), config).unwrap();
    for (count, message) in [(1, "second"), (2, "third")] {
        let commit = repo.commit(message);
        let mut command = Command::new("g10k");
        command.arg("-config").arg(dir.path().join("g10k.yaml")).env("HOME", dir.path());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let now = versions(&server);
        assert_eq!(now.len(), count, "{}", String::from_utf8_lossy(&output.stdout));
        assert_eq!((&now[count - 1]["revision"], &now[count - 1]["message"]), (&commit.as_str().into(), &"by-g10k".into()));
    }
}

#[test]
fn a_pull_is_published_with_its_commit() {
    if !is_there("git") {
        println!("LEFT OUT: a deploy by git, which is not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let repo = ControlRepo::new(dir.path().join("control"));
    let staging = dir.path().join("staging");
    fs::create_dir_all(staging.join("environments")).unwrap();
    let checkout = staging.join("environments/production");
    git(dir.path(), &["clone", "--quiet", repo.0.to_str().unwrap(), checkout.to_str().unwrap()]);
    let server = Serving::following(dir.path(), &["http://127.0.0.1:0"], &["--staging".into(), (&staging).into()]);
    for message in ["second", "third"] {
        let commit = repo.commit(message);
        git(&checkout, &["pull", "--quiet"]);
        assert_eq!(server.verb(&["publish", "--message", message]).status.code(), Some(0));
        let last = versions(&server).pop().unwrap();
        assert_eq!((&last["revision"], &last["message"]), (&commit.as_str().into(), &message.into()));
    }
}
