//! Real programs on hosts of their own, over HTTPS, and a network between them that is really cut.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Output;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use direct_puppet_server_stub::linearisable::{Act, Op, is_linearisable};
use direct_puppet_tests::authority::Authority;
use direct_puppet_tests::binaries::{binaries, json, run};
use direct_puppet_tests::namespaces::Network;
use direct_puppet_tests::serving::{Serving, live};
use direct_puppet_tests::site::Site;
use serde_json::Value;

/// Hosts: two or three servers; all nodes are at the one after them.
const A: usize = 0;
const B: usize = 1;
const C: usize = 2;

struct World {
    network: Network,
    authority: Authority,
    sites: Vec<Site>,
    dir: tempfile::TempDir,
}

impl World {
    fn new(servers: usize) -> Option<Self> {
        let network = Network::new(servers + 1)?;
        let dir = tempfile::tempdir().unwrap();
        let mut authority = Authority::new();
        for host in 0..servers {
            authority.install(&Self::name(host), &network.address(host));
            let node = Self::node_name(host);
            authority.install(&node, &node);
        }
        let sites = (0..servers).map(|host| Site::new(&dir.path().join(format!("site{host}")))).collect();
        Some(Self { network, authority, sites, dir })
    }

    fn name(host: usize) -> String {
        format!("server{host}.example.com")
    }

    fn node_name(number: usize) -> String {
        format!("node{number}.example.com")
    }

    fn url(&self, host: usize) -> String {
        format!("https://{}:8140", self.network.address(host))
    }

    /// Starts a server; `a` is a primary that knows its successors, the others follow. Each names all others.
    fn start(&self, host: usize) -> Serving {
        let dir = self.dir.path().join(format!("server{host}"));
        fs::create_dir_all(&dir).unwrap();
        let mut options: Vec<OsString> = vec![
            "--staging".into(),
            self.sites[host].dir().into(),
            "--ssldir".into(),
            self.authority.ssldir().into(),
            "--certname".into(),
            Self::name(host).into(),
        ];
        for other in (0..self.sites.len()).filter(|other| *other != host) {
            options.extend(["--replica".into(), Self::name(other).into()]);
            options.extend([if host == A { "--successor" } else { "--primary" }.into(), self.url(other).into()]);
        }
        let command = self.network.command(host, &binaries().server);
        Serving::run(command, &dir, &[&self.url(host)], &options)
    }

    /// A node runs against a server.
    fn node(&self, root: &str, host: usize) -> Value {
        self.numbered_node(0, root, host)
    }

    fn numbered_node(&self, number: usize, root: &str, host: usize) -> Value {
        let root: PathBuf = self.dir.path().join(root);
        fs::create_dir_all(&root).unwrap();
        let mut command = self.network.command(self.sites.len(), &binaries().agent);
        command.args(["run", "--node", &Self::node_name(number), "--json", "--server", &self.url(host), "--root"]).arg(&root);
        command.arg("--ssldir").arg(self.authority.ssldir());
        json(&run(command))
    }

    fn publish(&self, server: &Serving, host: usize, version: &str) -> Output {
        self.sites[host].fill(3, version);
        server.verb(&["publish", "--message", version])
    }

    fn cut(&self, is_cut: bool) {
        self.network.cut(A, B, is_cut);
        self.network.cut(B, A, is_cut);
    }
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

#[test]
fn a_network_that_is_cut_makes_nobody_answer_from_old_code() {
    let Some(world) = World::new(2) else {
        println!("LEFT OUT: the cut network needs root and ip, to make network namespaces");
        return;
    };
    let (a, b) = (world.start(A), world.start(B));
    assert_eq!(code(&world.publish(&a, A, "one")), Some(0));
    let first = world.node("n", B);
    assert_eq!((&first["answer"], &first["status"]), (&"catalog".into(), &"changed".into()));

    // Cut in both directions, and in one: the primary goes on, the replica answers nothing that may be old.
    for (version, is_one_way) in [("two", false), ("three", true)] {
        world.network.cut(A, B, true);
        if !is_one_way {
            world.network.cut(B, A, true);
        }
        assert_eq!(code(&world.publish(&a, A, version)), Some(0));
        let cached = world.node("n", B);
        assert_eq!((&cached["answer"], &cached["status"]), (&"cached".into(), &"unchanged".into()), "{version}");
        assert_eq!(world.node("other", A)["code_id"], live(&a), "{version}");
        let refused = b.verb(&["promote"]);
        assert_eq!(code(&refused), Some(1));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("force"), "{}", String::from_utf8_lossy(&refused.stderr));
        world.network.cut(A, B, false);
        if !is_one_way {
            world.network.cut(B, A, false);
        }
        let healed = world.node("n", B);
        assert_eq!((&healed["answer"], &healed["code_id"]), (&"catalog".into(), &live(&a)), "{version}");
    }

    // A handover: nothing is lost, and the old primary follows.
    assert_eq!(code(&b.verb(&["promote"])), Some(0));
    assert_eq!(code(&world.publish(&a, A, "refused")), Some(1));
    assert_eq!(code(&world.publish(&b, B, "four")), Some(0));
    assert_eq!(world.node("n", A)["code_id"], live(&b));

    // The new primary publishes what the other never hears of, and dies.
    world.cut(true);
    assert_eq!(code(&world.publish(&b, B, "five")), Some(0));
    let lost = json(&b.verb(&["versions"])).as_array().unwrap().last().unwrap().clone();
    b.kill();
    world.cut(false);
    assert_eq!(code(&a.verb(&["promote"])), Some(1));
    assert_eq!(code(&a.verb(&["promote", "--force"])), Some(0));
    assert_eq!(code(&world.publish(&a, A, "six")), Some(0));
    // It returns, follows, and tells what was left out.
    let b = world.start(B);
    assert_eq!(world.node("n", B)["code_id"], live(&a));
    assert_eq!(code(&world.publish(&b, B, "refused")), Some(1));
    let version = format!("{}.{}", lost["epoch"], lost["sequence"]);
    assert_eq!(json(&b.verb(&["explain", &version]))["is_left_out"], true);
    for server in [&a, &b] {
        assert_eq!(code(&server.verb(&["verify"])), Some(0));
    }
}

/// What clients of three servers saw.
struct History<'a> {
    world: &'a World,
    begun: Instant,
    ops: Mutex<Vec<Op>>,
    /// Which value each code is.
    values: Mutex<BTreeMap<String, u32>>,
}

impl<'a> History<'a> {
    fn new(world: &'a World) -> Self {
        Self { world, begun: Instant::now(), ops: Mutex::default(), values: Mutex::default() }
    }

    /// Microseconds since the history began.
    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap()
    }

    fn record(&self, act: Act, begun: u64, who: String) {
        self.ops.lock().unwrap().push(Op { act, begun, ended: Some(self.now()), who });
    }

    fn value(&self, code_id: &Value) -> u32 {
        self.values.lock().unwrap()[code_id.as_str().unwrap()]
    }

    /// Publishes a value, which must succeed.
    fn publish(&self, server: &Serving, host: usize, value: u32) {
        // Files are filled alike, so that the code is known before it is published.
        self.world.sites[host].fill(3, &format!("v{value}"));
        let dry = server.verb(&["publish", "--dry-run"]);
        assert_eq!(code(&dry), Some(0), "{}", String::from_utf8_lossy(&dry.stderr));
        let code_id = json(&dry)["environments"][0]["code_id"].as_str().unwrap().to_owned();
        self.values.lock().unwrap().insert(code_id, value);
        let begun = self.now();
        let output = server.verb(&["publish"]);
        assert_eq!(code(&output), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        self.record(Act::Write(value), begun, format!("publish at {host}"));
    }

    /// Promotes a server, which takes over what is live; by force something may be left out, so that it is written anew.
    fn promote(&self, server: &Serving, host: usize, arguments: &[&str]) -> Value {
        let begun = self.now();
        let output = server.verb(&[&["promote"], arguments].concat());
        assert_eq!(code(&output), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        let promoted = json(&output);
        let value = self.value(&promoted["live"][0]["code_id"]);
        let act = if arguments.contains(&"--force") { Act::Write(value) } else { Act::Read(value) };
        self.record(act, begun, format!("promote {host}"));
        promoted
    }

    /// A node runs against a server; returns whether it was answered.
    fn read(&self, host: usize) -> bool {
        let begun = self.now();
        let outcome = self.world.numbered_node(host, &format!("node{host}"), host);
        if !["current", "catalog"].map(Value::from).contains(&outcome["answer"]) {
            return false;
        }
        self.record(Act::Read(self.value(&outcome["code_id"])), begun, format!("node at {host}"));
        true
    }

    /// Publishes at `primary` while nodes run against `hosts`; returns how many of their runs were answered, for each host.
    fn round(&self, servers: &[Serving], primary: usize, hosts: &[usize], first: u32) -> Vec<usize> {
        const READS: usize = 4;
        std::thread::scope(|scope| {
            // Who is cut off waits long for a no: one is enough.
            let read = |&host: &usize| scope.spawn(move || (0..READS).take_while(|_| self.read(host)).count());
            let nodes: Vec<_> = hosts.iter().map(read).collect();
            for value in first..first + 3 {
                self.publish(&servers[primary], primary, value);
            }
            nodes.into_iter().map(|node| node.join().unwrap()).collect()
        })
    }
}

/// Waits until something is so.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(120), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn what_clients_of_three_servers_see_while_the_network_is_cut_is_what_one_register_would_answer() {
    let Some(world) = World::new(3) else {
        println!("LEFT OUT: the cut network needs root and ip, to make network namespaces");
        return;
    };
    let servers = [world.start(A), world.start(B), world.start(C)];
    let history = History::new(&world);
    until("the servers to hear of each other", || code(&servers[A].verb(&["publish", "--dry-run"])) == Some(0));
    history.publish(&servers[A], A, 0);
    assert_eq!(history.round(&servers, A, &[A, B, C], 1), [4, 4, 4], "nothing is cut");

    // One replica cannot reach the primary, in both directions and then in one; the other goes on.
    for (first, ways) in [(10, [(A, B), (B, A)].as_slice()), (20, &[(A, C)])] {
        ways.iter().for_each(|&(from, to)| world.network.cut(from, to, true));
        let answered = history.round(&servers, A, &[A, B, C], first);
        let cut_off = if first == 10 { B } else { C };
        assert_eq!((answered[A], answered[cut_off], answered[3 - cut_off]), (4, 0, 4), "{cut_off} is cut off");
        ways.iter().for_each(|&(from, to)| world.network.cut(from, to, false));
    }
    until("the cut to heal", || history.read(B) && history.read(C));

    // Half of all packets between a replica and the primary are lost, each way: what is answered there is right all the same.
    if world.network.lose_half(A, B) {
        assert_eq!(history.round(&servers, A, &[A, C], 24), [4, 4], "nothing is lost there");
        let answered = history.round(&servers, A, &[B], 27);
        let dropped = world.network.lose_nothing();
        println!("half of the packets lost: {dropped} dropped, {} of 4 reads answered", answered[0]);
        assert!(dropped > 20, "{dropped} packets were dropped");
        until("the loss to heal", || history.read(B));
    } else {
        println!("LEFT OUT: a network that loses half of all packets, which needs nft to be installed");
    }

    // A handover under load.
    history.promote(&servers[B], B, &[]);
    assert_eq!(history.round(&servers, B, &[A, B, C], 30), [4, 4, 4], "all follow");

    // A forced promotion while the old primary goes on, out of reach of the new one and not of the other: whoever was left out is to be
    // kept away from, and nobody else answers from there.
    for (from, to) in [(B, C), (C, B)] {
        world.network.cut(from, to, true);
    }
    let promoted = history.promote(&servers[C], C, &["--force"]);
    assert_eq!(promoted["left_out"].as_array().unwrap().len(), 1, "{promoted}");
    assert_eq!(promoted["left_out"][0]["server"].as_str().map(|server| server.contains(&world.network.address(B))), Some(true));
    let answered = history.round(&servers, C, &[A, C], 40);
    assert_eq!(answered, [4, 4]);
    for (from, to) in [(B, C), (C, B)] {
        world.network.cut(from, to, false);
    }
    until("the old primary to follow", || live(&servers[B]) == live(&servers[C]));
    assert_eq!(history.round(&servers, C, &[A, B, C], 50), [4, 4, 4], "all follow");

    let history = history.ops.into_inner().unwrap();
    let reads = history.iter().filter(|op| matches!(op.act, Act::Read(_))).count();
    println!("{} operations, {reads} reads", history.len());
    assert!(is_linearisable(&history), "the history has no order: {history:#?}");
    // The judge would notice: the same with one read that is older than it may be.
    let mut stale = history;
    let last = stale.iter().rposition(|op| matches!(op.act, Act::Read(_))).unwrap();
    stale[last].act = Act::Read(1);
    assert!(!is_linearisable(&stale), "a stale read goes unnoticed");
    for server in &servers {
        assert_eq!(code(&server.verb(&["verify"])), Some(0));
    }
}
