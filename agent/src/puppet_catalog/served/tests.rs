use direct_puppet_transport::protocol::{EntryKind, Value};
use serde_json::json;

use super::*;

/// SHA-256 of `hello`, and of nothing.
const HELLO: &str = "{sha256}2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
const EMPTY: &str = "{sha256}e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn file(title: &str, parameters: Json) -> Json {
    json!({ "type": "File", "title": title, "parameters": parameters })
}

fn metadata(relative: Option<&str>, checksum: &str) -> Json {
    json!({ "path": "/srv/x", "relative_path": relative, "type": "file", "mode": 420, "checksum": { "type": "sha256", "value": checksum } })
}

fn directory() -> Json {
    json!({ "path": "/srv", "relative_path": ".", "type": "directory", "mode": 493, "checksum": { "type": "ctime", "value": "{ctime}x" } })
}

fn served(resources: &[Json], more: Json) -> ServedCatalog {
    let mut document = json!({ "name": "n1", "environment": "test", "version": 7, "resources": resources, "edges": [] });
    document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    ServedCatalog::read(document.to_string().as_bytes()).unwrap()
}

fn single(source: &str, metadata: Json) -> SourceAnswer {
    SourceAnswer::Single { source: source.to_owned(), metadata }
}

fn reference(resource_type: &str, title: &str) -> ResourceRef {
    ResourceRef { resource_type: resource_type.to_owned(), title: title.to_owned() }
}

fn digest(text: &str) -> Digest {
    format!("sha256:{}", text.trim_start_matches("{sha256}")).parse().unwrap()
}

#[test]
fn what_is_static_is_not_open() {
    let mut inlined = metadata(None, HELLO);
    inlined["content_uri"] = "puppet:///modules/app/files/a".into();
    inlined["source"] = "puppet:///modules/app/a".into();
    let files = [file("/a", json!({ "source": "puppet:///modules/app/a" })), file("/b", json!({ "content": "x" }))];
    let mut catalog = served(&files, json!({ "code_id": "c1", "metadata": { "/a": inlined } }));
    assert_eq!(catalog.environment(), Some("test"));
    assert_eq!(catalog.open_sources().unwrap(), []);
    let finished = catalog.finish().unwrap();
    let place = ContentPlace::Static("puppet:///modules/app/files/a".to_owned());
    assert_eq!(finished.places, BTreeMap::from([(digest(HELLO), place)]));
    assert_eq!((finished.puppet.code_id.as_deref(), finished.puppet.version.as_deref()), (Some("c1"), Some("7")));
}

#[test]
fn metadata_without_a_code_id_or_with_another_checksum_name_nothing_that_could_be_asked_for() {
    let mut inlined = metadata(None, HELLO);
    inlined["content_uri"] = "puppet:///modules/app/files/a".into();
    let files = [file("/a", json!({ "source": "puppet:///modules/app/a" }))];
    let mut catalog = served(&files, json!({ "metadata": { "/a": inlined.clone() } }));
    assert_eq!(catalog.open_sources().unwrap().len(), 1);
    inlined["checksum"] = json!({ "type": "md5", "value": "{md5}5d41402abc4b2a76b9719d911017c592" });
    let mut catalog = served(&files, json!({ "code_id": "c1", "metadata": { "/a": inlined } }));
    let open = catalog.open_sources().unwrap();
    assert_eq!((open.len(), open[0].sources.clone()), (1, vec!["puppet:///modules/app/a".to_owned()]));
    catalog.answer(&reference("File", "/a"), single("puppet:///modules/app/a", metadata(None, HELLO)));
    let finished = catalog.finish().unwrap();
    assert_eq!(finished.puppet.unusable, BTreeMap::new());
    assert_eq!(finished.places[&digest(HELLO)], ContentPlace::Mount("puppet:///modules/app/a".to_owned()));
}

#[test]
fn answers_about_open_sources() {
    let files = [
        file("/one", json!({ "source": ["puppet:///site/none", "puppet:///site/one"] })),
        file(
            "/tree",
            json!({ "source": "puppet:///site/tree/", "recurse": "remote", "recurselimit": 2, "ignore": [".git", "*.bak"], "links": "follow" }),
        ),
        file("/gone", json!({ "source": "puppet:///site/gone", "ensure": "absent" })),
        file("/local", json!({ "source": "/etc/local" })),
        file("/mixed", json!({ "source": ["/etc/local", "puppet:///site/mixed"] })),
        file("/no", json!({ "source": "puppet:///site/no" })),
    ];
    let mut catalog = served(&files, json!({}));
    let open = catalog.open_sources().unwrap();
    let titles: Vec<&str> = open.iter().map(|open| open.resource.title.as_str()).collect();
    assert_eq!(titles, ["/one", "/tree", "/mixed", "/no"]);
    let ignore = vec![".git".to_owned(), "*.bak".to_owned()];
    assert_eq!(
        open[1].taking,
        SourceTaking { recurses: true, recurse_limit: Some(2), ignore, follows: true, ..SourceTaking::default() }
    );
    // The server's own idea of a place is not kept: this content is asked for by its source.
    let mut one = metadata(None, HELLO);
    one["content_uri"] = "puppet:///modules/other/files/secret".into();
    one["source"] = "puppet:///site/one".into();
    catalog.answer(&reference("File", "/one"), single("puppet:///site/one", one));
    let list = json!([directory(), metadata(Some("b/c"), HELLO), { "relative_path": "b", "type": "directory", "mode": 493 }, metadata(Some("ä b"), EMPTY)]);
    catalog.answer(
        &reference("File", "/tree"),
        SourceAnswer::Recursive(BTreeMap::from([("puppet:///site/tree/".to_owned(), list)])),
    );
    catalog.answer(&reference("File", "/no"), SourceAnswer::Refused("has a source that is not there".to_owned()));
    let finished = catalog.finish().unwrap();
    let resource = |title: &str| finished.puppet.catalog.resources.iter().find(|resource| resource.title == title).unwrap();
    assert_eq!(resource("/no").unusable.as_deref(), Some("has a source that is not there"));
    assert_eq!((resource("/one").unusable.as_deref(), resource("/local").resolved.as_ref()), (None, None));
    assert_eq!(resource("/one").resolved.as_ref().unwrap().uri.as_deref(), Some("puppet:///site/one"));
    assert_eq!(finished.places[&digest(HELLO)], ContentPlace::Mount("puppet:///site/one".to_owned()));
    let tree = resource("/tree").resolved.as_ref().unwrap();
    assert_eq!(tree.entries.iter().map(|entry| entry.path.to_string()).collect::<Vec<_>>(), ["", "b", "b/c", "ä b"]);
    assert!(matches!(tree.entries[3].kind, EntryKind::File { size: 0, .. }));
    assert_eq!(finished.places[&digest(EMPTY)], ContentPlace::Mount("puppet:///site/tree/ä b".to_owned()));
}

#[test]
fn several_sources_taken_together() {
    let files = [file("/t", json!({ "source": ["puppet:///m/a", "puppet:///m/b"], "recurse": true, "sourceselect": "all" }))];
    let mut catalog = served(&files, json!({}));
    assert!(catalog.open_sources().unwrap()[0].taking.all);
    let list = |name: &str, checksum: &str| json!([directory(), metadata(Some(name), checksum), metadata(Some("z"), checksum)]);
    let by_source = [("puppet:///m/a", list("x", HELLO)), ("puppet:///m/b", list("y", EMPTY))];
    catalog.answer(
        &reference("File", "/t"),
        SourceAnswer::Recursive(by_source.into_iter().map(|(uri, list)| (uri.to_owned(), list)).collect()),
    );
    let catalog = catalog.finish().unwrap().puppet.catalog;
    let resolved = catalog.resources[0].resolved.as_ref().unwrap();
    assert_eq!(resolved.entries.iter().map(|entry| entry.path.to_string()).collect::<Vec<_>>(), ["", "x", "y", "z"]);
    assert!(matches!(resolved.entries[3].kind, EntryKind::File { digest: found, .. } if found == digest(HELLO)));
    assert_eq!(catalog.resources[0].parameter("sourceselect"), None);
}

#[test]
fn a_deferred_stays_for_the_node() {
    let deferred = json!({ "__ptype": "Deferred", "name": "upcase", "arguments": ["x"] });
    let mut catalog = served(&[json!({ "type": "Notify", "title": "n", "parameters": { "message": deferred } })], json!({}));
    assert_eq!(catalog.open_sources().unwrap(), []);
    let catalog = catalog.finish().unwrap().puppet.catalog;
    assert!(matches!(catalog.resources[0].parameter("message"), Some(Value::Hash(_))));
}

#[test]
fn a_piece_is_asked_about_as_a_file_is_and_is_not_taken_for_one() {
    let piece = json!({ "type": "Concat_fragment", "title": "/a", "parameters": { "target": "/x", "source": ["puppet:///m/no", "puppet:///m/p"] } });
    let mut catalog = served(&[file("/a", json!({ "source": "puppet:///m/a" })), piece.clone()], json!({}));
    let open = catalog.open_sources().unwrap();
    assert_eq!(open.iter().map(|open| open.resource.to_string()).collect::<Vec<_>>(), ["File[/a]", "Concat_fragment[/a]"]);
    assert!(open[1].taking.follows && !open[1].has_others);
    catalog.answer(&reference("Concat_fragment", "/a"), single("puppet:///m/p", metadata(None, HELLO)));
    catalog.answer(&reference("File", "/a"), single("puppet:///m/a", metadata(None, EMPTY)));
    let finished = catalog.finish().unwrap();
    let resolved = |at: usize| finished.puppet.catalog.resources[at].resolved.as_ref().unwrap();
    assert_eq!(resolved(1).uri.as_deref(), Some("puppet:///m/p"));
    assert!(matches!(resolved(1).entries[0].kind, EntryKind::File { digest: found, .. } if found == digest(HELLO)));
    assert!(matches!(resolved(0).entries[0].kind, EntryKind::File { digest: found, .. } if found == digest(EMPTY)));
    assert_eq!(finished.places[&digest(HELLO)], ContentPlace::Mount("puppet:///m/p".to_owned()));
    // What a catalog says of a file of that title says nothing of it.
    let mut inlined = metadata(None, HELLO);
    inlined["content_uri"] = "puppet:///modules/m/files/p".into();
    let mut catalog = served(&[piece], json!({ "code_id": "c1", "metadata": { "/a": inlined } }));
    assert_eq!(catalog.open_sources().unwrap().len(), 1);
    let unusable = catalog.finish().unwrap().puppet.unusable;
    assert!(unusable[&reference("Concat_fragment", "/a")].contains("no catalog has metadata of pieces"), "{unusable:?}");
}
