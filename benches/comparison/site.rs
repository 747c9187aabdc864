//! A staged site, a server that serves it, and nodes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use direct_puppet_benches::make_environment;
use serde_json::Value;
use tempfile::TempDir;

use crate::bench::{Bench, NODE};
use crate::peers::prepare;
use crate::serving::Serving;

/// A site that is published and served.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) serving: Serving,
    server: PathBuf,
    agent: PathBuf,
    pub(crate) dir: TempDir,
}

impl Site {
    /// Stages a site and serves it on loopback; `fill` puts files into the tree that nodes get.
    pub(crate) fn serve(bench: &Bench, fill: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<Self> {
        Self::serve_with(bench, fill, Command::new(&bench.server), &["--listen", "http://127.0.0.1:0"])
    }

    /// As [`Site::serve`], with a command that ends with the server's program, and more arguments.
    pub(crate) fn serve_with(
        bench: &Bench,
        fill: impl FnOnce(&Path) -> anyhow::Result<()>,
        mut command: Command,
        arguments: &[&str],
    ) -> anyhow::Result<Self> {
        let dir = bench.scratch("site")?;
        let environment = make_environment(&dir.path().join("staging"))?;
        fill(&environment.join("modules/app/files/tree"))?;
        command.arg("serve").arg("--data").arg(dir.path().join("data")).arg("--staging").arg(dir.path().join("staging"));
        let serving = Serving::start(command.args(arguments))?;
        let site = Self { serving, server: bench.server.clone(), agent: bench.agent.clone(), dir };
        site.publish()?;
        Ok(site)
    }

    /// The tree that nodes get.
    pub(crate) fn tree(&self) -> PathBuf {
        self.dir.path().join("staging/environments/production/modules/app/files/tree")
    }

    pub(crate) fn publish(&self) -> anyhow::Result<()> {
        prepare(Command::new(&self.server).args(["publish", "--data"]).arg(self.dir.path().join("data"))).map(drop)
    }

    /// Returns a node with nothing on it.
    pub(crate) fn node(&self, bench: &Bench) -> anyhow::Result<Node> {
        let dir = bench.scratch("node")?;
        for below in ["root", "state"] {
            fs::create_dir(dir.path().join(below))?;
        }
        Ok(Node { agent: self.agent.clone(), url: self.serving.url.clone(), dir })
    }
}

/// A managed root and the state of its agent, beside each other so that peers see only the root.
#[derive(Debug)]
pub(crate) struct Node {
    agent: PathBuf,
    url: String,
    dir: TempDir,
}

impl Node {
    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Returns the file of the catalog that the node holds.
    pub(crate) fn catalog(&self) -> anyhow::Result<PathBuf> {
        let files = fs::read_dir(self.state().join("catalog")).context("the node holds no catalog")?;
        let mut paths = files.filter_map(|entry| Some(entry.ok()?.path()));
        paths.find(|path| path.extension().is_some_and(|found| found == "catalog")).context("the node holds no catalog")
    }

    /// Returns a command of the agent for this node.
    pub(crate) fn command(&self, verb: &[&str]) -> Command {
        self.command_by(Command::new(&self.agent), verb)
    }

    /// Returns the agent's program, for commands that end with it.
    pub(crate) fn program(&self) -> &Path {
        &self.agent
    }

    /// Returns a command that ends with the agent's program.
    pub(crate) fn command_by(&self, mut command: Command, verb: &[&str]) -> Command {
        command.args(verb).arg("--root").arg(self.root()).arg("--state-dir").arg(self.state()).args(["--node", NODE, "--json"]);
        command.args(["--server", &self.url]).env_remove("DIRECT_PUPPET_LOG");
        command
    }

    /// Makes a run and returns its outcome.
    pub(crate) fn run(&self, verb: &[&str]) -> anyhow::Result<Value> {
        outcome(&mut self.command(verb))
    }

    /// Makes the run that applies everything; what it prints, an event for each file, is not wanted.
    pub(crate) fn apply(&self) -> anyhow::Result<()> {
        let mut command = self.command(&["run"]);
        let output = command.stdout(Stdio::null()).output().with_context(|| format!("{command:?} could not be started"))?;
        match output.status.code() {
            Some(2) => Ok(()),
            _ => bail!("the first run ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()),
        }
    }

    /// Makes runs until one opens no file: what is younger than its own record is read again.
    pub(crate) fn settle(&self) -> anyhow::Result<()> {
        for _ in 0..10 {
            let outcome = self.run(&["run"])?;
            if outcome["scan"]["opened"] == 0 && outcome["resources"]["changed"] == 0 {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        bail!("ten runs in a row opened files")
    }
}

/// Runs a command of the agent and returns the outcome that it prints; what has failures is an error.
pub(crate) fn outcome(command: &mut Command) -> anyhow::Result<Value> {
    let output = command.output().with_context(|| format!("{command:?} could not be started"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !matches!(output.status.code(), Some(0 | 2)) {
        let out = String::from_utf8_lossy(&output.stdout);
        let first: String = out.chars().take(400).collect();
        bail!("the agent ended with {}: {} {first}", output.status, said.trim());
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("no outcome: {}", said.trim()))
}

/// Returns a number of an outcome.
pub(crate) fn number(outcome: &Value, of: &[&str]) -> anyhow::Result<f64> {
    of.iter().fold(outcome, |value, key| &value[key]).as_f64().with_context(|| format!("the outcome has no {}", of.join(".")))
}
