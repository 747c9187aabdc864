//! HTTP/1.1 connections that are left while nothing happens on them: nobody sees a difference.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use direct_puppet_server_stub::listen::{HttpListener, Limits, RouteBody, Routes, Service};
use direct_puppet_transport::Peer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::site::{Shared, Site, stopped, until};

const BIG_BYTES: usize = 8 << 20;

/// `/slow` waits for a permit, `/big` is large, everything else says its own path.
#[derive(Debug)]
struct Paths {
    gate: Semaphore,
    waiting: AtomicUsize,
}

struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Routes for Paths {
    async fn route(&self, _: &Peer, request: hyper::Request<Bytes>) -> Option<hyper::Response<RouteBody>> {
        let path = request.uri().path().to_owned();
        match path.as_str() {
            "/slow" => {
                self.waiting.fetch_add(1, Ordering::SeqCst);
                let _waiting = Waiting(&self.waiting);
                self.gate.acquire().await.unwrap().forget();
            }
            "/big" => return Some(hyper::Response::new(Bytes::from(vec![b'b'; BIG_BYTES]).into())),
            _ => {}
        }
        let said = [path.as_bytes(), b" ", request.body()].concat();
        Some(hyper::Response::new(Bytes::from(said).into()))
    }

    fn max_body_bytes(&self, _path: &str) -> u64 {
        1000
    }
}

struct Server {
    paths: Arc<Paths>,
    listening: std::net::SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(limits: Limits) -> Self {
        let listener = HttpListener::bind("127.0.0.1:0".parse().unwrap(), None, false).await.unwrap();
        let (paths, shutdown) =
            (Arc::new(Paths { gate: Semaphore::new(0), waiting: AtomicUsize::new(0) }), CancellationToken::new());
        let handler = Arc::new(Shared(Arc::new(Site::new(0))));
        let service = Service { handler, routes: Some(Arc::<Paths>::clone(&paths)) };
        let listening = listener.local_addr();
        let task = tokio::spawn(listener.serve(service, limits, shutdown.clone()));
        Self { paths, listening, shutdown, task }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.listening).await.unwrap()
    }

    /// Waits until so many requests for `/slow` wait.
    async fn until_waiting(&self, count: usize) {
        until(&self.paths.waiting, count).await;
    }

    async fn stop(self) {
        stopped(&self.shutdown, self.task).await;
    }
}

fn at_once() -> Limits {
    Limits { park_after: Duration::ZERO, ..Limits::default() }
}

/// Long enough for a connection to be left.
async fn pause() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")
}

/// Reads one answer with a length; returns its head and body.
async fn answer(stream: &mut TcpStream) -> (String, Vec<u8>) {
    let mut read = Vec::new();
    loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8(read[..end].to_vec()).unwrap().to_lowercase();
            let length: usize = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
            let mut body = read.split_off(end + 4);
            assert!(body.len() <= length, "more than one answer at once");
            let have = body.len();
            body.resize(length, 0);
            stream.read_exact(&mut body[have..]).await.unwrap();
            return (head, body);
        }
        // One byte at a time, so that nothing of a second answer is taken.
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        read.push(byte[0]);
    }
}

#[tokio::test]
async fn an_answer_that_is_waited_for_comes_and_the_connection_goes_on() {
    let server = Server::start(at_once()).await;
    let mut stream = server.connect().await;
    for round in 0..3 {
        let request = format!("POST /slow HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\n{round}");
        stream.write_all(request.as_bytes()).await.unwrap();
        server.until_waiting(1).await;
        pause().await;
        server.paths.gate.add_permits(1);
        let (head, body) = answer(&mut stream).await;
        assert!(head.starts_with("http/1.1 200") && !head.contains("connection: close"), "{head}");
        assert_eq!(body, format!("/slow {round}").into_bytes());
        pause().await;
        stream.write_all(get("/quick").as_bytes()).await.unwrap();
        assert_eq!(answer(&mut stream).await.1, b"/quick ");
    }
    server.stop().await;
}

#[tokio::test]
async fn requests_that_come_before_their_turn_are_answered_in_order() {
    let server = Server::start(at_once()).await;
    let mut stream = server.connect().await;
    stream.write_all(get("/slow").as_bytes()).await.unwrap();
    server.until_waiting(1).await;
    for part in ["GET /se", "cond HTTP/1.1\r\nhost: a\r\n\r\n", &get("/slow"), &get("/fourth")] {
        stream.write_all(part.as_bytes()).await.unwrap();
        pause().await;
    }
    server.paths.gate.add_permits(1);
    for expected in ["/slow ", "/second "] {
        assert_eq!(answer(&mut stream).await.1, expected.as_bytes());
    }
    server.until_waiting(1).await;
    pause().await;
    server.paths.gate.add_permits(1);
    for expected in ["/slow ", "/fourth "] {
        assert_eq!(answer(&mut stream).await.1, expected.as_bytes());
    }
    server.stop().await;
}

#[tokio::test]
async fn a_head_may_come_in_parts() {
    let server = Server::start(at_once()).await;
    let mut stream = server.connect().await;
    for round in 0..3 {
        let request = get(&format!("/round{round}"));
        for part in request.as_bytes().chunks(9) {
            stream.write_all(part).await.unwrap();
            pause().await;
        }
        assert_eq!(answer(&mut stream).await.1, format!("/round{round} ").into_bytes());
    }
    server.stop().await;
}

#[tokio::test]
async fn parts_of_a_head_do_not_keep_a_connection_for_ever() {
    let server = Server::start(Limits { header_read_timeout: Duration::from_millis(300), ..at_once() }).await;
    let mut stream = server.connect().await;
    stream.write_all(get("/first").as_bytes()).await.unwrap();
    answer(&mut stream).await;
    let dawdle = async {
        for byte in get("/second").repeat(100).as_bytes() {
            // It ends the connection once it has had enough.
            if stream.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), dawdle).await.expect("the connection was kept");
    server.stop().await;
}

#[tokio::test]
async fn a_peer_that_goes_away_is_waited_for_no_longer() {
    let server = Server::start(at_once()).await;
    for left_after in [0, 50] {
        let mut stream = server.connect().await;
        stream.write_all(get("/slow").as_bytes()).await.unwrap();
        server.until_waiting(1).await;
        tokio::time::sleep(Duration::from_millis(left_after)).await;
        drop(stream);
        server.until_waiting(0).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_time() {
    let server = Server::start(Limits { idle_timeout: Duration::from_millis(200), ..at_once() }).await;
    let mut stream = server.connect().await;
    stream.write_all(get("/first").as_bytes()).await.unwrap();
    answer(&mut stream).await;
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest, b"");
    server.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_taken_slowly_comes_whole() {
    let server = Server::start(at_once()).await;
    let mut stream = server.connect().await;
    stream.write_all(get("/big").as_bytes()).await.unwrap();
    // What the kernel takes is full long since.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (_, body) = answer(&mut stream).await;
    assert!(body.len() == BIG_BYTES && body.iter().all(|byte| *byte == b'b'));
    stream.write_all(get("/after").as_bytes()).await.unwrap();
    assert_eq!(answer(&mut stream).await.1, b"/after ");
    server.stop().await;
}

#[tokio::test]
async fn who_wants_the_connection_closed_gets_that() {
    let server = Server::start(at_once()).await;
    for request in ["GET /slow HTTP/1.0\r\n\r\n", "GET /slow HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"] {
        let mut stream = server.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        server.until_waiting(1).await;
        pause().await;
        server.paths.gate.add_permits(1);
        let mut whole = Vec::new();
        tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut whole)).await.unwrap().unwrap();
        assert!(whole.ends_with(b"/slow "), "{}", String::from_utf8_lossy(&whole));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_stops_gives_the_answer_that_is_waited_for_and_closes() {
    let server = Server::start(at_once()).await;
    let (mut idle, mut waiting) = (server.connect().await, server.connect().await);
    idle.write_all(get("/first").as_bytes()).await.unwrap();
    answer(&mut idle).await;
    waiting.write_all(get("/slow").as_bytes()).await.unwrap();
    server.until_waiting(1).await;
    pause().await;
    server.shutdown.cancel();
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();
    server.paths.gate.add_permits(1);
    let (head, body) = answer(&mut waiting).await;
    assert_eq!(body, b"/slow ");
    assert!(head.contains("connection: close"), "{head}");
    waiting.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"");
    server.stop().await;
}
