//! Files in which some lines are in the catalog.

use super::*;
use crate::provider::file::tests::World;

fn purge(name: &str) -> Resource {
    Resource::new("Resources", name).with("purge", true)
}

async fn gone(world: &World, resource: &Resource) -> Vec<String> {
    let checked = ResourcesProvider::default().check(&world.context(), &Arc::new(resource.clone())).await.unwrap();
    assert_eq!((checked.failures.as_slice(), checked.resources), (&[][..], 1 + checked.changes.len() as u64));
    checked.changes.iter().map(|change| format!("{} {}", change.resource, change.wording.as_ref().unwrap().done)).collect()
}

#[tokio::test]
async fn lines_that_nobody_manages_go() {
    let mut world = World::new();
    world.write("/etc/hosts", "127.0.0.1 localhost\n# c\n10.0.0.1 aa\n10.0.0.2 bb\n");
    world.write("/etc/ssh/ssh_known_hosts", "xx ssh-rsa AAA\nxx ssh-ed25519 BBB\n|1|h= ssh-rsa C\n");
    world.write("/etc/fstab", "/dev/a / ext4\n/dev/b /srv ext4\n/dev/c none swap\n");
    world.declare(Resource::new("Host", "keep").with("name", "localhost"));
    world.declare(Resource::new("Host", "bb").with("ensure", "absent"));
    world.declare(Resource::new("Sshkey", "xx").with("type", "ssh-rsa"));
    world.declare(Resource::new("Mount", "/"));
    assert_eq!(gone(&world, &purge("host")).await, ["Host[aa] removed"]);
    let keys = gone(&world, &purge("sshkey")).await;
    assert!(keys.contains(&"Sshkey[xx] removed".to_owned()) && keys.len() == 2, "{keys:?}");
    assert_eq!(gone(&world, &purge("mount")).await, ["Mount[/srv] undefined 'ensure' from 'unmounted'"]);
    assert_eq!(gone(&world, &Resource::new("Resources", "host")).await, [""; 0], "purge is false");
    let it = ResourcesProvider::default();
    assert_eq!(world.converge_by(&it, &purge("host")).await.unwrap(), ["removed"]);
    assert_eq!(world.read("/etc/hosts"), "127.0.0.1 localhost\n# c\n10.0.0.2 bb\n");
    assert_eq!(world.converge_by(&it, &purge("sshkey")).await.unwrap().len(), 2);
    assert_eq!(world.read("/etc/ssh/ssh_known_hosts"), "xx ssh-rsa AAA\n");
    world.converge_by(&it, &purge("mount")).await.unwrap();
    assert_eq!(world.read("/etc/fstab"), "/dev/a / ext4\n/dev/c none swap\n");
}

#[tokio::test]
async fn users_of_the_system_stay() {
    let mut world = World::new();
    let users = "root:x:0:0:::\nnobody:x:65534:65534:::\nsys1:x:700:1:::\nold:x:450:1:::\nweb:x:1001:1:::\nann:x:1002:1:::\nbob:x:1003:1:::\n";
    world.write("/etc/passwd", users);
    world.write("/etc/group", "");
    world.declare(Resource::new("User", "the web").with("name", "web"));
    let of = |resource: Resource| {
        let world = &world;
        async move { gone(world, &resource).await.join(", ") }
    };
    let user = || purge("user");
    assert_eq!(of(user()).await, "User[sys1] removed, User[ann] removed, User[bob] removed");
    world.write("/etc/login.defs", "# UID_MIN 1\nUID_MIN\t\t 1000\n");
    assert_eq!(of(user()).await, "User[ann] removed, User[bob] removed");
    assert_eq!(of(user().with("unless_uid", vec![Value::from("1002"), vec![Value::from(1003)].into()])).await, "");
    assert_eq!(of(user().with("unless_system_user", 1002)).await, "User[bob] removed");
    let all = of(user().with("unless_system_user", false)).await;
    assert!(all.contains("User[old]") && !all.contains("root") && !all.contains("nobody"), "{all}");
}

#[test]
fn parameters_are_checked() {
    for (title, name, value, valid) in [
        ("host", "purge", Value::from("true"), true),
        ("Host", "purge", true.into(), true),
        ("package", "purge", true.into(), false),
        ("package", "purge", false.into(), true),
        ("ssh_authorized_key", "purge", true.into(), false),
        ("user", "unless_system_user", "500".into(), true),
        ("user", "unless_system_user", "some".into(), false),
        ("user", "unless_uid", vec![Value::from("x")].into(), false),
        ("user", "unless_gid", 1.into(), false),
    ] {
        let result = ResourcesProvider::default().validate(&Resource::new("Resources", title).with(name, value.clone()));
        assert_eq!(result.is_ok(), valid, "{title}: {name} => {value:?}: {result:?}");
    }
}
