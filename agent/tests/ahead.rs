//! Checks that run ahead: each answer counts once, and none is thrown away without need.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use direct_puppet_agent::provider::{Applied, Change, Checked, Context, Provider, ProviderError};
use direct_puppet_agent::{Agent, PuppetCatalog, RunOptions};
use direct_puppet_transport::protocol::Resource;
use serde_json::{Value as Json, json};

#[path = "../examples/support/mod.rs"]
mod support;

/// How often a resource was looked at ahead, and in its turn.
type Looks = BTreeMap<String, (u32, u32)>;

/// A type that counts how it is looked at. One that `runs` something does so where its `creates` is not said to be there.
#[derive(Debug, Clone, Default)]
struct Counted(Arc<Mutex<Looks>>);

impl Counted {
    fn count(&self, resource: &Resource, add: impl Fn(&mut (u32, u32))) -> Checked {
        add(self.0.lock().unwrap().entry(resource.title.clone()).or_default());
        Checked { resources: 1, ..Checked::default() }
    }
}

#[async_trait]
impl Provider for Counted {
    fn resource_type(&self) -> &str {
        "Counted"
    }

    fn validate(&self, _resource: &Resource) -> Result<(), ProviderError> {
        Ok(())
    }

    async fn check(&self, _context: &Context, resource: &Arc<Resource>) -> Result<Checked, ProviderError> {
        Ok(self.count(resource, |looks| looks.1 += 1))
    }

    fn check_files(&self, _context: &Context, resource: &Arc<Resource>) -> Option<Result<Checked, ProviderError>> {
        let checked = self.count(resource, |looks| looks.0 += 1);
        let is_known = resource.parameter("runs").is_none() || resource.parameter("creates").is_some();
        is_known.then_some(Ok(checked))
    }

    fn checks_by_commands(&self, resource: &Resource) -> bool {
        resource.parameter("runs").is_some()
    }

    async fn apply(&self, _context: &Context, _resource: &Arc<Resource>, _changes: &[Change]) -> Result<Applied, ProviderError> {
        Ok(Applied::default())
    }
}

/// Applies resources in this order.
async fn looks(parameters: impl Iterator<Item = Json>) -> Looks {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("root")).unwrap();
    let resource = |(at, parameters)| json!({"type": "Counted", "title": format!("{at:03}"), "parameters": parameters});
    let resources: Vec<Json> = parameters.enumerate().map(resource).collect();
    let catalog = json!({"name": "n1", "environment": "production", "resources": resources, "edges": []}).to_string();
    let counted = Counted::default();
    let agent = Agent::builder()
        .transport(support::serve("n1", Vec::new(), &[]))
        .certname("n1".parse().unwrap())
        .root(dir.path().join("root"))
        .state_dir(dir.path().join("state"))
        .provider(counted.clone())
        .build()
        .unwrap();
    let catalog = Some(Arc::new(PuppetCatalog::read(catalog.as_bytes()).unwrap()));
    let outcome = agent.run(&RunOptions { catalog, ..RunOptions::default() }).await.unwrap();
    assert_eq!((outcome.resources.total, outcome.resources.failed), (resources.len() as u64, 0));
    let looks = counted.0.lock().unwrap();
    looks.clone()
}

#[tokio::test]
async fn what_comes_after_a_command_is_not_looked_at_before_it() {
    let looks = looks((0..300).map(|at| if at % 50 == 49 { json!({"runs": true}) } else { json!({}) })).await;
    assert_eq!(looks.len(), 300);
    for (title, (ahead, in_turn)) in looks {
        let runs = title.ends_with("49") || title.ends_with("99");
        assert!(ahead <= 1, "{title} was looked at ahead {ahead} times");
        // Only the first one, and the first after a command, are not looked at ahead.
        assert_eq!(in_turn, u32::from(runs || ahead == 0), "{title}");
        assert!(ahead == 1 || title.ends_with("00") || title.ends_with("50"), "{title} was not looked at ahead");
    }
}

#[tokio::test]
async fn what_need_not_run_its_command_ends_nothing() {
    let looks = looks((0..300).map(|at| if at == 0 { json!({}) } else { json!({"runs": true, "creates": "/x"}) })).await;
    assert_eq!(looks.values().filter(|looks| **looks == (1, 0)).count(), 299);
    assert_eq!(looks["000"], (0, 1));
}
