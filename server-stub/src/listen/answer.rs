//! One HTTP request to one HTTP response.

use std::future::ready;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use direct_puppet_transport::http::wire;
use direct_puppet_transport::protocol::limits::MAX_SMALL_MESSAGE_BYTES;
use direct_puppet_transport::protocol::pack::{UnpackRequestError, unpack_request, unpacked_request_bytes};
use direct_puppet_transport::protocol::{Operation, Refusal, RefusalCode, codec};
use direct_puppet_transport::{Peer, Request as Call, Response as Answer, Status, TransportError, dispatch, handler};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, ALLOW, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER,
};
use hyper::{Method, Request, Response, StatusCode};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::task::AbortOnDropHandle;

use super::activity::Activity;
use super::live::{ClientCertificate, Revoked};
use super::{Limits, RouteBody, Routes, Service};
use crate::blocking;

/// A response body; an error in it aborts the stream or the connection, so that the peer never takes it for whole.
pub(super) type Body = UnsyncBoxBody<Bytes, TransportError>;

/// Longest answer at hand that is handed over at once, in bytes; longer ones go in pieces of this size.
const AT_ONCE_BYTES: usize = 64 * 1024;

/// How much of a body that is too long is still read, so that the peer gets to reading why; then the connection is cut.
const DISCARD_BYTES: u64 = 64 << 20;

/// What all requests of a connection share.
pub(super) struct Context {
    pub(super) service: Service,
    pub(super) peer: Peer,
    /// The certificate of the peer, where it has shown one.
    pub(super) client: Option<Client>,
    pub(super) limits: Limits,
    pub(super) activity: Activity,
    /// Room for request bodies, in KiB, shared by all connections.
    pub(super) room: Arc<Semaphore>,
    /// Where long requests are answered, if not on the connection's thread.
    pub(super) roomy: Option<Handle>,
}

/// A client that has shown a certificate.
pub(super) struct Client {
    pub(super) certificate: Arc<ClientCertificate>,
    pub(super) revoked: watch::Receiver<Arc<Revoked>>,
}

/// How long a peer may pause in a body that is thrown away.
const DISCARD_PATIENCE: Duration = Duration::from_secs(1);

/// A body up to this long takes no room: that of a check-in, which is held for minutes, is shorter.
const SMALL_BODY_BYTES: usize = 64 * 1024;

/// When to come again that was turned away for lack of room, in seconds.
const BUSY_SECONDS: u32 = 10;

/// Where Puppet's paths are: its agents and tools show what they are answered there, and read no MessagePack.
const PUPPETS: [&str; 4] = ["/puppet", "/puppet-ca", "/status", "/file-sync"];

/// What a refusal says, kept beside its encoded form for those who want it as text.
#[derive(Debug, Clone)]
struct Told(String);

/// Answers `request`; never fails, and a panic of what answers becomes a refusal.
///
/// An answer may be waited for for minutes, by a hundred thousand nodes: what is waited in holds no more than the answer needs, neither
/// the request's head nor the buffer that it came in.
pub(super) fn answer(context: Arc<Context>, request: Request<Incoming>) -> impl Future<Output = Response<Body>> + Send {
    let working = context.activity.request(request.body().is_end_stream());
    let path = request.uri().path().to_owned();
    let wants_text = wants_text(&path, request.headers());
    let refused = refuse_client(&context, request.method(), &path);
    let answering = match (wire::operation_at(&path), &context.service.routes) {
        _ if refused.is_some() => ready(refused.unwrap_or_else(no_such_path)).boxed(),
        (Some(operation), _) => match refuse_head(&request) {
            Some(refusal) => ready(refusal).boxed(),
            None => {
                let is_packed = request.headers().contains_key(CONTENT_ENCODING);
                operate(Arc::clone(&context), operation, request.into_body(), is_packed).boxed()
            }
        },
        (None, Some(routes)) => elsewhere(Arc::clone(&context), Arc::clone(routes), request).boxed(),
        (None, None) => ready(no_such_path()).boxed(),
    };
    AssertUnwindSafe(answering).catch_unwind().map(move |answered| {
        drop(working);
        let answer = answered.unwrap_or_else(|_| {
            tracing::error!(path, peer = ?context.peer, "a request made the server panic; this is a bug");
            refuse(StatusCode::INTERNAL_SERVER_ERROR, RefusalCode::Internal, "the server has a bug: its log says where")
        });
        if wants_text { in_text(answer) } else { answer }
    })
}

/// Whether a refusal of this listener is to be plain text: at Puppet's paths, unless the client names our own type.
fn wants_text(path: &str, headers: &HeaderMap) -> bool {
    let is_below = |top: &&str| path.strip_prefix(*top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let is_ours = |value: &HeaderValue| value.to_str().is_ok_and(|value| value.contains(wire::CONTENT_TYPE));
    PUPPETS.iter().any(is_below) && !headers.get_all(ACCEPT).iter().any(is_ours)
}

/// Puts what a refusal says in the place of its encoded form; other answers stay as they are.
fn in_text(mut response: Response<Body>) -> Response<Body> {
    let Some(Told(message)) = response.extensions_mut().remove() else { return response };
    let headers = response.headers_mut();
    headers.remove(wire::STATUS_HEADER);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    *response.body_mut() = full(message.into());
    response
}

/// Returns why a client may ask nothing, or not this, as far as its certificate says so.
fn refuse_client(context: &Context, method: &Method, path: &str) -> Option<Response<Body>> {
    let reason = match (&context.client, &context.peer) {
        // The connection is being cut, but what had come before must not be answered.
        (Some(client), _) => client.certificate.refusal(&client.revoked.borrow())?,
        (None, Peer::Anonymous) => {
            let is_open = wire::operation_at(path).is_none()
                && context.service.routes.as_ref().is_some_and(|routes| routes.is_open(method, path));
            if is_open {
                return None;
            }
            "this is for clients with a certificate: ask for one first"
        }
        _ => return None,
    };
    Some(refuse(StatusCode::FORBIDDEN, RefusalCode::Forbidden, reason))
}

/// Returns why a request for an operation is not taken, if its head says enough for that.
fn refuse_head(request: &Request<Incoming>) -> Option<Response<Body>> {
    if request.method() != Method::POST {
        let mut response = refuse(StatusCode::METHOD_NOT_ALLOWED, RefusalCode::BadRequest, "use POST");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return Some(response);
    }
    // Also keeps a web page from making a browser on this machine ask in its name: it may not set this type.
    if request.headers().get(CONTENT_TYPE).is_none_or(|value| value.as_bytes() != wire::CONTENT_TYPE.as_bytes()) {
        let message = format!("content type must be {}", wire::CONTENT_TYPE);
        return Some(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, RefusalCode::BadRequest, message));
    }
    if request.headers().get(CONTENT_ENCODING).is_some_and(|value| value.as_bytes() != wire::REQUEST_CODING.as_bytes()) {
        let message = format!("the one content coding that is taken is {}", wire::REQUEST_CODING);
        return Some(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, RefusalCode::BadRequest, message));
    }
    None
}

async fn operate(context: Arc<Context>, operation: Operation, body: Incoming, is_packed: bool) -> Response<Body> {
    let Context { service, peer, limits, activity, room, .. } = &*context;
    let limit = operation.max_request_bytes();
    let taking = async {
        let taken = read(body, limit, limits.request_body_timeout, room, small(peer)).await?;
        if is_packed { unpack(taken, limit, room, small(peer)).await } else { Ok(taken) }
    };
    match Box::pin(taking).await {
        // What is made of a body is about as large as the body, so its room is given back when the answer is there.
        Ok((body, _taken)) => {
            activity.is_in();
            let answer = match context.roomy.as_ref().filter(|_| body.len() > SMALL_BODY_BYTES) {
                None => dispatch(&*service.handler, peer, Call { operation, body }).await,
                Some(runtime) => {
                    let context = Arc::clone(&context);
                    let work = async move { dispatch(&*context.service.handler, &context.peer, Call { operation, body }).await };
                    Box::pin(on(runtime, work)).await
                }
            };
            Box::pin(respond(answer, activity)).await
        }
        Err(refusal) => refusal.response(operation.name()),
    }
}

async fn elsewhere(context: Arc<Context>, routes: Arc<dyn Routes>, request: Request<Incoming>) -> Response<Body> {
    let (mut parts, body) = request.into_parts();
    if let Some(client) = &context.client {
        parts.extensions.insert(Arc::clone(&client.certificate));
    }
    let path = parts.uri.path().to_owned();
    let limit = routes.max_body_bytes(&path);
    match read(body, limit, context.limits.request_body_timeout, &context.room, small(&context.peer)).await {
        Ok((body, _taken)) => {
            context.activity.is_in();
            let runtime = context.roomy.as_ref().filter(|_| body.len() > SMALL_BODY_BYTES);
            let request = Request::from_parts(parts, body);
            let response = match runtime {
                None => routes.route(&context.peer, request).await,
                Some(runtime) => {
                    let context = Arc::clone(&context);
                    Box::pin(on(runtime, async move { routes.route(&context.peer, request).await })).await
                }
            };
            match response {
                Some(response) => routed(response, &context.activity),
                None => no_such_path(),
            }
        }
        Err(refusal) => refusal.response(&path),
    }
}

/// Does `work` on another runtime, until it is dropped; a panic goes on here.
async fn on<T: Send + 'static>(runtime: &Handle, work: impl Future<Output = T> + Send + 'static) -> T {
    match AbortOnDropHandle::new(runtime.spawn(work)).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // That runtime ends, and the server with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Why a request body was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
enum BadBody {
    Packed(UnpackRequestError),
    TooLong { limit: u64 },
    TooSlow { limit: Duration },
    NoRoom,
    Broken,
}

impl BadBody {
    fn response(self, what: &str) -> Response<Body> {
        match self {
            Self::Packed(error @ UnpackRequestError::TooLong { .. }) => refuse(
                StatusCode::PAYLOAD_TOO_LARGE,
                RefusalCode::BadRequest,
                format!("{what} request that came packed: {error}"),
            ),
            Self::Packed(error) => {
                refuse(StatusCode::BAD_REQUEST, RefusalCode::BadRequest, format!("{what} request that came packed: {error}"))
            }
            Self::TooLong { limit } => {
                let message = format!("{what} request is longer than {limit} bytes");
                refuse(StatusCode::PAYLOAD_TOO_LARGE, RefusalCode::BadRequest, message)
            }
            Self::TooSlow { limit } => {
                let message = format!("{what} request did not come within {limit:?}");
                refuse(StatusCode::REQUEST_TIMEOUT, RefusalCode::BadRequest, message)
            }
            Self::NoRoom => {
                let message = format!("the server holds too many large requests: {what} again in {BUSY_SECONDS} seconds");
                let mut response = refuse(StatusCode::SERVICE_UNAVAILABLE, RefusalCode::Busy, message);
                response.headers_mut().insert(RETRY_AFTER, BUSY_SECONDS.into());
                response
            }
            Self::Broken => refuse(StatusCode::BAD_REQUEST, RefusalCode::BadRequest, format!("{what} request broke off")),
        }
    }
}

/// The room that a body takes, until dropped; none for a small one.
type Taken = Option<OwnedSemaphorePermit>;

/// Returns up to how many bytes a body of a peer takes no room. Of one without a certificate each does: anybody may be many of them.
const fn small(peer: &Peer) -> usize {
    if matches!(peer, Peer::Anonymous) { 0 } else { SMALL_BODY_BYTES }
}

/// Takes room for a body that has come to `bytes`, unless it is no longer than `small`.
fn take_room(taken: &mut Taken, room: &Arc<Semaphore>, bytes: usize, small: usize) -> Result<(), BadBody> {
    if bytes <= small {
        return Ok(());
    }
    let wanted = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
    let held = taken.as_ref().map_or(0, |taken| u32::try_from(taken.num_permits()).unwrap_or(u32::MAX));
    let more = Arc::clone(room).try_acquire_many_owned(wanted.saturating_sub(held)).map_err(|_| BadBody::NoRoom)?;
    match taken {
        Some(taken) => taken.merge(more),
        None => *taken = Some(more),
    }
    Ok(())
}

/// Reads a whole request body within `limit` bytes, `deadline`, and the room that there is.
async fn read(
    body: Incoming,
    limit: u64,
    deadline: Duration,
    room: &Arc<Semaphore>,
    small: usize,
) -> Result<(Bytes, Taken), BadBody> {
    let read = async {
        let mut body = body;
        // What is announced too long is not even begun to be kept.
        if body.size_hint().lower() > limit {
            discard(body).await;
            return Err(BadBody::TooLong { limit });
        }
        let mut whole = BytesMut::new();
        let mut taken = None;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| BadBody::Broken)?.into_data() else { continue };
            if (whole.len() + data.len()) as u64 > limit {
                drop(whole);
                discard(body).await;
                return Err(BadBody::TooLong { limit });
            }
            if let Err(full) = take_room(&mut taken, room, whole.len() + data.len(), small) {
                drop((whole, taken));
                discard(body).await;
                return Err(full);
            }
            if whole.is_empty() && body.is_end_stream() {
                return Ok((data, taken));
            }
            whole.extend_from_slice(&data);
        }
        Ok((whole.freeze(), taken))
    };
    tokio::time::timeout(deadline, read).await.unwrap_or(Err(BadBody::TooSlow { limit: deadline }))
}

/// Unpacks a request body within `limit` bytes, and the room that there is for it besides the packed one. The size is known, and has room,
/// before it is taken.
async fn unpack(
    (packed, mut taken): (Bytes, Taken),
    limit: u64,
    room: &Arc<Semaphore>,
    small: usize,
) -> Result<(Bytes, Taken), BadBody> {
    let size = unpacked_request_bytes(&packed, limit).map_err(BadBody::Packed)?;
    let both = usize::try_from(size).unwrap_or(usize::MAX).saturating_add(packed.len());
    take_room(&mut taken, room, both, small)?;
    let unpacked = blocking::run(move || unpack_request(&packed, limit)).await.map_err(|_| BadBody::Broken)?;
    Ok((unpacked.map_err(BadBody::Packed)?.into(), taken))
}

/// Reads on, so that the peer gets to reading the answer; one that sends nothing more waits for it already.
async fn discard(mut body: Incoming) {
    let mut left = DISCARD_BYTES;
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(DISCARD_PATIENCE, body.frame()).await {
        left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
        if left == 0 {
            return;
        }
    }
}

/// Puts the answer of a handler on HTTP.
async fn respond(answer: Answer, activity: &Activity) -> Response<Body> {
    let (retry_after, length) = (answer.retry_after, answer.length);
    let mut response = match answer.status {
        Status::Accepted => {
            let body = activity.body(answer.body).map_ok(Frame::data);
            let mut response = Response::new(StreamBody::new(body).boxed_unsync());
            set(&mut response, wire::ACCEPTED);
            response.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static(wire::REQUEST_CODING));
            if let Some(length) = length {
                response.headers_mut().insert(CONTENT_LENGTH, length.into());
            }
            response
        }
        Status::Refused => match answer.into_bytes(MAX_SMALL_MESSAGE_BYTES, "the handler").await {
            Ok(body) => {
                let code = codec::decode::<Refusal>(&body, MAX_SMALL_MESSAGE_BYTES).map_or(RefusalCode::Internal, |it| it.code);
                let status = StatusCode::from_u16(wire::http_status(code)).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                refusal(status, body)
            }
            Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, RefusalCode::Internal, "the refusal could not be encoded"),
        },
    };
    if let Some(delay) = retry_after {
        // Rounded up: earlier than asked for would be too early.
        let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

/// Puts an answer of [`Routes`] on HTTP.
fn routed(response: Response<RouteBody>, activity: &Activity) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    let body = match body {
        RouteBody::Whole(bytes) if bytes.len() > AT_ONCE_BYTES => {
            // Whoever takes it slowly is seen to take it.
            parts.headers.insert(CONTENT_LENGTH, bytes.len().into());
            let begins = (0..bytes.len()).step_by(AT_ONCE_BYTES);
            let chunks = begins.map(move |begin| Ok(bytes.slice(begin..(begin + AT_ONCE_BYTES).min(bytes.len()))));
            StreamBody::new(activity.body(futures::stream::iter(chunks).boxed()).map_ok(Frame::data)).boxed_unsync()
        }
        RouteBody::Whole(bytes) => full(bytes),
        RouteBody::Stream { length, body } => {
            parts.headers.insert(CONTENT_LENGTH, length.into());
            StreamBody::new(activity.body(body).map_ok(Frame::data)).boxed_unsync()
        }
    };
    Response::from_parts(parts, body)
}

fn no_such_path() -> Response<Body> {
    refuse(StatusCode::NOT_FOUND, RefusalCode::NotFound, "no such path: is this the right server?")
}

fn refuse(status: StatusCode, code: RefusalCode, message: impl Into<String>) -> Response<Body> {
    let message = message.into();
    let body = handler::refused(&Refusal::new(code, message.clone())).body;
    // The body of a refusal is one chunk at hand; nothing is waited for.
    let body = body.filter_map(|chunk| async { chunk.ok() }).collect::<Vec<_>>().now_or_never().unwrap_or_default();
    let mut response = refusal(status, body.concat().into());
    response.extensions_mut().insert(Told(message));
    response
}

fn refusal(status: StatusCode, body: Bytes) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    set(&mut response, wire::REFUSED);
    response
}

fn set(response: &mut Response<Body>, status: &'static str) {
    let headers = response.headers_mut();
    headers.insert(wire::STATUS_HEADER, HeaderValue::from_static(status));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(wire::CONTENT_TYPE));
}

fn full(body: Bytes) -> Body {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_of_puppet_are_refused_in_text_at_puppets_paths() {
        let headers = |accept: &'static str| HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
        for path in
            ["/puppet", "/puppet/v3/catalog/n1", "/puppet-ca/v1/certificate_request/n1", "/status/v1/x", "/file-sync/v1/x"]
        {
            assert!(wants_text(path, &HeaderMap::new()) && wants_text(path, &headers("*/*, application/json")), "{path}");
            assert!(!wants_text(path, &headers(wire::CONTENT_TYPE)), "{path}");
        }
        for path in ["/direct/v1/check-in", "/puppets", "/", "/statuses/v1"] {
            assert!(!wants_text(path, &HeaderMap::new()), "{path}");
        }
        let (parts, body) = in_text(BadBody::NoRoom.response("/puppet/v3/report/n1")).into_parts();
        let body = body.collect().now_or_never().unwrap().unwrap().to_bytes();
        assert!(body.starts_with(b"the server holds too many large requests: /puppet/v3/report/n1"), "{body:?}");
        assert_eq!(
            (parts.status, &parts.headers[RETRY_AFTER]),
            (StatusCode::SERVICE_UNAVAILABLE, &HeaderValue::from(BUSY_SECONDS))
        );
        assert_eq!(parts.headers[CONTENT_TYPE], "text/plain; charset=utf-8");
        assert!(!parts.headers.contains_key(wire::STATUS_HEADER));
    }

    #[test]
    fn small_bodies_take_room_where_the_peer_has_shown_no_certificate() {
        let room = Arc::new(Semaphore::new(2));
        let mut held = Vec::new();
        let mut take = |peer: &Peer, bytes| {
            let mut taken = None;
            let result = take_room(&mut taken, &room, bytes, small(peer));
            held.push(taken);
            result
        };
        let node = Peer::certificate("n1".parse().unwrap());
        assert_eq!([take(&Peer::Anonymous, 1), take(&Peer::Anonymous, 1024)], [Ok(()), Ok(())]);
        assert_eq!(take(&Peer::Anonymous, 1), Err(BadBody::NoRoom));
        assert_eq!(take(&node, SMALL_BODY_BYTES), Ok(()));
        assert_eq!(take(&node, SMALL_BODY_BYTES + 1), Err(BadBody::NoRoom));
    }
}
