//! Published files by digest, cacheable for ever: `GET /direct/v1/blob/<digest>`.
//!
//! Any HTTP cache can stand in front. Only files of live code are served, never compiled contents, which may hold secrets; and none to a
//! replica that may have only some environments, for a file is not of one environment.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use direct_puppet_transport::Peer;
use direct_puppet_transport::protocol::Digest;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use crate::blocking;
use crate::error::{ServerError, chain};
use crate::listen::{RouteBody, Routes};
use crate::server::Server;

const PREFIX: &str = "/direct/v1/blob/";

/// Longest file that is served so, in bytes; larger ones travel by `fetch`, which streams.
const MAX_BLOB_BYTES: u64 = 64 << 20;

/// Serves published files by digest, and leaves every other path to the routes inside.
#[derive(Debug)]
pub struct BlobRoutes {
    server: Arc<Server>,
    inner: Arc<dyn Routes>,
}

impl BlobRoutes {
    /// Returns the routes of `server` in front of `inner`.
    #[must_use]
    pub fn new(server: Arc<Server>, inner: Arc<dyn Routes>) -> Self {
        Self { server, inner }
    }

    async fn blob(&self, text: &str) -> Response<Bytes> {
        let Ok(digest) = text.parse::<Digest>() else {
            return plain(StatusCode::BAD_REQUEST, "write blob/blake3: and 64 hexadecimal digits\n");
        };
        let server = Arc::clone(&self.server);
        let read = blocking::run(move || -> Result<Option<Bytes>, ServerError> {
            if !server.is_published(&digest) {
                return Ok(None);
            }
            Ok(server.store.read(&digest, MAX_BLOB_BYTES)?)
        });
        match read.await.map_err(ServerError::from).and_then(|read| read) {
            Ok(Some(content)) => {
                let mut response = Response::new(content);
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
                response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));
                response
            }
            Ok(None) => plain(StatusCode::NOT_FOUND, "no published file has this digest\n"),
            Err(error) => {
                tracing::error!("{}", chain(&error));
                plain(StatusCode::INTERNAL_SERVER_ERROR, "the file could not be read; the server's log says why\n")
            }
        }
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(text.as_bytes()));
    *response.status_mut() = status;
    response
}

/// Returns the line of the one path.
#[cfg(any(test, feature = "testing"))]
pub(crate) const fn line() -> crate::every_route::RouteLine {
    use crate::every_route::{Audience, RouteLine};
    RouteLine { path: PREFIX, method: Method::GET, audience: Audience::Node }
}

#[async_trait]
impl Routes for BlobRoutes {
    async fn route(&self, peer: &Peer, request: Request<Bytes>) -> Option<Response<RouteBody>> {
        match request.uri().path().strip_prefix(PREFIX) {
            Some(_) if self.server.share_of(peer).is_part() => {
                self.server.denied(peer, "blob: files of all environments").await;
                Some(
                    plain(StatusCode::FORBIDDEN, "you may have some environments only, and these are files of all\n")
                        .map(RouteBody::from),
                )
            }
            Some(digest) if request.method() == Method::GET => Some(self.blob(digest).await.map(RouteBody::from)),
            Some(_) => Some(plain(StatusCode::METHOD_NOT_ALLOWED, "use GET\n").map(RouteBody::from)),
            None => self.inner.route(peer, request).await,
        }
    }

    fn max_body_bytes(&self, path: &str) -> u64 {
        self.inner.max_body_bytes(path)
    }

    fn is_open(&self, method: &Method, path: &str) -> bool {
        !path.starts_with(PREFIX) && self.inner.is_open(method, path)
    }
}
