//! Requests over mutual TLS on connections that stay open: the load on servers that Puppet's agents speak to.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures::future::try_join_all;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::HeaderValue;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::programs::check_ins::{SERVER_NAME, config};

/// Connections that ask at the same time.
const CONNECTIONS: usize = 4;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is asked, again and again.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) path: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
}

/// When it is enough.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Until {
    Answers(usize),
    Elapsed(Duration),
}

/// A client with the certificate of the node, of one server on loopback.
#[derive(Debug)]
pub(crate) struct Client {
    runtime: tokio::runtime::Runtime,
    address: SocketAddr,
    tls: Arc<ClientConfig>,
}

impl Client {
    /// Returns one with the certificates of `ssldir`, in Puppet's layout; nothing is sent.
    pub(crate) fn new(ssldir: &Path, address: SocketAddr) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime, address, tls: Arc::new(config(ssldir, true)?) })
    }

    /// Where the server is.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Asks once; returns the answer.
    pub(crate) fn ask(&self, question: &Question) -> anyhow::Result<Bytes> {
        self.runtime.block_on(async { answer(&mut self.connection().await?, question).await })
    }

    /// Asks on several connections, each kept open, and returns how many answers came; one that is no success is an error.
    pub(crate) fn load(&self, question: &Question, until: Until) -> anyhow::Result<usize> {
        let (begun, asked) = (Instant::now(), AtomicUsize::new(0));
        let goes_on = || match until {
            Until::Answers(count) => asked.fetch_add(1, Ordering::Relaxed) < count,
            Until::Elapsed(time) => begun.elapsed() < time,
        };
        let one = async || {
            let mut connection = self.connection().await?;
            let mut answers = 0;
            while goes_on() {
                answer(&mut connection, question).await?;
                answers += 1;
            }
            anyhow::Ok(answers)
        };
        let counts = self.runtime.block_on(try_join_all((0..CONNECTIONS).map(|_| one())))?;
        Ok(counts.into_iter().sum())
    }

    async fn connection(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(self.address).await.with_context(|| format!("nobody listens at {}", self.address))?;
        stream.set_nodelay(true)?;
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(ServerName::try_from(SERVER_NAME)?, stream).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // It ends with the sender.
        tokio::spawn(connection);
        Ok(sender)
    }
}

async fn answer(connection: &mut SendRequest<Full<Bytes>>, question: &Question) -> anyhow::Result<Bytes> {
    let mut request = Request::new(Full::new(question.body.clone()));
    *request.method_mut() = question.method.clone();
    *request.uri_mut() = question.path.parse()?;
    let host = [("host", SERVER_NAME)].into_iter();
    for (name, value) in question.headers.iter().map(|(name, value)| (*name, value.as_str())).chain(host) {
        request.headers_mut().insert(name, HeaderValue::from_str(value)?);
    }
    let answer = async {
        connection.ready().await?;
        let response = connection.send_request(request).await?;
        let status = response.status();
        anyhow::Ok((status, response.into_body().collect().await?.to_bytes()))
    };
    let (status, body) = tokio::time::timeout(PATIENCE, answer)
        .await
        .with_context(|| format!("{} was not answered within {} seconds", question.path, PATIENCE.as_secs()))??;
    if !status.is_success() {
        let said: String = String::from_utf8_lossy(&body).chars().take(300).collect();
        bail!("{} {}: {status}: {said}", question.method, question.path);
    }
    Ok(body)
}
