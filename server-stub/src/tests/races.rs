//! Publishes, collections, readers and replicas at the same time.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use direct_puppet_transport::protocol::Digest;
use direct_puppet_transport::protocol::frame::FetchEvent;
use direct_puppet_transport::{Client, MemoryTransport};
use hyper::{Method, Request, StatusCode};

use super::promotion::{peers, port};
use super::*;
use crate::AdminRoutes;
use crate::history::CollectRequest;
use crate::store::{Generation, Pointer, PointerStore, SharedStore, StoreError};

const NOW: CollectRequest = CollectRequest { grace_seconds: 0, dry_run: false };

/// Asks for contents as a node; returns what came, and how many did not.
pub(super) async fn fetch(server: &Arc<Server>, name: &str, digests: Vec<Digest>) -> (BTreeMap<Digest, Vec<u8>>, usize) {
    let handler: Arc<dyn direct_puppet_transport::Handler> = Arc::<Server>::clone(server);
    let client = Client::new(MemoryTransport::new(handler));
    let request =
        direct_puppet_transport::protocol::Fetch { certname: certname(name), digests, offsets: BTreeMap::new(), packed: None };
    let (mut came, mut missing, mut now) = (BTreeMap::<Digest, Vec<u8>>::new(), 0, None);
    let mut stream = client.fetch(&request).await.unwrap();
    while let Ok(Some(event)) = stream.next().await {
        match event {
            FetchEvent::Blob { digest, .. } => {
                now = Some(digest);
                came.entry(digest).or_default();
            }
            FetchEvent::Data(data) => came.get_mut(&now.unwrap()).unwrap().extend_from_slice(&data),
            FetchEvent::Missing(_) => missing += 1,
            _ => {}
        }
    }
    (came, missing)
}

/// Pointers of which those of live code are never swapped while another is always faster.
#[derive(Debug)]
struct Outrunning {
    inner: Arc<dyn PointerStore>,
    is_faster: AtomicBool,
    lost: AtomicU64,
}

#[async_trait]
impl PointerStore for Outrunning {
    fn endpoint(&self) -> &str {
        self.inner.endpoint()
    }

    async fn get(&self, name: &str) -> Result<Option<Pointer>, StoreError> {
        self.inner.get(name).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Pointer)>, StoreError> {
        self.inner.list(prefix).await
    }

    async fn names(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.inner.names(prefix).await
    }

    async fn swap(&self, name: &str, expected: Option<Generation>, value: Option<Bytes>) -> Result<bool, StoreError> {
        if name.starts_with("live/env/") && self.is_faster.load(Ordering::SeqCst) {
            self.lost.fetch_add(1, Ordering::SeqCst);
            return Ok(false);
        }
        self.inner.swap(name, expected, value).await
    }

    async fn changed(&self, wait: Duration) {
        self.inner.changed(wait).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_that_is_outrun_again_and_again_is_a_conflict_and_changes_nothing() {
    let world = World::new();
    let (store, _) = shared::store(&world);
    let pointers = Arc::new(Outrunning { inner: store.pointers, is_faster: AtomicBool::default(), lost: AtomicU64::default() });
    let store = SharedStore { blobs: store.blobs, pointers: Arc::<Outrunning>::clone(&pointers) };
    let server = shared::share(&world, &store, "a");
    let routes = AdminRoutes::new(Arc::clone(&server), Vec::new());
    let ask = async |path: &str, body: &str| {
        let request = Request::builder().method(Method::POST).uri(path).body(Bytes::from(body.to_owned())).unwrap();
        let response = routes.answer(&Peer::Plain, request).await.unwrap();
        (response.status(), String::from_utf8(response.into_body().to_vec()).unwrap())
    };
    publish_all(&server).await;
    world.stage("modules/app/files/tree/a", "content b");
    let second = publish_all(&server).await;
    world.stage("modules/app/files/tree/a", "content c");
    for (path, body) in [("/file-sync/v1/publish", ""), ("/file-sync/v1/rollback", r#"{"environment":"production","to":"1.1"}"#)]
    {
        pointers.is_faster.store(true, Ordering::SeqCst);
        let lost = pointers.lost.load(Ordering::SeqCst);
        let (status, text) = ask(path, body).await;
        assert!(status == StatusCode::CONFLICT && text.contains("\"outrun\""), "{path}: {status} {text}");
        assert_eq!(pointers.lost.load(Ordering::SeqCst) - lost, crate::publish::ATTEMPTS as u64, "{path}");
        assert_eq!(live(&server).version.version.sequence, second.sequence, "{path}");
    }
    pointers.is_faster.store(false, Ordering::SeqCst);
    let (status, text) = ask("/file-sync/v1/publish", "").await;
    assert_eq!((status, live(&server).version.version.sequence), (StatusCode::OK, 3), "{text}");
}

#[tokio::test]
async fn what_two_environments_share_a_node_gets_through_its_own_catalog_only() {
    let world = World::new();
    let other = world.environment().parent().unwrap().join("other");
    fs::create_dir_all(other.join("modules/app/files")).unwrap();
    // It has the content too, and gives it to nobody.
    fs::write(other.join("modules/app/files/a"), "content a").unwrap();
    let site = |extra: &str| {
        format!("nodes: [{{ match: \"*\", classes: [base] }}]\nclasses:\n  base:\n    - file: /own\n      content: own\n{extra}")
    };
    fs::write(other.join("site.yaml"), site("")).unwrap();
    let server = world.open();
    assert!(server.publish(PublishRequest::default()).await.unwrap().iter().all(|result| result.error.is_none()));
    let (shared, nowhere) = (Digest::of(b"content a"), Digest::of(b"nobody has it"));
    compiled(&server, "n1").await;
    let of_other = || async {
        let check_in = CheckIn { environment: "other".parse().unwrap(), ..check_in("n2", None) };
        let request = SubmitFacts { check_in, facts: facts("Linux") };
        assert!(matches!(server.submit_facts(&Peer::InProcess, request).await, Ok(CatalogReply::Catalog { .. })));
    };
    of_other().await;
    let came = async |name: &str, digest| fetch(&server, name, vec![digest]).await;
    assert_eq!(came("n1", shared).await, (BTreeMap::from([(shared, b"content a".to_vec())]), 0));
    // Whether it is there cannot be told from the answer.
    for (name, digest) in [("n2", shared), ("n2", nowhere), ("n3", shared), ("n3", nowhere), ("n1", nowhere)] {
        assert_eq!(came(name, digest).await, (BTreeMap::new(), 1), "{name}");
    }
    fs::write(other.join("site.yaml"), site("    - file: /shared\n      source: puppet:///modules/app/a\n")).unwrap();
    server.publish(PublishRequest::default()).await.unwrap();
    assert_eq!(came("n2", shared).await.1, 1, "it was not given that catalog yet");
    of_other().await;
    assert_eq!(came("n2", shared).await, (BTreeMap::from([(shared, b"content a".to_vec())]), 0));
}

/// How long to go on at least: `SOAK` is a number of seconds, for a day of it or an hour.
#[expect(clippy::disallowed_methods, reason = "a knob of tests")]
fn soak() -> Duration {
    std::env::var("SOAK").map_or(Duration::ZERO, |seconds| Duration::from_secs(seconds.parse().expect("a number of seconds")))
}

/// Everything is collected that may be, all the time, and nobody misses anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_collection_without_grace_takes_nothing_that_anybody_still_needs() {
    const FILES: usize = 300;
    let (world, own) = (World::new(), World::new());
    let fill = |round: usize| {
        for number in 0..FILES {
            // Some are of this version only, some stay.
            let round = if number % 3 == 0 { round } else { 0 };
            world.stage(&format!("modules/app/files/tree/d{}/f{number}", number % 7), format!("{round} {number}"));
        }
    };
    let server = world.open();
    let replica = own.open_with(|options| options.primary = peers("r", &[&port(&server)]));
    fill(0);
    publish_all(&server).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut nodes = Vec::new();
    for number in 0..6 {
        let (server, stop) = (Arc::clone(if number % 3 == 0 { &replica } else { &server }), Arc::clone(&stop));
        nodes.push(tokio::spawn(async move {
            let (name, mut held, mut fetched, mut refused) = (format!("node{number}"), None, 0, 0);
            while !stop.load(Ordering::SeqCst) {
                let reply = submit(&server, &name, held, "Linux").await;
                let Ok(CatalogReply::Catalog { catalog_id, code_id, version, catalog, .. }) = reply else {
                    refused += usize::from(reply.is_err());
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                };
                let catalog = Catalog::decode(&catalog, catalog_id).unwrap();
                let all: Vec<Digest> = catalog.contents().map(|(digest, _)| digest).collect();
                // In several requests, between which the code is replaced and collected.
                for some in all.chunks(FILES / 4) {
                    let (came, missing) = fetch(&server, &name, some.to_vec()).await;
                    assert_eq!((came.len(), missing), (some.len(), 0), "{name} at {version}");
                    assert!(came.iter().all(|(digest, content)| digest.verifies(content)), "{name} at {version}");
                    fetched += some.len();
                }
                held = Some(Held { catalog_id, code_id, version });
            }
            (fetched, refused)
        }));
    }
    let collecting = tokio::spawn({
        let (servers, stop) = ([Arc::clone(&server), Arc::clone(&replica)], Arc::clone(&stop));
        async move {
            let mut collected = 0;
            while !stop.load(Ordering::SeqCst) {
                for server in &servers {
                    collected += server.collect_as(NOW, "test").await.unwrap().collected.len();
                }
            }
            collected
        }
    });
    let (begun, mut behind, mut rounds) = (Instant::now(), 0, 0);
    while rounds < campaign(300) || begun.elapsed() < soak() {
        rounds += 1;
        fill(rounds);
        publish_all(&server).await;
        // What is collected before it came is live no more: the next confirmation is of what is live then.
        behind += usize::from(!replica.confirm().await.unwrap().behind.is_empty());
    }
    stop.store(true, Ordering::SeqCst);
    let (mut fetched, mut refused) = (0, 0);
    for node in nodes {
        let (all, none) = node.await.unwrap();
        (fetched, refused) = (fetched + all, refused + none);
    }
    let collected = collecting.await.unwrap();
    println!(
        "{rounds} publishes in {:?}, {collected} versions collected, {fetched} contents fetched, {refused} asked in vain, {behind} behind",
        begun.elapsed()
    );
    assert!(fetched > FILES && collected > 0, "nothing happened");
    replica.confirm().await.unwrap().whole().unwrap();
    for server in [&server, &replica] {
        assert_eq!(server.verify().unwrap().problems, []);
    }
    assert_eq!(live(&replica).version.code_id, live(&server).version.code_id);
}

/// Readers who each get a catalog and its contents, by thousands, while it is published.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_readers_each_see_one_version_throughout() {
    const READERS: usize = 1_000;
    let world = World::new();
    let stage = |round: usize| {
        ["a", "b", "c"].iter().for_each(|name| world.stage(&format!("modules/app/files/tree/{name}"), format!("{name} {round}")));
    };
    let server = world.open();
    stage(0);
    publish_all(&server).await;
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..READERS)
        .map(|number| {
            let (server, stop) = (Arc::clone(&server), Arc::clone(&stop));
            tokio::spawn(async move {
                let (name, mut reads, mut newest) = (format!("node{}", number % 20), 0_u64, 0);
                // Most only look at the code as an answer does; some are nodes.
                let is_node = number < 20;
                while !stop.load(Ordering::SeqCst) || reads == 0 {
                    let (sequence, contents) = if is_node {
                        let (held, catalog) = compiled(&server, &name).await;
                        let digests: Vec<Digest> = catalog.contents().map(|(digest, _)| digest).collect();
                        let (came, missing) = fetch(&server, &name, digests).await;
                        assert_eq!(missing, 0, "{name} at {}", held.version);
                        (held.version.sequence, came.into_values().map(|content| String::from_utf8(content).unwrap()).collect())
                    } else {
                        let code = live(&server);
                        let read = |name: &str| {
                            let path = format!("modules/app/files/tree/{name}").parse().unwrap();
                            String::from_utf8(code.read(&path, 100).unwrap().unwrap().to_vec()).unwrap()
                        };
                        (code.version.version.sequence, ["a", "b", "c"].map(read).to_vec())
                    };
                    let rounds: std::collections::BTreeSet<&str> = contents
                        .iter()
                        .filter_map(|content| content.split_once(' '))
                        .filter(|(name, _)| ["a", "b", "c"].contains(name))
                        .map(|(_, round)| round)
                        .collect();
                    assert_eq!(rounds.len(), 1, "{name} has seen a mixture: {contents:?}");
                    assert!(sequence >= newest, "{name} has gone back");
                    (newest, reads) = (sequence, reads + 1);
                    tokio::task::yield_now().await;
                }
                reads
            })
        })
        .collect();
    // The fault catalogue's own number, in the long campaign.
    let (begun, publishes) = (Instant::now(), if campaign(10) == 10 { 10_000 } else { 100 });
    for round in 1..=publishes {
        stage(round);
        publish_all(&server).await;
    }
    stop.store(true, Ordering::SeqCst);
    let reads: u64 = futures::future::join_all(readers).await.into_iter().map(Result::unwrap).sum();
    println!("{publishes} publishes in {:?}, {reads} reads by {READERS}", begun.elapsed());
    assert_eq!(live(&server).version.version.sequence, publishes as u64 + 1);
    assert!(reads >= READERS as u64);
}

/// Two who publish what differs, each an environment of its own, and one who publishes both: one order for each, and none lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_publishers_at_once_none_is_lost() {
    const ROUNDS: u64 = 20;
    let world = World::new();
    let production = world.environment();
    let second = production.parent().unwrap().join("second");
    fs::create_dir_all(&second).unwrap();
    fs::copy(production.join("site.yaml"), second.join("site.yaml")).unwrap();
    // The module that its site names.
    let module = second.join("modules/app/files/tree");
    fs::create_dir_all(&module).unwrap();
    let server = world.open();
    let (one, two) = (Environment::default(), "second".parse::<Environment>().unwrap());
    let is_over = Arc::new(AtomicBool::new(false));
    let publisher = |environment: Environment, dir: PathBuf| {
        let (server, new) = (Arc::clone(&server), world.dir.path().join(format!("new-{environment}")));
        tokio::spawn(async move {
            let mut results = Vec::new();
            for round in 0..ROUNDS {
                // Whole at once: who publishes both would have what is half written published.
                fs::write(&new, format!("{environment} {round}")).unwrap();
                fs::rename(&new, dir.join("modules/app/files/tree/a")).unwrap();
                let request = PublishRequest { environments: vec![environment.clone()], ..PublishRequest::default() };
                let result = publish(&server, request).await;
                assert_eq!(result.error, None);
                results.push(result);
            }
            results
        })
    };
    let of_both = {
        let (server, is_over) = (Arc::clone(&server), Arc::clone(&is_over));
        tokio::spawn(async move {
            let mut results = Vec::new();
            while !is_over.load(Ordering::SeqCst) {
                // What is being changed just then is refused.
                let made = server.publish(PublishRequest::default()).await.unwrap();
                results.extend(made.into_iter().filter(|result| result.error.is_none()));
            }
            results
        })
    };
    let publishers = [publisher(one.clone(), production), publisher(two.clone(), second)];
    let mut results = Vec::new();
    for publisher in publishers {
        let made = publisher.await.unwrap();
        let (last, live) = (made.last().unwrap(), server.environments.live(&made[0].environment).unwrap());
        assert_eq!(last.code_id, Some(live.version.code_id), "what was staged last");
        results.extend(made);
    }
    is_over.store(true, Ordering::SeqCst);
    results.extend(of_both.await.unwrap());
    for environment in [&one, &two] {
        let history = server.environments.history(environment).unwrap();
        let told: Vec<_> = results.iter().filter(|result| result.environment == *environment).collect();
        let sequences: Vec<u64> = history.iter().map(|version| version.version.sequence).collect();
        assert_eq!(sequences, (1..=ROUNDS).collect::<Vec<_>>(), "each content once, in one order");
        for version in &history {
            let made: Vec<_> =
                told.iter().filter(|result| result.changed && result.sequence == version.version.sequence).collect();
            assert_eq!(made.len(), 1, "{version:?} was told to one who made it");
            assert_eq!(made[0].code_id, Some(version.code_id));
        }
        for result in told {
            let is_it = |version: &crate::code::Version| Some(version.code_id) == result.code_id;
            assert!(history.iter().any(|version| version.version.sequence == result.sequence && is_it(version)), "{result:?}");
        }
    }
}
