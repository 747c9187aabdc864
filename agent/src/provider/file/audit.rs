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

/// Returns what was read of a path as a resource.
pub(super) fn describe(path: &str, properties: BTreeMap<&'static str, String>) -> Resource {
    let mut resource = Resource::new("File", path).with("provider", "posix");
    for (name, value) in properties {
        resource = match (name, value.parse::<i64>()) {
            _ if value == ABSENT && name != "ensure" => continue,
            ("owner" | "group", Ok(id)) => resource.with(name, id),
            _ => resource.with(name, value),
        };
    }
    resource
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

#[cfg(test)]
mod tests {
    use crate::provider::Provider as _;
    use crate::provider::file::FileProvider;
    use crate::provider::file::tests::World;

    #[tokio::test]
    async fn a_file_is_described() {
        let world = World::new();
        world.write("/a", "x");
        world.chmod("/a", 0o640);
        world.link("/l", "a");
        let (provider, context) = (FileProvider::new(), world.context());
        let of = async |name: &str| provider.instances(&context, Some(name)).await.unwrap().unwrap().remove(0);
        let file = of("/a").await;
        let digest = "{sha256}2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";
        assert_eq!((file.parameter("ensure"), file.parameter("content")), (Some(&"file".into()), Some(&digest.into())));
        let uid = i64::from(rustix::process::geteuid().as_raw());
        assert_eq!((file.parameter("mode"), file.parameter("owner")), (Some(&"0640".into()), Some(&uid.into())));
        let link = of("/l").await;
        assert_eq!((link.parameter("ensure"), link.parameter("target")), (Some(&"link".into()), Some(&"a".into())));
        assert_eq!(of("/none").await.parameters.keys().collect::<Vec<_>>(), ["ensure", "provider"]);
        assert!(provider.instances(&context, None).await.unwrap_err().to_string().contains("name one"));
    }
}
