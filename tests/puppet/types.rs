//! A type that exists only in Ruby: compiled by the server, applied by our agent, both with this library.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use direct_puppet_agent::provider::ruby::RubyOptions;
use direct_puppet_agent::{Agent, Outcome, RunOptions};
use direct_puppet_transport::protocol::RunStatus;
use direct_puppet_transport::protocol::report::Event;
use direct_puppet_transport::{Handler, MemoryTransport};

use super::{Site, has_puppet, repository};
use crate::library;

/// The types of the agent's own tests.
const LIBRARY: &str = "../agent/tests/data/ruby/lib/puppet";

const FILES: [&str; 2] = ["type/dpt_level.rb", "provider/dpt_level/json.rb"];

fn options(dir: &Path) -> RubyOptions {
    let mut options = RubyOptions::default();
    options.program = Some(library::program("ruby"));
    options.libraries = vec![dir.join("staging/environments/production/modules/app/lib")];
    let setting = |name: &str| (name.to_owned(), dir.join(name).display().to_string());
    options.settings = vec![setting("confdir"), setting("vardir")];
    options
}

/// Returns what a run tells: events, and messages beside them.
fn messages(outcome: &Outcome) -> String {
    let event = |event: &Event| format!("{}: {:?} {}\n", event.resource, event.status, event.message);
    outcome.events().map(event).chain(outcome.messages.iter().cloned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_in_ruby_is_applied_checked_and_put_right() {
    if !has_puppet() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (environment, store) = (dir.path().join("staging/environments/production"), dir.path().join("store"));
    let stage = |path: &str, content: &str| {
        let path = environment.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    let manifest = format!(
        "dpt_level {{ 'one': ensure => present, store => '{0}', value => 3, marks => ['a', 'b'] }}\n\
         notify {{ 'after one': }}\n\
         dpt_level {{ 'hush': ensure => present, store => '{0}.hush', secret => Sensitive('tres passing') }}\n",
        store.display()
    );
    stage("manifests/site.pp", &manifest);
    for file in FILES {
        stage(&format!("modules/app/lib/puppet/{file}"), &fs::read_to_string(repository(LIBRARY).join(file)).unwrap());
    }
    let site = Site::open(&dir.path().join("staging"));
    assert_eq!(site.publish("production").await, None);
    let handler: Arc<dyn Handler> = Arc::<direct_puppet_server_stub::Server>::clone(&site.server);
    let agent = Agent::builder()
        .transport(MemoryTransport::new(handler))
        .certname("n1".parse().unwrap())
        .root("/")
        .state_dir(dir.path().join("state"))
        .ruby(options(dir.path()))
        .build()
        .unwrap();
    let kept = || fs::read_to_string(&store).unwrap();
    let run = async |noop: bool| agent.run(&RunOptions { noop, ..RunOptions::default() }).await.unwrap();

    let first = run(false).await;
    assert_eq!((first.status, first.ruby_started), (RunStatus::Changed, 1), "{}", messages(&first));
    assert_eq!(kept(), r#"{"value":3,"marks":["a","b"]}"#);
    assert!(!messages(&first).contains("tres") && dir.path().join("store.hush").exists());

    // Notify is never in sync; nothing else changes.
    let second = run(false).await;
    assert!(!messages(&second).contains("Dpt_level"), "{}", messages(&second));

    fs::write(&store, r#"{"value":9,"marks":["a","b"]}"#).unwrap();
    let noop = run(true).await;
    assert!(messages(&noop).contains("Dpt_level[one]: Noop") && kept().contains("9"), "{}", messages(&noop));
    let mended = run(false).await;
    assert!(messages(&mended).contains("value went from 9 to 3 by 6 steps"), "{}", messages(&mended));
    assert_eq!(kept(), r#"{"value":3,"marks":["a","b"]}"#);
}
