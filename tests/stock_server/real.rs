//! At a real, unmodified Puppet Server; `tests/library/puppet_server.rs` says where one is.

use std::fs;
use std::path::{Path, PathBuf};

use super::puppet_server::{Environment, told_of};
use super::{Node, away, five_runs, write};

/// Where Debian's packages keep reports.
const REPORTS: &str = "/var/lib/puppetserver/reports";

const SITE: &str = "file { '/motd': source => 'puppet:///modules/app/motd' }
# A checksum that names no content: what it is, the server must be asked in each run.
file { '/copy': source => 'puppet:///modules/app/motd', checksum => md5 }
file { '/tree': ensure => directory, recurse => true, source => 'puppet:///modules/app/tree' }
";

fn stage(environment: &Path) {
    write(&environment.join("manifests/site.pp"), SITE);
    write(&environment.join("modules/app/files/motd"), "hello\n");
    write(&environment.join("modules/app/files/tree/a"), "a\n");
}

fn reports(node: &str) -> Vec<PathBuf> {
    fs::read_dir(Path::new(REPORTS).join(node)).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn our_agent_at_a_puppet_server() {
    let Some((ssldir, certname)) = told_of() else { return };
    // A server that keeps environments for ever has not seen this one.
    let environment = format!("direct{}", std::process::id());
    let _code = Environment::new(&environment, stage);
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
