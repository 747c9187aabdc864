//! Puppet's v3 HTTP API: requests, limits, and what an answer that is no success means.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use direct_puppet_transport::http::{PlainMethod, PlainRequest, PlainResponse};
use direct_puppet_transport::protocol::{Refusal, RefusalCode};
use direct_puppet_transport::{HttpTransport, TransportError, TransportErrorKind};
use futures::StreamExt as _;
use serde_json::Value as Json;

/// The version of Puppet whose requests these are. Servers tell clients below 5.3.1 nothing of when to come back
/// (`X-Puppet-Version`, Puppet Server's `ezbake` defaults), and code may ask for `$clientversion`.
pub const PUPPET_VERSION: &str = "7.23.0";

/// Most bytes of an error that are read: enough for it to be told.
const MAX_ERROR_BYTES: u64 = 16 * 1024;

/// Most characters of an error that are told.
const MAX_ERROR_CHARACTERS: usize = 2000;

/// Sends requests to one server.
#[async_trait]
pub trait Exchange: Debug + Send + Sync + 'static {
    /// Sends one request. Whatever its status, an answer is no error.
    ///
    /// # Errors
    ///
    /// When there is no answer.
    async fn send(&self, request: PlainRequest) -> Result<PlainResponse, TransportError>;

    /// Returns the URL of the server, for messages.
    fn endpoint(&self) -> &str;

    /// Returns whether the server is on this machine.
    fn is_local(&self) -> bool;
}

#[async_trait]
impl Exchange for HttpTransport {
    async fn send(&self, request: PlainRequest) -> Result<PlainResponse, TransportError> {
        self.send_plain(request).await
    }

    fn endpoint(&self) -> &str {
        direct_puppet_transport::Transport::endpoint(self)
    }

    fn is_local(&self) -> bool {
        direct_puppet_transport::Transport::is_local(self)
    }
}

/// Why an operation has no answer: the server said no, or it was not reached.
#[derive(Debug)]
pub(crate) enum Failure {
    Refused(Refusal),
    Transport(TransportError),
}

impl From<TransportError> for Failure {
    fn from(error: TransportError) -> Self {
        Self::Transport(error)
    }
}

/// One request of the API.
pub(crate) struct Call {
    pub(crate) method: PlainMethod,
    /// Below `/puppet/v3/`, encoded.
    pub(crate) path: String,
    pub(crate) accept: &'static str,
    pub(crate) content_type: Option<&'static str>,
    pub(crate) body: Bytes,
}

impl Call {
    pub(crate) fn get(path: String, accept: &'static str) -> Self {
        Self { method: PlainMethod::Get, path, accept, content_type: None, body: Bytes::new() }
    }

    /// Returns what is asked, without the query, for messages.
    fn shown(&self) -> String {
        let path = self.path.split('?').next().unwrap_or_default();
        format!("{} /puppet/v3/{path}", self.method.name())
    }
}

/// An answer.
pub(crate) enum Answer {
    /// The request succeeded.
    Here(PlainResponse),
    /// There is no such thing: what the server says.
    NotFound(String),
}

/// Makes a call. Statuses other than success and 404 are failures.
pub(crate) async fn call(exchange: &dyn Exchange, call: Call) -> Result<Answer, Failure> {
    let shown = call.shown();
    let mut headers = vec![("Accept", call.accept), ("X-Puppet-Version", PUPPET_VERSION)];
    headers.extend(call.content_type.map(|content_type| ("Content-Type", content_type)));
    let path = format!("/puppet/v3/{}", call.path);
    let request = PlainRequest { method: call.method, path, headers, body: call.body };
    let response = exchange.send(request).await?;
    if (200..300).contains(&response.status) {
        return Ok(Answer::Here(response));
    }
    let (status, retry_after) = (response.status, response.retry_after);
    let said = said(response, exchange.endpoint()).await;
    match status {
        404 => Ok(Answer::NotFound(said)),
        _ => Err(failure(exchange.endpoint(), &shown, status, retry_after, &said)),
    }
}

/// Makes a call whose answer is read whole; a 404 is a failure too.
pub(crate) async fn whole(exchange: &dyn Exchange, asked: Call, limit: u64) -> Result<Bytes, Failure> {
    let shown = asked.shown();
    match call(exchange, asked).await? {
        Answer::Here(response) => Ok(read(response, limit, exchange.endpoint(), &shown).await?),
        Answer::NotFound(said) => {
            let message = format!("{} has nothing at {shown}: {said}", exchange.endpoint());
            Err(Failure::Refused(Refusal::new(RefusalCode::NotFound, message)))
        }
    }
}

/// Reads a body of at most `limit` bytes.
pub(crate) async fn read(response: PlainResponse, limit: u64, endpoint: &str, shown: &str) -> Result<Bytes, TransportError> {
    let too_large = || {
        let detail = format!("the answer to {shown} has more than {limit} bytes");
        TransportError::new(TransportErrorKind::TooLarge, endpoint).with_detail(detail)
    };
    if response.length.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let mut whole = BytesMut::new();
    let mut body = response.body;
    while let Some(chunk) = body.next().await.transpose()? {
        if (whole.len() + chunk.len()) as u64 > limit {
            return Err(too_large());
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
}

/// Reads JSON; what is none is an answer of something else than a server of Puppet.
pub(crate) fn json(bytes: &[u8], endpoint: &str, what: &str) -> Result<Json, TransportError> {
    serde_json::from_slice(bytes).map_err(|error| not_puppet(endpoint, format!("{what} is not JSON")).with_source(error))
}

/// Returns the error of an answer that no server of Puppet gives.
pub(crate) fn not_puppet(endpoint: &str, detail: impl Into<String>) -> TransportError {
    TransportError::new(TransportErrorKind::Protocol, endpoint)
        .with_detail(format!("{}: is this a Puppet Server?", detail.into()))
}

/// Returns the message of an error: the `message` of JSON, or the text as it is; on one line, shortened.
async fn said(response: PlainResponse, endpoint: &str) -> String {
    let Ok(bytes) = read(response, MAX_ERROR_BYTES, endpoint, "an error").await else { return String::new() };
    let text = match serde_json::from_slice(&bytes) {
        Ok(Json::Object(object)) if object.get("message").is_some_and(Json::is_string) => {
            object.get("message").and_then(Json::as_str).unwrap_or_default().to_owned()
        }
        _ => String::from_utf8_lossy(&bytes).into_owned(),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(MAX_ERROR_CHARACTERS).collect()
}

fn failure(endpoint: &str, shown: &str, status: u16, retry_after: Option<Duration>, said: &str) -> Failure {
    let refused = |code, message: String| Failure::Refused(Refusal::new(code, message));
    let answered = if said.is_empty() { format!("HTTP {status}") } else { format!("HTTP {status}: {said}") };
    match status {
        400 => refused(RefusalCode::BadRequest, format!("{endpoint} does not understand {shown}: {answered}")),
        413 => refused(RefusalCode::BadRequest, format!("{endpoint} does not take as much as {shown} has: {answered}")),
        401 | 403 => refused(
            RefusalCode::Forbidden,
            format!(
                "{endpoint} forbids {shown} for this node ({answered}): the certificate in the ssldir must have the node's name \
                 as its common name, and the auth.conf of the server must allow it"
            ),
        ),
        429 | 502..=504 => {
            let detail = format!("{shown}: {answered}");
            let error = TransportError::new(TransportErrorKind::Unavailable, endpoint).with_detail(detail);
            Failure::Transport(error.with_retry_after(retry_after))
        }
        500 => {
            let code = if shown.contains("/catalog/") { RefusalCode::CompileFailed } else { RefusalCode::Internal };
            refused(code, format!("{endpoint} could not answer {shown}: {said}"))
        }
        _ => Failure::Transport(not_puppet(endpoint, format!("{shown} was answered with {answered}"))),
    }
}
