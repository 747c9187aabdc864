//! Catalogs: the same that our own agents get, in Puppet's words.

mod document;
mod facts;
mod sources;
mod value;

use std::sync::Arc;

use bytes::Bytes;
use direct_puppet_transport::Peer;
use direct_puppet_transport::protocol::{
    Catalog, CatalogId, CatalogReply, CheckIn, CodeId, Environment, ProtocolVersion, SubmitFacts,
};
use hyper::header::HeaderValue;
use hyper::{Method, Response, StatusCode};

use super::answer::{self, Failure, JSON, RICH_JSON};
use super::checksum::Kind;
use super::query::{Parameters, short};
use super::unconfirmed::Age;
use super::{Api, Asked};
use crate::answer::UNCONFIRMED_SECONDS;
use crate::blocking;
use crate::listen::RouteBody;
use crate::nodes::CompiledCatalog;

use document::Document;
use facts::Facts;
use sources::Static;

/// How often a catalog is asked for that turns out to be gone from the disk.
const ATTEMPTS: usize = 2;

/// The type of a form.
const FORM: &str = "application/x-www-form-urlencoded";

/// What is asked for beside the catalog itself.
struct Wanted {
    check_in: CheckIn,
    facts: Option<Facts>,
    is_rich: bool,
    /// The type of checksum of a static catalog.
    checksum: Option<Kind>,
}

/// A catalog that there is.
struct Given {
    catalog_id: CatalogId,
    code_id: CodeId,
    catalog: Bytes,
    /// For how long this server could not confirm, with its primary, that the code is live, in seconds.
    unconfirmed_seconds: Option<u32>,
}

/// What a node has.
enum Held {
    /// A catalog of the live code.
    Live,
    /// One of other code.
    Other(Given),
    /// None, as far as this server knows.
    Nothing,
}

/// When to ask again where a rollout is paused, in seconds.
const PAUSED_SECONDS: u32 = 300;

impl Api {
    pub(super) async fn catalog(&self, peer: &Peer, asked: Asked) -> Result<Response<RouteBody>, Failure> {
        let format = asked.accepted(&[RICH_JSON, JSON])?;
        let is_rich = format == RICH_JSON;
        // The form may be long, with facts in it.
        let read = blocking::run(move || Wanted::of(&asked, is_rich)).await;
        let mut wanted = read.map_err(|error| Failure::internal(&error))??;
        let given = match self.given(&wanted, peer).await {
            Err(failure) => match self.classified_elsewhere(&wanted, &failure).await {
                // An agent that is given a catalog of another environment changes to that, and asks again.
                Some(environment) => {
                    wanted.check_in.environment = environment;
                    // That counted in the other one.
                    wanted.check_in.at_least = None;
                    self.given(&wanted, peer).await?
                }
                None => return Err(failure),
            },
            given => given?,
        };
        let age = Age(given.unconfirmed_seconds);
        self.unconfirmed.gave(&wanted.check_in.certname, age);
        let document = self.rendered(&wanted, given).await?;
        let mut response = answer::plain(format, document);
        response.headers_mut().insert("x-puppet-compiler-name", HeaderValue::from_static("direct-puppet"));
        Ok(age.told(response))
    }

    /// Returns the environment that a node classifier puts a node into, where that is another one than the node asks for, which does not
    /// compile for it.
    async fn classified_elsewhere(&self, wanted: &Wanted, failure: &Failure) -> Option<Environment> {
        if failure.status != StatusCode::INTERNAL_SERVER_ERROR {
            return None;
        }
        let (compiler, certname) = (Arc::clone(&self.server.options.compiler), wanted.check_in.certname.clone());
        let said = self.make(move || compiler.environment_of(&certname)).await.ok()?.ok()??;
        (said != wanted.check_in.environment).then_some(said)
    }

    /// Gets the catalog as our own agents do: facts count only where this code has made none yet.
    async fn given(&self, wanted: &Wanted, peer: &Peer) -> Result<Given, Failure> {
        // The environment may have come in the form, or from a classifier: neither was looked at when the request came.
        self.server.may_be_in(peer, &wanted.check_in.environment)?;
        if let Some(kept) = self.kept_while_paused(wanted).await? {
            return Ok(kept);
        }
        let CheckIn { certname, environment, .. } = &wanted.check_in;
        let known = self.server.nodes.summary(certname).and_then(|node| Some((node.catalog_id?, node.code_id?)));
        for _ in 0..ATTEMPTS {
            let reply = self.server.answer_check_in(peer, &wanted.check_in).await;
            // These agents say nothing of what they hold: what they reported still stands.
            self.server.nodes.seen(certname, environment, known);
            let mut reply = reply?;
            if reply == CatalogReply::FactsNeeded {
                let facts = wanted.facts.as_ref().ok_or_else(|| {
                    Failure::bad_request(format!("{} has no catalog yet: send its facts", wanted.check_in.certname))
                })?;
                let request = SubmitFacts { check_in: wanted.check_in.clone(), facts: facts.values()? };
                let answered = self.server.answer_facts(peer, &request).await;
                self.server.nodes.seen(certname, environment, known);
                reply = answered?;
            }
            if let CatalogReply::Catalog { catalog_id, code_id, catalog, unconfirmed_seconds, .. } = reply {
                return Ok(Given { catalog_id, code_id, catalog, unconfirmed_seconds });
            }
        }
        Err(Failure::server("the catalog was lost from this server's disk: try again"))
    }

    /// While a rollout is paused, a node that has other code keeps it.
    async fn kept_while_paused(&self, wanted: &Wanted) -> Result<Option<Given>, Failure> {
        let is_paused = || self.server.gate.rollout().paused.is_some();
        if wanted.check_in.at_least.is_some() {
            // Who asks for a version by name is served.
            return Ok(None);
        }
        // Another server may have paused it: confirming tells.
        if !is_paused() && self.server.peers.is_none() {
            return Ok(None);
        }
        let CheckIn { certname, environment, .. } = wanted.check_in.clone();
        let confirmed = self.server.confirm_environment(&environment).await?;
        if !is_paused() {
            return Ok(None);
        }
        let Age(unconfirmed_seconds) = Age::of(&confirmed);
        let live = self.live_of(&environment, &confirmed)?;
        let (nodes, live) = (Arc::clone(&self.server.nodes), live.version.code_id);
        let (known, of) = (certname.clone(), environment.clone());
        let find = move || {
            if nodes.catalog(&known, &of, live).is_some() {
                // It need not be kept from what it has had.
                return Held::Live;
            }
            let reported = nodes.summary(&known).and_then(|node| node.code_id);
            let held = reported.and_then(|code_id| nodes.catalog(&known, &of, code_id));
            let held = held.or_else(|| nodes.newest_catalog(&known, &of));
            let read = |held: CompiledCatalog| {
                let catalog = nodes.read(&known, held.catalog_id)?;
                Some(Given { catalog_id: held.catalog_id, code_id: held.code_id, catalog, unconfirmed_seconds })
            };
            held.and_then(read).map_or(Held::Nothing, Held::Other)
        };
        let look = || async { blocking::run(find.clone()).await.map_err(|error| Failure::internal(&error)) };
        let mut held = look().await?;
        if let (Held::Nothing, Some(shared)) = (&held, &self.server.shared)
            && let Some(brought) = self.server.hold_collections().await
        {
            // It may have got what it has from another server.
            shared.adopt_held(&certname, &environment, live, &brought).await?;
            held = look().await?;
        }
        match held {
            Held::Other(given) => Ok(Some(given)),
            Held::Nothing if self.server.shared.is_none() && self.server.has_others() => {
                let message = format!(
                    "the rollout is paused, and this server does not know which code {certname} has: it is told by the server that it \
                     asked before, or resume the rollout"
                );
                Err(Failure::unavailable(message, PAUSED_SECONDS))
            }
            Held::Live | Held::Nothing => Ok(None),
        }
    }

    async fn rendered(&self, wanted: &Wanted, given: Given) -> Result<Bytes, Failure> {
        let (environment, certname) = (&wanted.check_in.environment, &wanted.check_in.certname);
        let Given { catalog_id, code_id, catalog, .. } = given;
        let checksum = wanted.checksum.map_or("", Kind::name);
        // The certname is in the catalog, and so in its id.
        let key = format!("catalog {catalog_id} {code_id} {} {checksum}", wanted.is_rich);
        if let Some(known) = self.rendered.get(&key) {
            return Ok(known);
        }
        let compiled = self.server.nodes.catalog(certname, environment, code_id);
        let time = compiled.map_or_else(crate::server::now, |compiled| compiled.time_unix_seconds);
        let tree = match wanted.checksum {
            Some(_) => {
                let tree = self.tree(environment, code_id).await?;
                let gone =
                    || Failure::unavailable("the code of the catalog is not on this server: try again", UNCONFIRMED_SECONDS);
                Some(tree.ok_or_else(gone)?)
            }
            None => None,
        };
        let (store, checksums) = (self.server.store.clone(), Arc::clone(&self.checksums));
        let (is_rich, checksum) = (wanted.is_rich, wanted.checksum);
        let rendered = Arc::clone(&self.rendered);
        let render = move || -> Result<Bytes, Failure> {
            if let Some(known) = rendered.get(&key) {
                return Ok(known);
            }
            let catalog = Catalog::decode(&catalog, catalog_id).map_err(|error| Failure::internal(&error))?;
            let inlined = match (&tree, checksum) {
                (Some(tree), Some(kind)) => {
                    Some(Static::new(tree.manifest(), &store, &checksums, &catalog.environment, kind, time)?)
                }
                _ => None,
            };
            let document =
                Document { catalog: &catalog, catalog_id, code_id, time, is_rich, store: &store, inlined: inlined.as_ref() };
            let document = document.render()?;
            rendered.put(key, &document);
            Ok(document)
        };
        self.make(render).await?.map_err(|failure| {
            if failure.status != StatusCode::GONE {
                return failure;
            }
            // It is compiled anew when the agent asks again, which it does by itself.
            self.server.nodes.lose(certname, catalog_id);
            Failure::unavailable(failure.message, 1)
        })
    }

    /// Facts outside of a run. They are looked at, and let go: nothing but a compile needs them.
    pub(super) fn facts(asked: &Asked) -> Result<Response<RouteBody>, Failure> {
        match asked.content_type() {
            Some("application/json" | "text/pson") => {}
            _ => return Err(Failure::unsupported_media_type("send facts as application/json")),
        }
        Facts::parse(asked.body.to_vec(), asked.node()?)?;
        Ok(answer::plain(JSON, Bytes::from_static(b"\"\"")))
    }
}

impl Wanted {
    fn of(asked: &Asked, is_rich: bool) -> Result<Self, Failure> {
        let certname = asked.node()?.clone();
        let parameters = match asked.method {
            Method::POST => {
                if asked.content_type() != Some(FORM) {
                    return Err(Failure::unsupported_media_type(format!("send the request as {FORM}")));
                }
                let form = std::str::from_utf8(&asked.body).map_err(|_| Failure::bad_request("the form is not UTF-8"))?;
                asked.parameters.clone().and(Parameters::parse(form)?)
            }
            _ => asked.parameters.clone(),
        };
        let environment: Environment = parameters.environment()?;
        let facts = match parameters.get("facts") {
            None | Some("") => None,
            Some(text) => {
                match parameters.get("facts_format") {
                    Some("application/json" | "pson" | "text/pson") => {}
                    other => {
                        let other = other.map_or_else(|| "nothing".to_owned(), short);
                        return Err(Failure::bad_request(format!("facts_format must be application/json, not {other}")));
                    }
                }
                Some(Facts::posted(text, &certname)?)
            }
        };
        let checksum = match parameters.flag("static_catalog", false)? {
            true => Some(preferred(parameters.get("checksum_type"))?),
            false => None,
        };
        let at_least = asked.at_least(&environment)?;
        let check_in = CheckIn {
            protocol: ProtocolVersion::CURRENT,
            certname,
            environment,
            held: None,
            features: Vec::new(),
            wait_seconds: 0,
            at_least,
        };
        Ok(Self { check_in, facts, is_rich, checksum })
    }
}

/// Returns the first type of checksum in a list that is known here; what is not said is SHA-256.
fn preferred(list: Option<&str>) -> Result<Kind, Failure> {
    let Some(list) = list.filter(|list| !list.is_empty()) else { return Ok(Kind::Sha256) };
    let known = list.split('.').find_map(Kind::from_name);
    known.ok_or_else(|| Failure::bad_request(format!("none of the types of checksum in {} is known", short(list))))
}
