//! What administrators ask over HTTP; JSON in and out.
//!
//! | Path | Answer |
//! |---|---|
//! | `POST /file-sync/v1/publish` | a [`PublishRequest`] (or nothing, for all of staging) → `{"environments": [EnvironmentResult]}` |
//! | `POST /file-sync/v1/commit` | `{"commit-all": true}`, or `repo-id`, `submodule-id`, `message`, `author`; ours: `request-id`, `dry-run` (commits that would be) → as Puppet's file sync |
//! | `POST /file-sync/v1/latest-commits` | what is live, as Puppet's file sync says it |
//! | `POST /file-sync/v1/rollback` | a [`RollbackRequest`] → an [`EnvironmentResult`] |
//! | `POST /file-sync/v1/force-sync` | on a replica: bring what the primary has now → as `latest-commits` |
//! | `POST /file-sync/v1/promote` | a [`PromoteRequest`] (or nothing) → [`Promoted`](crate::Promoted): this server is the primary |
//! | `POST /file-sync/v1/rollout` | a [`RolloutRequest`] (or nothing) → a [`RolloutStatus`](crate::rollout::RolloutStatus) |
//! | `GET /status/v1/services/file-sync-storage-service` | what is live, who published it and when; which replicas have what |
//! | `GET /status/v1/services/file-sync-client-service` | what this server has, whom it asks, when it last heard, and why it does not now |
//! | `GET /file-sync/v1/versions` | every version as [`Listed`](crate::history::Listed), oldest first |
//! | `GET /admin/v1/nodes` | every [`NodeSummary`](crate::NodeSummary) |
//! | `POST /admin/v1/recompile` | `{"certname": "…"}` → 204 |
//! | `GET /status/v1/simple` | `running`, for anybody |
//!
//! A publish is 200 when every environment was accepted and 207 when some were; when none was, 409 if staging changed
//! underneath, or other code is live than `if_live` says, 422 if what is staged cannot be read or published, 404 if it is not there, 500 if the server's disk failed. A message, an author,
//! a revision, an id or a reason for a pause that is too long is 400. While other servers, or the store, cannot be asked it is 503, with
//! `Retry-After`. Where environments were refused for several reasons it is the first of 503, 500, 409, 422 and 404.
//!
//! Everything but the status is for administrators: root and the server's own user, certificates that were named so, and plain
//! connections, which are this machine's own unless the administrator opened more. A request with an `Origin` comes from a web
//! page and is refused: a browser on this machine must not publish for whoever wrote the page.

mod commits;
mod table;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use direct_puppet_transport::Peer;
use direct_puppet_transport::protocol::Certname;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, ORIGIN, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::answer::{UNCONFIRMED_SECONDS, is_administrator, name_of};
use crate::blocking;
use crate::error::{ServerError, chain};
use crate::history::RollbackRequest;
use crate::listen::{RouteBody, Routes};
use crate::publish::{EnvironmentResult, PublishRequest};
use crate::role::PromoteRequest;
use crate::rollout::RolloutRequest;
use crate::route_table::{self, Found};
use crate::server::{Confirmed, Server};

use commits::CommitRequest;
use table::{Endpoint, MAX_BODY_BYTES, ROUTES, Rule};

#[cfg(any(test, feature = "testing"))]
pub(crate) use table::lines;

/// Returns the status of the storage service.
#[cfg(test)]
pub(crate) fn storage_status(server: &Server) -> serde_json::Value {
    commits::status(server).expect("what is known in memory can be told")
}

/// The administrators' paths of a server.
#[derive(Debug)]
pub struct AdminRoutes {
    server: Arc<Server>,
    admins: Vec<Certname>,
}

#[derive(Serialize)]
struct Published {
    environments: Vec<EnvironmentResult>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recompile {
    certname: Certname,
}

#[derive(Serialize)]
struct Failure<'a> {
    error: FailureBody<'a>,
}

#[derive(Serialize)]
struct FailureBody<'a> {
    code: &'a str,
    message: &'a str,
}

impl AdminRoutes {
    /// Returns the paths of `server`; `admins` are the certificates that may use them.
    #[must_use]
    pub const fn new(server: Arc<Server>, admins: Vec<Certname>) -> Self {
        Self { server, admins }
    }

    async fn refusal(&self, peer: &Peer, request: &Request<Bytes>) -> Option<Response<Bytes>> {
        if request.headers().contains_key(ORIGIN) {
            self.server.denied(peer, &format!("{} from a web page", request.uri().path())).await;
            return Some(failure(StatusCode::FORBIDDEN, "forbidden", "web pages may not ask this"));
        }
        if !is_administrator(peer, &self.admins) {
            tracing::warn!(?peer, path = request.uri().path(), "a peer that is no administrator was turned away");
            self.server.denied(peer, &format!("{} {}", request.method(), request.uri().path())).await;
            let message = "you are no administrator of this server: ask as root on its machine, or have your certificate named";
            return Some(failure(StatusCode::FORBIDDEN, "forbidden", message));
        }
        None
    }

    async fn publish(&self, peer: &Peer, body: &Bytes) -> Response<Bytes> {
        let request = if body.is_empty() { Ok(PublishRequest::default()) } else { object(body).and_then(commits::published) };
        let request: PublishRequest = match request {
            Ok(request) => request,
            Err(reason) => return bad_request(&reason),
        };
        match self.server.publish_as(request, &name_of(peer)).await {
            Ok(environments) => json(status_of(&environments), &Published { environments }),
            Err(error) => failed(&error),
        }
    }

    async fn commit(&self, peer: &Peer, body: &Bytes) -> Response<Bytes> {
        let request = match object(body).and_then(CommitRequest::into_publish) {
            Ok(request) => request,
            Err(reason) => return bad_request(&reason),
        };
        let dry_run = request.dry_run;
        match self.server.publish_as(request, &name_of(peer)).await {
            Ok(results) => json(status_of(&results), &commits::committed(&self.server, &results, dry_run)),
            Err(error) => failed(&error),
        }
    }

    async fn rollback(&self, peer: &Peer, body: &Bytes) -> Response<Bytes> {
        let request: RollbackRequest = match object(body) {
            Ok(request) => request,
            Err(reason) => return bad_request(&reason),
        };
        match self.server.rollback_as(request, &name_of(peer)).await {
            Ok(result) => json(StatusCode::OK, &result),
            Err(error) => failed(&error),
        }
    }

    async fn promote(&self, peer: &Peer, body: &Bytes) -> Response<Bytes> {
        let request = if body.is_empty() { Ok(PromoteRequest::default()) } else { object(body) };
        let request: PromoteRequest = match request {
            Ok(request) => request,
            Err(reason) => return bad_request(&reason),
        };
        match self.server.promote(&request, &name_of(peer)).await {
            Ok(promoted) => json(StatusCode::OK, &promoted),
            Err(error) => failed(&error),
        }
    }

    async fn rollout(&self, peer: &Peer, body: &Bytes) -> Response<Bytes> {
        let request = if body.is_empty() { Ok(RolloutRequest::default()) } else { object(body) };
        let request: RolloutRequest = match request {
            Ok(request) => request,
            Err(reason) => return bad_request(&reason),
        };
        let who = name_of(peer);
        self.blocking(move |server| server.set_rollout(&request, &who).and_then(|()| server.rollout())).await
    }

    /// Answers with what blocking work returns.
    async fn blocking<T: Serialize + Send + 'static>(
        &self,
        work: impl FnOnce(&Server) -> Result<T, ServerError> + Send + 'static,
    ) -> Response<Bytes> {
        let server = Arc::clone(&self.server);
        match blocking::run(move || work(&server)).await {
            Ok(Ok(value)) => json(StatusCode::OK, &value),
            Ok(Err(error)) => failed(&error),
            Err(error) => failed(&error.into()),
        }
    }

    async fn recompile(&self, peer: &Peer, body: &Bytes) -> Response<Bytes> {
        let request: Recompile = match object(body) {
            Ok(request) => request,
            Err(reason) => return bad_request(&reason),
        };
        let (server, who) = (Arc::clone(&self.server), name_of(peer));
        match blocking::run(move || server.recompile(&request.certname, &who)).await {
            Ok(Ok(())) => respond(StatusCode::NO_CONTENT, "application/json", Bytes::new()),
            Ok(Err(error)) => failed(&error),
            Err(error) => failed(&error.into()),
        }
    }
}

#[async_trait]
impl Routes for AdminRoutes {
    async fn route(&self, peer: &Peer, request: Request<Bytes>) -> Option<Response<RouteBody>> {
        self.answer(peer, request).await.map(|response| response.map(RouteBody::from))
    }

    fn max_body_bytes(&self, _path: &str) -> u64 {
        MAX_BODY_BYTES
    }

    fn is_open(&self, method: &Method, path: &str) -> bool {
        route_table::is_open(ROUTES, &Rule::Anybody, method, path) == Some(true)
    }
}

impl AdminRoutes {
    /// Answers a request, or returns `None` where there is no such path.
    pub(crate) async fn answer(&self, peer: &Peer, request: Request<Bytes>) -> Option<Response<Bytes>> {
        let route = match route_table::find(ROUTES, request.method(), request.uri().path()) {
            Found::Line(route, _) => route,
            Found::OtherMethods(allowed) => {
                let mut response = failure(StatusCode::METHOD_NOT_ALLOWED, "bad_request", &format!("use {allowed}"));
                if let Ok(allowed) = HeaderValue::from_str(&allowed) {
                    response.headers_mut().insert(ALLOW, allowed);
                }
                return Some(response);
            }
            Found::Nothing => return None,
        };
        let refusal = match route.rule {
            Rule::Anybody => None,
            Rule::Administrator => self.refusal(peer, &request).await,
        };
        if let Some(refusal) = refusal {
            return Some(refusal);
        }
        Some(match route.endpoint {
            Endpoint::Running => respond(StatusCode::OK, "text/plain", Bytes::from_static(b"running")),
            Endpoint::Publish => self.publish(peer, request.body()).await,
            Endpoint::Commit => self.commit(peer, request.body()).await,
            Endpoint::ForceSync => match self.server.confirm().await.and_then(Confirmed::whole) {
                Ok(_) => json(StatusCode::OK, &commits::latest(&self.server)),
                Err(error) => failed(&error),
            },
            Endpoint::Promote => self.promote(peer, request.body()).await,
            Endpoint::Rollout => self.rollout(peer, request.body()).await,
            Endpoint::Rollback => self.rollback(peer, request.body()).await,
            // Whoever compares with what was published is told nothing that may have been replaced.
            Endpoint::LatestCommits => match self.server.confirm().await.and_then(Confirmed::whole) {
                Ok(_) => json(StatusCode::OK, &commits::latest(&self.server)),
                Err(error) => failed(&error),
            },
            Endpoint::StorageStatus => self.blocking(commits::status).await,
            Endpoint::ClientStatus => json(StatusCode::OK, &commits::client_status(&self.server)),
            Endpoint::Versions => self.blocking(|server| server.versions(None)).await,
            Endpoint::Nodes => self.blocking(|server| server.nodes()).await,
            Endpoint::Recompile => self.recompile(peer, request.body()).await,
        })
    }
}

/// The status of a publish as a whole; see the table above.
fn status_of(results: &[EnvironmentResult]) -> StatusCode {
    let errors: Vec<&str> = results.iter().filter_map(|result| result.error.as_ref()).map(|error| error.code.as_str()).collect();
    let asked = results.iter().filter(|result| !result.is_beside).count();
    match errors.first() {
        None => StatusCode::OK,
        Some(_) if errors.len() < asked => StatusCode::MULTI_STATUS,
        // The one that says most that it may be tried again, or whose fault it was.
        Some(_) => errors.iter().map(|code| status_of_code(code)).max_by_key(|status| weight(*status)).unwrap_or_default(),
    }
}

/// How much one of several statuses says of all.
fn weight(status: StatusCode) -> u8 {
    match status {
        StatusCode::SERVICE_UNAVAILABLE => 4,
        StatusCode::INTERNAL_SERVER_ERROR => 3,
        StatusCode::CONFLICT => 2,
        StatusCode::UNPROCESSABLE_ENTITY => 1,
        _ => 0,
    }
}

fn status_of_code(code: &str) -> StatusCode {
    match code {
        "unstable" | "conflict" | "outrun" | "no_staging" | "replica" | "replaced" | "not_promoted" => StatusCode::CONFLICT,
        "bad_request" => StatusCode::BAD_REQUEST,
        "unconfirmed" | "outcome_unknown" | "working" => StatusCode::SERVICE_UNAVAILABLE,
        "compile" | "unpublishable" | "staging" | "nothing_staged" => StatusCode::UNPROCESSABLE_ENTITY,
        "no_environment" | "no_version" | "unknown_node" => StatusCode::NOT_FOUND,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn failed(error: &ServerError) -> Response<Bytes> {
    let message = chain(error);
    tracing::warn!("{message}");
    failure(status_of_code(error.code()), error.code(), &message)
}

/// Reads a request, which is a JSON object: a list would be taken for one with all defaults.
fn object<T: DeserializeOwned>(body: &Bytes) -> Result<T, String> {
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err("it is no JSON object".to_owned());
    }
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

fn bad_request(reason: &str) -> Response<Bytes> {
    failure(StatusCode::BAD_REQUEST, "bad_request", &format!("the request could not be read: {reason}"))
}

fn failure(status: StatusCode, code: &str, message: &str) -> Response<Bytes> {
    json(status, &Failure { error: FailureBody { code, message } })
}

fn json<T: Serialize>(status: StatusCode, value: &T) -> Response<Bytes> {
    match serde_json::to_vec(value) {
        Ok(text) => respond(status, "application/json", text.into()),
        Err(error) => {
            tracing::error!(%error, "an answer could not be encoded");
            respond(StatusCode::INTERNAL_SERVER_ERROR, "application/json", Bytes::new())
        }
    }
}

fn respond(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(RETRY_AFTER, UNCONFIRMED_SECONDS.into());
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::{PublishError, unchanged};

    #[test]
    fn what_was_refused_for_several_reasons_has_the_status_that_says_most() {
        let refused = |codes: &[&str]| {
            let one = |code: &&str| {
                let error = PublishError { code: (*code).to_owned(), paths: Vec::new(), message: String::new() };
                EnvironmentResult { error: (!code.is_empty()).then_some(error), ..unchanged("production".parse().unwrap(), None) }
            };
            status_of(&codes.iter().map(one).collect::<Vec<_>>()).as_u16()
        };
        for (codes, status) in [
            (&["no_environment", "unconfirmed"][..], 503),
            (&["unconfirmed", "no_environment"], 503),
            (&["unpublishable", "disk", "unstable"], 500),
            (&["no_environment", "unpublishable", "unstable"], 409),
            (&["no_environment", "unpublishable"], 422),
            (&["no_environment", "no_environment"], 404),
            (&["no_environment", ""], 207),
            (&["", ""], 200),
        ] {
            assert_eq!(refused(codes), status, "{codes:?}");
        }
    }
}
