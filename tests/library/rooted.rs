//! A Puppet in a root directory of its own, which `tests/puppet/puppet-root.sh` makes. Which one it is, the suite's `ROOT` says.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use direct_puppet_server_stub::ServerOptions;
use direct_puppet_server_stub::compile::{AutomaticCompiler, PuppetCompiler, PuppetOptions};

use crate::ROOT;

/// One of the roots that the script makes.
pub(crate) struct Root {
    /// What it is, for messages.
    pub(crate) shown: &'static str,
    /// Its name for the script, and below the target directory.
    pub(crate) name: &'static str,
    /// Names another place.
    pub(crate) variable: &'static str,
    /// How what its library says of itself begins: which implementation it is, and its version.
    pub(crate) says: &'static str,
}

/// Has the library say it. Only OpenVox has a word for what it is.
const WHAT: &str =
    r#"require "puppet"; print Puppet.respond_to?(:implementation) ? Puppet.implementation : "puppet", " ", Puppet.version"#;

/// Where the root is.
#[expect(clippy::disallowed_methods, reason = "a root that is made once for all suites is told of through the environment")]
fn root() -> PathBuf {
    let told = std::env::var_os(ROOT.variable).map(PathBuf::from);
    told.unwrap_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join(ROOT.name))
}

/// A program of the root, run in it and in a mount namespace of its own.
pub(crate) fn program(name: &str) -> PathBuf {
    root().join("outside").join(name)
}

/// Whether it is here, and can be run. A test that needs it says so when it is left out.
pub(crate) fn has_puppet() -> bool {
    let is_it =
        |output: std::process::Output| output.status.success() && String::from_utf8_lossy(&output.stdout).starts_with(ROOT.says);
    let found = Command::new(program("ruby")).args(["-e", WHAT]).output().is_ok_and(is_it);
    if !found {
        let Root { shown, name, variable, .. } = ROOT;
        eprintln!(
            "LEFT OUT: no {shown} in {}: as root, run tests/puppet/puppet-root.sh {name} DIR (it needs debootstrap and a mirror of \
             Debian), and set {variable}=DIR",
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
