//! Servers that share a store, in one process.

use std::collections::HashSet;
use std::time::Duration;

use async_trait::async_trait;
use direct_puppet_transport::FetchItems;
use direct_puppet_transport::protocol::{Digest, RefusalCode};
use tokio::sync::Semaphore;

use super::*;
use crate::Sharing;
use crate::history::{CollectRequest, RollbackRequest};
use crate::store::{Blob, BlobStore, FileStore, SharedStore, StoreError};

/// Contents that are put no faster than they are allowed to be.
#[derive(Debug)]
struct Slow {
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

fn share(world: &World, store: &SharedStore, name: &str) -> Arc<Server> {
    let sharing = Sharing { store: store.clone(), name: certname(name) };
    let data = world.dir.path().join(name);
    world.open_with(|options| {
        options.sharing = Some(sharing);
        options.data_dir = data;
    })
}

fn store(world: &World) -> (SharedStore, Arc<Slow>) {
    let files = FileStore::open(&world.dir.path().join("shared")).unwrap();
    let slow = Arc::new(Slow { inner: files.clone(), allowed: Semaphore::new(100) });
    (SharedStore { blobs: Arc::<Slow>::clone(&slow), pointers: Arc::new(files) }, slow)
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
                        0 => drop(server.publish(PublishRequest::default()).await.unwrap()),
                        1 => drop(server.collect_as(CollectRequest::default(), "test").await.unwrap()),
                        _ => {
                            let to = "1.1".parse().unwrap();
                            let (message, author) = (String::new(), crate::code::Author::default());
                            drop(
                                server
                                    .rollback(RollbackRequest { environment: Environment::default(), to, message, author })
                                    .await,
                            );
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
