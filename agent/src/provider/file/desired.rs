//! What shall be at each path that a resource manages.

use direct_puppet_transport::protocol::{ResolvedSource, Resource, ResourceRef, TreePath};

use super::by_path::ByPath;
use super::http::RemoteSources;
use super::parameters::{Ensure, Links, Parameters, Recurse, SourcePermissions};
use super::source::{self, Content, Entry, EntryContent, Inline};
use crate::fs::{Root, Stat};
use crate::provider::{ManagedPaths, ProviderError};

/// What shall be at one path.
#[derive(Debug, Clone)]
pub(super) enum Want {
    Absent,
    /// Anything; an empty file if there is nothing.
    Present,
    /// A file; without content, any.
    File(Option<Content>),
    Directory,
    Link(Vec<u8>),
    /// Whatever is there, with the attributes of the resource.
    Attributes,
}

/// One path with what shall be there.
#[derive(Debug, Clone)]
pub(super) struct Desired {
    pub(super) path: TreePath,
    pub(super) want: Want,
    pub(super) source: SourceAttributes,
}

/// What a source says besides content, where it counts.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SourceAttributes {
    /// Its permissions.
    pub(super) mode: Option<u32>,
    /// Its owner and group.
    pub(super) owner: Option<(u32, u32)>,
}

impl Desired {
    /// Returns what stands for a path that only has to go, or to have attributes.
    pub(super) const fn plain(path: TreePath, want: Want) -> Self {
        Self { path, want, source: SourceAttributes { mode: None, owner: None } }
    }
}

/// Paths below a resource that other `File` resources manage: these and what lies below them are theirs, as in Puppet.
#[derive(Debug)]
pub(super) struct Exclusions<'a> {
    top: &'a TreePath,
    managed: &'a ManagedPaths,
}

impl<'a> Exclusions<'a> {
    pub(super) const fn new(top: &'a TreePath, managed: &'a ManagedPaths) -> Self {
        Self { top, managed }
    }

    /// Returns whether `path`, at or below the resource, belongs to another one.
    pub(super) fn covers(&self, path: &TreePath) -> bool {
        let mut next = Some(path.clone());
        while let Some(path) = next.filter(|path| path != self.top) {
            if self.managed.contains(&path) {
                return true;
            }
            next = path.parent();
        }
        false
    }

    /// Returns whether another resource manages something below `path`.
    pub(super) fn lie_below(&self, path: &TreePath) -> bool {
        self.managed.iter().any(|managed| managed != path && managed.is_within(path))
    }
}

/// Everything that a resource and its sources say.
#[derive(Debug)]
pub(super) struct Expansion {
    pub(super) desired: ByPath,
    /// Entries that cannot be had, and why.
    pub(super) failures: Vec<(TreePath, String)>,
}

impl Expansion {
    /// Expands a resource. Lists sources that are on this machine: blocking.
    ///
    /// # Errors
    ///
    /// When no source exists, or one cannot be looked at, or there are more entries than `max_files`.
    pub(super) fn new(
        root: &Root,
        resource: &Resource,
        parameters: &Parameters,
        exclusions: &Exclusions<'_>,
        remote: &RemoteSources,
    ) -> Result<Self, ProviderError> {
        let mut expansion = Self { desired: ByPath::default(), failures: Vec::new() };
        let path = &parameters.path;
        let compiled = resource.resolved.as_ref().filter(|resolved| resolved.uri.is_none());
        let uses_source = compiled.is_none() && (resource.resolved.is_some() || !parameters.sources.is_empty());
        if parameters.ensure == Some(Ensure::Absent) || !uses_source {
            let want = own_want(parameters, compiled);
            expansion.desired.add(Desired::plain(path.clone(), want));
            expansion.desired.settle();
            return Ok(expansion);
        }
        let entries = source::entries(root, parameters, resource.resolved.as_ref(), remote)
            .map_err(|error| super::errors::failed(&resource.reference(), "look at the sources", error))?;
        for entry in entries.unwrap_or_default() {
            expansion.add(parameters, exclusions, entry);
        }
        expansion.desired.settle();
        check_max_files(resource, parameters, expansion.desired.len())?;
        Ok(expansion)
    }

    fn add(&mut self, parameters: &Parameters, exclusions: &Exclusions<'_>, entry: Entry) {
        let Ok(path) = parameters.path.join(&entry.relative) else {
            self.failures.push((entry.relative, "its path below the resource is too long".to_owned()));
            return;
        };
        if exclusions.covers(&path) {
            return;
        }
        let want = match entry.content {
            EntryContent::File(content) => Want::File(Some(content)),
            EntryContent::Directory => Want::Directory,
            EntryContent::Link(target) => Want::Link(target),
            EntryContent::Unusable(reason) => {
                self.failures.push((path, reason));
                return;
            }
        };
        let counts = parameters.source_permissions != SourcePermissions::Ignore && !matches!(want, Want::Link(_));
        let source = SourceAttributes { mode: entry.mode.filter(|_| counts), owner: entry.owner.filter(|_| counts) };
        self.desired.add(Desired { path, want, source });
    }
}

/// Returns an error when recursion finds more than `max_files`; of the entries one is the resource itself.
pub(super) fn check_max_files(resource: &Resource, parameters: &Parameters, entries: usize) -> Result<(), ProviderError> {
    let count = entries.saturating_sub(1);
    match parameters.max_files {
        Some(limit) if count > limit => {
            Err(super::read::fail(resource, "max_files", format!("recursion found {count} entries, more than {limit}")))
        }
        _ => Ok(()),
    }
}

/// Returns what a resource without source wants.
fn own_want(parameters: &Parameters, compiled: Option<&ResolvedSource>) -> Want {
    let inline = || parameters.content.clone().map(|bytes| Content::Inline(Inline::new(bytes)));
    let content = match compiled.and_then(|resolved| resolved.entries.first()).map(|entry| &entry.kind) {
        Some(direct_puppet_transport::protocol::EntryKind::File { digest, size }) => {
            Some(Content::Stored { digest: *digest, size: *size })
        }
        _ => inline(),
    };
    match parameters.ensure {
        Some(Ensure::Absent) => Want::Absent,
        Some(Ensure::Directory) => Want::Directory,
        Some(Ensure::File) => Want::File(content),
        Some(Ensure::Link) => Want::Link(parameters.target.clone().unwrap_or_default()),
        // Content says that a file is wanted, whatever is there.
        None | Some(Ensure::Present) if content.is_some() => Want::File(content),
        Some(Ensure::Present) => Want::Present,
        None => Want::Attributes,
    }
}

/// Returns the reference of what a resource generates at `path`; its own for its own path.
pub(super) fn reference_at(resource: &Resource, parameters: &Parameters, path: &TreePath) -> ResourceRef {
    if *path == parameters.path {
        return resource.reference();
    }
    ResourceRef { resource_type: resource.resource_type.clone(), title: path.absolute() }
}

/// Returns the path that a reference made by [`reference_at`] stands for; `None` if it is none below the resource.
pub(super) fn path_of(resource: &Resource, parameters: &Parameters, reference: &ResourceRef) -> Option<TreePath> {
    if *reference == resource.reference() {
        return Some(parameters.path.clone());
    }
    let path: TreePath = reference.title.strip_prefix('/')?.parse().ok()?;
    (reference.resource_type == resource.resource_type && path.is_within(&parameters.path)).then_some(path)
}

/// Returns the path that is really managed: with `links => follow`, what a link there points to.
pub(super) fn effective_path(
    root: &Root,
    parameters: &Parameters,
    desired: &Desired,
    stat: Option<Stat>,
) -> Result<(TreePath, Option<Stat>), crate::fs::FsError> {
    let is_link = stat.is_some_and(|stat| stat.kind() == crate::fs::FileKind::Link);
    let follows = parameters.links == Links::Follow && !matches!(desired.want, Want::Absent | Want::Link(_));
    if !is_link || !follows {
        return Ok((desired.path.clone(), stat));
    }
    match root.resolve_links(&desired.path)? {
        Some(path) => {
            let stat = root.stat(&path)?;
            Ok((path, stat))
        }
        // A link to nothing: it is replaced.
        None => Ok((desired.path.clone(), stat)),
    }
}

/// Returns whether what is there already has to be looked at too.
pub(super) fn recurses_locally(parameters: &Parameters) -> bool {
    let sets_attributes = parameters.mode.is_some() || parameters.owner.is_some() || parameters.group.is_some();
    parameters.recurse == Recurse::Yes && (parameters.purge || sets_attributes)
}

/// Returns the contents that a resource needs, as far as the catalog tells: without sources on this machine.
pub(super) fn wanted(
    resource: &Resource,
    parameters: &Parameters,
    exclusions: &Exclusions<'_>,
) -> Vec<crate::tree::WantedContent> {
    let mut wanted = Vec::new();
    let mut add = |path: TreePath, content: &Content| {
        let (digest, size) = match content {
            Content::Stored { digest, size } => (*digest, *size),
            // A usize fits in 64 bits.
            Content::Inline(inline) => (inline.digest(), inline.bytes.len() as u64),
            Content::Local { .. } | Content::Remote(_) => return,
        };
        wanted.push(crate::tree::WantedContent {
            path,
            digest,
            size,
            replace: parameters.replace,
            follow: parameters.links == Links::Follow,
        });
    };
    let by_source = resource.resolved.as_ref().filter(|resolved| resolved.uri.is_some());
    if parameters.ensure == Some(Ensure::Absent) {
        return wanted;
    }
    let Some(resolved) = by_source else {
        let compiled = resource.resolved.as_ref();
        if let Want::File(Some(content)) = own_want(parameters, compiled) {
            add(parameters.path.clone(), &content);
        }
        return wanted;
    };
    for entry in source::resolved_entries(parameters, resolved) {
        if let EntryContent::File(content) = &entry.content
            && let Ok(path) = parameters.path.join(&entry.relative)
            && !exclusions.covers(&path)
        {
            add(path, content);
        }
    }
    wanted
}
