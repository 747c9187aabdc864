//! HTTP paths beside the protocol's own: publishing, administration, published files for caches.
//!
//! | Request | Answer |
//! |---|---|
//! | `POST /file-sync/v1/publish` (also `/commit`) | a result for each environment; the body may be empty |
//! | `GET /file-sync/v1/versions` | every publish that changed something |
//! | `GET /admin/v1/nodes` | every node |
//! | `POST /admin/v1/recompile` | `{"certname": …}` |
//! | `GET /direct/v1/blob/<digest>` | a published file, cacheable for ever; never a compiled content |
//! | `GET /status/v1/simple` | `running` |
//!
//! All but the last two are for administrators.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use direct_puppet_transport::Peer;
use direct_puppet_transport::protocol::{Certname, Digest};
use hyper::{Method, Request, Response, StatusCode, header};
use serde::{Deserialize, Serialize};

use crate::answer::is_administrator;
use crate::error::{ServerError, chain};
use crate::listen::Routes;
use crate::publish::{EnvironmentResult, PublishRequest};
use crate::server::Server;

/// Longest body of a request, in bytes.
const MAX_BODY_BYTES: u64 = 1 << 20;

/// Longest published file that is served by digest over plain GET, in bytes; larger ones travel by `fetch`, which streams.
const MAX_BLOB_BYTES: u64 = 64 << 20;

/// The routes of one server.
#[derive(Debug)]
pub struct AdminRoutes {
    server: Arc<Server>,
    admins: Vec<Certname>,
    serves_blobs: bool,
}

#[derive(Debug, Serialize)]
struct Problem<'a> {
    error: &'a str,
    message: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recompile {
    certname: Certname,
}

impl AdminRoutes {
    /// Returns the routes of `server`; `admins` are the certificates that may publish and look at everything.
    #[must_use]
    pub const fn new(server: Arc<Server>, admins: Vec<Certname>, serves_blobs: bool) -> Self {
        Self { server, admins, serves_blobs }
    }

    async fn publish(&self, body: &Bytes) -> Response<Bytes> {
        let request = if body.is_empty() { Ok(PublishRequest::default()) } else { serde_json::from_slice(body) };
        let request = match request {
            Ok(request) => request,
            Err(error) => return problem(StatusCode::BAD_REQUEST, "json-parse-error", error.to_string()),
        };
        match self.server.publish(request).await {
            Ok(results) => json(status_of(&results), &serde_json::json!({ "environments": results })),
            Err(error) => failed(&error),
        }
    }

    async fn recompile(&self, peer: &Peer, body: &Bytes) -> Response<Bytes> {
        let certname = match serde_json::from_slice::<Recompile>(body) {
            Ok(request) => request.certname,
            Err(error) => return problem(StatusCode::BAD_REQUEST, "json-parse-error", error.to_string()),
        };
        let (server, who, node) = (Arc::clone(&self.server), format!("{peer:?}"), certname.clone());
        match tokio::task::spawn_blocking(move || server.recompile(&node, &who)).await {
            Ok(Ok(())) => json(StatusCode::OK, &serde_json::json!({ "recompile": certname })),
            Ok(Err(error)) => failed(&error),
            Err(error) => failed(&error.into()),
        }
    }

    async fn blob(&self, text: &str) -> Response<Bytes> {
        let not_found = || problem(StatusCode::NOT_FOUND, "not-found", format!("no published file has digest {text}"));
        let Ok(digest) = text.parse::<Digest>() else {
            return problem(StatusCode::BAD_REQUEST, "bad-digest", "write blob/blake3:<64 hexadecimal digits>".to_owned());
        };
        let server = Arc::clone(&self.server);
        let read = tokio::task::spawn_blocking(move || {
            if server.is_published(&digest) { server.store.read(&digest, MAX_BLOB_BYTES) } else { Ok(None) }
        });
        let content = match read.await {
            Ok(Ok(Some(content))) => content,
            Ok(Ok(None)) => return not_found(),
            Ok(Err(error)) => return failed(&error.into()),
            Err(error) => return failed(&error.into()),
        };
        let mut response = Response::new(content);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/octet-stream"));
        headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("public, max-age=31536000, immutable"));
        response
    }
}

#[async_trait]
impl Routes for AdminRoutes {
    async fn route(&self, peer: &Peer, request: Request<Bytes>) -> Option<Response<Bytes>> {
        let (method, path) = (request.method(), request.uri().path());
        if method == Method::GET && path == "/status/v1/simple" {
            return Some(Response::new(Bytes::from_static(b"running")));
        }
        if let Some(digest) = path.strip_prefix("/direct/v1/blob/").filter(|_| self.serves_blobs && method == Method::GET) {
            return Some(self.blob(digest).await);
        }
        let is_known = matches!(
            path,
            "/file-sync/v1/publish"
                | "/file-sync/v1/commit"
                | "/file-sync/v1/versions"
                | "/admin/v1/nodes"
                | "/admin/v1/recompile"
        );
        if is_known && !is_administrator(peer, &self.admins) {
            let message = "only administrators may do this: start the server with --admin and your certname".to_owned();
            return Some(problem(StatusCode::FORBIDDEN, "forbidden", message));
        }
        Some(match (method.as_str(), path) {
            ("POST", "/file-sync/v1/publish" | "/file-sync/v1/commit") => self.publish(request.body()).await,
            ("POST", "/admin/v1/recompile") => self.recompile(peer, request.body()).await,
            ("GET", "/file-sync/v1/versions") => match self.server.versions(None) {
                Ok(versions) => json(StatusCode::OK, &versions),
                Err(error) => failed(&error),
            },
            ("GET", "/admin/v1/nodes") => json(StatusCode::OK, &self.server.nodes()),
            _ if is_known => problem(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", format!("{method} is not for {path}")),
            _ => return None,
        })
    }

    fn max_body_bytes(&self) -> u64 {
        MAX_BODY_BYTES
    }
}

/// One status for all environments: 200 when all went well, that of the failure when all failed alike, 207 for a mixture.
fn status_of(results: &[EnvironmentResult]) -> StatusCode {
    let status = |result: &EnvironmentResult| match result.error.as_ref().map(|error| error.code.as_str()) {
        None => StatusCode::OK,
        Some("unstable") => StatusCode::CONFLICT,
        Some("compile" | "unpublishable") => StatusCode::UNPROCESSABLE_ENTITY,
        Some("no_environment") => StatusCode::NOT_FOUND,
        Some(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let mut statuses = results.iter().map(status);
    let first = statuses.next().unwrap_or(StatusCode::OK);
    if statuses.all(|other| other == first) { first } else { StatusCode::MULTI_STATUS }
}

fn failed(error: &ServerError) -> Response<Bytes> {
    let status = match error {
        ServerError::UnknownNode { .. } => StatusCode::NOT_FOUND,
        _ => {
            tracing::error!("{}", chain(error));
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    problem(status, error.code(), error.to_string())
}

fn problem(status: StatusCode, error: &str, message: String) -> Response<Bytes> {
    json(status, &Problem { error, message })
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Bytes> {
    // The values above are strings, numbers and lists of them.
    let body = serde_json::to_vec_pretty(value).unwrap_or_default();
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}
