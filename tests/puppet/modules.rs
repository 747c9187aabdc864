//! Public modules, beside what `puppet catalog compile` makes of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use direct_puppet_transport::protocol::Value;
use serde_json::{Map, Value as Json};

use super::{Site, assert_same, catalog_of_puppet, has_puppet, json};

/// Where Debian's packages of modules (`puppet-module-…`) put them.
pub(crate) const MODULES: &str = "/usr/share/puppet/modules";

/// A node that uses a module.
pub(crate) struct Profile {
    pub(crate) module: &'static str,
    /// What the module needs beside itself.
    needs: &'static [&'static str],
    pub(crate) code: &'static str,
}

const PROFILES: &[Profile] = &[
    Profile {
        module: "stdlib",
        needs: &[],
        code: r"
            include stdlib
            $merged = deep_merge({ 'a' => { 'b' => 1 } }, { 'a' => { 'c' => [1, 2] } })
            file { '/tmp/merged.json': content => to_json($merged) }
            file { '/tmp/sum': content => join(suffix(unique(flatten([['a', 'b'], 'a'])), '!'), ' ') }
            file_line { 'sudo': path => '/tmp/sudoers', line => '%wheel ALL=(ALL) ALL', require => File['/tmp/sum'] }
            ensure_packages(['surely-not-there'], { 'ensure' => 'absent' })
            anchor { 'end': require => Package['surely-not-there'] }
            notify { 'types': message => String([Stdlib::Unixpath, fqdn_rand(100, 'x'), $facts['os']['name']]) }",
    },
    Profile {
        module: "inifile",
        needs: &[],
        code: r"
            ini_setting { 'port': ensure => present, path => '/tmp/app.ini', section => 'main', setting => 'port', value => 8080 }
            ini_subsetting { 'heap': path => '/tmp/java', setting => 'JAVA_ARGS', subsetting => '-Xmx', value => '512m' }
            create_ini_settings({ 'db' => { 'host' => 'localhost', 'password' => 'x' } }, { 'path' => '/tmp/db.ini' })",
    },
    Profile {
        module: "concat",
        needs: &["stdlib"],
        code: r"
            concat { '/tmp/whole': mode => '0600', warn => true }
            concat::fragment { 'one': target => '/tmp/whole', content => 'one', order => '01' }",
    },
    Profile {
        module: "apache",
        needs: &["stdlib", "concat"],
        code: r"
            class { 'apache': default_vhost => false, mpm_module => 'event' }
            include apache::mod::ssl
            apache::vhost { 'www.example.com': port => 443, ssl => true, docroot => '/srv/www', aliases => [{ alias => '/x', path => '/srv/x' }] }",
    },
    Profile { module: "ntp", needs: &["stdlib"], code: "class { 'ntp': servers => ['ntp1.example.com'] }" },
    Profile {
        module: "mysql",
        needs: &["stdlib", "translate"],
        code: r"
            class { 'mysql::server': root_password => 'x', override_options => { 'mysqld' => { 'max_connections' => 7 } } }
            mysql::db { 'shop': user => 'shop', password => 'y', host => 'localhost', grant => ['SELECT'] }",
    },
    Profile {
        module: "postgresql",
        needs: &["stdlib", "apt", "concat"],
        code: r"
            class { 'postgresql::globals': version => '15' }
            class { 'postgresql::server': postgres_password => 'x' }
            postgresql::server::db { 'shop': user => 'shop', password => 'y' }",
    },
    Profile {
        module: "apt",
        needs: &["stdlib"],
        code: r"
            class { 'apt': update => { frequency => 'daily' } }
            apt::source { 'own': location => 'https://deb.example.com', repos => 'main' }
            apt::pin { 'own': priority => 700 }",
    },
    Profile {
        module: "systemd",
        needs: &["stdlib", "inifile"],
        code: r#"
            include systemd
            systemd::unit_file { 'own.service': content => "[Service]\nExecStart=/bin/true\n", enable => true }
            systemd::dropin_file { 'own.conf': unit => 'ssh.service', content => "[Unit]\n" }"#,
    },
    Profile {
        module: "keystone",
        needs: &["stdlib", "inifile", "concat", "apache", "openstacklib", "oslo"],
        code: r"
            class { 'keystone::bootstrap': password => 'x' }
            class { 'keystone::db': database_connection => 'mysql+pymysql://k:p@127.0.0.1/keystone' }
            include keystone
            include keystone::wsgi::apache",
    },
];

/// Returns the profiles whose modules are here, and says which are left out.
pub(crate) fn profiles() -> Vec<&'static Profile> {
    let is_here = |name: &&str| Path::new(MODULES).join(name).is_dir();
    let is_usable = |profile: &&Profile| {
        let missing: Vec<&&str> = std::iter::once(&profile.module).chain(profile.needs).filter(|name| !is_here(name)).collect();
        if !missing.is_empty() {
            eprintln!("LEFT OUT: {}, for {missing:?} are not in {MODULES} (Debian packages puppet-module-…)", profile.module);
        }
        missing.is_empty()
    };
    PROFILES.iter().filter(is_usable).collect()
}

/// Facts of a node with Debian 12.
pub(crate) fn facts() -> BTreeMap<String, Value> {
    serde_json::from_value(Json::Object(json("puppet/debian12.json"))).unwrap()
}

pub(crate) fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-rL").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

/// Compiles with Puppet's own program; returns the catalog, or its error.
pub(crate) fn peer(
    environments: &Path,
    scratch: &Path,
    certname: &str,
    facts: &BTreeMap<String, Value>,
) -> Result<Map<String, Json>, String> {
    let stored = scratch.join("var/yaml/facts");
    fs::create_dir_all(&stored).unwrap();
    let values = serde_json::to_string(facts).unwrap();
    // JSON is YAML.
    let text = format!("--- !ruby/object:Puppet::Node::Facts\nname: {certname}\nvalues: {values}\n");
    fs::write(stored.join(format!("{certname}.yaml")), text).unwrap();
    let output = Command::new("puppet")
        .args(["catalog", "compile", certname, "--environment", "production", "--render-as", "json", "--log_level", "err"])
        .args(["--facts_terminus", "yaml", "--color", "false"])
        .arg("--environmentpath")
        .arg(environments)
        .arg("--confdir")
        .arg(scratch.join("conf"))
        .arg("--vardir")
        .arg(scratch.join("var"))
        .arg("--rundir")
        .arg(scratch.join("run"))
        .arg("--basemodulepath")
        .arg(scratch.join("none"))
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap();
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() {
        let start = text.find('{').unwrap_or_else(|| panic!("no catalog: {text}{errors}"));
        return Ok(serde_json::from_str(&text[start..]).unwrap());
    }
    let error = errors.split_once("Error: ").unwrap_or_else(|| panic!("no error: {text}{errors}")).1;
    Err(error.split("\nError: ").next().unwrap().trim_end().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn public_modules() {
    if !has_puppet() {
        return;
    }
    let staging = tempfile::tempdir().unwrap();
    let environment = staging.path().join("environments/production");
    fs::create_dir_all(environment.join("manifests")).unwrap();
    fs::create_dir_all(environment.join("modules")).unwrap();
    let profiles = profiles();
    let site: String =
        profiles.iter().map(|profile| format!("node '{}.example.com' {{\n{}\n}}\n", profile.module, profile.code)).collect();
    fs::write(environment.join("manifests/site.pp"), site).unwrap();
    for name in profiles.iter().flat_map(|profile| std::iter::once(&profile.module).chain(profile.needs)) {
        let to = environment.join("modules").join(name);
        if !to.exists() {
            copy(&Path::new(MODULES).join(name), &to);
        }
    }
    let site = Site::open(staging.path());
    assert_eq!(site.publish("production").await, None);
    let scratch = site.dir.path().join("peer");
    fs::create_dir(&scratch).unwrap();
    for profile in profiles {
        let certname = format!("{}.example.com", profile.module);
        let theirs = peer(&staging.path().join("environments"), &scratch, &certname, &facts()).unwrap();
        let theirs = catalog_of_puppet(theirs, &format!("{}/", environment.display()));
        let ours = site.compile(&certname, "production", facts()).await;
        let ours = ours.unwrap_or_else(|refusal| panic!("{}: {}", profile.module, refusal.message));
        eprintln!("{}: {} resources", profile.module, ours.resources.len());
        assert_same(&ours, &theirs);
        assert!(ours.resources.len() > 6, "{} declares nothing", profile.module);
    }
}
