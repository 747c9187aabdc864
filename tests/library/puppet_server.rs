//! A real, unmodified Puppet Server, where one runs.
//!
//! Starting one takes a minute and changes `/etc`, so no test does that. Its tests run where one runs: `PUPPET_SERVER_SSLDIR` names the ssldir
//! of a node that the server at `puppet:8140` has signed, and `PUPPET_SERVER_NODE` its name. They need root, put environments of their own
//! into `/etc/puppet/code`, a git repository whose commits are the server's `code_id`, and remove them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The code directory of Debian's packages.
pub(crate) const CODE: &str = "/etc/puppet/code";

/// Returns the ssldir and the name of the server's node, if there is one.
#[expect(clippy::disallowed_methods, reason = "a real server is told of through the environment")]
pub(crate) fn told_of() -> Option<(PathBuf, String)> {
    let told = std::env::var_os("PUPPET_SERVER_SSLDIR").zip(std::env::var("PUPPET_SERVER_NODE").ok());
    if told.is_none() {
        eprintln!(
            "LEFT OUT: no Puppet Server here (PUPPET_SERVER_SSLDIR and PUPPET_SERVER_NODE name the certificate of a node of one)"
        );
    }
    told.map(|(ssldir, node)| (ssldir.into(), node))
}

/// An environment of the server, which is removed again.
pub(crate) struct Environment(PathBuf);

impl Environment {
    /// Makes one with what `stage` puts into its directory.
    pub(crate) fn new(name: &str, stage: impl FnOnce(&Path)) -> Self {
        let dir = Path::new(CODE).join("environments").join(name);
        fs::create_dir_all(&dir).unwrap();
        let made = Self(dir);
        stage(&made.0);
        commit();
        made
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        // What cannot be removed is in the way of nothing.
        let _removed = fs::remove_dir_all(&self.0);
        commit();
    }
}

fn commit() {
    let script =
        "chown -R puppet: . && runuser -u puppet -- git add -A && runuser -u puppet -- git commit -q --allow-empty -m test";
    assert!(Command::new("sh").args(["-ec", script]).current_dir(CODE).status().unwrap().success());
}
