//! No compile sees, or leaves to others, more than it should: what it has loaded, said, started and broken.

use super::*;

/// Code whose nodes misbehave, each in its way.
const BAD: &str = "node /^loop/ { bad::spin() }\nnode /^eat/ { bad::eat() }\nnode /^exit/ { bad::leave() }\nnode /^crash/ { bad::crash() }\n\
                   node /^child/ { bad::child() }\nnode /^feed/ { bad::feed() }\nnode /^away/ { bad::away() }\nnode /^bytes/ { notify { 'b': message => bad::bytes() } }\nnode /^orphan/ { notify { 'pid': message => bad::orphan() } }\nnode /^state/ { notify { 'state': message => bad::state() } }\nnode default { notify { 'ok': } }\n";

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
        function("away", "fork { Process.setsid; a = 'x' * 500_000_000; sleep 1000 }; sleep 1000"),
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
        ("away1", "took more than 300 MiB"),
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
