//! The compiler over real code and a real Ruby, without a server.

mod checkout;
mod isolation;
mod parents;
mod trusted;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use direct_puppet_agent::store::Store;
use direct_puppet_transport::Extensions;
use direct_puppet_transport::protocol::{
    Catalog, Digest, EntryKind, Manifest, ManifestEntry, Resource, TreePath, Value, VersionCounter,
};

use super::*;
use crate::code::{Author, Version};
use crate::compile::CompileErrorKind;
use crate::tests::log::Log;

/// Whether Puppet's library is there. Tests that need it say that they are left out.
fn has_puppet() -> bool {
    let found = Command::new("ruby").args(["-e", "require 'puppet'"]).output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("LEFT OUT: ruby has no Puppet library here (Debian package puppet-agent)");
    }
    found
}

struct World {
    dir: tempfile::TempDir,
    store: Store,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::ensure(&dir.path().join("store")).unwrap();
        Self { dir, store }
    }

    fn options(&self) -> PuppetOptions {
        PuppetOptions { server_name: "puppet.example.com".to_owned(), ..PuppetOptions::new(self.dir.path().join("work")) }
    }

    fn compiler(&self) -> PuppetCompiler {
        PuppetCompiler::new(self.options())
    }

    /// Returns code with these files.
    fn code(&self, files: &[(&str, &str)]) -> Arc<Code> {
        let mut entries = BTreeMap::new();
        for (path, content) in files {
            let path: TreePath = path.parse().unwrap();
            let mut parent = path.parent();
            while let Some(dir) = parent.filter(|dir| !dir.is_root()) {
                parent = dir.parent();
                entries.insert(dir.clone(), ManifestEntry { path: dir, mode: 0o755, kind: EntryKind::Directory });
            }
            self.store.put_bytes(content.as_bytes()).unwrap();
            let kind = EntryKind::File { digest: Digest::of(content.as_bytes()), size: content.len() as u64 };
            entries.insert(path.clone(), ManifestEntry { path, mode: 0o644, kind });
        }
        self.code_of(Manifest::new(entries.into_values().collect()).unwrap())
    }

    fn code_of(&self, manifest: Manifest) -> Arc<Code> {
        let version = Version {
            environment: "production".parse().unwrap(),
            code_id: manifest.code_id(),
            version: VersionCounter { epoch: 1, sequence: 1 },
            time_unix_seconds: 0,
            author: Author::default(),
            message: String::new(),
            revision: None,
            request_id: None,
            files: 0,
            new_contents: 0,
            lineage: Vec::new(),
        };
        Arc::new(Code::new(version, manifest, self.store.clone()))
    }
}

fn request(code: &Arc<Code>, certname: &str) -> CompileRequest {
    let facts = BTreeMap::from([("kernel".to_owned(), "Linux".into())]);
    let extensions = Extensions::default();
    CompileRequest { certname: certname.parse().unwrap(), code: Arc::clone(code), facts, extensions }
}

fn find<'a>(catalog: &'a Catalog, reference: &str) -> &'a Resource {
    catalog.resources.iter().find(|resource| resource.reference().to_string() == reference).expect(reference)
}

fn message(catalog: &Catalog, title: &str) -> String {
    find(catalog, &format!("Notify[{title}]")).parameters["message"].as_str().unwrap().to_owned()
}

#[test]
fn compiles() {
    if !has_puppet() {
        return;
    }
    let world = World::new();
    let code = world.code(&[
        ("environment.conf", "modulepath = site:modules\n"),
        ("hiera.yaml", "version: 5\nhierarchy:\n  - name: all\n    path: all.yaml\n"),
        ("data/all.yaml", "app::port: 8080\n"),
        ("manifests/site.pp", "include app\nnotify { 'who': message => \"${trusted['certname']} ${facts['kernel']} ${servername} ${clientcert}\" }\n"),
        (
            "site/app/manifests/init.pp",
            "class app(Integer $port, App::Name $label = 'x') {\n  app::thing { 'one': }\n  \
             file { '/etc/app': source => 'puppet:///modules/app/app.conf', mode => '0600' }\n  \
             notify { 'fun': message => app::double('ab') }\n  notify { 'epp': message => epp('app/t.epp', { p => $port }) }\n  \
             notify { 'erb': message => template('app/t.erb') }\n  \
             notify { 'later': message => Deferred('upcase', ['soon']) }\n  notify { 'secret': message => Sensitive('hush') }\n}\n",
        ),
        ("site/app/manifests/thing.pp", "define app::thing() { notify { \"thing ${title}\": require => File['/etc/app'] } }\n"),
        ("site/app/types/name.pp", "type App::Name = String[1]\n"),
        (
            "site/app/lib/puppet/functions/app/double.rb",
            "Puppet::Functions.create_function(:'app::double') do\n  dispatch(:double) { param 'String', :text }\n  \
             def double(text)\n    text * 2\n  end\nend\n",
        ),
        ("site/app/templates/t.epp", "<%- | Integer $p | -%>port <%= $p %>"),
        ("site/app/templates/t.erb", "<%= @port %> <%= @facts['kernel'] %>"),
        ("site/app/files/app.conf", "conf\n"),
    ]);
    let compiler = world.compiler();
    compiler.check(&code).unwrap();
    let compiled = compiler.compile(&request(&code, "n1.example.com")).unwrap();
    let catalog = &compiled.catalog;
    assert!(catalog.classes.contains(&"app".to_owned()), "{:?}", catalog.classes);
    assert_eq!(message(catalog, "who"), "n1.example.com Linux puppet.example.com n1.example.com");
    assert_eq!(message(catalog, "fun"), "abab");
    assert_eq!(message(catalog, "epp"), "port 8080");
    assert_eq!(message(catalog, "erb"), "8080 Linux");
    assert!(matches!(find(catalog, "Notify[secret]").parameters["message"], Value::Sensitive(_)));
    let Value::Hash(later) = &find(catalog, "Notify[later]").parameters["message"] else { panic!("not deferred") };
    assert_eq!(later["name"], "upcase".into());
    let file = find(catalog, "File[/etc/app]");
    assert_eq!((file.file.as_deref(), file.line), (Some("site/app/manifests/init.pp"), Some(3)));
    let resolved = file.resolved.as_ref().unwrap();
    assert_eq!(resolved.entries[0].kind, code.manifest.get(&"site/app/files/app.conf".parse().unwrap()).unwrap().kind);
    assert!(find(catalog, "App::Thing[one]").is_container());
    // Byte for byte, also from another parent.
    let id = catalog.encode().unwrap().0;
    assert_eq!(compiler.compile(&request(&code, "n1.example.com")).unwrap().catalog.encode().unwrap().0, id);
    assert_eq!(world.compiler().compile(&request(&code, "n1.example.com")).unwrap().catalog.encode().unwrap().0, id);
}

#[test]
fn errors_name_the_place() {
    if !has_puppet() {
        return;
    }
    let world = World::new();
    let compiler = world.compiler();
    let site = "node /^class/ { include nowhere }\nnode /^source/ {\n  file { '/x': source => 'puppet:///modules/m/none' }\n}\n\
                node /^syntax/ { include m }\nnode /^fail/ { fail('no') }\nnode /^fun/ { notify { 'x': message => m::raise() } }\n";
    let code = world.code(&[
        ("manifests/site.pp", site),
        ("modules/m/manifests/init.pp", "class m {\n  notify { 'x' }\n}\n"),
        (
            "modules/m/lib/puppet/functions/m/raise.rb",
            "Puppet::Functions.create_function(:'m::raise') { def raise_it; end }\nboom\n",
        ),
    ]);
    compiler.check(&code).unwrap();
    let fail = |name: &str| {
        let error = compiler.compile(&request(&code, name)).unwrap_err();
        assert_eq!(error.kind, CompileErrorKind::Code, "{error}");
        error.to_string()
    };
    assert_eq!(
        fail("class1"),
        "manifests/site.pp:1:17: Evaluation Error: Error while evaluating a Function Call, Could not find class ::nowhere for class1"
    );
    assert!(fail("source1").starts_with("manifests/site.pp:3: File[/x]: Could not get metadata for puppet:///modules/m/none"));
    assert!(fail("syntax1").starts_with("modules/m/manifests/init.pp:2:16: Syntax error"), "{}", fail("syntax1"));
    assert_eq!(fail("fail1"), "manifests/site.pp:6:16: Evaluation Error: Error while evaluating a Function Call, no");
    assert!(fail("fun1").contains("manifests/site.pp:7"), "{}", fail("fun1"));
    assert!(fail("unknown1").contains("unknown1"), "{}", fail("unknown1"));
    let broken = world.code(&[("manifests/site.pp", "class {\n")]);
    let error = compiler.check(&broken).unwrap_err();
    assert_eq!((error.file.as_str(), error.kind), ("manifests/site.pp", CompileErrorKind::Code), "{error}");
    // Nobody is hurt by the errors of others.
    let good = world.code(&[("manifests/site.pp", "notify { 'a': }\n")]);
    compiler.compile(&request(&good, "n1")).unwrap();
}

/// Ruby of one module may require what another has, as when `puppet apply` compiles.
#[test]
fn modules_require_each_other() {
    if !has_puppet() {
        return;
    }
    let world = World::new();
    let function =
        "require 'needed/by/other'\nPuppet::Functions.create_function(:'other::needs') do\n  def needs\n    NEEDED\n  end\nend\n";
    let code = world.code(&[
        ("manifests/site.pp", "notify { 'a': message => other::needs() }\n"),
        ("modules/other/lib/puppet/functions/other/needs.rb", function),
        ("modules/needed/lib/needed/by/other.rb", "NEEDED = 'found'\n"),
    ]);
    assert_eq!(message(&world.compiler().compile(&request(&code, "n1")).unwrap().catalog, "a"), "found");
}

#[test]
fn without_ruby_or_library() {
    let world = World::new();
    let code = world.code(&[("manifests/site.pp", "notify { 'a': }\n")]);
    let missing = PuppetCompiler::new(PuppetOptions { ruby: "/nowhere/ruby".into(), ..world.options() });
    // What can be published without Ruby is published.
    missing.check(&code).unwrap();
    // An administrator finds it in the log, as what is wrong with the code.
    let log = Log::new();
    let error = log.of(|| missing.compile(&request(&code, "n1")).unwrap_err());
    let logged = log.take();
    assert!(logged.contains("/nowhere/ruby could not be run") && logged.contains("certname=n1"), "{logged}");
    assert_eq!(error.kind, CompileErrorKind::NoCompiler);
    assert!(error.to_string().starts_with("environment production: /nowhere/ruby could not be run"), "{error}");
    assert!(error.to_string().contains("puppet-agent or openvox-agent"), "{error}");
    if Command::new("ruby").arg("--version").output().is_err() {
        eprintln!("LEFT OUT: no ruby here (Debian package ruby)");
        return;
    }
    // A Ruby that finds no library.
    let wrapper = world.dir.path().join("ruby");
    std::fs::write(&wrapper, "#!/bin/sh\nexec ruby --disable=gems \"$@\"\n").unwrap();
    std::fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let broken = PuppetCompiler::new(PuppetOptions { ruby: wrapper, ..world.options() });
    let error = broken.compile(&request(&code, "n1")).unwrap_err();
    assert_eq!(error.kind, CompileErrorKind::NoCompiler, "{error}");
    assert!(error.to_string().contains("library"), "{error}");
}

#[test]
fn classified_nodes() {
    if !has_puppet() {
        return;
    }
    let world = World::new();
    let program = world.dir.path().join("enc");
    let script = "#!/bin/sh\ncase $1 in\nn1) echo 'classes: {app: {port: 7}, other: }'; echo 'parameters: {site: north}';;\n\
                  n2) echo 'environment: other';;\nn3) exit 1;;\nn5) echo 'classes: 7';;\nn6) echo 'class: [app]';;\n\
                  n7) echo 'day: 2020-01-01';;\nn8) echo '{';;\n\
                  yaml) echo ':classes: values'; echo 'parameters: {n: 010, e: 1e3, o: 0o10, t: 1:30, h: {1: one, off: no}}';;\n\
                  empty) echo '--- {}';;\nnothing) printf -- '---\\nclasses:\\nparameters:\\n';;\nesac\n";
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let compiler = PuppetCompiler::new(PuppetOptions { classifier: Some(program), ..world.options() });
    let code = world.code(&[
        ("environment.conf", ""),
        ("modules/app/manifests/init.pp", "class app($port) { notify { 'a': message => \"${port} ${site}\" } }\n"),
        ("modules/other/manifests/init.pp", "class other { notify { 'b': } }\n"),
        (
            "modules/values/manifests/init.pp",
            "class values { notify { 'a': message => String([$n, $e, $o, $t, $h[1], $h[false]]) } }\n",
        ),
    ]);
    let catalog = compiler.compile(&request(&code, "n1")).unwrap().catalog;
    assert_eq!(message(&catalog, "a"), "7 north");
    find(&catalog, "Notify[b]");
    // As Ruby reads YAML, of version 1.1.
    let catalog = compiler.compile(&request(&code, "yaml")).unwrap().catalog;
    assert_eq!(message(&catalog, "a"), "[8, '1e3', '0o10', 5400, 'one', false]");
    for name in ["empty", "nothing"] {
        assert_eq!(compiler.compile(&request(&code, name)).unwrap().catalog.classes, ["settings"], "{name}");
    }
    let other = compiler.compile(&request(&code, "n2")).unwrap_err();
    assert!(other.to_string().contains("--environment other"), "{other}");
    for name in ["n3", "n4", "n5", "n6", "n7", "n8"] {
        let error = compiler.compile(&request(&code, name)).unwrap_err();
        assert_eq!(error.kind, CompileErrorKind::Server, "{error}");
        assert!(error.to_string().contains("classifier"), "{error}");
    }
}

#[test]
fn facts_of_16_mebibytes() {
    if !has_puppet() {
        return;
    }
    let world = World::new();
    let code = world.code(&[("manifests/site.pp", "notify { 'a': message => String($facts['big'].length) }\n")]);
    let mut request = request(&code, "n1");
    request.facts.insert("big".to_owned(), "ä".repeat(8 << 20).into());
    request.facts.insert("hash".to_owned(), Value::Hash([("trusted".to_owned(), Value::Undef)].into()));
    let catalog = world.compiler().compile(&request).unwrap().catalog;
    assert_eq!(message(&catalog, "a"), (8 << 20).to_string());
}

#[test]
fn hostile_names() {
    if !has_puppet() {
        return;
    }
    let world = World::new();
    let code = world.code(&[
        ("hiera.yaml", "version: 5\nhierarchy:\n  - name: node\n    path: \"%{trusted.certname}.yaml\"\n"),
        ("manifests/site.pp", "notify { 'a': message => $trusted['certname'] }\n"),
    ]);
    let compiler = world.compiler();
    for name in ["..", "a\n", "a/b", "a b", "$(touch /tmp/x)", "%{facts}", "-e", "A\0b"] {
        // What is no certname never gets here.
        let Ok(certname) = name.parse() else { continue };
        let catalog = compiler.compile(&CompileRequest { certname, ..request(&code, "n1") }).unwrap().catalog;
        assert_eq!(message(&catalog, "a"), name);
    }
}
