//! The warm parents of compiles: replaced when they are killed, hang or have served, and beside a publish.

use super::*;

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
fn a_parent_that_has_aged_is_replaced() {
    if !has_puppet() {
        return;
    }
    let world = World::new();
    let code = world.code(&[("manifests/site.pp", "notify { 'a': }\n")]);
    // Its age is counted from when it is started, which takes longer on a machine with much to do.
    let begun = Instant::now();
    drop(world.compiler().pool.lease(&code).unwrap());
    let max_age = Duration::from_secs(5) + 5 * begun.elapsed();
    let compiler = PuppetCompiler::new(PuppetOptions { max_age, ..world.options() });
    let parent = || compiler.pool.lease(&code).unwrap().worker.pid().unwrap();
    let begun = Instant::now();
    let first = parent();
    compiler.compile(&request(&code, "n1")).unwrap();
    let later = parent();
    assert!(later == first || begun.elapsed() >= max_age, "a young one was replaced");
    while parent() == later {
        assert!(begun.elapsed() < max_age + Duration::from_secs(60), "an aged parent goes on");
        std::thread::sleep(Duration::from_millis(100));
    }
    compiler.compile(&request(&code, "n1")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while rustix::process::test_kill_process(first).is_ok() {
        assert!(Instant::now() < deadline, "what was replaced has not ended");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_parent_that_has_grown_is_replaced() {
    if !has_puppet() {
        return;
    }
    let world = World::new();
    let code = world.code(&[("manifests/site.pp", "notify { 'a': }\n")]);
    let parents = |memory_limit_bytes| {
        let compiler = PuppetCompiler::new(PuppetOptions { memory_limit_bytes, ..world.options() });
        [(); 2].map(|()| compiler.pool.lease(&code).unwrap().worker.pid().unwrap())
    };
    // As large as every one is.
    let [first, second] = parents(1 << 20);
    assert_ne!(first, second, "one that is larger than it may be goes on");
    let [first, second] = parents(1 << 30);
    assert_eq!(first, second, "one of the usual size was replaced");
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
