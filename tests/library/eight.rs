//! Puppet 8 in a root directory of its own, which `tests/puppet/puppet-8-root.sh` makes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use direct_puppet_server_stub::ServerOptions;
use direct_puppet_server_stub::compile::{AutomaticCompiler, PuppetCompiler, PuppetOptions};

/// Where the root is: what `PUPPET_8_ROOT` names, or below the target directory.
#[expect(clippy::disallowed_methods, reason = "a root that is made once for all suites is told of through the environment")]
fn root() -> PathBuf {
    let told = std::env::var_os("PUPPET_8_ROOT").map(PathBuf::from);
    told.unwrap_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("puppet-8"))
}

/// A program of the root, run in it and in a mount namespace of its own.
pub(crate) fn program(name: &str) -> PathBuf {
    root().join("outside").join(name)
}

/// Whether Puppet 8 is here, and can be run. A test that needs it says so when it is left out.
pub(crate) fn has_puppet() -> bool {
    let is_eight = |output: std::process::Output| String::from_utf8_lossy(&output.stdout).starts_with("8.");
    let found = puppet().arg("--version").output().is_ok_and(is_eight);
    if !found {
        eprintln!(
            "LEFT OUT: no Puppet 8 in {}: as root, run tests/puppet/puppet-8-root.sh DIR (it needs debootstrap and a mirror of \
             Debian), and set PUPPET_8_ROOT=DIR",
            root().display()
        );
    }
    found
}

/// Whether Puppet's agent is here; the same.
pub(crate) fn has_agent() -> bool {
    has_puppet()
}

/// Returns the program of the agent.
pub(crate) fn puppet() -> Command {
    Command::new(program("puppet"))
}

/// Has a server compile with it.
pub(crate) fn compile_with_it(options: &mut ServerOptions) {
    let defaults = PuppetOptions::new(PuppetOptions::dir_in(&options.data_dir));
    let puppet = PuppetOptions { ruby: program("ruby"), ..defaults };
    options.compiler = Arc::new(AutomaticCompiler::new(PuppetCompiler::new(puppet)));
}
