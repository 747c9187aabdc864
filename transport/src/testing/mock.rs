//! Mocks of [`Transport`] and [`Handler`]: expectations are set with `expect_call`, `expect_check_in` and so on.

#![allow(missing_docs, reason = "the mock's items are generated without documentation")]

use async_trait::async_trait;

use crate::error::TransportError;
use crate::handler::{FetchItems, Handler, Peer};
use crate::protocol::{CatalogReply, CheckIn, Fetch, Refusal, Report, ReportAccepted, SubmitFacts};
use crate::transport::{Request, Response, Transport};

mockall::mock! {
    /// A transport that answers as the test expects.
    #[derive(Debug)]
    pub Transport {}

    #[async_trait]
    impl Transport for Transport {
        async fn call(&self, request: Request) -> Result<Response, TransportError>;
        fn endpoint(&self) -> &str;
    }
}

mockall::mock! {
    /// A server that answers as the test expects.
    #[derive(Debug)]
    pub Handler {}

    #[async_trait]
    impl Handler for Handler {
        async fn check_in(&self, peer: &Peer, request: CheckIn) -> Result<CatalogReply, Refusal>;
        async fn submit_facts(&self, peer: &Peer, request: SubmitFacts) -> Result<CatalogReply, Refusal>;
        async fn fetch(&self, peer: &Peer, request: Fetch) -> Result<FetchItems, Refusal>;
        async fn report(&self, peer: &Peer, report: Report) -> Result<ReportAccepted, Refusal>;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::error::TransportErrorKind;
    use crate::memory::MemoryTransport;
    use crate::protocol::Operation;
    use crate::testing::samples;
    use crate::{CallError, Client};

    #[tokio::test]
    async fn a_mock_transport_is_told_what_to_answer() {
        let mut transport = MockTransport::new();
        transport.expect_endpoint().return_const("mock:".to_owned());
        transport
            .expect_call()
            .withf(|request| request.operation == Operation::Fetch)
            .times(1)
            .returning(|_| Err(TransportError::new(TransportErrorKind::Connect, "mock:")));
        let request =
            Fetch { certname: "node1".parse().unwrap(), digests: Vec::new(), offsets: Default::default(), packed: None };
        let error = Client::new(transport).fetch(&request).await.unwrap_err();
        assert!(matches!(error, CallError::Transport(error) if error.kind() == TransportErrorKind::Connect));
    }

    #[tokio::test]
    async fn a_mock_handler_is_reached_through_a_transport() {
        let reply = CatalogReply::FactsNeeded;
        let mut handler = MockHandler::new();
        handler.expect_check_in().withf(|peer, _| *peer == Peer::InProcess).times(1).return_const(Ok(reply.clone()));
        let client = Client::new(MemoryTransport::new(Arc::new(handler)));
        let request = samples::check_in("node1");
        assert_eq!(client.check_in(&request).await.unwrap(), reply);
    }
}
