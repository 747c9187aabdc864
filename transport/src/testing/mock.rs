//! Mocks of both sides of a call.

use async_trait::async_trait;

use crate::error::TransportError;
use crate::handler::{FetchItems, Handler, Peer};
use crate::protocol::{CatalogReply, CheckIn, Fetch, Refusal, Report, ReportAccepted, SubmitFacts};
use crate::transport::{Request, Response, Transport};

mockall::mock! {
    /// A transport that answers as a test expects.
    #[derive(Debug)]
    pub Transport {}

    #[async_trait]
    impl Transport for Transport {
        async fn call(&self, request: Request) -> Result<Response, TransportError>;
        fn endpoint(&self) -> &str;
    }
}

mockall::mock! {
    /// A handler that answers as a test expects.
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
