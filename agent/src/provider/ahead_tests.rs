//! Checks that run ahead find what a check in its turn finds.

use std::sync::Arc;

use direct_puppet_transport::protocol::{Resource, Value};

use super::file::tests::World;
use super::{Provider, builtin};

/// A sequence of numbers that is the same for the same seed: Knuth's MMIX generator.
struct Numbers(u64);

impl Numbers {
    fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        values[usize::try_from(self.0 >> 33).unwrap_or_default() % values.len()]
    }
}

/// Makes what is there, or changes it.
fn change(world: &World, numbers: &mut Numbers) {
    let (id, shell) = (numbers.one_of(&["1000", "1001"]), numbers.one_of(&["/bin/sh", "/bin/bash"]));
    world.write("/etc/passwd", format!("root:x:0:0::/root:/bin/sh\nweb:x:{id}:{id}::/home/web:{shell}\n"));
    world.write("/etc/group", format!("root:x:0:\nweb:x:{id}:{}\n", numbers.one_of(&["", "web"])));
    world.write("/etc/shadow", format!("web:!:19000:0:{}:7:::\n", numbers.one_of(&["99999", "30"])));
    world.write("/etc/hosts", numbers.one_of(&["", "10.0.0.1\tdb\n", "10.0.0.2\tdb one\n"]));
    world.write("/etc/os-release", numbers.one_of(&["ID=debian\n", "ID=ubuntu\n"]));
    let (word, version) = (numbers.one_of(&["install", "hold"]), numbers.one_of(&["1.0", "1.1"]));
    let state = numbers.one_of(&["installed", "config-files"]);
    let record = format!("Package: tool\nArchitecture: all\nStatus: {word} ok {state}\nVersion: {version}\n\n");
    world.write("/var/lib/dpkg/status", &record);
    let update = numbers.one_of(&["", "Package: tool\nArchitecture: all\nStatus: install ok installed\nVersion: 2.0\n\n"]);
    world.write("/var/lib/dpkg/updates/0001", update);
    world.write("/srv/file", numbers.one_of(&["wanted", "other", "longer than wanted"]));
}

/// Returns a resource of each type that is checked ahead.
fn wanted(numbers: &mut Numbers) -> Vec<Resource> {
    let id = |numbers: &mut Numbers| Value::from(numbers.one_of(&["1000", "1001"]));
    vec![
        Resource::new("User", "web")
            .with("uid", id(numbers))
            .with("shell", "/bin/sh")
            .with("password_max_age", Value::Integer(30)),
        Resource::new("User", "nobody").with("ensure", "absent"),
        Resource::new("Group", "web").with("gid", id(numbers)),
        Resource::new("Host", "db").with("ip", numbers.one_of(&["10.0.0.1", "10.0.0.2"])),
        Resource::new("Package", "tool").with("ensure", numbers.one_of(&["present", "1.0", "absent", "purged", ">=1.1"])),
        Resource::new("Package", "held").with("name", "tool").with("mark", "hold"),
        Resource::new("File", "/srv/file").with("content", "wanted").with("owner", "root").with("mode", "0644"),
        Resource::new("Exec", "made").with("command", "/bin/true").with("creates", numbers.one_of(&["/srv/file", "/srv/none"])),
    ]
}

/// The engine gives one moment to many checks and none to what comes after a change.
#[tokio::test]
async fn a_check_ahead_finds_what_a_check_finds() {
    let (world, mut numbers, mut ahead) = (World::new(), Numbers(5), 0);
    let providers = builtin();
    let provider = |resource: &Resource| providers.iter().find(|provider| provider.resource_type() == resource.resource_type);
    for round in 0..150 {
        change(&world, &mut numbers);
        let context = world.context();
        let moment = context.at_one_moment();
        for resource in wanted(&mut numbers).into_iter().map(Arc::new) {
            let provider: &Arc<dyn Provider> = provider(&resource).unwrap();
            let Some(found) = provider.check_files(&moment, &resource) else { continue };
            // Another instance has nothing remembered.
            let fresh = builtin();
            let fresh = fresh.iter().find(|fresh| fresh.resource_type() == provider.resource_type()).unwrap();
            let checked = fresh.check(&context, &resource).await.unwrap();
            assert_eq!(found.unwrap(), checked, "round {round}: {resource:?}");
            ahead += 1;
        }
    }
    assert!(ahead > 700, "{ahead}");
}
