//! A fetch of small contents and the steady check-in, over each transport. `BENCH_FILES` sets how many (default 10,000).

use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use direct_puppet_benches::{content, files, make_site, server, staged};
use direct_puppet_server_stub::listen::{HttpListener, Limits, Service, UnixListener};
use direct_puppet_transport::protocol::frame::FetchEvent;
use direct_puppet_transport::protocol::{CatalogReply, CheckIn, Digest, Fetch, Held, ProtocolVersion, SubmitFacts};
use direct_puppet_transport::{Client, ConnectOptions, Handler, MemoryTransport, Transport, connect};
use tokio_util::sync::CancellationToken;

/// Receives everything and verifies it; returns how many contents there were.
async fn fetch(client: &Client<Arc<dyn Transport>>, request: &Fetch) -> usize {
    let mut stream = client.fetch(request).await.expect("an answer");
    let (mut open, mut verified) = (None, 0);
    while let Some(event) = stream.next().await.expect("a whole stream") {
        match event {
            FetchEvent::Blob { digest, .. } => open = Some((digest, digest.verifier())),
            FetchEvent::Data(data) => {
                if let Some((_, hasher)) = &mut open {
                    hasher.update(&data);
                }
            }
            FetchEvent::BlobEnd => {
                verified += usize::from(open.take().is_some_and(|(digest, hasher)| hasher.finish() == digest));
            }
            _ => {}
        }
    }
    verified
}

fn transports(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (dir, count) = (tempfile::tempdir().expect("a directory"), files(10_000));
    make_site(&dir.path().join("staging"), count).expect("a site");
    let server = server(&dir.path().join("data"), &dir.path().join("staging"));
    runtime.block_on(staged(&server));
    let handler: Arc<dyn Handler> = server;
    let links = runtime.block_on(links(&handler, dir.path()));
    let mut check_in = CheckIn {
        protocol: ProtocolVersion::CURRENT,
        certname: "bench".parse().expect("a valid name"),
        environment: direct_puppet_transport::protocol::Environment::default(),
        held: None,
        features: Vec::new(),
        wait_seconds: 0,
        at_least: None,
    };
    let facts = SubmitFacts { check_in: check_in.clone(), facts: std::collections::BTreeMap::new() };
    let first = Client::new(Arc::clone(&links[0].1));
    let reply = runtime.block_on(first.submit_facts(&facts)).expect("a catalog");
    let CatalogReply::Catalog { catalog_id, code_id, version, .. } = reply else { panic!("no catalog") };
    check_in.held = Some(Held { catalog_id, code_id, version });
    let mut digests: Vec<Digest> = (0..count).map(|number| Digest::of(&content(number))).collect();
    digests.sort();
    digests.dedup();
    let request =
        Fetch { certname: check_in.certname.clone(), digests, offsets: std::collections::BTreeMap::new(), packed: None };

    let mut group = criterion.benchmark_group(format!("fetch/{} contents", request.digests.len()));
    group.sample_size(10).throughput(Throughput::Elements(request.digests.len() as u64));
    for (name, transport) in &links {
        let client = Client::new(Arc::clone(transport));
        group.bench_function(*name, |bencher| {
            bencher.iter(|| assert_eq!(runtime.block_on(fetch(&client, &request)), request.digests.len()));
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("check-in, nothing new");
    for (name, transport) in &links {
        let client = Client::new(Arc::clone(transport));
        group.bench_function(*name, |bencher| bencher.iter(|| runtime.block_on(client.check_in(&check_in)).expect("an answer")));
    }
    group.finish();
}

async fn links(handler: &Arc<dyn Handler>, dir: &std::path::Path) -> Vec<(&'static str, Arc<dyn Transport>)> {
    let shutdown = CancellationToken::new();
    let socket = dir.join("agent.sock");
    let unix = UnixListener::bind(&socket, 0o600).await.expect("a socket");
    tokio::spawn(unix.serve(Arc::clone(handler), Limits::default(), shutdown.clone()));
    let http = HttpListener::bind("127.0.0.1:0".parse().expect("an address"), None, false).await.expect("a port");
    let url = http.url();
    tokio::spawn(http.serve(Service { handler: Arc::clone(handler), routes: None }, Limits::default(), shutdown));
    let to = |url: &str| connect(url, &ConnectOptions::default()).expect("a valid URL");
    vec![
        ("memory", Arc::new(MemoryTransport::new(Arc::clone(handler)))),
        ("memory through the frames", Arc::new(MemoryTransport::framed(Arc::clone(handler)))),
        ("Unix socket", to(&format!("unix:{}", socket.display()))),
        ("HTTP/1.1", to(&url)),
    ]
}

criterion_group!(benches, transports);
criterion_main!(benches);
