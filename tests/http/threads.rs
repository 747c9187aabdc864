//! Listeners whose connections are answered on threads of their own.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use direct_puppet_server_stub::listen::{HttpListener, Limits, RouteBody, Routes, Service, Threads};
use direct_puppet_transport::Peer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::site::{Shared, Site, stopped, until};

/// Tells which thread answers; waits for ever at `/slow`, and panics at `/panic`.
#[derive(Debug, Default)]
struct Paths {
    waiting: Arc<AtomicUsize>,
}

/// Counts one who waits, until dropped.
struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Routes for Paths {
    async fn route(&self, _peer: &Peer, request: hyper::Request<Bytes>) -> Option<hyper::Response<RouteBody>> {
        match request.uri().path() {
            "/slow" => {
                self.waiting.fetch_add(1, Ordering::SeqCst);
                let _waiting = Waiting(Arc::clone(&self.waiting));
                std::future::pending::<()>().await;
            }
            "/panic" => panic!("asked to"),
            _ => {}
        }
        let name = std::thread::current().name().unwrap_or("none").to_owned();
        Some(hyper::Response::new(Bytes::from(name).into()))
    }

    fn max_body_bytes(&self, _path: &str) -> u64 {
        1 << 20
    }
}

struct Server {
    paths: Arc<Paths>,
    address: std::net::SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(limits: Limits) -> Self {
        let threads = Arc::new(Threads::start(NonZero::new(2).unwrap()).unwrap());
        let listener = HttpListener::bind("127.0.0.1:0".parse().unwrap(), None, false).await.unwrap().on_threads(threads);
        let (paths, shutdown) = (Arc::<Paths>::default(), CancellationToken::new());
        let service = Service { handler: Arc::new(Shared(Arc::new(Site::new(0)))), routes: Some(Arc::<Paths>::clone(&paths)) };
        let address = listener.local_addr();
        let task = tokio::spawn(listener.serve(service, limits, shutdown.clone()));
        Self { paths, address, shutdown, task }
    }

    /// Waits until so many requests for `/slow` wait.
    async fn until_waiting(&self, count: usize) {
        until(&self.paths.waiting, count).await;
    }

    async fn stop(self) {
        stopped(&self.shutdown, self.task).await;
    }
}

async fn post(stream: &mut TcpStream, path: &str, bytes: usize) {
    let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {bytes}\r\n\r\n");
    stream.write_all(&[head.into_bytes(), vec![b'x'; bytes]].concat()).await.unwrap();
}

/// Posts so many bytes, and returns status and body of the answer.
async fn answer(stream: &mut TcpStream, path: &str, bytes: usize) -> (String, String) {
    post(stream, path, bytes).await;
    let mut read = Vec::new();
    loop {
        let mut chunk = [0; 1024];
        let count = stream.read(&mut chunk).await.unwrap();
        assert!(count > 0, "the server hung up: {}", String::from_utf8_lossy(&read));
        read.extend_from_slice(&chunk[..count]);
        let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let (head, body) = (String::from_utf8_lossy(&read[..end]), &read[end + 4..]);
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        if body.len() == length.parse::<usize>().unwrap() {
            return (head.split(' ').nth(1).unwrap().to_owned(), String::from_utf8_lossy(body).into_owned());
        }
    }
}

const LONG: usize = 65 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_stays_on_its_thread_and_long_requests_go_to_the_listener_s_runtime() {
    let server = Server::start(Limits::default()).await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let (status, first) = answer(&mut stream, "/", 10).await;
        assert_eq!(status, "200");
        for _ in 0..20 {
            assert_eq!(answer(&mut stream, "/", 10).await.1, first);
        }
        let (status, long) = answer(&mut stream, "/", LONG).await;
        assert!(status == "200" && !long.starts_with("answers-"), "{long}");
        assert_eq!(answer(&mut stream, "/", 64 * 1024).await.1, first, "the longest that is short");
        seen.push((first, stream));
    }
    seen.sort_by(|(a, _), (b, _)| a.cmp(b));
    assert_eq!(seen.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["answers-0", "answers-1"]);
    drop(seen);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_long_request_is_a_refusal_and_one_that_nobody_waits_for_ends() {
    let server = Server::start(Limits { park_after: Duration::ZERO, ..Limits::default() }).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for bytes in [10, LONG] {
        assert_eq!(answer(&mut stream, "/panic", bytes).await.0, "500", "{bytes}");
        assert_eq!(answer(&mut stream, "/", bytes).await.0, "200", "{bytes}");
    }
    post(&mut stream, "/slow", LONG).await;
    server.until_waiting(1).await;
    drop(stream);
    server.until_waiting(0).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_waited_too_long_for_its_thread_is_cut_before_anything_is_done_for_it() {
    let server = Server::start(Limits { tls_handshake_timeout: Duration::ZERO, ..Limits::default() }).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(stream.read(&mut [0; 10]).await.unwrap_or(0), 0);
    server.stop().await;
}
