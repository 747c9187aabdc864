//! The tables.

use deadpool_postgres::Object;

use super::Failure;

/// The format of the tables.
const FORMAT: i32 = 1;

/// Two servers that start at once make the tables one after the other: this lock is held meanwhile.
const LOCK: i64 = 0x4450_5f73_746f_7265;

const TABLES: &str = "
CREATE SCHEMA IF NOT EXISTS direct_puppet;
CREATE TABLE IF NOT EXISTS direct_puppet.format (format integer NOT NULL);
CREATE TABLE IF NOT EXISTS direct_puppet.blob (
    digest bytea PRIMARY KEY,
    size bigint NOT NULL,
    touched timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS direct_puppet.chunk (
    digest bytea NOT NULL REFERENCES direct_puppet.blob ON DELETE CASCADE,
    number integer NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (digest, number)
);
ALTER TABLE direct_puppet.chunk ALTER COLUMN data SET STORAGE EXTERNAL;
CREATE TABLE IF NOT EXISTS direct_puppet.pointer (
    name text COLLATE \"C\" PRIMARY KEY,
    generation bigint NOT NULL,
    value bytea NOT NULL
);
CREATE SEQUENCE IF NOT EXISTS direct_puppet.generation;
INSERT INTO direct_puppet.format SELECT 1 WHERE NOT EXISTS (SELECT FROM direct_puppet.format);
";

/// Makes the tables where they are not there.
pub(super) async fn ensure(connection: &mut Object) -> Result<(), Failure> {
    let found = "SELECT to_regclass('direct_puppet.generation') IS NOT NULL";
    if !connection.query_one(found, &[]).await?.get::<_, bool>(0) {
        let transaction = connection.transaction().await?;
        transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
        transaction.batch_execute(TABLES).await?;
        transaction.commit().await?;
    }
    let format: i32 = connection.query_one("SELECT max(format) FROM direct_puppet.format", &[]).await?.get(0);
    if format != FORMAT {
        return Err(
            format!("its tables are in format {format}, which this program does not know: use the one that made them").into()
        );
    }
    Ok(())
}
