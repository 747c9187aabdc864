//! The types `Concat_file` and `Concat_fragment` of the module `puppetlabs-concat`: files that are put together from pieces which
//! stand all over a catalog.
//!
//! A file manages what a `File` of its path with the whole content would, and its changes are told as of that `File`, as with
//! the module. Pieces do nothing by themselves. The defines `concat` and `concat::fragment` are containers of these.

mod fragment;
mod merge;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::sync::Arc;

use async_trait::async_trait;
use direct_puppet_transport::protocol::{Catalog, Resource, ResourceRef, Value};

pub(super) use fragment::ConcatFragmentProvider;

use super::file::{FileProvider, blocking, errors, read};
use super::{Among, Applied, Change, Checked, Context, Provider, ProviderError};
use fragment::Fragment;
use merge::Format;

/// Parameters that a `File` has too.
const OF_FILE: &[&str] = &[
    "path",
    "owner",
    "group",
    "mode",
    "backup",
    "replace",
    "validate_cmd",
    "show_diff",
    "selinux_ignore_defaults",
    "selrange",
    "selrole",
    "seltype",
    "seluser",
];

/// The type of pieces.
const PIECE: &str = "Concat_fragment";

const OWN: &[&str] = &["ensure", "order", "ensure_newline", "format", "create_empty_file", "force"];

/// Manages files that are put together.
#[derive(Debug, Clone, Default)]
pub(super) struct ConcatFileProvider {
    files: FileProvider,
}

/// By what pieces are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// As text.
    Alpha,
    /// As numbers where they are numbers, which come before text.
    Numeric,
}

/// What a resource says besides what its file says.
#[derive(Debug)]
struct Parameters {
    is_present: bool,
    order: Order,
    ensure_newline: bool,
    create_empty_file: bool,
    format: Format,
    /// Of different values for one key of YAML or JSON, the first stays.
    is_forced: bool,
}

impl Parameters {
    fn parse(resource: &Resource) -> Result<Self, ProviderError> {
        read::only_known(resource, &[OF_FILE, OWN].concat())?;
        let orders = [("alpha", Order::Alpha), ("numeric", Order::Numeric)];
        Ok(Self {
            is_present: read::choice(resource, "ensure", &[("present", true), ("absent", false)])?.unwrap_or(true),
            order: read::choice(resource, "order", &orders)?.unwrap_or(Order::Numeric),
            ensure_newline: read::boolean(resource, "ensure_newline", false)?,
            create_empty_file: read::boolean(resource, "create_empty_file", true)?,
            format: read::choice(resource, "format", &Format::NAMES)?.unwrap_or(Format::Plain),
            is_forced: read::boolean(resource, "force", false)?,
        })
    }

    /// Compares two pieces: by their order, then by their name.
    fn compare(&self, a: &Fragment, b: &Fragment) -> Ordering {
        let number = |text: &str| text.parse::<u64>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        let by = |a: &str, b: &str| match (self.order, number(a), number(b)) {
            (Order::Numeric, Some(a), Some(b)) => a.cmp(&b),
            (Order::Numeric, Some(_), None) => Ordering::Less,
            (Order::Numeric, None, Some(_)) => Ordering::Greater,
            _ => a.cmp(b),
        };
        by(&a.order, &b.order).then_with(|| by(&a.name, &b.name))
    }

    /// Puts contents together.
    fn join(&self, contents: Vec<Vec<u8>>) -> Vec<u8> {
        let mut joined = Vec::new();
        for content in contents {
            joined.extend_from_slice(&content);
            if self.ensure_newline && !content.ends_with(b"\n") {
                joined.push(b'\n');
            }
        }
        joined
    }
}

/// Returns the `File` that a resource stands for, without its content.
fn file_of(resource: &Resource) -> Resource {
    let path = resource.parameter("path").and_then(Value::as_str).unwrap_or(&resource.title);
    let mut file = Resource::new("File", path);
    file.parameters = resource.parameters.iter().filter(|(name, _)| !OWN.contains(&name.as_str())).map(pair).collect();
    file.file.clone_from(&resource.file);
    file.line = resource.line;
    file.tags.clone_from(&resource.tags);
    // A tag is what pieces name, here.
    file.parameters.remove("tag");
    file
}

fn pair((name, value): (&String, &Value)) -> (String, Value) {
    (name.clone(), value.clone())
}

/// Returns the pieces that are for a file: by its path, its title or a tag, in order.
fn fragments<'a>(
    pieces: impl Iterator<Item = &'a Resource>,
    resource: &Resource,
    parameters: &Parameters,
) -> Result<Vec<Fragment>, ProviderError> {
    let path = resource.parameter("path").and_then(Value::as_str).unwrap_or(&resource.title);
    let tag = read::text(resource, "tag")?;
    let mut fragments = Vec::new();
    for fragment in pieces.filter(|piece| piece.resource_type == PIECE) {
        let fragment = Fragment::parse(fragment)?;
        let is_named = fragment.target.as_deref().is_some_and(|target| target == path || target == resource.title);
        if is_named || (fragment.tag.is_some() && fragment.tag == tag) {
            fragments.push(fragment);
        }
    }
    fragments.sort_by(|a, b| parameters.compare(a, b));
    Ok(fragments)
}

/// Returns the `File` with all that it shall be; `None` when there shall be none. Blocking.
fn assemble(context: &Context, resource: &Resource) -> Result<Option<Resource>, ProviderError> {
    let parameters = Parameters::parse(resource)?;
    let file = file_of(resource);
    if !parameters.is_present {
        return Ok(Some(file.with("ensure", "absent")));
    }
    let pieces = context.resources_of(PIECE).map(|piece| &**piece);
    let fragments = fragments(pieces, resource, &parameters)?;
    let failed = |reason: String| errors::failed(&resource.reference(), "put the file together", reason);
    let contents = fragments.iter().map(|fragment| fragment.content(context)).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    let content = match parameters.format {
        Format::Plain => parameters.join(contents),
        format => {
            let names = fragments.iter().map(|fragment| fragment.name.as_str());
            let pieces: Vec<(&str, Vec<u8>)> = names.zip(contents).collect();
            merge::merged(format, &pieces, parameters.is_forced).map_err(failed)?
        }
    };
    if content.is_empty() && !parameters.create_empty_file {
        return Ok(None);
    }
    let content = match String::from_utf8(content) {
        Ok(text) => Value::String(text),
        Err(error) => Value::Binary(error.into_bytes()),
    };
    let is_secret = fragments.iter().any(|fragment| fragment.is_secret);
    let content = if is_secret { Value::Sensitive(Box::new(content)) } else { content };
    Ok(Some(file.with("ensure", "file").with("content", content)))
}

impl ConcatFileProvider {
    async fn file(&self, context: &Context, resource: &Arc<Resource>) -> Result<Option<Arc<Resource>>, ProviderError> {
        let (of, from) = (context.clone(), Arc::clone(resource));
        let file = blocking(resource.reference(), move || assemble(&of, &from)).await?;
        Ok(file.map(Arc::new))
    }
}

#[async_trait]
impl Provider for ConcatFileProvider {
    fn resource_type(&self) -> &str {
        "Concat_file"
    }

    fn validate(&self, resource: &Resource) -> Result<(), ProviderError> {
        Parameters::parse(resource)?;
        // Its errors name the parameters of the file, which are those of this resource.
        self.files.validate(&file_of(resource).with("content", ""))
    }

    fn autorequire(&self, resource: &Resource, catalog: &Catalog) -> Vec<ResourceRef> {
        self.files.autorequire(&file_of(resource), catalog)
    }

    fn alias(&self, resource: &Resource) -> Option<String> {
        resource.parameter("path").and_then(Value::as_str).map(str::to_owned).filter(|path| *path != resource.title)
    }

    async fn check(&self, context: &Context, resource: &Arc<Resource>) -> Result<Checked, ProviderError> {
        let Some(file) = self.file(context, resource).await? else { return Ok(Checked { resources: 1, ..Checked::default() }) };
        let checked = self.files.check(context, &file).await?;
        // What pieces of this machine say is not among the witnesses.
        Ok(Checked { resources: checked.resources + 1, witnesses: None, ..checked })
    }

    async fn apply(&self, context: &Context, resource: &Arc<Resource>, changes: &[Change]) -> Result<Applied, ProviderError> {
        match self.file(context, resource).await? {
            Some(file) => self.files.apply(context, &file, changes).await,
            None => Ok(Applied::default()),
        }
    }

    fn others_agree(&self, property: &str, before: Among<'_, '_>, now: Among<'_, '_>) -> bool {
        let pieces = |(file, all): Among<'_, '_>| fragments(all, file, &Parameters::parse(file)?);
        // Which do not make sense made no file.
        let (Ok(before), Ok(now)) = (pieces(before), pieces(now)) else { return false };
        match property {
            "content" => before == now,
            // Without any there may have been no file.
            "ensure" => before.is_empty() == now.is_empty(),
            _ => true,
        }
    }

    fn disturbs_files(&self) -> bool {
        false
    }
}
