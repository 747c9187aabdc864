//! Promotion, and what becomes of the primary before.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use direct_puppet_transport::protocol::{Deployed, Operation, RefusalCode, Rollout, SyncConfirm, VersionCounter};
use direct_puppet_transport::{Client, MemoryTransport, Request, Response, Transport, TransportError, TransportErrorKind};

use super::promotion::{peers, port};
use super::*;
use crate::listen::Routes as _;
use crate::{AdminRoutes, Peers, PromoteRequest, Promoted, PuppetRoutes, ServerError};

/// Where a server answers while it runs, unless it is silent.
#[derive(Debug, Default)]
struct Port(Mutex<Option<Arc<Server>>>, AtomicBool);

#[async_trait]
impl Transport for Port {
    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        if self.1.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let server = self.0.lock().unwrap().clone();
        let Some(server) = server else { return Err(TransportError::new(TransportErrorKind::Connect, self.endpoint())) };
        let handler: Arc<dyn direct_puppet_transport::Handler> = server;
        MemoryTransport::new(handler).call(request).await
    }

    fn endpoint(&self) -> &str {
        "memory:peer"
    }
}

/// Two servers that know each other: `a` is started as primary, `b` to follow it.
pub(super) struct Two {
    pub(super) a: World,
    pub(super) b: World,
    port_a: Arc<Port>,
    port_b: Arc<Port>,
}

impl Two {
    pub(super) fn new() -> Self {
        Self { a: World::new(), b: World::new(), port_a: Arc::default(), port_b: Arc::default() }
    }

    pub(super) fn start_a(&self) -> Arc<Server> {
        let server = self.a.open_with(|options| options.successors = Some(peer("a", &self.port_b)));
        *self.port_a.0.lock().unwrap() = Some(Arc::clone(&server));
        server
    }

    pub(super) fn start_b(&self) -> Arc<Server> {
        self.start_b_with(|_| {})
    }

    fn start_b_with(&self, change: impl FnOnce(&mut ServerOptions)) -> Arc<Server> {
        let server = self.b.open_with(|options| {
            options.primary = Some(peer("b", &self.port_a));
            change(options);
        });
        *self.port_b.0.lock().unwrap() = Some(Arc::clone(&server));
        server
    }

    pub(super) fn stop_a(&self, server: Arc<Server>) {
        Self::stop(&self.port_a, server);
    }

    pub(super) fn stop_b(&self, server: Arc<Server>) {
        Self::stop(&self.port_b, server);
    }

    fn stop(port: &Port, server: Arc<Server>) {
        *port.0.lock().unwrap() = None;
        drop(Arc::into_inner(server).expect("nobody else holds the server"));
    }
}

/// Holds the turn to publish at a server, as a long publish would, until it is dropped.
pub(super) struct Turn(Option<(std::sync::mpsc::Sender<()>, std::thread::JoinHandle<()>)>);

impl Turn {
    pub(super) async fn hold(server: &Arc<Server>) -> Self {
        let (publishing, (release, is_over)) = (Arc::clone(&server.publishing), std::sync::mpsc::channel());
        let (begun, is_begun) = tokio::sync::oneshot::channel();
        let holder = std::thread::spawn(move || {
            let _turn = publishing.lock().unwrap();
            begun.send(()).unwrap();
            assert!(is_over.recv().is_err(), "nothing is sent");
        });
        is_begun.await.unwrap();
        Self(Some((release, holder)))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (release, holder) = self.0.take().unwrap();
        drop(release);
        holder.join().unwrap();
    }
}

fn peer(name: &str, port: &Arc<Port>) -> Peers {
    let transport: Arc<dyn Transport> = Arc::<Port>::clone(port);
    Peers { name: certname(name), transports: vec![transport] }
}

pub(super) async fn promote(server: &Arc<Server>, force: bool) -> Result<Promoted, ServerError> {
    server.promote(&PromoteRequest { force }, "test").await
}

fn version(epoch: u64, sequence: u64) -> VersionCounter {
    VersionCounter { epoch, sequence }
}

#[tokio::test]
async fn a_handover_loses_nothing_and_costs_no_compile() {
    let two = Two::new();
    let (a, b) = (two.start_a(), two.start_b());
    publish_all(&a).await;
    let (held, _) = compiled(&b, "n1").await;
    two.a.stage("modules/app/files/tree/new", "never seen by b before");
    let last = publish(&a, PublishRequest { message: "why".to_owned(), ..PublishRequest::default() }).await;
    let promoted = promote(&b, false).await.unwrap();
    assert_eq!((promoted.epoch, promoted.live.len()), (2, 1));
    assert_eq!((promoted.live[0].version, Some(promoted.live[0].code_id)), (version(2, 1), last.code_id));
    assert_eq!(b.verify().unwrap().problems, []);
    assert_eq!(promoted.live[0].message, "taken over from 1.2: why");
    // The old primary follows from now on: it refuses to publish, and answers with what the new one has.
    assert!(matches!(a.publish(PublishRequest::default()).await, Err(ServerError::Replica { .. })));
    let (own, _) = compiled(&a, "n1").await;
    assert_eq!((own.version, Some(own.code_id)), (version(2, 1), last.code_id));
    // Code that is the same is not compiled again for having another counter.
    let (compiles, mine) = (two.b.compiles(), compiled(&b, "n1").await.0);
    assert_eq!(two.b.compiles(), compiles + 1, "the code of {held:?} was replaced before the promotion");
    let reply = b.check_in(&Peer::InProcess, check_in("n1", Some(mine))).await.unwrap();
    assert!(matches!(reply, CatalogReply::Current { version, .. } if version == self::version(2, 1)));
    // The new one publishes, and goes on with the counter; the old one has it at once.
    two.b.stage("modules/app/files/tree/a", "by b");
    assert_eq!((publish_all(&b).await.epoch, publish_all(&b).await.sequence), (2, 2));
    assert_eq!(compiled(&a, "n2").await.0.version, version(2, 2));
    assert!(promote(&b, false).await.is_err(), "it is the primary already");
    // And back again.
    let back = promote(&a, false).await.unwrap();
    assert_eq!((back.epoch, back.live[0].message.as_str()), (3, "taken over from 2.2"));
    assert_eq!(compiled(&b, "n2").await.0.version, version(3, 1));
}

#[tokio::test]
async fn a_primary_that_was_replaced_while_it_was_away_follows_and_lists_what_was_left_out() {
    let two = Two::new();
    let (a, b) = (two.start_a(), two.start_b());
    publish_all(&a).await;
    b.confirm().await.unwrap();
    two.a.stage("modules/app/files/tree/lost", "published, and never brought");
    let lost = publish_all(&a).await;
    two.stop_a(a);
    let error = promote(&b, false).await.unwrap_err();
    assert!(error.to_string().contains("force"), "{error}");
    assert!(!b.role.is_primary());
    assert_eq!(promote(&b, true).await.unwrap().epoch, 2);
    two.b.stage("modules/app/files/tree/a", "by b");
    publish_all(&b).await;
    // It asks before it answers anybody, and then follows.
    let a = two.start_a();
    let (held, _) = compiled(&a, "n1").await;
    assert_eq!(held.version, version(2, 2));
    // Who was told that it is published is not answered from code that was made without it, though its counter is higher.
    for server in [&a, &b] {
        let ask = async |at_least| {
            let request = CheckIn { at_least: Some(at_least), ..check_in("n1", Some(held)) };
            server.check_in(&Peer::InProcess, request).await.map_err(|refusal| (refusal.code, refusal.message))
        };
        let (code, message) = ask(version(1, 2)).await.unwrap_err();
        assert!(code == RefusalCode::Stale && message.contains("not taken it over"), "{message}");
        assert!(ask(version(1, 1)).await.is_ok());
    }
    assert!(matches!(a.publish(PublishRequest::default()).await, Err(ServerError::Replica { .. })));
    let versions = a.versions(None).unwrap();
    let left_out: Vec<_> = versions.iter().filter(|listed| listed.is_left_out).map(|listed| &listed.version).collect();
    assert_eq!((left_out.len(), left_out[0].version, Some(left_out[0].code_id)), (1, version(1, 2), lost.code_id));
    // What was left out can still be made live, by the one who is primary then.
    assert_eq!(promote(&a, false).await.unwrap().epoch, 3);
    let request = crate::history::RollbackRequest::new(Environment::default(), "1.2".parse().unwrap());
    assert_eq!(a.rollback(request).await.unwrap().sequence, 2);
    assert_eq!(compiled(&b, "n1").await.0.code_id, lost.code_id.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_primary_with_a_successor_answers_only_after_it_has_asked() {
    let two = Two::new();
    let a = two.start_a();
    let refusal = a.check_in(&Peer::InProcess, check_in("n1", None)).await.unwrap_err();
    assert_eq!((refusal.code, refusal.retry_after_seconds), (RefusalCode::Stale, Some(5)));
    assert!(matches!(a.publish(PublishRequest::default()).await, Err(ServerError::Unconfirmed { .. })));
    let b = two.start_b();
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    publish_all(&a).await;
    // Asked once, it is believed: the successor may go.
    two.stop_b(b);
    compiled(&a, "n1").await;
    // A second primary of the same epoch is told from a successor.
    two.stop_a(a);
    *two.port_b.0.lock().unwrap() = Some(two.b.open());
    let error = two.start_a().confirm().await.unwrap_err();
    assert!(error.to_string().contains("a primary too"), "{error}");
}

#[tokio::test]
async fn a_promotion_that_a_crash_cut_off_is_ended_by_the_next_start() {
    let two = Two::new();
    let (a, b) = (two.start_a(), two.start_b());
    publish_all(&a).await;
    b.confirm().await.unwrap();
    two.stop_a(a);
    promote(&b, true).await.unwrap();
    two.stop_b(b);
    // As if the crash had come between the role and the first counter.
    let live = two.b.data().join("code/production/live.json");
    let text = fs::read_to_string(&live).unwrap();
    assert!(text.contains("\"epoch\": 2"));
    fs::write(&live, edited(&text, "\"epoch\": 2", "\"epoch\": 1")).unwrap();
    let b = two.start_b();
    assert!(b.role.is_primary());
    assert_eq!(self::live(&b).version.version, version(2, 1));
}

#[tokio::test]
async fn two_who_are_promoted_at_once_begin_different_epochs() {
    let (a, b, c) = (World::new(), World::new(), World::new());
    let ports: [Arc<Port>; 3] = Default::default();
    let others = |own: usize| {
        let ways = ports.iter().enumerate().filter(|(at, _)| *at != own);
        let transports = ways.map(|(_, port)| Arc::<Port>::clone(port) as Arc<dyn Transport>).collect();
        Some(Peers { name: certname(&format!("server{own}")), transports })
    };
    let a = a.open_with(|options| options.successors = others(0));
    let servers = [a, b.open_with(|options| options.primary = others(1)), c.open_with(|options| options.primary = others(2))];
    for (port, server) in ports.iter().zip(&servers) {
        *port.0.lock().unwrap() = Some(Arc::clone(server));
    }
    publish_all(&servers[0]).await;
    let request = PromoteRequest::default();
    let (one, two) = tokio::join!(servers[1].promote(&request, "one"), servers[2].promote(&request, "two"));
    let epochs: Vec<u64> = [&one, &two].into_iter().flatten().map(|promoted| promoted.epoch).collect();
    assert!(!epochs.is_empty() && (epochs.len() == 1 || epochs[0] != epochs[1]), "{one:?} {two:?}");
    for server in &servers {
        server.confirm().await.unwrap();
    }
    assert_eq!(servers.iter().filter(|server| server.role.is_primary()).count(), 1);
}

/// Whoever asks waits no longer: what it does later would leave no primary.
#[tokio::test]
async fn a_promotion_that_meets_a_publish_changes_nothing() {
    let two = Two::new();
    let (a, b) = (two.start_a(), two.start_b());
    publish_all(&a).await;
    b.confirm().await.unwrap();
    let turn = Turn::hold(&a).await;
    let refused = promote(&b, false).await.unwrap_err();
    assert!(matches!(&refused, ServerError::NotPromoted { reason } if reason.contains("is under way")), "{refused}");
    drop(turn);
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert!(a.role.is_primary() && !b.role.is_primary());
    publish_all(&a).await;
    promote(&b, false).await.unwrap();
    assert!(!a.role.is_primary() && b.role.is_primary());
}

/// What was confirmed when a wait began may have been replaced when it ends.
#[tokio::test(start_paused = true)]
async fn who_has_waited_is_answered_from_what_is_confirmed_then() {
    let two = Two::new();
    let a = two.start_a();
    let b = two.start_b_with(|options| options.unconfirmed_for = std::time::Duration::from_secs(20));
    publish_all(&a).await;
    let (held, _) = compiled(&b, "n1").await;
    let wait = |wait_seconds: u32| CheckIn { wait_seconds, ..check_in("n1", Some(held)) };
    assert!(b.check_in(&Peer::InProcess, wait(5)).await.is_ok());
    two.stop_a(a);
    let reply = b.check_in(&Peer::InProcess, wait(10)).await.unwrap();
    let CatalogReply::Current { unconfirmed_seconds: Some(seconds), .. } = reply else { panic!("{reply:?}") };
    assert!((10..=12).contains(&seconds), "{seconds}");
    let refusal = b.check_in(&Peer::InProcess, wait(40)).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Stale);
}

#[tokio::test(start_paused = true)]
async fn for_as_long_as_it_is_told_a_replica_answers_unconfirmed_and_says_so() {
    let two = Two::new();
    let a = two.start_a();
    let b = two.start_b_with(|options| options.unconfirmed_for = std::time::Duration::from_secs(60));
    publish_all(&a).await;
    let (held, _) = compiled(&b, "n1").await;
    two.stop_a(a);
    tokio::time::sleep(std::time::Duration::from_secs(50)).await;
    let reply = b.check_in(&Peer::InProcess, check_in("n1", Some(held))).await.unwrap();
    let CatalogReply::Current { unconfirmed_seconds: Some(seconds), .. } = reply else { panic!("{reply:?}") };
    assert!((50..=52).contains(&seconds), "{seconds}");
    // Agents of Puppet find it in a header.
    let routes = PuppetRoutes::new(Arc::clone(&b), Arc::new(AdminRoutes::new(Arc::clone(&b), Vec::new())));
    let ask = async || {
        let catalog = hyper::Request::get("/puppet/v3/catalog/n1?environment=production").header("accept", "application/json");
        routes.route(&Peer::certificate(certname("n1")), catalog.body(bytes::Bytes::new()).unwrap()).await.unwrap()
    };
    let response = ask().await;
    let told = &response.headers()["x-direct-puppet-unconfirmed-seconds"];
    assert!((50..=52).contains(&told.to_str().unwrap().parse::<u64>().unwrap()), "{told:?}");
    // So it is with whatever else is made from live code.
    for path in ["node/n1", "file_metadatas/plugins", "file_metadata/modules/app/tree/a", "file_content/modules/app/tree/a"] {
        let asked = hyper::Request::get(format!("/puppet/v3/{path}?environment=production&recurse=true")).header("accept", "*/*");
        let asked = asked.body(bytes::Bytes::new()).unwrap();
        let response = routes.route(&Peer::certificate(certname("n1")), asked).await.unwrap();
        assert_eq!(response.status().as_u16(), 200, "{path}");
        assert_eq!(response.headers()["x-direct-puppet-unconfirmed-seconds"], told, "{path}");
    }
    // Their reports do not say so by themselves.
    let report = async |uuid: &str| {
        let body = format!(
            r#"{{"host":"n1","time":"2026-11-22T12:45:52Z","transaction_uuid":"{uuid}-1930-4328-a631-fcad3e53396b","report_format":12,
                "status":"unchanged","environment":"production","configuration_version":1,"logs":[],"metrics":{{}},"resource_statuses":{{}}}}"#
        );
        let put = hyper::Request::put("/puppet/v3/report/n1?environment=production").header("content-type", "application/json");
        let put = put.body(bytes::Bytes::from(body)).unwrap();
        let response = routes.route(&Peer::certificate(certname("n1")), put).await.unwrap();
        assert_eq!(response.status().as_u16(), 200);
        let nodes = fs::read_dir(two.b.data().join("nodes")).unwrap().map(|node| node.unwrap().path().join("reports"));
        let kept = nodes.flat_map(|dir| fs::read_dir(dir).unwrap()).map(|file| file.unwrap().path());
        let kept = kept.filter(|path| path.to_string_lossy().contains(uuid)).map(|path| fs::read_to_string(path).unwrap());
        kept.collect::<String>()
    };
    let kept = report("b6f640dd").await;
    let said = format!("could not confirm for {} s", told.to_str().unwrap());
    assert!(kept.contains(&said), "{said}: {kept}");
    // Who has just published asks for that, and gets no older answer.
    for path in ["catalog/n1", "node/n1", "file_metadata/modules/app/tree/a"] {
        for (at_least, status) in
            [("production=1.1", 200), ("production=1.2", 503), ("other=1.2", 200), ("1.1", 400), ("production=1", 400)]
        {
            let asked =
                hyper::Request::get(format!("/puppet/v3/{path}?environment=production")).header("accept", "application/json");
            let asked = asked.header("X-Direct-Puppet-At-Least", at_least).body(bytes::Bytes::new()).unwrap();
            let response = routes.route(&Peer::certificate(certname("n1")), asked).await.unwrap();
            assert_eq!(response.status().as_u16(), status, "{path} of {at_least}");
        }
    }
    let token = CheckIn { at_least: Some(version(1, 2)), ..check_in("n1", Some(held)) };
    assert_eq!(b.check_in(&Peer::InProcess, token).await.unwrap_err().code, RefusalCode::Stale);
    tokio::time::sleep(std::time::Duration::from_secs(11)).await;
    let refusal = b.check_in(&Peer::InProcess, check_in("n1", Some(held))).await.unwrap_err();
    assert_eq!((refusal.code, refusal.retry_after_seconds), (RefusalCode::Stale, Some(5)));
    let response = ask().await;
    assert_eq!((response.status().as_u16(), &response.headers()["retry-after"]), (503, &"5".parse().unwrap()));
}

/// A power cut takes all servers away, and the primary comes back last.
#[tokio::test]
async fn what_was_confirmed_before_a_restart_counts_after_it() {
    let two = Two::new();
    let a = two.start_a();
    let start = || two.start_b_with(|options| options.unconfirmed_for = std::time::Duration::from_secs(60));
    let b = start();
    publish_all(&a).await;
    let (held, _) = compiled(&b, "n1").await;
    let path = b.environments.dir(&Environment::default()).join("confirmed.json");
    let written = tokio::time::timeout(std::time::Duration::from_secs(20), async {
        while !path.exists() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    });
    written.await.expect("what was confirmed is written");
    two.stop_a(a);
    two.stop_b(b);
    let b = start();
    let reply = b.check_in(&Peer::InProcess, check_in("n1", Some(held))).await.unwrap();
    let CatalogReply::Current { unconfirmed_seconds: Some(seconds), .. } = reply else { panic!("{reply:?}") };
    assert!((1..30).contains(&seconds), "{seconds}");
    two.stop_b(b);
    // Too long ago, in the future, of other code, or damaged: refused as one that knows nothing.
    let kept = fs::read_to_string(&path).unwrap();
    let now = crate::server::now();
    let told =
        |time: u64, version: &str| format!(r#"{{"version":{version},"code_id":"{}","time_unix_seconds":{time}}}"#, held.code_id);
    let own = serde_json::from_str::<serde_json::Value>(&kept).unwrap()["version"].to_string();
    let others = [told(now - 61, &own), told(now + 3600, &own), told(now, r#"{"epoch":1,"sequence":9}"#), "{".to_owned()];
    for (text, is_known) in others.iter().map(|other| (other, false)).chain([(&kept, true)]) {
        fs::write(&path, text).unwrap();
        let b = start();
        let answered = b.check_in(&Peer::InProcess, check_in("n1", Some(held))).await;
        assert_eq!(answered.is_ok(), is_known, "{text}: {answered:?}");
        two.stop_b(b);
    }
}

/// Nobody waits long, again and again, for a primary that takes connections and says nothing.
#[tokio::test(start_paused = true)]
async fn one_who_may_answer_unconfirmed_waits_long_for_a_silent_primary_once() {
    let two = Two::new();
    let a = two.start_a();
    let b = two.start_b_with(|options| options.unconfirmed_for = std::time::Duration::from_secs(3600));
    publish_all(&a).await;
    let (held, _) = compiled(&b, "n1").await;
    two.port_a.1.store(true, Ordering::SeqCst);
    let begun = tokio::time::Instant::now();
    for _ in 0..30 {
        let asked = tokio::time::Instant::now();
        let reply = b.check_in(&Peer::InProcess, check_in("n1", Some(held))).await.unwrap();
        assert!(matches!(reply, CatalogReply::Current { unconfirmed_seconds: Some(_), .. }), "{reply:?}");
        let is_first = asked == begun;
        assert!(is_first || asked.elapsed().as_millis() < 1100, "waited for {:?} after {:?}", asked.elapsed(), begun.elapsed());
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    }
    // It speaks again, and who comes then is answered from what it says.
    two.port_a.1.store(false, Ordering::SeqCst);
    tokio::time::sleep(std::time::Duration::from_secs(20)).await;
    let reply = b.check_in(&Peer::InProcess, check_in("n1", Some(held))).await.unwrap();
    assert!(matches!(reply, CatalogReply::Current { unconfirmed_seconds: None, .. }), "{reply:?}");
}

#[tokio::test]
async fn nobody_is_answered_from_older_code_than_he_asks_for() {
    let world = World::new();
    let server = world.open();
    publish_all(&server).await;
    let (held, _) = compiled(&server, "n1").await;
    let ask = async |held: Held, at_least: Option<VersionCounter>| {
        let request = CheckIn { at_least, ..check_in("n1", Some(held)) };
        server.check_in(&Peer::InProcess, request).await.map_err(|refusal| refusal.code)
    };
    assert!(ask(held, Some(version(1, 1))).await.is_ok());
    assert_eq!(ask(held, Some(version(1, 2))).await, Err(RefusalCode::Stale));
    // What a node holds counts as well, unless it is told to accept older.
    let newer = Held { version: version(1, 9), ..held };
    assert_eq!(ask(newer, None).await, Err(RefusalCode::Stale));
    assert!(ask(newer, Some(VersionCounter::default())).await.is_ok());
    assert!(Operation::SyncEpoch.is_idempotent());
}

/// What an administrator has kept back at the old primary is kept back at the new one, though that was not asked since.
#[tokio::test]
async fn a_pause_outlives_a_handover() {
    let two = Two::new();
    let (a, b) = (two.start_a(), two.start_b());
    publish_all(&a).await;
    compiled(&b, "n1").await;
    let rules = crate::rollout::RolloutRequest { pause: Some("it broke".to_owned()), per_second: Some(7), ..Default::default() };
    let set = |server: &Arc<Server>| {
        let (server, rules) = (Arc::clone(server), rules.clone());
        tokio::task::spawn_blocking(move || server.set_rollout(&rules, "test"))
    };
    set(&a).await.unwrap().unwrap();
    assert_eq!(b.gate.rollout(), Default::default(), "it has not asked since");
    promote(&b, false).await.unwrap();
    let kept = b.gate.rollout();
    assert_eq!((kept.paused.as_deref(), kept.per_second), (Some("it broke"), 7));
    // What was said by the one that was primary, and comes late, counts no more; nor is it acknowledged there.
    b.gate.set_if(|| b.role.leads().is_none(), Default::default()).unwrap();
    assert_eq!(b.gate.rollout(), kept);
    assert!(matches!(set(&a).await.unwrap(), Err(ServerError::Replica { .. })));
    // The new one has its own: none of what the old one thinks.
    let resume = crate::rollout::RolloutRequest { resume: true, ..Default::default() };
    let (server, resumed) = (Arc::clone(&b), resume.clone());
    tokio::task::spawn_blocking(move || server.set_rollout(&resumed, "test")).await.unwrap().unwrap();
    promote(&a, false).await.unwrap();
    assert_eq!((a.gate.rollout().paused, a.gate.rollout().per_second), (None, 7));
}

/// Who waits at a server that is replaced is told at once, and asks elsewhere.
#[tokio::test(start_paused = true)]
async fn nobody_waits_on_at_a_server_that_was_replaced() {
    let two = Two::new();
    let (a, b) = (two.start_a(), two.start_b());
    publish_all(&a).await;
    let (held, _) = compiled(&a, "n1").await;
    b.confirm().await.unwrap().whole().unwrap();
    let begun = tokio::time::Instant::now();
    let live = live(&b).version.clone();
    let request = SyncConfirm {
        protocol: ProtocolVersion::CURRENT,
        replica: certname("b"),
        deployed: [(live.environment, Deployed { code_id: live.code_id, version: live.version })].into(),
        wait_seconds: 240,
        rollout: Rollout::default(),
        epoch: 1,
        answered: [].into(),
        nodes: None,
    };
    let to_a = Arc::clone(&two.port_a);
    let follows = tokio::spawn(async move { Client::new(to_a).sync_confirm(&request).await });
    let node = {
        let (a, wait) = (Arc::clone(&a), CheckIn { wait_seconds: 240, ..check_in("n1", Some(held)) });
        tokio::spawn(async move { a.check_in(&Peer::InProcess, wait).await })
    };
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert!(!follows.is_finished() && !node.is_finished());
    assert!(a.hear(2).await.unwrap());
    assert!(follows.await.unwrap().is_err());
    // It looks whether another can confirm what it has, and none can.
    assert_eq!(node.await.unwrap().unwrap_err().code, RefusalCode::Stale);
    assert!(begun.elapsed() < std::time::Duration::from_secs(60), "{:?}", begun.elapsed());
}

/// A server that is promoted while it waits for an answer of a silent one tells the others at once.
#[tokio::test(start_paused = true)]
async fn who_is_promoted_beside_a_silent_server_waits_for_it_no_longer() {
    let two = Two::new();
    let (a, b) = (two.start_a(), two.start_b());
    publish_all(&a).await;
    b.confirm().await.unwrap().whole().unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let following = {
        let (b, stop) = (Arc::clone(&b), stop.clone());
        tokio::spawn(async move { b.follow(&stop).await })
    };
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    two.port_a.1.store(true, Ordering::SeqCst);
    // Answers to what was asked before come no more either.
    let begun = tokio::time::Instant::now();
    promote(&b, true).await.unwrap();
    two.port_a.1.store(false, Ordering::SeqCst);
    while a.role.epoch() < 2 {
        assert!(begun.elapsed() < std::time::Duration::from_secs(60), "nobody tells it");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    stop.cancel();
    following.await.unwrap();
}

/// So it is when a promotion had come as far as that the old primary stepped down, and is asked for again; and nobody but a primary that steps
/// down says what a new one keeps back.
#[tokio::test]
async fn a_pause_outlives_a_promotion_that_is_asked_for_again() {
    let two = Two::new();
    let (a, b) = (two.start_a(), two.start_b());
    publish_all(&a).await;
    compiled(&b, "n1").await;
    let set = async |server: &Arc<Server>, why: &str| {
        let rules = crate::rollout::RolloutRequest { pause: Some(why.to_owned()), ..Default::default() };
        let server = Arc::clone(server);
        tokio::task::spawn_blocking(move || server.set_rollout(&rules, "test")).await.unwrap().unwrap();
    };
    let paused = |server: &Server| server.gate.rollout().paused;
    set(&a, "it broke").await;
    assert!(a.hear(2).await.unwrap() && !a.role.is_primary());
    promote(&b, false).await.unwrap();
    assert_eq!(paused(&b).as_deref(), Some("it broke"));
    // Forced once more it keeps what it has, whatever others have.
    set(&b, "another reason").await;
    promote(&b, true).await.unwrap();
    assert_eq!(paused(&b).as_deref(), Some("another reason"));
}

/// The answer to a rollback that was lost with the primary is given by the next one, which does not have what was gone back to as it was then.
#[tokio::test]
async fn a_rollback_is_not_made_twice_by_a_promotion() {
    let two = Two::new();
    let (a, b) = (two.start_a(), two.start_b());
    let first = publish_all(&a).await;
    two.a.stage("modules/app/files/tree/a", "second");
    publish_all(&a).await;
    let to = "1.1".parse().unwrap();
    let back = crate::history::RollbackRequest {
        request_id: Some("back".to_owned()),
        ..crate::history::RollbackRequest::new(Environment::default(), to)
    };
    let made = a.rollback(back.clone()).await.unwrap();
    b.confirm().await.unwrap().whole().unwrap();
    two.stop_a(a);
    promote(&b, true).await.unwrap();
    assert!(matches!(b.find_version(&Environment::default(), to), Err(ServerError::NoVersion { .. })));
    let again = b.rollback(back).await.unwrap();
    assert_eq!((again.changed, again.code_id, again.sequence), (true, first.code_id, made.sequence));
    assert_eq!(live(&b).version.version, version(2, 1));
}

/// Where the primary is gone, what this server keeps back counts, whatever one says that has not heard of it.
#[tokio::test]
async fn a_pause_outlives_a_promotion_beside_a_server_that_has_not_heard_of_it() {
    let [wp, wb, wc] = [World::new(), World::new(), World::new()];
    let (p, c) = (wp.open(), wc.open_with(|options| options.primary = peers("c", &[])));
    let (to_p, to_c) = (port(&p), port(&c));
    let b = wb.open_with(|options| options.primary = peers("b", &[&to_p, &to_c]));
    publish_all(&p).await;
    let rules = crate::rollout::RolloutRequest { pause: Some("it broke".to_owned()), ..Default::default() };
    let server = Arc::clone(&p);
    tokio::task::spawn_blocking(move || server.set_rollout(&rules, "test")).await.unwrap().unwrap();
    b.confirm().await.unwrap().whole().unwrap();
    assert_eq!((b.gate.rollout().paused.as_deref(), c.gate.rollout().paused), (Some("it broke"), None));
    *to_p.server.lock().unwrap() = None;
    promote(&b, true).await.unwrap();
    assert_eq!(b.gate.rollout().paused.as_deref(), Some("it broke"));
}
