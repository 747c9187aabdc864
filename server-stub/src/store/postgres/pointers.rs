//! Pointers: a row each, swapped by one statement.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio_postgres::Row;

use super::listen::CHANNEL;
use super::{Failure, PostgresStore};
use crate::store::{Generation, Pointer, PointerStore, StoreError, WATCHED, check_name};

fn pointer(row: &Row, first: usize) -> Result<Pointer, Failure> {
    let generation: i64 = row.try_get(first)?;
    let value: &[u8] = row.try_get(first + 1)?;
    Ok(Pointer { generation: Generation(generation.cast_unsigned()), value: Bytes::copy_from_slice(value) })
}

/// The first name after all that begin with `prefix`: it ends with `/`, and `0` follows that.
fn end_of(prefix: &str) -> String {
    match prefix.strip_suffix('/') {
        Some(prefix) => format!("{prefix}0"),
        None => format!("{prefix}\u{7f}"),
    }
}

#[async_trait]
impl PointerStore for PostgresStore {
    fn endpoint(&self) -> &str {
        &self.endpoint
    }

    async fn get(&self, name: &str) -> Result<Option<Pointer>, StoreError> {
        check_name(&self.endpoint, name)?;
        self.with("read a pointer", |connection| async move {
            let text = "SELECT generation, value FROM direct_puppet.pointer WHERE name = $1";
            let statement = connection.prepare_cached(text).await?;
            connection.query_opt(&statement, &[&name]).await?.map(|row| pointer(&row, 0)).transpose()
        })
        .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Pointer)>, StoreError> {
        self.with("list pointers", |connection| async move {
            let text = "SELECT name, generation, value FROM direct_puppet.pointer WHERE name >= $1 AND name < $2 ORDER BY name";
            let statement = connection.prepare_cached(text).await?;
            let rows = connection.query(&statement, &[&prefix, &end_of(prefix)]).await?;
            rows.iter().map(|row| Ok((row.try_get(0)?, pointer(row, 1)?))).collect()
        })
        .await
    }

    async fn names(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.with("list pointers", |connection| async move {
            let text = "SELECT name FROM direct_puppet.pointer WHERE name >= $1 AND name < $2 ORDER BY name";
            let statement = connection.prepare_cached(text).await?;
            let rows = connection.query(&statement, &[&prefix, &end_of(prefix)]).await?;
            rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
        })
        .await
    }

    async fn swap(&self, name: &str, expected: Option<Generation>, value: Option<Bytes>) -> Result<bool, StoreError> {
        check_name(&self.endpoint, name)?;
        self.with("swap a pointer", |mut connection| async move {
            let transaction = connection.transaction().await?;
            let expected = expected.map(|generation| generation.0.cast_signed());
            let next = "nextval('direct_puppet.generation')";
            let count = match (expected, &value) {
                (None, Some(value)) => {
                    let text = format!(
                        "INSERT INTO direct_puppet.pointer (name, generation, value) VALUES ($1, {next}, $2) ON CONFLICT DO NOTHING"
                    );
                    let statement = transaction.prepare_cached(&text).await?;
                    transaction.execute(&statement, &[&name, &value.as_ref()]).await?
                }
                (Some(expected), Some(value)) => {
                    let text = format!(
                        "UPDATE direct_puppet.pointer SET generation = {next}, value = $3 WHERE name = $1 AND generation = $2"
                    );
                    let statement = transaction.prepare_cached(&text).await?;
                    transaction.execute(&statement, &[&name, &expected, &value.as_ref()]).await?
                }
                (Some(expected), None) => {
                    let text = "DELETE FROM direct_puppet.pointer WHERE name = $1 AND generation = $2";
                    let statement = transaction.prepare_cached(text).await?;
                    transaction.execute(&statement, &[&name, &expected]).await?
                }
                (None, None) => {
                    let text = "SELECT FROM direct_puppet.pointer WHERE name = $1";
                    let statement = transaction.prepare_cached(text).await?;
                    u64::from(transaction.query_opt(&statement, &[&name]).await?.is_none())
                }
            };
            if count == 1 && name.starts_with(WATCHED) {
                transaction.execute("SELECT pg_notify($1, $2)", &[&CHANNEL, &name]).await?;
            }
            transaction.commit().await?;
            Ok(count == 1)
        })
        .await
    }

    async fn changed(&self, wait: Duration) {
        self.listener.changed(wait).await;
    }
}
