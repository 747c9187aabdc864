//! Plans as files, and when they are refused.

use clap::Parser as _;

use super::*;

#[derive(Debug, clap::Parser)]
struct Line {
    #[command(flatten)]
    common: Common,
}

/// A node with a catalog of Puppet's in a file.
struct Node {
    dir: tempfile::TempDir,
    common: Common,
}

impl Node {
    fn new(content: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        let root = dir.path().join("root");
        let common = Line::try_parse_from(["x", "--json", "--root", root.to_str().unwrap()]).unwrap().common;
        let node = Self { dir, common };
        node.write(content);
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, content: &str) {
        let secret = json!({"__ptype": "Sensitive", "__pvalue": "hunter2-in-clear"});
        let catalog = json!({"name": "n1", "environment": "production", "edges": [], "resources": [
            {"type": "File", "title": "/a", "parameters": {"content": content}},
            {"type": "File", "title": "/secret", "parameters": {"content": secret}},
        ]});
        std::fs::write(self.path("catalog.json"), catalog.to_string()).unwrap();
    }

    async fn plan(&self) -> Plan {
        let source = Source::Catalog(self.path("catalog.json"));
        let options = RunOptions { noop: true, report: false, ..RunOptions::default() };
        let outcome = source.run(&self.common, options).await.unwrap();
        Plan::of(&self.common, source, Vec::new(), &outcome).unwrap()
    }

    async fn apply(&self, plan: Plan) -> anyhow::Result<Outcome> {
        plan.apply(&self.common, RunOptions::default()).await
    }
}

#[tokio::test]
async fn a_plan_is_applied_as_it_was_written() {
    let node = Node::new("one");
    let plan = node.plan().await;
    // Both are made, and of one it is known what it holds.
    assert_eq!(plan.changes.len(), 3);
    let file = node.path("plan");
    plan.write(&file).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert!(!std::fs::read_to_string(&file).unwrap().contains("hunter2"), "a secret is in the plan");
    assert!(!node.path("root/a").exists(), "a plan changes nothing");
    let outcome = node.apply(Plan::read(&file).unwrap()).await.unwrap();
    assert_eq!((outcome.resources.changed, outcome.exit_code()), (2, 2));
    assert_eq!(std::fs::read_to_string(node.path("root/a")).unwrap(), "one");
    // It is done: the plan does not fit any more.
    let error = node.apply(plan).await.unwrap_err().to_string();
    assert!(
        error.starts_with(
            "the node has changed since the plan was made: no longer File[/a]/content: absent -> defined content as"
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_node_that_changed_is_refused_and_left_alone() {
    let node = Node::new("one");
    let plan = node.plan().await;
    std::fs::write(node.path("root/a"), "drift").unwrap();
    let error = node.apply(plan).await.unwrap_err().to_string();
    assert!(error.contains("now File[/a]/content: {"), "{error}");
    assert_eq!(std::fs::read_to_string(node.path("root/a")).unwrap(), "drift");
    assert!(!node.path("root/secret").exists());
}

#[tokio::test]
async fn what_a_new_file_would_hold_is_part_of_the_plan() {
    let node = Node::new("one");
    std::fs::write(node.path("root/from"), "planned").unwrap();
    std::fs::create_dir(node.path("root/tree")).unwrap();
    std::fs::write(node.path("root/tree/a"), "planned").unwrap();
    let catalog = json!({"name": "n1", "environment": "production", "edges": [], "resources": [
        {"type": "File", "title": "/made", "parameters": {"source": "/from"}},
        {"type": "File", "title": "/copied", "parameters": {"source": "/tree", "recurse": true}},
    ]});
    std::fs::write(node.path("catalog.json"), catalog.to_string()).unwrap();
    let plan = node.plan().await;
    for changed in ["root/from", "root/tree/a"] {
        std::fs::write(node.path(changed), "EVIL").unwrap();
        let error = node.apply(plan.clone()).await.unwrap_err().to_string();
        assert!(error.contains("now File[") && error.contains("/content: absent -> defined content as"), "{error}");
        assert!(!node.path("root/made").exists() && !node.path("root/copied").exists());
        std::fs::write(node.path(changed), "planned").unwrap();
    }
    node.apply(plan).await.unwrap();
    assert_eq!(std::fs::read_to_string(node.path("root/copied/a")).unwrap(), "planned");
}

#[tokio::test]
async fn a_refresh_is_part_of_the_plan() {
    let node = Node::new("one");
    let catalog = json!({"name": "n1", "environment": "production", "edges": [], "resources": [
        {"type": "File", "title": "/a", "parameters": {"content": "one", "notify": "Exec[clean]"}},
        {"type": "Exec", "title": "clean", "parameters": {"command": "/bin/true", "refreshonly": true}},
    ]});
    std::fs::write(node.path("catalog.json"), catalog.to_string()).unwrap();
    let plan = node.plan().await;
    let planned: Vec<String> = plan.changes.iter().map(ToString::to_string).collect();
    assert_eq!((planned.len(), planned[0].as_str()), (3, "Exec[clean]: a refresh"), "{planned:?}");
    let without = Plan {
        changes: plan.changes.iter().filter(|change| change.resource != "Exec[clean]").cloned().collect(),
        ..plan.clone()
    };
    let error = node.apply(without).await.unwrap_err().to_string();
    assert!(error.contains("now Exec[clean]: a refresh: make a new plan"), "{error}");
    let outcome = node.apply(plan).await.unwrap();
    assert_eq!((outcome.resources.changed, outcome.resources.restarted), (2, 1), "{:?}", outcome.messages);
}

#[tokio::test]
async fn what_cannot_be_looked_at_is_named_and_not_planned() {
    let node = Node::new("one");
    let catalog = json!({"name": "n1", "environment": "production", "edges": [], "resources": [
        {"type": "Exec", "title": "x", "parameters": {"command": "/bin/true", "unless": "/nonexistent/cmd"}},
    ]});
    std::fs::write(node.path("catalog.json"), catalog.to_string()).unwrap();
    let source = Source::Catalog(node.path("catalog.json"));
    let outcome = source.run(&node.common, RunOptions { noop: true, report: false, ..RunOptions::default() }).await.unwrap();
    let error = Plan::of(&node.common, source, Vec::new(), &outcome).unwrap_err().to_string();
    assert!(
        error.contains("1 resources could not be looked at (Exec[x]: ")
            && error.contains("/nonexistent/cmd")
            && error.contains("plan again"),
        "{error}"
    );
}

#[tokio::test]
async fn a_catalog_that_changed_is_refused() {
    let node = Node::new("one");
    let plan = node.plan().await;
    node.write("two");
    let error = node.apply(plan.clone()).await.unwrap_err().to_string();
    assert!(error.starts_with("the catalog has changed since the plan was made"), "{error}");
    assert!(!node.path("root/a").exists());
    let other = Common { environment: Some("testing".parse().unwrap()), ..node.common.clone() };
    let error = plan.apply(&other, RunOptions::default()).await.unwrap_err().to_string();
    assert!(error.contains("--environment production"), "{error}");
}

#[tokio::test]
async fn a_catalog_that_changes_between_look_and_apply_is_refused_before_anything_is_touched() {
    let node = Node::new("one");
    let plan = node.plan().await;
    let common = plan.common(&node.common).unwrap();
    let now = plan.source.run(&common, RunOptions { noop: true, report: false, ..RunOptions::default() }).await.unwrap();
    plan.check(&now).unwrap();
    node.write("two");
    let error = plan.make(&common, RunOptions::default()).await.unwrap_err().to_string();
    assert!(error.starts_with("the catalog has changed while the plan was looked at"), "{error}");
    assert!(!node.path("root/a").exists() && !node.path("root/secret").exists());
    // It does not count as held either.
    node.write("one");
    assert_eq!(node.apply(plan).await.unwrap().resources.changed, 2);
}

#[tokio::test]
async fn damage_is_found() {
    let node = Node::new("one");
    let file = node.path("plan");
    node.plan().await.write(&file).unwrap();
    let whole = std::fs::read_to_string(&file).unwrap();
    for (text, said) in [
        (whole.replace("File[/a]", "File[/b]"), "its checksum does not fit"),
        (whole.replace("\"version\": 1", "\"version\": 2"), "has version 2"),
        (whole.replace("direct-puppet plan", "something else"), "is no plan of"),
        (whole[..whole.len() / 2].to_owned(), "is no plan, or a damaged one"),
        (String::new(), "is no plan, or a damaged one"),
        ("{}".to_owned(), "is no plan of"),
    ] {
        std::fs::write(&file, text).unwrap();
        let error = format!("{:#}", Plan::read(&file).unwrap_err());
        assert!(error.contains(said), "{said}: {error}");
    }
    assert!(Plan::read(&node.path("none")).is_err());
}
