//! Servers that take their time.

use std::future::pending;

use direct_puppet_transport::Timeouts;

use super::*;
use crate::deadline::Deadlines;

const TIMEOUTS: Timeouts = Timeouts { response: Duration::from_secs(420), stall: Duration::from_secs(60) };

/// Answers contents with so many chunks of 64 KiB, a time before each, and does not say how long they are; nothing else is answered.
#[derive(Debug, Clone)]
struct Slow {
    catalog: Scripted,
    chunks: usize,
    pause: Duration,
}

#[async_trait]
impl Exchange for Slow {
    async fn send(&self, request: PlainRequest) -> Result<PlainResponse, TransportError> {
        if request.path.contains("/catalog/") {
            return self.catalog.send(request).await;
        }
        if !request.path.contains("_content/") {
            return pending().await;
        }
        let pause = self.pause;
        let body = stream::iter(0..self.chunks).then(move |_| async move {
            tokio::time::sleep(pause).await;
            Ok(Bytes::from_static(&[7; 64 * 1024]))
        });
        Ok(PlainResponse { status: 200, length: None, retry_after: None, body: body.boxed() })
    }

    fn endpoint(&self) -> &str {
        "https://puppet:8140"
    }

    fn is_local(&self) -> bool {
        false
    }
}

/// Returns a transport that knows where [`hello`] is.
async fn slow(chunks: usize, pause: u64) -> PuppetTransport {
    let catalog = Scripted::default();
    let inlined = json!({ "/a": { "content_uri": "puppet:///modules/a", "type": "file", "mode": 420, "checksum": metadata()["checksum"] } });
    let files = json!([{ "type": "File", "title": "/a", "parameters": { "source": "puppet:///modules/app/a" } }]);
    catalog.answers("catalog/n1", 200, self::catalog(files, json!({ "code_id": "c", "metadata": inlined })));
    let slow = Slow { catalog, chunks, pause: Duration::from_secs(pause) };
    let transport = PuppetTransport::over(Deadlines::new(slow, TIMEOUTS), None);
    Client::new(transport.clone()).submit_facts(&facts(None)).await.unwrap();
    transport
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_given_up() {
    let transport = slow(0, 0).await;
    let (node, production) = ("n1".parse().unwrap(), "production".parse().unwrap());
    let begun = tokio::time::Instant::now();
    assert_eq!(transport.environment(&node, &production).await, production);
    assert_eq!(begun.elapsed(), TIMEOUTS.response);
}

#[tokio::test(start_paused = true)]
async fn a_content_that_goes_on_may_take_as_long_as_it_takes() {
    // Ten chunks stay in memory, forty do not.
    for chunks in [10, 40] {
        let content = fetched(&Client::new(slow(chunks, 50).await), hello()).await.unwrap().unwrap();
        assert_eq!(content.len(), chunks * 64 * 1024);
    }
}

#[tokio::test(start_paused = true)]
async fn a_content_that_stands_still_ends() {
    let client = Client::new(slow(10, 61).await);
    let CallError::Transport(error) = fetched(&client, hello()).await.unwrap_err() else { panic!("no failure") };
    assert_eq!(error.kind(), TransportErrorKind::Timeout);
}
