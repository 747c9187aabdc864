//! At a real, unmodified Puppet Server.
//!
//! Starting one takes a minute and changes `/etc`, so no test does that. The test runs where one runs: `PUPPET_SERVER_SSLDIR` names the ssldir
//! of a node that the server at `puppet:8140` has signed, and `PUPPET_SERVER_NODE` its name. It needs root, puts an environment of its own
//! into `/etc/puppet/code`, a git repository whose commits are the server's `code_id`, and removes it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Node, away, five_runs, write};

/// The code directory of Debian's packages.
const CODE: &str = "/etc/puppet/code";

/// Where they keep reports.
const REPORTS: &str = "/var/lib/puppetserver/reports";

const SITE: &str = "file { '/motd': source => 'puppet:///modules/app/motd' }
# A checksum that names no content: what it is, the server must be asked in each run.
file { '/copy': source => 'puppet:///modules/app/motd', checksum => md5 }
file { '/tree': ensure => directory, recurse => true, source => 'puppet:///modules/app/tree' }
";

#[expect(clippy::disallowed_methods, reason = "a real server is told of through the environment")]
fn told_of() -> Option<(PathBuf, String)> {
    let told = std::env::var_os("PUPPET_SERVER_SSLDIR").zip(std::env::var("PUPPET_SERVER_NODE").ok());
    if told.is_none() {
        eprintln!(
            "LEFT OUT: no Puppet Server here (PUPPET_SERVER_SSLDIR and PUPPET_SERVER_NODE name the certificate of a node of one)"
        );
    }
    told.map(|(ssldir, node)| (ssldir.into(), node))
}

/// An environment that is removed again.
struct Environment(PathBuf);

impl Environment {
    fn new(name: &str) -> Self {
        let dir = Path::new(CODE).join("environments").join(name);
        write(&dir.join("manifests/site.pp"), SITE);
        write(&dir.join("modules/app/files/motd"), "hello\n");
        write(&dir.join("modules/app/files/tree/a"), "a\n");
        commit();
        Self(dir)
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

fn reports(node: &str) -> Vec<PathBuf> {
    fs::read_dir(Path::new(REPORTS).join(node)).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn our_agent_at_a_puppet_server() {
    let Some((ssldir, certname)) = told_of() else { return };
    // A server that keeps environments for ever has not seen this one.
    let environment = format!("direct{}", std::process::id());
    let _code = Environment::new(&environment);
    let dir = tempfile::tempdir().unwrap();
    let node = Node {
        server: "puppet://puppet:8140".to_owned(),
        certname: certname.clone(),
        environment: environment.clone(),
        ssldir,
        dir: dir.path().to_owned(),
    };
    five_runs(&node).await;
    // The server names reports by the minute.
    let last = reports(&certname).into_iter().max().expect("a report was kept");
    let report = fs::read_to_string(last).unwrap();
    assert!(report.contains(&format!("environment: {environment}")) && report.contains("report_format: 12"), "{report}");
    assert!(report.contains("cached_catalog_status: explicitly_requested"), "{report}");

    let away_from = Node { server: "puppet://puppet:1".to_owned(), ..node };
    away(&away_from).await;
}
