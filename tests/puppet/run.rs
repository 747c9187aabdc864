//! The agent applies what was compiled from Puppet code.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use direct_puppet_agent::{Agent, Answer, Outcome, RunOptions};
use direct_puppet_transport::protocol::RunStatus;
use direct_puppet_transport::{Handler, MemoryTransport};

use super::{Site, has_puppet};

const SITE: &str = "node 'n1' { include app }\nnode default { include missing }\n";
const APP: &str = "class app {
  file { '/app': ensure => directory }
  file { '/app/tree': ensure => directory, recurse => true, sourceselect => all,
    source => ['puppet:///modules/app/more', 'puppet:///modules/app/tree'] }
  file { '/app/followed': source => 'puppet:///modules/app/tree/link', links => follow }
  file { '/app/text': content => epp('app/text.epp') }
  file { '/app/same': source => 'puppet:///modules/app/same' }
  file { '/app/same-inline': content => \"same\\n\", require => File['/app/same'] }
  file { '/app/later': content => Deferred('upcase', [Sensitive('hush')]) }
}
";

pub(crate) fn stage(environment: &Path, files: &[(&str, &str)]) {
    for (path, content) in files {
        let path = environment.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

pub(crate) struct Node {
    pub(crate) agent: Agent<MemoryTransport>,
    pub(crate) root: std::path::PathBuf,
}

impl Node {
    pub(crate) fn new(site: &Site, name: &str) -> Self {
        let root = site.dir.path().join("roots").join(name);
        fs::create_dir_all(&root).unwrap();
        let handler: Arc<dyn Handler> = Arc::<direct_puppet_server_stub::Server>::clone(&site.server);
        let agent = Agent::builder()
            .transport(MemoryTransport::new(handler))
            .certname(name.parse().unwrap())
            .root(root.clone())
            .state_dir(site.dir.path().join("states").join(name))
            .build()
            .unwrap();
        Self { agent, root }
    }

    pub(crate) async fn run(&self) -> Outcome {
        self.agent.run(&RunOptions::default()).await.unwrap()
    }

    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn first_run_no_change_drift_and_new_code() {
    if !has_puppet() {
        return;
    }
    let staging = tempfile::tempdir().unwrap();
    let environment = staging.path().join("environments/production");
    stage(
        &environment,
        &[
            ("manifests/site.pp", SITE),
            ("modules/app/manifests/init.pp", APP),
            ("modules/app/templates/text.epp", "<%= $facts['kernel'] %>\n"),
            ("modules/app/files/tree/a", "tree a\n"),
            ("modules/app/files/tree/b/c", "tree c\n"),
            ("modules/app/files/more/a", "more a\n"),
            ("modules/app/files/same", "same\n"),
        ],
    );
    std::os::unix::fs::symlink("b/c", environment.join("modules/app/files/tree/link")).unwrap();
    let site = Site::open(staging.path());
    assert_eq!(site.publish("production").await, None);
    let node = Node::new(&site, "n1");

    let first = node.run().await;
    assert_eq!((first.status, first.answer), (RunStatus::Changed, Some(Answer::Catalog)), "{:?}", first.messages);
    assert_eq!((node.read("app/tree/a"), node.read("app/tree/b/c")), ("more a\n".to_owned(), "tree c\n".to_owned()));
    assert_eq!(fs::read_link(node.root.join("app/tree/link")).unwrap(), Path::new("b/c"));
    assert_eq!((node.read("app/followed"), node.read("app/text")), ("tree c\n".to_owned(), "Linux\n".to_owned()));
    assert_eq!((node.read("app/later"), node.read("app/same")), ("HUSH".to_owned(), "same\n".to_owned()));

    let second = node.run().await;
    assert_eq!((second.status, second.answer), (RunStatus::Unchanged, Some(Answer::Current)));
    fs::write(node.root.join("app/tree/b/c"), "drift\n").unwrap();
    assert_eq!(node.run().await.status, RunStatus::Changed);
    assert_eq!(node.read("app/tree/b/c"), "tree c\n");

    stage(&environment, &[("modules/app/files/tree/b/c", "new c\n")]);
    assert_eq!(site.publish("production").await, None);
    assert_eq!(node.run().await.status, RunStatus::Changed);
    assert_eq!(node.read("app/tree/b/c"), "new c\n");
    let compiles: u64 = site.server.nodes().unwrap().iter().map(|node| node.compiles).sum();
    assert_eq!(compiles, 2, "one for each version, whatever drifts");

    // What cannot be compiled is told, with its place.
    let other = Node::new(&site, "n2").agent.run(&RunOptions::default()).await.unwrap_err();
    let mut text = other.to_string();
    let mut cause = std::error::Error::source(&other);
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    assert!(
        text.contains("manifests/site.pp:2:16: Evaluation Error: Error while evaluating a Function Call, Could not find class"),
        "{text}"
    );
}
