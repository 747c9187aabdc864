//! What a run would change, as JSON; nothing is changed.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod support;

use direct_puppet_agent::Agent;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = support::scratch();
    std::fs::write(root.path().join("motd"), "good bye\n")?;
    let transport = support::serve("node1", vec![support::file("/motd", "hello\n")], &["hello\n"]);
    let agent = Agent::builder().transport(transport).certname("node1".parse()?).root(root.path()).build()?;
    let outcome = agent.plan().await?;
    println!("{}", serde_json::to_string_pretty(&outcome)?);
    for (resource, diff) in &outcome.diffs {
        println!("{resource}\n{diff}");
    }
    assert_eq!(outcome.exit_code(), 2);
    assert_eq!(support::read(root.path(), "motd"), "good bye\n");
    Ok(())
}
