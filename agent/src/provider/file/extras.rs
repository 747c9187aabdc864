//! What is in a managed directory besides what its source names: to be purged, or to have the attributes of the resource.

use direct_puppet_transport::protocol::{Resource, TreePath};

use super::desired::{self, Desired, Exclusions, Expansion, Want};
use super::observe::Observer;
use super::parameters::Parameters;
use super::source;
use crate::fs::{FileKind, FsError, Stat};
use crate::provider::{Checked, ProviderError};

/// Lists the directory of a resource and adds what nothing names to `expansion`.
///
/// # Errors
///
/// When the resource's own directory cannot be listed; failures below it are data in `checked`.
pub(super) fn add(
    expansion: &mut Expansion,
    observer: &mut Observer<'_>,
    resource: &Resource,
    parameters: &Parameters,
    exclusions: &Exclusions<'_>,
    checked: &mut Checked,
) -> Result<(), ProviderError> {
    let top = &parameters.path;
    let is_managed = expansion.desired.get(top).is_some_and(|entry| {
        // Below what becomes a file, a link or nothing there is nothing to manage.
        matches!(entry.want, Want::Directory | Want::Present | Want::Attributes)
    });
    let failed = |error: FsError| super::errors::failed(&resource.reference(), "list what is there", error);
    let is_directory = |stat: Option<Stat>| stat.is_some_and(|stat| stat.kind() == FileKind::Directory);
    if !is_managed || !is_directory(observer.stat(top).map_err(failed)?) {
        return Ok(());
    }
    let mut open = vec![top.clone()];
    while let Some(directory) = open.pop() {
        let depth = directory.depth() - top.depth() + 1;
        if parameters.recurse_limit.is_some_and(|limit| depth > limit) {
            continue;
        }
        let entries = match observer.list(&directory) {
            Ok(entries) => entries,
            Err(error) if directory == *top => return Err(failed(error)),
            Err(error) => {
                let reference = desired::reference_at(resource, parameters, &directory);
                checked.failures.push((reference, super::errors::chain(&error)));
                continue;
            }
        };
        for (path, name, stat) in entries {
            if source::is_ignored(parameters, &name) || exclusions.covers(&path) {
                continue;
            }
            if add_one(expansion, parameters, exclusions, &path, &stat) == Descend::Yes {
                open.push(path);
            }
        }
    }
    expansion.desired.settle();
    note_kept(expansion, resource, parameters, exclusions, observer, checked);
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Descend {
    Yes,
    No,
}

fn add_one(
    expansion: &mut Expansion,
    parameters: &Parameters,
    exclusions: &Exclusions<'_>,
    path: &TreePath,
    stat: &Stat,
) -> Descend {
    let is_directory = stat.kind() == FileKind::Directory;
    let descend = if is_directory { Descend::Yes } else { Descend::No };
    if let Some(entry) = expansion.desired.get(path) {
        return if matches!(entry.want, Want::Directory) { descend } else { Descend::No };
    }
    if expansion.failures.iter().any(|(failed, _)| path.is_within(failed)) {
        // It is in the source but could not be had: no reason to lose what is here.
        return Descend::No;
    }
    let mut add = |want| expansion.desired.add(Desired::plain(path.clone(), want));
    if !parameters.purge {
        add(Want::Attributes);
        return descend;
    }
    if !is_directory {
        add(Want::Absent);
        return Descend::No;
    }
    if parameters.force && !exclusions.lie_below(path) {
        add(Want::Absent);
        return Descend::No;
    }
    Descend::Yes
}

/// Says which directories purging leaves, as Puppet does.
fn note_kept(
    expansion: &Expansion,
    resource: &Resource,
    parameters: &Parameters,
    exclusions: &Exclusions<'_>,
    observer: &Observer<'_>,
    checked: &mut Checked,
) {
    if !parameters.purge || parameters.force {
        return;
    }
    for directory in
        observer.listed_directories().filter(|path| expansion.desired.get(path).is_none() && !exclusions.lie_below(path))
    {
        let reference = desired::reference_at(resource, parameters, directory);
        checked.skipped.push((reference, "directories are purged with force => true only".to_owned()));
    }
}
