//! HTTP/1.1 connections on which nothing happens, without what the HTTP library needs when something does.
//!
//! A hundred thousand nodes wait for news for minutes, each on a connection of its own. Of what such a connection takes, two thirds are
//! buffers of hyper. So the answer that is waited for is kept beside hyper's connection, not in it: after a while the socket is taken out of
//! that connection, which goes, and a new one begins when the answer is there, or the next request.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use hyper::header::{CONNECTION, TRANSFER_ENCODING};
use hyper::{Method, Request, Response, Version};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::answer::Body;

/// What answers a request.
pub(super) type Answering = BoxFuture<'static, Response<Body>>;

/// The request that a new connection is told to have got when the answer is there already.
const ANSWERED_REQUEST: &[u8] = b"POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n";

/// The one answer of an HTTP/1.1 connection that is under way, and whether all before it is out.
#[derive(Clone, Default)]
pub(super) struct Desk(Arc<Papers>);

#[derive(Default)]
struct Papers {
    /// All that hyper wrote has been taken by the socket.
    is_flushed: AtomicBool,
    answer: Mutex<Answer>,
}

#[derive(Default)]
enum Answer {
    #[default]
    None,
    /// It is waited for; the connection may be left meanwhile if hyper need not know how to end it.
    Awaited { answering: Answering, may_leave: bool },
    /// It is there, for the next request that comes.
    There(Response<Body>),
}

impl Desk {
    /// Takes a request that `answering` will answer; returns what answers it to hyper. When hyper drops that, nobody waits any more.
    pub(super) fn take<B>(&self, request: Request<B>, answer: impl FnOnce(Request<B>) -> Answering) -> Fetching {
        let mut there = self.answer();
        if !matches!(*there, Answer::There(_)) {
            // What is different with others, such as that the connection ends with the answer or that it has no body, hyper knows from the
            // request's head.
            let is_plain = |name| !request.headers().contains_key(name);
            let has_body = !matches!(*request.method(), Method::HEAD | Method::CONNECT);
            let may_leave =
                request.version() == Version::HTTP_11 && has_body && is_plain(CONNECTION) && is_plain(TRANSFER_ENCODING);
            *there = Answer::Awaited { answering: answer(request), may_leave };
        }
        drop(there);
        Fetching(self.clone())
    }

    /// Whether hyper's connection could be left, as far as answers are concerned.
    pub(super) fn may_leave(&self) -> bool {
        let may_leave = match *self.answer() {
            Answer::None => true,
            Answer::Awaited { may_leave, .. } => may_leave,
            Answer::There(_) => false,
        };
        may_leave && self.0.is_flushed.load(Ordering::Relaxed)
    }

    /// Takes away the answer that is waited for: before hyper's connection goes, and with it what fetches the answer.
    pub(super) fn leave(&self) -> Option<Answering> {
        match std::mem::take(&mut *self.answer()) {
            Answer::Awaited { answering, .. } => Some(answering),
            Answer::None | Answer::There(_) => None,
        }
    }

    /// Puts an answer here for the next request; returns that request, for hyper to read.
    pub(super) fn answered(&self, response: Response<Body>) -> Bytes {
        *self.answer() = Answer::There(response);
        Bytes::from_static(ANSWERED_REQUEST)
    }

    fn answer(&self) -> MutexGuard<'_, Answer> {
        self.0.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fetches an answer from the desk.
pub(super) struct Fetching(Desk);

impl Future for Fetching {
    type Output = Response<Body>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut answer = self.0.answer();
        if let Answer::Awaited { answering, .. } = &mut *answer {
            let response = ready!(answering.poll_unpin(context));
            *answer = Answer::None;
            return Poll::Ready(response);
        }
        match std::mem::take(&mut *answer) {
            Answer::There(response) => Poll::Ready(response),
            Answer::None | Answer::Awaited { .. } => Poll::Pending,
        }
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        // Outside of the lock: what is dropped may do anything.
        let dropped = std::mem::take(&mut *self.0.answer());
        drop(dropped);
    }
}

/// A stream that notes whether all that was written is out, and begins with bytes that were read of it before.
pub(super) struct Resumed<S> {
    stream: S,
    before: Bytes,
    desk: Desk,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Resumed<S> {
    pub(super) fn new(stream: S, before: Bytes, desk: Desk) -> Self {
        desk.0.is_flushed.store(true, Ordering::Relaxed);
        Self { stream, before, desk }
    }

    /// Returns the stream again, and what nobody has read yet of what came before.
    pub(super) fn into_parts(self) -> (S, Bytes) {
        (self.stream, self.before)
    }
}

/// Reads a little; empty at the end. Nothing is held while it waits. Cancel safe.
pub(super) async fn some(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Bytes> {
    poll_fn(|context| {
        let mut room = [0; 512];
        let mut buffer = ReadBuf::new(&mut room);
        ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer))?;
        Poll::Ready(Ok(Bytes::copy_from_slice(buffer.filled())))
    })
    .await
}

/// Joins what is to be read one after the other.
pub(super) fn join(first: Bytes, second: Bytes) -> Bytes {
    if first.is_empty() {
        return second;
    }
    if second.is_empty() {
        return first;
    }
    let mut joined = BytesMut::with_capacity(first.len() + second.len());
    joined.extend_from_slice(&first);
    joined.extend_from_slice(&second);
    joined.freeze()
}

impl<S: AsyncRead + Unpin> AsyncRead for Resumed<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.before.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let count = self.before.len().min(buffer.remaining());
        buffer.put_slice(&self.before[..count]);
        self.before.advance(count);
        if self.before.is_empty() {
            // Not a view of what was read.
            self.before = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Resumed<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.desk.0.is_flushed.store(false, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.desk.0.is_flushed.store(false, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes the socket once it has nothing left to write to it.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.stream).poll_flush(context));
        self.desk.0.is_flushed.store(flushed.is_ok(), Ordering::Relaxed);
        Poll::Ready(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What still comes is for nobody.
        self.desk.0.is_flushed.store(false, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
