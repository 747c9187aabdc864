//! Directories, links, absence, and one kind in place of another.

use super::*;

#[tokio::test]
async fn links() {
    let world = World::new();
    assert_eq!(summary(&world.converge(&file("/l").with("target", "a/b")).await), ["/l ensure absent->link"]);
    let other = file("/l").with("ensure", "/etc/x");
    assert_eq!(summary(&world.converge(&other).await), ["/l target a/b->/etc/x"]);
    assert_eq!(std::fs::read_link(world.path("/l")).unwrap(), PathBuf::from("/etc/x"));
    assert_eq!(world.previous("/l"), Some(Previous::Link { target: "a/b".to_owned() }));
    let kept = file("/l").with("ensure", "link").with("target", "y").with("replace", false);
    assert_eq!(world.converge(&kept).await.changes, []);
}

#[tokio::test]
async fn every_kind_replaces_every_other() {
    let desired = [
        ("file", file("/x").with("ensure", "file").with("content", "new")),
        ("directory", file("/x").with("ensure", "directory")),
        ("link", file("/x").with("ensure", "link").with("target", "t")),
        ("absent", file("/x").with("ensure", "absent")),
    ];
    for kind in ["file", "directory", "link"] {
        for (wanted, resource) in &desired {
            let world = World::new();
            match kind {
                "file" => world.write("/x", "old"),
                "directory" => world.write("/x/child/deep", "old"),
                _ => world.link("/x", "elsewhere"),
            }
            let is_refused = kind == "directory" && *wanted != "directory";
            if is_refused {
                let error = world.check(resource).await.unwrap_err();
                assert!(crate::provider::file::errors::chain(&error).contains("force => true"), "{error}");
            }
            let checked = world.converge(&resource.clone().with("force", true)).await;
            if kind == *wanted {
                assert!(
                    checked.changes.iter().all(|change| matches!(&*change.property, "content" | "target")),
                    "{kind} {checked:?}"
                );
            } else {
                assert_eq!(summary(&checked), [format!("/x ensure {kind}->{wanted}")]);
            }
            assert_eq!(
                world.names("/").len(),
                if kind == *wanted && kind == "directory" { 3 } else { usize::from(*wanted != "absent") }
            );
            if is_refused {
                let Some(Previous::File { digest, .. }) = world.previous("/x/child/deep") else { panic!("{kind} {wanted}") };
                assert_eq!(world.store().read(&digest, 10).unwrap().unwrap(), "old");
            }
        }
    }
}

#[tokio::test]
async fn present_takes_anything() {
    let world = World::new();
    let resource = file("/x").with("ensure", "present");
    world.converge(&resource).await;
    assert_eq!(world.read("/x"), "");
    std::fs::remove_file(world.path("/x")).unwrap();
    world.mkdir("/x");
    assert_eq!(world.converge(&resource).await.changes, []);
    assert_eq!(world.converge(&file("/nothing").with("ensure", "absent")).await.changes, []);
}

#[tokio::test]
async fn links_can_be_followed() {
    let world = World::new();
    world.write("/real", "old");
    world.chmod("/real", 0o600);
    world.link("/l", "m");
    world.link("/m", "/real");
    let resource = file("/l").with("ensure", "file").with("content", "new").with("mode", "0640").with("links", "follow");
    world.converge(&resource).await;
    assert_eq!((world.read("/real").as_str(), world.mode("/real")), ("new", 0o640));
    assert!(std::fs::symlink_metadata(world.path("/l")).unwrap().is_symlink());
    world.link("/round", "round");
    let circle = file("/round").with("mode", "0600").with("links", "follow");
    assert!(world.check(&circle).await.is_err());
    let managed = file("/l").with("ensure", "file").with("content", "new");
    assert_eq!(summary(&world.converge(&managed).await), ["/l ensure link->file"]);
}

#[tokio::test]
async fn a_missing_parent_fails() {
    let world = World::new();
    for resource in
        [file("/no/f").with("content", "x"), file("/no/d").with("ensure", "directory"), file("/no/l").with("target", "x")]
    {
        let checked = world.check(&resource).await.unwrap();
        let applied = world.apply(&resource, &checked.changes).await.unwrap();
        assert!(applied.failures.contains_key(&0), "{resource:?}");
    }
    assert_eq!(world.names("/"), [""; 0]);
}

#[tokio::test]
async fn local_sources() {
    let world = World::new();
    world.write("/src/b", "content b");
    let list: direct_puppet_transport::protocol::Value = vec!["/src/a".into(), "file:///src/b".into(), "/src/c".into()].into();
    let resource = file("/x").with("source", list);
    world.converge(&resource).await;
    assert_eq!(world.read("/x"), "content b");
    world.write("/src/a", "content a");
    world.converge(&resource).await;
    assert_eq!(world.read("/x"), "content a");
    let none = file("/x").with("source", "/src/missing");
    assert!(world.check(&none).await.is_err());
    world.link("/src/l", "a");
    world.converge(&file("/y").with("source", "/src/l")).await;
    assert_eq!(std::fs::read_link(world.path("/y")).unwrap(), PathBuf::from("a"));
    world.converge(&file("/z").with("source", "/src/l").with("links", "follow")).await;
    assert_eq!(world.read("/z"), "content a");
}

#[tokio::test]
async fn checksum_mtime_compares_times_of_a_local_source() {
    let world = World::new();
    world.write("/src", "new");
    world.write("/x", "old");
    let at = |seconds| std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    let set = |path: &str, seconds| {
        std::fs::File::options().write(true).open(world.path(path)).unwrap().set_modified(at(seconds)).unwrap();
    };
    set("/src", 1000);
    set("/x", 2000);
    let resource = file("/x").with("source", "/src").with("checksum", "mtime");
    assert_eq!(world.converge(&resource).await.changes, []);
    set("/src", 3000);
    world.converge(&resource).await;
    assert_eq!(world.read("/x"), "new");
}

#[tokio::test]
async fn source_permissions() {
    let world = World::new();
    world.write("/src", "x");
    world.chmod("/src", 0o600);
    let resource = |value: &str| file("/x").with("source", "/src").with("source_permissions", value);
    world.converge(&resource("use_when_creating")).await;
    assert_eq!(world.mode("/x"), 0o600);
    world.chmod("/x", 0o644);
    assert_eq!(world.converge(&resource("use_when_creating")).await.changes, []);
    assert_eq!(summary(&world.converge(&resource("use")).await), ["/x mode 0644->0600"]);
    world.converge(&resource("use").with("mode", "0640")).await;
    assert_eq!(world.mode("/x"), 0o640);
}
