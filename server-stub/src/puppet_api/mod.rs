//! Puppet's own HTTP API (v3), for agents of Puppet as they are: `puppet agent -t` finds what it asks Puppet Server for.
//!
//! | Path | Answer |
//! |---|---|
//! | `GET /puppet/v3/node/<certname>` | the node, of which agents take the environment |
//! | `GET`, `POST /puppet/v3/catalog/<certname>` | the catalog, compiled from the facts in the form only if this code has not made one yet |
//! | `PUT /puppet/v3/facts/<certname>` | facts outside of a run: looked at and let go, for changed facts compile nothing |
//! | `PUT /puppet/v3/report/<certname>` | kept beside the reports of our own agents |
//! | `GET /puppet/v3/file_metadata(s)/<mount>/<path>` | from the published manifest; contents are hashed once in their life |
//! | `GET /puppet/v3/file_content/<mount>/<path>` | a file of the live code |
//! | `GET /puppet/v3/static_file_content/<path>` | a file of the code with this `code_id` |
//! | `GET`, `HEAD`, `PUT /puppet/v3/file_bucket_file/<algorithm>/<digest>` | the node's own bucket |
//! | `GET /puppet/v3/environments` | what is live |
//! | `GET /status/v1/simple/<service>`, `GET /status/v1/services` | `running` |
//!
//! [`table`] says who may use which. Beside Puppet's rules, a node's bucket is its own, and contents that a compile made are in no
//! answer but the catalog of the node that it was made for.

mod answer;
mod bucket;
mod cache;
mod catalog;
mod checksum;
mod files;
mod query;
mod report;
mod site;
mod table;
#[cfg(test)]
mod tests;
mod unconfirmed;

use std::sync::Arc;
use std::thread::available_parallelism;

use async_trait::async_trait;
use bytes::Bytes;
use direct_puppet_transport::Peer;
use direct_puppet_transport::protocol::{Certname, Digest, Environment, VersionCounter};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, ORIGIN};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::sync::Semaphore;

use crate::blocking;
use crate::code::Code;
use crate::listen::{RouteBody, Routes};
use crate::route_table::{self, Found, Route};
use crate::server::{Confirmed, Server};

use answer::{Failure, TEXT};
use cache::{Cache, Place};
use checksum::Checksums;
use query::Parameters;
use table::{Caller, Endpoint, ROUTES, Rule};
use unconfirmed::Age;

pub(crate) use bucket::damaged_contents;
#[cfg(any(test, feature = "testing"))]
pub(crate) use table::lines;

/// Bytes of rendered answers that are kept, at most.
const CACHED_BYTES: usize = 128 << 20;

/// Memory that contents of files may take, in bytes: what a publish has changed is asked for by every node that has it.
const CACHED_CONTENT_BYTES: usize = 32 << 20;

/// Memory that the places of files may take, in bytes: of some ten thousand files.
const CACHED_PLACES_BYTES: usize = 4 << 20;

/// Puppet's API in front of other paths.
#[derive(Debug)]
pub struct PuppetRoutes {
    inner: Arc<dyn Routes>,
    api: Api,
}

/// What answers.
#[derive(Debug)]
struct Api {
    server: Arc<Server>,
    /// Catalogs and lists of metadata as they are sent. What they are made from is in their keys, so that nothing in it is ever old.
    rendered: Arc<Cache<String, Bytes>>,
    /// Small contents of published code.
    contents: Cache<Digest, Bytes>,
    /// What files of live code have.
    places: Cache<Place, Digest>,
    checksums: Arc<Checksums>,
    /// The code of a `code_id` that is not live any more.
    former: Arc<files::Former>,
    /// Taken for work that answers are made by: many ask for the same at once, and whoever comes second finds it done.
    making: Arc<Semaphore>,
    unconfirmed: unconfirmed::Unconfirmed,
}

/// Names a version of an environment, as `production=1.7`: nothing is answered from older code. Agents send it with `http_extra_headers`.
const AT_LEAST: HeaderName = HeaderName::from_static("x-direct-puppet-at-least");

/// A request that may be answered.
struct Asked {
    method: Method,
    caller: Caller,
    /// What follows the path of the endpoint, decoded.
    argument: String,
    /// Those of the URL and, for a form, of the body.
    parameters: Parameters,
    headers: HeaderMap,
    body: Bytes,
}

impl Asked {
    /// Returns the node that the path names.
    fn node(&self) -> Result<&Certname, Failure> {
        match &self.caller {
            Caller::Node(name) => Ok(name),
            Caller::Somebody(_) => Err(Failure::bad_request("no node is named")),
        }
    }

    /// Returns the version of an environment than which nothing older may be answered from, if the client names one.
    fn at_least(&self, environment: &Environment) -> Result<Option<VersionCounter>, Failure> {
        let Some(said) = self.headers.get(AT_LEAST) else { return Ok(None) };
        let said = said.to_str().ok().and_then(|text| text.split_once('='));
        let said = said.and_then(|(of, version)| Some((of.trim().parse::<Environment>().ok()?, version.trim().parse().ok()?)));
        let bad = || Failure::bad_request(format!("{AT_LEAST} is a version as `publish` tells it, such as production=1.7"));
        let (of, version) = said.ok_or_else(bad)?;
        // Agents send it with all requests of a run, which may be of another environment by then.
        Ok((of == *environment).then_some(version))
    }

    /// Returns the first of `offered` that the client takes, in the order in which it names what it takes; as in Puppet, weights do
    /// not count.
    fn accepted<'a>(&self, offered: &[&'a str]) -> Result<&'a str, Failure> {
        let accept = self.headers.get(ACCEPT).and_then(|value| value.to_str().ok());
        let accept = accept.ok_or_else(|| Failure::bad_request("say which format is wanted, with the header Accept"))?;
        let types = accept.split(',').map(|part| part.split(';').next().unwrap_or_default().trim());
        let take = |wanted: &str| match wanted {
            "*/*" | "application/*" => offered.first().copied(),
            // What agents of Puppet before 8 fall back to reads plain JSON as well, but is never preferred to it.
            wanted => offered.iter().find(|offer| offer.split(';').next() == Some(wanted)).copied(),
        };
        types.into_iter().find_map(take).ok_or_else(|| Failure::not_acceptable(accept))
    }

    /// Returns the type of the body, without parameters.
    fn content_type(&self) -> Option<&str> {
        self.headers.get(CONTENT_TYPE)?.to_str().ok()?.split(';').next().map(str::trim)
    }
}

impl PuppetRoutes {
    /// Returns the API of `server` in front of `inner`.
    #[must_use]
    pub fn new(server: Arc<Server>, inner: Arc<dyn Routes>) -> Self {
        let mending = Arc::clone(&server.mending);
        let lost = move |digest| mending.want(digest);
        let checksums = Arc::new(Checksums::new(server.store.clone(), Box::new(lost)));
        let making = Arc::new(Semaphore::new(available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))));
        let api = Api {
            server,
            rendered: Arc::new(Cache::new(CACHED_BYTES)),
            contents: Cache::new(CACHED_CONTENT_BYTES),
            places: Cache::new(CACHED_PLACES_BYTES),
            checksums,
            former: Arc::default(),
            making,
            unconfirmed: unconfirmed::Unconfirmed::default(),
        };
        Self { inner, api }
    }
}

impl Api {
    async fn answer(
        &self,
        peer: &Peer,
        route: &'static Route<Endpoint, Rule>,
        rest: &str,
        request: Request<Bytes>,
    ) -> Response<RouteBody> {
        let (parts, body) = request.into_parts();
        let is_head = parts.method == Method::HEAD;
        let answered = async {
            if parts.headers.contains_key(ORIGIN) {
                return Err(Failure::forbidden("web pages may not ask this"));
            }
            let argument = query::path_text(rest).ok_or_else(|| Failure::bad_request("the path is not URL-encoded UTF-8"))?;
            let caller = route.rule.authorize(route.path, peer, &argument)?;
            let parameters = Parameters::parse(parts.uri.query().unwrap_or_default())?;
            if let Ok(environment) = parameters.environment() {
                self.server.may_be_in(peer, &environment)?;
            }
            let asked = Asked { method: parts.method, caller, argument, parameters, headers: parts.headers, body };
            self.dispatch(route.endpoint, peer, asked).await
        };
        let response = match answered.await {
            Ok(response) => response,
            Err(failure) => {
                tracing::debug!(?peer, path = parts.uri.path(), status = %failure.status, "refused: {}", failure.message);
                if failure.status == StatusCode::FORBIDDEN {
                    self.server.denied(peer, &format!("{}: {}", parts.uri.path(), failure.message)).await;
                }
                failure.respond()
            }
        };
        // Over HTTP/2 a client takes a body here for a broken stream.
        if is_head { response.map(|_| RouteBody::Whole(Bytes::new())) } else { response }
    }

    async fn dispatch(&self, endpoint: Endpoint, peer: &Peer, asked: Asked) -> Result<Response<RouteBody>, Failure> {
        match endpoint {
            Endpoint::Node => self.node(&asked).await,
            Endpoint::Catalog => self.catalog(peer, asked).await,
            Endpoint::Facts => Self::facts(&asked),
            Endpoint::Report => self.report(peer, asked).await,
            Endpoint::FileMetadata => self.metadata(&asked).await,
            Endpoint::FileMetadatas => self.metadatas(&asked).await,
            Endpoint::FileContent => self.content(&asked).await,
            Endpoint::StaticFileContent => self.static_content(&asked).await,
            Endpoint::FileBucketFile => self.bucket(asked).await,
            Endpoint::Environments => self.environments(peer, &asked).await,
            Endpoint::Running => Ok(answer::plain(TEXT, Bytes::from_static(b"running"))),
            Endpoint::Services => Ok(Self::services()),
        }
    }

    /// Does blocking work in its turn.
    async fn make<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
        let turn = Arc::clone(&self.making).acquire_owned().await.map_err(|error| Failure::internal(&error))?;
        let made = blocking::run(move || {
            let made = work();
            // Also when nobody waits for it any more.
            drop(turn);
            made
        });
        made.await.map_err(|error| Failure::internal(&error))
    }

    /// Returns what is live in an environment, once it is known to be, and for how long that could not be confirmed.
    async fn live(&self, asked: &Asked, environment: &Environment) -> Result<(Arc<Code>, Age), Failure> {
        let at_least = asked.at_least(environment)?;
        let confirmed = self.server.confirm_environment(environment).await?;
        if let Some(at_least) = at_least {
            self.server.refuse_older(environment, at_least)?;
            self.server.refuse_without(environment, at_least)?;
        }
        Ok((self.live_of(environment, &confirmed)?, Age::of(&confirmed)))
    }

    fn live_of(&self, environment: &Environment, confirmed: &Confirmed) -> Result<Arc<Code>, Failure> {
        match self.server.environments.live(environment) {
            Some(code) if !confirmed.orphans.contains(environment) => Ok(code),
            // Agents begin a run with the question whether their environment is there, and 404 is their answer.
            _ => Err(Failure::not_found(format!("nothing is published in environment {environment}"))),
        }
    }
}

#[async_trait]
impl Routes for PuppetRoutes {
    async fn route(&self, peer: &Peer, request: Request<Bytes>) -> Option<Response<RouteBody>> {
        let path = request.uri().path().to_owned();
        Some(match route_table::find(ROUTES, request.method(), &path) {
            Found::Line(route, rest) => self.api.answer(peer, route, rest, request).await,
            Found::OtherMethods(allowed) => not_allowed(&allowed),
            Found::Nothing => return self.inner.route(peer, request).await,
        })
    }

    fn max_body_bytes(&self, path: &str) -> u64 {
        route_table::max_body_bytes(ROUTES, path).unwrap_or_else(|| self.inner.max_body_bytes(path))
    }

    fn is_open(&self, method: &Method, path: &str) -> bool {
        route_table::is_open(ROUTES, &Rule::Anybody, method, path).unwrap_or_else(|| self.inner.is_open(method, path))
    }
}

fn not_allowed(allowed: &str) -> Response<RouteBody> {
    let mut response = Failure::text(StatusCode::METHOD_NOT_ALLOWED, format!("use {allowed}")).respond();
    if let Ok(allowed) = HeaderValue::from_str(allowed) {
        response.headers_mut().insert(ALLOW, allowed);
    }
    response
}
