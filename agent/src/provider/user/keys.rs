//! Purging of keys that no resource manages.

use std::collections::HashSet;

use direct_puppet_transport::protocol::{Resource, ResourceRef, TreePath};

use super::parameters::{Parameters, PurgeKeys};
use crate::fs::{Attributes, FsError};
use crate::provider::accounts::User;
use crate::provider::difference::Differences;
use crate::provider::file::{errors, read};
use crate::provider::lines::Lines;
use crate::provider::record::Ensure;
use crate::provider::ssh_authorized_key::{Key, parse_line};
use crate::provider::text_file::TextFile;
use crate::provider::{Change, Context};

/// A key that is to go.
#[derive(Debug)]
struct Unmanaged {
    /// Its line.
    at: usize,
    name: String,
}

/// Returns the files in which keys are purged; those of a home that is not known yet are left out.
fn files(parameters: &Parameters, user: Option<&User>) -> Vec<TreePath> {
    let home = parameters.home.as_deref().or(user.map(|user| user.home.as_str()));
    let below_home = |rest: &str| home.map(|home| format!("{home}/{rest}"));
    let file = |file: &String| match file.strip_prefix("~/").or_else(|| file.strip_prefix("%h/")) {
        Some(rest) => below_home(rest),
        None => Some(file.clone()),
    };
    let texts = match &parameters.purge_keys {
        PurgeKeys::No => Vec::new(),
        PurgeKeys::Usual => below_home(".ssh/authorized_keys").into_iter().collect(),
        PurgeKeys::In(list) => list.iter().filter_map(file).collect(),
    };
    texts.iter().filter_map(|text| read::absolute_path(text).ok()).collect()
}

fn lines(text: &[u8]) -> Lines<Key> {
    Lines::parse(text, parse_line)
}

/// Returns the keys of a file that no resource manages; one without a name has its place in the file for a name.
fn unmanaged(path: &TreePath, text: &[u8], managed: &HashSet<&str>) -> Vec<Unmanaged> {
    let mut unnamed = 0;
    let mut found = Vec::new();
    for (at, key) in lines(text).records() {
        let name = if key.name.is_empty() {
            unnamed += 1;
            format!("{}:unnamed-{unnamed}", path.absolute())
        } else {
            key.name.clone()
        };
        if !managed.contains(name.as_str()) {
            found.push(Unmanaged { at, name });
        }
    }
    found
}

fn managed(context: &Context) -> HashSet<&str> {
    let keys = context.resources_of("Ssh_authorized_key");
    keys.map(|resource| resource.parameter("name").and_then(|name| name.as_str()).unwrap_or(&resource.title)).collect()
}

/// Returns the removal of each key that no resource manages. Blocking.
pub(super) fn check(
    context: &Context,
    resource: &Resource,
    parameters: &Parameters,
    user: Option<&User>,
) -> Result<Vec<Change>, FsError> {
    if parameters.ensure == Ensure::Absent {
        return Ok(Vec::new());
    }
    let managed = managed(context);
    let mut changes = Vec::new();
    for path in files(parameters, user) {
        let file = TextFile::load(context, &path)?;
        for key in unmanaged(&path, &file.text, &managed) {
            let reference = ResourceRef { resource_type: "Ssh_authorized_key".to_owned(), title: key.name };
            let mut found = Differences::of(resource);
            found.add_ensure("present", "absent");
            changes.extend(found.into_changes().into_iter().map(|change| Change { resource: reference.clone(), ..change }));
        }
    }
    Ok(changes)
}

/// Removes the keys of these names, all at once: keys without a name are told by their place. Blocking.
pub(super) fn remove(context: &Context, parameters: &Parameters, user: Option<&User>, names: &[String]) -> Result<(), String> {
    let managed = managed(context);
    let text = |error: FsError| errors::chain(&error);
    for path in files(parameters, user) {
        let file = TextFile::load(context, &path).map_err(text)?;
        let mut lines = lines(&file.text);
        for key in unmanaged(&path, &file.text, &managed).into_iter().rev().filter(|key| names.contains(&key.name)) {
            lines.remove(key.at);
        }
        if file.stat.is_some() {
            file.replace(context, lines.print(), Attributes::default()).map_err(text)?;
        }
    }
    Ok(())
}
