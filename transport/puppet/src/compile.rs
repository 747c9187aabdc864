//! Facts to the server, a catalog back.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use direct_puppet_agent::{ContentPlace, ServedCatalog};
use direct_puppet_transport::http::PlainMethod;
use direct_puppet_transport::protocol::limits::{MAX_CATALOG_BYTES, MAX_FACTS_BYTES, MAX_SMALL_MESSAGE_BYTES};
use direct_puppet_transport::protocol::{
    CatalogReply, Certname, Environment, Refusal, RefusalCode, SubmitFacts, Value, VersionCounter,
};
use direct_puppet_transport::{TransportError, TransportErrorKind};
use serde::Serialize;
use serde_json::Value as Json;

use crate::api::{self, Call, Exchange, Failure, PUPPET_VERSION, not_puppet};
use crate::encode::{component, form};
use crate::places::Known;
use crate::sources;
use crate::transport::{Inner, code_id_of};

/// What catalogs may come as, the best first.
const CATALOG_TYPES: &str = "application/vnd.puppet.rich+json, application/json";

/// Asks in which environment the server wants a node.
pub(crate) async fn environment(
    exchange: &dyn Exchange,
    certname: &Certname,
    requested: &Environment,
) -> Result<Environment, Failure> {
    let uuid = uuid()?;
    let query = form([
        ("environment", requested.as_str()),
        ("configured_environment", requested.as_str()),
        ("transaction_uuid", uuid.as_str()),
    ]);
    let path = format!("node/{}?{query}", component(certname.as_str()));
    let bytes = api::whole(exchange, Call::get(path, "application/json"), MAX_CATALOG_BYTES).await?;
    let node = api::json(&bytes, exchange.endpoint(), "the answer about this node")?;
    match node.get("environment").and_then(Json::as_str) {
        None => Ok(requested.clone()),
        Some(name) => name.parse().map_err(|error| {
            let detail = format!("it wants this node in an environment that cannot be: {error}");
            TransportError::new(TransportErrorKind::Protocol, exchange.endpoint()).with_detail(detail).into()
        }),
    }
}

/// Facts as the server takes them.
#[derive(Serialize)]
struct Facts<'a> {
    name: &'a Certname,
    values: &'a BTreeMap<String, Value>,
}

/// Gets the catalog for these facts, and everything that it leaves open.
pub(crate) async fn compile(inner: &Arc<Inner>, request: SubmitFacts) -> Result<CatalogReply, Failure> {
    let SubmitFacts { check_in, facts } = request;
    let (endpoint, exchange) = (inner.exchange.endpoint(), &*inner.exchange);
    // Such a server counts no versions: what was accepted of another server stays.
    let version = check_in.held.map_or_else(VersionCounter::default, |held| held.version);
    if let Some(at_least) = check_in.at_least.filter(|at_least| *at_least > version) {
        let message =
            format!("{endpoint} is a Puppet Server, whose code has no version such as {at_least}: leave out --at-least");
        return Err(refused(RefusalCode::BadRequest, message));
    }
    let environment = &check_in.environment;
    let bytes = ask(exchange, &check_in.certname, environment, facts).await?;
    let unusable = |error| {
        let what = format!("the catalog of {} in {environment}", check_in.certname);
        TransportError::new(TransportErrorKind::Protocol, endpoint)
            .with_detail(format!("{what} cannot be used"))
            .with_source(error)
    };
    let mut served = ServedCatalog::read(&bytes).map_err(unusable)?;
    drop(bytes);
    if let Some(other) = served.environment().filter(|other| *other != environment.as_str()) {
        let message = format!(
            "{endpoint} has node {} in environment {other}, not {environment}: run again, or with --environment {other}",
            check_in.certname
        );
        return Err(refused(RefusalCode::BadRequest, message));
    }
    let open = served.open_sources().map_err(unusable)?;
    for (resource, answer) in sources::ask(exchange, environment, open).await? {
        served.answer(&resource, answer);
    }
    let finished = served.finish().map_err(unusable)?;
    let puppet = finished.puppet;
    for (resource, reason) in &puppet.unusable {
        tracing::debug!(%resource, reason, "this resource of the catalog cannot be managed");
    }
    let (catalog_id, catalog) = puppet.catalog.encode().map_err(|error| refused(RefusalCode::Internal, error.to_string()))?;
    let theirs = puppet.code_id.clone().unwrap_or_else(|| catalog_id.to_string());
    let mut known = Known {
        catalog_id,
        environment: environment.clone(),
        version: puppet.version,
        code_id: puppet.code_id,
        catalog_uuid: puppet.catalog_uuid,
        statics: BTreeMap::new(),
        mounts: BTreeMap::new(),
    };
    for (digest, place) in finished.places {
        match place {
            ContentPlace::Static(uri) => known.statics.insert(digest, uri),
            ContentPlace::Mount(uri) => known.mounts.insert(digest, uri),
        };
    }
    let held = check_in.held.map(|held| held.catalog_id);
    let kept = tokio::task::spawn_blocking({
        let inner = Arc::clone(inner);
        move || inner.places.put(known, held)
    });
    if let Ok(Err(error)) = kept.await {
        return Err(refused(RefusalCode::Internal, format!("what is known of the catalog could not be kept: {error}")));
    }
    let code_id = code_id_of(&theirs)?;
    Ok(match held {
        Some(held) if held == catalog_id => CatalogReply::Current { code_id, version, unconfirmed_seconds: None },
        _ => CatalogReply::Catalog { catalog_id, code_id, version, unconfirmed_seconds: None, catalog },
    })
}

/// Posts the facts; returns the catalog as it came.
async fn ask(
    exchange: &dyn Exchange,
    certname: &Certname,
    environment: &Environment,
    mut facts: BTreeMap<String, Value>,
) -> Result<Bytes, Failure> {
    // What Puppet's agent adds to the facts of the machine (`Puppet::Configurer::FactHandler`, `Puppet::Node::Facts`); a fact of the same
    // name does not stand against it.
    for (name, value) in [("clientcert", certname.as_str()), ("clientversion", PUPPET_VERSION)] {
        facts.insert(name.to_owned(), value.into());
    }
    let facts = serde_json::to_string(&Facts { name: certname, values: &facts })
        .map_err(|error| refused(RefusalCode::BadRequest, format!("the facts of {certname} have no JSON form: {error}")))?;
    if facts.len() as u64 > MAX_FACTS_BYTES {
        let message = format!("the facts of {certname} have {} bytes, at most {MAX_FACTS_BYTES} are sent", facts.len());
        return Err(refused(RefusalCode::BadRequest, message));
    }
    let uuid = uuid()?;
    // Encoded twice: the server decodes the form, and then the field.
    let facts = component(&facts);
    let body = form([
        ("facts_format", "application/json"),
        ("facts", facts.as_str()),
        ("environment", environment.as_str()),
        ("configured_environment", environment.as_str()),
        ("check_environment", "true"),
        ("transaction_uuid", uuid.as_str()),
        ("static_catalog", "true"),
        ("checksum_type", "sha256"),
    ]);
    let asked = Call {
        method: PlainMethod::Post,
        path: format!("catalog/{}?{}", component(certname.as_str()), form([("environment", environment.as_str())])),
        accept: CATALOG_TYPES,
        content_type: Some("application/x-www-form-urlencoded"),
        body: body.into(),
    };
    let bytes = api::whole(exchange, asked, MAX_CATALOG_BYTES).await?;
    if (bytes.len() as u64) < MAX_SMALL_MESSAGE_BYTES && bytes.trim_ascii().is_empty() {
        return Err(not_puppet(exchange.endpoint(), "the catalog is empty").into());
    }
    Ok(bytes)
}

fn refused(code: RefusalCode, message: String) -> Failure {
    Failure::Refused(Refusal::new(code, message))
}

/// Returns a random UUID (RFC 9562, version 4).
fn uuid() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| refused(RefusalCode::Internal, format!("this machine has no random numbers: {error}")))?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_uuid_has_its_version_and_its_groups() {
        let uuid = super::uuid().unwrap();
        let groups: Vec<usize> = uuid.split('-').map(str::len).collect();
        assert_eq!((groups, &uuid[14..15]), (vec![8, 4, 4, 4, 12], "4"));
    }
}
