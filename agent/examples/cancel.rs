//! Cancelling a run: nothing half done, and an error that says so.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod support;

use direct_puppet_agent::{Agent, RunError, RunOptions};
use tokio_util::sync::CancellationToken;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = support::scratch();
    let transport = support::serve("node1", vec![support::file("/motd", "hello\n")], &["hello\n"]);
    let agent = Agent::builder().transport(transport).certname("node1".parse()?).root(root.path()).build()?;

    let cancel = CancellationToken::new();
    cancel.cancel();
    let cancelled = agent.run_until(&RunOptions::default(), cancel).await;
    assert!(matches!(cancelled, Err(RunError::Cancelled)));
    assert!(!root.path().join("motd").exists());

    agent.run(&RunOptions::default()).await?;
    assert_eq!(support::read(root.path(), "motd"), "hello\n");
    println!("cancelled once, then converged");
    Ok(())
}
