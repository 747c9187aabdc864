//! Stores that servers share: local files and a real PostgreSQL, by one suite.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use direct_puppet_server_stub::store::{BlobStore, FileStore, ObjectBlobs, SharedStore, conformance};
use direct_puppet_tests::postgres::Postgres;
use direct_puppet_tests::s3::S3;
use direct_puppet_transport::protocol::Digest;
use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use object_store::memory::InMemory;

#[tokio::test]
async fn local_files_are_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}", dir.path().join("store").display());
    conformance::run(&SharedStore::open(&url).unwrap(), &SharedStore::open(&url).unwrap()).await;
}

#[tokio::test]
async fn postgresql_is_a_store() {
    let Some(postgres) = Postgres::start(&[]) else { return };
    conformance::run(&SharedStore::open(&postgres.url()).unwrap(), &SharedStore::open(&postgres.url()).unwrap()).await;
}

/// A database that is set up to forget the last moments before a crash does not do so to what was acknowledged here.
#[tokio::test]
async fn what_postgresql_has_taken_outlives_its_crash() {
    // Where a connection does not ask for more, what it commits is written ten seconds later.
    let Some(mut postgres) = Postgres::start(&["synchronous_commit=off", "wal_writer_delay=10000"]) else { return };
    let content = Bytes::from_static(b"acknowledged");
    for round in 0..3 {
        let store = SharedStore::open(&postgres.url()).unwrap();
        let name = format!("test/round{round}");
        let digest = Digest::of(name.as_bytes());
        store.blobs.put_small(vec![(digest, name.clone().into())]).await.unwrap();
        assert!(store.pointers.swap(&name, None, Some(content.clone())).await.unwrap());
        postgres.kill();
        postgres.resume();
        // The crash has cut the connections of the other.
        let store = SharedStore::open(&postgres.url()).unwrap();
        let found = store.pointers.get(&name).await.unwrap();
        assert_eq!(found.map(|found| found.value), Some(content.clone()), "round {round}");
        assert!(store.blobs.missing(&[digest]).await.unwrap().is_empty(), "round {round}");
    }
}

/// Contents in an object store, pointers in files.
async fn contents_in(objects: impl Fn() -> Arc<dyn ObjectStore> + Sync) {
    let dir = tempfile::tempdir().unwrap();
    let store = || {
        // Touched at once, where a test cannot wait for an hour.
        let blobs: Arc<dyn BlobStore> = Arc::new(ObjectBlobs::over(objects(), "some/prefix", "test", Duration::ZERO));
        let pointers = Arc::new(FileStore::open(&dir.path().join("store")).unwrap());
        SharedStore { blobs, pointers }
    };
    conformance::run(&store(), &store()).await;
}

#[tokio::test]
async fn an_object_store_in_memory_keeps_contents() {
    let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    contents_in(|| Arc::clone(&objects)).await;
}

fn objects(s3: &S3) -> Arc<dyn ObjectStore> {
    let builder = AmazonS3Builder::new()
        .with_endpoint(format!("http://127.0.0.1:{}", s3.port))
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_bucket_name("contents")
        .with_access_key_id("key")
        .with_secret_access_key("secret");
    Arc::new(builder.build().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_speaks_s3_keeps_contents() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("contents")).unwrap();
    let Some(s3) = S3::start(dir.path()) else { return };
    // As the program does it: the HTTP client takes the provider of the process.
    drop(rustls::crypto::ring::default_provider().install_default());
    contents_in(|| objects(&s3)).await;
}
