//! The `Tidy` type: removes files that are old, large, or named as the resource says.
//!
//! What differs, and why:
//!
//! * A directory goes only when everything in it goes; Puppet means so and removes what is in it.
//! * Files are removed by this resource itself, not by resources that it generates; reports name them as such.
//! * With `backup`, what goes is kept in the local store, and can be brought back.

mod parameters;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use direct_puppet_transport::protocol::{Resource, ResourceRef, TreePath};

use super::difference::Differences;
use super::file::{backup, blocking, errors};
use super::{Applied, Change, Checked, Context, Provider, ProviderError};
use crate::fs::{FileKind, FsError, Stat, Time};
use crate::undo::{Left, Previous, UndoEntry};
use parameters::{AgeOf, Parameters};

/// Removes files.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TidyProvider;

/// Something that was found.
#[derive(Debug)]
struct Found {
    path: TreePath,
    stat: Stat,
}

/// Lists what there is, each directory before what is in it. Nothing that somebody else manages, or the agent itself, nor what
/// is below that.
fn list(context: &Context, parameters: &Parameters) -> Result<Vec<Found>, FsError> {
    let mut found = Vec::new();
    let Some(path) = behind_links(context, &parameters.path)? else { return Ok(found) };
    let mut open = vec![(path, 0_usize)];
    while let Some((path, depth)) = open.pop() {
        let Some(stat) = context.root().stat(&path)? else { continue };
        if stat.kind() == FileKind::Directory && parameters.depth.is_none_or(|limit| depth < limit) {
            let children = context.root().list(&path)?.into_iter().rev();
            open.extend(children.filter_map(|child| Some((path.child(&child.name).ok()?, depth + 1))));
        }
        found.push(Found { path, stat });
        if parameters.max_files > 0 && found.len() > parameters.max_files {
            let error = std::io::Error::other(format!("there are more than {} entries (max_files)", parameters.max_files));
            return Err(errors::io(context.root(), &parameters.path, "list", error));
        }
    }
    Ok(found)
}

/// Returns a path with the links on the way to it followed, within the root; what it names itself, and what is below, are never followed.
fn behind_links(context: &Context, path: &TreePath) -> Result<Option<TreePath>, FsError> {
    let (Some(parent), Some(name)) = (path.parent(), path.name()) else { return Ok(Some(path.clone())) };
    Ok(context.root().resolve(&parent)?.and_then(|parent| parent.child(name).ok()))
}

fn age(time: Time, now: SystemTime) -> Duration {
    let seconds = u64::try_from(time.seconds).unwrap_or_default();
    // A file from the future is as young as can be.
    now.duration_since(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap_or_default()
}

impl Parameters {
    fn is_tidied(&self, context: &Context, found: &Found, now: SystemTime) -> Result<bool, FsError> {
        let path = &found.path;
        if context.is_managed(path) || context.holds_own_state(path) {
            return Ok(false);
        }
        if found.stat.kind() == FileKind::Directory && !self.remove_directories {
            return Ok(false);
        }
        let name = path.name().unwrap_or_default();
        if self.matches.as_ref().is_some_and(|globs| !globs.iter().any(|glob| glob.matches_from_start(name))) {
            return Ok(false);
        }
        let is_old = match self.age {
            None => false,
            Some(limit) => {
                let time = match self.age_of {
                    AgeOf::Access => context.root().read_time(path)?,
                    AgeOf::Modification => Some(found.stat.mtime),
                    AgeOf::Change => Some(found.stat.ctime),
                };
                time.is_some_and(|time| age(time, now) >= limit)
            }
        };
        let is_large = self.size_bytes.is_some_and(|limit| found.stat.size >= limit);
        Ok(is_old || is_large || (self.age.is_none() && self.size_bytes.is_none()))
    }

    /// Returns what is to go, what is in a directory before it. Blocking.
    fn tidied(&self, context: &Context) -> Result<Vec<Found>, FsError> {
        let now = SystemTime::now();
        let mut tidied = Vec::new();
        let mut gone: HashSet<TreePath> = HashSet::new();
        for found in list(context, self)?.into_iter().rev() {
            let is_emptied = || -> Result<bool, FsError> {
                if found.stat.kind() != FileKind::Directory {
                    return Ok(true);
                }
                let children = context.root().list(&found.path)?;
                Ok(children.iter().all(|child| found.path.child(&child.name).is_ok_and(|path| gone.contains(&path))))
            };
            if self.is_tidied(context, &found, now)? && is_emptied()? {
                gone.insert(found.path.clone());
                tidied.push(found);
            }
        }
        Ok(tidied)
    }

    fn remove(&self, context: &Context, found: &Found) -> Result<(), FsError> {
        let Stat { uid, gid, .. } = found.stat;
        let mode = found.stat.permissions();
        let previous = match found.stat.kind() {
            FileKind::Directory => Previous::Directory { mode, uid, gid },
            FileKind::File if self.backup => {
                let digest = backup::put(context, &found.path)?;
                context.store().sync()?;
                Previous::File { digest, mode, uid, gid }
            }
            _ => Previous::Dropped,
        };
        context.record_undo(&[UndoEntry { path: found.path.clone(), previous, left: Left::Absent }])?;
        match found.stat.kind() {
            FileKind::Directory => context.root().remove_dir(&found.path),
            _ => context.root().remove_file(&found.path),
        }
    }
}

fn reference(path: &TreePath) -> ResourceRef {
    ResourceRef { resource_type: "File".to_owned(), title: path.absolute() }
}

fn check(context: &Context, resource: &Resource) -> Result<Vec<Change>, ProviderError> {
    let parameters = Parameters::parse(resource)?;
    let tidied = parameters.tidied(context);
    let tidied = tidied.map_err(|error| errors::failed(&resource.reference(), "look for files to tidy", error))?;
    let mut changes = Vec::with_capacity(tidied.len());
    for found in tidied {
        let mut differences = Differences::of(resource);
        let kind = match found.stat.kind() {
            FileKind::Directory => "directory",
            FileKind::Link => "link",
            _ => "file",
        };
        differences.add_ensure(kind, "absent");
        let change = differences.into_changes().into_iter();
        changes.extend(change.map(|change| Change { resource: reference(&found.path), ..change }));
    }
    Ok(changes)
}

fn apply(context: &Context, resource: &Resource, changes: &[ResourceRef]) -> Result<Applied, ProviderError> {
    let parameters = Parameters::parse(resource)?;
    let tidied = parameters.tidied(context);
    let tidied = tidied.map_err(|error| errors::failed(&resource.reference(), "look for files to tidy", error))?;
    let mut applied = Applied::default();
    for (at, change) in changes.iter().enumerate() {
        let result = match tidied.iter().find(|found| reference(&found.path) == *change) {
            _ if context.cancel().is_cancelled() => Err("not removed: the run was cancelled".to_owned()),
            Some(found) => parameters.remove(context, found).map_err(|error| errors::chain(&error)),
            None => Err("it has changed meanwhile, and is not to be tidied any more".to_owned()),
        };
        if let Err(reason) = result {
            applied.failures.insert(at, reason);
        }
    }
    Ok(applied)
}

#[async_trait]
impl Provider for TidyProvider {
    fn resource_type(&self) -> &str {
        "Tidy"
    }

    fn validate(&self, resource: &Resource) -> Result<(), ProviderError> {
        Parameters::parse(resource).map(drop)
    }

    async fn check(&self, context: &Context, resource: &Arc<Resource>) -> Result<Checked, ProviderError> {
        let (context, resource) = (context.clone(), Arc::clone(resource));
        let changes = blocking(resource.reference(), move || check(&context, &resource)).await?;
        let resources = u64::try_from(changes.len()).map_or(u64::MAX, |count| count.saturating_add(1));
        Ok(Checked { resources, changes, ..Checked::default() })
    }

    async fn apply(&self, context: &Context, resource: &Arc<Resource>, changes: &[Change]) -> Result<Applied, ProviderError> {
        let (context, resource) = (context.clone(), Arc::clone(resource));
        let changes: Vec<ResourceRef> = changes.iter().map(|change| change.resource.clone()).collect();
        blocking(resource.reference(), move || apply(&context, &resource, &changes)).await
    }
}
