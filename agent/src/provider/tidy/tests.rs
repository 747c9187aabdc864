//! Trees below a root of their own.

use direct_puppet_transport::protocol::Value;

use super::*;
use crate::provider::file::tests::World;

fn tidy() -> Resource {
    Resource::new("Tidy", "/t")
}

fn world() -> World {
    let world = World::new();
    for path in ["/t/a.tmp", "/t/.b.tmp", "/t/keep", "/t/d/c.tmp", "/t/d/e/f.tmp", "/t/mine.tmp"] {
        world.write(path, "x");
    }
    world.write("/t/large", vec![0; 3000]);
    world
}

async fn titles(world: &World, resource: Resource) -> Vec<String> {
    let checked = TidyProvider.check(&world.context(), &Arc::new(resource)).await.unwrap();
    checked.changes.into_iter().map(|change| change.resource.title).collect()
}

#[tokio::test]
async fn what_goes() {
    let mut world = world();
    world.manage("/t/mine.tmp");
    assert_eq!(titles(&world, tidy()).await, [""; 0], "a directory, without rmdirs");
    assert_eq!(titles(&world, tidy().with("recurse", 1).with("matches", "*.tmp")).await, ["/t/a.tmp", "/t/.b.tmp"]);
    let all = titles(&world, tidy().with("recurse", true).with("matches", "*.tmp")).await;
    assert_eq!(all, ["/t/d/e/f.tmp", "/t/d/c.tmp", "/t/a.tmp", "/t/.b.tmp"]);
    assert_eq!(titles(&world, tidy().with("recurse", true).with("size", "2k")).await, ["/t/large"]);
    assert_eq!(titles(&world, tidy().with("recurse", true).with("size", "3000b").with("age", "1w")).await, ["/t/large"]);
    assert_eq!(titles(&world, tidy().with("recurse", true).with("age", "1h").with("type", "mtime")).await, [""; 0]);
    assert_eq!(titles(&world, tidy().with("recurse", true).with("age", 0)).await.len(), 6);
    let below = Resource::new("Tidy", "/t/d").with("recurse", true).with("rmdirs", true);
    assert_eq!(titles(&world, below).await, ["/t/d/e/f.tmp", "/t/d/e", "/t/d/c.tmp", "/t/d"]);
    assert_eq!(titles(&world, Resource::new("Tidy", "/none").with("recurse", true)).await, [""; 0]);
}

#[tokio::test]
async fn it_goes_and_can_come_back() {
    let world = world();
    let resource = tidy().with("recurse", true).with("matches", Value::Array(vec!["*.tmp".into(), "?".into()]));
    let done = world.converge_by(&TidyProvider, &resource.with("rmdirs", true).with("backup", "main")).await.unwrap();
    assert_eq!(done, ["removed"; 7]);
    assert_eq!(world.names("/t"), ["keep", "large"]);
    assert!(matches!(world.previous("/t/d/c.tmp"), Some(Previous::File { .. })));
    world.converge_by(&TidyProvider, &Resource::new("Tidy", "/t/keep")).await.unwrap();
    assert_eq!(world.previous("/t/keep"), Some(Previous::Dropped));
}

#[test]
fn parameters_are_checked() {
    for (name, value, valid) in [
        ("age", Value::from("1w"), true),
        ("age", "2weeks".into(), true),
        ("age", "1y".into(), false),
        ("age", "99999999999999999w".into(), false),
        ("size", 10.into(), true),
        ("size", "1.5k".into(), false),
        ("recurse", "inf".into(), true),
        ("recurse", (-1).into(), false),
        ("matches", "*".into(), false),
        ("type", "btime".into(), false),
        ("path", "/".into(), false),
        ("path", "t".into(), false),
        ("files", "t".into(), false),
    ] {
        let result = TidyProvider.validate(&tidy().with(name, value.clone()));
        assert_eq!(result.is_ok(), valid, "{name} => {value:?}: {result:?}");
    }
}

#[tokio::test]
async fn links_on_the_way_are_followed_and_no_others() {
    let world = World::new();
    world.write("/run/tt/a", "x");
    world.write("/kept/b", "x");
    world.link("/var", "/run");
    world.link("/run/tt/link", "/kept");
    world.link("/gone", "none");
    let of = |path: &str| Resource::new("Tidy", path).with("recurse", true).with("rmdirs", true);
    assert_eq!(titles(&world, of("/gone/tt")).await, [""; 0]);
    assert_eq!(titles(&world, of("/var/tt")).await, ["/run/tt/link", "/run/tt/a", "/run/tt"]);
    let (context, resource) = (world.context(), Arc::new(of("/var/tt")));
    let changes = TidyProvider.check(&context, &resource).await.unwrap().changes;
    assert!(TidyProvider.apply(&context, &resource, &changes).await.unwrap().failures.is_empty());
    assert!(!world.exists("/run/tt") && world.exists("/kept/b") && world.exists("/var"));
}
