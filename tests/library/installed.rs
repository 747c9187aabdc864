//! The Puppet that is installed on this machine.

use std::process::Command;

use direct_puppet_server_stub::ServerOptions;

fn works(command: &mut Command, missing: &str) -> bool {
    let found = command.output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("LEFT OUT: {missing} (Debian package puppet-agent)");
    }
    found
}

/// Whether Puppet's library is here. A test that needs it says so when it is left out.
pub(crate) fn has_puppet() -> bool {
    works(Command::new("ruby").args(["-e", "require 'puppet'"]), "no Puppet library for ruby here")
}

/// Whether Puppet's agent is here; as [`has_puppet`].
pub(crate) fn has_agent() -> bool {
    works(puppet().arg("--version"), "no puppet here")
}

/// Returns the program of the agent.
pub(crate) fn puppet() -> Command {
    Command::new("puppet")
}

/// Has a server compile with it, which it does by itself.
pub(crate) fn compile_with_it(_options: &mut ServerOptions) {}
