//! Captured catalogs, and what is wrong with others.

use direct_puppet_transport::protocol::manifest::UNKNOWN_SIZE;
use direct_puppet_transport::protocol::{EntryKind, Resource, Value};
use proptest::prelude::*;

use super::*;

fn read(json: &str) -> Result<PuppetCatalog, PuppetCatalogError> {
    PuppetCatalog::read(json.as_bytes())
}

fn captured() -> PuppetCatalog {
    read(include_str!("../../tests/data/puppet/static-rich.json")).unwrap()
}

fn find<'a>(catalog: &'a PuppetCatalog, reference: &str) -> &'a Resource {
    catalog.catalog.resources.iter().find(|resource| resource.reference().to_string() == reference).unwrap()
}

fn with_resources(resources: &str, edges: &str) -> String {
    format!(r#"{{"name":"n1","version":1,"environment":"production","resources":[{resources}],"edges":[{edges}]}}"#)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

#[test]
fn a_captured_catalog() {
    let catalog = captured();
    assert_eq!(catalog.catalog.certname.to_string(), "agent01.lab.test");
    assert_eq!(catalog.code_id.as_deref(), Some("0d912f647e5ba1cd8ba9e4d85c63a010cbef1a35"));
    assert!(catalog.version.is_some() && catalog.catalog_uuid.is_some());
    assert!(catalog.catalog.classes.contains(&"timesync::install".to_owned()));
    let pair = find(&catalog, "Motley::Pair[y]");
    assert!(pair.is_container() && pair.parameters.is_empty());
    assert!(find(&catalog, "Node[agent01.lab.test]").is_container());
    let rich = find(&catalog, "Notify[rich]");
    assert_eq!(rich.parameter("message"), Some(&"1.2.3-rc.1".into()));
    assert!(rich.tags.contains(&"first-node".to_owned()));
    assert!(rich.file.as_ref().unwrap().ends_with("motley/manifests/init.pp") && rich.line == Some(7));
    let key = find(&catalog, "File[/var/tmp/lab/root/etc/api.key]");
    assert!(matches!(key.parameter("content"), Some(Value::Sensitive(_))));
    assert!(matches!(find(&catalog, "Exec[uses secret]").parameter("command"), Some(Value::Sensitive(_))));
    // What the agent makes of it can be kept and read again.
    let (id, bytes) = catalog.catalog.encode().unwrap();
    assert_eq!(Catalog::decode(&bytes, id).unwrap(), catalog.catalog);
}

#[test]
fn sources_are_what_the_metadata_say() {
    let catalog = captured();
    let resolved = |title: &str| find(&catalog, &format!("File[/var/tmp/lab/root/srv/{title}]")).resolved.clone().unwrap();
    let plain = resolved("plain.txt");
    assert_eq!(plain.uri.as_deref(), Some("puppet:///modules/files/plain.txt"));
    let EntryKind::File { digest, size } = plain.entries[0].kind else { panic!("no file") };
    assert_eq!(digest.to_string(), "sha256:e774a8641fa291c08c201f71b6b07391eb04062eccc63a885de6c2240ad1565a");
    assert_eq!((size, plain.entries[0].mode), (UNKNOWN_SIZE, 0o644));
    // The first source that exists.
    assert_eq!(resolved("first-of.txt").uri.as_deref(), Some("puppet:///modules/files/alt/first-of.txt"));
    let tree = resolved("tree");
    let kind = |path: &str| &tree.entries.iter().find(|entry| entry.path.to_string() == path).unwrap().kind;
    assert_eq!(tree.entries.len(), 11);
    assert_eq!(*kind("link-to-a"), EntryKind::Link { target: b"a.txt".to_vec() });
    assert!(matches!(kind("empty-ish/.keep"), EntryKind::File { size: 0, .. }));
    assert!(matches!(resolved("links-manage").entries[0].kind, EntryKind::Link { .. }));
    let unusable: Vec<String> = catalog.unusable.iter().map(|(resource, reason)| format!("{resource} {reason}")).collect();
    assert_eq!(unusable.len(), 1, "{unusable:?}");
    assert!(unusable[0].contains("srv/sum-md5] has a source with a checksum of type md5"), "{unusable:?}");
}

#[test]
fn other_captured_answers() {
    for (json, resources) in [
        (include_str!("../../tests/data/puppet/node-cycle1.json"), 9),
        (include_str!("../../tests/data/puppet/node-unknown1.json"), 8),
        (include_str!("../../tests/data/puppet/env-static-off.json"), 4),
    ] {
        let catalog = read(json).unwrap();
        assert_eq!((catalog.catalog.resources.len(), catalog.unusable.len()), (resources, 0));
    }
    let error = read(include_str!("../../tests/data/puppet/node-dup1.json")).unwrap_err();
    assert!(
        matches!(&error, PuppetCatalogError::ServerError { message } if message.contains("Duplicate declaration")),
        "{error}"
    );
}

#[test]
fn old_catalogs() {
    // Puppet 3 has an envelope, and old catalogs do not say of what kind a resource is.
    let inner = with_resources(
        r#"{"type":"class","title":"foo::bar","parameters":{}},{"type":"Concat","title":"c"},{"type":"Notify","title":"n","exported":true,
            "parameters":{"require":[["class[foo::bar]"],null]}}"#,
        r#"{"source":"Concat[c]","target":"Notify[n]"}"#,
    );
    let catalog = read(&format!(r#"{{"document_type":"Catalog","data":{inner},"metadata":{{"api_version":1}}}}"#)).unwrap();
    assert!(find(&catalog, "Class[Foo::Bar]").is_container() && find(&catalog, "Concat[c]").is_container());
    let notify = find(&catalog, "Notify[n]");
    assert!(!notify.is_container());
    assert_eq!(notify.parameter("require"), Some(&"Class[Foo::Bar]".into()));
}

#[test]
fn what_makes_a_resource_unusable_leaves_the_rest() {
    let catalog = read(&with_resources(
        r#"{"type":"Notify","title":"a","parameters":{"message":{"__ptype":"Deferred","name":"vault","arguments":[]},"before":"Notify[b]"}},
           {"type":"Notify","title":"b","parameters":{"message":{"__ptype":"Deferred","name":"upcase","arguments":["x"]}}},
           {"type":"File","title":"/f","parameters":{"source":"puppet:///modules/m/f"}},
           {"type":"File","title":"/g","parameters":{"source":["/local","puppet:///modules/m/f"]}},
           {"type":"File","title":"/h","parameters":{"source":"puppet:///modules/m/f","ensure":"absent"}},
           {"type":"Foo","title":"d","kind":"defined_type","parameters":{"odd":{"__ptype":"Unheard"}}}"#,
        "",
    ))
    .unwrap();
    let unusable: Vec<String> = catalog.unusable.keys().map(ToString::to_string).collect();
    assert_eq!(unusable, ["File[/f]", "Notify[a]"]);
    assert!(catalog.unusable[&"Notify[a]".parse().unwrap()].starts_with("parameter message has a Deferred that calls vault"));
    // What comes after it must still be skipped.
    assert_eq!(find(&catalog, "Notify[a]").parameter("before"), Some(&"Notify[b]".into()));
    assert_eq!(find(&catalog, "Notify[b]").parameter("message"), Some(&"X".into()));
}

#[test]
fn what_makes_no_sense_is_named() {
    let notify = r#"{"type":"Notify","title":"a"}"#;
    for (json, reason) in [
        ("[]".to_owned(), "the catalog must be an object"),
        ("{".to_owned(), "not JSON"),
        ("{}".to_owned(), "resources must be a list"),
        (r#"{"resources":[]}"#.to_owned(), "name must be"),
        (r#"{"resources":[],"name":"n 1"}"#.to_owned(), "name cannot be used"),
        (r#"{"resources":[],"name":"n1","environment":"a-b"}"#.to_owned(), "environment cannot be used"),
        (r#"{"resources":[],"name":"n1","catalog_format":3}"#.to_owned(), "catalog_format 3"),
        (r#"{"resources":{},"name":"n1"}"#.to_owned(), "resources must be a list"),
        (with_resources("7", ""), "resource 0 must be an object"),
        (with_resources(r#"{"type":"Notify"}"#, ""), "type and title of resource 0"),
        (with_resources(r#"{"type":"no type","title":"a"}"#, ""), "resource 0, \"no type\""),
        (with_resources(r#"{"type":"Notify","title":"a","parameters":[]}"#, ""), "parameters of Notify[a]"),
        (with_resources(r#"{"type":"Notify","title":"a","tags":[1]}"#, ""), "tags of Notify[a]"),
        (with_resources(&format!("{notify},{notify}"), ""), "Notify[a] is declared twice"),
        (with_resources(notify, r#"{"source":"Notify[a]","target":"Notify[zz]"}"#), "an edge names Notify[zz]"),
        (with_resources(notify, r#"{"source":"Notify[a]","target":"zz"}"#), "target of edge 0"),
        (with_resources(notify, "[]"), "source of edge 0"),
        (
            with_resources(r#"{"type":"Notify","title":"a","parameters":{"require":"zz"}}"#, ""),
            "Notify[a]: require names \"zz\", which is no reference",
        ),
        (
            with_resources(r#"{"type":"Class","title":"a","parameters":{"noop":{"__ptype":"Odd"}}}"#, ""),
            "Class[A]: noop has a value of type Odd",
        ),
    ] {
        let error = chain(&read(&json).unwrap_err());
        assert!(error.contains(reason), "{json}: {error}");
    }
}

#[test]
fn metadata_that_make_no_sense_fail_only_their_file() {
    let entry = |more: &str| format!(r#"{{"relative_path":"x","type":"file",{more}"mode":420}}"#);
    let hex = "0".repeat(64);
    for (metadata, reason) in [
        ("7".to_owned(), "metadata that are not of a file"),
        (entry(""), "without a checksum"),
        (entry(r#""checksum":{"value":"{sha256}zz"},"#), "64 hexadecimal"),
        (entry(r#""checksum":{"value":"{mtime}x"},"#), "type mtime"),
        (entry(&format!(r#""checksum":{{"value":"{{sha256}}{}é"}},"#, &hex[2..])), "64 hexadecimal"),
        (r#"{"type":"link"}"#.to_owned(), "without a destination"),
    ] {
        let json = format!(
            r#"{{"name":"n1","resources":[{{"type":"File","title":"/f","parameters":{{"source":"puppet:///m/f"}}}}],"metadata":{{"/f":{metadata}}}}}"#
        );
        let catalog = read(&json).unwrap();
        let unusable = &catalog.unusable[&"File[/f]".parse().unwrap()];
        assert!(unusable.contains(reason), "{json}: {unusable}");
    }
    let file = entry(&format!(r#""checksum":{{"value":"{{sha256}}{hex}"}},"#));
    for (list, reason) in [
        ("7".to_owned(), "are no list"),
        ("[]".to_owned(), "none of its sources"),
        (format!("[{file}]"), "without the source itself"),
        (format!(r#"[{{"relative_path":".","type":"directory"}},{file},{file}]"#), "make no tree"),
        (format!(r#"[{{"relative_path":".","type":"link","destination":"a"}},{file}]"#), "no directory"),
        (r#"[{"relative_path":"../x","type":"directory"}]"#.to_owned(), "relative_path"),
    ] {
        let json = format!(
            r#"{{"name":"n1","resources":[{{"type":"File","title":"/f","parameters":{{"source":"puppet:///m/f"}}}}],
                 "recursive_metadata":{{"/f":{{"puppet:///m/f":{list}}}}}}}"#
        );
        let catalog = read(&json).unwrap();
        let unusable = &catalog.unusable[&"File[/f]".parse().unwrap()];
        assert!(unusable.contains(reason), "{json}: {unusable}");
    }
}

/// JSON in which the words of catalogs are frequent.
fn json() -> impl Strategy<Value = Json> {
    let word = prop_oneof![
        Just("__ptype"),
        Just("__pvalue"),
        Just("Hash"),
        Just("Sensitive"),
        Just("Deferred"),
        Just("name"),
        Just("arguments"),
        Just("dig"),
        Just("sprintf"),
        Just("%s%d%"),
        Just("type"),
        Just("title"),
        Just("File"),
        Just("/f"),
        Just("source"),
        Just("puppet:///m/f"),
        Just("parameters"),
        Just("resources"),
        Just("edges"),
        Just("metadata"),
        Just("recursive_metadata"),
        Just("relative_path"),
        Just("checksum"),
        Just("value"),
        Just("{sha256}é"),
        Just("file"),
        Just("target"),
        Just("File[/f]"),
        Just("require"),
        Just("n1"),
        Just("["),
        Just("é]"),
    ]
    .prop_map(str::to_owned);
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::Bool),
        any::<i64>().prop_map(Json::from),
        any::<u64>().prop_map(Json::from),
        any::<f64>().prop_map(Json::from),
        word.clone().prop_map(Json::String),
        ".{0,6}".prop_map(Json::String),
    ];
    leaf.prop_recursive(6, 48, 6, move |inner| {
        let entries = proptest::collection::vec((word.clone(), inner.clone()), 0..6);
        prop_oneof![
            proptest::collection::vec(inner, 0..6).prop_map(Json::Array),
            entries.prop_map(|entries| Json::Object(entries.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_text_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = PuppetCatalog::read(&bytes).is_ok();
    }

    #[test]
    fn no_json_panics(json in json()) {
        let _ = PuppetCatalog::read(json.to_string().as_bytes()).is_ok();
    }

    #[test]
    fn no_part_panics_and_what_is_read_can_be_kept(parameters in json(), metadata in json(), recursive in json()) {
        let document = serde_json::json!({
            "name": "n1",
            "resources": [{"type": "File", "title": "/f", "parameters": {"source": "puppet:///m/f", "content": parameters}}],
            "metadata": {"/f": metadata},
            "recursive_metadata": {"/f": {"puppet:///m/f": [recursive]}},
        });
        if let Ok(catalog) = PuppetCatalog::read(document.to_string().as_bytes()) {
            let (id, bytes) = catalog.catalog.encode().unwrap();
            prop_assert!(Catalog::decode(&bytes, id).is_ok());
        }
    }
}

/// Both ways to read a catalog find the same, whatever stands wherever in it.
#[test]
fn the_short_way_reads_what_the_long_way_reads() {
    fn places(json: &Json, at: &str, found: &mut Vec<String>) {
        found.push(at.to_owned());
        match json {
            Json::Object(object) => {
                for (name, json) in object {
                    places(json, &format!("{at}/{}", name.replace('/', "~1")), found);
                }
            }
            Json::Array(list) => list.iter().enumerate().for_each(|(name, json)| places(json, &format!("{at}/{name}"), found)),
            _ => {}
        }
    }
    let read = |(document, metadata): (Document, Metadata)| {
        let mut sources = metadata::Sources::of(metadata);
        read_document(document, Deferreds::Evaluate, &mut |resource| sources.resolve(resource)).map_err(|error| error.to_string())
    };
    let read_short = |text: &str| shaped::read(text.as_bytes()).and_then(read_shaped);
    let catalog = serde_json::json!({
        "name": "n1", "version": 1, "catalog_format": 2, "environment": "production", "classes": ["a"], "code_id": "x", "catalog_uuid": "y",
        "resources": [
            {"type": "Class", "title": "main", "kind": "class", "tags": ["class"], "exported": false},
            {"type": "File", "title": "/a", "kind": "compilable_type", "tags": ["file"], "file": "/x.pp", "line": 3,
                "parameters": {"content": "x", "source": "puppet:///modules/m/f"}, "sensitive_parameters": ["content"]},
            {"type": "a::b", "title": "t"},
            {"type": "Node", "title": "n1", "kind": "node", "parameters": {"odd": 1}},
            {"type": "Notify", "title": "n", "parameters": {"message": {"__ptype": "Hash", "__pvalue": [1, "x"]},
                "withpath": {"a": [true, 2.5, null, {"b": {"__ptype": "Sensitive", "__pvalue": ["s"]}}]},
                "require": [["File[/a]"], "a::b[t]"], "before": "Node[n1]"}},
        ],
        "edges": [{"source": "Class[main]", "target": "File[/a]"}, {"source": "A::B[t]", "target": "File[/a]"}],
        "metadata": {"/a": {"type": "file"}}, "recursive_metadata": {},
    });
    let mut all = Vec::new();
    places(&catalog, "", &mut all);
    let (mut short, mut equal) = (0, 0);
    for place in all {
        let values = [
            serde_json::json!(null),
            serde_json::json!(1),
            serde_json::json!("File"),
            serde_json::json!(["a", "b"]),
            serde_json::json!({"type": "File", "title": "/b"}),
            serde_json::json!([]),
            serde_json::json!({}),
            serde_json::json!({"a": 1, "__ptype": "Default"}),
            serde_json::json!({"__ptype": "Symbol", "__pvalue": "File[/a]"}),
            serde_json::json!({"__ptype": "Odd"}),
            serde_json::json!(u64::MAX),
            serde_json::json!("Notify[n]"),
        ];
        for value in values {
            let mut changed = catalog.clone();
            *changed.pointer_mut(&place).unwrap() = value;
            let text = changed.to_string();
            let long = read_pieces(text.as_bytes()).and_then(|pieces| read(pieces).map_err(|at| shape(at, "")));
            let Some(found) = read_short(&text) else { continue };
            short += 1;
            match (found.map_err(|error| error.to_string()), long) {
                (Ok(found), Ok(long)) => {
                    assert_eq!(found, long, "{text}");
                    equal += 1;
                }
                (Err(found), Err(long)) => assert_eq!(shape(found, "").to_string(), long.to_string(), "{text}"),
                (found, long) => panic!("{text}: {found:?}, {long:?}"),
            }
        }
    }
    assert!(short > 150 && equal > 100, "{short} {equal}");
    for text in [r#"{"name":"a","name":"b","resources":[]}"#, r#"{"resources":[["File","/a"]],"name":"a"}"#] {
        assert!(read_short(text).is_none(), "{text}");
    }
}
