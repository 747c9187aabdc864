//! Public modules at a real, unmodified Puppet Server (`tests/library/puppet_server.rs` says where one is): our static catalogs, and its own.

use std::fs;
use std::path::Path;
use std::process::Command;

use direct_puppet_transport::protocol::Value;
use serde_json::Value as Json;

use super::classes::{Compared, chosen, compared, copy_all, judge, place_first};
use super::modules::{copy, facts, profiles};
use super::puppet_server::{CODE, Environment, told_of};
use super::stock::{ACCEPTED, assert_same_static, catalog, form, routes};
use super::{Site, has_puppet};

/// Returns the code of the profiles of `modules.rs`, and of any class: a fact says which.
fn code() -> String {
    let profiles: String =
        profiles().iter().map(|profile| format!("    '{}': {{\n{}\n}}\n", profile.module, profile.code)).collect();
    format!("node default {{\n  case $facts['profile'] {{\n{profiles}    default: {{ include $facts['class'] }}\n  }}\n}}\n")
}

/// Asks Puppet Server for a catalog; returns it, or the document that tells why there is none.
fn ask(ssldir: &Path, certname: &str, environment: &str, form: &str, scratch: &Path) -> Result<Vec<u8>, Vec<u8>> {
    let body = scratch.join("form");
    fs::write(&body, form).unwrap();
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--write-out", "\n%{http_code}", "--header"])
        .arg(format!("Accept: {ACCEPTED}"))
        .arg("--data-binary")
        .arg(format!("@{}", body.display()))
        .arg("--cacert")
        .arg(ssldir.join("certs/ca.pem"))
        .arg("--cert")
        .arg(ssldir.join(format!("certs/{certname}.pem")))
        .arg("--key")
        .arg(ssldir.join(format!("private_keys/{certname}.pem")))
        .arg(format!("https://puppet:8140/puppet/v3/catalog/{certname}?environment={environment}"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let end = output.stdout.iter().rposition(|byte| *byte == b'\n').unwrap();
    let (document, status) = output.stdout.split_at(end);
    if status == b"\n200" { Ok(document.to_vec()) } else { Err(document.to_vec()) }
}

/// Returns the message of either server, which both begin with the same words.
fn message(document: &[u8]) -> String {
    let document: Json = serde_json::from_slice(document).unwrap();
    document["message"].as_str().unwrap().strip_prefix("Server Error: ").unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn catalogs_of_public_modules_at_a_puppet_server() {
    if !has_puppet() {
        return;
    }
    let Some((ssldir, certname)) = told_of() else { return };
    // A server that keeps environments for ever has not seen this one.
    let environment = format!("modules{}", std::process::id());
    let staging = tempfile::tempdir().unwrap();
    let dir = staging.path().join("environments").join(&environment);
    let all = copy_all(&dir.join("modules"));
    fs::create_dir(dir.join("manifests")).unwrap();
    fs::write(dir.join("manifests/site.pp"), code()).unwrap();
    let theirs = Environment::new(&environment, |at| {
        for name in ["manifests", "modules"] {
            copy(&dir.join(name), &at.join(name));
        }
    });
    let site = Site::open(staging.path());
    assert_eq!(site.publish(&environment).await, None);
    let routes = routes(&site);
    let at = Path::new(CODE).join("environments").join(&environment);

    let profiles = profiles();
    let cases = profiles.iter().map(|profile| ("profile", profile.module));
    let cases = cases.chain(chosen(&all).into_iter().map(|class| ("class", class.as_str())));
    let mut outcomes: Vec<Compared> = Vec::new();
    for (fact, value) in cases {
        let mut facts = facts();
        facts.insert(fact.to_owned(), Value::String(value.to_owned()));
        if !outcomes.is_empty() {
            site.server.recompile(&certname.parse().unwrap(), "a test").unwrap();
        }
        let ours = catalog(&routes, &certname, &environment, &facts).await.map_err(|document| message(&document));
        let theirs = ask(&ssldir, &certname, &environment, &form(&certname, &facts), site.dir.path());
        let theirs = theirs.map_err(|document| place_first(&message(&document), &at, &certname));
        let prefix = format!("{}/", at.display());
        outcomes.push(compared(value, ours, theirs, |ours, theirs| {
            let (_, resolved) = assert_same_static(ours, &theirs, &prefix);
            eprintln!("{value}: {resolved} files from sources");
        }));
    }
    drop(theirs);
    judge(&outcomes, profiles.len() + all.len());
}
