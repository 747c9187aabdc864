//! `serve`.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use direct_puppet_server_stub::listen::{HttpListener, Limits, Routes, ServerTls, Service, Threads, UnixListener};
use direct_puppet_server_stub::store::SharedStore;
use direct_puppet_server_stub::{
    AdminRoutes, AllowedReplica, BlobRoutes, CaRoutes, Peers, PuppetRoutes, Server, ServerError, ServerOptions, Sharing, Staging,
};
use direct_puppet_transport::http::TlsFiles;
use direct_puppet_transport::protocol::Certname;
use direct_puppet_transport::{ConnectOptions, Timeout, Timeouts, Transport, connect};
use serde::Deserialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{admin, authority, compiler};

/// Puppet's port.
const DEFAULT_PORT: u16 = 8140;

/// Arguments of `serve`; each can stand in the configuration file too.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Directory for everything that the server keeps
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Directory with staged code: environments/ENV, each with a site.yaml or with Puppet code
    #[arg(long, value_name = "DIR")]
    staging: Option<PathBuf>,
    /// Where to listen: http://127.0.0.1:8141, https://0.0.0.0:8140, unix:/run/direct-puppet/agent.sock
    #[arg(long, value_name = "URL")]
    listen: Vec<String>,
    /// Certificates in Puppet's layout, for https
    #[arg(long, value_name = "DIR")]
    ssldir: Option<PathBuf>,
    /// Name of this server's certificate in --ssldir
    #[arg(long, value_name = "NAME")]
    certname: Option<Certname>,
    /// This server's certificate in PEM, where there is no --ssldir
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "tls_ca"], conflicts_with = "ssldir")]
    tls_cert: Option<PathBuf>,
    /// Its private key in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// The authorities whose clients are let in, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_ca: Option<PathBuf>,
    /// Their revocation lists, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_crl: Option<PathBuf>,
    /// Follow this server instead of publishing: https://primary:8140, or unix:/run/…; several of which one is primary may be
    /// named
    #[arg(long, value_name = "URL")]
    primary: Vec<String>,
    /// On a primary: a server that may be promoted in its place; it is asked at each start, before anybody is answered
    #[arg(long, value_name = "URL", conflicts_with = "primary")]
    successor: Vec<String>,
    /// Share a store with other servers, which are then all equal: postgres://user@host/database, or file:///directory; a URL with a
    /// password belongs into the configuration file
    #[arg(long, value_name = "URL", conflicts_with_all = ["primary", "successor"])]
    store: Option<String>,
    /// Keep contents at s3://bucket/prefix, and in --store the rest; keys and region are taken from the environment (AWS_…)
    #[arg(long, value_name = "URL", requires = "store")]
    contents: Option<String>,
    /// Answer for so many seconds from what was last confirmed when no primary, or not the store, can be asked [default: not at all]
    #[arg(long, value_name = "SECONDS")]
    unconfirmed_for: Option<u64>,
    /// What nodes may fill of the disk with reports and buckets; over it the oldest goes, of those nodes that have the most [default: a
    /// quarter of the disk]
    #[arg(long, value_name = "BYTES")]
    max_node_bytes: Option<u64>,
    /// What reports and buckets leave free of the disk, so that code has room [default: a twentieth of the disk, at most 1 GiB]
    #[arg(long, value_name = "BYTES")]
    keep_free_bytes: Option<u64>,
    /// A certificate of a server that may follow this one; with =ENV,ENV behind it that server gets only these environments
    #[arg(long, value_name = "CERTNAME")]
    replica: Vec<AllowedReplica>,
    /// A certificate that may publish and look at everything
    #[arg(long, value_name = "CERTNAME")]
    admin: Vec<Certname>,
    /// Connections at once [default: 10000]; each waiting node holds one, and each is an open file
    #[arg(long, value_name = "COUNT")]
    max_connections: Option<usize>,
    /// Threads that answer over HTTP [default: half as many as processors]; the fewer, the cheaper an answer, and the fewer connections of TLS
    /// can begin at the same time
    #[arg(long, value_name = "COUNT")]
    threads: Option<NonZero<usize>>,
    /// Let plain HTTP be reached from other machines: any of them may then say to be any node
    #[arg(long)]
    allow_plain_http: bool,
    /// Serve published files by digest, as to caches: whoever is let in may read any of which he knows the digest
    #[arg(long)]
    blobs: bool,
    #[command(flatten)]
    authority: authority::Options,
    #[command(flatten)]
    compiler: compiler::Options,
    /// Configuration file in TOML, with these options as keys
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// How long an answer of the primary may take to begin: longer than it holds what is asked for news.
const PRIMARY_TIMEOUT: Duration = Duration::from_secs(300);

/// How long a stream from the primary may stand still.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// How often the data directory is tried while another process works with it.
const BUSY_PACE: Duration = Duration::from_millis(100);

/// The configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    data: Option<PathBuf>,
    staging: Option<PathBuf>,
    listen: Vec<String>,
    ssldir: Option<PathBuf>,
    certname: Option<Certname>,
    primary: Vec<String>,
    successor: Vec<String>,
    store: Option<String>,
    contents: Option<String>,
    unconfirmed_for: Option<u64>,
    max_node_bytes: Option<u64>,
    keep_free_bytes: Option<u64>,
    replica: Vec<AllowedReplica>,
    admin: Vec<Certname>,
    max_connections: Option<usize>,
    threads: Option<NonZero<usize>>,
    allow_plain_http: bool,
    blobs: bool,
    #[serde(rename = "ca")]
    authority: authority::Options,
    compile: compiler::Options,
}

/// Opens the data directory; waits a little for a verb that works with it.
async fn open(options: ServerOptions) -> anyhow::Result<Arc<Server>> {
    let begun = Instant::now();
    loop {
        let options = options.clone();
        match tokio::task::spawn_blocking(move || Server::open(options)).await? {
            Err(ServerError::Busy { .. }) if begun.elapsed() < admin::PATIENCE => tokio::time::sleep(BUSY_PACE).await,
            opened => return Ok(opened?),
        }
    }
}

pub(super) async fn serve(arguments: Arguments) -> anyhow::Result<u8> {
    let arguments = merged(arguments)?;
    let data = arguments.data.clone().context("no data directory: give one with --data")?;
    if !arguments.primary.is_empty() && !arguments.successor.is_empty() {
        bail!("a server has a primary or successors, not both: leave one out");
    }
    if arguments.store.is_some() && !(arguments.primary.is_empty() && arguments.successor.is_empty()) {
        bail!("servers that share a store are equal: leave out --primary and --successor, or --store");
    }
    if arguments.unconfirmed_for.is_some() && arguments.primary.is_empty() && arguments.store.is_none() {
        bail!("--unconfirmed-for is for servers that confirm: give --primary or --store, or leave it out");
    }
    let primary = peers(&arguments, &arguments.primary)?;
    let sharing = sharing(&arguments)?;
    let staging = match &arguments.staging {
        Some(staging) => Staging::Environments(std::path::absolute(staging)?),
        // A replica publishes nothing until it is promoted, and of equal servers it is enough that one does.
        None if primary.is_some() || sharing.is_some() => Staging::Nowhere,
        None => bail!("no staging directory: give one with --staging, or follow a server with --primary"),
    };
    if arguments.listen.is_empty() {
        bail!("nowhere to listen: give --listen, as http://127.0.0.1:8141");
    }
    let options = ServerOptions {
        compiler: arguments.compiler.compiler(&data)?,
        replicas: arguments.replica.clone(),
        primary,
        sharing,
        successors: peers(&arguments, &arguments.successor)?,
        unconfirmed_for: Duration::from_secs(arguments.unconfirmed_for.unwrap_or(0)),
        max_node_bytes: arguments.max_node_bytes,
        keep_free_bytes: arguments.keep_free_bytes,
        ..ServerOptions::new(data.clone(), staging)
    };
    if !options.replicas.is_empty() && options.primary.is_none() && options.successors.is_none() && options.sharing.is_none() {
        tracing::warn!(
            "this primary asks none of its replicas whether it was promoted while this server was away: give --successor for each that may be"
        );
    }
    let server = open(options).await?;
    let mut routes: Arc<dyn Routes> = Arc::new(AdminRoutes::new(Arc::clone(&server), arguments.admin.clone()));
    if arguments.blobs {
        routes = Arc::new(BlobRoutes::new(Arc::clone(&server), routes));
    }
    routes = Arc::new(PuppetRoutes::new(Arc::clone(&server), routes));
    let handler: Arc<dyn direct_puppet_transport::Handler> = Arc::<Server>::clone(&server);
    let authority = arguments.authority.open().await?;
    if let Some(ca) = &authority {
        routes = Arc::new(CaRoutes::new(Arc::clone(ca), Some(Arc::clone(&server)), arguments.admin.clone(), routes));
    }
    let service = Service { handler, routes: Some(routes) };

    raise_file_limit();
    let shutdown = CancellationToken::new();
    let threads =
        Threads::start(arguments.threads.unwrap_or_else(Threads::fitting)).context("cannot start the threads that answer")?;
    let threads = Arc::new(threads);
    let mut listeners = JoinSet::new();
    for url in &arguments.listen {
        listen(url, &arguments, &service, &threads, &shutdown, &mut listeners).await?;
    }
    let (follower, stop) = (Arc::clone(&server), shutdown.clone());
    listeners.spawn(async move {
        follower.follow(&stop).await;
        stop.cancelled().await;
        Ok(())
    });
    if let Some(ca) = authority {
        listeners.spawn(authority::keep_lists(ca, shutdown.clone()));
    }
    let administration = admin::bind(&data)?;
    listeners.spawn(admin::serve(Arc::clone(&server), administration, data, shutdown.clone()));
    let result = tokio::select! {
        stopped = stop_signal() => stopped,
        Some(ended) = listeners.join_next() => ended?.and_then(|()| bail!("a listener ended by itself")),
    };
    server.stop_holding();
    shutdown.cancel();
    // What is under way is finished everywhere, whatever one listener says.
    let mut ends = vec![result];
    while let Some(ended) = listeners.join_next().await {
        ends.push(ended.map_err(anyhow::Error::from).flatten());
    }
    ends.into_iter().collect::<anyhow::Result<()>>().map(|()| 0)
}

/// Returns the store that this server shares with others.
fn sharing(arguments: &Arguments) -> anyhow::Result<Option<Sharing>> {
    let Some(url) = &arguments.store else {
        if arguments.contents.is_some() {
            bail!("--contents keeps contents only: give --store postgres://… beside it for the rest");
        }
        return Ok(None);
    };
    let name = arguments.certname.clone().context("other servers must know this one by a name: give it with --certname")?;
    let store = SharedStore::open(url)?;
    let store = match &arguments.contents {
        Some(url) => store.with_contents(url)?,
        None => store,
    };
    Ok(Some(Sharing { store, name }))
}

/// Returns the ways to other servers.
fn peers(arguments: &Arguments, urls: &[String]) -> anyhow::Result<Option<Peers>> {
    if urls.is_empty() {
        return Ok(None);
    }
    let name = arguments.certname.clone().context("other servers must know this one by a name: give it with --certname")?;
    let tls = arguments.ssldir.as_ref().map(|dir| TlsFiles::from_ssldir(dir, &name));
    let options = ConnectOptions { tls, ..ConnectOptions::default() };
    let timeouts = Timeouts { response: PRIMARY_TIMEOUT, stall: STALL_TIMEOUT };
    let way =
        |url: &String| -> anyhow::Result<Arc<dyn Transport>> { Ok(Arc::new(Timeout::new(connect(url, &options)?, timeouts))) };
    Ok(Some(Peers { name, transports: urls.iter().map(way).collect::<anyhow::Result<_>>()? }))
}

async fn listen(
    url: &str,
    arguments: &Arguments,
    service: &Service,
    threads: &Arc<Threads>,
    shutdown: &CancellationToken,
    listeners: &mut JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let (service, shutdown) = (service.clone(), shutdown.clone());
    let limits = Limits::default();
    let max_connections = arguments.max_connections.unwrap_or(limits.max_connections).max(1);
    let limits = Limits { max_connections, ..limits };
    if let Some(path) = url.strip_prefix("unix:") {
        let listener = UnixListener::bind(path.as_ref(), 0o600).await?;
        super::print_line(&format!("listening on unix:{path}"));
        listeners.spawn(async move {
            listener.serve(service.handler, limits, shutdown).await;
            Ok(())
        });
        return Ok(());
    }
    let (address, tls) = match url.split_once("://") {
        Some(("http", rest)) => (address(rest)?, None),
        Some(("https", rest)) => (address(rest)?, Some(tls(arguments)?)),
        _ => bail!("cannot listen on {url}: write http://ADDRESS:PORT, https://ADDRESS:PORT or unix:/PATH"),
    };
    let listener = HttpListener::bind(address, tls, arguments.allow_plain_http).await?.on_threads(Arc::clone(threads));
    super::print_line(&format!("listening on {}", listener.url()));
    listeners.spawn(async move {
        listener.serve(service, limits, shutdown).await;
        Ok(())
    });
    Ok(())
}

fn address(text: &str) -> anyhow::Result<SocketAddr> {
    let text = text.trim_end_matches('/');
    let has_port =
        text.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()));
    let whole = if has_port { text.to_owned() } else { format!("{text}:{DEFAULT_PORT}") };
    let mut addresses = whole.to_socket_addrs().with_context(|| format!("{whole} is no address to listen on"))?;
    addresses.next().with_context(|| format!("{whole} has no address"))
}

fn tls(arguments: &Arguments) -> anyhow::Result<ServerTls> {
    let files = tls_files(arguments)?;
    // What the authority has issued and revoked is known there first.
    Ok(match arguments.authority.files() {
        Some((ca, crl)) => ServerTls { ca, crl: Some(crl), admits_anonymous: true, ..files },
        None => files,
    })
}

fn tls_files(arguments: &Arguments) -> anyhow::Result<ServerTls> {
    if let (Some(certificate), Some(key), Some(ca)) = (&arguments.tls_cert, &arguments.tls_key, &arguments.tls_ca) {
        let (certificate, key, ca) = (certificate.clone(), key.clone(), ca.clone());
        return Ok(ServerTls { ca, certificate, key, crl: arguments.tls_crl.clone(), admits_anonymous: false });
    }
    let ssldir =
        arguments.ssldir.as_ref().context("https needs certificates: give --ssldir, or --tls-cert, --tls-key and --tls-ca")?;
    let certname = match &arguments.certname {
        Some(certname) => certname.clone(),
        None => {
            let name = direct_puppet_agent::system::hostname();
            name.parse().with_context(|| format!("the host's name {name:?} names no certificate: give --certname"))?
        }
    };
    Ok(TlsFiles::from_ssldir(ssldir, &certname).into())
}

fn merged(mut arguments: Arguments) -> anyhow::Result<Arguments> {
    let Some(path) = &arguments.config else { return Ok(arguments) };
    let text = std::fs::read_to_string(path).with_context(|| format!("could not read configuration {}", path.display()))?;
    let config: Config = toml::from_str(&text).with_context(|| format!("configuration {} is not valid", path.display()))?;
    arguments.data = arguments.data.or(config.data);
    arguments.staging = arguments.staging.or(config.staging);
    arguments.ssldir = arguments.ssldir.or(config.ssldir);
    arguments.certname = arguments.certname.or(config.certname);
    if arguments.listen.is_empty() {
        arguments.listen = config.listen;
    }
    arguments.admin.extend(config.admin);
    arguments.allow_plain_http |= config.allow_plain_http;
    arguments.blobs |= config.blobs;
    arguments.max_connections = arguments.max_connections.or(config.max_connections);
    arguments.threads = arguments.threads.or(config.threads);
    if arguments.primary.is_empty() {
        arguments.primary = config.primary;
    }
    if arguments.successor.is_empty() {
        arguments.successor = config.successor;
    }
    arguments.compiler = arguments.compiler.or(config.compile);
    arguments.authority = arguments.authority.or(config.authority);
    arguments.store = arguments.store.or(config.store);
    arguments.contents = arguments.contents.or(config.contents);
    arguments.unconfirmed_for = arguments.unconfirmed_for.or(config.unconfirmed_for);
    arguments.max_node_bytes = arguments.max_node_bytes.or(config.max_node_bytes);
    arguments.keep_free_bytes = arguments.keep_free_bytes.or(config.keep_free_bytes);
    arguments.replica.extend(config.replica);
    Ok(arguments)
}

/// Waits for SIGINT or SIGTERM.
async fn stop_signal() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// Each connection is a descriptor, and most systems start a service with 1,024 of them while allowing many more.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}
