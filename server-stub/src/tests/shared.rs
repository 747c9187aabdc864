//! Servers that share a store, in one process.

use std::collections::HashSet;
use std::time::Duration;

use async_trait::async_trait;
use direct_puppet_transport::FetchItems;
use direct_puppet_transport::protocol::{Digest, RefusalCode, Report, RunStatus};
use tokio::sync::Semaphore;

use super::*;
use crate::Sharing;
use crate::history::{CollectRequest, ExplainRequest, Explanation, RollbackRequest};
use crate::store::{Blob, BlobStore, FileStore, Generation, Pointer, PointerStore, SharedStore, StoreError};

/// Contents that are put no faster than they are allowed to be.
#[derive(Debug)]
pub(super) struct Slow {
    inner: FileStore,
    allowed: Semaphore,
}

#[async_trait]
impl BlobStore for Slow {
    async fn missing(&self, digests: &[Digest]) -> Result<HashSet<Digest>, StoreError> {
        self.inner.missing(digests).await
    }

    async fn put_small(&self, contents: Vec<(Digest, bytes::Bytes)>) -> Result<(), StoreError> {
        let _allowed = self.allowed.acquire().await.unwrap();
        self.inner.put_small(contents).await
    }

    async fn put(&self, blob: Blob) -> Result<(), StoreError> {
        self.inner.put(blob).await
    }

    fn get(&self, digests: Vec<Digest>) -> FetchItems {
        BlobStore::get(&self.inner, digests)
    }

    async fn all(&self) -> Result<HashSet<Digest>, StoreError> {
        self.inner.all().await
    }

    async fn remove(&self, digests: &[Digest], age: Duration) -> Result<u64, StoreError> {
        self.inner.remove(digests, age).await
    }
}

pub(super) fn share(world: &World, store: &SharedStore, name: &str) -> Arc<Server> {
    let sharing = Sharing { store: store.clone(), name: certname(name) };
    let data = world.dir.path().join(name);
    world.open_with(|options| {
        options.sharing = Some(sharing);
        options.data_dir = data;
    })
}

pub(super) fn store(world: &World) -> (SharedStore, Arc<Slow>) {
    let files = FileStore::open(&world.dir.path().join("shared")).unwrap();
    let slow = Arc::new(Slow { inner: files.clone(), allowed: Semaphore::new(100) });
    (SharedStore { blobs: Arc::<Slow>::clone(&slow), pointers: Arc::new(files) }, slow)
}

/// Does what waits for the store, where that may wait.
async fn blocking<T: Send + 'static>(
    server: &Arc<Server>,
    work: impl FnOnce(&Server) -> Result<T, crate::ServerError> + Send + 'static,
) -> T {
    let server = Arc::clone(server);
    tokio::task::spawn_blocking(move || work(&server)).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_answered_while_a_publish_puts_its_contents() {
    let world = World::new();
    let (store, slow) = store(&world);
    let server = share(&world, &store, "a");
    publish_all(&server).await;
    let (held, _) = compiled(&server, "n1").await;
    let taken = slow.allowed.acquire_many(100).await.unwrap();
    world.stage("modules/app/files/tree/new", "new content");
    let publishing = tokio::spawn({
        let server = Arc::clone(&server);
        async move { publish_all(&server).await }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    for _ in 0..3 {
        let reply = server.check_in(&Peer::InProcess, check_in("n1", Some(held)));
        let reply = tokio::time::timeout(Duration::from_secs(5), reply).await.expect("a node waits for a publish");
        assert!(matches!(reply, Ok(CatalogReply::Current { .. })), "{reply:?}");
    }
    assert!(!publishing.is_finished());
    drop(taken);
    assert!(publishing.await.unwrap().changed);
    let reply = server.check_in(&Peer::InProcess, check_in("n1", Some(held))).await;
    assert_eq!(reply, Ok(CatalogReply::FactsNeeded));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_in_the_store_harms_its_own_environment_only() {
    let world = World::new();
    let (store, _) = store(&world);
    let (a, b) = (share(&world, &store, "a"), share(&world, &store, "b"));
    publish_all(&a).await;
    compiled(&b, "n1").await;
    for damage in ["{", "{\"format\": 99}", ""] {
        let before = store.pointers.get("live/env/other").await.unwrap().map(|before| before.generation);
        assert!(store.pointers.swap("live/env/other", before, Some(damage.as_bytes().into())).await.unwrap());
        let (held, _) = compiled(&b, "n1").await;
        let reply = b.check_in(&Peer::InProcess, check_in("n1", Some(held))).await;
        assert!(matches!(reply, Ok(CatalogReply::Current { .. })), "{reply:?}");
        let other = CheckIn { environment: "other".parse().unwrap(), ..check_in("n1", None) };
        assert_eq!(b.check_in(&Peer::InProcess, other).await.unwrap_err().code, RefusalCode::NotPublished);
        world.stage("modules/app/files/tree/new", damage);
        assert!(publish_all(&a).await.changed);
    }
    // A damaged catalog is compiled again, once for all.
    let (held, _) = compiled(&a, "n1").await;
    let name = format!("catalog/n1/production/{}", held.code_id.digest().to_hex());
    let before = store.pointers.get(&name).await.unwrap().unwrap();
    let text = String::from_utf8(before.value.to_vec()).unwrap();
    let compiles = world.compiles();
    let other = Digest::of(b"nothing has this").to_string();
    let content = text.split("\"content\":\"").nth(1).unwrap().split('"').next().unwrap();
    let damaged = text.replace(content, &other);
    assert!(store.pointers.swap(&name, Some(before.generation), Some(damaged.into())).await.unwrap());
    let c = share(&world, &store, "c");
    compiled(&c, "n1").await;
    assert_eq!(world.compiles(), compiles + 1);
    let d = share(&world, &store, "d");
    compiled(&d, "n1").await;
    assert_eq!(world.compiles(), compiles + 1);
}

/// Flips a bit of a record, in the middle of the last digit of a number or name that it tells.
async fn flip(store: &SharedStore, name: &str) {
    let pointer = store.pointers.get(name).await.unwrap().unwrap();
    let mut value = pointer.value.to_vec();
    let at = value.windows(11).position(|text| text == b"\"sequence\":").map(|at| at + 11).unwrap();
    value[at] ^= 4;
    assert!(store.pointers.swap(name, Some(pointer.generation), Some(value.into())).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_a_record_is_never_taken_for_a_version_and_written_again() {
    let world = World::new();
    let (store, _) = store(&world);
    let (a, b) = (share(&world, &store, "a"), share(&world, &store, "b"));
    publish_all(&a).await;
    world.stage("modules/app/files/tree/new", "new content");
    assert!(publish_all(&a).await.changed);
    let (held, _) = compiled(&b, "n1").await;
    let versions = |server: &Arc<Server>| {
        let server = Arc::clone(server);
        async move { blocking(&server, |server| server.versions(Some(&"production".parse().unwrap()))).await }
    };
    let before: Vec<_> = versions(&a).await.iter().map(|version| (version.version.version, version.version.code_id)).collect();
    assert_eq!(before.len(), 2);
    // A version that was live: the others are there, and nothing of it is lost.
    let old = store.pointers.names("version/production/").await.unwrap().into_iter().min().unwrap();
    let as_written = store.pointers.get(&old).await.unwrap().unwrap().value;
    flip(&store, &old).await;
    let damaged = blocking(&b, Server::verify).await.in_store.unwrap().damaged;
    assert!(damaged[0].contains(&old) && damaged[0].contains("its checksum differs"), "{damaged:?}");
    // What is live: nobody takes another version for it.
    flip(&store, "live/env/production").await;
    let mut is_whole = false;
    for _ in 0..400 {
        let _confirmed = a.check_in(&Peer::InProcess, check_in("n2", None)).await;
        let verified = blocking(&a, Server::verify).await.in_store.unwrap();
        is_whole = verified.damaged.is_empty();
        if is_whole {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(is_whole, "it is never written again");
    let written: serde_json::Value = serde_json::from_slice(&store.pointers.get(&old).await.unwrap().unwrap().value).unwrap();
    let before_damage: serde_json::Value = serde_json::from_slice(&as_written).unwrap();
    assert_eq!((&written["code_id"], &written["manifest"]), (&before_damage["code_id"], &before_damage["manifest"]));
    let after: Vec<_> = versions(&b).await.iter().map(|version| (version.version.version, version.version.code_id)).collect();
    assert_eq!(after, before);
    let reply = b.check_in(&Peer::InProcess, check_in("n1", Some(held))).await;
    assert!(matches!(reply, Ok(CatalogReply::Current { .. })), "{reply:?}");
}

/// More at once than there are threads for work that blocks: who waits for his turn holds none.
#[test]
fn publishes_that_wait_for_each_other_leave_threads_for_the_one_whose_turn_it_is() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().max_blocking_threads(4).build().unwrap();
    let all = runtime.block_on(async {
        let world = World::new();
        let (store, _) = store(&world);
        let server = share(&world, &store, "a");
        publish_all(&server).await;
        let waiting: Vec<_> = (0..24)
            .map(|number| {
                let server = Arc::clone(&server);
                tokio::spawn(async move {
                    match number % 3 {
                        0 => {
                            let published = server.publish(PublishRequest::default()).await.unwrap();
                            assert!(published.iter().all(|result| result.error.is_none()), "{published:?}");
                        }
                        1 => drop(server.collect_as(CollectRequest::default(), "test").await.unwrap()),
                        _ => {
                            let request = RollbackRequest::new(Environment::default(), "1.1".parse().unwrap());
                            server.rollback(request).await.unwrap();
                        }
                    }
                })
            })
            .collect();
        tokio::time::timeout(Duration::from_secs(60), futures::future::join_all(waiting)).await
    });
    runtime.shutdown_background();
    assert!(all.expect("they wait for ever").iter().all(Result::is_ok));
}

/// What becomes of the next swap of live code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It is made, and its answer is lost.
    Made,
    /// As before, and another server publishes before anybody asks.
    Outlived,
    /// It is lost itself.
    Lost,
    /// It is made, its answer is lost, and nothing is answered from then on.
    Gone,
}

/// Pointers whose answers get lost.
#[derive(Debug)]
struct Flaky {
    inner: FileStore,
    fault: std::sync::Mutex<Option<Fault>>,
    is_gone: std::sync::atomic::AtomicBool,
    other: std::sync::Mutex<Option<Arc<Server>>>,
}

impl Flaky {
    fn lost(&self) -> StoreError {
        StoreError::Failed { endpoint: "flaky".to_owned(), act: "swap a pointer", source: "connection lost".into() }
    }

    fn answers(&self) -> Result<(), StoreError> {
        if self.is_gone.load(Ordering::SeqCst) { Err(self.lost()) } else { Ok(()) }
    }
}

#[async_trait]
impl PointerStore for Flaky {
    fn endpoint(&self) -> &str {
        PointerStore::endpoint(&self.inner)
    }

    async fn get(&self, name: &str) -> Result<Option<Pointer>, StoreError> {
        self.answers()?;
        PointerStore::get(&self.inner, name).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Pointer)>, StoreError> {
        self.answers()?;
        self.inner.list(prefix).await
    }

    async fn names(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.answers()?;
        self.inner.names(prefix).await
    }

    async fn swap(&self, name: &str, expected: Option<Generation>, value: Option<bytes::Bytes>) -> Result<bool, StoreError> {
        self.answers()?;
        let is_live = name.starts_with("live/env/");
        let Some(fault) = is_live.then(|| self.fault.lock().unwrap().take()).flatten() else {
            return self.inner.swap(name, expected, value).await;
        };
        if fault != Fault::Lost {
            assert!(self.inner.swap(name, expected, value).await?);
        }
        if fault == Fault::Outlived {
            let other = self.other.lock().unwrap().clone().unwrap();
            assert!(publish_all(&other).await.changed);
        }
        self.is_gone.store(fault == Fault::Gone, Ordering::SeqCst);
        Err(self.lost())
    }

    async fn changed(&self, wait: Duration) {
        PointerStore::changed(&self.inner, wait).await;
    }
}

/// A server behind pointers that lose answers, and one that is not.
fn flaky(world: &World, other_world: &World) -> (Arc<Server>, Arc<Server>, Arc<Flaky>) {
    let files = FileStore::open(&world.dir.path().join("shared")).unwrap();
    let flaky = Flaky { inner: files.clone(), fault: Default::default(), is_gone: Default::default(), other: Default::default() };
    let flaky = Arc::new(flaky);
    let behind = SharedStore { blobs: Arc::new(files.clone()), pointers: Arc::<Flaky>::clone(&flaky) };
    let store = SharedStore { blobs: Arc::new(files.clone()), pointers: Arc::new(files) };
    (share(world, &behind, "a"), share(other_world, &store, "b"), flaky)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_became_of_a_publish_whose_answer_was_lost_is_found_out() {
    let (world, other_world) = (World::new(), World::new());
    let (a, b, flaky) = flaky(&world, &other_world);
    *flaky.other.lock().unwrap() = Some(Arc::clone(&b));
    publish_all(&a).await;
    let request = |id: &str| PublishRequest { request_id: Some(id.to_owned()), ..PublishRequest::default() };
    let known = async |server: &Arc<Server>, id: &str| {
        let versions = blocking(server, |server| server.versions(None)).await;
        versions.iter().filter(|listed| listed.version.request_id.as_deref() == Some(id)).count()
    };
    let arm = |fault| *flaky.fault.lock().unwrap() = Some(fault);
    // It is live: said, once, with no error.
    world.stage("modules/app/files/tree/a", "second");
    arm(Fault::Made);
    let made = publish(&a, request("made")).await;
    assert_eq!((&made.error, made.changed, made.sequence), (&None, true, 2));
    b.confirm().await.unwrap();
    assert_eq!(Some(live(&b).version.code_id), made.code_id);
    // It was, for a moment.
    world.stage("modules/app/files/tree/a", "third");
    other_world.stage("modules/app/files/tree/a", "by b");
    arm(Fault::Outlived);
    let outlived = publish(&a, request("outlived")).await;
    assert_eq!((&outlived.error, outlived.changed, outlived.sequence), (&None, true, 3));
    a.confirm().await.unwrap();
    assert_eq!((live(&a).version.version, live(&a).version.version.sequence), (live(&b).version.version, 4));
    // It is not, and cannot become so any more: refused, and made when it is asked for again.
    world.stage("modules/app/files/tree/a", "fourth");
    arm(Fault::Lost);
    let lost = publish(&a, request("lost")).await;
    assert_eq!((lost.error.unwrap().code.as_str(), lost.changed, lost.sequence), ("unconfirmed", false, 4));
    assert_eq!(known(&b, "lost").await, 0);
    assert_eq!(publish(&a, request("lost")).await.sequence, 5);
    // Nobody can be asked: that is said. Asked again with the same id, it is published once.
    world.stage("modules/app/files/tree/a", "fifth");
    arm(Fault::Gone);
    let error = publish(&a, request("gone")).await.error.unwrap();
    assert!(error.code == "outcome_unknown" && error.message.contains("same request id"), "{error:?}");
    flaky.is_gone.store(false, Ordering::SeqCst);
    world.stage("modules/app/files/tree/a", "sixth");
    let again = publish(&a, request("gone")).await;
    assert_eq!((&again.error, again.changed, again.sequence), (&None, true, 6));
    b.confirm().await.unwrap();
    assert_eq!((live(&b).version.version.sequence, Some(live(&b).version.code_id)), (6, again.code_id));
    for id in ["made", "outlived", "lost", "gone"] {
        assert_eq!((known(&a, id).await, known(&b, id).await), (1, 1), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_live_in_the_store_is_no_failure_of_the_publish_though_its_own_server_cannot_follow() {
    let world = World::new();
    let (store, _) = store(&world);
    let (a, b) = (share(&world, &store, "a"), share(&world, &store, "b"));
    publish_all(&a).await;
    let in_the_way = world.dir.path().join("a/code/production/live.json.new");
    fs::create_dir(&in_the_way).unwrap();
    world.stage("modules/app/files/tree/a", "second");
    let result = publish(&a, PublishRequest::default()).await;
    assert_eq!((&result.error, result.changed, result.sequence), (&None, true, 2));
    assert!(result.note.unwrap().contains("live.json"));
    b.confirm().await.unwrap();
    assert_eq!(Some(live(&b).version.code_id), result.code_id);
    // It answers nobody from what it has, until it has what is live.
    assert_eq!(a.check_in(&Peer::InProcess, check_in("n1", None)).await.unwrap_err().code, RefusalCode::Stale);
    fs::remove_dir(&in_the_way).unwrap();
    compiled(&a, "n1").await;
    assert_eq!(live(&a).version.version, live(&b).version.version);
}

/// What nothing refers to goes from the store; what is live, or a node has, stays, and is enough for a server that has nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_collection_removes_from_the_store_what_nothing_refers_to_and_nothing_else() {
    let world = World::new();
    let (store, _) = store(&world);
    let a = share(&world, &store, "a");
    let digest_of = |number: usize| Digest::of(format!("content {number}").as_bytes());
    let other = world.environment().parent().unwrap().join("other");
    fs::create_dir_all(&other).unwrap();
    let other_site = SITE.replace("puppet:///modules/app/tree", "/local");
    fs::write(other.join("site.yaml"), &other_site).unwrap();
    for number in 0..4 {
        world.stage("modules/app/files/tree/a", format!("content {number}"));
        let results = a.publish(PublishRequest::default()).await.unwrap();
        assert!(results.iter().all(|result| result.error.is_none()));
        if number == 1 {
            // A node that goes on with the second, as its check-in at the third says.
            let (held, _) = compiled(&a, "n1").await;
            a.check_in(&Peer::InProcess, check_in("n1", Some(held))).await.unwrap();
            a.shared.as_ref().unwrap().keep_summary(a.nodes.summary(&certname("n1")).unwrap()).await.unwrap();
        }
    }
    let stays = async |number: usize| store.blobs.missing(&[digest_of(number)]).await.unwrap().is_empty();
    let now = CollectRequest { grace_seconds: 0, dry_run: false };
    let collect =
        async |server: &Arc<Server>, request: CollectRequest| server.collect_as(request, "test").await.unwrap().in_store.unwrap();
    // Nothing is a day old, and nothing was replaced an hour ago.
    assert_eq!(collect(&a, now).await.contents, 0);
    drop(a);
    let a = {
        let sharing = Sharing { store: store.clone(), name: certname("a") };
        let data = world.dir.path().join("a");
        world.open_with(|options| {
            options.sharing = Some(sharing);
            options.data_dir = data;
            options.shared_contents_stay_for = Duration::ZERO;
        })
    };
    assert_eq!(collect(&a, CollectRequest { grace_seconds: 3600, dry_run: false }).await.contents, 0);
    let dry = collect(&a, CollectRequest { dry_run: true, ..now }).await;
    assert_eq!((dry.collected.len(), dry.contents), (2, 0));
    for number in 0..4 {
        assert!(stays(number).await, "{number}");
    }
    // Two versions go, each with its content and its manifest, and what differs to it.
    let done = collect(&a, now).await;
    assert!(done.collected.len() == 2 && done.contents >= 4, "{done:?}");
    for number in 0..4 {
        assert_eq!(stays(number).await, number == 1 || number == 3, "{number}");
    }
    assert_eq!(collect(&a, now).await.contents, 0);
    // A server that begins with nothing has all that is live from there, and gives the node what it had.
    let b = share(&world, &store, "b");
    b.confirm().await.unwrap();
    assert_eq!(b.live_versions().len(), 2);
    let verified = blocking(&b, |server| server.verify()).await;
    assert_eq!((&verified.problems, &verified.in_store.unwrap().problems), (&Vec::new(), &Vec::new()));
    compiled(&b, "n2").await;
}

/// Has a node report what it holds.
async fn report(server: &Server, name: &str, held: Held) {
    let (catalog_id, code_id) = (Some(held.catalog_id), Some(held.code_id));
    let report = Report { catalog_id, code_id, status: RunStatus::Changed, ..samples::report(name) };
    server.report(&Peer::InProcess, report).await.unwrap();
}

async fn explain(server: &Arc<Server>, path: Option<&str>) -> Result<Explanation, crate::ServerError> {
    let (environment, version, node) = (None, None, Some(certname("n1")));
    let request = ExplainRequest { environment, version, node, path: path.map(ToOwned::to_owned) };
    blocking(server, move |server| Ok(server.explain(&request))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_explained_by_what_it_has_from_whichever_server() {
    let world = World::new();
    let (store, _) = store(&world);
    let (a, b) = (share(&world, &store, "a"), share(&world, &store, "b"));
    publish_all(&a).await;
    assert!(matches!(explain(&a, None).await, Err(crate::ServerError::UnknownNode { .. })));
    let tells = async |server: &Arc<Server>, held: Held, content: &str| {
        let found = explain(server, Some("/srv/app/a")).await.unwrap();
        assert_eq!((found.version.code_id, found.catalog.unwrap().catalog_id), (held.code_id, held.catalog_id));
        assert_eq!(found.origin.unwrap().digest, Some(Digest::of(content.as_bytes())));
    };
    // Given by the other, and nothing heard of it since.
    let (first, _) = compiled(&b, "n1").await;
    tells(&a, first, "content a").await;
    assert!(a.nodes.catalogs().is_empty(), "to explain is not to give");
    // Here it says what it has; then it takes newer code from the other, and says so there.
    assert!(a.check_in(&Peer::InProcess, check_in("n1", Some(first))).await.is_ok());
    tells(&a, first, "content a").await;
    world.stage("modules/app/files/tree/a", "content b");
    publish_all(&b).await;
    let (second, _) = compiled(&b, "n1").await;
    report(&b, "n1", second).await;
    tells(&a, second, "content b").await;
    // A server that never heard of it.
    let c = share(&world, &store, "c");
    c.confirm().await.unwrap();
    tells(&c, second, "content b").await;
    assert_eq!(explain(&c, None).await.unwrap().nodes, [certname("n1")]);
    // While its catalog waits to be compiled again, what it has is known.
    blocking(&a, |server| server.recompile(&certname("n1"), "test")).await;
    let found = explain(&c, None).await.unwrap();
    assert_eq!((found.version.code_id, found.catalog), (second.code_id, None));
    let error = explain(&c, Some("/srv/app/a")).await.unwrap_err();
    assert!(error.code() == "damaged" && error.to_string().contains("compiled again"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_catalog_is_compiled_stays_in_the_rollout_of_every_server() {
    let world = World::new();
    let (store, _) = store(&world);
    let (a, b) = (share(&world, &store, "a"), share(&world, &store, "b"));
    publish_all(&a).await;
    b.confirm().await.unwrap();
    let tells = async |code: &str| {
        for server in [&a, &b] {
            let status = blocking(server, |server| server.rollout()).await;
            assert_eq!(status.environments.len(), 1, "{status:?}");
            assert_eq!(status.environments[0].nodes, BTreeMap::from([(code.to_owned(), vec![certname("n1")])]));
        }
    };
    assert_eq!(a.check_in(&Peer::InProcess, check_in("n1", None)).await, Ok(CatalogReply::FactsNeeded));
    let (first, _) = compiled(&a, "n1").await;
    tells("").await;
    report(&a, "n1", first).await;
    tells(&first.code_id.to_string()).await;
    // Of newer code from the other server it says nothing yet.
    world.stage("modules/app/files/tree/a", "content b");
    publish_all(&b).await;
    a.confirm().await.unwrap();
    assert_eq!(b.check_in(&Peer::InProcess, check_in("n1", Some(first))).await, Ok(CatalogReply::FactsNeeded));
    let (second, _) = compiled(&b, "n1").await;
    tells(&first.code_id.to_string()).await;
    report(&b, "n1", second).await;
    tells(&second.code_id.to_string()).await;
    for server in [&a, &b] {
        let nodes = blocking(server, |server| server.nodes()).await;
        assert_eq!((nodes.len(), nodes[0].compiles, nodes[0].status), (1, 2, Some(RunStatus::Changed)));
    }
    // One that asked no server but for facts to be compiled has an environment too.
    compiled(&a, "n2").await;
    for server in [&a, &b] {
        let nodes = blocking(server, |server| server.nodes()).await;
        assert_eq!((nodes.len(), &nodes[1].environment), (2, &Some(Environment::default())));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn catalogs_in_a_store_are_not_made_anew_while_no_server_runs() {
    let world = World::new();
    let (store, _) = store(&world);
    let a = share(&world, &store, "a");
    publish_all(&a).await;
    compiled(&a, "n1").await;
    drop(a);
    let data = world.dir.path().join("a");
    let offline = world.open_with(|options| {
        options.data_dir = data.clone();
        options.is_offline = true;
    });
    let error = offline.recompile(&certname("n1"), "test").unwrap_err();
    assert!(matches!(error, crate::ServerError::Offline) && error.to_string().contains("start it"), "{error}");
    assert!(offline.nodes.catalogs().iter().all(|(_, catalog)| !catalog.is_forgotten));
    assert!(!fs::read_to_string(data.join("audit.jsonl")).unwrap().contains("recompile"));
    drop(offline);
    // One that worked alone needs no other.
    let alone = world.open();
    publish_all(&alone).await;
    compiled(&alone, "n1").await;
    drop(alone);
    let offline = world.open_with(|options| options.is_offline = true);
    offline.recompile(&certname("n1"), "test").unwrap();
    assert!(offline.nodes.catalogs().iter().all(|(_, catalog)| catalog.is_forgotten));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_of_all_tells_what_is_live_in_the_store_and_not_staged_here() {
    let (world, other_world) = (World::new(), World::new());
    let (store, _) = store(&world);
    let (a, b) = (share(&world, &store, "a"), share(&other_world, &store, "b"));
    let other = world.environment().parent().unwrap().join("other");
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("site.yaml"), SITE.replace("puppet:///modules/app/tree", "/local")).unwrap();
    let results = a.publish(PublishRequest::default()).await.unwrap();
    assert!(results.len() == 2 && results.iter().all(|result| result.changed && result.note.is_none()), "{results:?}");
    // The other has not heard of it yet.
    for dry_run in [true, false] {
        let told = b.publish(PublishRequest { dry_run, ..PublishRequest::default() }).await.unwrap();
        let names: Vec<&str> = told.iter().map(|result| result.environment.as_str()).collect();
        assert_eq!((names, &told[0].note), (vec!["production", "other"], &None));
        let note = told[1].note.as_deref().unwrap();
        assert!(note.contains("not staged here, and stays live"), "{note}");
        assert_eq!((told[1].code_id, told[1].changed, &told[1].error), (results[0].code_id, false, &None));
    }
    // Who names what he wants is told of that only.
    let named = PublishRequest { environments: vec![Environment::default()], ..PublishRequest::default() };
    assert_eq!(b.publish(named).await.unwrap().len(), 1);
}
