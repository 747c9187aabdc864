//! File systems as resources.

use direct_puppet_transport::protocol::Resource;

use super::fstab::{self, Entry};
use super::{FSTAB, Found, mounted};
use crate::provider::Context;
use crate::provider::file::{errors, read};
use crate::provider::lines::Lines;
use crate::provider::text_file::TextCache;

/// Lists the entries of the table, and what is mounted without one. Blocking.
pub(super) fn list(context: &Context, files: &TextCache<Lines<Entry>>) -> Result<Vec<Resource>, String> {
    let lines = files.load(context, &read::absolute_path(FSTAB)?, |text| Lines::parse(text, fstab::parse));
    let lines = lines.map_err(|error| errors::chain(&error))?;
    let mounted = mounted(context).map_err(|error| format!("what is mounted could not be read: {error}"))?;
    let is_mounted = |name: &str| mounted.iter().any(|mounted| mounted == name.as_bytes());
    let entries = lines.records().map(|(at, entry)| {
        let found = Found { entry: Some((at, entry.clone())), mounted: is_mounted(&entry.name) };
        describe(&entry.name, &found)
    });
    let ghosts = mounted.iter().map(|name| describe(&String::from_utf8_lossy(name), &Found { entry: None, mounted: true }));
    Ok(entries.chain(ghosts).collect())
}

fn describe(name: &str, found: &Found) -> Resource {
    let mut resource = Resource::new("Mount", name).with("ensure", found.name()).with("provider", "parsed").with("target", FSTAB);
    if let Some((_, entry)) = &found.entry {
        let fields = [
            ("device", Some(&entry.device)),
            ("dump", entry.dump.as_ref()),
            ("fstype", entry.fstype.as_ref()),
            ("options", entry.options.as_ref()),
            ("pass", entry.pass.as_ref()),
        ];
        for (field, value) in fields {
            resource = resource.with(field, value.map(String::as_str).unwrap_or_default());
        }
    }
    resource
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::Provider as _;
    use crate::provider::file::tests::World;
    use crate::provider::mount::MountProvider;

    #[tokio::test]
    async fn file_systems_are_listed() {
        let world = World::new();
        world.write("/etc/fstab", "# c\n/dev/x /mnt/a\\040b ext4 rw 0 1\n/swap none swap\n");
        let all = MountProvider::default().instances(&world.context(), None).await.unwrap().unwrap();
        let [data, swap] = &all[..] else { panic!("{all:?}") };
        assert_eq!((data.title.as_str(), data.parameter("ensure")), ("/mnt/a b", Some(&"unmounted".into())));
        assert_eq!((data.parameter("device"), data.parameter("pass")), (Some(&"/dev/x".into()), Some(&"1".into())));
        assert_eq!((swap.title.as_str(), swap.parameter("options")), ("none", Some(&"".into())));
        let ghost = describe("/proc", &Found { entry: None, mounted: true });
        assert_eq!((ghost.parameter("ensure"), ghost.parameter("device")), (Some(&"ghost".into()), None));
    }
}
