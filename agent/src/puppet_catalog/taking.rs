//! How a file takes its source, and several sources as one.

use std::collections::BTreeMap;

use direct_puppet_transport::protocol::{EntryKind, ManifestEntry, ResolvedSource, Resource, TreePath, Value};

/// The type of pieces that files are put together from.
pub(super) const PIECE: &str = "Concat_fragment";

/// What a `File` says of how its source is taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceTaking {
    /// What lies below the source is taken too.
    pub recurses: bool,
    /// How many levels below the source; `None` for all.
    pub recurse_limit: Option<usize>,
    /// Globs of base names that are left out, with what lies below them.
    pub ignore: Vec<String>,
    /// Links in the source are followed.
    pub follows: bool,
    /// Entries of all sources are taken, not only those of the first that exists.
    pub all: bool,
    /// `source_permissions`: what the owner and the mode of the source are used for.
    pub permissions: SourcePermissions,
}

/// What the owner and the mode of a source are used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SourcePermissions {
    /// For nothing.
    #[default]
    Ignore,
    /// For what is not there yet.
    UseWhenCreating,
    /// For what is there, too.
    Use,
}

impl SourcePermissions {
    /// Returns the value as it stands in a catalog and in requests to Puppet's file server.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ignore => "ignore",
            Self::UseWhenCreating => "use_when_creating",
            Self::Use => "use",
        }
    }
}

impl SourceTaking {
    /// Returns what the parameters say; what makes no sense there is for the provider to refuse.
    #[must_use]
    pub fn of(resource: &Resource) -> Self {
        let text = |name: &str| resource.parameter(name).and_then(Value::as_str);
        let recurses = match resource.parameter("recurse") {
            Some(Value::Boolean(recurses)) => *recurses,
            Some(Value::String(text)) => matches!(text.as_str(), "true" | "remote" | "inf"),
            _ => false,
        };
        let recurse_limit = match resource.parameter("recurselimit") {
            Some(Value::Integer(limit)) => usize::try_from(*limit).ok(),
            Some(Value::String(limit)) => limit.parse().ok(),
            _ => None,
        };
        let ignore = resource.parameter("ignore").map(Value::as_list).unwrap_or_default();
        let ignore = ignore.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        // A piece is what a link points to.
        let follows = text("links") == Some("follow") || resource.resource_type == PIECE;
        let all = recurses && text("sourceselect") == Some("all");
        let permissions = match text("source_permissions") {
            Some("use") => SourcePermissions::Use,
            Some("use_when_creating") => SourcePermissions::UseWhenCreating,
            _ => SourcePermissions::Ignore,
        };
        Self { recurses, recurse_limit, ignore, follows, all, permissions }
    }
}

/// Adds entries of a further source: what is there already stays.
pub fn merge_sources(resolved: &mut ResolvedSource, further: Vec<ManifestEntry>) {
    let mut all: BTreeMap<TreePath, ManifestEntry> = further.into_iter().map(|entry| (entry.path.clone(), entry)).collect();
    all.extend(std::mem::take(&mut resolved.entries).into_iter().map(|entry| (entry.path.clone(), entry)));
    // What lies below a file or link of the other source cannot be.
    let mut kept: Vec<ManifestEntry> = Vec::with_capacity(all.len());
    let mut open: Vec<TreePath> = Vec::new();
    for entry in all.into_values() {
        while open.last().is_some_and(|directory| !entry.path.is_within(directory)) {
            open.pop();
        }
        let parent = entry.path.parent();
        if parent.as_ref().is_none_or(|parent| open.last() == Some(parent)) {
            if entry.kind == EntryKind::Directory {
                open.push(entry.path.clone());
            }
            kept.push(entry);
        }
    }
    resolved.entries = kept;
}
