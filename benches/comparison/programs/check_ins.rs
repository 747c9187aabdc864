//! Check-ins over real sockets, spoken without a client library: a connection for each, or many that stay open.

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use direct_puppet_transport::http::TlsFiles;
use direct_puppet_transport::protocol::{Certname, CheckIn, Held, Operation, codec};
use direct_puppet_transport::{Client, ConnectOptions, connect};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::decide::{first_check_in, take_catalog};
use crate::bench::NODE;

/// The name of the server's certificate, and what clients reach it by.
pub(crate) const SERVER_NAME: &str = "localhost";

/// Longest answer to a check-in.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Arguments of `check-ins`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// http://127.0.0.1:PORT, or https://localhost:PORT
    url: String,
    /// Certificates in Puppet's layout, for https
    #[arg(long)]
    ssldir: Option<PathBuf>,
    /// How many
    #[arg(long)]
    count: usize,
    /// Resume TLS sessions
    #[arg(long)]
    resume: bool,
    /// Leave all connections open until the end of standard input, and say when they are
    #[arg(long)]
    hold: bool,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

pub(crate) fn check_ins(arguments: &Arguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let open = runtime.block_on(all(arguments))?;
    if arguments.hold {
        println!("holding {}", open.len());
        std::io::stdin().read_to_end(&mut Vec::new())?;
    }
    Ok(())
}

async fn all(arguments: &Arguments) -> anyhow::Result<Vec<Box<dyn Stream>>> {
    raise_file_limit()?;
    let request = request(&held_check_in(&arguments.url, arguments.ssldir.as_deref()).await?, arguments.hold)?;
    let (_, host) = arguments.url.split_once("://").context("no URL")?;
    let port = host.rsplit_once(':').context("no port in the URL")?.1.parse()?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let tls = arguments.ssldir.as_deref().map(|dir| config(dir, arguments.resume)).transpose()?.map(Arc::new);
    let mut open = Vec::new();
    for number in 0..arguments.count {
        // There is nothing to resume yet for the first.
        let must_resume = arguments.resume && number > 0;
        let mut stream = connection(address, tls.as_ref(), must_resume).await?;
        stream.write_all(&request).await?;
        answer(&mut *stream, !arguments.hold).await?;
        if arguments.hold {
            open.push(stream);
        }
    }
    Ok(open)
}

/// Returns the check-in of a node that holds the live catalog.
async fn held_check_in(url: &str, ssldir: Option<&Path>) -> anyhow::Result<CheckIn> {
    let certname: Certname = NODE.parse()?;
    let tls = ssldir.map(|dir| TlsFiles::from_ssldir(dir, &certname));
    let client = Client::new(connect(url, &ConnectOptions { tls, ..ConnectOptions::default() })?);
    let check_in = first_check_in(certname);
    let held: Held = take_catalog(&client, &check_in).await?;
    Ok(CheckIn { held: Some(held), ..check_in })
}

/// Returns the bytes of a request.
pub(crate) fn request(check_in: &CheckIn, keep: bool) -> anyhow::Result<Vec<u8>> {
    let body = codec::encode(check_in)?;
    let connection = if keep { "keep-alive" } else { "close" };
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: {SERVER_NAME}\r\ncontent-type: {}\r\nconnection: {connection}\r\ncontent-length: {}\r\n\r\n",
        path(),
        direct_puppet_transport::http::wire::CONTENT_TYPE,
        body.len()
    );
    Ok([head.as_bytes(), &body].concat())
}

/// The path of check-ins.
pub(crate) fn path() -> String {
    direct_puppet_transport::http::wire::path_of(Operation::CheckIn)
}

/// Returns the body of a check-in by a node that holds the live catalog.
pub(crate) fn held_body(url: &str, ssldir: Option<&Path>) -> anyhow::Result<Vec<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(codec::encode(&runtime.block_on(held_check_in(url, ssldir))?)?)
}

async fn connection(address: SocketAddr, tls: Option<&Arc<ClientConfig>>, must_resume: bool) -> anyhow::Result<Box<dyn Stream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let Some(config) = tls else { return Ok(Box::new(stream)) };
    let name = ServerName::try_from(SERVER_NAME)?;
    let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await?;
    ensure!(!must_resume || stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed), "the server resumed no session");
    Ok(Box::new(stream))
}

/// Reads one answer; `to_end`: until the server hangs up, so that its cost of closing is counted and session tickets are taken.
async fn answer(stream: &mut dyn Stream, to_end: bool) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    loop {
        let count = stream.read_buf(&mut bytes).await?;
        let is_whole = bytes.windows(4).position(|four| four == b"\r\n\r\n").is_some_and(|end| bytes.len() > end + 4);
        if count == 0 || (is_whole && !to_end) {
            ensure!(bytes.starts_with(b"HTTP/1.1 200 ") && is_whole, "no answer: {}", String::from_utf8_lossy(&bytes));
            return Ok(());
        }
        if bytes.len() > MAX_ANSWER_BYTES {
            bail!("an answer without end");
        }
    }
}

/// Returns how a node with certificates in Puppet's layout speaks TLS.
pub(crate) fn config(ssldir: &Path, resume: bool) -> anyhow::Result<ClientConfig> {
    let files = TlsFiles::from_ssldir(ssldir, &NODE.parse()?);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&files.ca)?)?;
    let certificate = CertificateDer::from_pem_file(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate], key)?;
    if !resume {
        config.resumption = Resumption::disabled();
    }
    Ok(config)
}

/// Each connection is an open file.
fn raise_file_limit() -> anyhow::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}
