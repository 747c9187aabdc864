//! Our programs and those of an earlier commit.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};

use direct_puppet_tests::authority::Authority;
use direct_puppet_tests::binaries::{Binaries, binaries, json, previous, run};
use direct_puppet_tests::serving::{Serving, until};
use direct_puppet_tests::site::{Site, files};
use serde_json::Value;

/// So many that a server stores them together.
const FILES: usize = 100;

/// The programs of one age.
#[derive(Clone, Copy)]
struct Programs {
    age: &'static str,
    of: &'static Binaries,
}

impl Programs {
    /// Returns the earlier programs, and ours; says so and returns nothing where there are no earlier ones.
    fn both() -> Option<[Self; 2]> {
        let Some(earlier) = previous() else {
            println!(
                "LEFT OUT: programs of an earlier commit beside ours; run tests/skew/programs.sh DIR, which builds them, and this again with \
                 PREVIOUS_PROGRAMS=DIR"
            );
            return None;
        };
        Some([Self { age: "earlier", of: earlier }, Self { age: "ours", of: binaries() }])
    }

    /// Whether `direct-puppet run` has an option.
    fn has_option(self, option: &str) -> bool {
        let mut command = Command::new(&self.of.agent);
        command.args(["run", "--help"]);
        String::from_utf8_lossy(&run(command).stdout).contains(option)
    }
}

/// A site and directories for servers and nodes.
struct World {
    dir: tempfile::TempDir,
    site: Site,
    authority: Authority,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::DirBuilder::new().mode(0o700).create(dir.path().join("sockets")).unwrap();
        let site = Site::new(&dir.path().join("site"));
        site.fill(FILES, "one");
        let mut authority = Authority::new();
        authority.install("primary.example.com", "127.0.0.1");
        authority.install("replica.example.com", "127.0.0.1");
        authority.install("node1.example.com", "node1.example.com");
        Self { dir, site, authority }
    }

    fn socket(&self, name: &str) -> String {
        format!("unix:{}", self.dir.path().join(format!("sockets/{name}.sock")).display())
    }

    fn root(&self, name: &str) -> PathBuf {
        self.dir.path().join("roots").join(name)
    }

    fn start(&self, programs: Programs, name: &str, urls: &[&str], options: &[OsString]) -> Server {
        let dir = self.dir.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        Server { serving: Serving::run(Command::new(&programs.of.server), &dir, urls, options), programs }
    }

    fn staging(&self) -> Vec<OsString> {
        vec!["--staging".into(), self.site.dir().into()]
    }

    fn certified(&self, name: &str, more: &[&str]) -> Vec<OsString> {
        let mut options: Vec<OsString> =
            vec!["--ssldir".into(), self.authority.ssldir().into(), "--certname".into(), name.into()];
        options.extend(more.iter().map(OsString::from));
        options
    }

    /// Makes a run; contents travel packed where the program knows of that.
    fn run(&self, programs: Programs, root: &str, url: &str, options: &[&str]) -> Output {
        let root = self.root(root);
        fs::create_dir_all(&root).unwrap();
        let mut command = programs.of.agent(&root, &["run"]);
        command.args(["--server", url]).args(options);
        if url.starts_with("https:") {
            command.arg("--ssldir").arg(self.authority.ssldir());
        }
        if programs.has_option("--compression") {
            command.args(["--compression", "always"]);
        }
        run(command)
    }

    /// Makes a run that must bring the node to what is staged, and changes it or not; returns what it tells.
    fn converge(&self, programs: Programs, root: &str, url: &str, options: &[&str], status: &str) -> Value {
        let output = self.run(programs, root, url, options);
        let told = json(&output);
        let code = if status == "changed" { 2 } else { 0 };
        assert_eq!((output.status.code(), told["status"].as_str()), (Some(code), Some(status)), "{}", said(&output));
        assert_eq!(told["messages"], serde_json::json!([]), "{}", said(&output));
        assert!(files(&self.root(root).join("srv/tree")) == files(&self.site.tree()), "the node is not what was published");
        told
    }
}

struct Server {
    serving: Serving,
    programs: Programs,
}

impl Server {
    fn verb(&self, arguments: &[&str]) -> Output {
        self.serving.verb_of(&self.programs.of.server, arguments)
    }

    fn ask(&self, arguments: &[&str]) -> Value {
        let output = self.verb(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        json(&output)
    }

    /// Publishes; returns where the code stands, as nodes are told to ask for it.
    fn publish(&self) -> String {
        let published = self.ask(&["publish"]);
        assert_eq!(published["environments"][0]["error"], Value::Null, "{published}");
        let version = &published["environments"][0];
        let at = |name: &str| version.get(name).or_else(|| version["version"].get(name)).unwrap_or_else(|| panic!("{published}"));
        format!("{}.{}", at("epoch"), at("sequence"))
    }

    /// What was published, of each version what every program tells.
    fn history(&self) -> Vec<Value> {
        let versions = self.ask(&["versions"]);
        let known = ["environment", "code_id", "epoch", "sequence", "version", "files", "message", "author"];
        let short = |version: &Value| known.iter().map(|name| version[name].clone()).collect();
        versions.as_array().unwrap().iter().map(short).collect()
    }

    /// How often a catalog was compiled for the node, and what it reported last.
    fn node(&self) -> (u64, String) {
        let nodes = self.ask(&["nodes"]);
        let node = nodes.as_array().unwrap().iter().find(|node| node["certname"] == "node1.example.com").unwrap().clone();
        (node["compiles"].as_u64().unwrap(), node["status"].as_str().unwrap_or("none").to_owned())
    }

    fn assert_whole(&self) {
        let verified = self.verb(&["verify"]);
        assert_eq!(verified.status.code(), Some(0), "{}", said(&verified));
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn contents(told: &Value) -> u64 {
    told["wire"]["contents_received"].as_u64().unwrap()
}

/// A node of one age and a server of the other, from the first run on.
fn a_node_at_a_server(agent: Programs, server: Programs) {
    let world = World::new();
    let socket = world.socket("agent");
    let serving = world.start(server, "server", &["http://127.0.0.1:0", &socket], &world.staging());
    for (root, url) in [("socket", &serving.serving.urls[1]), ("http", &serving.serving.urls[0])] {
        println!("an agent that is {} at a server that is {}, over {root}", agent.age, server.age);
        let is_first = root == "socket";
        world.site.fill(FILES, root);
        serving.publish();
        let compiles = if is_first { 0 } else { serving.node().0 };
        let first = world.converge(agent, root, url, &[], "changed");
        assert_eq!((&first["answer"], contents(&first)), (&"catalog".into(), FILES as u64));
        assert_eq!(serving.node(), (compiles + 1, "changed".to_owned()), "the report has come");
        let idle = world.converge(agent, root, url, &[], "unchanged");
        assert_eq!((&idle["answer"], contents(&idle)), (&"current".into(), 0));
        assert_eq!(serving.node(), (compiles + 1, "unchanged".to_owned()), "the report has come");
        // A change of some contents, in few bytes where both know how.
        for number in 0..3 {
            let path = world.site.tree().join(format!("d{number:02}/file{number:05}"));
            fs::write(&path, [&fs::read(&path).unwrap()[..], &[b'x'; 40_000]].concat()).unwrap();
        }
        fs::remove_file(world.site.tree().join("d03/file00003")).unwrap();
        serving.publish();
        let changed = world.converge(agent, root, url, &[], "changed");
        assert_eq!((&changed["answer"], contents(&changed)), (&"catalog".into(), 3));
        if [agent, server].iter().all(|programs| programs.has_option("--compression")) {
            assert!(changed["wire"]["bytes_received"].as_u64().unwrap() < 20_000, "{}", changed["wire"]);
        }
        assert_eq!(serving.node(), (compiles + 2, "changed".to_owned()), "the report has come");
        // What was put out of order is put right from what the node has, or the server.
        fs::write(world.root(root).join("srv/tree/d04/file00004"), "drift").unwrap();
        let mended = world.converge(agent, root, url, &[], "changed");
        assert_eq!(mended["answer"], "current");
    }
    serving.assert_whole();
    // Verbs of another age at a running server, as when the package was replaced and the server not yet started again.
    for verb in [&["versions"][..], &["nodes"], &["explain", "--environment", "production"], &["publish"], &["verify"]] {
        let output = serving.serving.verb_of(&agent.of.server, verb);
        assert_eq!(output.status.code(), Some(0), "{verb:?}: {}", said(&output));
    }
    assert_eq!(
        json(&serving.serving.verb_of(&agent.of.server, &["versions"])).as_array().unwrap().len(),
        serving.history().len()
    );
}

#[test]
fn an_earlier_agent_is_served() {
    let Some([earlier, ours]) = Programs::both() else { return };
    a_node_at_a_server(earlier, ours);
}

#[test]
fn an_agent_works_at_an_earlier_server() {
    let Some([earlier, ours]) = Programs::both() else { return };
    a_node_at_a_server(ours, earlier);
}

/// A replica of one age and a primary of the other, with nodes of both ages.
fn a_replica_of_a_primary(replica: Programs, primary: Programs) {
    let world = World::new();
    println!("a replica that is {} of a primary that is {}", replica.age, primary.age);
    let mut options = world.certified("primary.example.com", &["--replica", "replica.example.com"]);
    options.extend(world.staging());
    let first = world.start(primary, "primary", &["https://127.0.0.1:0"], &options);
    first.publish();
    let url = first.serving.urls[0].clone();
    let options = world.certified("replica.example.com", &["--primary", &url]);
    let second = world.start(replica, "replica", &["https://127.0.0.1:0"], &options);
    for version in ["one", "two", "three"] {
        if version != "one" {
            world.site.fill(3, version);
        }
        let at_least = if version == "one" { "1.1".to_owned() } else { first.publish() };
        // Read after publish: what was published a moment ago, at a server that may not have heard of it.
        for programs in [replica, primary] {
            let options = if programs.has_option("--at-least") { vec!["--at-least", &at_least] } else { Vec::new() };
            let told = world.converge(programs, programs.age, &second.serving.urls[0], &options, "changed");
            assert_eq!(contents(&told), if version == "one" { FILES as u64 } else { 3 });
            assert_eq!(told["messages"], serde_json::json!([]));
        }
        assert_eq!(second.node().1, "changed", "the report has come");
        assert_eq!(second.history().last(), first.history().last());
    }
    assert_eq!(second.node().0, 3, "one for each publish");
    // Publishes arrive without anybody asking for them, too.
    world.site.fill(2, "four");
    first.publish();
    until("a publish at the primary", || second.history().last() == first.history().last());
    second.assert_whole();
    first.assert_whole();
}

#[test]
fn an_earlier_replica_follows() {
    let Some([earlier, ours]) = Programs::both() else { return };
    a_replica_of_a_primary(earlier, ours);
}

#[test]
fn a_replica_follows_an_earlier_primary() {
    let Some([earlier, ours]) = Programs::both() else { return };
    a_replica_of_a_primary(ours, earlier);
}

/// One of two servers is promoted, and the other follows it; each has its own age.
fn a_promotion(replica: Programs, primary: Programs) {
    let world = World::new();
    println!("a replica that is {} takes over from a primary that is {}", replica.age, primary.age);
    let (a, b) = (world.socket("a"), world.socket("b"));
    let options = |name: &str, more: [&str; 2]| {
        let mut options = world.staging();
        options.extend(["--certname", name].iter().chain(&more).map(OsString::from));
        options
    };
    let first = world.start(primary, "a", &[&a], &options("a.example.com", ["--successor", &b]));
    let second = world.start(replica, "b", &[&b], &options("b.example.com", ["--primary", &a]));
    first.publish();
    world.converge(primary, "node", &b, &[], "changed");
    second.ask(&["promote"]);
    assert_eq!(first.verb(&["publish"]).status.code(), Some(1), "it has stepped down");
    world.site.fill(3, "two");
    assert_eq!(second.publish(), "2.2");
    world.converge(replica, "node", &b, &[], "changed");
    // The one that was primary is started again, and has learnt that it is not.
    drop(first);
    let first = world.start(primary, "a", &[&a], &options("a.example.com", ["--primary", &b]));
    world.converge(primary, "other", &a, &[], "changed");
    assert_eq!(first.history().last(), second.history().last());
    first.assert_whole();
    second.assert_whole();
}

#[test]
fn an_earlier_replica_is_promoted() {
    let Some([earlier, ours]) = Programs::both() else { return };
    a_promotion(earlier, ours);
}

#[test]
fn a_replica_takes_over_from_an_earlier_primary() {
    let Some([earlier, ours]) = Programs::both() else { return };
    a_promotion(ours, earlier);
}

/// The directories of a server and a node: first of the earlier programs, then of ours, then of the earlier ones again, then of ours.
#[test]
fn an_upgrade_keeps_everything_and_so_does_a_way_back() {
    let Some([earlier, ours]) = Programs::both() else { return };
    let world = World::new();
    let socket = world.socket("agent");
    let mut history = Vec::new();
    for (at, programs) in [earlier, ours, earlier, ours].into_iter().enumerate() {
        println!("number {at}: programs that are {}", programs.age);
        let server = world.start(programs, "server", &[&socket], &world.staging());
        let compiles = if at == 0 { 0 } else { server.node().0 };
        if at > 0 {
            // Nothing was lost, nothing is made again: neither catalogs nor contents.
            assert_eq!(server.history(), history);
            server.assert_whole();
            for _ in 0..2 {
                let told = world.converge(programs, "node", &socket, &[], "unchanged");
                assert_eq!((&told["answer"], &told["wire"]["contents_requested"]), (&"current".into(), &0.into()));
                assert_eq!(told["scan"]["bytes_hashed"], 0, "files were proved before");
            }
            assert_eq!(server.node(), (compiles, "unchanged".to_owned()));
            let dry = server.ask(&["publish"]);
            assert_eq!(dry["environments"][0]["changed"], false, "{dry}");
        }
        // So many small contents that they are stored together, and so few that they are not.
        for (number, count) in [FILES, 3].into_iter().enumerate() {
            world.site.fill(count, &format!("{at} {number}"));
            server.publish();
            let told = world.converge(programs, "node", &socket, &[], "changed");
            assert_eq!(contents(&told), count as u64);
        }
        assert_eq!(server.node(), (compiles + 2, "changed".to_owned()));
        history = server.history();
        assert_eq!(history.len(), 2 * (at + 1));
        server.assert_whole();
    }
}
