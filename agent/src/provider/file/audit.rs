//! What is there now, property by property: what the metaparameter `audit` compares between runs.

use std::collections::BTreeMap;

use direct_puppet_transport::protocol::{Algorithm, Resource, TreePath};

use super::managed_path;
use super::observe::hash_file;
use crate::fs::{FileKind, FsError, Root, Stat};
use crate::provider::{Context, ProviderError};

/// What stands for a property of something that is not there, and for one that it does not have.
const ABSENT: &str = "absent";

/// Reads the properties of the path of a `File`. Owners are numbers. Blocking.
pub(super) fn audited(context: &Context, resource: &Resource) -> Result<BTreeMap<&'static str, String>, ProviderError> {
    let path = managed_path(resource)?;
    let root = context.root();
    let values = || -> Result<BTreeMap<&'static str, String>, FsError> {
        let Some(stat) = root.stat(&path)? else { return Ok(absent()) };
        let content = match stat.kind() {
            FileKind::File => content(root, &path)?,
            _ => ABSENT.to_owned(),
        };
        let target = match stat.kind() {
            FileKind::Link => String::from_utf8_lossy(&root.read_link(&path)?).into_owned(),
            _ => ABSENT.to_owned(),
        };
        Ok(of(&stat, content, target))
    };
    values().map_err(|error| super::errors::failed(&resource.reference(), "look at what is audited", error))
}

fn content(root: &Root, path: &TreePath) -> Result<String, FsError> {
    Ok(format!("{{sha256}}{}", hash_file(root, path, Algorithm::Sha256)?.to_hex()))
}

fn absent() -> BTreeMap<&'static str, String> {
    ["content", "ensure", "group", "mode", "owner", "target"].map(|name| (name, ABSENT.to_owned())).into()
}

fn of(stat: &Stat, content: String, target: String) -> BTreeMap<&'static str, String> {
    let ensure = match stat.kind() {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Link => "link",
        _ => "other",
    };
    [
        ("content", content),
        ("ensure", ensure.to_owned()),
        ("group", stat.gid.to_string()),
        ("mode", format!("{:04o}", stat.permissions())),
        ("owner", stat.uid.to_string()),
        ("target", target),
    ]
    .into()
}
