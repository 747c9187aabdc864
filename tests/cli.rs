//! The real programs together, over a Unix socket and over HTTP, as an administrator would use them.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use direct_puppet_tests::authority::Authority;
use direct_puppet_tests::binaries::{binaries, json, run};
use direct_puppet_tests::serving::Serving;
use direct_puppet_tests::site::{Site, files};

/// From a file on a node, and from a report, to who published it, when, and from which revision.
#[test]
fn whose_work_a_file_is_is_found_from_the_node_and_from_a_report() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::new(&dir.path().join("site"));
    site.fill(3, "one");
    let serving = Serving::start(dir.path(), &site);
    let revision = "0123456789abcdef0123456789abcdef01234567";
    let by_alice = serving.verb(&["publish", "-m", "first", "--author", "alice", "--revision", revision]);
    let published = json(&by_alice)["environments"][0].clone();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let agent = |arguments: &[&str]| {
        let mut command = Command::new(&binaries().agent);
        command.args(arguments).args(["--server", &serving.urls[0], "--node", "n1", "--json"]).arg("--root").arg(&root);
        json(&run(command))
    };
    assert_eq!(agent(&["run"])["status"], "changed");
    // Somebody else's work is live since, and this node has not asked.
    site.fill(3, "two");
    assert!(serving.verb(&["publish", "-m", "second", "--author", "bob"]).status.success());
    let file = agent(&["status", "--explain", "/srv/tree/d00/file00000"]);
    assert_eq!(
        (&file["code_id"], &file["version"]),
        (&published["code_id"], &serde_json::json!({"epoch": 1, "sequence": 1})),
        "{file}"
    );
    let reports = dir.path().join("data/nodes");
    let report =
        fs::read_dir(fs::read_dir(reports).unwrap().next().unwrap().unwrap().path().join("reports")).unwrap().next().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&fs::read(report.unwrap().path()).unwrap()).unwrap();
    assert_eq!((&report["catalog_id"], &report["code_id"]), (&file["catalog_id"], &file["code_id"]), "{report}");
    assert_eq!(report["version"], file["version"], "{report}");
    let version = format!("{}.{}", file["version"]["epoch"], file["version"]["sequence"]);
    for named in [&version, report["code_id"].as_str().unwrap()] {
        let explained = json(&serving.verb(&["explain", named]));
        let version = &explained["version"];
        let told = [&version["author"]["name"], &version["message"], &version["revision"], &version["code_id"]];
        assert_eq!(told, [&"alice".into(), &"first".into(), &revision.into(), &published["code_id"]], "{named}: {explained}");
        let time = explained["published_unix_seconds"].as_u64().unwrap_or_default();
        assert!(time > 1_700_000_000, "{explained}");
    }
    let of_node = json(&serving.verb(&["explain", "--node", "n1", "--path", "/srv/tree/d00/file00000"]));
    assert!(of_node["version"]["code_id"] == published["code_id"] && of_node.to_string().contains("alice"), "{of_node}");
}

#[test]
fn publish_run_plan_drift_and_undo_over_real_sockets() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::new(&dir.path().join("site"));
    site.fill(20, "one");
    let serving = Serving::start(dir.path(), &site);
    let published = serving.verb(&["publish"]);
    assert_eq!((published.status.code(), &json(&published)["environments"][0]["sequence"]), (Some(0), &1.into()));
    for (number, url) in serving.urls.iter().enumerate() {
        let root = dir.path().join(format!("root{number}"));
        fs::create_dir(&root).unwrap();
        let node = format!("node{number}");
        let agent = |verb: &str| {
            let mut command = Command::new(&binaries().agent);
            command.args([verb, "--server", url, "--node", &node, "--json"]).arg("--root").arg(&root);
            run(command)
        };
        let plan = agent("plan");
        assert_eq!(
            (plan.status.code(), root.join("srv").exists()),
            (Some(2), false),
            "{}",
            String::from_utf8_lossy(&plan.stderr)
        );
        let first = agent("run");
        assert_eq!((first.status.code(), &json(&first)["answer"]), (Some(2), &"catalog".into()));
        assert_eq!(files(&root.join("srv/tree")), files(&site.tree()));
        let second = json(&agent("run"));
        assert_eq!(
            (&second["status"], &second["answer"], &second["scan"]["opened"]),
            (&"unchanged".into(), &"current".into(), &0.into())
        );
        assert_eq!(agent("verify").status.code(), Some(0));
        fs::write(root.join("srv/tree/d01/file00001"), "drift").unwrap();
        assert_eq!(agent("verify").status.code(), Some(2));
        let repaired = json(&agent("run"));
        assert_eq!((&repaired["resources"]["changed"], &repaired["wire"]["contents_requested"]), (&1.into(), &1.into()));
        assert_eq!(agent("undo").status.code(), Some(2));
        assert_eq!(fs::read_to_string(root.join("srv/tree/d01/file00001")).unwrap(), "drift");
        assert_eq!(json(&agent("status"))["last_run"]["status"], "changed");
    }
    let nodes = json(&serving.verb(&["nodes"]));
    let nodes = nodes.as_array().unwrap();
    assert_eq!(nodes.len(), 2);
    for node in nodes {
        assert_eq!((&node["compiles"], &node["status"]), (&1.into(), &"changed".into()), "{node}");
        assert!(node["catalog_id"].is_string() && node["code_id"].is_string() && node["last_seen"].is_u64(), "{node}");
    }
    assert_eq!(serving.verb(&["recompile", "node1"]).status.code(), Some(0));
    assert_eq!(serving.verb(&["recompile", "nobody"]).status.code(), Some(1));
    assert_eq!(json(&serving.verb(&["versions"])).as_array().unwrap().len(), 1);
}

/// Returns `direct-puppet` in a directory with a root and a catalog of Puppet's with one file.
fn in_directory(dir: &Path, path: &str) -> Command {
    fs::create_dir_all(dir.join("root")).unwrap();
    let catalog = serde_json::json!({"name": "n1", "environment": "production", "edges": [], "resources": [
        {"type": "File", "title": path, "parameters": {"content": "x"}},
    ]});
    fs::write(dir.join("catalog.json"), catalog.to_string()).unwrap();
    let mut command = Command::new(&binaries().agent);
    command.current_dir(dir).arg("--root").arg(dir.join("root"));
    command
}

#[test]
fn a_plan_goes_to_a_bare_name_and_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = in_directory(dir.path(), "/a");
    command.args(["plan", "--catalog", "catalog.json", "--out", "today.plan"]);
    let plan = run(command);
    let (shown, error) = (String::from_utf8_lossy(&plan.stdout), String::from_utf8_lossy(&plan.stderr));
    assert!(plan.status.code() == Some(2) && shown.contains("/a"), "{shown}{error}");
    let mut command = in_directory(dir.path(), "/a");
    command.args(["apply", "today.plan"]);
    assert_eq!(run(command).status.code(), Some(2));
    assert!(dir.path().join("root/a").exists());
}

#[test]
fn lines_are_printed_when_they_happen() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = in_directory(dir.path(), "/a");
    let go = dir.path().join("go");
    let wait = format!("/bin/sh -c 'until test -e {}; do sleep 0.1; done'", go.display());
    let catalog = serde_json::json!({"name": "n1", "environment": "production", "edges": [], "resources": [
        {"type": "Notify", "title": "a", "parameters": {"message": "one\ntwo"}},
        {"type": "Exec", "title": "wait", "parameters": {"command": wait, "timeout": 60, "require": "Notify[a]"}},
        {"type": "Notify", "title": "b", "parameters": {"message": "three", "require": "Exec[wait]"}},
    ]});
    fs::write(dir.path().join("catalog.json"), catalog.to_string()).unwrap();
    let mut agent = command.args(["apply", "--catalog", "catalog.json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(agent.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!((lines.next().as_deref(), lines.next().as_deref()), (Some("Notice: one"), Some("two")));
    fs::write(&go, "").unwrap();
    let rest: Vec<String> = lines.collect();
    // Had nothing been printed meanwhile, the command would have come to its limit.
    assert_eq!(agent.wait().unwrap().code(), Some(2), "{rest:?}");
    assert_eq!(rest.iter().filter(|line| *line == "Notice: three").count(), 1, "{rest:?}");
}

#[test]
fn a_plan_is_a_tree_and_tells_what_refreshes_would_run() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = in_directory(dir.path(), "/a");
    let catalog = serde_json::json!({"name": "n1", "environment": "production", "resources": [
        {"type": "Stage", "title": "main"},
        {"type": "Class", "title": "Web"},
        {"type": "File", "title": "/a", "parameters": {"content": "new\n", "notify": "Exec[rm]"}},
        {"type": "Exec", "title": "rm", "parameters": {"command": "/bin/rm -f precious", "refreshonly": true}},
    ], "edges": [
        {"source": "Stage[main]", "target": "Class[Web]"}, {"source": "Class[Web]", "target": "File[/a]"},
        {"source": "Class[Web]", "target": "Exec[rm]"},
    ]});
    fs::write(dir.path().join("catalog.json"), catalog.to_string()).unwrap();
    fs::write(dir.path().join("root/a"), "old\n").unwrap();
    command.args(["plan", "--catalog", "catalog.json"]);
    let plan = run(command);
    let shown = String::from_utf8(plan.stdout).unwrap();
    let (diff, tree) = shown.split_once("Stage[main]\n").unwrap();
    assert!(diff.starts_with("Notice: /Stage[main]/Web/File[/a]/content: \n--- ") && diff.ends_with("\n-old\n+new\n"), "{shown}");
    let rest = "    ! Exec[rm]\n        Would have triggered 'refresh' from 1 event\n\
                1 to change, 0 to create, 0 to remove, 1 to run\n";
    assert!(tree.starts_with("  Class[Web]\n    ~ File[/a]\n        content: ") && tree.ends_with(rest), "{shown}");
}

#[test]
fn a_standard_error_that_cannot_be_written_does_not_change_the_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for (arguments, code) in [
        (&["apply", "--catalog", "catalog.json"] as &[&str], 4),
        (&["apply", "--catalog", "catalog.json", "--log-format", "json", "-vv"], 4),
        (&["apply", "--catalog", "none.json"], 1),
    ] {
        let mut command = in_directory(dir.path(), "/no/directory/a");
        let status = command.args(arguments).stdout(full()).stderr(full()).status().unwrap();
        assert_eq!(status.code(), Some(code), "{arguments:?}");
    }
}

#[test]
fn over_https_the_certificate_says_who_a_node_is() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::new(&dir.path().join("site"));
    site.fill(3, "one");
    let mut authority = Authority::new();
    for (name, alternative) in [("server.example.com", "127.0.0.1"), ("node1.example.com", "node1.example.com")] {
        authority.install(name, alternative);
    }
    let ssldir = authority.ssldir().as_os_str().to_owned();
    let options = ["--ssldir".into(), ssldir.clone(), "--certname".into(), "server.example.com".into()];
    let serving = Serving::listening(dir.path(), &site, &["https://127.0.0.1:0"], &options);
    assert_eq!(serving.verb(&["publish"]).status.code(), Some(0));
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let agent = |node: &str| {
        let mut command = Command::new(&binaries().agent);
        command.args(["run", "--server", &serving.urls[0], "--node", node, "--json", "--ssldir"]).arg(&ssldir);
        run({
            command.arg("--root").arg(&root);
            command
        })
    };
    let first = agent("node1.example.com");
    assert_eq!(first.status.code(), Some(2), "{}", String::from_utf8_lossy(&first.stderr));
    assert_eq!(files(&root.join("srv/tree")), files(&site.tree()));
    // Another's name with one's own certificate: the name decides which files are read, so they are put there.
    for below in ["certs", "private_keys"] {
        let dir = authority.ssldir().join(below);
        fs::copy(dir.join("node1.example.com.pem"), dir.join("node2.example.com.pem")).unwrap();
    }
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    let mut command = Command::new(&binaries().agent);
    command.args(["run", "--server", &serving.urls[0], "--node", "node2.example.com", "--json", "--ssldir"]).arg(&ssldir);
    command.arg("--root").arg(&other);
    let refused = run(command);
    assert_eq!((refused.status.code(), other.join("srv").exists()), (Some(1), false));
    let said = json(&refused);
    assert!(said["error"].as_str().unwrap().contains("ask in the name of your certificate"), "{said}");
    let nodes = json(&serving.verb(&["nodes"]));
    assert_eq!(nodes.as_array().unwrap().len(), 1, "{nodes}");
}

#[test]
fn what_a_run_prints_has_one_shape_whatever_happened() {
    let dir = tempfile::tempdir().unwrap();
    let keys = ["status", "catalog_id", "code_id", "answer", "resources", "scan", "wire", "events"];
    let nobody = format!("unix:{}", dir.path().join("nobody.sock").display());
    let output = run(binaries().agent(dir.path(), &["run", "--server", &nobody]));
    let said = json(&output);
    assert_eq!((output.status.code(), &said["status"]), (Some(1), &"failed".into()));
    for key in keys {
        assert!(said.get(key).is_some(), "{key} is missing in {said}");
    }
    assert!(said["error"].as_str().is_some_and(|error| error.contains("nobody.sock")), "{said}");
    // Usage: 1, for 2 says that something changed.
    for wrong in [&["run", "--bogus"][..], &["apply"], &["run", "--node", "../x"], &["frobnicate"]] {
        let mut command = Command::new(&binaries().agent);
        command.args(wrong);
        assert_eq!(run(command).status.code(), Some(1), "{wrong:?}");
    }
    let mut help = Command::new(&binaries().agent);
    help.arg("--help");
    assert_eq!(run(help).status.code(), Some(0));
}

#[test]
fn ruby_is_started_only_when_it_may_be() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = dir.path().join("catalog.json");
    let odd = serde_json::json!({"type": "Dpt_odd", "title": "x", "kind": "compilable_type", "parameters": {}});
    let whole = serde_json::json!({"name": "n1.test", "catalog_format": 2, "resources": [odd], "edges": []});
    fs::write(&catalog, whole.to_string()).unwrap();
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/tests/data/ruby/lib").canonicalize().unwrap();
    let apply = |options: &[&str], library: &Path| {
        let mut command = Command::new(&binaries().agent);
        command.arg("apply").arg("--catalog").arg(&catalog).arg("--state-dir").arg(dir.path().join("state"));
        command.args(options).arg("--ruby-lib").arg(library).arg("--json");
        let output = run(command);
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code(), said)
    };
    let (code, said) = apply(&["--no-ruby"], &library);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("there is no type Dpt_odd here") && said.contains("\"ruby_started\": 0"), "{said}");
    let open = dir.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    let (code, said) = apply(&[], &open);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("open: anybody may write to it"), "{said}");
    let (code, said) = apply(&[], &dir.path().join("missing"));
    assert!(code == Some(1) && said.contains("missing: No such file or directory"), "{said}");
    let mut ruby = Command::new("ruby");
    if !ruby.args(["-e", "require 'puppet'"]).output().is_ok_and(|output| output.status.success()) {
        println!("LEFT OUT: a type in Ruby, which needs Ruby with Puppet's library: install puppet-agent and run the test again");
        return;
    }
    let (code, said) = apply(&[], &library);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("state changed 'even' to 'odd'") && said.contains("\"ruby_started\": 1"), "{said}");
}

#[test]
fn what_is_there_is_shown_as_puppet_code() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/hosts"), "10.0.0.2 b.example.com\n10.0.0.1 a.example.com a\n").unwrap();
    let resource = |arguments: &[&str]| {
        let mut command = Command::new(&binaries().agent);
        command.arg("resource").args(arguments).arg("--root").arg(&root);
        let output = run(command);
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), said(&output.stdout), said(&output.stderr))
    };
    let a = "host { 'a.example.com':\n  ensure       => 'present',\n  host_aliases => ['a'],\n  ip           => '10.0.0.1',\n  \
             provider     => 'parsed',\n  target       => '/etc/hosts',\n}\n";
    let b = "host { 'b.example.com':\n  ensure   => 'present',\n  ip       => '10.0.0.2',\n  provider => 'parsed',\n  \
             target   => '/etc/hosts',\n}\n";
    assert_eq!(resource(&["host"]), (Some(0), format!("{a}{b}"), String::new()));
    assert_eq!(resource(&["host", "none"]).1, "host { 'none':\n  ensure => 'absent',\n}\n");
    let (_, printed, _) = resource(&["host", "a.example.com", "--json"]);
    let printed: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(printed["resources"][0]["parameters"]["ip"], "10.0.0.1");
    let (_, yaml, _) = resource(&["host", "b.example.com", "--to_yaml"]);
    assert!(yaml.starts_with("---\nhost:\n  b.example.com:\n    ensure: present\n"), "{yaml}");
    for (arguments, reason) in [
        (&["host", "a.example.com", "ip=10.0.0.9"][..], "use \"apply\""),
        (&["bogus"], "there is no type Bogus here"),
        (&["exec"], "type Exec does not tell what is there"),
    ] {
        let (code, printed, error) = resource(arguments);
        assert!(code == Some(1) && printed.is_empty() && error.contains(reason), "{arguments:?}: {error}");
    }
    assert!(!root.join("var").exists(), "a state directory was made");
}

#[test]
fn graphs_are_drawn_when_they_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let graphs = dir.path().join("root/var/lib/direct-puppet/graphs");
    let apply = |option: Option<&str>| {
        let mut command = in_directory(dir.path(), "/a");
        command.args(["apply", "--catalog", "catalog.json"]).args(option);
        run(command).status.code()
    };
    assert_eq!((apply(None), graphs.exists()), (Some(2), false));
    assert_eq!(apply(Some("--graph")), Some(0));
    for (name, title) in
        [("resources", "Resources"), ("relationships", "Relationships"), ("expanded_relationships", "Expanded_relationships")]
    {
        let text = fs::read_to_string(graphs.join(name).with_extension("dot")).unwrap();
        assert!(text.starts_with(&format!("digraph {title} {{\n")) && text.contains("\"File[/a]\" [\n"), "{text}");
    }
}
