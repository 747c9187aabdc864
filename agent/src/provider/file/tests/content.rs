//! Contents, attributes, backups, diffs and checks of single files.

use direct_puppet_transport::protocol::Value;

use super::*;

#[tokio::test]
async fn creates_and_replaces() {
    let world = World::new();
    let resource = file("/motd").with("content", "new\n").with("mode", "0640");
    assert_eq!(summary(&world.converge(&resource).await), ["/motd ensure absent->file"]);
    assert_eq!((world.read("/motd").as_str(), world.mode("/motd")), ("new\n", 0o640));
    assert_eq!(world.previous("/motd"), Some(Previous::Absent));

    world.write("/motd", "old\n");
    let checked = world.converge(&resource).await;
    assert_eq!(summary(&checked).len(), 1);
    assert_eq!(checked.changes[0].previous, format!("{{blake3}}{}", Digest::of(b"old\n").to_hex()));
    assert_eq!(checked.changes[0].desired, format!("{{blake3}}{}", Digest::of(b"new\n").to_hex()));
    assert_eq!(checked.changes[0].diff.as_deref(), Some("--- /motd\n+++ /motd\n@@ -1 +1 @@\n-old\n+new\n"));
    let Some(Previous::File { digest, mode: 0o640, .. }) = world.previous("/motd") else { panic!("{:?}", world.undo_entries()) };
    assert_eq!(world.store().read(&digest, 100).unwrap().unwrap(), "old\n");
}

#[tokio::test]
async fn a_content_whose_server_does_not_tell_its_size_is_shown_too() {
    use direct_puppet_transport::protocol::manifest::UNKNOWN_SIZE;
    let world = World::new();
    world.fetched(&["new\n"]);
    world.write("/a", "old\n");
    let kind = EntryKind::File { digest: Digest::of(b"new\n"), size: UNKNOWN_SIZE };
    let mut resource = file("/a").with("source", "puppet:///modules/m/a");
    let entries = vec![ManifestEntry { path: TreePath::root(), mode: 0o644, kind }];
    resource.resolved = Some(ResolvedSource { uri: Some("puppet:///modules/m/a".to_owned()), entries });
    let checked = world.converge(&resource).await;
    assert_eq!(checked.changes[0].diff.as_deref(), Some("--- /a\n+++ /a\n@@ -1 +1 @@\n-old\n+new\n"));
}

#[tokio::test]
async fn new_files_have_default_modes_and_old_ones_keep_theirs() {
    let world = World::new();
    world.converge(&file("/a").with("content", "1")).await;
    assert_eq!(world.mode("/a"), 0o644);
    world.chmod("/a", 0o600);
    world.converge(&file("/a").with("content", "2")).await;
    assert_eq!((world.read("/a").as_str(), world.mode("/a")), ("2", 0o600));
    world.converge(&file("/b").with("content", "1").with("mode", "g+w")).await;
    assert_eq!(world.mode("/b"), 0o664);
    world.converge(&file("/d").with("ensure", "directory").with("mode", "0640")).await;
    assert_eq!(world.mode("/d"), 0o750);
}

#[tokio::test]
async fn attributes_alone() {
    let world = World::new();
    let resource = file("/a").with("mode", "u=rwX,go-w");
    assert_eq!(world.converge(&resource).await.changes, []);
    world.write("/a", "kept");
    world.chmod("/a", 0o666);
    let checked = world.converge(&resource).await;
    assert_eq!(summary(&checked), ["/a mode 0666->0644"]);
    let done = checked.changes[0].wording.as_ref().map(|words| words.done.as_str());
    assert_eq!(done, Some("mode changed '0666' to '0644' (u=rwX,go-w)"));
    assert_eq!((world.read("/a").as_str(), world.mode("/a")), ("kept", 0o644));
}

#[tokio::test]
async fn content_and_mode_are_two_changes() {
    let world = World::new();
    world.write("/a", "old");
    world.chmod("/a", 0o600);
    let checked = world.converge(&file("/a").with("content", "new").with("mode", "0644")).await;
    let properties: Vec<&str> = checked.changes.iter().map(|change| &*change.property).collect();
    assert_eq!(properties, ["content", "mode"]);
}

#[tokio::test]
async fn replace_false_only_creates() {
    let world = World::new();
    let resource = file("/a").with("content", "new").with("replace", false);
    world.write("/a", "old");
    assert_eq!(world.converge(&resource).await.changes, []);
    std::fs::remove_file(world.path("/a")).unwrap();
    world.converge(&resource).await;
    assert_eq!(world.read("/a"), "new");
}

#[tokio::test]
async fn resolved_content_comes_from_the_store() {
    let mut world = World::new();
    world.fetched(&["new"]);
    let mut resource = file("/a").with("ensure", "file");
    resource.resolved = Some(ResolvedSource { uri: None, entries: vec![entry("f  new")] });
    world.uses.insert(Digest::of(b"new"), 1);
    world.converge(&resource).await;
    assert_eq!(world.read("/a"), "new");
    assert!(!world.store().has(&Digest::of(b"new")), "the last use takes it out of the store");

    std::fs::remove_file(world.path("/a")).unwrap();
    let checked = world.check(&resource).await.unwrap();
    let applied = world.apply(&resource, &checked.changes).await.unwrap();
    assert!(applied.failures[&0].contains("not fetched"), "{applied:?}");
    assert!(!world.exists("/a"));
}

#[tokio::test]
async fn a_backup_is_never_taken_out_of_the_store() {
    let mut world = World::new();
    world.write("/t/a", "one");
    world.write("/t/b", "two");
    let resource = sourced(&world, "/t", &["d", "f a two", "f b one"]).with("recurse", true);
    world.uses.extend([(Digest::of(b"one"), 1), (Digest::of(b"two"), 1)]);
    world.converge(&resource).await;
    assert_eq!((world.read("/t/a").as_str(), world.read("/t/b").as_str()), ("two", "one"));
    for (path, content) in [("/t/a", "one"), ("/t/b", "two")] {
        let Some(Previous::File { digest, .. }) = world.previous(path) else { panic!("{path}") };
        assert_eq!(world.store().read(&digest, 10).unwrap().unwrap(), content);
    }
}

#[tokio::test]
async fn secrets_are_not_shown() {
    let world = World::new();
    world.write("/a", "old hunter1\n");
    let secret = Value::Sensitive(Box::new("hunter2\n".into()));
    let refused = file("/a").with("content", secret.clone()).with("validate_cmd", "/bin/grep -v x %").with("path", "/a");
    let checked = world.check(&refused).await.unwrap();
    assert!(checked.changes[0].redacted);
    assert_eq!((&*checked.changes[0].previous, &*checked.changes[0].desired), ("[redacted]", "[redacted]"));
    assert_eq!(checked.changes[0].diff, None);
    let failing = file("/a").with("content", secret).with("validate_cmd", "/bin/sh -c 'cat \"$0\"; exit 1' %");
    let applied = world.apply(&failing, &checked.changes).await.unwrap();
    assert!(applied.failures.contains_key(&0));
    assert!(!format!("{checked:?}{applied:?}").contains("hunter"), "{checked:?} {applied:?}");
}

#[tokio::test]
async fn diffs_only_where_they_make_sense() {
    let mut world = World::new();
    world.write("/a", "old\n");
    let diff = async |world: &World, resource: Resource| world.check(&resource).await.unwrap().changes[0].diff.clone();
    let resource = || file("/a").with("content", "new\n");
    assert!(diff(&world, resource()).await.unwrap().contains("-old\n+new\n"));
    assert_eq!(diff(&world, resource().with("show_diff", false)).await, None);
    assert!(diff(&world, file("/a").with("content", Value::Binary(vec![0, 1]))).await.unwrap().starts_with("binary"));
    assert!(diff(&world, file("/a").with("content", "x".repeat(1001))).await.unwrap().contains("longer than 1000"));
    world.show_diff = false;
    assert_eq!(diff(&world, resource()).await, None);
}

#[tokio::test]
async fn validate_cmd_keeps_the_old_content() {
    let world = World::new();
    world.write("/a", "old");
    let resource = |command: &str| file("/a").with("content", "new content").with("validate_cmd", command);
    for (command, accepted) in
        [("/bin/grep -q absent %", false), ("/nonexistent %", false), ("/bin/grep -q 'new content' %", true)]
    {
        let resource = resource(command);
        let checked = world.check(&resource).await.unwrap();
        let applied = world.apply(&resource, &checked.changes).await.unwrap();
        assert_eq!(applied.failures.is_empty(), accepted, "{command} {applied:?}");
        assert_eq!(world.read("/a"), if accepted { "new content" } else { "old" });
        assert_eq!(world.names("/"), ["a"]);
    }
    let other = file("/a").with("content", "50%").with("validate_cmd", "/bin/grep -q % @@").with("validate_replacement", "@@");
    world.converge(&other).await;
    assert_eq!(world.read("/a"), "50%");
}

#[tokio::test]
async fn backups() {
    let world = World::new();
    world.write("/a", "old");
    world.chmod("/a", 0o600);
    world.converge(&file("/a").with("content", "1").with("backup", ".bak")).await;
    assert_eq!((world.read("/a.bak").as_str(), world.mode("/a.bak")), ("old", 0o600));
    world.converge(&file("/a").with("content", "2").with("backup", ".bak")).await;
    assert_eq!(world.read("/a.bak"), "1");
    assert!(matches!(world.previous("/a"), Some(Previous::File { .. })));
    world.converge(&file("/a").with("content", "3").with("backup", false)).await;
    assert_eq!(world.previous("/a"), Some(Previous::Dropped));
    world.mkdir("/b.bak/x");
    world.write("/b", "old");
    let resource = file("/b").with("content", "new").with("backup", ".bak");
    let checked = world.check(&resource).await.unwrap();
    let applied = world.apply(&resource, &checked.changes).await.unwrap();
    assert!(applied.failures.contains_key(&0), "a backup that cannot be made stops the change");
    assert_eq!(world.read("/b"), "old");
}

#[tokio::test]
async fn checksum_value_is_verified() {
    let world = World::new();
    let resource = |value: &str| file("/a").with("content", "abc").with("checksum", "md5").with("checksum_value", value);
    let wrong = resource("00000000000000000000000000000000");
    let checked = world.check(&wrong).await.unwrap();
    let applied = world.apply(&wrong, &checked.changes).await.unwrap();
    assert!(applied.failures[&0].contains("checksum_value"));
    assert_eq!(world.names("/"), [""; 0]);
    world.converge(&resource("900150983cd24fb0d6963f7d28e17f72")).await;
}

#[tokio::test]
async fn owners() {
    let mut world = World::new();
    world.write("/etc/passwd", "root:x:0:0::/root:/bin/sh\nweb:x:1234:1234::/:\n");
    world.write("/etc/group", "www:x:4321:\n");
    world.write("/a", "kept");
    world.chmod("/a", 0o600);
    let resource = file("/a").with("owner", "web").with("group", "www").with("mode", "0640");
    if !rustix::process::geteuid().is_root() {
        println!("left out: setting owners needs root");
        let checked = world.check(&resource).await.unwrap();
        assert_eq!((checked.changes.len(), checked.skipped.len()), (1, 2));
        return;
    }
    use std::os::unix::fs::MetadataExt as _;
    let checked = world.converge(&resource).await;
    assert_eq!(summary(&checked), ["/a owner root->web", "/a group 0->www", "/a mode 0600->0640"]);
    let owner = |path: &str| std::fs::symlink_metadata(world.path(path)).map(|meta| (meta.uid(), meta.gid())).unwrap();
    assert_eq!(owner("/a"), (1234, 4321));
    world.converge(&file("/a").with("content", "new")).await;
    assert_eq!(owner("/a"), (1234, 4321), "an owner that is not managed is kept");
    world.converge(&file("/l").with("target", "a").with("owner", 5)).await;
    assert_eq!(owner("/l").0, 5);
    let unknown = file("/a").with("owner", "nobody-here");
    assert!(world.check(&unknown).await.is_err());
    world.noop = true;
    assert_eq!(summary(&world.check(&unknown).await.unwrap()), ["/a owner web->nobody-here"]);
}

#[tokio::test]
async fn a_fresh_scan_is_trusted_and_a_stale_one_is_not() {
    use crate::tree::{ContentState, Scanned};
    let world = World::new();
    world.write("/a", "changed behind the back of the scan");
    let resource = Arc::new(file("/a").with("content", "wanted"));
    let path = TreePath::from_absolute(b"/a").unwrap();
    let check = async |content: ContentState, is_stale: bool| {
        let stat = world.context().root().stat(&path).unwrap();
        let scan = Scan { files: [(path.clone(), Scanned { stat, content })].into_iter().collect(), ..Scan::default() };
        let context = world.context_with(scan);
        if is_stale {
            context.mark_scan_stale();
        }
        FileProvider::new().check(&context, &resource).await.unwrap().changes
    };
    assert_eq!(check(ContentState::Same, false).await, []);
    assert_eq!(check(ContentState::Same, true).await.len(), 1);
    let digest = Digest::of(b"as the scan saw it");
    let changes = check(ContentState::Different(Some(digest)), false).await;
    assert_eq!(changes[0].previous, format!("{{blake3}}{}", digest.to_hex()));
}
