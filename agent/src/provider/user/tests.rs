//! What differs between accounts and resources; that the commands are right is tried on a real system, in `tests/providers.rs`.

use direct_puppet_transport::protocol::Value;

use super::*;
use crate::provider::file::tests::World;

const HASH: &str = "$6$salt$hash";

fn world() -> World {
    let world = World::new();
    world.write("/etc/passwd", "web:x:1001:1002:A B:/home/web:/bin/sh\n");
    world.write("/etc/group", "web:x:1002:\naudio:x:29:web\ngames:x:60:web\ndb:x:1003:\n");
    world.write("/etc/shadow", format!("web:{HASH}:19000:0:90:7::21916:\n"));
    world
}

fn user(name: &str) -> Resource {
    Resource::new("User", name)
}

fn names(names: &[&str]) -> Value {
    Value::Array(names.iter().map(|name| Value::from(*name)).collect())
}

async fn check(world: &World, resource: &Resource) -> Checked {
    UserProvider::default().check(&world.context(), &Arc::new(resource.clone())).await.unwrap()
}

async fn found(world: &World, resource: Resource) -> Vec<String> {
    check(world, &resource).await.changes.into_iter().map(|change| change.wording.unwrap().done).collect()
}

#[tokio::test]
async fn nothing_differs() {
    let world = world();
    let same = user("web").with("uid", "1001").with("gid", "web").with("home", "/home/web").with("shell", "/bin/sh");
    let same = same.with("comment", "A B").with("password", HASH).with("password_max_age", 90).with("expiry", "2030-01-02");
    let same = same.with("groups", "games").with("password_min_age", "0").with("password_warn_days", 7);
    assert_eq!(found(&world, same).await, [""; 0]);
    assert_eq!(found(&world, user("web").with("gid", 1002)).await, [""; 0]);
    assert_eq!(found(&world, user("db").with("ensure", "absent")).await, [""; 0]);
}

#[tokio::test]
async fn everything_differs() {
    let world = world();
    let other = user("web").with("uid", 1005).with("gid", "db").with("home", "/home/other").with("shell", "/bin/bash");
    let other = other.with("comment", "C").with("password", "$6$x$y").with("password_max_age", 91).with("expiry", "absent");
    let other = other.with("groups", names(&["audio", "video"])).with("membership", "inclusive");
    assert_eq!(
        found(&world, other.with("password_min_age", 1).with("password_warn_days", 3)).await,
        [
            "home changed '/home/web' to '/home/other'",
            "uid changed 1001 to 1005",
            "gid changed 1002 to 'db'",
            "comment changed 'A B' to 'C'",
            "shell changed '/bin/sh' to '/bin/bash'",
            "changed [redacted] to [redacted]",
            "password_min_age changed 0 to 1",
            "password_max_age changed 90 to 91",
            "password_warn_days changed 7 to 3",
            "groups changed audio,games to ['audio', 'video']",
            "undefined 'expiry' from '2030-01-02'",
        ]
    );
    assert_eq!(found(&world, user("web").with("ensure", "absent")).await, ["removed"]);
    assert_eq!(found(&world, user("new")).await, ["created"]);
    let more = user("web").with("groups", "db");
    assert_eq!(found(&world, more).await, ["groups changed audio,games to ['audio', 'db', 'games']"]);
    let none = user("web").with("groups", names(&[])).with("membership", "inclusive");
    assert_eq!(found(&world, none).await, ["groups changed audio,games to []"]);
}

#[tokio::test]
async fn hashes_are_hidden() {
    let world = world();
    let checked = check(&world, &user("web").with("password", "$6$other$hunter2")).await;
    let shown = format!("{checked:?} {:?}", Parameters::parse(&user("web").with("password", "$6$other$hunter2")));
    assert!(checked.changes[0].redacted);
    assert!(!shown.contains("hunter2") && !shown.contains(HASH), "{shown}");
}

#[tokio::test]
async fn keys_that_nothing_manages_are_purged() {
    let mut world = world();
    world.declare(Resource::new("Ssh_authorized_key", "kept"));
    let text = "ssh-rsa AAAA1 kept\n# c\nssh-rsa AAAA2\nssh-rsa AAAA3 gone\nssh-rsa AAAA4\nodd line\n";
    world.write("/home/web/.ssh/authorized_keys", text);
    let resource = user("web").with("purge_ssh_keys", true);
    let checked = check(&world, &resource).await;
    let titles: Vec<&str> = checked.changes.iter().map(|change| change.resource.title.as_str()).collect();
    let unnamed = |number: u32| format!("/home/web/.ssh/authorized_keys:unnamed-{number}");
    assert_eq!(titles, [&unnamed(1), "gone", &unnamed(2)]);
    assert_eq!(checked.resources, 4);
    assert_eq!(world.converge_by(&UserProvider::default(), &resource).await.unwrap().len(), 3);
    assert_eq!(world.read("/home/web/.ssh/authorized_keys"), "ssh-rsa AAAA1 kept\n# c\nodd line\n");
    let elsewhere = user("web").with("purge_ssh_keys", names(&["%h/none", "/k"]));
    assert_eq!(found(&world, elsewhere).await, [""; 0]);
}

#[test]
fn parameters_are_checked() {
    for (name, value, valid) in [
        ("uid", Value::from("x"), false),
        ("gid", "web".into(), true),
        ("gid", "a b".into(), false),
        ("groups", "29".into(), false),
        ("groups", "a,b".into(), false),
        ("groups", "".into(), false),
        ("password", "a:b".into(), false),
        ("password", Value::Sensitive(Box::new("x".into())), true),
        ("expiry", "2030-1-2".into(), false),
        ("expiry", "absent".into(), true),
        ("password_max_age", "x".into(), false),
        ("membership", "all".into(), false),
        ("comment", "a:b".into(), false),
        ("purge_ssh_keys", "keys".into(), false),
        ("purge_ssh_keys", "true".into(), true),
        ("name", "-x".into(), false),
        ("ensure", "role".into(), false),
        ("roles", "x".into(), true),
        ("shells", "x".into(), false),
    ] {
        let result = UserProvider::default().validate(&user("web").with(name, value.clone()));
        assert_eq!(result.is_ok(), valid, "{name} => {value:?}: {result:?}");
    }
}

#[test]
fn groups_come_first() {
    let catalog = Catalog {
        format: 1,
        certname: "n".parse().unwrap(),
        environment: direct_puppet_transport::protocol::Environment::default(),
        classes: Vec::new(),
        resources: vec![Resource::new("Group", "by number").with("gid", "7")],
        edges: Vec::new(),
    };
    let before = |resource: Resource| -> Vec<String> {
        UserProvider::default().autorequire(&resource, &catalog).iter().map(ToString::to_string).collect()
    };
    assert_eq!(before(user("a").with("gid", 7).with("groups", "g")), ["Group[by number]", "Group[g]"]);
    assert_eq!(before(user("a").with("gid", "n")), ["Group[n]"]);
}
