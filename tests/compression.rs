//! Contents that travel compressed, against what the node has: as few bytes as the change is, and never another content.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use direct_puppet_agent::{Agent, Compression, Outcome, RunOptions};
use direct_puppet_tests::link::Link;
use direct_puppet_tests::site::files;
use direct_puppet_tests::world::{Logged, Node, World};
use direct_puppet_transport::protocol::{CheckIn, Fetch, Operation, RunStatus, SubmitFacts, codec};
use direct_puppet_transport::{Request, Response, Transport, TransportError, TransportErrorKind};
use futures::StreamExt as _;

#[path = "compression/alike.rs"]
mod alike;

/// Bytes that do not compress, another stretch for each seed.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..bytes.div_ceil(8)).flat_map(|_| next()).take(bytes).collect()
}

/// A content of about 4 KiB that no other file has.
fn small(number: usize) -> Vec<u8> {
    let noise = noise(number as u64 + 1, 2_000 + number % 1000);
    noise.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect()
}

/// Writes the files, in their first form or with some bytes edited.
fn fill(world: &World, count: usize, is_edited: bool) -> u64 {
    let mut bytes = 0;
    for number in 0..count {
        let mut content = small(number);
        if is_edited {
            let at = number * 37 % (content.len() - 40);
            // Longer, shorter or as long as before.
            let edit = format!("edited {number}: {}", "x".repeat(number % 20));
            content.splice(at..at + 20, edit.into_bytes());
        }
        bytes += content.len() as u64;
        let path = world.site.tree().join(format!("d{:02}/file{number:05}", number % 16));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    bytes
}

async fn run<T: Transport>(node: &Node, transport: T, compression: Compression) -> Outcome {
    let agent: Agent<T> = node.builder().compression(compression).transport(transport).build().unwrap();
    let outcome = agent.run(&RunOptions::default()).await.unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(outcome.resources.failed, 0, "{:#?}", outcome.messages);
    outcome
}

/// Returns the fetches that were made since this was last asked.
fn fetches(node: &Node) -> Vec<Fetch> {
    let calls = node.log.take().into_iter().filter(|call| call.operation == Operation::Fetch);
    calls.map(|call| codec::decode(&call.request, u64::MAX).unwrap()).collect()
}

fn assert_same(world: &World, node: &Node) {
    assert!(files(&node.path("/srv/tree")) == files(&world.site.tree()), "the node is not what was published");
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_in_two_thousand_files_are_a_fraction_of_them() {
    edits_are_a_fraction(Link::http(), 2000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_are_a_fraction_over_every_link() {
    for link in Link::all() {
        edits_are_a_fraction(link, 100).await;
    }
}

async fn edits_are_a_fraction(link: Link, count: usize) {
    let world = World::new(link).await;
    fill(&world, count, false);
    world.publish().await;
    let node = world.node("node1");
    let first = run(&node, node.transport(), Compression::Always).await;
    let whole = fill(&world, count, true);
    world.publish().await;
    drop(node.log.take());
    let second = run(&node, node.transport(), Compression::Always).await;
    let counts = (second.wire.contents_received, second.wire.contents_repeated);
    assert_eq!((second.status, counts), (RunStatus::Changed, (count as u64, 0)));
    // The digests in the new catalog are 32 bytes for each file, and nothing makes them fewer.
    let wire = second.wire.bytes_received + second.wire.bytes_sent - report_bytes(&node);
    assert!(wire < whole / 40, "{wire} bytes on the wire for {whole} bytes in files");
    assert!(first.wire.bytes_received < whole * 6 / 10, "{} bytes: half of it is digits", first.wire.bytes_received);
    assert_same(&world, &node);
    let third = run(&node, node.transport(), Compression::Always).await;
    assert_eq!((third.status, third.wire.contents_requested), (RunStatus::Unchanged, 0));
}

/// What the last reports took, which nothing makes smaller.
fn report_bytes(node: &Node) -> u64 {
    let calls = node.log.take();
    let reports: Vec<_> = calls.iter().filter(|call| call.operation == Operation::Report).collect();
    let fetch = calls.iter().filter(|call| call.operation == Operation::Fetch);
    assert!(fetch.clone().last().unwrap().request.len() < 300, "a request by place is short");
    reports.last().unwrap().request.len() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_in_a_large_file_are_a_fraction_of_it() {
    const SIZE: usize = 64 << 20;
    let world = World::new(Link::memory()).await;
    let path = world.site.tree().join("large");
    let mut content = noise(1, SIZE);
    fs::write(&path, &content).unwrap();
    world.publish().await;
    let node = world.node("node1");
    run(&node, node.transport(), Compression::Always).await;
    for edit in 0..16_usize {
        let at = edit * (SIZE / 16) + 1000 * edit;
        // Some bytes more, fewer, and as many.
        content.splice(at..at + 60, noise(edit as u64 + 2, 60 + (edit % 3) * 20 - 20));
    }
    fs::write(&path, &content).unwrap();
    world.publish().await;
    let outcome = run(&node, node.transport(), Compression::Always).await;
    assert!(outcome.wire.bytes_received < 40_000, "{} bytes for 16 small edits", outcome.wire.bytes_received);
    assert_eq!((outcome.wire.contents_received, outcome.wire.contents_repeated), (1, 0));
    assert!(fs::read(node.path("/srv/tree/large")).unwrap() == content);
    // What is put in, taken out and moved by megabytes is found again.
    let moved = [&content[..10 << 20], &noise(99, 3 << 20), &content[10 << 20..30 << 20], &content[35 << 20..]].concat();
    fs::write(&path, &moved).unwrap();
    world.publish().await;
    let outcome = run(&node, node.transport(), Compression::Always).await;
    assert!(outcome.wire.bytes_received < 6 << 20, "{} bytes for 3 MiB that are new", outcome.wire.bytes_received);
    assert!(fs::read(node.path("/srv/tree/large")).unwrap() == moved);
}

#[tokio::test(flavor = "multi_thread")]
async fn by_itself_it_is_off_on_one_machine_and_never_means_never() {
    let world = World::new(Link::memory()).await;
    let node = world.node("node1");
    let there = Elsewhere(node.transport());
    let ways: [(bool, Compression, bool); 4] = [
        (false, Compression::Auto, false),
        (true, Compression::Auto, true),
        (true, Compression::Never, false),
        (false, Compression::Always, true),
    ];
    for (number, (is_elsewhere, compression, is_packed)) in ways.into_iter().enumerate() {
        fs::write(world.site.tree().join("file"), small(number)).unwrap();
        world.publish().await;
        match is_elsewhere {
            true => run(&node, there.clone(), compression).await,
            false => run(&node, node.transport(), compression).await,
        };
        let fetches = fetches(&node);
        assert_eq!(fetches.len(), 1);
        assert_eq!((fetches[0].packed.is_some(), fetches[0].digests.is_empty()), (is_packed, is_packed), "{compression:?}");
        assert_same(&world, &node);
    }
}

/// A transport that does not say that the server is on this machine.
#[derive(Debug, Clone)]
struct Elsewhere(Logged);

#[async_trait]
impl Transport for Elsewhere {
    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        self.0.call(request).await
    }

    fn endpoint(&self) -> &str {
        self.0.endpoint()
    }
}

/// What is between an agent and the server.
#[derive(Debug, Clone)]
enum Between {
    /// A server of before: it passes over what it does not know.
    OldServer,
    /// Before the fetch, somebody else writes into a file that the scan has seen.
    Meddler(PathBuf),
    /// Of the first fetch one bit is another, within the packed bytes that begin with this occurrence of zstd's magic number.
    Flip(usize),
    /// The first fetch breaks off, at this part of it in percent.
    Break(usize),
}

#[derive(Debug, Clone)]
struct Altered {
    inner: Logged,
    between: Between,
    fetches: Arc<AtomicU64>,
}

impl Altered {
    fn new(node: &Node, between: Between) -> Self {
        Self { inner: node.transport(), between, fetches: Arc::default() }
    }

    fn as_old(request: Request) -> Request {
        fn plain<M: serde::Serialize + serde::de::DeserializeOwned>(body: &[u8], change: impl FnOnce(&mut M)) -> bytes::Bytes {
            let mut message: M = codec::decode(body, u64::MAX).unwrap();
            change(&mut message);
            codec::encode(&message).unwrap().into()
        }
        let body = match request.operation {
            Operation::CheckIn => plain(&request.body, |message: &mut CheckIn| message.features.clear()),
            Operation::SubmitFacts => plain(&request.body, |message: &mut SubmitFacts| message.check_in.features.clear()),
            Operation::Fetch => plain(&request.body, |message: &mut Fetch| message.packed = None),
            _ => request.body,
        };
        Request { body, ..request }
    }
}

#[async_trait]
impl Transport for Altered {
    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        let is_fetch = request.operation == Operation::Fetch;
        let is_first = is_fetch && self.fetches.fetch_add(1, Ordering::SeqCst) == 0;
        if let (Between::Meddler(path), true) = (&self.between, is_first) {
            // In place: as long as before, with a bit changed.
            let file = fs::File::options().read(true).write(true).open(path).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, 1000).unwrap();
            file.write_all_at(&[byte[0] ^ 1], 1000).unwrap();
        }
        let request = if matches!(self.between, Between::OldServer) { Self::as_old(request) } else { request };
        let response = self.inner.call(request).await?;
        let (Between::Flip(number) | Between::Break(number), true) = (&self.between, is_first) else { return Ok(response) };
        let mut body = response.into_bytes(1 << 30, "").await?.to_vec();
        let chunks: Vec<Result<bytes::Bytes, TransportError>> = match self.between {
            Between::Flip(_) => {
                let mut frames = (0..body.len()).filter(|&at| body[at..].starts_with(&[0x28, 0xb5, 0x2f, 0xfd]));
                let at = frames.nth(*number).unwrap() + 12;
                body[at] ^= 0x10;
                vec![Ok(body.into())]
            }
            _ => {
                body.truncate(body.len() * number / 100);
                vec![Ok(body.into()), Err(TransportError::new(TransportErrorKind::Closed, "the test"))]
            }
        };
        let body = futures::stream::iter(chunks).boxed();
        Ok(Response { status: direct_puppet_transport::Status::Accepted, retry_after: None, length: None, body })
    }

    fn endpoint(&self) -> &str {
        self.inner.endpoint()
    }
}

/// A world where a node has the first form of 40 files and a large one, and the second is published.
async fn changed() -> (World, Node) {
    let world = World::new(Link::memory()).await;
    fill(&world, 40, false);
    let large = world.site.tree().join("large");
    let mut content = noise(7, 2 << 20);
    fs::write(&large, &content).unwrap();
    world.publish().await;
    let node = world.node("node1");
    run(&node, node.transport(), Compression::Always).await;
    fill(&world, 40, true);
    content.splice(1 << 20..1 << 20, *b"put in");
    content[5] ^= 1;
    fs::write(&large, &content).unwrap();
    world.publish().await;
    drop(node.log.take());
    (world, node)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_server_is_asked_by_digest() {
    let (world, node) = changed().await;
    let outcome = run(&node, Altered::new(&node, Between::OldServer), Compression::Always).await;
    assert_eq!((outcome.wire.contents_received, outcome.wire.contents_repeated), (41, 0));
    let fetches = fetches(&node);
    assert_eq!(fetches.iter().map(|fetch| fetch.digests.len()).collect::<Vec<_>>(), [0, 41]);
    assert_same(&world, &node);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_changed_after_the_scan_costs_another_request_and_nothing_else() {
    // The large one is put together from pieces then: two questions how it is cut, and one for what is around the changes.
    for (name, repeated, requests, pieced) in [("d03/file00003", 1..=40, 2, 0), ("large", 1..=1, 4, 1)] {
        let (world, node) = changed().await;
        let meddler = Between::Meddler(node.path("/srv/tree").join(name));
        let outcome = run(&node, Altered::new(&node, meddler), Compression::Always).await;
        assert!(repeated.contains(&outcome.wire.contents_repeated), "{name}: {}", outcome.wire.contents_repeated);
        assert_eq!((outcome.wire.contents_received, outcome.wire.contents_pieced), (41, pieced));
        assert_eq!(fetches(&node).len(), requests);
        assert_same(&world, &node);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_pack_is_asked_for_again() {
    // The small files are in the first, parts of the large one in the others. A header that is no header ends the run, as it does
    // without packs.
    for frame in [0, 1, 2] {
        let (world, node) = changed().await;
        let outcome = run(&node, Altered::new(&node, Between::Flip(frame)), Compression::Always).await;
        assert!(outcome.wire.contents_repeated > 0, "frame {frame}");
        assert_eq!(outcome.wire.contents_received, 41, "frame {frame}");
        assert_same(&world, &node);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_packs_that_breaks_off_is_taken_up_again() {
    for percent in [0, 20, 50, 90, 99] {
        let (world, node) = changed().await;
        let outcome = run(&node, Altered::new(&node, Between::Break(percent)), Compression::Always).await;
        assert_eq!((outcome.wire.contents_received, outcome.wire.contents_repeated), (41, 0), "at {percent} %");
        // All may be there when only the end is missing.
        assert!(fetches(&node).len() == 2 || percent == 99, "at {percent} %");
        assert_same(&world, &node);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_edit_is_replaced_though_nobody_knows_what_is_there() {
    let world = World::new(Link::memory()).await;
    fill(&world, 10, false);
    world.publish().await;
    let node = world.node("node1");
    run(&node, node.transport(), Compression::Always).await;
    fs::write(node.path("/srv/tree/d03/file00003"), "edited by hand").unwrap();
    let outcome = run(&node, node.transport(), Compression::Always).await;
    assert_eq!((outcome.wire.contents_received, outcome.wire.contents_repeated), (1, 0));
    assert_same(&world, &node);
    // And together with a new version.
    fs::write(node.path("/srv/tree/d03/file00003"), "edited by hand again").unwrap();
    fill(&world, 10, true);
    world.publish().await;
    let outcome = run(&node, node.transport(), Compression::Always).await;
    assert_eq!(outcome.wire.contents_received, 10);
    assert_same(&world, &node);
}
