//! Public modules, beside what `puppet catalog compile` makes of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Map, Value as Json};

use super::{Site, assert_same, catalog_of_puppet, has_puppet};

/// Where Debian's packages of modules (`puppet-module-…`) put them.
const MODULES: &str = "/usr/share/puppet/modules";

/// Whether a module is here. A test that needs it says so when it is left out.
fn has_module(name: &str) -> bool {
    let found = Path::new(MODULES).join(name).is_dir();
    if !found {
        eprintln!("LEFT OUT: no module {name} in {MODULES} (Debian package puppet-module-puppetlabs-{name})");
    }
    found
}

/// Code that uses modules, and what it needs of them.
const SITE: &str = r#"
include stdlib
$merged = deep_merge({ 'a' => { 'b' => 1 } }, { 'a' => { 'c' => [1, 2] } })
$text = to_json($merged)
file { '/tmp/merged.json': content => $text }
file { '/tmp/sum': content => join(suffix(unique(flatten([['a', 'b'], 'a'])), '!'), ' ') }
file_line { 'sudo': path => '/tmp/sudoers', line => '%wheel ALL=(ALL) ALL', require => File['/tmp/sum'] }
ini_setting { 'port': ensure => present, path => '/tmp/app.ini', section => 'main', setting => 'port', value => 8080 }
ini_subsetting { 'heap': path => '/tmp/java', setting => 'JAVA_ARGS', subsetting => '-Xmx', value => '512m' }
create_ini_settings({ 'db' => { 'host' => 'localhost', 'password' => Sensitive('x') } }, { 'path' => '/tmp/db.ini' })
ensure_packages(['surely-not-there'], { 'ensure' => 'absent' })
anchor { 'end': require => [Ini_setting['port'], Package['surely-not-there']] }
notify { 'types': message => String([validate_legacy(String, 'validate_string', 'x'), Stdlib::Unixpath]) }
"#;

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-rL").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

/// Compiles with Puppet's own program.
fn peer(environments: &Path, scratch: &Path, certname: &str) -> Map<String, Json> {
    let output = Command::new("puppet")
        .args(["catalog", "compile", certname, "--environment", "production", "--render-as", "json", "--log_level", "err"])
        .arg("--environmentpath")
        .arg(environments)
        .arg("--confdir")
        .arg(scratch.join("conf"))
        .arg("--vardir")
        .arg(scratch.join("var"))
        .arg("--basemodulepath")
        .arg(scratch.join("none"))
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let start = text.find('{').unwrap_or_else(|| panic!("no catalog: {text}{}", String::from_utf8_lossy(&output.stderr)));
    serde_json::from_str(&text[start..]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn stdlib_and_inifile() {
    if !(has_puppet() && has_module("stdlib") && has_module("inifile")) {
        return;
    }
    let staging = tempfile::tempdir().unwrap();
    let environment = staging.path().join("environments/production");
    fs::create_dir_all(environment.join("manifests")).unwrap();
    fs::create_dir_all(environment.join("modules")).unwrap();
    fs::write(environment.join("manifests/site.pp"), SITE).unwrap();
    for module in ["stdlib", "inifile"] {
        copy(&Path::new(MODULES).join(module), &environment.join("modules").join(module));
    }
    let site = Site::open(staging.path());
    assert_eq!(site.publish("production").await, None);
    let ours = site.compile("n1.example.com", "production", BTreeMap::new()).await.unwrap();
    let scratch = site.dir.path().join("peer");
    fs::create_dir(&scratch).unwrap();
    let theirs = peer(&staging.path().join("environments"), &scratch, "n1.example.com");
    assert_same(&ours, &catalog_of_puppet(theirs, &format!("{}/", environment.display())));
    assert!(ours.resources.iter().any(|resource| resource.resource_type == "Ini_setting"));
}
