//! Facts, time and randomness of one's own: what a host that embeds the agent knows better than the machine.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use direct_puppet_agent::system::System;
use direct_puppet_agent::{Agent, RunOptions};
use direct_puppet_transport::protocol::Value;

/// A machine on which it is always the same moment.
#[derive(Debug)]
struct Frozen;

impl System for Frozen {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }

    fn random(&self) -> [u8; 16] {
        [7; 16]
    }

    fn facts(&self) -> Result<BTreeMap<String, Value>, String> {
        Ok([("role".to_owned(), Value::from("kiosk"))].into())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = support::scratch();
    let transport = support::serve("node1", vec![support::file("/motd", "hello\n")], &["hello\n"]);
    let agent = Agent::builder().transport(transport).certname("node1".parse()?).root(root.path()).system(Frozen).build()?;
    let outcome = agent.run(&RunOptions::default()).await?;
    assert_eq!(outcome.transaction_uuid, "07".repeat(16));
    println!("run {} at a moment of our choice", outcome.transaction_uuid);
    Ok(())
}
