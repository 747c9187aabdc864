//! What a run tells of resources: what commands say, what could not be looked at, what heard of a change, and no secret.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use direct_puppet_agent::provider::{Applied, Change, Checked, Context, Provider, ProviderError};
use direct_puppet_agent::puppet_report::{Line, PuppetReport, lines};
use direct_puppet_agent::{Agent, LineListener, Outcome, PuppetCatalog, RunOptions};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use direct_puppet_transport::protocol::{Resource, Value};

#[path = "../examples/support/mod.rs"]
mod support;

/// A type that says all that it knows when it fails: while it is looked at, changed or refreshed.
#[derive(Debug)]
struct Babbler;

fn text<'a>(resource: &'a Resource, name: &str) -> &'a str {
    resource.parameter(name).and_then(Value::as_str).unwrap_or_default()
}

impl Babbler {
    fn fail(resource: &Resource) -> ProviderError {
        let source = format!("it said {}", text(resource, "password").split(' ').next_back().unwrap()).into();
        ProviderError::Failed { resource: resource.reference(), attempt: "babble".to_owned(), source }
    }
}

#[async_trait]
impl Provider for Babbler {
    fn resource_type(&self) -> &str {
        "Babbler"
    }

    fn validate(&self, _resource: &Resource) -> Result<(), ProviderError> {
        Ok(())
    }

    async fn check(&self, _context: &Context, resource: &Arc<Resource>) -> Result<Checked, ProviderError> {
        let change = || Change {
            resource: resource.reference(),
            property: "level".into(),
            previous: "low".into(),
            desired: text(resource, "level").to_owned().into(),
            diff: None,
            redacted: false,
            wording: None,
        };
        match text(resource, "when") {
            "check" => Err(Self::fail(resource)),
            "refresh" => Ok(Checked { resources: 1, ..Checked::default() }),
            _ => Ok(Checked { resources: 1, changes: vec![change()], ..Checked::default() }),
        }
    }

    async fn apply(&self, _context: &Context, resource: &Arc<Resource>, _changes: &[Change]) -> Result<Applied, ProviderError> {
        match text(resource, "when") {
            "apply" => Err(Self::fail(resource)),
            "one" => {
                let reason = format!("it said {}", text(resource, "password"));
                Ok(Applied { failures: [(0, reason)].into(), ..Applied::default() })
            }
            _ => Ok(Applied::default()),
        }
    }

    async fn refresh(&self, _context: &Context, resource: &Arc<Resource>) -> Result<bool, ProviderError> {
        Err(Self::fail(resource))
    }
}

struct Node(TempDir);

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        Self(dir)
    }

    async fn apply(&self, resources: Json, edges: Json) -> Outcome {
        self.run(resources, edges, RunOptions::default()).await
    }

    async fn run(&self, resources: Json, edges: Json, options: RunOptions) -> Outcome {
        let json = json!({"name": "n1", "environment": "production", "resources": resources, "edges": edges}).to_string();
        let agent = Agent::builder()
            .transport(support::serve("n1", Vec::new(), &[]))
            .certname("n1".parse().unwrap())
            .root(self.0.path().join("root"))
            .state_dir(self.0.path().join("state"))
            .provider(Babbler)
            .build()
            .unwrap();
        let catalog = Some(Arc::new(PuppetCatalog::read(json.as_bytes()).unwrap()));
        agent.run(&RunOptions { catalog, ..options }).await.unwrap()
    }
}

fn exec(title: &str, parameters: Json) -> Json {
    json!({"type": "Exec", "title": title, "parameters": parameters})
}

/// Returns the console's lines about resources.
fn console(outcome: &Outcome) -> Vec<String> {
    lines(&outcome.report).filter(|line| !line.is_own()).map(|line| line.to_string()).collect()
}

/// Returns options with which each line is heard, and where they are then.
fn heard() -> (RunOptions, Arc<Mutex<Vec<String>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let lines = LineListener::new({
        let heard = Arc::clone(&heard);
        move |line: &Line<'_>| heard.lock().unwrap().push(told(line))
    });
    (RunOptions { lines, show_diff: true, ..RunOptions::default() }, heard)
}

/// Returns all of a line but when it was said.
fn told(line: &Line<'_>) -> String {
    format!("{line} {:?} {:?}", line.tags(), line.status.map(|status| (&status.file, status.line)))
}

fn report(outcome: &Outcome) -> Json {
    serde_json::to_value(PuppetReport(&outcome.report)).unwrap()
}

#[tokio::test]
async fn what_a_command_says_is_told_line_by_line_at_the_level_of_the_resource() {
    let secret = json!({"__ptype": "Sensitive", "__pvalue": "/bin/echo hunter2"});
    let resources = json!([
        {"type": "Stage", "title": "main"},
        {"type": "Class", "title": "main"},
        exec("t", json!({"command": "/bin/echo hello; /bin/echo; /bin/echo File[/a]: x", "logoutput": true, "loglevel": "warning"})),
        exec("quiet", json!({"command": "/bin/echo nothing", "require": "Exec[t]"})),
        exec("secret", json!({"command": secret, "logoutput": true, "require": "Exec[quiet]"})),
        exec("again", json!({"command": "/bin/echo again", "refreshonly": true, "logoutput": true, "subscribe": "Exec[secret]"})),
        exec("bad", json!({"command": "/bin/echo why; exit 4", "require": "Exec[again]"})),
        exec("never", json!({"command": "/bin/echo why; exit 4", "logoutput": false, "require": "Exec[again]", "noop": false})),
    ]);
    let edges = json!([{"source": "Stage[main]", "target": "Class[main]"}, {"source": "Class[main]", "target": "Exec[t]"}]);
    let outcome = Node::new().apply(resources, edges).await;
    let failed = "'/bin/echo why; exit 4' returned 4 instead of one of [0]";
    assert_eq!(
        console(&outcome),
        [
            "Warning: /Stage[main]/Main/Exec[t]/returns: hello".to_owned(),
            "Warning: /Stage[main]/Main/Exec[t]/returns: ".to_owned(),
            "Warning: /Stage[main]/Main/Exec[t]/returns: File[/a]: x".to_owned(),
            "Warning: /Stage[main]/Main/Exec[t]/returns: executed successfully".to_owned(),
            "Notice: /Exec[quiet]/returns: executed successfully".to_owned(),
            "Notice: /Exec[secret]/returns: [output redacted]".to_owned(),
            "Notice: /Exec[secret]/returns: executed successfully".to_owned(),
            "Notice: /Exec[again]/returns: again".to_owned(),
            "Notice: /Exec[again]: Triggered 'refresh' from 1 event".to_owned(),
            "Notice: /Exec[bad]/returns: why".to_owned(),
            format!("Error: /Exec[bad]/returns: change from 'notrun' to ['0'] failed: {failed}"),
            format!("Error: /Exec[never]/returns: change from 'notrun' to ['0'] failed: {failed}"),
        ]
    );
    let report = report(&outcome);
    assert!(!report.to_string().contains("hunter2"));
    let said: Vec<&Json> = report["logs"].as_array().unwrap().iter().filter(|log| log["message"] == "hello").collect();
    assert_eq!(said[0]["source"], "/Stage[main]/Main/Exec[t]/returns");
    assert!(said[0]["tags"].as_array().unwrap().contains(&"exec".into()), "{:?}", said[0]);
    assert_eq!(report["resource_statuses"]["Exec[t]"]["containment_path"], json!(["Stage[main]", "Main", "Exec[t]"]));
    assert_eq!(report["resource_statuses"]["Exec[t]"]["events"][0]["desired_value"], json!(["0"]));
}

#[tokio::test]
async fn what_cannot_be_looked_at_has_an_event() {
    let resources = json!([
        exec("x", json!({"command": "/bin/true", "unless": "/nonexistent/cmd"})),
        {"type": "File", "title": "/f", "parameters": {"ensure": "file", "owner": "nosuchuser-at-all"}},
        {"type": "File_line", "title": "l", "parameters": {"path": "/none", "line": "a"}},
        {"type": "Nothing", "title": "known"},
    ]);
    let outcome = Node::new().apply(resources, json!([])).await;
    let failed = u64::from(rustix::process::geteuid().is_root()) + 3;
    assert_eq!(
        (outcome.resources.failed, outcome.resources.out_of_sync, outcome.resources.changed),
        (failed, failed, 4 - failed)
    );
    let report = report(&outcome);
    let status = &report["resource_statuses"]["Exec[x]"];
    let flags = ["failed", "out_of_sync", "changed", "out_of_sync_count", "change_count"].map(|flag| status[flag].clone());
    assert_eq!(flags, [json!(true), json!(true), json!(false), json!(1), json!(0)]);
    let event = &status["events"][0];
    let reason = "Could not find command '/nonexistent/cmd'";
    let keys =
        ["name", "status", "message", "property", "previous_value", "desired_value", "audited"].map(|key| event[key].clone());
    assert_eq!(
        keys,
        [json!("resource_error"), json!("failure"), json!(reason), Json::Null, Json::Null, Json::Null, json!(false)]
    );
    let console = console(&outcome);
    assert!(console.contains(&format!("Error: /Exec[x]: Could not evaluate: {reason}")), "{console:?}");
    assert_eq!(console.len(), 4, "{console:?}");
    assert!(outcome.messages.contains(&format!("Exec[x]: {reason}")), "{:?}", outcome.messages);
    let events = report["metrics"]["events"]["values"].as_array().unwrap();
    assert!(events.iter().any(|value| value[0] == "failure" && value[2] == json!(failed)), "{events:?}");
}

#[tokio::test]
async fn an_anchor_is_a_place_in_the_order_and_hands_on_what_it_hears() {
    let node = Node::new();
    let anchor = |title: &str, parameters: Json| json!({"type": "Anchor", "title": title, "parameters": parameters});
    let resources = json!([
        exec("last", json!({"command": "/bin/touch heard", "refreshonly": true, "subscribe": "Anchor[end]"})),
        anchor("end", json!({"subscribe": "Exec[first]"})),
        exec("first", json!({"command": "/bin/true", "require": "Anchor[begin]"})),
        anchor("begin", json!({})),
    ]);
    let outcome = node.apply(resources, json!([])).await;
    let events: Vec<_> = outcome.events().map(|event| format!("{}: {}", event.resource, event.message)).collect();
    let refreshed = |name: &str| format!("{name}: Triggered 'refresh' from 1 event");
    assert_eq!(events, ["Exec[first]: executed successfully".to_owned(), refreshed("Anchor[end]"), refreshed("Exec[last]")]);
    assert_eq!(outcome.resources.failed, 0);
    let unknown = node.apply(json!([anchor("x", json!({"ensure": "present"}))]), json!([])).await;
    assert_eq!(unknown.resources.failed, 1);
}

#[tokio::test]
async fn a_refresh_for_which_there_was_nothing_to_do_is_heard_and_passed_on() {
    let node = Node::new();
    std::fs::write(node.0.path().join("root/there"), "").unwrap();
    let resources = json!([
        exec("first", json!({"command": "/bin/true"})),
        exec("middle", json!({"command": "/bin/false", "creates": "/there", "subscribe": "Exec[first]"})),
        exec("last", json!({"command": "/bin/touch heard", "refreshonly": true, "subscribe": "Exec[middle]"})),
    ]);
    let outcome = node.apply(resources, json!([])).await;
    let events: Vec<_> = outcome.events().map(|event| format!("{}: {}", event.resource, event.message)).collect();
    let refreshed = |name: &str| format!("Exec[{name}]: Triggered 'refresh' from 1 event");
    assert_eq!(events, ["Exec[first]: executed successfully".to_owned(), refreshed("middle"), refreshed("last")]);
    assert!(node.0.path().join("root/heard").exists());
}

#[tokio::test]
async fn in_noop_a_refresh_is_told_and_is_no_event() {
    let resources = json!([
        {"type": "Stage", "title": "main"},
        {"type": "Class", "title": "a"},
        {"type": "File", "title": "/new", "parameters": {"ensure": "file", "content": "x", "notify": "Exec[rm]"}},
        exec("rm", json!({"command": "/bin/rm -f precious", "refreshonly": true, "loglevel": "warning"})),
        exec("after", json!({"command": "/bin/true", "refreshonly": true, "subscribe": ["Class[a]", "Exec[rm]"]})),
    ]);
    let edges = json!([{"source": "Stage[main]", "target": "Class[a]"}, {"source": "Class[a]", "target": "File[/new]"}]);
    let outcome = Node::new().run(resources, edges, RunOptions { noop: true, ..RunOptions::default() }).await;
    assert_eq!(
        console(&outcome),
        [
            "Notice: /Stage[main]/A/File[/new]/ensure: current_value 'absent', should be 'file' (noop)",
            "Notice: /Exec[rm]: Would have triggered 'refresh' from 1 event",
            "Notice: /Exec[after]: Would have triggered 'refresh' from 2 events",
        ]
    );
    let events: Vec<_> = outcome.events().map(|event| event.resource.as_str()).collect();
    let pending: Vec<_> = outcome.pending_refreshes().map(|event| event.resource.as_str()).collect();
    assert_eq!((events, pending), (vec!["File[/new]"], vec!["Exec[rm]", "Exec[after]"]));
    assert_eq!((outcome.resources.out_of_sync, outcome.exit_code()), (1, 2));
    let report = report(&outcome);
    assert_eq!(report["resource_statuses"]["Exec[rm]"]["events"], json!([]));
    let whole = serde_json::to_value(&outcome).unwrap();
    assert_eq!(whole["events"].as_array().unwrap().len(), 3, "programs see what would be run");
}

#[tokio::test]
async fn a_refresh_from_changes_in_noop_alone_is_not_made() {
    let resources = json!([
        exec("first", json!({"command": "/bin/true", "noop": true})),
        exec("real", json!({"command": "/bin/true"})),
        exec("last", json!({"command": "/bin/touch heard", "refreshonly": true, "subscribe": "Exec[first]"})),
        exec("both", json!({"command": "/bin/true", "refreshonly": true, "subscribe": ["Exec[real]", "Exec[first]"]})),
    ]);
    let node = Node::new();
    let outcome = node.apply(resources, json!([])).await;
    let console = console(&outcome);
    assert!(console.contains(&"Notice: /Exec[last]: Would have triggered 'refresh' from 1 event".to_owned()), "{console:?}");
    assert!(console.contains(&"Notice: /Exec[both]: Triggered 'refresh' from 2 events".to_owned()), "{console:?}");
    assert!(!node.0.path().join("root/heard").exists());
}

#[tokio::test]
async fn each_line_is_heard_once_as_the_report_has_it() {
    let node = Node::new();
    std::fs::write(node.0.path().join("root/motd"), "old\n").unwrap();
    let resources = json!([
        {"type": "Stage", "title": "main"},
        {"type": "Class", "title": "main"},
        {"type": "Notify", "title": "a", "file": "/site.pp", "line": 3, "tags": ["notify", "main"], "parameters": {"message": "l1\nl2"}},
        {"type": "File", "title": "/motd", "file": "/site.pp", "line": 4, "parameters": {"content": "new\n", "require": "Notify[a]"}},
        exec("says", json!({"command": "/bin/echo hello", "logoutput": true, "audit": "all", "require": "File[/motd]"})),
        exec("bad", json!({"command": "/bin/false", "require": "Exec[says]"})),
        exec("skipped", json!({"command": "/bin/true", "require": "Exec[bad]"})),
        {"type": "Nothing", "title": "known", "parameters": {"require": "Exec[says]"}},
        exec("again", json!({"command": "/bin/true", "refreshonly": true, "subscribe": "File[/motd]"})),
    ]);
    let edges = json!([
        {"source": "Stage[main]", "target": "Class[main]"},
        {"source": "Class[main]", "target": "Notify[a]"},
        {"source": "Class[main]", "target": "File[/motd]"},
    ]);
    let (options, heard) = heard();
    let outcome = node.run(resources, edges, options).await;
    let heard = std::mem::take(&mut *heard.lock().unwrap());
    let all: Vec<String> = lines(&outcome.report).map(|line| told(&line)).collect();
    assert_eq!(heard, all);
    let console = console(&outcome);
    let at = console.iter().position(|line| line.contains("/File[/motd]/content: content changed")).unwrap();
    let diff = "Notice: /Stage[main]/Main/File[/motd]/content: \n--- ";
    assert!(console[at - 1].starts_with(diff) && console[at - 1].ends_with("\n-old\n+new\n"), "{:?}", console[at - 1]);
    let skipped = "Warning: /Exec[skipped]: Skipping because of failed dependencies".to_owned();
    assert!(console.contains(&skipped), "a warning stays one in a run that failed: {console:?}");
    let report = report(&outcome);
    let logs = report["logs"].as_array().unwrap();
    let diff = logs.iter().find(|log| log["message"].as_str().unwrap().starts_with("\n--- ")).unwrap();
    assert_eq!((&diff["level"], &diff["file"], &diff["line"]), (&json!("notice"), &json!("/site.pp"), &json!(4)));
}

#[tokio::test]
async fn no_provider_can_tell_a_secret() {
    let secret = json!({"__ptype": "Sensitive", "__pvalue": "open with hunter2"});
    let babbler = |when: &str, secret: &Json| {
        let parameters = json!({"password": secret, "level": "high", "when": when, "subscribe": "Exec[first]"});
        json!({"type": "Babbler", "title": when, "parameters": parameters})
    };
    let all = |secret: &Json| {
        json!([
            exec("first", json!({"command": "/bin/true"})),
            babbler("check", secret),
            babbler("apply", secret),
            babbler("one", secret),
            babbler("refresh", secret),
        ])
    };
    let outcome = Node::new().apply(all(&secret), json!([])).await;
    let told = format!("{:?}{:?}{}", outcome.messages, console(&outcome), report(&outcome));
    assert!(!told.contains("hunter2"), "{told}");
    for words in [
        "Babbler[check]: babble: [redacted]",
        "change from 'low' to 'high' failed: [redacted]",
        "change from 'low' to 'high' failed: Babbler[apply]: babble: [redacted]",
        "Failed to call refresh: Babbler[refresh]: babble: [redacted]",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    let open = Node::new().apply(all(&json!("open with hunter2")), json!([])).await;
    assert!(format!("{:?}", open.messages).matches("it said hunter2").count() >= 3, "without a secret, all is told");

    let secret = json!({"__ptype": "Sensitive", "__pvalue": "high"});
    let resource = json!({"type": "Babbler", "title": "level", "parameters": {"level": secret}});
    let outcome = Node::new().apply(json!([resource]), json!([])).await;
    assert_eq!(console(&outcome), ["Notice: /Babbler[level]/level: changed [redacted] to [redacted]"]);
    assert!(!report(&outcome).to_string().contains("high"));
}
