//! Files that are put together from pieces of which the server has the content.

use std::fs;
use std::path::Path;

use direct_puppet_transport::protocol::RunStatus;

use super::modules::{MODULES, copy};
use super::run::{Node, stage};
use super::{Site, has_puppet};

const SITE: &str = "node default {
  file { '/etc': ensure => directory }
  file { '/etc/copy': source => 'puppet:///modules/app/piece', before => Concat['/etc/whole'] }
  concat { '/etc/whole': }
  concat::fragment { 'head': target => '/etc/whole', content => \"head\\n\", order => '01' }
  concat::fragment { 'piece': target => '/etc/whole', source => 'puppet:///modules/app/piece', order => '02' }
  concat::fragment { 'link': target => '/etc/whole', source => 'puppet:///modules/app/link', order => '03' }
  concat::fragment { 'first': target => '/etc/whole', order => '04',
    source => ['/etc/own', 'puppet:///modules/app/none', 'puppet:///modules/app/other', 'puppet:///modules/app/piece'] }
  concat { '/etc/gone': ensure => absent }
  concat::fragment { 'of what is gone': target => '/etc/gone', source => 'puppet:///modules/app/none' }
}
";

#[tokio::test(flavor = "multi_thread")]
async fn pieces_of_the_server_are_fetched_once_and_stay() {
    if !has_puppet() {
        return;
    }
    if !["concat", "stdlib"].iter().all(|name| Path::new(MODULES).join(name).is_dir()) {
        eprintln!("LEFT OUT: concat and stdlib are not in {MODULES} (Debian packages puppet-module-…)");
        return;
    }
    let staging = tempfile::tempdir().unwrap();
    let environment = staging.path().join("environments/production");
    let files = [
        ("manifests/site.pp", SITE),
        ("modules/app/files/piece", "piece\n"),
        ("modules/app/files/other", "other\n"),
        ("modules/app/files/linked", "linked\n"),
    ];
    stage(&environment, &files);
    std::os::unix::fs::symlink("linked", environment.join("modules/app/files/link")).unwrap();
    for name in ["concat", "stdlib"] {
        copy(&Path::new(MODULES).join(name), &environment.join("modules").join(name));
    }
    let site = Site::open(staging.path());
    assert_eq!(site.publish("production").await, None);
    let node = Node::new(&site, "n1");

    let planned = node.agent.plan().await.unwrap();
    assert_eq!((planned.resources.failed, planned.status), (0, RunStatus::Unchanged), "{:?}", planned.messages);
    let first = node.run().await;
    assert_eq!((first.status, first.resources.failed), (RunStatus::Changed, 0), "{:?}", first.messages);
    assert_eq!(node.read("etc/whole"), "head\npiece\nlinked\nother\n");
    // A file of the same content did not take it away, and nothing that changes later does.
    for drift in [None, Some("drift\n"), None] {
        if let Some(drift) = drift {
            fs::write(node.root.join("etc/whole"), drift).unwrap();
        }
        let run = node.run().await;
        let expected = if drift.is_some() { RunStatus::Changed } else { RunStatus::Unchanged };
        assert_eq!((run.status, run.wire.contents_requested), (expected, 0), "{:?}", run.messages);
        assert_eq!(node.read("etc/whole"), "head\npiece\nlinked\nother\n");
    }
    // What the node has comes first, where it does in the list.
    fs::write(node.root.join("etc/own"), "own\n").unwrap();
    assert_eq!(node.run().await.status, RunStatus::Changed);
    assert_eq!(node.read("etc/whole"), "head\npiece\nlinked\nown\n");

    stage(&environment, &[("modules/app/files/piece", "new piece\n")]);
    assert_eq!(site.publish("production").await, None);
    let run = node.run().await;
    assert_eq!((run.status, run.wire.contents_requested), (RunStatus::Changed, 1), "{:?}", run.messages);
    assert_eq!(node.read("etc/whole"), "head\nnew piece\nlinked\nown\n");
    assert_eq!(node.run().await.status, RunStatus::Unchanged);
}
