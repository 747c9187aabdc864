use direct_puppet_transport::protocol::Digest;

use super::*;

fn file(path: &str) -> ManifestEntry {
    let kind = EntryKind::File { digest: Digest::of(path.as_bytes()), size: path.len() as u64 };
    ManifestEntry { path: TreePath::from_bytes(path.as_bytes()).unwrap(), mode: 0o644, kind }
}

fn dir(path: &str) -> ManifestEntry {
    ManifestEntry { path: path.parse().unwrap(), mode: 0o755, kind: EntryKind::Directory }
}

fn link(path: &str, target: &str) -> ManifestEntry {
    ManifestEntry { path: path.parse().unwrap(), mode: 0, kind: EntryKind::Link { target: target.into() } }
}

fn manifest() -> Manifest {
    Manifest::new(vec![
        dir("site"),
        dir("site/app"),
        dir("site/app/files"),
        file("site/app/files/a 100%23.txt"),
        dir("site/app/files/tree"),
        file("site/app/files/tree/a"),
        dir("site/app/files/tree/deep"),
        file("site/app/files/tree/deep/b"),
        link("site/app/files/tree/to-a", "a"),
        link("site/app/files/tree/to-deep", "deep"),
        link("site/app/files/tree/to-nothing", "nothing"),
        dir("site/app/files/other"),
        file("site/app/files/other/a"),
        file("site/app/files/other/deep"),
        file("site/app/files/other/z"),
        dir("site/app/files/round"),
        link("site/app/files/round/up", ".."),
        link("site/app/files/alias", "tree"),
        dir("site/app/scripts"),
        file("site/app/scripts/s.sh"),
        dir("site/app/lib"),
        file("site/app/lib/p.rb"),
    ])
    .unwrap()
}

fn resolve(resource: Resource) -> Result<Resource, String> {
    let manifest = manifest();
    let modules = [("app".to_owned(), Some("site/app".parse().unwrap())), ("base".to_owned(), None)].into();
    let mut resource = resource;
    Sources { manifest: &manifest, modules }.resolve(&mut resource)?;
    Ok(resource)
}

fn of(source: impl Into<Value>) -> Resource {
    Resource::new("File", "/x").with("source", source)
}

/// Returns the entries as `path` or `path -> target` or `path = content's own path`.
fn shown(resource: &Resource) -> Vec<String> {
    let whole = manifest();
    let name = |digest: &Digest| {
        let is_it = |entry: &&ManifestEntry| matches!(&entry.kind, EntryKind::File { digest: known, .. } if known == digest);
        String::from_utf8_lossy(whole.entries().find(is_it).unwrap().path.as_bytes()).replace("site/app/files/", "")
    };
    let show = |entry: &ManifestEntry| match &entry.kind {
        EntryKind::File { digest, .. } => format!("{} = {}", entry.path, name(digest)),
        EntryKind::Directory => format!("{}/", entry.path),
        EntryKind::Link { target } => format!("{} -> {}", entry.path, String::from_utf8_lossy(target)),
    };
    resource.resolved.as_ref().unwrap().entries.iter().map(show).collect()
}

#[test]
fn places() {
    for (uri, path) in [
        ("puppet:///modules/app/a 100%23.txt", " = a 100%23.txt"),
        ("puppet://other.example.com:8140/modules/app/tree/a", " = tree/a"),
        ("puppet:///modules/app/tree/", "/"),
        ("puppet:///modules/app", "/"),
        ("puppet:///modules/app//tree/a", " = tree/a"),
        ("puppet:///modules/app/./tree/.//a/", " = tree/a"),
        ("puppet:///modules/app/.", "/"),
        ("puppet:///modules/app/alias/deep/b", " = tree/deep/b"),
        ("puppet:///modules/app/tree/to-a", " -> a"),
        ("puppet:///scripts/app/s.sh", " = site/app/scripts/s.sh"),
        ("puppet:///plugins/p.rb", " = site/app/lib/p.rb"),
    ] {
        assert_eq!(shown(&resolve(of(uri)).unwrap()), [path], "{uri}");
    }
    for missing in [
        "puppet:///modules/app/none",
        "puppet:///modules/none/a",
        "puppet:///modules//app/tree/a",
        "puppet:///modules/app/../app/tree/a",
        "puppet:///modules/app/tree/../tree/a",
    ] {
        assert!(resolve(of(missing)).unwrap_err().contains(missing), "{missing}");
    }
    for elsewhere in ["puppet:///custom/a", "puppet:///modules/base/a", "/etc/motd", "https://example.com/a"] {
        assert_eq!(resolve(of(elsewhere)).unwrap().resolved, None, "{elsewhere}");
    }
    assert_eq!(resolve(of("puppet:///modules/app/none").with("ensure", "absent")).unwrap().resolved, None);
}

#[test]
fn the_first_that_exists() {
    let list = vec!["puppet:///modules/app/none".into(), "puppet:///modules/app/tree/a".into(), "puppet:///modules/app".into()];
    let resource = resolve(of(list)).unwrap();
    assert_eq!(shown(&resource), [" = tree/a"]);
    assert_eq!(resource.resolved.unwrap().uri.as_deref(), Some("puppet:///modules/app/tree/a"));
}

#[test]
fn none_is_taken_in_the_place_of_one_that_may_exist_elsewhere() {
    for elsewhere in ["puppet:///custom/a", "puppet:///modules/base/a"] {
        let list = |uris: &[&str]| of(uris.iter().map(|uri| Value::from(*uri)).collect::<Vec<_>>());
        assert_eq!(resolve(list(&[elsewhere, "puppet:///modules/app/tree/a"])).unwrap().resolved, None, "{elsewhere}");
        assert_eq!(shown(&resolve(list(&["puppet:///modules/app/tree/a", elsewhere])).unwrap()), [" = tree/a"], "{elsewhere}");
    }
    let local = vec!["/etc/motd".into(), "puppet:///modules/app/tree/a".into()];
    assert_eq!(shown(&resolve(of(local)).unwrap()), [" = tree/a"], "the node knows whether the first exists");
}

#[test]
fn links_that_lead_through_themselves_have_an_end() {
    let link = |path: &str, target: &str| {
        let kind = EntryKind::Link { target: target.as_bytes().to_vec() };
        ManifestEntry { path: path.parse().unwrap(), mode: 0, kind }
    };
    let entries = vec![link("a", "a/x"), link("b", "c/y"), link("c", "b/z"), link("d", "d"), link("e", "./a/../a")];
    let manifest = Manifest::new(entries).unwrap();
    for entry in manifest.entries() {
        assert_eq!(links::followed(&manifest, entry), entry);
        assert_eq!(links::look_up(&manifest, &entry.path.child(b"x").unwrap()), None);
    }
}

#[test]
fn recursion_and_links() {
    let tree = || of("puppet:///modules/app/tree").with("recurse", true);
    let managed = ["/", "a = tree/a", "deep/", "deep/b = tree/deep/b", "to-a -> a", "to-deep -> deep", "to-nothing -> nothing"];
    assert_eq!(shown(&resolve(tree()).unwrap()), managed);
    assert_eq!(shown(&resolve(tree().with("recurselimit", 1)).unwrap()).len(), 6);
    assert_eq!(shown(&resolve(of("puppet:///modules/app/tree")).unwrap()), ["/"]);
    let ignoring = tree().with("ignore", vec!["d*".into(), "to-?".into()]);
    assert_eq!(shown(&resolve(ignoring).unwrap()), ["/", "a = tree/a", "to-deep -> deep", "to-nothing -> nothing"]);
    let followed = [
        "/",
        "a = tree/a",
        "deep/",
        "deep/b = tree/deep/b",
        "to-a = tree/a",
        "to-deep/",
        "to-deep/b = tree/deep/b",
        "to-nothing -> nothing",
    ];
    assert_eq!(shown(&resolve(tree().with("links", "follow")).unwrap()), followed);
    assert_eq!(shown(&resolve(of("puppet:///modules/app/tree/to-a").with("links", "follow")).unwrap()), [" = tree/a"]);
    let round = of("puppet:///modules/app/round").with("recurse", "remote").with("links", "follow");
    assert!(resolve(round).unwrap_err().contains("holds it"));
    // A recursive source that is not there is the node's to say, as in Puppet.
    assert_eq!(resolve(of("puppet:///modules/app/none").with("recurse", true)).unwrap().resolved, None);
}

#[test]
fn all_sources_together() {
    let both = vec!["puppet:///modules/app/other".into(), "puppet:///modules/app/tree".into()];
    let resource = of(both).with("recurse", true).with("sourceselect", "all");
    let resource = resolve(resource).unwrap();
    let expected =
        ["/", "a = other/a", "deep = other/deep", "to-a -> a", "to-deep -> deep", "to-nothing -> nothing", "z = other/z"];
    assert_eq!(shown(&resource), expected);
    assert_eq!(resource.parameter("sourceselect"), None);
}

#[test]
fn a_piece_of_a_file_is_what_a_link_points_to() {
    let piece = |source: Value| Resource::new("Concat_fragment", "p").with("target", "/x").with("source", source);
    let found = resolve(piece("puppet:///modules/app/tree/to-a".into())).unwrap();
    assert_eq!(shown(&found), [" = tree/a"]);
    let list = ["/etc/own", "puppet:///modules/app/none", "puppet:///modules/app/other/a"].map(Value::from).to_vec();
    let found = resolve(piece(list.into())).unwrap();
    assert_eq!(found.resolved.as_ref().unwrap().uri.as_deref(), Some("puppet:///modules/app/other/a"));
    assert!(resolve(piece("puppet:///modules/app/none".into())).unwrap_err().contains("puppet:///modules/app/none"));
}
