//! One HTTP/2 request for each content, over one connection, many under way.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Requests under way.
const UNDER_WAY: usize = 1000;
/// Flow control windows large enough to stay out of the way.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

pub(super) fn fetch(address: &str, digests: &Path) -> anyhow::Result<()> {
    let digests = std::fs::read(digests)?;
    let wanted: Vec<blake3::Hash> = digests.as_chunks::<32>().0.iter().map(|bytes| blake3::Hash::from_bytes(*bytes)).collect();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(fetch_all(address, wanted))
}

async fn fetch_all(address: &str, wanted: Vec<blake3::Hash>) -> anyhow::Result<()> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
        .await?;
    tokio::spawn(connection);
    let (slots, mut tasks) = (Arc::new(Semaphore::new(UNDER_WAY)), JoinSet::new());
    for digest in wanted {
        let (mut sender, slots, address) = (sender.clone(), Arc::clone(&slots), address.to_owned());
        tasks.spawn(async move {
            let _slot = slots.acquire().await?;
            sender.ready().await?;
            let request = Request::get(format!("http://{address}/{digest}")).body(Empty::new())?;
            let response = sender.send_request(request).await?;
            if !response.status().is_success() {
                bail!("{digest}: {}", response.status());
            }
            let body = response.into_body().collect().await?.to_bytes();
            if blake3::hash(&body) != digest {
                bail!("{digest} is not what came");
            }
            Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a request was lost")??;
    }
    Ok(())
}
