//! A unit test of code that embeds the agent: the transport is a mock, no server is needed.
//!
//! Run it as what it is: `cargo test -p direct-puppet-agent --example mocked_transport`.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use direct_puppet_agent::{Agent, RunError, RunOptions};
use direct_puppet_transport::testing::MockTransport;
use direct_puppet_transport::{Transport, TransportError, TransportErrorKind};

/// The code under test: converges, and tells what went wrong in words of its own.
async fn converge<T: Transport>(agent: &Agent<T>) -> String {
    match agent.run(&RunOptions::default()).await {
        Ok(outcome) => format!("{:?}", outcome.status),
        Err(error @ RunError::CheckIn(_)) if error.is_retryable() => "server is away, will try again".to_owned(),
        Err(error) => format!("broken: {error}"),
    }
}

async fn with_a_server_that_is_away() -> String {
    let root = tempfile::tempdir().expect("a temporary directory can be made");
    let mut transport = MockTransport::new();
    transport.expect_endpoint().return_const("https://puppet.example.com:8140".to_owned());
    transport
        .expect_call()
        .returning(|_| Err(TransportError::new(TransportErrorKind::Connect, "https://puppet.example.com:8140")));
    let agent = Agent::builder()
        .transport(transport)
        .certname("node1".parse().expect("a valid name"))
        .root(root.path())
        .build()
        .expect("the options are valid");
    converge(&agent).await
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    println!("{}", with_a_server_that_is_away().await);
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn a_server_that_is_away_is_no_reason_to_give_up() {
        assert_eq!(super::with_a_server_that_is_away().await, "server is away, will try again");
    }
}
