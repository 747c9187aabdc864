//! `puppet-ca/v1`: the authority over HTTP, as Puppet Server has it.
//!
//! [`table`] says who may use which path. Answers are plain text, and JSON where Puppet's are.

mod table;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use direct_puppet_transport::Peer;
use direct_puppet_transport::protocol::Certname;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, IF_MODIFIED_SINCE, LAST_MODIFIED, ORIGIN, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::dir::read_text;
use super::error::BUSY_SECONDS;
use super::{Ca, CaError, date};
use crate::answer::name_of;
use crate::blocking;
use crate::error::chain;
use crate::listen::{ClientCertificate, RouteBody, Routes};
use crate::route_table::{self, Found, Route};
use crate::server::Server;

use table::{Endpoint, ROUTES, Rule};

#[cfg(any(test, feature = "testing"))]
pub(crate) use table::lines;

/// What Puppet calls every kind of plain text.
const TEXT: &str = "text/plain";
const JSON: &str = "application/json";

/// An answer, or why there is none.
type Answer = Result<Response<Bytes>, No>;

/// Why something was not done, as plain text.
#[derive(Debug)]
struct No {
    status: StatusCode,
    message: String,
    /// Whether to come again soon.
    is_busy: bool,
}

impl No {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), is_busy: false }
    }

    fn response(self) -> Response<Bytes> {
        let mut response = text(self.status, self.message);
        if self.is_busy {
            response.headers_mut().insert(RETRY_AFTER, BUSY_SECONDS.into());
        }
        response
    }
}

/// The authority's paths in front of others.
#[derive(Debug)]
pub struct CaRoutes {
    inner: Arc<dyn Routes>,
    api: Api,
}

#[derive(Debug, Clone)]
struct Api {
    ca: Arc<Ca>,
    /// Whose audit log has what administrators do; `None` for none.
    server: Option<Arc<Server>>,
    admins: Vec<Certname>,
}

/// What is to become of a name.
#[derive(Debug, Deserialize)]
struct Desired {
    desired_state: State,
    /// Seconds.
    #[serde(default)]
    cert_ttl: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Signed,
    Revoked,
}

#[derive(Debug, Deserialize)]
struct Names {
    certnames: Vec<Certname>,
}

impl CaRoutes {
    /// Returns the paths of `ca` in front of `inner`. What administrators do is in the audit log of `server`; `admins` are certificates
    /// that may administrate the authority beside those with `pp_cli_auth`.
    #[must_use]
    pub fn new(ca: Arc<Ca>, server: Option<Arc<Server>>, admins: Vec<Certname>, inner: Arc<dyn Routes>) -> Self {
        Self { inner, api: Api { ca, server, admins } }
    }
}

#[async_trait]
impl Routes for CaRoutes {
    async fn route(&self, peer: &Peer, request: Request<Bytes>) -> Option<Response<RouteBody>> {
        let path = request.uri().path().to_owned();
        let answer = match route_table::find(ROUTES, request.method(), &path) {
            Found::Line(route, rest) => self.api.answer(peer, &path, route, rest, request).await.unwrap_or_else(No::response),
            Found::OtherMethods(allowed) => not_allowed(&allowed),
            Found::Nothing => return self.inner.route(peer, request).await,
        };
        Some(answer.map(RouteBody::from))
    }

    fn max_body_bytes(&self, path: &str) -> u64 {
        route_table::max_body_bytes(ROUTES, path).unwrap_or_else(|| self.inner.max_body_bytes(path))
    }

    fn is_open(&self, method: &Method, path: &str) -> bool {
        route_table::is_open(ROUTES, &Rule::Anybody, method, path).unwrap_or_else(|| self.inner.is_open(method, path))
    }
}

impl Api {
    async fn answer(
        &self,
        peer: &Peer,
        path: &str,
        route: &'static Route<Endpoint, Rule>,
        rest: &str,
        request: Request<Bytes>,
    ) -> Answer {
        let certificate = request.extensions().get::<Arc<ClientCertificate>>().cloned();
        if request.headers().contains_key(ORIGIN) {
            self.denied(peer, path).await;
            return Err(No::new(StatusCode::FORBIDDEN, "web pages may not ask this"));
        }
        if !route.rule.lets_in(peer, certificate.as_deref(), &self.admins) {
            tracing::warn!(?peer, path, "a peer that may not do this to the certificate authority was turned away");
            self.denied(peer, path).await;
            return Err(No::new(StatusCode::FORBIDDEN, format!("Forbidden request: {path} (method {})", route.method)));
        }
        self.dispatch(peer, route.endpoint, rest, certificate, request).await
    }

    async fn denied(&self, peer: &Peer, path: &str) {
        if let Some(server) = &self.server {
            server.denied(peer, path).await;
        }
    }

    async fn dispatch(
        &self,
        peer: &Peer,
        endpoint: Endpoint,
        rest: &str,
        certificate: Option<Arc<ClientCertificate>>,
        request: Request<Bytes>,
    ) -> Answer {
        let since = request.headers().get(IF_MODIFIED_SINCE).and_then(|value| value.to_str().ok()).and_then(date::parse_http);
        let query = request.uri().query().unwrap_or_default().to_owned();
        let body = request.into_body();
        match endpoint {
            Endpoint::Certificate => {
                let name = name(rest)?;
                let missing = format!("Could not find certificate {name}");
                self.file(since, missing, move |ca| Ok((ca.certificate_pem(&name)?, ca.certificate_path(&name)))).await
            }
            Endpoint::GetList if rest == "ca" => {
                self.file(since, "Could not find certificate_revocation_list ca".to_owned(), |ca| {
                    let path = ca.dir.lists();
                    Ok((read_text(&path)?, path))
                })
                .await
            }
            Endpoint::GetList => Err(No::new(StatusCode::NOT_FOUND, "there is one list, called ca")),
            Endpoint::GetRequest => {
                let name = name(rest)?;
                let missing = format!("Could not find certificate_request {name}");
                self.file(None, missing, move |ca| Ok((ca.request_pem(&name)?, ca.dir.request(&name)))).await
            }
            Endpoint::PutRequest => {
                let name = name(rest)?;
                self.ca.submit(&name, &body).await.map_err(|error| failed(&error))?;
                Ok(text(StatusCode::OK, ""))
            }
            Endpoint::PutLists => {
                let taken = self.act(peer, "ca update-crl", "", move |ca| ca.update_lists(&body)).await?;
                Ok(text(StatusCode::OK, format!("{taken} revocation lists were newer, and were taken")))
            }
            Endpoint::DeleteRequest => {
                let name = name(rest)?;
                let missing = format!("No certificate request for {name}");
                self.forget(peer, "ca delete-request", name, missing, false).await
            }
            Endpoint::GetStatus => {
                let name = name(rest)?;
                let missing = No::new(StatusCode::NOT_FOUND, format!("nothing is known of {name}"));
                self.ask(move |ca| ca.status(&name)).await?.map_or(Err(missing), |status| json(&status))
            }
            Endpoint::PutStatus => self.set_state(peer, name(rest)?, &body).await,
            Endpoint::DeleteStatus => {
                let name = name(rest)?;
                let missing = format!("nothing is known of {name}");
                self.forget(peer, "ca delete", name, missing, true).await
            }
            Endpoint::Statuses => {
                let wanted = query.split('&').find_map(|pair| pair.strip_prefix("state=")).map(ToOwned::to_owned);
                let is_state = |state: &String| ["requested", "signed", "revoked"].contains(&state.as_str());
                let wanted = wanted.filter(is_state);
                let mut statuses = self.ask(|ca| ca.statuses()).await?;
                statuses.retain(|status| wanted.as_ref().is_none_or(|wanted| status.state == *wanted));
                json(&statuses)
            }
            Endpoint::Renewal => {
                let Some(certificate) = certificate else {
                    return Err(No::new(StatusCode::BAD_REQUEST, "No certificate was shown that could be renewed"));
                };
                let pem = self.ask(move |ca| ca.renew_shown(&certificate.der)).await?;
                Ok(text(StatusCode::OK, pem))
            }
            Endpoint::Expirations => json(&self.ask(|ca| ca.expirations()).await?),
            Endpoint::Sign => {
                let names = names(&body, StatusCode::UNPROCESSABLE_ENTITY)?;
                json(&self.act(peer, "ca sign", &list(&names), move |ca| ca.sign_all(&names)).await?)
            }
            Endpoint::SignAll => json(&self.act(peer, "ca sign", "all that wait", |ca| ca.sign_all(&ca.waiting()?)).await?),
            Endpoint::Clean => {
                let names = names(&body, StatusCode::BAD_REQUEST)?;
                let unknown = self.act(peer, "ca clean", &list(&names), move |ca| ca.clean(&names)).await?;
                let told = match unknown.as_slice() {
                    [] => "Successfully cleaned all certs.".to_owned(),
                    unknown => format!("The following certs do not exist and cannot be revoked: {}", list(unknown)),
                };
                Ok(text(StatusCode::OK, told))
            }
        }
    }

    /// Forgets the request of a name, and its certificate too; with `missing` where there is none.
    async fn forget(&self, peer: &Peer, act: &'static str, name: Certname, missing: String, with_certificate: bool) -> Answer {
        let what = name.to_string();
        if self.act(peer, act, &what, move |ca| ca.forget(&name, with_certificate)).await? {
            return Ok(text(StatusCode::NO_CONTENT, ""));
        }
        Err(No::new(StatusCode::NOT_FOUND, missing))
    }

    async fn set_state(&self, peer: &Peer, name: Certname, body: &Bytes) -> Answer {
        let desired: Desired = serde_json::from_slice(body)
            .map_err(|error| No::new(StatusCode::BAD_REQUEST, format!("the request could not be read: {error}")))?;
        let (what, of) = (name.to_string(), name.clone());
        let conflict = match desired.desired_state {
            State::Signed => {
                let ttl = desired.cert_ttl.map(Duration::from_secs);
                match self.act_or(peer, "ca sign", &what, move |ca| ca.sign(&of, ttl)).await? {
                    Ok(()) => None,
                    Err(error @ (CaError::NoRequest { .. } | CaError::Refused { .. })) => Some(chain(&error)),
                    Err(error) => return Err(failed(&error)),
                }
            }
            State::Revoked => {
                let unknown = self.act(peer, "ca revoke", &what, move |ca| ca.revoke(&[of])).await?;
                (!unknown.is_empty()).then(|| format!("Cannot revoke certificate for host {name} without a signed certificate"))
            }
        };
        let Some(conflict) = conflict else { return Ok(text(StatusCode::NO_CONTENT, "")) };
        // Puppet's tools have words of their own for a name of which there is nothing.
        let there = self.ask(move |ca| Ok(ca.request_pem(&name)?.is_some() || ca.certificate_pem(&name)?.is_some())).await?;
        match there {
            true => Err(No::new(StatusCode::CONFLICT, conflict)),
            false => Err(No::new(StatusCode::NOT_FOUND, format!("nothing is known of {what}"))),
        }
    }

    /// Does blocking work.
    async fn ask_or<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Ca) -> Result<T, CaError> + Send + 'static,
    ) -> Result<Result<T, CaError>, No> {
        let ca = Arc::clone(&self.ca);
        blocking::run(move || work(&ca)).await.map_err(|error| failed(&super::lost(&error)))
    }

    async fn ask<T: Send + 'static>(&self, work: impl FnOnce(&Ca) -> Result<T, CaError> + Send + 'static) -> Result<T, No> {
        self.ask_or(work).await?.map_err(|error| failed(&error))
    }

    /// Does what an administrator asks, which is recorded first.
    async fn act_or<T: Send + 'static>(
        &self,
        peer: &Peer,
        act: &'static str,
        what: &str,
        work: impl FnOnce(&Ca) -> Result<T, CaError> + Send + 'static,
    ) -> Result<Result<T, CaError>, No> {
        if let Some(server) = &self.server {
            let (server, who, what) = (Arc::clone(server), name_of(peer), what.to_owned());
            // A full disk must not keep a certificate from being revoked.
            let recorded = blocking::run(move || server.audit_if_possible(act, &who, &what)).await;
            let broken = |error: &(dyn std::error::Error + 'static)| internal(error);
            recorded.map_err(|error| broken(&error))?.map_err(|error| broken(&error))?;
        }
        self.ask_or(work).await
    }

    async fn act<T: Send + 'static>(
        &self,
        peer: &Peer,
        act: &'static str,
        what: &str,
        work: impl FnOnce(&Ca) -> Result<T, CaError> + Send + 'static,
    ) -> Result<T, No> {
        self.act_or(peer, act, what, work).await?.map_err(|error| failed(&error))
    }

    /// Answers with a file, unless the client has one as new.
    async fn file(
        &self,
        since: Option<OffsetDateTime>,
        missing: String,
        read: impl FnOnce(&Ca) -> Result<(Option<String>, std::path::PathBuf), CaError> + Send + 'static,
    ) -> Answer {
        let (content, modified) = self
            .ask(move |ca| {
                let (content, path) = read(ca)?;
                let modified = std::fs::metadata(&path).and_then(|found| found.modified()).ok().map(OffsetDateTime::from);
                Ok((content, modified))
            })
            .await?;
        let Some(content) = content else { return Err(No::new(StatusCode::NOT_FOUND, missing)) };
        // A header has no parts of seconds: what was written later in the same second is newer.
        let is_old = since.zip(modified).is_none_or(|(since, modified)| modified > since);
        let mut response = if is_old { text(StatusCode::OK, content) } else { text(StatusCode::NOT_MODIFIED, "") };
        if let Some(modified) = modified.and_then(|modified| HeaderValue::from_str(&date::http(modified)).ok()) {
            response.headers_mut().insert(LAST_MODIFIED, modified);
        }
        Ok(response)
    }
}

impl Ca {
    fn certificate_path(&self, name: &Certname) -> std::path::PathBuf {
        if name.as_str() == "ca" { self.dir.certificates() } else { self.dir.signed(name) }
    }
}

/// Reads a name in a path. It needs no decoding: no letter of a certname is ever encoded.
fn name(rest: &str) -> Result<Certname, No> {
    rest.parse().map_err(|error| No::new(StatusCode::BAD_REQUEST, format!("{error}")))
}

fn names(body: &Bytes, status: StatusCode) -> Result<Vec<Certname>, No> {
    let names: Names =
        serde_json::from_slice(body).map_err(|error| No::new(status, format!("the request could not be read: {error}")))?;
    Ok(names.certnames)
}

fn list(names: &[Certname]) -> String {
    names.iter().map(Certname::as_str).collect::<Vec<_>>().join(" ")
}

fn failed(error: &CaError) -> No {
    let status = match error {
        CaError::Refused { .. } | CaError::Duplicate { .. } => StatusCode::BAD_REQUEST,
        CaError::NoRequest { .. } | CaError::NoCertificate { .. } => StatusCode::NOT_FOUND,
        CaError::NotRenewed { .. } => StatusCode::FORBIDDEN,
        CaError::Full { .. } | CaError::Busy { .. } => StatusCode::SERVICE_UNAVAILABLE,
        error => return internal(error),
    };
    let message = chain(error);
    tracing::warn!("{message}");
    No { is_busy: matches!(error, CaError::Busy { .. }), ..No::new(status, message) }
}

/// Logs what broke, and tells the peer no more than that something did.
fn internal(error: &(dyn std::error::Error + 'static)) -> No {
    tracing::error!("{}", chain(error));
    No::new(StatusCode::INTERNAL_SERVER_ERROR, "something broke in the certificate authority; the server's log says what")
}

fn json<T: Serialize>(value: &T) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => Ok(respond(StatusCode::OK, JSON, body.into())),
        Err(error) => Err(internal(&error)),
    }
}

fn not_allowed(allowed: &str) -> Response<Bytes> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, format!("use {allowed}"));
    if let Ok(allowed) = HeaderValue::from_str(allowed) {
        response.headers_mut().insert(ALLOW, allowed);
    }
    response
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Bytes> {
    respond(status, TEXT, body.into())
}

fn respond(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
