//! Recursive resources: sources, limits, purge, ignore, and other resources below.

use super::*;

const TREE: &[&str] = &["d", "f a 1", "d b", "f b/c 2", "d b/d", "f b/d/e 3", "l b/l ../a"];

#[tokio::test]
async fn copies_a_tree() {
    let world = World::new();
    let resource = sourced(&world, "/t", TREE).with("recurse", true);
    let checked = world.converge(&resource).await;
    assert_eq!(checked.resources, 7);
    assert_eq!(
        summary(&checked),
        [
            "/t ensure absent->directory",
            "/t/b ensure absent->directory",
            "/t/b/d ensure absent->directory",
            "/t/a ensure absent->file",
            "/t/b/c ensure absent->file",
            "/t/b/d/e ensure absent->file",
            "/t/b/l ensure absent->link",
        ]
    );
    assert_eq!(world.names("/t"), ["a", "b", "b/c", "b/d", "b/d/e", "b/l"]);
    assert_eq!((world.read("/t/b/d/e").as_str(), world.mode("/t/a"), world.mode("/t/b")), ("3", 0o644, 0o755));
    world.write("/t/b/c", "drift");
    world.chmod("/t/a", 0o600);
    assert_eq!(summary(&world.converge(&resource).await).len(), 1, "modes that are not managed are left alone");
}

#[tokio::test]
async fn modes_of_a_tree() {
    let world = World::new();
    let tree = || sourced(&world, "/t", TREE).with("recurse", true);
    world.converge(&tree().with("mode", "0640")).await;
    assert_eq!((world.mode("/t"), world.mode("/t/b"), world.mode("/t/a")), (0o750, 0o750, 0o640));
    world.converge(&tree().with("source_permissions", "use").with("mode", "u=rwX,go=rX")).await;
    assert_eq!((world.mode("/t/b"), world.mode("/t/a")), (0o755, 0o644));
    world.converge(&tree().with("source_permissions", "use")).await;
    assert_eq!((world.mode("/t/b"), world.mode("/t/a")), (0o750, 0o640));
}

#[tokio::test]
async fn limits_and_ignored_names() {
    let world = World::new();
    world.converge(&sourced(&world, "/t", TREE)).await;
    assert_eq!(world.names("/t"), [""; 0]);
    world.converge(&sourced(&world, "/t", TREE).with("recurse", "remote").with("recurselimit", 1)).await;
    assert_eq!(world.names("/t"), ["a", "b"]);
    let ignoring = sourced(&world, "/t", TREE).with("recurse", true).with("ignore", vec!["d".into(), "[kl]".into()]);
    world.converge(&ignoring).await;
    assert_eq!(world.names("/t"), ["a", "b", "b/c"]);
    let limited = |limit: i64| sourced(&world, "/t", TREE).with("recurse", true).with("max_files", limit);
    assert!(world.check(&limited(6)).await.is_ok(), "the directory itself does not count");
    assert!(world.check(&limited(5)).await.is_err());
}

#[tokio::test]
async fn purges_what_nothing_names() {
    let mut world = World::new();
    let tree = || sourced(&world, "/t", TREE).with("recurse", true).with("purge", true).with("ignore", "*.keep");
    let purging = tree();
    world.converge(&purging).await;
    for path in ["/t/extra", "/t/x.keep", "/t/dir/file", "/t/mine/deep/file", "/t/mine/other", "/t/b/d/extra"] {
        world.write(path, "x");
    }
    world.link("/t/link", "a");
    world.manage("/t");
    world.manage("/t/mine/deep");
    let checked = world.converge(&purging).await;
    let removed: Vec<&str> = checked.changes.iter().map(|change| change.resource.title.as_str()).collect();
    assert_eq!(removed, ["/t/mine/other", "/t/link", "/t/extra", "/t/dir/file", "/t/b/d/extra"]);
    assert_eq!(checked.skipped.len(), 1, "{:?}", checked.skipped);
    assert!(world.exists("/t/dir") && world.exists("/t/mine/deep/file") && world.exists("/t/x.keep"));
    let Some(Previous::File { .. }) = world.previous("/t/extra") else { panic!("no backup") };

    world.write("/t/dir/again", "x");
    world.write("/t/mine/other", "x");
    let forced = world.converge(&purging.clone().with("force", true)).await;
    assert_eq!(summary(&forced), ["/t/mine/other ensure file->absent", "/t/dir ensure directory->absent"]);
    assert!(matches!(world.previous("/t/dir/again"), Some(Previous::File { .. })));
}

#[tokio::test]
async fn a_directory_that_will_hold_a_managed_file_is_not_purged() {
    let mut world = World::new();
    world.mkdir("/t/sub");
    world.manage("/t/sub/later");
    let resource = file("/t").with("ensure", "directory").with("recurse", true).with("purge", true).with("force", true);
    assert_eq!(world.converge(&resource).await.changes, []);
}

#[tokio::test]
async fn remote_recursion_leaves_what_is_there() {
    let world = World::new();
    world.write("/t/extra", "x");
    world.chmod("/t/extra", 0o600);
    let resource = sourced(&world, "/t", TREE).with("recurse", "remote").with("purge", true).with("mode", "0644");
    world.converge(&resource).await;
    assert_eq!((world.read("/t/extra").as_str(), world.mode("/t/extra")), ("x", 0o600));
}

#[tokio::test]
async fn attributes_of_all_that_is_there() {
    let mut world = World::new();
    world.write("/t/a", "1");
    world.write("/t/b/c", "2");
    world.write("/t/own/d", "3");
    world.link("/t/l", "a");
    world.manage("/t/own");
    for (path, mode) in [("/t/a", 0o600), ("/t/b/c", 0o666), ("/t/own/d", 0o600), ("/t/b", 0o700)] {
        world.chmod(path, mode);
    }
    let resource = file("/t").with("recurse", true).with("mode", "0644");
    let checked = world.converge(&resource).await;
    assert_eq!(summary(&checked), ["/t/a mode 0600->0644", "/t/b mode 0700->0755", "/t/b/c mode 0666->0644"]);
    assert_eq!(checked.resources, 5);
    assert_eq!(world.mode("/t/own/d"), 0o600);
}

#[tokio::test]
async fn another_resource_below_is_left_to_itself() {
    let mut world = World::new();
    world.manage("/t/b");
    world.converge(&sourced(&world, "/t", TREE).with("recurse", true)).await;
    assert_eq!(world.names("/t"), ["a"]);
}

#[tokio::test]
async fn files_in_the_way_of_a_tree() {
    let world = World::new();
    world.mkdir("/t");
    world.write("/t/b", "a file where a directory belongs");
    world.mkdir("/elsewhere/d");
    world.mkdir("/t/a/full");
    let resource = sourced(&world, "/t", TREE).with("recurse", true);
    let checked = world.check(&resource).await.unwrap();
    assert_eq!(checked.failures.len(), 1, "a directory needs force: {:?}", checked.failures);
    world.converge(&resource.with("force", true)).await;
    assert_eq!(world.names("/t"), ["a", "b", "b/c", "b/d", "b/d/e", "b/l"]);

    std::fs::remove_dir_all(world.path("/t/b/d")).unwrap();
    world.link("/t/b/d", "/elsewhere/d");
    world.converge(&sourced(&world, "/t", TREE).with("recurse", true)).await;
    assert_eq!(world.names("/elsewhere"), ["d"], "a link is replaced, never followed");
}

#[tokio::test]
async fn local_trees() {
    let world = World::new();
    world.write("/src/a", "1");
    world.write("/src/d/b", "2");
    world.link("/src/l", "a");
    let resource = || file("/t").with("source", "/src").with("recurse", true).with("purge", true);
    world.converge(&resource()).await;
    assert_eq!(world.names("/t"), ["a", "d", "d/b", "l"]);
    world.write("/src/d/b", "3");
    world.write("/t/extra", "x");
    assert_eq!(summary(&world.converge(&resource()).await).len(), 2);
    assert_eq!(world.read("/t/d/b"), "3");
    world.converge(&file("/u").with("source", "/src").with("recurse", true).with("links", "follow")).await;
    assert!(std::fs::symlink_metadata(world.path("/u/l")).unwrap().is_file());
}

#[tokio::test]
async fn local_trees_together() {
    let world = World::new();
    for (path, content) in [("/one/a", "1"), ("/one/x", "1"), ("/two/a", "2"), ("/two/d/b", "2"), ("/two/x/below", "2")] {
        world.write(path, content);
    }
    world.write("/file", "3");
    let of = |sources: &[&str], all: bool| {
        let sources = sources.iter().map(|source| (*source).into()).collect::<Vec<direct_puppet_transport::protocol::Value>>();
        let resource = file("/t").with("source", sources).with("sourceselect", if all { "all" } else { "first" });
        resource.with("recurse", true).with("purge", true).with("force", true)
    };
    world.converge(&of(&["/none", "/one", "/two"], true)).await;
    assert_eq!(world.names("/t"), ["a", "d", "d/b", "x"]);
    assert_eq!((world.read("/t/a").as_str(), world.read("/t/d/b").as_str()), ("1", "2"));
    assert!(world.check(&of(&["/one", "/file"], true)).await.is_err());
    world.converge(&of(&["/one", "/two"], false)).await;
    assert_eq!(world.names("/t"), ["a", "x"]);
    world.converge(&of(&["/file", "/one"], true)).await;
    assert_eq!(world.read("/t"), "3");
}

#[tokio::test]
async fn resolved_links_can_be_followed() {
    let world = World::new();
    let tree = ["d", "f a 1", "d b", "l b/l ../a", "l b/m ../../out"];
    let resource = sourced(&world, "/t", &tree).with("recurse", true).with("links", "follow");
    let checked = world.check(&resource).await.unwrap();
    assert_eq!(checked.failures.len(), 1, "{:?}", checked.failures);
    world.apply(&resource, &checked.changes).await.unwrap();
    assert_eq!(world.read("/t/b/l"), "1");
}

#[tokio::test]
async fn odd_names() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    let world = World::new();
    let resource = sourced(&world, "/t", &["d", "f a%0Ab 1", "f %FF 2", "f 100%25 3"]).with("recurse", true).with("purge", true);
    let checked = world.converge(&resource).await;
    assert_eq!(checked.changes[1].resource.title, "/t/100%25");
    assert_eq!(std::fs::read(world.path("/t").join(OsStr::from_bytes(b"\xff"))).unwrap(), b"2");
    std::fs::write(world.path("/t").join(OsStr::from_bytes(b"\xfe\n")), "x").unwrap();
    assert_eq!(summary(&world.converge(&resource).await), ["/t/%FE%0A ensure file->absent"]);
}

#[tokio::test]
async fn single_failures_leave_the_others() {
    let world = World::new();
    let mut resource = sourced(&world, "/t", TREE).with("recurse", true);
    world.store().remove(&Digest::of(b"2")).unwrap();
    let checked = world.check(&resource).await.unwrap();
    let applied = world.apply(&resource, &checked.changes).await.unwrap();
    assert_eq!(applied.failures.len(), 1);
    assert_eq!(checked.changes[*applied.failures.keys().next().unwrap()].resource.title, "/t/b/c");
    assert_eq!(world.names("/t"), ["a", "b", "b/d", "b/d/e", "b/l"]);
    resource = resource.with("ensure", "absent").with("force", true);
    world.converge(&resource).await;
    assert!(!world.exists("/t"));
}

#[tokio::test]
async fn a_cancelled_run_changes_nothing_more() {
    let world = World::new();
    let resource = Arc::new(sourced(&world, "/t", TREE).with("recurse", true));
    let checked = world.check(&resource).await.unwrap();
    let context = world.context();
    context.cancel().cancel();
    let result = FileProvider::new().apply(&context, &resource, &checked.changes).await;
    assert!(matches!(result, Err(ProviderError::Cancelled { .. })), "{result:?}");
    assert!(!world.exists("/t"));
}
