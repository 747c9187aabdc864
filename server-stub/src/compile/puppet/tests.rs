//! The compiler over real code and a real Ruby, without a server.

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
        let manifest = Manifest::new(entries.into_values().collect()).unwrap();
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

/// Code whose nodes misbehave, each in its way.
const BAD: &str = "node /^loop/ { bad::spin() }\nnode /^eat/ { bad::eat() }\nnode /^exit/ { bad::leave() }\nnode /^crash/ { bad::crash() }\n\
                   node /^child/ { bad::child() }\nnode /^feed/ { bad::feed() }\nnode /^bytes/ { notify { 'b': message => bad::bytes() } }\nnode /^orphan/ { notify { 'pid': message => bad::orphan() } }\nnode /^state/ { notify { 'state': message => bad::state() } }\nnode default { notify { 'ok': } }\n";

fn bad(world: &World) -> Arc<Code> {
    let function = |name: &str, body: &str| {
        let path = format!("modules/bad/lib/puppet/functions/bad/{name}.rb");
        (path, format!("Puppet::Functions.create_function(:'bad::{name}') do\n  def {name}\n    {body}\n  end\nend\n"))
    };
    let functions = [
        function("spin", "loop { }"),
        function("eat", "all = []; loop { all << ('x' * 10_000_000) }"),
        function("leave", "exit!(7)"),
        function("crash", "Process.kill(:FPE, Process.pid); sleep"),
        function("child", "system('sleep 1000')"),
        function("feed", "system(RbConfig.ruby, '-e', 'a = \"x\" * 500_000_000; sleep 1000')"),
        function("bytes", "\"\\xff\".b.force_encoding('UTF-8')"),
        function(
            "orphan",
            "r, w = IO.pipe; fork { Process.setsid; w.puts(fork { exec('sleep', '1001') }); exit!(0) }; w.close; r.read.strip",
        ),
        function("state", "$count = ($count || 0) + 1; $count.to_s"),
    ];
    let mut files = vec![("manifests/site.pp", BAD)];
    files.extend(functions.iter().map(|(path, text)| (path.as_str(), text.as_str())));
    world.code(&files)
}

fn fails(compiler: &PuppetCompiler, code: &Arc<Code>, name: &str) -> CompileError {
    let error = compiler.compile(&request(code, name)).unwrap_err();
    // Whatever it was, the next compile is as if it had not been.
    compiler.compile(&request(code, "good")).unwrap();
    error
}

/// What one compile has loaded is loaded for all that follow: no less is checked then.
#[test]
fn types_of_parameters_are_checked_in_every_compile() {
    if !has_puppet() {
        return;
    }
    let world = World::new();
    let site = "type Port = Integer[1, 65535]\n\
                function twice(Integer $x) >> Integer { $x * 2 }\n\
                class insite(Port $p) { notify { \"insite ${p}\": } }\n\
                node 'good' { class { 'm::cl': p => twice(4), s => Sensitive('x') } m::def { 'd': p => 1 } class { 'insite': p => 80 } }\n\
                node /^class/ { class { 'm::cl': p => 'nine', s => Sensitive('x') } }\n\
                node /^plain/ { class { 'm::cl': p => 9, s => 'plain' } }\n\
                node /^define/ { m::def { 'd': p => 'nine' } }\n\
                node /^site/ { class { 'insite': p => 70000 } }\n";
    let code = world.code(&[
        ("manifests/site.pp", site),
        ("modules/m/manifests/cl.pp", "class m::cl(Integer[1,9] $p, Sensitive[String] $s) { notify { \"cl ${p}\": } }\n"),
        ("modules/m/manifests/def.pp", "define m::def(Integer $p) { notify { \"def ${p}\": } }\n"),
    ]);
    let compiler = PuppetCompiler::new(world.options());
    compiler.check(&code).unwrap();
    for round in 0..3 {
        let good = compiler.compile(&request(&code, "good")).unwrap().catalog;
        for title in ["cl 8", "def 1", "insite 80"] {
            find(&good, &format!("Notify[{title}]"));
        }
        for (name, words) in [
            ("class", "expects an Integer"),
            ("plain", "expects a Sensitive"),
            ("define", "expects an Integer"),
            ("site", "expects a Port"),
        ] {
            let error = fails(&compiler, &code, &format!("{name}{round}"));
            assert!(error.to_string().contains(words), "round {round}: {error}");
        }
    }
}

#[test]
fn what_cannot_be_loaded_is_said_at_every_time_and_never_left_out() {
    if !has_puppet() {
        return;
    }
    let world = World::new();
    let twice = "class dupe { }\nnode default { notify { 'managed': } }\n";
    let code = world.code(&[("manifests/a.pp", twice), ("manifests/b.pp", "class dupe { }\n")]);
    let compiler = PuppetCompiler::new(world.options());
    assert!(compiler.check(&code).unwrap_err().to_string().contains("'dupe' is already defined"));
    for name in ["n1", "n2"] {
        let error = compiler.compile(&request(&code, name)).unwrap_err();
        assert!(error.to_string().contains("'dupe' is already defined"), "{error}");
    }
    // A script for the version of the configuration would look for the checkout of a deploy tool.
    let code =
        world.code(&[("environment.conf", "config_version = /bin/false\n"), ("manifests/site.pp", "notify { 'managed': }\n")]);
    compiler.check(&code).unwrap();
    find(&compiler.compile(&request(&code, "n1")).unwrap().catalog, "Notify[managed]");
}

#[test]
fn what_misbehaves_costs_one_compile() {
    if !has_puppet() {
        return;
    }
    let world = World::new();
    let mut options = world.options();
    (options.time_limit, options.memory_limit_bytes) = (Duration::from_secs(15), 300 << 20);
    let compiler = PuppetCompiler::new(options);
    let code = bad(&world);
    compiler.compile(&request(&code, "good")).unwrap();
    for (name, reason) in [
        ("loop1", "took longer than 15 seconds"),
        ("eat1", "took more than 300 MiB"),
        ("exit1", "exit status 7"),
        ("crash1", "by signal"),
        ("child1", "took longer than 15 seconds"),
        ("feed1", "took more than 300 MiB"),
        ("bytes1", "Notify[b]: message is not text in UTF-8"),
    ] {
        let begun = Instant::now();
        let error = fails(&compiler, &code, name);
        assert!(error.to_string().contains(reason), "{name}: {error}");
        assert!(name == "bytes1" || error.to_string().contains(name), "{name}: {error}");
        assert_eq!(error.kind, CompileErrorKind::Code, "{error}");
        assert!(begun.elapsed() < Duration::from_secs(60), "{name}");
    }
    // No compile sees what another has left in Ruby.
    for _ in 0..2 {
        let compiled = compiler.compile(&request(&code, "state1")).unwrap();
        assert_eq!(message(&compiled.catalog, "state"), "1");
    }
    assert!(!is_running("sleep 1000"), "what a killed compile has started goes on");
    // A compile that ends well leaves nothing either, whatever session it is in.
    let orphan = message(&compiler.compile(&request(&code, "orphan1")).unwrap().catalog, "pid");
    assert!(orphan.parse::<u32>().is_ok(), "{orphan}");
    let begun = Instant::now();
    while Path::new("/proc").join(&orphan).exists() {
        assert!(begun.elapsed() < Duration::from_secs(20), "what a compile has let go of goes on");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Warnings of the parser are said once, and crowd out nothing.
#[test]
fn each_compile_says_its_own() {
    if !has_puppet() {
        return;
    }
    let world = World::new();
    let odd: String = (0..1200).map(|number| format!("  $v{number} = \"a\\q\"\n")).collect();
    let code = world.code(&[
        ("manifests/site.pp", "$x = \"b\\q\"\nnode /^odd/ { include odd }\nnode default { warning('mine') }\n"),
        ("modules/odd/manifests/init.pp", &format!("class odd {{\n{odd}}}\n")),
    ]);
    let compiler = world.compiler();
    let said = |certname: &str| {
        let request = request(&code, certname);
        let (answer, _) = compiler.ask(&code, &Question::compile(&request, None)).unwrap();
        let Answer::Compiled(compiled) = answer else { panic!("{answer:?}") };
        compiled.logs.iter().map(|entry| entry.message().to_owned()).collect::<Vec<_>>()
    };
    let of_parser = |said: &[String]| said.iter().filter(|message| message.contains("Unrecognized escape sequence")).count();
    // That of site.pp, and as many of the class as are kept.
    assert_eq!(of_parser(&said("odd1")), 1001);
    // The parent hears at the end of that compile that it was said.
    let begun = Instant::now();
    while said("n1") != ["mine"] {
        assert!(begun.elapsed() < Duration::from_secs(20), "it is said for ever");
    }
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
fn no_ruby_of_the_code_runs_in_the_parent() {
    if !has_puppet() {
        return;
    }
    let world = World::new();
    let touched = world.dir.path().join("touched");
    let provider = format!("File.write('{}', Process.pid.to_s)\nexit!(9)\n", touched.display());
    let code = world.code(&[
        ("manifests/site.pp", "notify { 'a': }\n"),
        ("modules/m/lib/puppet/provider/package/m.rb", &provider),
        ("modules/m/lib/puppet/type/service.rb", &provider),
    ]);
    let compiler = world.compiler();
    let parent = || compiler.pool.lease(&code).unwrap().worker.pid().unwrap();
    compiler.compile(&request(&code, "n1")).unwrap();
    let pid = parent();
    // It loads what is common when it has nothing else to do.
    std::thread::sleep(Duration::from_secs(2));
    compiler.compile(&request(&code, "n1")).unwrap();
    assert_eq!(parent(), pid);
    assert!(!touched.exists());
}

#[test]
fn code_does_not_see_the_environment_of_the_server() {
    if !has_puppet() {
        return;
    }
    let world = World::new();
    let code = world.code(&[("manifests/site.pp", "notify { 'env': message => generate('/usr/bin/env') }\n")]);
    let variables = |options| message(&PuppetCompiler::new(options).compile(&request(&code, "n1")).unwrap().catalog, "env");
    let (few, more) = (world.options(), world.options());
    let more = PuppetOptions { environment_variables: vec!["PATH".to_owned(), "CARGO_PKG_NAME".to_owned()], ..more };
    let (few, more) = (variables(few), variables(more));
    assert!(few.contains("PATH=") && !few.contains("CARGO_PKG_NAME"), "{few}");
    assert!(more.contains("CARGO_PKG_NAME=direct-puppet-server-stub"), "{more}");
}

/// Whether a process with this command line runs.
fn is_running(command: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .any(|line| String::from_utf8_lossy(&line).trim_end_matches('\0').replace('\0', " ") == command)
}

#[test]
fn a_killed_parent_is_replaced() {
    if !has_puppet() {
        return;
    }
    let world = World::new();
    let compiler = world.compiler();
    let code = world.code(&[("manifests/site.pp", "notify { 'a': }\n")]);
    compiler.compile(&request(&code, "n1")).unwrap();
    let kill = || {
        let pid = compiler.pool.lease(&code).unwrap().worker.pid().unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    };
    kill();
    compiler.compile(&request(&code, "n1")).unwrap();
    kill();
    std::thread::sleep(Duration::from_millis(300));
    compiler.compile(&request(&code, "n1")).unwrap();
}

#[test]
fn a_parent_that_hangs_is_replaced() {
    if !has_puppet() {
        return;
    }
    let world = World::new();
    let compiler = world.compiler();
    let code = world.code(&[("manifests/site.pp", "notify { 'a': }\n")]);
    let pid = compiler.pool.lease(&code).unwrap().worker.pid().unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let error = compiler.compile(&request(&code, "n1")).unwrap_err();
    assert_eq!(error.kind, CompileErrorKind::Server, "{error}");
    compiler.compile(&request(&code, "n1")).unwrap();
}

#[test]
fn parents_are_replaced_and_end() {
    if !has_puppet() {
        return;
    }
    let world = World::new();
    let options = PuppetOptions { max_compiles: 2, idle_for: Duration::from_secs(1), ..world.options() };
    let work = options.work_dir.clone();
    let compiler = PuppetCompiler::new(options);
    let code = world.code(&[("manifests/site.pp", "notify { 'a': }\n")]);
    let parent = || compiler.pool.lease(&code).unwrap().worker.pid().unwrap();
    compiler.compile(&request(&code, "n1")).unwrap();
    let first = parent();
    compiler.compile(&request(&code, "n1")).unwrap();
    let second = parent();
    assert_ne!(first, second, "after two compiles there is another");
    // An idle one ends by itself, and is missed by nobody.
    let deadline = Instant::now() + Duration::from_secs(60);
    while parent() == second {
        assert!(Instant::now() < deadline, "an idle parent goes on");
        std::thread::sleep(Duration::from_millis(200));
    }
    compiler.compile(&request(&code, "n1")).unwrap();
    // Versions that are not compiled any more leave no files behind.
    for number in 0..4 {
        let code = world.code(&[("manifests/site.pp", &format!("notify {{ '{number}': }}\n"))]);
        compiler.compile(&request(&code, "n1")).unwrap();
    }
    assert_eq!(std::fs::read_dir(&work).unwrap().count(), 2);
    drop(compiler);
    let ended = |path: &Path| {
        (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            std::fs::read_dir(path).unwrap().count() == 0
        })
    };
    assert!(ended(&work));
}

#[test]
fn no_publish_disturbs_a_running_compile() {
    if !has_puppet() {
        return;
    }
    let world = World::new();
    let compiler = Arc::new(world.compiler());
    let slow = "Puppet::Functions.create_function(:'m::slow') do\n  def slow\n    sleep 3\n    'slow'\n  end\nend\n";
    let version = |number: u32| {
        let file = format!("version {number}\n");
        let site = format!(
            "$x = m::slow()\nnotify {{ 'v': message => '{number}' }}\nfile {{ '/v': content => file('m/v') }}\ninclude m\n"
        );
        let class = format!("class m {{ notify {{ 'c': message => 'class {number}' }} }}\n");
        world.code(&[
            ("manifests/site.pp", &site),
            ("modules/m/manifests/init.pp", &class),
            ("modules/m/files/v", &file),
            ("modules/m/lib/puppet/functions/m/slow.rb", slow),
        ])
    };
    let old = version(0);
    compiler.check(&old).unwrap();
    let running = {
        let (compiler, old) = (Arc::clone(&compiler), Arc::clone(&old));
        std::thread::spawn(move || compiler.compile(&request(&old, "n1")))
    };
    std::thread::sleep(Duration::from_millis(500));
    // So many that nothing is kept for the old one.
    for number in 1..4 {
        compiler.check(&version(number)).unwrap();
    }
    let catalog = running.join().unwrap().unwrap().catalog;
    assert_eq!(message(&catalog, "v"), "0");
    assert_eq!(message(&catalog, "c"), "class 0");
    assert_eq!(find(&catalog, "File[/v]").parameters["content"], "version 0\n".into());
    let newest = compiler.compile(&request(&version(3), "n1")).unwrap().catalog;
    assert_eq!(message(&newest, "c"), "class 3");
}

#[test]
fn without_ruby_or_library() {
    let world = World::new();
    let code = world.code(&[("manifests/site.pp", "notify { 'a': }\n")]);
    let missing = PuppetCompiler::new(PuppetOptions { ruby: "/nowhere/ruby".into(), ..world.options() });
    // What can be published without Ruby is published.
    missing.check(&code).unwrap();
    let error = missing.compile(&request(&code, "n1")).unwrap_err();
    assert_eq!(error.kind, CompileErrorKind::Server);
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
    assert_eq!(error.kind, CompileErrorKind::Server, "{error}");
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
