//! The smallest run: a catalog from memory, applied below a directory of its own.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod support;

use direct_puppet_agent::{Agent, RunOptions};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = support::scratch();
    let transport = support::serve("node1", vec![support::file("/motd", "hello\n")], &["hello\n"]);
    let agent = Agent::builder().transport(transport).certname("node1".parse()?).root(root.path()).build()?;

    let first = agent.run(&RunOptions::default()).await?;
    assert_eq!(support::read(root.path(), "motd"), "hello\n");
    println!("first run:  {:?}, {} contents fetched", first.status, first.wire.contents_received);

    let second = agent.run(&RunOptions::default()).await?;
    assert_eq!(second.scan.opened, 0, "nothing changed, so nothing was read");
    println!("second run: {:?}, {} files opened", second.status, second.scan.opened);
    Ok(())
}
