//! What servers that share a store do at the same time.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_trait::async_trait;
use direct_puppet_transport::protocol::{Report, Rollout, RunStatus};

use super::shared::{share, store};
use super::*;
use crate::history::CollectRequest;
use crate::rollout::RolloutRequest;
use crate::store::{FileStore, Generation, Pointer, PointerStore, SharedStore, StoreError};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_who_set_something_at_two_servers_neither_takes_back_what_the_other_set() {
    let (world, other) = (World::new(), World::new());
    let (store, _) = store(&world);
    let (a, b) = (share(&world, &store, "a"), share(&other, &store, "b"));
    for round in 1..=15 {
        let pause = RolloutRequest { pause: Some(round.to_string()), ..RolloutRequest::default() };
        let rate = RolloutRequest { per_second: Some(round), ..RolloutRequest::default() };
        let set = |server: &Arc<Server>, request: RolloutRequest| {
            let server = Arc::clone(server);
            tokio::task::spawn_blocking(move || server.set_rollout(&request, "test").unwrap())
        };
        let (one, another) = tokio::join!(set(&a, pause), set(&b, rate));
        one.and(another).unwrap();
        for server in [&a, &b] {
            server.confirm().await.unwrap();
            let found = server.gate.rollout();
            assert_eq!(found, Rollout { per_second: round, paused: Some(round.to_string()) });
        }
    }
}

/// Pointers of which a reader can be shown what they were, a number of times for each list.
#[derive(Debug)]
struct Frozen {
    inner: FileStore,
    is_frozen: AtomicBool,
    /// What names begin with whose pointers are shown as they were.
    prefixes: &'static [&'static str],
    times: usize,
    /// What each was, and how often that was shown.
    seen: std::sync::Mutex<HashMap<String, (Listed, usize)>>,
}

type Listed = Vec<(String, Pointer)>;

impl Frozen {
    /// Returns a store of files, and the same as it is to be shown.
    fn store(world: &World, prefixes: &'static [&'static str], times: usize) -> (FileStore, Arc<Self>) {
        let files = FileStore::open(&world.dir.path().join("shared")).unwrap();
        let inner = files.clone();
        (files, Arc::new(Self { inner, is_frozen: AtomicBool::new(false), prefixes, times, seen: Default::default() }))
    }
}

#[async_trait]
impl PointerStore for Frozen {
    fn endpoint(&self) -> &str {
        PointerStore::endpoint(&self.inner)
    }

    async fn get(&self, name: &str) -> Result<Option<Pointer>, StoreError> {
        PointerStore::get(&self.inner, name).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Pointer)>, StoreError> {
        let is_shown = self.prefixes.iter().any(|shown| prefix.starts_with(shown));
        if is_shown && self.is_frozen.load(Ordering::SeqCst) {
            if let Some((seen, shown)) = self.seen.lock().unwrap().get_mut(prefix)
                && *shown < self.times
            {
                *shown += 1;
                return Ok(seen.clone());
            }
            return self.inner.list(prefix).await;
        }
        let found = self.inner.list(prefix).await?;
        self.seen.lock().unwrap().insert(prefix.to_owned(), (found.clone(), 0));
        Ok(found)
    }

    async fn names(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.inner.names(prefix).await
    }

    async fn swap(&self, name: &str, expected: Option<Generation>, value: Option<bytes::Bytes>) -> Result<bool, StoreError> {
        self.inner.swap(name, expected, value).await
    }

    async fn changed(&self, wait: Duration) {
        PointerStore::changed(&self.inner, wait).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn catalogs_of_code_that_is_published_while_another_server_collects_stay() {
    // Before it lists the records of versions, or when it has done so.
    for prefixes in [&["live/env/", "version/", "node/"][..], &["live/env/", "node/"]] {
        published_meanwhile(prefixes).await;
    }
}

async fn published_meanwhile(prefixes: &'static [&'static str]) {
    let (world, other) = (World::new(), World::new());
    let (files, frozen) = Frozen::store(&world, prefixes, 1);
    let behind = SharedStore { blobs: Arc::new(files.clone()), pointers: Arc::<Frozen>::clone(&frozen) };
    let store = SharedStore { blobs: Arc::new(files.clone()), pointers: Arc::new(files.clone()) };
    let (a, b) = (share(&world, &behind, "a"), share(&other, &store, "b"));
    publish_all(&a).await;
    compiled(&a, "n1").await;
    let now = CollectRequest { grace_seconds: 0, dry_run: false };
    a.collect_as(CollectRequest { dry_run: true, ..now }, "test").await.unwrap();
    frozen.is_frozen.store(true, Ordering::SeqCst);
    other.stage("modules/app/files/tree/a", "second");
    assert_eq!(publish_all(&b).await.sequence, 2);
    compiled(&b, "n2").await;
    let catalogs = async || files.names("catalog/").await.unwrap();
    let before = catalogs().await;
    assert_eq!(before.len(), 2);
    a.collect_as(now, "test").await.unwrap();
    assert_eq!(catalogs().await, before, "that of n2 is of code that the first listing did not have yet: {prefixes:?}");
    frozen.is_frozen.store(false, Ordering::SeqCst);
    a.collect_as(now, "test").await.unwrap();
    assert!(catalogs().await.iter().any(|name| name.starts_with("catalog/n2/")));
}

#[tokio::test(flavor = "multi_thread")]
async fn catalogs_of_code_that_is_live_again_while_another_server_collects_stay() {
    // Before it looks what is live again, while it reads catalogs, or when it takes them away.
    for looks in 1..=3 {
        live_again_meanwhile(looks).await;
    }
}

async fn live_again_meanwhile(looks: usize) {
    let (world, other) = (World::new(), World::new());
    let (files, frozen) = Frozen::store(&world, &["live/env/", "version/", "node/"], looks);
    let behind = SharedStore { blobs: Arc::new(files.clone()), pointers: Arc::<Frozen>::clone(&frozen) };
    let store = SharedStore { blobs: Arc::new(files.clone()), pointers: Arc::new(files.clone()) };
    let (a, b) = (share(&world, &behind, "a"), share(&other, &store, "b"));
    publish_all(&a).await;
    compiled(&a, "n1").await;
    world.stage("modules/app/files/tree/a", "second");
    publish_all(&a).await;
    compiled(&a, "n1").await;
    let now = CollectRequest { grace_seconds: 0, dry_run: false };
    a.collect_as(CollectRequest { dry_run: true, ..now }, "test").await.unwrap();
    frozen.is_frozen.store(true, Ordering::SeqCst);
    let request = crate::history::RollbackRequest::new(Environment::default(), "1.1".parse().unwrap());
    let back = b.rollback(request).await.unwrap();
    compiled(&b, "n1").await;
    let of_it = format!("/{}", back.code_id.unwrap().digest().to_hex());
    let catalogs = async || files.names("catalog/n1/").await.unwrap();
    assert!(catalogs().await.iter().any(|name| name.ends_with(&of_it)), "{:?}", catalogs().await);
    a.collect_as(now, "test").await.unwrap();
    assert!(catalogs().await.iter().any(|name| name.ends_with(&of_it)), "{looks}: what is live again: {:?}", catalogs().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_collected_from_a_store_whose_live_code_is_not_listed() {
    let world = World::new();
    let (store, _) = store(&world);
    let a = share(&world, &store, "a");
    publish_all(&a).await;
    compiled(&a, "n1").await;
    let other = world.environment().parent().unwrap().join("other");
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("site.yaml"), SITE.replace("puppet:///modules/app/tree", "/local")).unwrap();
    for round in 0..2 {
        fs::write(other.join("more"), round.to_string()).unwrap();
        a.publish(PublishRequest::default()).await.unwrap();
    }
    let live = world.dir.path().join("shared/pointers/live/env");
    let moved = world.dir.path().join("shared/moved");
    for (gone, said) in [("other.pointer", "other has versions there and none is live"), ("", "no environment is live")] {
        fs::rename(live.join(gone), &moved).unwrap();
        let error = a.collect_as(CollectRequest { grace_seconds: 0, dry_run: false }, "test").await.unwrap_err();
        assert!(crate::error::chain(&error).contains(said), "{error}");
        fs::rename(&moved, live.join(gone)).unwrap();
    }
    assert_eq!(store.pointers.names("catalog/").await.unwrap().len(), 1);
    a.collect_as(CollectRequest { grace_seconds: 0, dry_run: false }, "test").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_is_sent_to_two_servers_is_kept_once_and_whole() {
    let (world, other) = (World::new(), World::new());
    let (store, _) = store(&world);
    let (a, b) = (share(&world, &store, "a"), share(&other, &store, "b"));
    let report = |number: i64| Report {
        transaction_uuid: format!("{number:032x}"),
        time_unix_nanos: number,
        status: RunStatus::Changed,
        ..samples::report("n1")
    };
    assert!(!a.report(&Peer::InProcess, report(1)).await.unwrap().duplicate);
    // The answer was lost, and the node tries another server.
    assert!(b.report(&Peer::InProcess, report(1)).await.unwrap().duplicate);
    assert!(!b.report(&Peer::InProcess, report(2)).await.unwrap().duplicate);
    let kept = store.pointers.list("report/n1/").await.unwrap();
    let read = |(_, pointer): &(String, Pointer)| {
        serde_json::from_slice::<Report>(&crate::disk::unchecked(&pointer.value).unwrap()).unwrap()
    };
    assert_eq!(kept.iter().map(read).collect::<Vec<_>>(), [report(1), report(2)]);
}

/// What is brought for a catalog of another server stays until that is kept here.
#[tokio::test(flavor = "multi_thread")]
async fn no_catalog_is_taken_over_beside_a_collection() {
    let (world, other) = (World::new(), World::new());
    let (store, _) = store(&world);
    let (a, b) = (share(&world, &store, "a"), share(&other, &store, "b"));
    publish_all(&a).await;
    let (held, _) = compiled(&a, "n1").await;
    b.confirm().await.unwrap().whole().unwrap();
    let collection = b.upstream.as_ref().unwrap().hold_brings().unwrap();
    let ask = {
        let b = Arc::clone(&b);
        tokio::spawn(async move { b.check_in(&Peer::InProcess, check_in("n1", Some(held))).await })
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!ask.is_finished(), "it takes a catalog over while contents are collected");
    drop(collection);
    assert!(matches!(ask.await.unwrap().unwrap(), CatalogReply::Current { .. }));
    // And the other way round.
    let _brought = b.hold_collections().await.unwrap();
    let collects = tokio::time::timeout(Duration::from_millis(300), b.collect_as(CollectRequest::default(), "test"));
    assert!(collects.await.is_err(), "it collects while a catalog is taken over");
}

/// The parts of a manifest that is kept for a moment are not taken before they are named.
#[tokio::test(flavor = "multi_thread")]
async fn no_manifest_is_kept_beside_a_collection() {
    let (world, other) = (World::new(), World::new());
    let (store, _) = store(&world);
    let (a, b) = (share(&world, &store, "a"), share(&other, &store, "b"));
    let first = publish_all(&a).await;
    world.stage("modules/app/files/tree/a", "second");
    publish_all(&a).await;
    b.confirm().await.unwrap().whole().unwrap();
    let (begun, is_begun) = std::sync::mpsc::channel();
    let (release, is_over) = std::sync::mpsc::channel::<()>();
    let collector = {
        let b = Arc::clone(&b);
        std::thread::spawn(move || {
            let _collecting = b.collecting.write().unwrap();
            begun.send(()).unwrap();
            assert!(is_over.recv().is_err());
        })
    };
    is_begun.recv().unwrap();
    let find = {
        let b = Arc::clone(&b);
        let name = crate::history::VersionName::Code(first.code_id.unwrap());
        tokio::task::spawn_blocking(move || b.find_manifest(&Environment::default(), name).map(|_| ()))
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!find.is_finished(), "a manifest is kept while contents are collected");
    drop(release);
    collector.join().unwrap();
    find.await.unwrap().unwrap();
}

/// The store was filled by a server that was promoted before it shared one.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_server_publishes_where_the_epoch_is_news_to_it() {
    let world = World::new();
    let (store, _) = store(&world);
    let a = share(&world, &store, "a");
    assert!(a.role.hear(3, crate::role::Trust::Near).unwrap());
    let first = publish_all(&a).await;
    let again = publish_all(&share(&world, &store, "b")).await;
    assert_eq!((again.epoch, again.code_id, again.changed), (3, first.code_id, false));
}
