//! Beside recorded answers of Puppet Server.

use std::collections::{BTreeMap, BTreeSet};

use direct_puppet_transport::protocol::{Digest, EntryKind, Resource, Value};
use serde_json::Value as Json;

use super::{Site, assert_same, catalog_of_puppet, has_puppet, json, repository};

/// Where the recorded server has its code.
pub(crate) const CODE: &str = "/etc/puppet/code/environments";

pub(crate) fn facts() -> BTreeMap<String, Value> {
    serde_json::from_value(json("interop/puppet-server/facts.json")["values"].clone()).unwrap()
}

pub(crate) fn site() -> Site {
    Site::open(&repository("sites/control"))
}

#[tokio::test(flavor = "multi_thread")]
async fn static_catalog() {
    if !has_puppet() {
        return;
    }
    let site = site();
    assert_eq!(site.publish("production").await, None);
    let ours = site.compile("agent01.lab.test", "production", facts()).await.unwrap();
    let recorded = json("interop/puppet-server/catalog.json");
    let theirs = catalog_of_puppet(recorded.clone(), &format!("{CODE}/production/"));
    assert_eq!((&ours.certname, &ours.environment), (&theirs.certname, &theirs.environment));
    assert_same(&ours, &theirs);

    // Each source is resolved to the same files.
    let mut resolved = BTreeSet::new();
    for (title, metadata) in recorded["metadata"].as_object().unwrap() {
        let resource = file(&ours.resources, title);
        let found = resource.resolved.as_ref().unwrap();
        assert_eq!(found.uri.as_deref(), metadata["source"].as_str(), "{title}");
        assert_eq!(entries(resource), BTreeMap::from([(String::new(), recorded_entry(metadata))]), "{title}");
        resolved.insert(title.clone());
    }
    for (title, by_source) in recorded["recursive_metadata"].as_object().unwrap() {
        let mut expected = BTreeMap::new();
        // The sources in their order: the first that has a path counts.
        let sources = theirs.resources.iter().find(|resource| resource.title == *title).unwrap().parameters["source"].clone();
        for source in sources.as_list() {
            for metadata in by_source.get(source.as_str().unwrap()).and_then(Json::as_array).into_iter().flatten() {
                let path = metadata["relative_path"].as_str().unwrap().trim_start_matches('.').to_owned();
                expected.entry(path).or_insert_with(|| recorded_entry(metadata));
            }
        }
        assert_eq!(entries(file(&ours.resources, title)), expected, "{title}");
        resolved.insert(title.clone());
    }
    let ours: BTreeSet<String> =
        ours.resources.iter().filter(|resource| resource.resolved.is_some()).map(|resource| resource.title.clone()).collect();
    assert_eq!(ours, resolved);
}

fn file<'a>(resources: &'a [Resource], title: &str) -> &'a Resource {
    resources.iter().find(|resource| resource.resource_type == "File" && resource.title == title).expect(title)
}

/// Returns what a file is made from: by path, the directory, the target of the link or the digest of the content.
fn entries(resource: &Resource) -> BTreeMap<String, String> {
    let entry = |entry: &direct_puppet_transport::protocol::ManifestEntry| {
        let what = match &entry.kind {
            EntryKind::Directory => "directory".to_owned(),
            EntryKind::Link { target } => format!("link {}", String::from_utf8_lossy(target)),
            EntryKind::File { digest, .. } => format!("file {digest}"),
        };
        (String::from_utf8_lossy(entry.path.as_bytes()).into_owned(), what)
    };
    resource.resolved.as_ref().unwrap().entries.iter().map(entry).collect()
}

/// Returns the same of recorded metadata: the digest is that of the file which `content_uri` names, and that has the recorded checksum.
fn recorded_entry(metadata: &Json) -> String {
    match metadata["type"].as_str().unwrap() {
        "directory" => "directory".to_owned(),
        "link" => format!("link {}", metadata["destination"].as_str().unwrap()),
        _ => {
            let path = metadata["content_uri"].as_str().unwrap().strip_prefix("puppet:///").unwrap();
            let content = std::fs::read(repository("sites/control/environments/production").join(path)).unwrap();
            if let Some(hex) = metadata["checksum"]["value"].as_str().unwrap().strip_prefix("{sha256}") {
                let recorded: Digest = format!("sha256:{hex}").parse().unwrap();
                let mut hasher = recorded.verifier();
                hasher.update(&content);
                assert_eq!(hasher.finish(), recorded, "{path} is not what was recorded");
            }
            format!("file {}", Digest::of(&content))
        }
    }
}

/// Returns a recorded error as this server words it: place first, paths within the environment, no server and no node around it.
fn recorded_error(name: &str, environment: &str, certname: &str) -> String {
    let recorded = json(&format!("interop/puppet-server/error-{name}.json"));
    let message = recorded["message"].as_str().unwrap();
    let message = message.strip_prefix("Server Error: ").unwrap().strip_suffix(&format!(" on node {certname}")).unwrap();
    let (message, place) = message.rsplit_once(" (file: ").unwrap();
    let place = place.strip_suffix(')').unwrap().replace(", line: ", ":").replace(", column: ", ":");
    format!("{place}: {message}").replace(&format!("{CODE}/{environment}/"), "")
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_the_same_message_and_place() {
    if !has_puppet() {
        return;
    }
    let site = site();
    assert_eq!(site.publish("production").await, None);
    for (name, certname) in [("class", "broken1.lab.test"), ("duplicate", "dup1.lab.test")] {
        let refusal = site.compile(certname, "production", facts()).await.unwrap_err();
        assert_eq!(refusal.message, recorded_error(name, "production", certname));
    }
    // What no node could compile is refused when it is published.
    let refused = site.publish("broken").await.unwrap();
    assert!(refused.ends_with(&recorded_error("syntax", "broken", "agent01.lab.test")), "{refused}");
}
