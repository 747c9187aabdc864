//! Deadlines of single requests. One operation is many of them, and what it answers with may begin long after the first: only here is seen
//! whether a server still sends.

use async_trait::async_trait;
use direct_puppet_transport::http::{PlainRequest, PlainResponse};
use direct_puppet_transport::{Timeouts, TransportError, TransportErrorKind};

use crate::api::Exchange;

/// Ends a request whose answer does not begin, or whose body stands still.
#[derive(Debug)]
pub(crate) struct Deadlines<E> {
    inner: E,
    timeouts: Timeouts,
}

impl<E: Exchange> Deadlines<E> {
    pub(crate) const fn new(inner: E, timeouts: Timeouts) -> Self {
        Self { inner, timeouts }
    }
}

#[async_trait]
impl<E: Exchange> Exchange for Deadlines<E> {
    async fn send(&self, request: PlainRequest) -> Result<PlainResponse, TransportError> {
        let limit = self.timeouts.response;
        let asked = request.path.split('?').next().unwrap_or_default();
        let shown = format!("{} {asked}", request.method.name());
        let Ok(answer) = tokio::time::timeout(limit, self.inner.send(request)).await else {
            let detail = format!("no answer to {shown} began within {limit:?}");
            return Err(TransportError::new(TransportErrorKind::Timeout, self.endpoint()).with_detail(detail));
        };
        let answer = answer?;
        let body = self.timeouts.bound(answer.body, self.endpoint());
        Ok(PlainResponse { body, ..answer })
    }

    fn endpoint(&self) -> &str {
        self.inner.endpoint()
    }

    fn is_local(&self) -> bool {
        self.inner.is_local()
    }
}
