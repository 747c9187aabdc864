//! `serve`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::Args;
use direct_puppet_server_stub::listen::{HttpListener, Limits, ServerTls, Service};
use direct_puppet_server_stub::{AdminRoutes, Server, ServerOptions};
use direct_puppet_transport::Handler;
use direct_puppet_transport::http::TlsFiles;
use direct_puppet_transport::protocol::Certname;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{admin, options};

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Directory for everything that the server keeps
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Staged code, with environments/<environment> in it
    #[arg(long, value_name = "DIR")]
    staging: PathBuf,
    /// Where to listen: http://127.0.0.1:8141, https://0.0.0.0:8140; port 0 for any free one; repeatable
    #[arg(long, value_name = "URL", required = true)]
    listen: Vec<String>,
    /// Certificates in Puppet's layout; needs --certname
    #[arg(long, value_name = "DIR", requires = "certname", conflicts_with_all = ["tls_cert", "tls_key", "tls_ca"])]
    ssldir: Option<PathBuf>,
    /// Name of this server's certificate in --ssldir
    #[arg(long, value_name = "NAME")]
    certname: Option<Certname>,
    /// This server's certificate, PEM
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "tls_ca"])]
    tls_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// The authorities whose clients are let in, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_ca: Option<PathBuf>,
    /// Their revocation lists, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_crl: Option<PathBuf>,
    /// A certificate whose owner may publish and administer; repeatable
    #[arg(long, value_name = "CERTNAME")]
    admin: Vec<Certname>,
    /// Serve plain HTTP to other machines too: whoever reaches it may then be any node and administer
    #[arg(long)]
    allow_plain_beyond_loopback: bool,
}

impl Arguments {
    fn tls(&self) -> Option<ServerTls> {
        if let (Some(ssldir), Some(certname)) = (&self.ssldir, &self.certname) {
            return Some(TlsFiles::from_ssldir(ssldir, certname).into());
        }
        let (certificate, key, ca) = (self.tls_cert.clone()?, self.tls_key.clone()?, self.tls_ca.clone()?);
        Some(ServerTls { ca, certificate, key, crl: self.tls_crl.clone() })
    }

    async fn bind(&self, url: &str) -> anyhow::Result<HttpListener> {
        let (address, tls) = match url.split_once("://") {
            Some(("http", address)) => (address, None),
            Some(("https", address)) => (
                address,
                Some(self.tls().context("https needs --ssldir with --certname, or --tls-cert, --tls-key and --tls-ca")?),
            ),
            _ => bail!("cannot listen on {url}: write http://ADDRESS:PORT or https://ADDRESS:PORT"),
        };
        let address: SocketAddr = address
            .trim_end_matches('/')
            .parse()
            .with_context(|| format!("cannot listen on {url}: write an IP address and a port, as in http://127.0.0.1:8141"))?;
        Ok(HttpListener::bind(address, tls, self.allow_plain_beyond_loopback).await?)
    }
}

/// Serves until SIGTERM or SIGINT, then lets requests under way finish.
pub(super) async fn serve(arguments: Arguments) -> anyhow::Result<u8> {
    let server_options = ServerOptions::new(&arguments.data, options::staging(Some(&arguments.staging))?);
    let server = tokio::task::spawn_blocking(move || Server::open(server_options)).await??;
    let mut listeners = Vec::with_capacity(arguments.listen.len());
    for url in &arguments.listen {
        listeners.push(arguments.bind(url).await?);
    }
    let administration = admin::bind(&arguments.data)?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let shutdown = CancellationToken::new();
    let handler: Arc<dyn Handler> = Arc::<Server>::clone(&server);
    let routes = Arc::new(AdminRoutes::new(Arc::clone(&server), arguments.admin.clone()));
    let mut serving = JoinSet::new();
    for listener in listeners {
        super::print_line(&format!("listening on {}", listener.url()));
        let service = Service { handler: Arc::clone(&handler), routes: Some(Arc::<AdminRoutes>::clone(&routes)) };
        let shutdown = shutdown.clone();
        serving.spawn(async move { listener.serve(service, Limits::default(), shutdown).await });
    }
    let administering = tokio::spawn(admin::serve(server, administration, arguments.data.clone(), shutdown.clone()));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("shutting down: requests under way may finish");
    shutdown.cancel();
    while let Some(ended) = serving.join_next().await {
        ended.context("a listener broke off")?;
    }
    administering.await??;
    Ok(0)
}
