//! A transport of one's own: one that logs every call and passes it on.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod support;

use async_trait::async_trait;
use direct_puppet_agent::{Agent, RunOptions};
use direct_puppet_transport::{Request, Response, Transport, TransportError};

/// Prints each call.
#[derive(Debug)]
struct Logged<T>(T);

#[async_trait]
impl<T: Transport> Transport for Logged<T> {
    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        println!("{} with {} bytes to {}", request.operation, request.body.len(), self.endpoint());
        self.0.call(request).await
    }

    fn endpoint(&self) -> &str {
        self.0.endpoint()
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = support::scratch();
    let transport = Logged(support::serve("node1", vec![support::file("/motd", "hello\n")], &["hello\n"]));
    let agent = Agent::builder().transport(transport).certname("node1".parse()?).root(root.path()).build()?;
    let outcome = agent.run(&RunOptions::default()).await?;
    assert_eq!(outcome.wire.requests, 3, "check in, fetch, report");
    Ok(())
}
