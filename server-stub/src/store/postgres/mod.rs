//! A store in PostgreSQL 13 or later.
//!
//! Every server has a few connections, made when they are needed and again when they broke. A pointer is swapped by one statement whose
//! condition is its generation; `NOTIFY` tells the others, as a hint. Contents are rows of at most 1 MiB.

mod blobs;
mod listen;
mod pointers;
mod schema;

use std::fs::File;
use std::io::BufReader;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{ClientWrapper, Hook, HookError, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres_rustls::MakeRustlsConnect;

use self::listen::Listener;
use super::StoreError;

/// Connections of one server at once.
const CONNECTIONS: usize = 8;

/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one statement may take; contents go in statements of a few MiB.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// What is set for each connection. A server that stands still in the middle of a put keeps nobody else from the same content for longer
/// than a minute. What was committed is on disk before it is said, here and on synchronous standbys, whatever the database's default;
/// one that promises more keeps its promise.
const SETTINGS: &str = "SET idle_in_transaction_session_timeout = 60000;
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') <> 'remote_apply'";

/// libpq's name for the file of certificates that the database server is proved by.
const ROOT_CERTIFICATES: &str = "sslrootcert";

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A store in PostgreSQL. Cheap to clone.
#[derive(Clone)]
pub struct PostgresStore {
    endpoint: Arc<str>,
    pool: Pool,
    is_prepared: Arc<tokio::sync::OnceCell<()>>,
    listener: Arc<Listener>,
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresStore").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// Returns the store at a URL of libpq's form; nothing is connected yet. `sslrootcert` is understood; without it there is no TLS, and
    /// `sslmode=require` is refused.
    ///
    /// # Errors
    ///
    /// When the URL or the certificates cannot be used.
    pub fn new(url: &str) -> Result<Self, StoreError> {
        let unusable = |reason: String| StoreError::Unusable { endpoint: "postgres".to_owned(), reason };
        let (url, roots) = split_roots(url);
        // The text may hold a password: nothing of it is repeated.
        let mut config =
            tokio_postgres::Config::from_str(&url).map_err(|error| unusable(format!("the URL is wrong: {error}")))?;
        let dbname = config.get_dbname().or(config.get_user()).unwrap_or("postgres").to_owned();
        let ports = config.get_ports();
        let port = |at: usize| ports.get(at).or(ports.first()).copied().unwrap_or(5432);
        let hosts = config.get_hosts().iter().enumerate().map(|(at, host)| match host {
            tokio_postgres::config::Host::Tcp(name) => format!("{name}:{}", port(at)),
            tokio_postgres::config::Host::Unix(path) => path.display().to_string(),
        });
        let hosts: Vec<String> = hosts.collect();
        let endpoint = format!("postgres://{}/{dbname}", hosts.join(","));
        if config.get_hosts().is_empty() {
            return Err(unusable("the URL names no host".to_owned()));
        }
        // A standby may be behind: what it says is not what is so.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        config.application_name("direct-puppet-server");
        config.connect_timeout(CONNECT_TIMEOUT);
        // A connection that nobody answers on any more ends within a minute, not within the hours of the system's own limits.
        config.keepalives_idle(STATEMENT_TIMEOUT).tcp_user_timeout(STATEMENT_TIMEOUT);
        let manager_config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let (manager, listener) = match roots {
            Some(path) => {
                if config.get_ssl_mode() == SslMode::Prefer {
                    // Whoever names certificates wants them looked at.
                    config.ssl_mode(SslMode::Require);
                }
                let tls = connector(&path).map_err(|error| unusable(format!("{ROOT_CERTIFICATES} {path}: {error}")))?;
                let listener = Listener::new(config.clone(), Some(tls.clone()));
                (Manager::from_config(config, tls, manager_config), listener)
            }
            None if config.get_ssl_mode() == SslMode::Require => {
                return Err(unusable(format!("sslmode=require needs {ROOT_CERTIFICATES}=FILE with the authority in PEM")));
            }
            None => {
                let listener = Listener::new(config.clone(), None);
                (Manager::from_config(config, tokio_postgres::NoTls, manager_config), listener)
            }
        };
        let prepare = Hook::async_fn(|client: &mut ClientWrapper, _| {
            Box::pin(async move { client.batch_execute(SETTINGS).await.map_err(HookError::Backend) })
        });
        let pool = Pool::builder(manager)
            .post_create(prepare)
            .max_size(CONNECTIONS)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(STATEMENT_TIMEOUT))
            .create_timeout(Some(CONNECT_TIMEOUT))
            .recycle_timeout(Some(CONNECT_TIMEOUT))
            .build()
            .map_err(|error| unusable(error.to_string()))?;
        Ok(Self { endpoint: endpoint.into(), pool, is_prepared: Arc::default(), listener: Arc::new(listener) })
    }

    fn failed(&self, act: &'static str, source: impl Into<Failure>) -> StoreError {
        StoreError::Failed { endpoint: self.endpoint.to_string(), act, source: source.into() }
    }

    /// Returns a connection to a database that has our tables.
    async fn connection(&self) -> Result<Object, Failure> {
        let mut connection = self.pool.get().await?;
        self.is_prepared.get_or_try_init(|| schema::ensure(&mut connection)).await?;
        Ok(connection)
    }

    /// Does something with a connection, within the time of a statement.
    async fn with<T, F: Future<Output = Result<T, Failure>>>(
        &self,
        act: &'static str,
        work: impl FnOnce(Object) -> F,
    ) -> Result<T, StoreError> {
        let work = async { work(self.connection().await?).await };
        match tokio::time::timeout(STATEMENT_TIMEOUT, work).await {
            Ok(done) => done.map_err(|error| self.failed(act, error)),
            Err(_) => Err(self.failed(act, format!("it did not answer within {} s", STATEMENT_TIMEOUT.as_secs()))),
        }
    }
}

/// Takes the file of certificates out of a URL, where tokio-postgres does not know it.
fn split_roots(url: &str) -> (String, Option<String>) {
    let Some((base, query)) = url.split_once('?') else { return (url.to_owned(), None) };
    let is_roots = |option: &&str| option.split('=').next() == Some(ROOT_CERTIFICATES);
    let (roots, rest): (Vec<&str>, Vec<&str>) = query.split('&').partition(is_roots);
    let path =
        roots.first().and_then(|option| option.split_once('=')).map(|(_, path)| path.replace("%2F", "/").replace("%2f", "/"));
    let query = if rest.is_empty() { String::new() } else { format!("?{}", rest.join("&")) };
    (format!("{base}{query}"), path)
}

fn connector(path: &str) -> Result<MakeRustlsConnect, Failure> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_reader_iter(BufReader::new(File::open(path)?)) {
        roots.add(certificate?)?;
    }
    if roots.is_empty() {
        return Err("it holds no certificate".into());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(MakeRustlsConnect::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_cannot_be_used_is_refused_without_its_password() {
        for (url, wanted) in [
            ("postgres://user:secret@/code?sslmode=bogus", "wrong"),
            ("postgres://user:secret@host/code?sslmode=require", "sslrootcert"),
            ("postgres://user:secret@host/code?sslrootcert=/nonexistent", "/nonexistent"),
        ] {
            let error = crate::error::chain(&PostgresStore::new(url).unwrap_err());
            assert!(error.contains(wanted) && !error.contains("secret"), "{error}");
        }
        let (url, roots) = split_roots("postgres://h/d?sslmode=require&sslrootcert=%2Fetc%2Fca.pem");
        assert_eq!((url.as_str(), roots.as_deref()), ("postgres://h/d?sslmode=require", Some("/etc/ca.pem")));
    }
}
