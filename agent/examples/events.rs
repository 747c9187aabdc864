//! The events of a run as a stream, for a progress display.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod support;

use direct_puppet_agent::{Agent, RunEvent, RunOptions};
use futures::StreamExt as _;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = support::scratch();
    let transport = support::serve("node1", vec![support::file("/motd", "hello\n")], &["hello\n"]);
    let agent = Agent::builder().transport(transport).certname("node1".parse()?).root(root.path()).build()?;
    let events = agent.events();
    agent.run(&RunOptions::default()).await?;
    let seen: Vec<RunEvent> =
        events.take_while(|event| std::future::ready(!matches!(event, RunEvent::Finished(_)))).collect().await;
    for event in &seen {
        println!("{event:?}");
    }
    assert!(seen.iter().any(|event| matches!(event, RunEvent::Change(change) if change.resource == "File[/motd]")));
    Ok(())
}
