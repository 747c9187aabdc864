//! Catalogs of Puppet's that are given to a run: what is applied, what fails alone, and what refuses the whole.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use direct_puppet_agent::{Agent, Answer, GivenCatalog, Outcome, PuppetCatalog, RunError, RunOptions};
use direct_puppet_transport::MemoryTransport;
use direct_puppet_transport::protocol::RunStatus;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

#[path = "../examples/support/mod.rs"]
mod support;

/// SHA-256 of `hello`.
const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

/// A node whose server has a catalog of its own.
struct Node {
    dir: TempDir,
    strict_types: bool,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        Self { dir, strict_types: false }
    }

    fn agent(&self) -> Agent<MemoryTransport> {
        Agent::builder()
            .transport(support::serve("n1", Vec::new(), &[]))
            .certname("n1".parse().unwrap())
            .root(self.dir.path().join("root"))
            .state_dir(self.dir.path().join("state"))
            .strict_types(self.strict_types)
            .build()
            .unwrap()
    }

    async fn try_apply(&self, resources: &str) -> Result<Outcome, RunError> {
        let json = format!(r#"{{"name":"n1","environment":"production","resources":[{resources}],"edges":[]}}"#);
        let catalog = Some(Arc::new(PuppetCatalog::read(json.as_bytes()).unwrap()));
        self.agent().run(&RunOptions { catalog, ..RunOptions::default() }).await
    }

    async fn apply(&self, resources: &str) -> Outcome {
        self.try_apply(resources).await.unwrap()
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.dir.path().join("root").join(path)).ok()
    }
}

/// A `File` with a source of this content.
fn with_source(path: &str, sha256: &str) -> String {
    let checksum = format!(r#"{{"type":"sha256","value":"{{sha256}}{sha256}"}}"#);
    let metadata = format!(r#"{{"type":"file","mode":420,"source":"puppet:///modules/m/f","checksum":{checksum}}}"#);
    format!(
        r#"{{"name":"n1","resources":[{{"type":"File","title":"{path}","parameters":{{"source":"puppet:///modules/m/f","backup":false}}}},
            {{"type":"File","title":"/after","parameters":{{"content":"x","require":"File[{path}]"}}}},
            {{"type":"File","title":"/other","parameters":{{"content":"y"}}}}],
            "metadata":{{"{path}":{metadata}}}}}"#
    )
}

/// Whether a process is there; one that is dead and not waited for is not.
fn is_alive(pid: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

/// An `Exec` that never ends, ignores signals, and leaves a child behind that does the same.
fn hang(pid: &std::path::Path) -> String {
    let script = format!(
        "trap '' TERM INT HUP; (trap '' TERM INT HUP; echo $BASHPID > {}; while :; do sleep 1; done) & while :; do sleep 1; done",
        pid.display()
    );
    serde_json::json!({"type": "Exec", "title": "hang", "parameters": {"command": ["/bin/bash", "-c", script], "timeout": 0}})
        .to_string()
}

#[tokio::test]
async fn a_run_that_takes_too_long_is_given_up_with_a_report() {
    let node = Node::new();
    let pid = node.dir.path().join("pid");
    let resources = format!(
        r#"{{"type":"File","title":"/first","parameters":{{"content":"x"}}}}, {}, {{"type":"File","title":"/last","parameters":{{"content":"y"}}}}"#,
        hang(&pid)
    );
    let json = format!(r#"{{"name":"n1","environment":"production","resources":[{resources}],"edges":[]}}"#);
    let catalog = Some(Arc::new(PuppetCatalog::read(json.as_bytes()).unwrap()));
    let options = RunOptions { catalog, time_limit: Some(Duration::from_millis(1500)), ..RunOptions::default() };
    let began = Instant::now();
    let outcome = node.agent().run(&options).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!((outcome.status, outcome.exit_code()), (RunStatus::Failed, 6));
    assert!(!outcome.report.transaction_completed);
    assert!(
        outcome.messages.iter().any(|message| message.starts_with("the run took longer than 1.5s")),
        "{:?}",
        outcome.messages
    );
    assert_eq!((node.read("first").as_deref(), node.read("last")), (Some("x"), None));
    let pid = fs::read_to_string(pid).unwrap();
    assert!(!is_alive(pid.trim()), "a child of the command is still there");
    let report = fs::read_to_string(node.dir.path().join("state/last_run_report.yaml")).unwrap();
    assert!(report.contains("\ntransaction_completed: false\n") && report.contains("\nstatus: failed\n"), "{report}");
}

#[tokio::test]
async fn a_resource_that_takes_too_long_fails_alone() {
    let node = Node::new();
    let pid = node.dir.path().join("pid");
    let resources = format!(r#"{}, {{"type":"File","title":"/last","parameters":{{"content":"y"}}}}"#, hang(&pid));
    let json = format!(r#"{{"name":"n1","environment":"production","resources":[{resources}],"edges":[]}}"#);
    let catalog = Some(Arc::new(PuppetCatalog::read(json.as_bytes()).unwrap()));
    let options = RunOptions { catalog, resource_time_limit: Some(Duration::from_millis(1500)), ..RunOptions::default() };
    let outcome = node.agent().run(&options).await.unwrap();
    assert_eq!((outcome.resources.failed, outcome.resources.changed, outcome.report.transaction_completed), (1, 1, true));
    assert!(
        outcome.events().any(|event| event.message.ends_with("Exec[hang]: took longer than 1.5s and was given up")),
        "{:?}",
        outcome.messages
    );
    assert_eq!(node.read("last").as_deref(), Some("y"));
    assert!(!is_alive(fs::read_to_string(pid).unwrap().trim()), "a child of the command is still there");
}

#[tokio::test]
async fn it_converges_and_the_second_run_changes_nothing() {
    let node = Node::new();
    let resources = r#"{"type":"File","title":"/a","parameters":{"content":"one"}},
        {"type":"Foo::Bar","title":"d","kind":"defined_type"},
        {"type":"File","title":"/b","parameters":{"content":{"__ptype":"Binary","__pvalue":"AP8="},"mode":"0600"},"sensitive_parameters":["content"]}"#;
    let first = node.apply(resources).await;
    assert_eq!((first.status, first.answer, first.exit_code()), (RunStatus::Changed, Some(Answer::Given), 2));
    assert_eq!((node.read("a").as_deref(), first.code_id, first.resources.total), (Some("one"), None, 2));
    assert!(first.events().all(|event| !event.corrective_change));
    let second = node.apply(resources).await;
    assert_eq!((second.status, second.exit_code()), (RunStatus::Unchanged, 0));
    // What changed since is drift, and what the catalog says anew is not.
    fs::write(node.dir.path().join("root/a"), "drift").unwrap();
    assert_eq!(node.apply(resources).await.resources.corrective_change, 1);
    let other = node.apply(&resources.replace("one", "two")).await;
    assert_eq!((other.resources.changed, other.resources.corrective_change), (1, 0));
}

#[tokio::test]
async fn it_is_remembered_apart_from_what_the_server_gave() {
    let node = Node::new();
    let from_server = node.agent().run(&RunOptions::default()).await.unwrap();
    node.apply(r#"{"type":"File","title":"/a","parameters":{"content":"one"}}"#).await;
    let cached = node.agent().run(&RunOptions { use_cached_catalog: true, ..RunOptions::default() }).await.unwrap();
    assert_eq!(cached.catalog_id, from_server.catalog_id);
}

#[tokio::test]
async fn a_text_that_is_given_again_is_known_and_makes_the_same_catalog() {
    let node = Node::new();
    let text = |content: &str| {
        let resources = format!(r#"{{"type":"File","title":"/a","parameters":{{"content":"{content}"}}}}"#);
        format!(r#"{{"name":"n1","environment":"production","version":7,"resources":[{resources}],"edges":[]}}"#)
    };
    let apply = async |text: String| {
        let given = GivenCatalog::read(text.as_bytes()).unwrap();
        assert_eq!(given.puppet().version.as_deref(), Some("7"));
        let options = RunOptions { ends_process: true, ..RunOptions::default() };
        node.agent().apply(given, &options, CancellationToken::new()).await.unwrap()
    };
    let catalogs = || {
        let found = fs::read_dir(node.dir.path().join("state/catalog")).unwrap().map(|entry| entry.unwrap().path());
        found.filter(|path| path.extension().is_some_and(|extension| extension == "catalog")).collect::<Vec<_>>()
    };
    let first = apply(text("x")).await;
    assert_eq!((first.status, first.report.configuration_version.as_deref()), (RunStatus::Changed, Some("7")));
    let [held] = &catalogs()[..] else { panic!("{:?}", catalogs()) };
    let whole = fs::read(held).unwrap();
    // What is on disk need not be read. A later run that reads it finds out whether it is whole.
    let mut damaged = whole.clone();
    damaged[0] ^= 1;
    fs::write(held, &damaged).unwrap();
    let second = apply(text("x")).await;
    assert_eq!((second.status, second.catalog_id, second.answer), (RunStatus::Unchanged, first.catalog_id, Some(Answer::Given)));
    assert_eq!(fs::read(held).unwrap(), damaged);
    // Cut off, it is written again.
    fs::write(held, &damaged[1..]).unwrap();
    assert_eq!(apply(text("x")).await.catalog_id, first.catalog_id);
    assert_eq!(fs::read(held).unwrap(), whole);
    let third = apply(text("y")).await;
    assert_eq!((third.status, node.read("a").as_deref()), (RunStatus::Changed, Some("y")));
    assert_ne!(third.catalog_id, first.catalog_id);
    // An intended change, and no drift: what the catalog before wanted is known.
    let events = third.report.resource_statuses.iter().flat_map(|status| &status.events);
    assert!(events.map(|event| event.corrective_change).eq([false]), "{:?}", third.report.resource_statuses);
    assert_eq!(apply(text("y")).await.status, RunStatus::Unchanged);
}

#[tokio::test]
async fn an_unknown_type_fails_alone_and_skips_what_depends_on_it() {
    let mut node = Node::new();
    let resources = r#"{"type":"Frobnicate","title":"x","file":"/m.pp","line":3},
        {"type":"File","title":"/after","parameters":{"content":"x","require":"Frobnicate[x]"}},
        {"type":"File","title":"/bad","parameters":{"contnet":"x"}},
        {"type":"File","title":"relative","parameters":{"content":"x"}},
        {"type":"Notify","title":"later","parameters":{"message":{"__ptype":"Deferred","name":"vault"},"before":"File[/skipped]"}},
        {"type":"File","title":"/skipped","parameters":{"content":"x"}},
        {"type":"File","title":"/good","parameters":{"content":"x"}}"#;
    let outcome = node.apply(resources).await;
    let counters = (outcome.resources.failed, outcome.resources.skipped, outcome.resources.changed);
    assert_eq!((outcome.exit_code(), counters), (6, (4, 2, 1)), "{:?}", outcome.messages);
    assert!(node.read("good").is_some() && node.read("after").is_none() && node.read("skipped").is_none());
    for named in [
        "Frobnicate[x] (/m.pp:3) cannot be managed: there is no type Frobnicate",
        "File[/bad]: parameter contnet",
        "File[relative]: parameter path",
        "Notify[later]: parameter message has a Deferred that calls vault",
        "File[/after]: skipped",
        "File[/skipped]: skipped",
    ] {
        assert!(outcome.messages.iter().any(|message| message.contains(named)), "{named}: {:?}", outcome.messages);
    }
    node.strict_types = true;
    let error = node.try_apply(resources).await.unwrap_err();
    assert!(matches!(error, RunError::NoProvider { .. }), "{error}");
    let deferred = r#"{"type":"Notify","title":"d","parameters":{"message":{"__ptype":"Deferred","name":"vault"}}}"#;
    let error = node.try_apply(deferred).await.unwrap_err();
    assert!(error.to_string().contains("catalog cannot be applied: Notify[d]: parameter message has a Deferred"), "{error}");
}

#[tokio::test]
async fn a_content_that_is_not_there_fails_only_its_file() {
    let node = Node::new();
    let apply = async |json: String| {
        let catalog = Some(Arc::new(PuppetCatalog::read(json.as_bytes()).unwrap()));
        node.agent().run(&RunOptions { catalog, ..RunOptions::default() }).await.unwrap()
    };
    let outcome = apply(with_source("/f", HELLO)).await;
    let counters = (outcome.resources.failed, outcome.resources.skipped, outcome.resources.changed);
    assert_eq!((outcome.exit_code(), counters), (6, (1, 1, 1)), "{:?}", outcome.messages);
    assert!(outcome.messages[0].contains("contents that are on this node"), "{:?}", outcome.messages);
    // It is in place already, whatever its length.
    fs::write(node.dir.path().join("root/f"), "hello").unwrap();
    let outcome = apply(with_source("/f", HELLO)).await;
    assert_eq!((outcome.exit_code(), outcome.resources.changed), (2, 1), "{:?}", outcome.messages);
    let outcome = apply(with_source("/f", HELLO)).await;
    assert_eq!((outcome.exit_code(), outcome.resources.out_of_sync), (0, 0), "{:?}", outcome.messages);
    // A longer one is not it, nor one of the same length.
    for drift in ["hello!", "hallo"] {
        fs::write(node.dir.path().join("root/f"), drift).unwrap();
        assert_eq!(apply(with_source("/f", HELLO)).await.resources.failed, 1, "{drift}");
    }
}

#[tokio::test]
async fn a_cycle_is_told_and_drawn() {
    let node = Node::new();
    let catalog = PuppetCatalog::read(include_bytes!("data/puppet/node-cycle1.json")).unwrap();
    let agent = Agent::builder()
        .transport(support::serve("cycle1.lab.test", Vec::new(), &[]))
        .certname("cycle1.lab.test".parse().unwrap())
        .root(node.dir.path().join("root"))
        .state_dir(node.dir.path().join("state"))
        .build()
        .unwrap();
    let error = agent.run(&RunOptions { catalog: Some(Arc::new(catalog)), ..RunOptions::default() }).await.unwrap_err();
    let RunError::Graph(cycle) = error else { panic!("{error}") };
    assert!(cycle.to_string().contains("Notify[b] => Notify[a]"), "{cycle}");
    let dot = fs::read_to_string(node.dir.path().join("state/graphs/cycles.dot")).unwrap();
    assert!(dot.contains("\"Notify[b]\" -> \"Notify[a]\""), "{dot}");
}

#[tokio::test]
async fn schedules_hold_resources_back() {
    let node = Node::new();
    let resources = r#"{"type":"Schedule","title":"odd","parameters":{"period":"never"}},
        {"type":"Schedule","title":"bad","parameters":{"range":"25 - 26"}},
        {"type":"Notify","title":"each run"},
        {"type":"Notify","title":"daily","parameters":{"schedule":"daily"}},
        {"type":"Notify","title":"never","parameters":{"schedule":"odd"}},
        {"type":"Notify","title":"after never","parameters":{"require":"Notify[never]"}},
        {"type":"Notify","title":"unknown","parameters":{"schedule":"nope"}},
        {"type":"Notify","title":"useless","parameters":{"schedule":"bad"}},
        {"type":"Class","title":"c","parameters":{"noop":true}},
        {"type":"Notify","title":"inside","parameters":{"loglevel":"debug"}}"#;
    let edges = r#"{"source":"Class[c]","target":"Notify[inside]"}"#;
    let json = format!(r#"{{"name":"n1","resources":[{resources}],"edges":[{edges}]}}"#);
    let catalog = Arc::new(PuppetCatalog::read(json.as_bytes()).unwrap());
    let apply = async || {
        let options = RunOptions { catalog: Some(Arc::clone(&catalog)), ..RunOptions::default() };
        let outcome = node.agent().run(&options).await.unwrap();
        let (told, failed): (Vec<_>, Vec<_>) = outcome.events().partition(|event| !event.property.is_empty());
        assert_eq!(failed.len(), 3, "{failed:?}");
        let told: Vec<_> = told.iter().map(|event| format!("{} {:?}", event.resource, event.status)).collect();
        (told, outcome)
    };
    let (told, outcome) = apply().await;
    let first = ["Notify[each run] Success", "Notify[daily] Success", "Notify[after never] Success", "Notify[inside] Noop"];
    assert_eq!(told, first);
    assert_eq!((outcome.resources.skipped, outcome.resources.failed), (1, 3), "{:?}", outcome.messages);
    for named in
        ["Schedule[bad]: parameter range", "Notify[unknown]: its schedule \"nope\"", "Notify[useless]: its schedule cannot"]
    {
        assert!(outcome.messages.iter().any(|message| message.contains(named)), "{named}: {:?}", outcome.messages);
    }
    assert!(outcome.events().all(|event| event.loglevel.is_some() == (event.resource == "Notify[inside]")));
    let (told, outcome) = apply().await;
    assert_eq!((told, outcome.resources.skipped), (first[..1].iter().chain(&first[2..]).map(ToString::to_string).collect(), 2));
}

#[tokio::test]
async fn audited_properties_are_compared_with_the_last_run() {
    let node = Node::new();
    let resources = r#"{"type":"File","title":"/a","parameters":{"audit":["mode","content","nothing"],"loglevel":"info"}},
        {"type":"File","title":"/b","parameters":{"content":"x","audit":"all"}},
        {"type":"Exec","title":"/bin/true","parameters":{"audit":"all","creates":"/"}}"#;
    let told = |outcome: &Outcome| -> Vec<String> {
        outcome.events().map(|event| format!("{} {:?} {}", event.resource, event.status, event.message)).collect()
    };
    let path = node.dir.path().join("root/a");
    fs::write(&path, "one").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let first = node.apply(resources).await;
    assert_eq!(told(&first).len(), 1, "{:?}", told(&first));
    assert!(first.messages.iter().any(|message| message.contains("audit names nothing")), "{:?}", first.messages);
    assert!(first.messages.iter().any(|message| message.contains("type Exec does not tell")), "{:?}", first.messages);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let second = node.apply(resources).await;
    let mode = "File[/a] Audit audit change: previously recorded value '0644' has been changed to '0600'";
    // The other file was not there when the first run looked.
    assert_eq!(told(&second)[0], mode);
    assert!(told(&second)[1..].iter().all(|told| told.contains("File[/b] Audit") && told.contains("'absent' has been changed")));
    assert_eq!((second.exit_code(), second.status, second.resources.out_of_sync), (0, RunStatus::Unchanged, 0));
    assert_eq!(told(&node.apply(resources).await), Vec::<String>::new());
    // What is changed by the run is told as a change only.
    fs::write(node.dir.path().join("root/b"), "drift").unwrap();
    let drift = node.apply(resources).await;
    assert_eq!(told(&drift).len(), 1, "{:?}", told(&drift));
    assert!(told(&drift)[0].contains("File[/b] Success"));
}

#[tokio::test]
async fn a_failure_reaches_past_what_tags_leave_out() {
    let node = Node::new();
    let json = r#"{"name":"n1","resources":[
        {"type":"Exec","title":"fails","tags":["wanted"],"parameters":{"command":"/bin/false"}},
        {"type":"Notify","title":"between","parameters":{"require":"Exec[fails]"}},
        {"type":"Notify","title":"end","tags":["wanted"],"parameters":{"require":"Notify[between]"}}]}"#;
    let catalog = Some(Arc::new(PuppetCatalog::read(json.as_bytes()).unwrap()));
    let options = RunOptions { catalog, tags: vec!["wanted".to_owned()], ..RunOptions::default() };
    let outcome = node.agent().run(&options).await.unwrap();
    assert_eq!((outcome.resources.failed, outcome.resources.skipped, outcome.resources.changed), (1, 2, 0));
}

#[tokio::test]
async fn what_was_left_below_a_directory_outlives_a_run_that_passes_it_over() {
    let node = Node::new();
    fs::create_dir(node.dir.path().join("root/t")).unwrap();
    fs::write(node.dir.path().join("root/t/c"), "").unwrap();
    fs::set_permissions(node.dir.path().join("root/t/c"), fs::Permissions::from_mode(0o600)).unwrap();
    let json = r#"{"name":"n1","resources":[
        {"type":"File","title":"/t","parameters":{"ensure":"directory","recurse":true,"mode":"0644","noop":true}},
        {"type":"Notify","title":"other","tags":["other"],"parameters":{}}]}"#;
    let catalog = Some(Arc::new(PuppetCatalog::read(json.as_bytes()).unwrap()));
    let store = || fs::read_to_string(node.dir.path().join("state/transactionstore.yaml")).unwrap();
    let run = async |tags: &[&str]| {
        let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        let outcome = node.agent().run(&RunOptions { catalog: catalog.clone(), tags, ..RunOptions::default() }).await.unwrap();
        outcome.events().filter(|event| event.resource == "File[/t/c]").map(|event| event.corrective_change).collect::<Vec<_>>()
    };
    assert_eq!(run(&[]).await, [false]);
    let left = store();
    assert!(left.contains("File[/t/c]"), "{left}");
    for _ in 0..2 {
        assert!(run(&["other"]).await.is_empty());
        assert_eq!(store(), left);
    }
    assert_eq!(run(&[]).await, [false], "nobody has changed it");
}

#[tokio::test]
async fn it_must_be_for_this_node() {
    let node = Node::new();
    let catalog = PuppetCatalog::read(br#"{"name":"n2","resources":[]}"#).unwrap();
    let options = RunOptions { catalog: Some(Arc::new(catalog)), ..RunOptions::default() };
    let error = node.agent().run(&options).await.unwrap_err();
    assert!(error.to_string().contains("it is for node n2, this is n1"), "{error}");
}

/// Condition commands may change what was looked at ahead of them: with a limit of time for each resource nothing is, so that this says what
/// must come out.
#[tokio::test]
async fn what_a_condition_changes_is_seen_by_what_comes_after() {
    for place in [0, 1, 2, 3, 6, 8, 13] {
        let mut outcomes = Vec::new();
        for resource_time_limit in [Some(Duration::from_secs(60)), None] {
            let node = Node::new();
            let root = node.dir.path().join("root");
            fs::write(root.join("marker"), "").unwrap();
            let created = |title: &str| {
                format!(r#"{{"type":"Exec","title":"{title}","parameters":{{"command":"/bin/true","creates":"/marker"}}}}"#)
            };
            let mut resources: Vec<String> = (0..14).map(|number| created(&format!("quiet {number}"))).collect();
            let removes = format!("rm -f {}", root.join("marker").display());
            resources[place] = format!(
                r#"{{"type":"Exec","title":"probe","parameters":{{"command":"/bin/false","unless":"{removes}","provider":"shell"}}}}"#
            );
            resources.push(created("last"));
            let json = format!(r#"{{"name":"n1","environment":"production","resources":[{}],"edges":[]}}"#, resources.join(","));
            let catalog = Some(Arc::new(PuppetCatalog::read(json.as_bytes()).unwrap()));
            let options = RunOptions { catalog, resource_time_limit, ..RunOptions::default() };
            let outcome = node.agent().run(&options).await.unwrap();
            assert_eq!(outcome.resources.failed, 0, "{:?}", outcome.messages);
            outcomes.push(outcome.resources.changed);
        }
        assert_eq!(outcomes, [14 - place as u64; 2], "probe at {place}");
    }
}
