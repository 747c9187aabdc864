//! Files that are really put together.

use direct_puppet_transport::protocol::{Digest, EntryKind, ManifestEntry, ResolvedSource, TreePath};

use super::*;
use crate::provider::file::tests::World;

fn file(title: &str) -> Resource {
    Resource::new("Concat_file", title)
}

fn fragment(title: &str, order: &str, content: &str) -> Resource {
    Resource::new("Concat_fragment", title).with("target", "/etc/x").with("order", order).with("content", content)
}

async fn converge(world: &World, resource: Resource) -> Result<usize, String> {
    world.converge_by(&ConcatFileProvider::default(), &resource).await.map(|done| done.len())
}

#[tokio::test]
async fn pieces_are_put_together_in_order() {
    let mut world = World::new();
    world.mkdir("/etc");
    world.write("/local", "local\n");
    for (title, order, content) in [("b", "10", "ten b\n"), ("a", "10", "ten a"), ("c", "9", "nine\n"), ("d", "z", "last\n")] {
        world.declare(fragment(title, order, content));
    }
    world.declare(Resource::new("Concat_fragment", "by tag").with("tag", "t").with("order", 95).with("source", "/local"));
    world.declare(Resource::new("Concat_fragment", "other").with("target", "/etc/y").with("content", "other"));
    let it = file("x").with("path", "/etc/x").with("tag", "t").with("mode", "0600").with("ensure_newline", true);
    assert_eq!(converge(&world, it.clone()).await.unwrap(), 1);
    assert_eq!(world.read("/etc/x"), "nine\nten a\nten b\nlocal\nlast\n");
    assert_eq!(world.mode("/etc/x"), 0o600);
    assert_eq!(converge(&world, it).await.unwrap(), 0);
    // As text, 10 comes before 9; and without new line feeds.
    assert_eq!(converge(&world, file("/etc/x").with("order", "alpha")).await.unwrap(), 1);
    assert_eq!(world.read("/etc/x"), "ten aten b\nnine\nlast\n");
    let reference = world.undo_entries();
    assert!(reference.iter().all(|entry| entry.path.absolute() == "/etc/x"));
    assert_eq!(converge(&world, file("/etc/x").with("ensure", "absent")).await.unwrap(), 1);
    assert!(!world.exists("/etc/x"));
}

#[tokio::test]
async fn empty_files_and_missing_sources() {
    let mut world = World::new();
    assert_eq!(converge(&world, file("/x").with("create_empty_file", false)).await.unwrap(), 0);
    assert!(!world.exists("/x"));
    assert_eq!(converge(&world, file("/x")).await.unwrap(), 1);
    assert_eq!(world.read("/x"), "");
    world
        .declare(Resource::new("Concat_fragment", "f").with("target", "/x").with("source", vec![Value::from("/a"), "/b".into()]));
    assert!(converge(&world, file("/x")).await.unwrap_err().contains("no /a nor /b"));
    world.write("/b", b"\xff\x00");
    assert_eq!(converge(&world, file("/x")).await.unwrap(), 1);
    assert_eq!(world.read_bytes("/x"), b"\xff\x00");
}

#[tokio::test]
async fn changes_are_those_of_the_file_and_secrets_stay_so() {
    let mut world = World::new();
    let secret = Value::Sensitive(Box::new("hunter2".into()));
    world.declare(Resource::new("Concat_fragment", "s").with("target", "/x").with("content", secret));
    world.write("/x", "old");
    let checked = ConcatFileProvider::default().check(&world.context(), &Arc::new(file("/x"))).await.unwrap();
    assert_eq!((checked.resources, checked.changes[0].resource.to_string().as_str()), (2, "File[/x]"));
    assert!(checked.changes[0].redacted && !format!("{:?}", checked.changes).contains("hunter2"));
}

#[tokio::test]
async fn a_piece_of_no_file_is_told() {
    let mut world = World::new();
    world.declare(file("/etc/x"));
    let orphan = Resource::new("Concat_fragment", "f").with("target", "/etc/z").with("content", "");
    let check = |resource: Resource| {
        let context = world.context();
        async move { ConcatFragmentProvider.check(&context, &Arc::new(resource)).await.unwrap() }
    };
    assert_eq!(check(orphan).await.skipped.len(), 1);
    assert_eq!(check(fragment("g", "1", "")).await.skipped.len(), 0);
}

#[test]
fn parameters_are_checked() {
    for (name, value, valid) in [
        ("order", Value::from("alpha"), true),
        ("order", "random".into(), false),
        ("format", "json-pretty".into(), true),
        ("format", "toml".into(), false),
        ("ensure", "file".into(), false),
        ("mode", "9".into(), false),
        ("mode", "0644".into(), true),
        ("warn", true.into(), false),
    ] {
        let result = ConcatFileProvider::default().validate(&file("/x").with(name, value.clone()));
        assert_eq!(result.is_ok(), valid, "{name} => {value:?}: {result:?}");
    }
    assert!(ConcatFileProvider::default().validate(&file("relative")).is_err());
    let bare = || Resource::new("Concat_fragment", "f");
    for (resource, valid) in [
        (bare().with("target", "/x"), false),
        (bare().with("content", "x"), false),
        (bare().with("target", "/x").with("content", "x").with("source", "/y"), false),
        (bare().with("target", "/x").with("source", "puppet:///modules/m/f"), true),
        (bare().with("target", "/x").with("source", "http://server/f"), false),
        (bare().with("target", "/x").with("content", "x").with("order", "a/b"), false),
        (bare().with("tag", "t").with("content", "x"), true),
    ] {
        let result = ConcatFragmentProvider.validate(&resource);
        assert_eq!(result.is_ok(), valid, "{resource:?}: {result:?}");
    }
}

#[tokio::test]
async fn a_piece_of_a_server_is_what_the_catalog_says_of_its_source() {
    let mut world = World::new();
    let entry = |kind| ManifestEntry { path: TreePath::root(), mode: 0o644, kind };
    let piece = |kind| {
        let sources = vec![Value::from("/own"), "puppet:///modules/m/no".into(), "puppet:///modules/m/p/".into()];
        let mut piece = Resource::new("Concat_fragment", "p").with("target", "/x").with("source", sources);
        piece.resolved = Some(ResolvedSource { uri: Some("puppet:///modules/m/p/".to_owned()), entries: vec![entry(kind)] });
        piece
    };
    let digest = Digest::of(b"of the server");
    let of_server = piece(EntryKind::File { digest, size: 13 });
    ConcatFragmentProvider.validate(&of_server).unwrap();
    assert_eq!(ConcatFragmentProvider.needed(&of_server), [(digest, 13)]);
    let directory = piece(EntryKind::Directory);
    assert_eq!(ConcatFragmentProvider.needed(&directory), []);
    world.declare(of_server);
    let error = converge(&world, file("/x")).await.unwrap_err();
    assert!(error.contains("puppet:///modules/m/p") && error.contains("is not on this node"), "{error}");
    world.context().store().put_bytes(b"of the server").unwrap();
    assert_eq!(converge(&world, file("/x")).await.unwrap(), 1);
    assert_eq!(world.read("/x"), "of the server");
    world.write("/own", "of the node");
    assert_eq!(converge(&world, file("/x")).await.unwrap(), 1);
    assert_eq!(world.read("/x"), "of the node");
    let mut world = World::new();
    world.declare(directory);
    assert!(converge(&world, file("/x")).await.unwrap_err().contains("puppet:///modules/m/p is no file"));
    // Nobody has said what it is.
    let mut world = World::new();
    let source = "puppet:///site/p";
    world.declare(Resource::new("Concat_fragment", "p").with("target", "/x").with("source", source));
    assert!(converge(&world, file("/x")).await.unwrap_err().contains("there is no puppet:///site/p"));
}
