//! What the catalog leaves open: the server is asked what each such source is, as Puppet's agent asks in each run.

use std::collections::BTreeMap;

use direct_puppet_agent::{OpenSource, SourceAnswer, SourceTaking};
use direct_puppet_transport::protocol::{Environment, ResourceRef};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::api::{self, Answer, Call, Exchange, Failure};
use crate::encode::{PuppetUri, form, path};

/// How many sources are asked for at once: each takes one of the server's few JRuby instances.
const AT_ONCE: usize = 2;

/// Most bytes of the metadata of one source: room for some 100,000 files.
const MAX_METADATA_BYTES: u64 = 64 * 1024 * 1024;

/// Asks about all of them; returns the answers by resource.
pub(crate) async fn ask(
    exchange: &dyn Exchange,
    environment: &Environment,
    open: Vec<OpenSource>,
) -> Result<BTreeMap<ResourceRef, SourceAnswer>, Failure> {
    let asked = stream::iter(open).map(|open| async move {
        let answer = one(exchange, environment, &open).await?;
        Ok::<_, Failure>(answer.map(|answer| (open.resource, answer)))
    });
    asked.buffer_unordered(AT_ONCE).try_filter_map(|answered| std::future::ready(Ok(answered))).try_collect().await
}

/// Asks about one; `None` where the server has none of its sources, and there are others.
async fn one(exchange: &dyn Exchange, environment: &Environment, open: &OpenSource) -> Result<Option<SourceAnswer>, Failure> {
    let mut by_source = BTreeMap::new();
    let mut missing = Vec::new();
    for source in &open.sources {
        let Some(uri) = PuppetUri::parse(source) else {
            let reason = format!("has a source {source:?}, which is not as puppet:///modules/NAME/PATH");
            return Ok(Some(SourceAnswer::Refused(reason)));
        };
        if !uri.is_at(exchange.endpoint()) {
            missing.push(format!("{source} (at another server, which is not asked)"));
            continue;
        }
        let answered = match api::call(exchange, call(uri.path, environment, &open.taking)).await {
            Ok(Answer::Here(response)) => response,
            Ok(Answer::NotFound(said)) => {
                missing.push(format!("{source} ({said})"));
                continue;
            }
            // The server does not serve this to the node, or cannot: other resources are none the worse for it.
            Err(Failure::Refused(refusal)) => {
                let reason = format!("has a source {source} of which nothing can be known: {}", refusal.message);
                return Ok(Some(SourceAnswer::Refused(reason)));
            }
            Err(failure) => return Err(failure),
        };
        let bytes = api::read(answered, MAX_METADATA_BYTES, exchange.endpoint(), source).await?;
        let metadata = api::json(&bytes, exchange.endpoint(), &format!("what it says of {source}"))?;
        if !open.taking.recurses {
            return Ok(Some(SourceAnswer::Single { source: source.clone(), metadata }));
        }
        by_source.insert(source.clone(), metadata);
        if !open.taking.all {
            break;
        }
    }
    if by_source.is_empty() && open.has_others {
        tracing::debug!(resource = %open.resource, missing = missing.join(", "), "the server has none of these sources: another counts");
        return Ok(None);
    }
    if by_source.is_empty() {
        let missing = missing.join(", ");
        return Ok(Some(SourceAnswer::Refused(format!("has no source that {} has: {missing}", exchange.endpoint()))));
    }
    Ok(Some(SourceAnswer::Recursive(by_source)))
}

/// Returns the request for the metadata of one source.
fn call(source: &str, environment: &Environment, taking: &SourceTaking) -> Call {
    let links = if taking.follows { "follow" } else { "manage" };
    let mut fields = vec![
        ("environment", environment.as_str()),
        ("links", links),
        ("checksum_type", "sha256"),
        ("source_permissions", taking.permissions.name()),
    ];
    let limit = taking.recurse_limit.map(|limit| limit.to_string());
    let endpoint = if taking.recurses { "file_metadatas" } else { "file_metadata" };
    if taking.recurses {
        fields.push(("recurse", "true"));
        fields.extend(limit.as_deref().map(|limit| ("recurselimit", limit)));
        fields.extend(taking.ignore.iter().map(|glob| ("ignore", glob.as_str())));
    }
    Call::get(format!("{endpoint}/{}?{}", path(source), form(fields)), "application/json")
}
