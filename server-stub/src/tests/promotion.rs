//! Promotion among several servers: who is asked, who is believed, and what becomes of what was left out.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use direct_puppet_transport::protocol::{
    Digest, NodesByCode, Operation, RefusalCode, Rollout, SyncConfirm, SyncEpoch, SyncManifest, codec,
};
use direct_puppet_transport::{MemoryTransport, Request, Response, Transport, TransportError, TransportErrorKind};

use super::role::Turn;
use super::*;
use crate::{Peers, PromoteRequest, Promoted, ServerError};

/// The way to a server, which can be cut.
#[derive(Debug, Default)]
pub(super) struct Port {
    name: Mutex<Option<&'static str>>,
    pub(super) server: Mutex<Option<Arc<Server>>>,
    pub(super) is_cut: AtomicBool,
    /// Cut before this many more questions about epochs.
    epochs_left: Mutex<Option<u64>>,
    /// Carries confirmations as a server sends them that says nothing of epochs.
    is_old: AtomicBool,
    /// Holds what is asked of the manifests of this environment, as long as the lock is held.
    pub(super) slow: Mutex<Option<(Environment, Arc<tokio::sync::Mutex<()>>)>>,
    waiting: AtomicU64,
}

#[async_trait]
impl Transport for Port {
    async fn call(&self, mut request: Request) -> Result<Response, TransportError> {
        if request.operation == Operation::SyncEpoch
            && let Some(left) = &mut *self.epochs_left.lock().unwrap()
        {
            self.is_cut.fetch_or(*left == 0, Ordering::SeqCst);
            *left = left.saturating_sub(1);
        }
        // Whoever else asks at the same time comes in between.
        tokio::task::yield_now().await;
        let server = self.server.lock().unwrap().clone();
        let (Some(server), false) = (server, self.is_cut.load(Ordering::SeqCst)) else {
            return Err(TransportError::new(TransportErrorKind::Connect, self.endpoint()));
        };
        if request.operation == Operation::SyncConfirm && self.is_old.load(Ordering::SeqCst) {
            let confirm: SyncConfirm = codec::decode(&request.body, 1 << 20).unwrap();
            request.body = codec::encode(&SyncConfirm { epoch: 0, ..confirm }).unwrap().into();
        }
        let slow = self.slow.lock().unwrap().clone();
        if let (Operation::SyncManifest, Some((environment, gate))) = (request.operation, slow) {
            let asked: SyncManifest = codec::decode(&request.body, 1 << 20).unwrap();
            if asked.environment == environment {
                self.waiting.fetch_add(1, Ordering::SeqCst);
                drop(gate.lock().await);
            }
        }
        let handler: Arc<dyn direct_puppet_transport::Handler> = server;
        MemoryTransport::new(handler).call(request).await
    }

    fn endpoint(&self) -> &str {
        self.name.lock().unwrap().unwrap_or("memory:peer")
    }
}

pub(super) fn port(server: &Arc<Server>) -> Arc<Port> {
    let port = Arc::<Port>::default();
    *port.server.lock().unwrap() = Some(Arc::clone(server));
    port
}

pub(super) fn peers(name: &str, ports: &[&Arc<Port>]) -> Option<Peers> {
    let transports = ports.iter().map(|port| Arc::<Port>::clone(port) as Arc<dyn Transport>).collect();
    Some(Peers { name: certname(name), transports })
}

pub(super) async fn promote(server: &Arc<Server>, force: bool) -> Result<Promoted, ServerError> {
    server.promote(&PromoteRequest { force }, "test").await
}

#[tokio::test]
async fn a_list_may_name_the_server_itself_and_another_by_several_addresses() {
    let (wp, wr) = (World::new(), World::new());
    let (to_r, to_self) = (Arc::<Port>::default(), Arc::<Port>::default());
    let p = wp.open_with(|options| options.successors = peers("p", &[&to_self, &to_r, &to_r]));
    *to_self.server.lock().unwrap() = Some(Arc::clone(&p));
    let (to_p, also_to_p) = (port(&p), port(&p));
    let r = wr.open_with(|options| options.primary = peers("r", &[&to_r, &to_p, &also_to_p, &to_r]));
    *to_r.server.lock().unwrap() = Some(Arc::clone(&r));
    publish_all(&p).await;
    r.confirm().await.unwrap().whole().unwrap();
    let promoted = promote(&r, false).await.unwrap();
    assert_eq!((promoted.epoch, promoted.left_out), (2, vec![]));
    assert!(r.role.is_primary() && !p.role.is_primary());
    publish_all(&r).await;
    r.tell_peers(r.peers.as_ref().unwrap()).await.unwrap();
}

/// Three servers: `p` is the primary, `r` and `a` follow it, and the way from `r` to `p` is cut.
struct Three {
    worlds: [World; 3],
    p: Arc<Server>,
    r: Arc<Server>,
    a: Arc<Server>,
    a_to_p: Arc<Port>,
    a_to_r: Arc<Port>,
}

impl Three {
    async fn new() -> Self {
        let worlds = [World::new(), World::new(), World::new()];
        let p = worlds[0].open();
        let (r_to_p, a_to_p, r_to_a) = (port(&p), port(&p), Arc::<Port>::default());
        let r = worlds[1].open_with(|options| options.primary = peers("r", &[&r_to_p, &r_to_a]));
        let a_to_r = port(&r);
        let a = worlds[2].open_with(|options| options.primary = peers("a", &[&a_to_p, &a_to_r]));
        *r_to_a.server.lock().unwrap() = Some(Arc::clone(&a));
        publish_all(&p).await;
        for server in [&r, &a] {
            server.confirm().await.unwrap();
        }
        r_to_p.is_cut.store(true, Ordering::SeqCst);
        Self { worlds, p, r, a, a_to_p, a_to_r }
    }

    /// Promotes `r` and publishes there.
    async fn take_over(&self) -> EnvironmentResult {
        let promoted = promote(&self.r, true).await.unwrap();
        assert_eq!((promoted.epoch, promoted.left_out.len()), (2, 1), "{promoted:?}");
        self.worlds[1].stage("modules/app/files/tree/a", "new by r");
        publish_all(&self.r).await
    }
}

#[tokio::test]
async fn whoever_knows_a_new_epoch_ends_the_primary_of_the_old_one_by_asking_it() {
    let three = Three::new().await;
    let new = three.take_over().await;
    assert!(three.p.role.is_primary() && three.a.role.epoch() == 2);
    three.a.confirm().await.unwrap();
    assert_eq!(Some(live(&three.a).version.code_id), new.code_id);
    assert!(!three.p.role.is_primary() && three.p.role.epoch() == 2);
    let role = fs::read_to_string(three.worlds[0].data().join("role.json")).unwrap();
    assert!(role.contains("replaced"), "it would forget that: {role}");
}

#[tokio::test]
async fn whoever_knows_a_new_epoch_does_not_believe_the_primary_of_the_old_one() {
    let three = Three::new().await;
    three.a_to_p.is_old.store(true, Ordering::SeqCst);
    let new = three.take_over().await;
    three.a.confirm().await.unwrap();
    assert_eq!(Some(live(&three.a).version.code_id), new.code_id);
    assert!(three.p.role.is_primary(), "nobody has told it");
    // Where nobody else answers, what to do is said.
    *three.a_to_r.server.lock().unwrap() = None;
    let error = three.a.confirm().await.unwrap_err();
    assert!(error.to_string().contains("epoch 2 has begun"), "{error}");
}

#[tokio::test]
async fn an_epoch_that_cannot_be_ends_nobody() {
    let world = World::new();
    let server = world.open_with(|options| options.replicas = vec![certname("replica1").into()]);
    publish_all(&server).await;
    let tell = async |peer: Peer, replica: &str, epoch: u64| {
        let (protocol, replica) = (ProtocolVersion::CURRENT, certname(replica));
        let told = server.sync_epoch(&peer, SyncEpoch { protocol, replica: replica.clone(), epoch, instance: 0 }).await;
        let (deployed, rollout, answered) = (BTreeMap::new(), Rollout::default(), BTreeMap::new());
        let request = SyncConfirm { protocol, replica, deployed, wait_seconds: 0, rollout, epoch, answered, nodes: None };
        let asked = server.sync_confirm(&peer, request).await;
        (told.map(|reply| reply.is_raised).map_err(|refusal| refusal.code), asked.map(drop).map_err(|refusal| refusal.code))
    };
    let named = || Peer::certificate(certname("replica1"));
    for epoch in [1_002, u64::MAX] {
        let refused = (Err(RefusalCode::BadRequest), Err(RefusalCode::BadRequest));
        assert_eq!(tell(named(), "replica1", epoch).await, refused);
    }
    // Over a plain connection anybody asks; who was not named ends nobody.
    let forbidden = (Err(RefusalCode::Forbidden), Err(RefusalCode::Forbidden));
    assert_eq!(tell(Peer::Plain, "stranger", 2).await, forbidden);
    assert_eq!(tell(Peer::Plain, "stranger", 1).await, (Ok(false), Ok(())));
    assert_eq!(tell(Peer::certificate(certname("stranger")), "stranger", 1).await, forbidden);
    publish_all(&server).await;
    assert_eq!(promote(&server, true).await.unwrap().epoch, 2);
    assert_eq!(tell(named(), "replica1", 3).await, (Ok(true), Err(RefusalCode::Stale)));
}

#[tokio::test]
async fn a_new_server_follows_at_a_site_where_many_were_promoted() {
    let (old, new) = (World::new(), World::new());
    let primary = old.open();
    for _ in 0..3 {
        let epoch = primary.role.epoch() + 900;
        primary.role.hear(epoch, crate::role::Trust::Near).unwrap();
    }
    promote(&primary, true).await.unwrap();
    publish_all(&primary).await;
    let server = new.open_with(|options| options.primary = peers("new", &[&port(&primary)]));
    server.confirm().await.unwrap();
    assert_eq!((server.role.epoch(), live(&server).version.version.epoch), (2_702, 2_702));
}

#[tokio::test]
async fn a_replaced_server_that_can_ask_nobody_is_promoted_by_force_only() {
    let (wp, wr) = (World::new(), World::new());
    let p = wp.open();
    let r = wr.open_with(|options| options.primary = peers("r", &[&port(&p)]));
    publish_all(&p).await;
    promote(&r, false).await.unwrap();
    wr.stage("modules/app/files/tree/a", "new by r");
    let new = publish_all(&r).await;
    let error = promote(&p, false).await.unwrap_err();
    assert!(error.to_string().contains("--primary"), "{error}");
    assert!(!p.role.is_primary());
    r.confirm().await.unwrap();
    assert_eq!((r.role.is_primary(), Some(live(&r).version.code_id)), (true, new.code_id));
    assert_eq!(promote(&p, true).await.unwrap().epoch, 3);
}

#[tokio::test]
async fn a_promotion_that_cannot_ask_everybody_ends_nobody() {
    let (wp, wr) = (World::new(), World::new());
    let p = wp.open();
    let r = wr.open_with(|options| options.primary = peers("r", &[&port(&p), &Arc::default()]));
    publish_all(&p).await;
    r.confirm().await.unwrap();
    let error = promote(&r, false).await.unwrap_err();
    assert!(error.to_string().contains("force") && !error.to_string().contains("No server"), "{error}");
    assert!(p.role.is_primary() && p.role.epoch() == 1 && !r.role.is_primary());
    assert!(p.check_in(&Peer::InProcess, check_in("n1", None)).await.is_ok());
}

#[tokio::test]
async fn a_promotion_that_cannot_bring_everything_ends_nobody() {
    let (wp, wr) = (World::new(), World::new());
    let p = wp.open();
    let r = wr.open_with(|options| options.primary = peers("r", &[&port(&p)]));
    publish_all(&p).await;
    r.confirm().await.unwrap();
    wp.stage("modules/app/files/tree/new", "never seen by r");
    publish_all(&p).await;
    fs::write(p.store.path_of(&Digest::of(b"never seen by r")), "flipped").unwrap();
    let error = promote(&r, false).await.unwrap_err();
    assert!(error.to_string().contains("production"), "{error}");
    assert!(p.role.is_primary() && p.role.epoch() == 1);
    // By force it goes on without.
    let promoted = promote(&r, true).await.unwrap();
    assert_eq!((promoted.epoch, promoted.left_out.len(), p.role.is_primary()), (2, 1, false));
}

#[tokio::test]
async fn a_promotion_that_fails_after_somebody_stepped_down_says_so() {
    let (wp, wq, wr) = (World::new(), World::new(), World::new());
    let (p, q) = (wp.open(), wq.open_with(|options| options.primary = peers("q", &[])));
    let to_q = port(&q);
    let r = wr.open_with(|options| options.primary = peers("r", &[&port(&p), &to_q]));
    publish_all(&p).await;
    // It is there when it is asked, and gone when it is to step down.
    *to_q.epochs_left.lock().unwrap() = Some(1);
    let error = promote(&r, false).await.unwrap_err();
    assert!(error.to_string().contains("No server may be primary now") && error.to_string().contains("promote again"), "{error}");
    assert!(!p.role.is_primary() && !r.role.is_primary());
    to_q.is_cut.store(false, Ordering::SeqCst);
    *to_q.epochs_left.lock().unwrap() = None;
    assert_eq!(promote(&r, false).await.unwrap().epoch, 3);
}

#[tokio::test]
async fn what_comes_late_replaces_nothing_that_was_published_since() {
    let (wp, wr) = (World::new(), World::new());
    let p = wp.open();
    let to_p = port(&p);
    let r = wr.open_with(|options| options.primary = peers("r", &[&to_p]));
    publish_all(&p).await;
    r.confirm().await.unwrap().whole().unwrap();
    // All contents of the next version are here: it is on its way as long as its manifest is.
    wp.stage("modules/app/files/tree/b", "content a");
    publish_all(&p).await;
    let gate = Arc::new(tokio::sync::Mutex::new(()));
    let held = gate.lock().await;
    *to_p.slow.lock().unwrap() = Some((Environment::default(), Arc::clone(&gate)));
    let answer = r.upstream.as_ref().unwrap().confirm().await.unwrap();
    while to_p.waiting.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let server = to_p.server.lock().unwrap().take();
    promote(&r, true).await.unwrap();
    wr.stage("modules/app/files/tree/a", "new by r");
    let new = publish_all(&r).await;
    *to_p.server.lock().unwrap() = server;
    drop(held);
    answer.arrivals().await;
    assert_eq!(Some(live(&r).version.code_id), new.code_id);
    assert_eq!(r.environments.history(&Environment::default()).unwrap().last().unwrap().version.epoch, 2);
}

#[tokio::test]
async fn two_who_do_not_know_each_other_never_begin_the_same_epoch() {
    for are_named in [false, true] {
        let worlds = [World::new(), World::new(), World::new(), World::new()];
        let p = worlds[0].open();
        let to = |server: &Arc<Server>, name| {
            let port = port(server);
            *port.name.lock().unwrap() = Some(name).filter(|_| are_named);
            port
        };
        let q = worlds[1].open_with(|options| options.primary = peers("q", &[&to(&p, "memory:p")]));
        publish_all(&p).await;
        let one = worlds[2].open_with(|options| options.primary = peers("one", &[&to(&p, "memory:p"), &to(&q, "memory:q")]));
        let two = worlds[3].open_with(|options| options.primary = peers("two", &[&to(&q, "memory:q"), &to(&p, "memory:p")]));
        let (first, second) = tokio::join!(promote(&one, false), promote(&two, false));
        let epochs: Vec<u64> = [first, second].iter().flatten().map(|promoted| promoted.epoch).collect();
        assert!(epochs.len() < 2 || epochs[0] != epochs[1], "{epochs:?}");
        assert!(!are_named || !epochs.is_empty(), "asked in the same order, one of them is first");
    }
}

#[tokio::test]
async fn a_request_is_answered_the_same_after_a_promotion() {
    let (wp, wr) = (World::new(), World::new());
    let p = wp.open();
    let to_p = port(&p);
    let r = wr.open_with(|options| options.primary = peers("r", &[&to_p]));
    let ask = async |server: &Arc<Server>, id: &str| {
        let request = PublishRequest { request_id: Some(id.to_owned()), ..PublishRequest::default() };
        let result = publish(server, request).await;
        EnvironmentResult { files_read: 0, note: None, ..result }
    };
    let (first, same) = (ask(&p, "r1").await, ask(&p, "r2").await);
    assert!(first.changed && !same.changed && first.code_id == same.code_id);
    wp.stage("modules/app/files/tree/a", "second");
    let second = ask(&p, "r3").await;
    publish_all(&p).await;
    wp.stage("modules/app/files/tree/a", "half done");
    assert_eq!([ask(&p, "r1").await, ask(&p, "r2").await, ask(&p, "r3").await], [first.clone(), same.clone(), second.clone()]);
    let again = PublishRequest { request_id: Some("r1".to_owned()), ..PublishRequest::default() };
    assert!(publish(&p, again).await.note.unwrap().contains("1.2 is live since"));
    // Also after a restart.
    let p = {
        to_p.server.lock().unwrap().take();
        drop(p);
        wp.open()
    };
    assert_eq!(ask(&p, "r2").await, same);
    *to_p.server.lock().unwrap() = Some(Arc::clone(&p));
    // One half is heard of with what is live, the other when it steps down.
    r.confirm().await.unwrap().whole().unwrap();
    assert_eq!(r.environments.answers.known(), p.environments.answers.known());
    wp.stage("modules/app/files/tree/a", "third");
    let (third, fourth) = (ask(&p, "r4").await, ask(&p, "r5").await);
    wr.stage("modules/app/files/tree/a", "half done at r");
    promote(&r, false).await.unwrap();
    for (id, answer) in [("r1", &first), ("r2", &same), ("r3", &second), ("r4", &third), ("r5", &fourth)] {
        assert_eq!(&ask(&r, id).await, answer, "{id}");
    }
    assert_eq!(r.live_versions()[0].code_id, third.code_id.unwrap());
    // Also by one that was promoted and has no staging, though all environments are asked for.
    to_p.server.lock().unwrap().take();
    drop(r);
    let r = wr.open_with(|options| options.staging = Staging::Nowhere);
    for (id, answer) in [("r2", &same), ("r4", &third)] {
        assert_eq!(&ask(&r, id).await, answer, "{id}");
    }
    // What else is live was perhaps meant too: it is said not to be published.
    let other: Environment = "other".parse().unwrap();
    let staged = wr.environment().parent().unwrap().join("other");
    fs::create_dir_all(&staged).unwrap();
    fs::write(staged.join("site.yaml"), "nodes: []\nclasses: {}\n").unwrap();
    drop(r);
    let r = wr.open();
    let request = PublishRequest { environments: vec![other.clone()], ..PublishRequest::default() };
    assert_eq!(publish(&r, request).await.error, None);
    drop(r);
    let r = wr.open_with(|options| options.staging = Staging::Nowhere);
    let request = PublishRequest { request_id: Some("r4".to_owned()), ..PublishRequest::default() };
    let results = r.publish(request).await.unwrap();
    let errors: Vec<_> = results.iter().map(|result| result.error.as_ref().map(|error| error.code.as_str())).collect();
    assert_eq!((results.len(), &results[1].environment, errors), (2, &other, vec![None, Some("no_staging")]));
    let unknown = PublishRequest { request_id: Some("r6".to_owned()), ..PublishRequest::default() };
    assert_eq!(r.publish(unknown).await.unwrap_err().code(), "no_staging");
}

/// Who only follows numbers no answers: it would not learn those that its primary gives these numbers.
#[tokio::test]
async fn a_replica_that_is_started_anew_learns_how_requests_were_answered_since() {
    let (wp, wr) = (World::new(), World::new());
    let p = wp.open();
    let to_p = port(&p);
    let follow = || wr.open_with(|options| options.primary = peers("r", &[&to_p]));
    let r = follow();
    let ask = async |server: &Arc<Server>, id: &str| {
        publish(server, PublishRequest { request_id: Some(id.to_owned()), ..PublishRequest::default() }).await
    };
    let first = ask(&p, "the first").await;
    // So many that the first is forgotten.
    for number in 0..300 {
        assert!(!ask(&p, &format!("r{number}")).await.changed);
    }
    r.confirm().await.unwrap().whole().unwrap();
    drop(r);
    let r = follow();
    let last = ask(&p, "the last").await;
    assert_eq!((last.code_id, last.changed), (first.code_id, false));
    r.confirm().await.unwrap().whole().unwrap();
    assert_eq!(r.environments.answers.known(), p.environments.answers.known());
    wr.stage("modules/app/files/tree/a", "half done at r");
    promote(&r, false).await.unwrap();
    let again = ask(&r, "the last").await;
    assert_eq!((again.code_id, again.changed), (first.code_id, false));
}

/// A primary that ends no publish soon enough does not step down, and then nobody has heard of an epoch; any other may be as busy as it likes.
#[tokio::test]
async fn a_promotion_that_a_publish_is_in_the_way_of_leaves_the_primary_to_all() {
    let worlds = [World::new(), World::new(), World::new()];
    let p = worlds[0].open();
    let port_named = |server: &Arc<Server>, name| {
        let port = port(server);
        *port.name.lock().unwrap() = Some(name);
        port
    };
    // By name the replica is asked before the primary.
    let to_p = port_named(&p, "memory:z");
    let q = worlds[1].open_with(|options| options.primary = peers("q", &[&to_p]));
    let to_q = port_named(&q, "memory:a");
    let r = worlds[2].open_with(|options| options.primary = peers("r", &[&to_p, &to_q]));
    publish_all(&p).await;
    let turn = Turn::hold(&p).await;
    let refused = promote(&r, false).await.unwrap_err();
    assert!(matches!(&refused, ServerError::NotPromoted { reason } if reason.contains("is under way")), "{refused}");
    assert!(!refused.to_string().contains("heard of a new epoch"), "{refused}");
    drop(turn);
    assert_eq!(q.role.epoch(), 1);
    q.confirm().await.unwrap().whole().unwrap();
    assert!(p.role.is_primary());
    publish_all(&p).await;
    let _turn = Turn::hold(&q).await;
    assert_eq!(promote(&r, false).await.unwrap().epoch, 2);
    assert_eq!(q.role.epoch(), 2);
}

/// Who waits for news is told of an answer that changed nothing, and of those that a promotion found.
#[tokio::test]
async fn answers_are_told_soon_also_those_that_a_crash_has_cut_off() {
    let (wp, wr) = (World::new(), World::new());
    let p = wp.open();
    let to_p = port(&p);
    let follow = || wr.open_with(|options| options.primary = peers("r", &[&to_p]));
    let r = follow();
    let ask = |id: &str| PublishRequest { request_id: Some(id.to_owned()), ..PublishRequest::default() };
    publish(&p, ask("first")).await;
    r.confirm().await.unwrap().whole().unwrap();
    // Asked once more between what became live and its answer: it waits, and knows no answer at all.
    let known = p.environments.answers.known();
    drop(r);
    fs::remove_file(wr.data().join("code/production/answered.json")).unwrap();
    let r = follow();
    let nodes = NodesByCode::default();
    let told = r.upstream.as_ref().unwrap().ask(60, Some(&nodes));
    tokio::time::timeout(std::time::Duration::from_secs(20), told).await.expect("told soon").unwrap();
    assert_eq!(r.environments.answers.known(), known);
    let waits = tokio::spawn({
        let r = Arc::clone(&r);
        async move { r.upstream.as_ref().unwrap().ask(60, None).await.map(drop) }
    });
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert!(!waits.is_finished());
    publish(&p, ask("unchanged")).await;
    tokio::time::timeout(std::time::Duration::from_secs(20), waits).await.expect("told soon").unwrap().unwrap();
    assert_eq!(r.environments.answers.known(), p.environments.answers.known());
    // It has what is live, and not what was answered.
    drop(r);
    fs::remove_file(wr.data().join("code/production/answered.json")).unwrap();
    to_p.is_cut.store(true, Ordering::SeqCst);
    let r = follow();
    assert!(r.environments.answers.known().is_empty());
    promote(&r, true).await.unwrap();
    let found = r.environments.answers.find(&Environment::default(), "first").unwrap();
    assert_eq!((found.at.epoch, found.version.epoch, found.is_changed), (2, 1, true));
}

/// What a full disk left of one version another may have found here since; what cannot be told from that just now goes later.
#[tokio::test]
async fn of_what_does_not_fit_only_goes_what_nothing_else_needs() {
    let (wp, wr) = (World::new(), World::new());
    let p = wp.open();
    let r = wr.open_with(|options| options.primary = peers("r", &[&port(&p)]));
    let file = |name: &str| Digest::of(&fs::read(wp.environment().join("modules/app/files/tree").join(name)).unwrap());
    let is_kept = file("a");
    let confirm = async || {
        publish_all(&p).await;
        r.confirm().await.unwrap().whole().unwrap();
    };
    confirm().await;
    wp.stage("modules/app/files/tree/a", "another");
    confirm().await;
    let (is_live, useless) = (file("a"), Digest::of(b"of no use"));
    let leave = || {
        r.store.put_bytes(b"of no use").unwrap();
        r.leftovers.note(vec![is_kept, is_live, useless]);
    };
    let has = || [is_kept, is_live, useless].map(|digest| r.store.has(&digest));
    let held = r.hold_collections().await;
    leave();
    r.leftovers.discard(false);
    assert_eq!(has(), [true; 3], "something is brought");
    drop(held);
    let turn = Turn::hold(&r).await;
    r.leftovers.discard(false);
    assert_eq!(has(), [true; 3], "something is published");
    drop(turn);
    // The next version that is brought needs the room.
    wp.stage("modules/app/files/tree/b", "another");
    confirm().await;
    assert_eq!(has(), [true, true, false]);
    leave();
    let turn = r.publishing.lock().unwrap();
    r.leftovers.discard(true);
    assert_eq!(has(), [true, true, false]);
    drop(turn);
}

/// A crash between what became live and its answer.
#[tokio::test]
async fn a_primary_that_is_started_anew_has_the_answer_that_a_crash_cut_off() {
    let world = World::new();
    let server = world.open();
    let request = PublishRequest { request_id: Some("cut off".to_owned()), ..PublishRequest::default() };
    publish(&server, request).await;
    let known = server.environments.answers.known();
    drop(server);
    fs::remove_file(world.data().join("code/production/answered.json")).unwrap();
    assert_eq!(world.open().environments.answers.known(), known);
}

#[tokio::test]
async fn a_request_whose_publish_was_left_out_is_published_anew() {
    let three = Three::new().await;
    let request = PublishRequest { request_id: Some("lost".to_owned()), ..PublishRequest::default() };
    three.worlds[0].stage("modules/app/files/tree/a", "never brought");
    let lost = publish(&three.p, request.clone()).await;
    three
        .r
        .environments
        .answers
        .learn(&lost.environment, three.p.environments.answers.beyond(&BTreeMap::new())[&lost.environment].clone())
        .unwrap();
    promote(&three.r, true).await.unwrap();
    three.worlds[1].stage("modules/app/files/tree/a", "published by r");
    let anew = publish(&three.r, request).await;
    assert_eq!((anew.changed, anew.epoch, anew.sequence), (true, 2, 2));
}
