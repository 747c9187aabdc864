//! Stores that servers share: local files and a real PostgreSQL, by one suite.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use direct_puppet_server_stub::store::{SharedStore, conformance};
use direct_puppet_tests::postgres::Postgres;

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
