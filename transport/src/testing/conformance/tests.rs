//! The suite over the in-memory transports, and the proof that it sees what is broken.

use async_trait::async_trait;
use futures::{FutureExt as _, StreamExt as _};

use super::*;
use crate::error::TransportError;
use crate::memory::MemoryTransport;
use crate::testing::{Fault, Faulty};
use crate::transport::{Request, Response};

fn memory(handler: Arc<dyn Handler>) -> Arc<dyn Transport> {
    Arc::new(MemoryTransport::new(handler))
}

#[tokio::test]
async fn memory_conforms() {
    run("memory", |handler| async { (memory(handler), ()) }).await;
}

#[cfg(feature = "unix")]
#[tokio::test]
async fn framed_memory_conforms() {
    let make = |handler| async { (Arc::new(MemoryTransport::framed(handler)) as Arc<dyn Transport>, ()) };
    run("framed memory", make).await;
}

/// Takes whole bodies in before it hands them out.
#[derive(Debug)]
struct Eager<T>(T);

#[async_trait]
impl<T: Transport> Transport for Eager<T> {
    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        let response = self.0.call(request).await?;
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        let mut body = response.body;
        tokio::spawn(async move {
            while let Some(chunk) = body.next().await {
                if sender.send(chunk).is_err() {
                    return;
                }
            }
        });
        let body = futures::stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
        Ok(Response { body: body.boxed(), ..response })
    }

    fn endpoint(&self) -> &str {
        self.0.endpoint()
    }
}

/// Makes one check over a transport that is broken, and returns whether it was seen.
async fn is_seen<F: Future<Output = ()>>(
    breakage: impl FnOnce(Arc<dyn Transport>) -> Arc<dyn Transport>,
    check: impl FnOnce(Subject<'static>) -> F,
) -> bool {
    let site = Site::default();
    let transport = breakage(memory(Arc::new(site.clone())));
    let subject = Subject { transport, site, guard: Box::leak(Box::new(())) };
    std::panic::AssertUnwindSafe(check(subject)).catch_unwind().await.is_err()
}

#[tokio::test]
async fn a_transport_that_runs_ahead_is_seen() {
    assert!(is_seen(|inner| Arc::new(Eager(inner)), streams::a_caller_that_waits_holds_the_producer_back).await);
    assert!(!is_seen(|inner| inner, streams::a_caller_that_waits_holds_the_producer_back).await);
}

#[tokio::test]
async fn a_transport_that_hides_a_break_is_seen() {
    let hides = |after| move |inner| Arc::new(Faulty::new(inner).on(1, Fault::EndEarly { after })) as Arc<dyn Transport>;
    assert!(is_seen(hides(900_000), failures::a_content_that_breaks_off_is_no_clean_end).await);
    assert!(is_seen(hides(0), failures::items_that_break_off_are_no_clean_end).await);
    assert!(is_seen(hides(900_000), streams::chunks_come_in_order_and_stream).await);
    assert!(!is_seen(hides(u64::MAX), streams::chunks_come_in_order_and_stream).await);
}

#[tokio::test]
async fn a_transport_that_damages_bytes_is_seen() {
    let damages = |at| move |inner| Arc::new(Faulty::new(inner).on(1, Fault::Corrupt { at })) as Arc<dyn Transport>;
    assert!(is_seen(damages(9_000_000), streams::chunks_come_in_order_and_stream).await);
    assert!(is_seen(damages(3), messages::all_operations_round_trip).await);
}
