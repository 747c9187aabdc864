//! A server that follows another.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use direct_puppet_transport::protocol::{CodeId, Operation, RefusalCode, SyncManifestReply, codec};
use direct_puppet_transport::{
    FetchItem, MemoryTransport, Request, Response, Status, Transport, TransportError, TransportErrorKind,
};
use futures::StreamExt as _;

use super::*;
use crate::history::CollectRequest;
use crate::{Peers, ServerError};

/// The way to the primary, which can break and lie.
#[derive(Debug)]
struct Way {
    inner: MemoryTransport,
    primary: Arc<Server>,
    /// Staged and published at the primary just before the next fetch is answered.
    published_meanwhile: std::sync::Mutex<Option<PathBuf>>,
    /// What it said of manifests.
    told: std::sync::Mutex<Vec<SyncManifestReply>>,
    is_cut: AtomicBool,
    lies: AtomicBool,
    /// What is answered to every confirmation in place of the truth, and of contents.
    forged: std::sync::Mutex<Option<bytes::Bytes>>,
    confirmations: AtomicU64,
    manifests: AtomicU64,
    fetches: AtomicU64,
}

#[async_trait]
impl Transport for Way {
    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        if self.is_cut.load(Ordering::SeqCst) {
            return Err(TransportError::new(TransportErrorKind::Connect, self.endpoint()));
        }
        match request.operation {
            Operation::SyncConfirm => &self.confirmations,
            Operation::SyncManifest => &self.manifests,
            _ => &self.fetches,
        }
        .fetch_add(1, Ordering::SeqCst);
        if request.operation == Operation::SyncManifest && self.lies.load(Ordering::SeqCst) {
            let manifest = codec::encode(&direct_puppet_transport::protocol::Manifest::default()).unwrap();
            let body = codec::encode(&SyncManifestReply::Whole { manifest: manifest.into() }).unwrap();
            return Ok(Response::whole(Status::Accepted, body.into()));
        }
        let forged = self.forged.lock().unwrap().clone();
        if let (Operation::SyncConfirm, Some(body)) = (request.operation, forged) {
            return Ok(Response::whole(Status::Accepted, body));
        }
        let is_fetch = request.operation == Operation::SyncFetch;
        let meanwhile = is_fetch.then(|| self.published_meanwhile.lock().unwrap().take()).flatten();
        if let Some(file) = meanwhile {
            fs::write(file, "published meanwhile").unwrap();
            publish_all(&self.primary).await;
        }
        let is_manifest = request.operation == Operation::SyncManifest;
        let response = self.inner.call(request).await?;
        if !is_manifest || response.status != Status::Accepted {
            return Ok(response);
        }
        let body = response.into_bytes(1 << 20, self.endpoint()).await?;
        self.told.lock().unwrap().push(codec::decode(&body, 1 << 20).unwrap());
        Ok(Response::whole(Status::Accepted, body))
    }

    fn endpoint(&self) -> &str {
        "memory:primary"
    }
}

pub(super) struct Pair {
    world: World,
    pub(super) primary: Arc<Server>,
    way: Arc<Way>,
    dir: tempfile::TempDir,
}

impl Pair {
    pub(super) fn new() -> Self {
        let world = World::new();
        let primary = world.open();
        let handler: Arc<dyn direct_puppet_transport::Handler> = Arc::<Server>::clone(&primary);
        let way = Way {
            inner: MemoryTransport::new(handler),
            primary: Arc::clone(&primary),
            published_meanwhile: std::sync::Mutex::default(),
            told: std::sync::Mutex::default(),
            is_cut: AtomicBool::default(),
            lies: AtomicBool::default(),
            forged: std::sync::Mutex::default(),
            confirmations: AtomicU64::default(),
            manifests: AtomicU64::default(),
            fetches: AtomicU64::default(),
        };
        Self { world, primary, way: Arc::new(way), dir: tempfile::tempdir().unwrap() }
    }

    /// Cuts the way to the primary.
    pub(super) fn cut(&self) {
        self.way.is_cut.store(true, Ordering::SeqCst);
    }

    pub(super) fn replica(&self) -> Arc<Server> {
        let transport: Arc<dyn Transport> = Arc::<Way>::clone(&self.way);
        let primary = Some(Peers { transports: vec![transport], name: certname("replica1") });
        let staging = Staging::Environments(self.dir.path().join("none"));
        Server::open(ServerOptions { primary, ..ServerOptions::new(self.dir.path().join("data"), staging) }).unwrap()
    }
}

#[tokio::test]
async fn every_answer_is_from_what_was_live_when_it_was_asked_for() {
    let pair = Pair::new();
    publish_all(&pair.primary).await;
    let replica = pair.replica();
    let (first, _) = compiled(&replica, "n1").await;
    assert_eq!(first.code_id, live(&pair.primary).version.code_id);
    // The contents are here and whole, and the history says who published.
    assert_eq!(replica.verify().unwrap().problems, []);
    assert_eq!(replica.versions(None).unwrap().len(), 1);
    for number in 0..3 {
        pair.world.stage("modules/app/files/tree/new", format!("content {number}"));
        publish_all(&pair.primary).await;
        let reply = replica.check_in(&Peer::InProcess, check_in("n1", Some(first))).await;
        assert_eq!(reply, Ok(CatalogReply::FactsNeeded), "publish {number}");
        assert_eq!(live(&replica).version.code_id, live(&pair.primary).version.code_id);
    }
    // One content came each time; the manifest came as what differs.
    assert_eq!(live(&replica).version.new_contents, 1);
    {
        let told = pair.way.told.lock().unwrap();
        assert!(matches!(told[0], SyncManifestReply::Whole { .. }), "{:?}", told[0]);
        let differ = |reply: &SyncManifestReply| match reply {
            SyncManifestReply::Delta { removed, changed } => (removed.len(), changed.len()),
            other => panic!("a version came whole: {other:?}"),
        };
        assert_eq!(told[1..].iter().map(differ).collect::<Vec<_>>(), [(0, 1); 3]);
    }
    assert_eq!(replica.verify().unwrap().problems, []);
    let followers = pair.primary.followers.all();
    assert_eq!(followers[&certname("replica1")].confirmations, pair.way.confirmations.load(Ordering::SeqCst));
    // After a restart it goes on from its disk.
    drop(replica);
    let fetches = pair.way.fetches.load(Ordering::SeqCst);
    let replica = pair.replica();
    replica.confirm().await.unwrap();
    assert_eq!(pair.way.fetches.load(Ordering::SeqCst), fetches);
}

#[tokio::test]
async fn without_its_primary_a_replica_refuses_and_says_when_to_ask_again() {
    let pair = Pair::new();
    publish_all(&pair.primary).await;
    let replica = pair.replica();
    let (held, _) = compiled(&replica, "n1").await;
    pair.way.is_cut.store(true, Ordering::SeqCst);
    let refusal = replica.check_in(&Peer::InProcess, check_in("n1", Some(held))).await.unwrap_err();
    assert_eq!((refusal.code, refusal.retry_after_seconds), (RefusalCode::Stale, Some(5)));
    pair.way.is_cut.store(false, Ordering::SeqCst);
    let reply = replica.check_in(&Peer::InProcess, check_in("n1", Some(held))).await;
    assert_eq!(reply, Ok(CatalogReply::Current { code_id: held.code_id, version: held.version, unconfirmed_seconds: None }));
    assert!(matches!(replica.publish(PublishRequest::default()).await, Err(ServerError::Replica { .. })));
}

#[tokio::test]
async fn one_confirmation_serves_all_who_came_before_it_was_sent() {
    let pair = Pair::new();
    publish_all(&pair.primary).await;
    let replica = pair.replica();
    let (held, _) = compiled(&replica, "n1").await;
    let before = pair.way.confirmations.load(Ordering::SeqCst);
    let many =
        futures::future::join_all((0..10_000).map(|_| replica.check_in(&Peer::InProcess, check_in("n1", Some(held))))).await;
    assert!(many.iter().all(|reply| matches!(reply, Ok(CatalogReply::Current { .. }))));
    let asked = pair.way.confirmations.load(Ordering::SeqCst) - before;
    assert!((1..=2).contains(&asked), "{asked} confirmations");
}

#[tokio::test]
async fn what_does_not_add_up_never_becomes_live() {
    let pair = Pair::new();
    publish_all(&pair.primary).await;
    let replica = pair.replica();
    pair.way.lies.store(true, Ordering::SeqCst);
    let error = replica.confirm().await.unwrap().whole().unwrap_err();
    assert!(error.to_string().contains("does not add up"), "{error}");
    assert_eq!(replica.live_versions(), []);
    pair.way.lies.store(false, Ordering::SeqCst);
    replica.confirm().await.unwrap();
    let good = live(&replica).version.clone();
    // A content that is damaged at the primary is not taken either.
    pair.world.stage("modules/app/files/tree/new", "new content");
    publish_all(&pair.primary).await;
    let digest = direct_puppet_transport::protocol::Digest::of(b"new content");
    fs::write(pair.primary.store.path_of(&digest), "NEW content").unwrap();
    assert!(replica.confirm().await.unwrap().whole().is_err());
    assert_eq!(live(&replica).version, good);
    // The next publish heals the primary, and with it the replica.
    publish_all(&pair.primary).await;
    replica.confirm().await.unwrap();
    assert_eq!(live(&replica).version.code_id, live(&pair.primary).version.code_id);
}

#[tokio::test]
async fn a_primary_that_goes_back_is_not_followed() {
    let pair = Pair::new();
    publish_all(&pair.primary).await;
    let replica = pair.replica();
    replica.confirm().await.unwrap();
    let other = Pair::new();
    other.world.stage("modules/app/files/tree/other", "of another site");
    publish_all(&other.primary).await;
    drop(replica);
    let transport: Arc<dyn Transport> = Arc::<Way>::clone(&other.way);
    let options = ServerOptions::new(pair.dir.path().join("data"), Staging::Environments(pair.dir.path().join("none")));
    let primary = Some(Peers { transports: vec![transport], name: certname("replica1") });
    let replica = Server::open(ServerOptions { primary, ..options }).unwrap();
    let error = replica.confirm().await.unwrap_err();
    assert!(error.to_string().contains("right primary"), "{error}");
}

#[tokio::test]
async fn who_waits_is_not_asked_about_by_what_is_published_elsewhere() {
    let pair = Pair::new();
    let publish = async || {
        let results = pair.primary.publish(PublishRequest::default()).await.unwrap();
        assert!(results.iter().all(|result| result.error.is_none()), "{results:?}");
    };
    pair.world.stage_in("other", "modules/app/files/tree/a", "of another environment");
    publish().await;
    let replica = pair.replica();
    let (held, _) = compiled(&replica, "n1").await;
    let node = {
        let (replica, wait) = (Arc::clone(&replica), CheckIn { wait_seconds: 240, ..check_in("n1", Some(held)) });
        tokio::spawn(async move { replica.check_in(&Peer::InProcess, wait).await })
    };
    let confirmations = || pair.way.confirmations.load(Ordering::SeqCst);
    let publish_in = async |environment: &str, content: &str| {
        pair.world.stage_in(environment, "modules/app/files/tree/a", content);
        publish().await;
        // The replica hears of it by what another asks.
        replica.confirm().await.unwrap().whole().unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    };
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let before = confirmations();
    publish_in("other", "news there").await;
    assert_eq!((confirmations() - before, node.is_finished()), (1, false));
    publish_in("production", "news here").await;
    let reply = node.await.unwrap().unwrap();
    assert!(matches!(reply, CatalogReply::Catalog { .. } | CatalogReply::FactsNeeded), "{reply:?}");
    assert!(confirmations() - before > 2, "its own news are confirmed");
}

#[tokio::test]
async fn a_primary_hears_which_code_nodes_of_a_replica_have_and_keeps_it() {
    let pair = Pair::new();
    let first = publish_all(&pair.primary).await.code_id.unwrap();
    let replica = pair.replica();
    let stop = tokio_util::sync::CancellationToken::new();
    let following = tokio::spawn({
        let (replica, stop) = (Arc::clone(&replica), stop.clone());
        async move { replica.follow(&stop).await }
    });
    let (held, _) = compiled(&replica, "n1").await;
    replica.check_in(&Peer::InProcess, check_in("n1", Some(held))).await.unwrap();
    let collect = || pair.primary.collect(CollectRequest { grace_seconds: 0, dry_run: true }).unwrap();
    let told = |code: CodeId| {
        let replicas = pair.primary.rollout().unwrap().replicas;
        replicas.values().find_map(|said| said.nodes[&Environment::default()].get(&code).copied())
    };
    // With each question that it may hold it is told.
    for content in ["second", "third"] {
        pair.world.stage("modules/app/files/tree/a", content);
        publish_all(&pair.primary).await;
        while live(&replica).version.code_id != live(&pair.primary).version.code_id {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
    while told(first).is_none() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(told(first), Some(1));
    assert_eq!(collect().collected.len(), 1, "the second version, which no node has");
    stop.cancel();
    following.await.unwrap();
    // It is known after a start.
    let Pair { world, primary, way, .. } = pair;
    drop((replica, way));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while Arc::strong_count(&primary) > 1 && std::time::Instant::now() < deadline {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    drop(primary);
    let primary = world.open();
    assert_eq!(primary.rollout().unwrap().replicas.len(), 1);
    let collected = primary.collect(CollectRequest { grace_seconds: 0, dry_run: false }).unwrap().collected;
    assert!(collected.len() == 1 && collected[0].1 != first, "{collected:?}");
}

#[tokio::test]
async fn news_come_by_themselves() {
    let pair = Pair::new();
    publish_all(&pair.primary).await;
    let replica = pair.replica();
    let stop = tokio_util::sync::CancellationToken::new();
    let mut changes = replica.environments.changes();
    let following = tokio::spawn({
        let (replica, stop) = (Arc::clone(&replica), stop.clone());
        async move { replica.follow(&stop).await }
    });
    changes.changed().await.unwrap();
    pair.world.stage("modules/app/files/tree/new", "news");
    publish_all(&pair.primary).await;
    changes.changed().await.unwrap();
    assert_eq!(live(&replica).version.code_id, live(&pair.primary).version.code_id);
    // A node that comes then waits for no code: it is only asked whether that is live.
    let count = |of: &AtomicU64| of.load(Ordering::SeqCst);
    let (fetches, confirmations) = (count(&pair.way.fetches), count(&pair.way.confirmations));
    let (held, _) = compiled(&replica, "n1").await;
    assert_eq!(held.version, live(&pair.primary).version.version);
    assert!(count(&pair.way.fetches) == fetches && count(&pair.way.confirmations) > confirmations);
    stop.cancel();
    following.await.unwrap();
}

#[tokio::test]
async fn a_certificate_must_be_named_to_follow() {
    use direct_puppet_transport::protocol::SyncConfirm;
    let world = World::new();
    let server = world.open();
    let request = SyncConfirm {
        protocol: ProtocolVersion::CURRENT,
        replica: certname("node1"),
        deployed: BTreeMap::new(),
        wait_seconds: 0,
        rollout: direct_puppet_transport::protocol::Rollout::default(),
        epoch: 0,
        answered: BTreeMap::new(),
        nodes: None,
    };
    let refused = server.sync_confirm(&Peer::certificate(certname("node1")), request.clone()).await.unwrap_err();
    assert_eq!(refused.code, RefusalCode::Forbidden);
    assert!(server.sync_confirm(&Peer::InProcess, request).await.is_ok());
}

#[tokio::test]
async fn forged_and_replayed_messages_change_nothing() {
    let pair = Pair::new();
    publish_all(&pair.primary).await;
    let replica = pair.replica();
    replica.confirm().await.unwrap();
    let ask = |server: &Arc<Server>| {
        let live = server.environments.all_live().iter().map(|code| code.version.published()).collect();
        let rollout = direct_puppet_transport::protocol::Rollout::default();
        direct_puppet_transport::protocol::SyncConfirmed { live, rollout, epoch: 1, answered: BTreeMap::new(), is_part: false }
    };
    let old = ask(&pair.primary);
    pair.world.stage("modules/app/files/tree/new", "new content");
    publish_all(&pair.primary).await;
    replica.confirm().await.unwrap();
    let current = ask(&pair.primary);
    let good = live(&replica).version.clone();
    let of = |change: &dyn Fn(&mut direct_puppet_transport::protocol::PublishedVersion)| {
        let mut forged = current.clone();
        forged.live.iter_mut().for_each(change);
        forged
    };
    let higher = |version: &mut direct_puppet_transport::protocol::PublishedVersion| version.version.sequence += 1;
    let forgeries: Vec<(&str, bytes::Bytes)> = [
        ("an older answer", old.clone()),
        ("other code under the same counter", of(&|version| version.code_id = old.live[0].code_id)),
        (
            "code that nobody has",
            of(&|version| {
                higher(version);
                version.code_id = direct_puppet_transport::protocol::Digest::of(b"nobody has it").to_string().parse().unwrap();
            }),
        ),
        ("an epoch that cannot be", of(&|version| version.version.epoch = u64::MAX)),
    ]
    .into_iter()
    .map(|(what, forged)| (what, codec::encode(&forged).unwrap().into()))
    .chain([("no message at all", bytes::Bytes::from_static(b"\xc1\x00"))])
    .collect();
    for (what, forged) in forgeries {
        *pair.way.forged.lock().unwrap() = Some(forged);
        let error = replica.confirm().await.and_then(crate::Confirmed::whole).expect_err(what);
        assert!(matches!(error, ServerError::Unconfirmed { .. }), "{what}: {error}");
        let refusal = replica.check_in(&Peer::InProcess, check_in("n1", None)).await.unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Stale, "{what}");
        assert_eq!(live(&replica).version, good, "{what}");
    }
    let following = replica.following().unwrap();
    assert!(following.failure.is_some() && following.confirmed_ago.is_some());
    *pair.way.forged.lock().unwrap() = None;
    replica.confirm().await.unwrap();
    assert_eq!(replica.following().unwrap().failure, None);
    assert_eq!((replica.role_name(), pair.primary.role_name()), ("replica", "primary"));
    assert!(pair.primary.following().is_none());
}

/// What a replica has begun to bring it gets, though it is live no more.
#[tokio::test]
async fn a_publish_between_confirmation_and_fetch_is_waited_for_by_nobody() {
    let pair = Pair::new();
    pair.world.stage("modules/app/files/tree/a", "second");
    let second = publish_all(&pair.primary).await;
    let replica = pair.replica();
    *pair.way.published_meanwhile.lock().unwrap() = Some(pair.world.environment().join("modules/app/files/tree/a"));
    replica.confirm().await.unwrap();
    assert_eq!(live(&pair.primary).version.version.sequence, 2);
    assert_eq!(Some(live(&replica).version.code_id), second.code_id);
    assert_eq!(replica.verify().unwrap().problems, []);
    replica.confirm().await.unwrap();
    assert_eq!(live(&replica).version.version, live(&pair.primary).version.version);
    // Another has it mended from there: it may be damaged where it is kept. What is in no version is given to nobody.
    pair.primary.store.put_bytes(b"of a compile").unwrap();
    let fetch = async |name: &str, content: &[u8]| {
        let digests = vec![direct_puppet_transport::protocol::Digest::of(content)];
        let request = direct_puppet_transport::protocol::Fetch {
            certname: certname(name),
            digests,
            offsets: BTreeMap::new(),
            packed: None,
        };
        let mut items = pair.primary.sync_fetch(&Peer::InProcess, request).await.unwrap();
        matches!(items.next().await, Some(Ok(FetchItem::Content(_))))
    };
    for name in ["replica1", "replica2"] {
        assert_eq!((fetch(name, b"second").await, fetch(name, b"of a compile").await), (true, false), "{name}");
    }
}
