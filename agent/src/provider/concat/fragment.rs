//! Pieces of files.

use std::sync::Arc;

use async_trait::async_trait;
use direct_puppet_transport::protocol::{Digest, EntryKind, Resource, Value};

use crate::provider::file::source_uri::SourceUri;
use crate::provider::file::{errors, read};
use crate::provider::text_file::TextFile;
use crate::provider::{Applied, Change, Checked, Context, Provider, ProviderError};

const KNOWN: &[&str] = &["content", "source", "target", "order"];

/// Longest piece of a server, in bytes: it is held in memory, as those of this machine are.
const MAX_PIECE_BYTES: u64 = 64 << 20;

/// Pieces: nothing to do, but their parameters are checked.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::provider) struct ConcatFragmentProvider;

/// Where the content of a piece is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Given(Vec<u8>),
    /// Files of this machine and of the server, of which the first that is there counts; and what the catalog says of those of the server.
    Sources(Vec<SourceUri>, Option<Served>),
}

/// The source that a server has.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Served {
    uri: String,
    kind: EntryKind,
}

impl Served {
    fn of(resource: &Resource) -> Option<Self> {
        let resolved = resource.resolved.as_ref()?;
        let uri = resolved.uri.as_deref()?.trim_end_matches('/').to_owned();
        Some(Self { uri, kind: resolved.entries.first()?.kind.clone() })
    }

    /// Returns the content, which was fetched before. Blocking.
    fn content(&self, context: &Context) -> Result<Vec<u8>, String> {
        let EntryKind::File { digest, .. } = &self.kind else { return Err(format!("{} is no file", self.uri)) };
        let content = context.store().read(digest, MAX_PIECE_BYTES).map_err(|error| errors::chain(&error))?;
        content.map(Vec::from).ok_or_else(|| format!("the content of {} ({digest}) is not on this node", self.uri))
    }
}

/// One piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fragment {
    pub(super) name: String,
    pub(super) target: Option<String>,
    pub(super) tag: Option<String>,
    pub(super) order: String,
    pub(super) is_secret: bool,
    content: Content,
}

fn given(resource: &Resource, value: &Value) -> Result<Vec<u8>, ProviderError> {
    match value {
        Value::String(text) => Ok(text.clone().into_bytes()),
        Value::Binary(bytes) => Ok(bytes.clone()),
        Value::Sensitive(value) => given(resource, value),
        _ => Err(read::fail(resource, "content", "must be a string")),
    }
}

impl Fragment {
    pub(super) fn parse(resource: &Resource) -> Result<Self, ProviderError> {
        read::only_known(resource, KNOWN)?;
        let content = match (resource.parameter("content"), resource.parameter("source")) {
            (Some(value), None) => Content::Given(given(resource, value)?),
            (None, Some(_)) => {
                let parse = |text: &&str| match SourceUri::parse(text) {
                    Ok(SourceUri::Http(_)) => {
                        let reason = "cannot be at a web server: have a File get it, and name its path here";
                        Err(read::fail(resource, "source", reason))
                    }
                    parsed => parsed.map_err(|reason| read::fail(resource, "source", reason)),
                };
                let sources = read::strings(resource, "source")?.iter().map(parse).collect::<Result<_, _>>()?;
                Content::Sources(sources, Served::of(resource))
            }
            (Some(_), Some(_)) => return Err(read::fail(resource, "source", "cannot be given together with content")),
            (None, None) => return Err(read::fail(resource, "content", "must be given, or source")),
        };
        let (target, tag) = (read::text(resource, "target")?, read::text(resource, "tag")?);
        if target.is_none() && tag.is_none() {
            return Err(read::fail(resource, "target", "must be given, or tag: no file would have it"));
        }
        let order = read::text(resource, "order")?.unwrap_or_else(|| "10".to_owned());
        if order.contains(['/', ':', '\n']) {
            return Err(read::fail(resource, "order", "must not contain slashes, colons or line feeds"));
        }
        let is_secret = resource.parameters.values().any(Value::is_sensitive);
        Ok(Self { name: read::name(resource)?, target, tag, order, is_secret, content })
    }

    /// Returns the content. Blocking.
    pub(super) fn content(&self, context: &Context) -> Result<Vec<u8>, String> {
        let (sources, served) = match &self.content {
            Content::Given(content) => return Ok(content.clone()),
            Content::Sources(sources, served) => (sources, served.as_ref()),
        };
        for source in sources {
            match source {
                SourceUri::Local(path) => {
                    let resolved = context.root().resolve_links(path).map_err(|error| errors::chain(&error))?;
                    let Some(path) = resolved else { continue };
                    return TextFile::load(context, &path).map(|file| file.text).map_err(|error| errors::chain(&error));
                }
                SourceUri::Puppet(uri) => {
                    if let Some(served) = served.filter(|served| served.uri == *uri) {
                        return served.content(context);
                    }
                }
                SourceUri::Http(_) => {}
            }
        }
        let names = sources.iter().map(|source| match source {
            SourceUri::Local(path) => path.absolute(),
            SourceUri::Puppet(uri) | SourceUri::Http(uri) => uri.clone(),
        });
        let names: Vec<String> = names.collect();
        Err(format!("Concat_fragment[{}] has no content: there is no {}", self.name, names.join(" nor ")))
    }
}

#[async_trait]
impl Provider for ConcatFragmentProvider {
    fn resource_type(&self) -> &str {
        "Concat_fragment"
    }

    fn validate(&self, resource: &Resource) -> Result<(), ProviderError> {
        Fragment::parse(resource).map(drop)
    }

    fn needed(&self, resource: &Resource) -> Vec<(Digest, u64)> {
        // One that is not valid is refused elsewhere.
        match Fragment::parse(resource).map(|fragment| fragment.content) {
            Ok(Content::Sources(_, Some(Served { kind: EntryKind::File { digest, size }, .. }))) => vec![(digest, size)],
            _ => Vec::new(),
        }
    }

    async fn check(&self, context: &Context, resource: &Arc<Resource>) -> Result<Checked, ProviderError> {
        let fragment = Fragment::parse(resource)?;
        let is_for = |file: &Resource| {
            let path = file.parameter("path").and_then(Value::as_str);
            let named = fragment.target.as_deref().is_some_and(|target| target == file.title || Some(target) == path);
            let tag = file.parameter("tag").and_then(Value::as_str);
            named || (fragment.tag.is_some() && fragment.tag.as_deref() == tag)
        };
        let is_orphan = !context.resources_of("Concat_file").any(|file| is_for(file));
        let reason = || (resource.reference(), "no Concat_file has its target or tag: it is nowhere".to_owned());
        Ok(Checked { resources: 1, skipped: is_orphan.then(reason).into_iter().collect(), ..Checked::default() })
    }

    async fn apply(&self, _context: &Context, _resource: &Arc<Resource>, _changes: &[Change]) -> Result<Applied, ProviderError> {
        Ok(Applied::default())
    }

    fn disturbs_files(&self) -> bool {
        false
    }
}
