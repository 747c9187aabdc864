//! One simulated world: four servers, three nodes, faults, and what everybody saw.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use direct_puppet_transport::protocol::frame::FetchEvent;
use direct_puppet_transport::protocol::{
    Catalog, CatalogReply, CheckIn, Digest, Environment, Fetch, Held, SubmitFacts, VersionCounter,
};
use direct_puppet_transport::{Client, Transport};

use super::net::{DRIVER, FRAME, Life, Link, Net, PLACES, Place};
use super::rng::Rng;
use crate::linearisable::{Act, Op};
use crate::publish::PublishRequest;
use crate::tests::{certname, check_in, facts};
use crate::{Peers, PromoteRequest, Server, ServerOptions, Staging};

pub(super) const SERVERS: usize = PLACES - 1;
pub(super) const NODES: usize = 8;
/// Where all nodes are.
const OUTSIDE: Place = SERVERS;

/// For how long replicas answer what they cannot confirm, in a quarter of all worlds.
const UNCONFIRMED_FOR: Duration = Duration::from_secs(30);

const SITE: &str = "\
nodes:
  - match: \"*\"
    classes: [base]
classes:
  base:
    - file: /srv/value
      source: puppet:///modules/app/value
";

/// How often each thing was done.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Deeds {
    pub(super) reads: u64,
    /// Those by who had heard what was published last.
    pub(super) sessions: u64,
    /// Those that were answered from what could not be confirmed.
    pub(super) unconfirmed: u64,
    pub(super) publishes: u64,
    pub(super) publishes_cut_off: u64,
    pub(super) crashes: u64,
    pub(super) handovers: u64,
    pub(super) forced: u64,
    /// While the old primary went on.
    pub(super) forced_beside: u64,
    pub(super) cuts: u64,
    pub(super) clock_jumps: u64,
}

impl Deeds {
    pub(super) fn add(&mut self, other: Self) {
        self.reads += other.reads;
        self.sessions += other.sessions;
        self.unconfirmed += other.unconfirmed;
        self.publishes += other.publishes;
        self.publishes_cut_off += other.publishes_cut_off;
        self.crashes += other.crashes;
        self.handovers += other.handovers;
        self.forced += other.forced;
        self.forced_beside += other.forced_beside;
        self.cuts += other.cuts;
        self.clock_jumps += other.clock_jumps;
    }
}

/// An operation at a server, and the epoch that the server knew when it was begun.
#[derive(Debug, Clone)]
struct Recorded {
    op: Op,
    place: Place,
    knew: u64,
}

/// A forced promotion while the old primary went on. Whoever was left out of it is promised nothing of until it has heard: an
/// administrator keeps everybody away from there.
#[derive(Debug)]
struct Beside {
    begun: u64,
    epoch: u64,
    left_out: Vec<String>,
}

impl Beside {
    fn is_unheard(&self, place: Place, knew: u64) -> bool {
        knew < self.epoch && self.left_out.contains(&format!("sim:{place}"))
    }
}

#[derive(Debug, Default)]
struct Seen {
    history: Vec<Recorded>,
    besides: Vec<Beside>,
    values: BTreeMap<Digest, u32>,
    held: BTreeMap<usize, (Held, u32)>,
    /// What the last publish that ended was given.
    published: Option<VersionCounter>,
    /// Nodes that are at it: one run at a time.
    busy: BTreeSet<usize>,
    deeds: Deeds,
    wrong: Vec<String>,
}

#[derive(Debug)]
pub(super) struct World {
    dir: tempfile::TempDir,
    pub(super) net: Arc<Net>,
    seen: Arc<Mutex<Seen>>,
    /// Whether servers hear of news by themselves; else only confirming finds them.
    has_news: bool,
    /// For how long replicas answer what they cannot confirm.
    unconfirmed_for: Duration,
    /// Held while somebody works with a server's staging.
    staging: [Arc<tokio::sync::Mutex<()>>; SERVERS],
}

impl World {
    pub(super) fn new(seed: u64) -> Arc<Self> {
        // Memory, where there is some: a simulated disk needs no platter.
        let shm = PathBuf::from("/dev/shm");
        let dir = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
        let world = Self {
            dir,
            net: Net::new(seed),
            seen: Arc::default(),
            has_news: !seed.is_multiple_of(3),
            unconfirmed_for: if seed % 4 == 1 { UNCONFIRMED_FOR } else { Duration::ZERO },
            staging: Default::default(),
        };
        for place in 0..SERVERS {
            fs::create_dir_all(world.value_path(place).parent().unwrap()).unwrap();
            fs::write(world.staging_dir(place).join("environments/production/site.yaml"), SITE).unwrap();
        }
        Arc::new(world)
    }

    fn staging_dir(&self, place: Place) -> PathBuf {
        self.dir.path().join(format!("staging{place}"))
    }

    fn value_path(&self, place: Place) -> PathBuf {
        self.staging_dir(place).join("environments/production/modules/app/files/value")
    }

    pub(super) fn start(&self, place: Place) {
        if self.net.server(place).is_some() {
            return;
        }
        let is_over = Arc::new(AtomicBool::new(false));
        let way = |to| -> Arc<dyn Transport> { Arc::new(Link::new(&self.net, place, to, None, &is_over)) };
        let others = (0..SERVERS).filter(|&to| to != place).map(way).collect();
        let peers = Some(Peers { name: certname(&format!("server{place}")), transports: others });
        let staging = Staging::Environments(self.staging_dir(place));
        let data = self.dir.path().join(format!("data{place}"));
        let options = ServerOptions { compile_workers: 1, ..ServerOptions::new(data, staging) };
        let options = match place {
            0 => ServerOptions { successors: peers, ..options },
            _ => ServerOptions { primary: peers, ..options },
        };
        let options = ServerOptions { unconfirmed_for: self.unconfirmed_for, ..options };
        let clock = self.net.clock(place);
        let server = clock.run(|| Server::open(options)).unwrap();
        let life = Life::new(Arc::clone(&server), Arc::clone(&is_over), Arc::clone(clock));
        if self.has_news {
            life.begin(async move { server.follow(&tokio_util::sync::CancellationToken::new()).await });
        }
        self.net.plug(place, life);
    }

    pub(super) async fn crash(&self, place: Place) {
        if let Some(life) = self.net.unplug(place) {
            self.seen.lock().unwrap().deeds.crashes += 1;
            life.kill().await;
        }
    }

    pub(super) fn deeds(&self) -> Deeds {
        self.seen.lock().unwrap().deeds
    }

    pub(super) fn count(&self, count: impl FnOnce(&mut Deeds)) {
        count(&mut self.seen.lock().unwrap().deeds);
    }

    pub(super) fn history(&self) -> Vec<Op> {
        let seen = self.seen.lock().unwrap();
        let is_unheard = |done: &Recorded| {
            seen.besides.iter().any(|beside| beside.begun <= done.op.begun && beside.is_unheard(done.place, done.knew))
        };
        let promised = |done: &Recorded| match (is_unheard(done), done.op.act) {
            (false, _) => Some(done.op.clone()),
            // It may have been taken over before the promotion ended, or never.
            (true, Act::Write(_)) => Some(Op { ended: None, ..done.op.clone() }),
            (true, Act::Read(_)) => None,
        };
        let mut history: Vec<Op> = seen.history.iter().filter_map(promised).collect();
        history.sort_by(|a, b| (a.begun, a.ended, &a.who).cmp(&(b.begun, b.ended, &b.who)));
        history
    }

    /// What was wrong besides the order.
    pub(super) fn wrong(&self) -> Vec<String> {
        self.seen.lock().unwrap().wrong.clone()
    }

    pub(super) fn is_wrong(&self, what: String) {
        self.seen.lock().unwrap().wrong.push(what);
    }

    fn record(&self, place: Place, knew: u64, op: Op) {
        self.seen.lock().unwrap().history.push(Recorded { op, place, knew });
    }

    fn epoch(&self, place: Place) -> u64 {
        self.net.server(place).map_or(0, |server| server.role.epoch())
    }

    /// The server that administrators take for the primary.
    fn primary(&self) -> Option<Place> {
        let seen = self.seen.lock().unwrap();
        (0..SERVERS).find(|&at| {
            self.net.server(at).is_some_and(|server| {
                server.role.is_primary() && !seen.besides.iter().any(|beside| beside.is_unheard(at, server.role.epoch()))
            })
        })
    }

    fn primaries(&self) -> impl Iterator<Item = Arc<Server>> {
        (0..SERVERS).filter_map(|at| self.net.server(at)).filter(|server| server.role.is_primary())
    }

    /// Publishes a value at a server.
    pub(super) async fn publish(self: Arc<Self>, place: Place, value: u32) {
        let _turn = self.staging[place].lock().await;
        self.seen.lock().unwrap().values.insert(Digest::of(value.to_string().as_bytes()), value);
        fs::write(self.value_path(place), value.to_string()).unwrap();
        let (begun, knew) = (self.net.now(), self.epoch(place));
        let published = self.net.run(place, |server| async move { server.publish(PublishRequest::default()).await }).await;
        let op = |ended| Op { act: Act::Write(value), begun, ended, who: format!("publish at {place}") };
        match published {
            Some(Ok(results)) if results[0].error.is_none() => {
                self.count(|deeds| deeds.publishes += 1);
                let published = VersionCounter { epoch: results[0].epoch, sequence: results[0].sequence };
                self.seen.lock().unwrap().published = Some(published);
                self.record(place, knew, op(Some(self.net.now())));
            }
            // A clear no has changed nothing.
            Some(_) => {}
            None => {
                self.count(|deeds| deeds.publishes_cut_off += 1);
                self.record(place, knew, op(None));
            }
        }
    }

    /// Promotes a server. One that is not forced takes over what is live, as a read; what a forced one takes over is written anew, for it may
    /// leave something out.
    pub(super) async fn promote(self: Arc<Self>, place: Place, force: bool) -> bool {
        let begun = self.net.now();
        let promoted =
            self.net.run(place, move |server| async move { server.promote(&PromoteRequest { force }, "sim").await }).await;
        let Some(Ok(promoted)) = promoted else { return false };
        self.count(|deeds| if force { deeds.forced += 1 } else { deeds.handovers += 1 });
        if self.primaries().count() > 1 {
            self.count(|deeds| deeds.forced_beside += 1);
            let left_out = promoted.left_out.into_iter().map(|left_out| left_out.server).collect();
            self.seen.lock().unwrap().besides.push(Beside { begun, epoch: promoted.epoch, left_out });
        }
        if !promoted.live.is_empty()
            && let Some(value) = self.net.server(place).and_then(|server| self.live_value(&server))
        {
            let act = if force { Act::Write(value) } else { Act::Read(value) };
            let who = format!("promote {place} force {force}");
            self.record(place, promoted.epoch, Op { act, begun, ended: Some(self.net.now()), who });
        }
        true
    }

    fn live_value(&self, server: &Server) -> Option<u32> {
        let code = server.environments.live(&Environment::default())?;
        let Ok(content) = code.read(&"modules/app/files/value".parse().unwrap(), 100) else {
            self.is_wrong(format!("{} is live without its contents", code.version.version));
            return None;
        };
        let content = content?;
        String::from_utf8(content.to_vec()).unwrap().parse().ok()
    }

    async fn visit(self: Arc<Self>, node: usize, place: Place) {
        for _ in 0..3 {
            if Arc::clone(&self).read(node, place).await {
                break;
            }
        }
        self.seen.lock().unwrap().busy.remove(&node);
    }

    /// A node asks a server what to be, and gets it.
    pub(super) async fn read(self: Arc<Self>, node: usize, place: Place) -> bool {
        let name = format!("node{node}");
        let client = Client::new(Link::new(&self.net, OUTSIDE, place, Some(node), &Arc::new(AtomicBool::new(false))));
        let held = self.seen.lock().unwrap().held.get(&node).copied();
        let (begun, knew) = (self.net.now(), self.epoch(place));
        // Every other node runs for whoever published last, and takes nothing older.
        let at_least = self.seen.lock().unwrap().published.filter(|_| node % 2 == 1);
        let asked = CheckIn { held: held.map(|held| held.0), at_least, ..check_in(&name, None) };
        let reply = match client.check_in(&asked).await {
            Ok(CatalogReply::FactsNeeded) => client.submit_facts(&SubmitFacts { check_in: asked, facts: facts("Linux") }).await,
            other => other,
        };
        let (now, value, unconfirmed) = match reply {
            Ok(CatalogReply::Current { code_id, version, unconfirmed_seconds }) => {
                let Some((held, value)) = held else {
                    self.is_wrong(format!("{name} has a catalog that it never got"));
                    return false;
                };
                (Held { code_id, version, ..held }, value, unconfirmed_seconds)
            }
            Ok(CatalogReply::Catalog { catalog_id, code_id, version, catalog, unconfirmed_seconds }) => {
                let catalog = Catalog::decode(&catalog, catalog_id).unwrap();
                let digest = catalog.contents().next().unwrap().0;
                match self.fetch(&client, &name, digest).await {
                    Fetched::Value(value) => (Held { catalog_id, code_id, version }, value, unconfirmed_seconds),
                    Fetched::Missing => {
                        self.is_wrong(format!("{place} gave {name} a catalog of {version} without its contents"));
                        return false;
                    }
                    Fetched::Broken => return false,
                }
            }
            _ => return false,
        };
        if at_least.is_some_and(|at_least| now.version < at_least) {
            self.is_wrong(format!("{place} gave {name} {}, who asked for {at_least:?}", now.version));
        }
        self.count(|deeds| {
            deeds.reads += 1;
            deeds.sessions += u64::from(at_least.is_some());
            deeds.unconfirmed += u64::from(unconfirmed.is_some());
        });
        let begun = match unconfirmed.map(u64::from) {
            Some(seconds) if seconds > self.unconfirmed_for.as_secs() => {
                self.is_wrong(format!("{place} answered {name} from what it could not confirm for {seconds} s"));
                begun
            }
            // It was live at some time since then, by a clock that may go slowly.
            Some(seconds) => begun.saturating_sub(seconds * 1112 + 3000),
            None => begun,
        };
        let who = format!("{name} at {place} reads {}", now.version);
        self.record(place, knew, Op { act: Act::Read(value), begun, ended: Some(self.net.now()), who });
        self.hold(node, now, value);
        true
    }

    fn hold(&self, node: usize, now: Held, value: u32) {
        let mut seen = self.seen.lock().unwrap();
        let newest = seen.held.get(&node).map_or(VersionCounter::default(), |held| held.0.version);
        if now.version >= newest {
            seen.held.insert(node, (now, value));
        }
    }

    async fn fetch(&self, client: &Client<Link>, name: &str, digest: Digest) -> Fetched {
        let request = Fetch { certname: certname(name), digests: vec![digest], offsets: BTreeMap::new(), packed: None };
        let Ok(mut stream) = client.fetch(&request).await else { return Fetched::Broken };
        let mut content = Vec::new();
        while let Ok(Some(event)) = stream.next().await {
            match event {
                FetchEvent::Data(data) => content.extend_from_slice(&data),
                FetchEvent::Missing { .. } => return Fetched::Missing,
                _ => {}
            }
        }
        let value = self.seen.lock().unwrap().values.get(&Digest::of(&content)).copied();
        value.filter(|_| digest.verifies(&content)).map_or(Fetched::Broken, Fetched::Value)
    }

    /// Some thirty deeds of clients, administrators and fate.
    pub(super) async fn live_through(self: &Arc<Self>, rng: &mut Rng) {
        for place in 0..SERVERS {
            self.start(place);
        }
        let (mut value, favourite, is_quiet) = (0, rng.index(SERVERS), rng.below(4) == 0);
        let mut tasks = tokio::task::JoinSet::new();
        let mut restarts: BTreeMap<Place, u32> = BTreeMap::new();
        for _ in 0..100 {
            // Mostly in bursts.
            let most = if rng.below(4) == 0 { 20 } else { 2 };
            let frame = self.net.now() / FRAME + 1 + rng.below(most);
            self.net.until(frame * FRAME + DRIVER).await;
            // Who crashed comes back some deeds later.
            for place in 0..SERVERS {
                if let Some(left) = restarts.get_mut(&place) {
                    *left = left.saturating_sub(1);
                    if *left == 0 {
                        restarts.remove(&place);
                        self.start(place);
                    }
                }
            }
            // Most nodes ask the same server.
            let place = if rng.below(2) == 0 { favourite } else { rng.index(SERVERS) };
            // In some worlds nothing breaks, and everybody is busy.
            match rng.below(if is_quiet { 78 } else { 100 }) {
                0..56 => {
                    let node = rng.index(NODES);
                    if self.seen.lock().unwrap().busy.insert(node) {
                        tasks.spawn(Arc::clone(self).visit(node, place));
                    }
                }
                56..78 => {
                    value += 1;
                    tasks.spawn(Arc::clone(self).publish(self.primary().unwrap_or(place), value));
                }
                78..81 => {
                    self.crash(place).await;
                    restarts.insert(place, 1 + u32::try_from(rng.below(20)).unwrap());
                }
                81..85 => {
                    let (from, to) = (rng.index(SERVERS + 1), rng.index(SERVERS));
                    self.net.cut(from, to, true);
                    self.count(|deeds| deeds.cuts += 1);
                    if rng.below(2) == 0 {
                        self.net.cut(to, from, true);
                    }
                }
                85..92 => (0..=SERVERS).for_each(|from| (0..=SERVERS).for_each(|to| self.net.cut(from, to, false))),
                92..96 => {
                    self.count(|deeds| deeds.clock_jumps += 1);
                    self.net.clock(place).jump(i64::try_from(rng.below(200_000)).unwrap() - 100_000);
                }
                _ => {
                    // An administrator forces where no primary runs, or where the one that runs cannot be reached from the new one, which
                    // had followed it.
                    let primary = self.primary();
                    let is_beside = rng.below(4) == 0;
                    let follows = |primary: Place| primary != place && self.epoch(place) == self.epoch(primary);
                    if let Some(primary) = primary.filter(|&primary| follows(primary) && is_beside) {
                        self.net.cut(place, primary, true);
                        self.net.cut(primary, place, rng.below(4) > 0);
                        self.count(|deeds| deeds.cuts += 1);
                    }
                    if self.net.server(place).is_some() {
                        let force = primary.is_none_or(|primary| follows(primary) && self.net.is_cut(place, primary));
                        Arc::clone(self).promote(place, force).await;
                    }
                }
            }
        }
        self.net.calm();
        while tasks.join_next().await.is_some() {}
    }

    /// After all faults, one is primary, and everybody has what it has.
    pub(super) async fn settle(self: &Arc<Self>) {
        for place in 0..SERVERS {
            self.start(place);
        }
        let mut is_ready = false;
        for attempt in 0..8 {
            tokio::time::sleep(Duration::from_secs(60)).await;
            is_ready = true;
            for place in 0..SERVERS {
                let confirmed = self.net.run(place, |server| async move { server.confirm().await?.whole() }).await;
                is_ready &= matches!(confirmed, Some(Ok(_)));
            }
            let epochs: Vec<u64> = self.primaries().map(|server| server.role.epoch()).collect();
            // Two of the same epoch, each promoted by force while nobody else could be reached, are an administrator's to tell apart.
            if self.has_news && epochs.iter().any(|epoch| *epoch != epochs[0]) {
                self.is_wrong(format!("primaries do not hear of each other: {epochs:?}"));
            }
            is_ready &= epochs.len() == 1;
            if is_ready {
                break;
            }
            // Nobody is primary, or two took themselves for one: an administrator decides.
            if attempt >= 1 {
                Arc::clone(self).promote(attempt % SERVERS, true).await;
            }
        }
        if !is_ready {
            return self.is_wrong("the servers never agreed again".to_owned());
        }
        // An administrator may have promoted a server that had nothing: publishing once more makes it whole.
        let is_primary = |place: &Place| self.net.server(*place).is_some_and(|server| server.role.is_primary());
        if let Some(primary) = (0..SERVERS).find(is_primary) {
            Arc::clone(self).publish(primary, u32::MAX).await;
        }
        for place in 0..SERVERS {
            if !Arc::clone(self).read(place % NODES, place).await {
                self.is_wrong(format!("{place} does not answer when all is well"));
            }
        }
        let servers: Vec<_> = (0..SERVERS).filter_map(|place| self.net.server(place)).collect();
        let live = |server: &Arc<Server>| server.live_versions().first().map(|version| (version.version, version.code_id));
        if servers.iter().any(|server| live(server) != live(&servers[0])) {
            self.is_wrong(format!("the servers differ: {:?}", servers.iter().map(live).collect::<Vec<_>>()));
        }
        if servers.iter().filter(|server| server.role.is_primary()).count() != 1 {
            let roles: Vec<_> = servers.iter().map(|server| (server.role.is_primary(), server.role.epoch())).collect();
            self.is_wrong(format!("there is not one primary: {roles:?}"));
        }
        for server in servers {
            let problems = server.verify().unwrap().problems;
            if !problems.is_empty() {
                self.is_wrong(format!("{problems:?}"));
            }
        }
        for place in 0..SERVERS {
            self.crash(place).await;
        }
    }
}

enum Fetched {
    Value(u32),
    Missing,
    /// The network broke it off, or the server does not know the catalog.
    Broken,
}
