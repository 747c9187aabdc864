//! The real programs, built once for whoever needs them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// Where the programs are.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// `direct-puppet`.
    pub agent: PathBuf,
    /// `direct-puppet-server`.
    pub server: PathBuf,
}

/// What the programs are built with: what these tests were built with too, when that is all of the workspace, so that every library of theirs is there
/// already. Other features of a single crate would have most be compiled once more, which takes minutes.
const SELECTION: &[&str] = match cfg!(feature = "everything") {
    true => &["--workspace", "--all-features", "--tests"],
    false => &["-p", "direct-puppet", "-p", "direct-puppet-server-stub"],
};

/// How the variables begin by which cargo tells a crate of itself.
const IS_OF_CRATE: [&str; 5] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_", "CARGO_PRIMARY_"];

/// Builds both programs, if need be, and returns where they are. `PROGRAMS` names a directory whose programs are taken instead.
///
/// # Panics
///
/// When they do not build.
#[expect(
    clippy::disallowed_methods,
    reason = "cargo tells its own path through the environment, and a tester where the programs are"
)]
pub fn binaries() -> &'static Binaries {
    static BINARIES: OnceLock<Binaries> = OnceLock::new();
    BINARIES.get_or_init(|| {
        if let Some(dir) = std::env::var_os("PROGRAMS") {
            return Binaries::of(Path::new(&dir));
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        // What cargo tells a test of its own crate: the build script of ring looks at it, so that ring, and all that needs it, would be compiled once
        // more, here and then again by whoever calls cargo next.
        let is_of_crate = |name: &str| IS_OF_CRATE.iter().any(|prefix| name.starts_with(prefix));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_of_crate)) {
            command.env_remove(name);
        }
        let output = command
            .args([
                "build",
                "--locked",
                "--quiet",
                "--message-format=json",
                "--bin",
                "direct-puppet",
                "--bin",
                "direct-puppet-server",
            ])
            .args(SELECTION)
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .stderr(Stdio::inherit())
            .output()
            .expect("cargo can be started");
        assert!(output.status.success(), "the programs do not build");
        let messages = String::from_utf8_lossy(&output.stdout);
        let is_program = |message: &serde_json::Value| message["profile"]["test"] == false;
        let find = |name: &str| {
            messages
                .lines()
                .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
                .find(|message| message["target"]["name"] == name && message["executable"].is_string() && is_program(message))
                .and_then(|message| message["executable"].as_str().map(PathBuf::from))
                .unwrap_or_else(|| panic!("cargo built no {name}"))
        };
        Binaries { agent: find("direct-puppet"), server: find("direct-puppet-server") }
    })
}

/// Returns the programs of an earlier commit, where `PREVIOUS_PROGRAMS` names a directory with them.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "a tester says where the programs are")]
pub fn previous() -> Option<&'static Binaries> {
    static PREVIOUS: OnceLock<Option<Binaries>> = OnceLock::new();
    let previous = PREVIOUS.get_or_init(|| std::env::var_os("PREVIOUS_PROGRAMS").map(|dir| Binaries::of(Path::new(&dir))));
    previous.as_ref()
}

impl Binaries {
    /// Returns the programs of a directory.
    fn of(dir: &Path) -> Self {
        Self { agent: dir.join("direct-puppet"), server: dir.join("direct-puppet-server") }
    }

    /// Returns `direct-puppet` with a root, a node name and JSON output.
    #[must_use]
    pub fn agent(&self, root: &Path, verb: &[&str]) -> Command {
        let mut command = Command::new(&self.agent);
        command.args(verb).arg("--root").arg(root).args(["--node", "node1.example.com", "--json"]);
        command.env_remove("DIRECT_PUPPET_SERVER").stdin(Stdio::null());
        command
    }
}

/// Runs a command to its end and returns what it said.
///
/// # Panics
///
/// When it cannot be started.
#[must_use]
pub fn run(mut command: Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Returns the JSON object that a command printed.
///
/// # Panics
///
/// When it printed none; shows what it said instead.
#[must_use]
pub fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        panic!("no JSON ({error}): {out}\n{err}")
    })
}
