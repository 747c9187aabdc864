//! Compilers that panic, are replaced by another version, or are slower than nodes come.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use bytes::Bytes;
use direct_puppet_transport::protocol::RefusalCode;
use direct_puppet_transport::{Client, MemoryTransport, Retry, RetryPolicy};
use hyper::{Method, Request, StatusCode};

use super::*;
use crate::history::CollectRequest;
use crate::{AdminRoutes, ServerError};

const NOW: CollectRequest = CollectRequest { grace_seconds: 0, dry_run: false };

/// What a compiler is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Check,
    Compile,
}

/// A compiler that panics once when it is told to, and counts how much it does at once.
#[derive(Debug)]
struct Odd {
    inner: Arc<Counting>,
    name: &'static str,
    panics_in: Mutex<Option<Act>>,
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Odd {
    fn new(world: &World, name: &'static str) -> Arc<Self> {
        let inner = Arc::<Counting>::clone(&world.compiler);
        Arc::new(Self { inner, name, panics_in: Mutex::default(), now: AtomicUsize::default(), most: AtomicUsize::default() })
    }

    fn panic_in(&self, act: Act) {
        *self.panics_in.lock().unwrap() = Some(act);
    }

    fn perhaps_panic(&self, act: Act) {
        let is_told = self.panics_in.lock().unwrap().take_if(|told| *told == act).is_some();
        assert!(!is_told, "as told, in {act:?}");
    }
}

impl Compiler for Odd {
    fn name_and_version(&self) -> &str {
        self.name
    }

    fn check(&self, code: &Code) -> Result<(), CompileError> {
        self.perhaps_panic(Act::Check);
        self.inner.check(code)
    }

    fn compile(&self, request: &CompileRequest) -> Result<Compiled, CompileError> {
        self.most.fetch_max(1 + self.now.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
        // Beside others that ask for the same.
        let compiled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let compiled = self.inner.compile(request);
            self.perhaps_panic(Act::Compile);
            compiled
        }));
        self.now.fetch_sub(1, Ordering::SeqCst);
        compiled.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn open(world: &World, compiler: &Arc<Odd>, change: impl FnOnce(&mut ServerOptions)) -> Arc<Server> {
    world.open_with(|options| {
        options.compiler = Arc::<Odd>::clone(compiler) as Arc<dyn Compiler>;
        change(options);
    })
}

/// Waits until something is so.
async fn until(is_so: impl Fn() -> bool + Send + Sync) {
    let waited = tokio::time::timeout(Duration::from_secs(30), async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    waited.await.expect("it never happened");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_check_fails_the_publish_and_no_other() {
    let world = World::new();
    let compiler = Odd::new(&world, "odd");
    let server = open(&world, &compiler, |_| {});
    publish_all(&server).await;
    let (held, _) = compiled(&server, "n1").await;
    world.stage("modules/app/files/tree/a", "content b");
    compiler.panic_in(Act::Check);
    // Those that wait for their turn behind it are not harmed.
    let all = futures::future::join_all((0..3).map(|_| server.publish(PublishRequest::default()))).await;
    let lost = all.iter().filter(|result| matches!(result, Err(ServerError::Lost(_)))).count();
    let changed = all.iter().flatten().filter(|results| results[0].changed && results[0].error.is_none()).count();
    assert_eq!((lost, changed), (1, 1), "{all:?}");
    assert_eq!(server.versions(None).unwrap().len(), 2);
    // By the administrators' paths: a publish, and a rollback.
    let routes = AdminRoutes::new(Arc::clone(&server), Vec::new());
    let ask = async |path: &str, body: &str| {
        let request = Request::builder().method(Method::POST).uri(path).body(Bytes::from(body.to_owned())).unwrap();
        let response = routes.answer(&Peer::Plain, request).await.unwrap();
        (response.status(), String::from_utf8(response.into_body().to_vec()).unwrap())
    };
    world.stage("modules/app/files/tree/a", "content c");
    for (path, body) in [
        ("/file-sync/v1/publish", ""),
        ("/file-sync/v1/commit", r#"{"commit-all":true}"#),
        ("/file-sync/v1/rollback", r#"{"environment":"production","to":"1.1"}"#),
    ] {
        let before = live(&server).version.clone();
        compiler.panic_in(Act::Check);
        let (status, text) = ask(path, body).await;
        assert!(status == StatusCode::INTERNAL_SERVER_ERROR && text.contains("\"internal\""), "{path}: {status} {text}");
        assert_eq!(live(&server).version, before, "{path}");
        let (status, text) = ask(path, body).await;
        assert_eq!((status, live(&server).version == before), (StatusCode::OK, false), "{path}: {text}");
        world.stage("modules/app/files/tree/a", format!("after {path}"));
    }
    submit(&server, "n1", Some(held), "Linux").await.unwrap();
    server.collect_as(NOW, "test").await.unwrap();
    assert_eq!(server.verify().unwrap().problems, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_compile_fails_those_who_wait_for_it_and_no_other() {
    let world = World::new();
    let compiler = Odd::new(&world, "odd");
    // The only worker must be free again.
    let server = open(&world, &compiler, |options| options.compile_workers = 1);
    publish_all(&server).await;
    for round in 1..=2 {
        let gate = world.compiler.gate.lock().await;
        compiler.panic_in(Act::Compile);
        let compiles = world.compiles();
        let ask = |name: &'static str| {
            let server = Arc::clone(&server);
            tokio::spawn(async move { submit(&server, name, None, "Linux").await })
        };
        let first = ask("n1");
        until(|| world.compiles() > compiles).await;
        let others = [ask("n1"), ask("n2")];
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(gate);
        let [same, other] = others;
        for failed in [first, same] {
            let refusal = failed.await.unwrap().unwrap_err();
            assert_eq!(refusal.code, RefusalCode::Internal, "{refusal}");
            assert!(!refusal.message.contains("as told"), "what went wrong is for the log: {refusal}");
        }
        assert!(matches!(other.await.unwrap(), Ok(CatalogReply::Catalog { .. })));
        // One compile for both, one for the other; the next one succeeds.
        assert_eq!(world.compiles(), compiles + 2);
        compiled(&server, "n1").await;
        assert_eq!((world.compiles(), server.flights.len(), server.workers.available_permits()), (compiles + 3, 0, 1));
        // Nothing is locked: it can be published, and collected, which waits for compiles.
        world.stage("modules/app/files/tree/a", format!("round {round}"));
        assert!(publish_all(&server).await.changed);
        server.collect_as(NOW, "test").await.unwrap();
        assert_eq!(server.verify().unwrap().problems, []);
    }
}

#[tokio::test]
async fn another_version_of_the_compiler_compiles_nothing_again() {
    let world = World::new();
    let server = open(&world, &Odd::new(&world, "odd 1"), |_| {});
    publish_all(&server).await;
    let (held, _) = compiled(&server, "n1").await;
    let compiler_of =
        |server: &Server| server.nodes.catalogs().into_iter().map(|(_, compiled)| compiled.compiler).collect::<Vec<_>>();
    assert_eq!((world.compiles(), compiler_of(&server)), (1, vec!["odd 1".to_owned()]));
    drop(server);
    let server = open(&world, &Odd::new(&world, "odd 2"), |_| {});
    let current = server.check_in(&Peer::InProcess, check_in("n1", Some(held))).await.unwrap();
    assert!(matches!(current, CatalogReply::Current { .. }), "{current:?}");
    // Also for one that has lost its catalog: it is given the one that was made before.
    assert_eq!(compiled(&server, "n1").await.0, held);
    assert_eq!((world.compiles(), compiler_of(&server)), (1, vec!["odd 1".to_owned()]));
    // New code is compiled by the new one.
    world.stage("modules/app/files/tree/a", "content b");
    publish_all(&server).await;
    compiled(&server, "n1").await;
    assert_eq!(world.compiles(), 2);
    assert!(compiler_of(&server).contains(&"odd 2".to_owned()), "{:?}", compiler_of(&server));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_compiled_at_once_than_there_are_workers_and_all_are_answered() {
    const NODES: usize = 50;
    let world = World::new();
    let compiler = Odd::new(&world, "odd");
    let server = open(&world, &compiler, |options| options.compile_workers = 2);
    publish_all(&server).await;
    let gate = world.compiler.gate.lock().await;
    let nodes: Vec<_> = (0..NODES)
        .map(|number| {
            let server = Arc::clone(&server);
            tokio::spawn(async move { submit(&server, &format!("node{number}"), None, "Linux").await })
        })
        .collect();
    until(|| server.flights.len() == NODES).await;
    until(|| compiler.now.load(Ordering::SeqCst) == 2).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!((world.compiles(), compiler.now.load(Ordering::SeqCst)), (2, 2));
    drop(gate);
    for node in nodes {
        assert!(matches!(node.await.unwrap(), Ok(CatalogReply::Catalog { .. })));
    }
    assert_eq!((world.compiles(), compiler.most.load(Ordering::SeqCst), server.flights.len()), (NODES as u64, 2, 0));
}

/// As many as may wait do; the next one is told when to come again, and comes through when there is room.
#[tokio::test(flavor = "multi_thread")]
async fn who_comes_when_too_many_compiles_wait_is_told_when_to_come_again() {
    let world = World::new();
    let compiler = Odd::new(&world, "odd");
    let server = open(&world, &compiler, |options| options.compile_workers = 1);
    publish_all(&server).await;
    let gate = world.compiler.gate.lock().await;
    let most = crate::answer::MAX_FLIGHTS;
    let nodes: Vec<_> = (0..most)
        .map(|number| {
            let server = Arc::clone(&server);
            tokio::spawn(async move { submit(&server, &format!("node{number}"), None, "Linux").await })
        })
        .collect();
    until(|| server.flights.len() == most).await;
    let refusal = submit(&server, "late", None, "Linux").await.unwrap_err();
    assert_eq!((refusal.code, refusal.retry_after_seconds), (RefusalCode::Busy, Some(30)));
    // Who waits already may ask once more; whoever has a catalog is answered.
    let again = tokio::time::timeout(Duration::from_millis(100), submit(&server, "node7", None, "Linux")).await;
    assert!(again.is_err(), "{again:?}");
    assert_eq!((server.flights.len(), world.compiles()), (most, 1));
    drop(gate);
    until(|| server.flights.len() < most).await;
    let late = tokio::time::timeout(Duration::from_millis(100), submit(&server, "late", None, "Linux")).await;
    assert!(!matches!(late, Ok(Err(_))), "{late:?}");
    // The others need not be waited for.
    nodes.iter().for_each(tokio::task::JoinHandle::abort);
}

/// More than may wait come at once, as after a publish, and do as they are told: all are answered, and each is compiled once.
#[tokio::test(start_paused = true)]
async fn all_who_come_at_once_after_a_publish_are_answered_and_compiled_once() {
    const NODES: usize = crate::answer::MAX_FLIGHTS + 2_000;
    let world = World::new();
    let compiler = Odd::new(&world, "odd");
    let server = open(&world, &compiler, |options| options.compile_workers = 2);
    publish_all(&server).await;
    let gate = world.compiler.gate.lock().await;
    let handler: Arc<dyn direct_puppet_transport::Handler> = Arc::<Server>::clone(&server);
    let policy = RetryPolicy { max_attempts: 20, budget: Duration::from_secs(3600), ..RetryPolicy::default() };
    let client = Client::new(Retry::new(MemoryTransport::new(handler), policy));
    let begun = tokio::time::Instant::now();
    let nodes: Vec<_> = (0..NODES)
        .map(|number| {
            let (client, name) = (client.clone(), format!("node{number}"));
            let ask = SubmitFacts { check_in: check_in(&name, None), facts: facts("Linux") };
            tokio::spawn(async move {
                let CatalogReply::Catalog { catalog_id, code_id, version, .. } = client.submit_facts(&ask).await.unwrap() else {
                    panic!("no catalog for {name}")
                };
                let held = Held { catalog_id, code_id, version };
                // And at once again.
                let reply = client.check_in(&check_in(&name, Some(held))).await.unwrap();
                assert!(matches!(reply, CatalogReply::Current { .. }), "{reply:?}");
                begun.elapsed()
            })
        })
        .collect();
    // The clock stands still while something is compiled.
    while server.flights.len() < crate::answer::MAX_FLIGHTS {
        tokio::task::yield_now().await;
    }
    drop(gate);
    let mut late = 0;
    for node in nodes {
        late += usize::from(node.await.unwrap() >= Duration::from_secs(30));
    }
    assert_eq!((world.compiles(), server.flights.len()), (NODES as u64, 0));
    assert_eq!(late, NODES - crate::answer::MAX_FLIGHTS, "who had to come again");
}
