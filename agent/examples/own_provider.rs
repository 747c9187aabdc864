//! A provider for a type of one's own: here, lines in a shared counter.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use direct_puppet_agent::provider::{Applied, Change, Checked, Context, Provider, ProviderError};
use direct_puppet_agent::{Agent, RunOptions};
use direct_puppet_transport::protocol::{Resource, Value};

/// Manages `Level[...]`: a number that shall have a value.
#[derive(Debug, Default)]
struct Level {
    current: Arc<AtomicI64>,
}

fn wanted(resource: &Resource) -> Result<i64, ProviderError> {
    match resource.parameter("value") {
        Some(Value::Integer(value)) => Ok(*value),
        _ => Err(ProviderError::Parameter {
            resource: resource.reference(),
            parameter: "value".to_owned(),
            reason: "it must be a whole number".to_owned(),
        }),
    }
}

#[async_trait]
impl Provider for Level {
    fn resource_type(&self) -> &str {
        "Level"
    }

    fn validate(&self, resource: &Resource) -> Result<(), ProviderError> {
        wanted(resource).map(|_| ())
    }

    async fn check(&self, _context: &Context, resource: &Arc<Resource>) -> Result<Checked, ProviderError> {
        let (wanted, current) = (wanted(resource)?, self.current.load(Ordering::SeqCst));
        let change = || Change {
            resource: resource.reference(),
            property: "value".into(),
            previous: current.to_string().into(),
            desired: wanted.to_string().into(),
            diff: None,
            redacted: false,
            wording: None,
        };
        let changes = if wanted == current { Vec::new() } else { vec![change()] };
        Ok(Checked { resources: 1, changes, ..Checked::default() })
    }

    async fn apply(&self, _context: &Context, resource: &Arc<Resource>, _changes: &[Change]) -> Result<Applied, ProviderError> {
        self.current.store(wanted(resource)?, Ordering::SeqCst);
        Ok(Applied::default())
    }

    fn disturbs_files(&self) -> bool {
        false
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = support::scratch();
    let level = Arc::new(AtomicI64::new(1));
    let transport = support::serve("node1", vec![Resource::new("Level", "water").with("value", 7)], &[]);
    let agent = Agent::builder()
        .transport(transport)
        .certname("node1".parse()?)
        .root(root.path())
        .provider(Level { current: Arc::clone(&level) })
        .build()?;
    let outcome = agent.run(&RunOptions::default()).await?;
    assert_eq!(level.load(Ordering::SeqCst), 7);
    for event in outcome.events() {
        println!("{}/{}: {}", event.resource, event.property, event.message);
    }
    Ok(())
}
