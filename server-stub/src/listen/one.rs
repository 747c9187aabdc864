//! One HTTP/1.1 connection, with hyper while something happens on it and without while nothing does.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use hyper::Response;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::activity::Activity;
use super::answer::{Body, Context, answer};
use super::http::{Driven, Shared};
use super::park::{Answering, Desk, Resumed, join, some};

impl Shared {
    /// Serves a connection to its end.
    pub(super) async fn speak_one(
        self: Arc<Self>,
        mut stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        context: Arc<Context>,
        remote: SocketAddr,
    ) {
        let (activity, desk) = (context.activity.clone(), Desk::default());
        let (mut before, mut settled) = (Bytes::new(), 0);
        loop {
            let service = {
                let (context, desk) = (Arc::clone(&context), desk.clone());
                let take = move |request| {
                    let answering = |request| answer(Arc::clone(&context), request).boxed();
                    desk.take(request, answering).map(Ok::<_, Infallible>)
                };
                service_fn(take)
            };
            let resumed = TokioIo::new(Resumed::new(stream, before, desk.clone()));
            let mut connection = Box::new(self.one().serve_connection(resumed, service));
            let may_park = || desk.may_leave() && activity.requests() > settled;
            match self.drive(Pin::new(&mut *connection), &activity, remote, Some(&may_park)).await {
                Driven::Ended => return,
                Driven::Parked => {}
            }
            let answering = desk.leave();
            let parts = connection.into_parts();
            let (socket, unread) = parts.io.into_inner().into_parts();
            (stream, before) = (socket, join(parts.read_buf, unread));
            match answering {
                Some(answering) => match awaited(&mut stream, answering, &mut before).await {
                    Some(mut response) => {
                        if self.shutdown.is_cancelled() {
                            // hyper would have said so, but it hears of it only after the answer.
                            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                        }
                        before = join(desk.answered(response), before);
                    }
                    None => return,
                },
                None if before.is_empty() => match Box::pin(self.next(&mut stream, &activity)).await {
                    Some(bytes) => before = bytes,
                    None => return,
                },
                // A part of a head: hyper measures how long the rest takes, once.
                None => settled = activity.requests(),
            }
        }
    }

    /// Waits for the first bytes of the next request; `None` when the connection is over.
    async fn next(&self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin), activity: &Activity) -> Option<Bytes> {
        let quiet = activity.quiet_until(&self.limits)?;
        let read = tokio::select! {
            biased;
            read = some(stream) => read.unwrap_or_default(),
            () = tokio::time::sleep_until(quiet) => Bytes::new(),
            () = self.shutdown.cancelled() => Bytes::new(),
        };
        if !read.is_empty() {
            activity.has_come();
            return Some(read);
        }
        // A peer that takes nothing is not waited for.
        if tokio::time::timeout(self.limits.drain_timeout, stream.shutdown()).await.is_err() {
            tracing::debug!("a peer does not hear that its connection ends");
        }
        None
    }
}

/// Waits for an answer; `None` when the peer does not any more. What it sends meanwhile is added to `before`, and watched no further.
async fn awaited(stream: &mut (impl AsyncRead + Unpin), mut answering: Answering, before: &mut Bytes) -> Option<Response<Body>> {
    loop {
        tokio::select! {
            biased;
            response = &mut answering => return Some(response),
            read = some(stream), if before.is_empty() => match read {
                Ok(bytes) if !bytes.is_empty() => *before = bytes,
                _ => return None,
            },
        }
    }
}
