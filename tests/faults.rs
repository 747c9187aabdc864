//! Faults between server and node: nothing lost, nothing half done, and what was done is not done again.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use direct_puppet_agent::{Agent, Answer, RunError, RunOptions};
use direct_puppet_tests::link::Link;
use direct_puppet_tests::site::{body, files};
use direct_puppet_tests::world::{Logged, World};
use direct_puppet_transport::protocol::{Operation, RefusalCode, RunStatus, VersionCounter};
use direct_puppet_transport::{CallError, Request, Response, Transport, TransportError, TransportErrorKind};
use futures::{StreamExt as _, stream};
use tokio_util::sync::CancellationToken;

/// Reaches no server.
#[derive(Debug)]
struct Away;
#[async_trait]
impl Transport for Away {
    async fn call(&self, _request: Request) -> Result<Response, TransportError> {
        Err(TransportError::new(TransportErrorKind::Connect, "https://away:8140"))
    }
    fn endpoint(&self) -> &str {
        "https://away:8140"
    }
}

/// What goes wrong with a fetch.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// The stream breaks off.
    Breaks,
    /// The stream ends as if it were complete.
    Ends,
    /// One bit of a content is another.
    Flips,
}

/// Lets `after` bytes of each fetch through, then does it; counts how often it did.
#[derive(Debug, Clone)]
struct FaultyFetch {
    inner: Logged,
    fault: Fault,
    after: u64,
    fired: Arc<AtomicU64>,
}

#[async_trait]
impl Transport for FaultyFetch {
    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        let is_fetch = request.operation == Operation::Fetch;
        let mut response = self.inner.call(request).await?;
        if !is_fetch {
            return Ok(response);
        }
        let (this, mut seen, mut is_over) = (self.clone(), 0, false);
        let faulty = response.body.map(move |chunk| {
            let begin = seen;
            seen += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
            if is_over {
                vec![]
            } else if seen <= this.after || begin > this.after {
                vec![chunk]
            } else {
                this.fired.fetch_add(1, Ordering::SeqCst);
                let cut = usize::try_from(this.after - begin).unwrap();
                match this.fault {
                    Fault::Breaks => {
                        is_over = true;
                        // However the bytes before it were cut into chunks, they came.
                        let came = chunk.map(|chunk| chunk.slice(..cut));
                        vec![came, Err(TransportError::new(TransportErrorKind::Closed, "the test"))]
                    }
                    Fault::Ends => {
                        is_over = true;
                        vec![chunk.map(|chunk| chunk.slice(..cut))]
                    }
                    Fault::Flips => vec![chunk.map(|chunk| {
                        let mut bytes = chunk.to_vec();
                        bytes[cut] ^= 1;
                        bytes.into()
                    })],
                }
            }
        });
        response.body = faulty.flat_map(stream::iter).boxed();
        response.length = None;
        Ok(response)
    }

    fn endpoint(&self) -> &str {
        self.inner.endpoint()
    }

    fn is_local(&self) -> bool {
        self.inner.is_local()
    }
}

const FILES: usize = 60;

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_fails_half_way_touches_nothing_and_is_taken_up_again() {
    for (link, fault) in Link::all().into_iter().zip([Fault::Breaks, Fault::Ends, Fault::Breaks, Fault::Breaks]) {
        let world = World::new(link).await;
        world.site.fill(FILES, "one");
        world.publish().await;
        let node = world.node("node1");
        node.run().await;
        let old = files(&node.root.join("srv"));
        world.site.fill(FILES, "two");
        world.publish().await;
        // Half of what there is: every attempt dies before it makes progress enough.
        let total: usize = (0..FILES).map(|number| body(number, "two").len()).sum();
        let fired = Arc::new(AtomicU64::new(0));
        let transport = FaultyFetch { inner: node.transport(), fault, after: total as u64 / 2, fired: Arc::clone(&fired) };
        let agent: Agent<FaultyFetch> = node.builder().transport(transport.clone()).build().unwrap();
        // It goes on where it broke off, so halves add up; a fault at the first byte never lets it.
        let stuck = node.builder().transport(FaultyFetch { after: 0, ..transport }).build().unwrap();
        let error = stuck.run(&RunOptions::default()).await.unwrap_err();
        assert!(matches!(error, RunError::Fetch { .. }), "{error:?}");
        assert!(fired.swap(0, Ordering::SeqCst) > 0, "the fault never fired");
        assert_eq!(files(&node.root.join("srv")), old);

        let outcome = agent.run(&RunOptions::default()).await.unwrap();
        assert!(fired.load(Ordering::SeqCst) > 0, "the fault never fired");
        assert_eq!((outcome.status, outcome.wire.contents_received), (RunStatus::Changed, outcome.wire.contents_requested));
        assert_eq!(files(&node.path("/srv/tree")), files(&world.site.tree()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_that_came_are_not_fetched_again_by_the_next_run() {
    let world = World::new(Link::memory()).await;
    world.site.fill(FILES, "one");
    world.publish().await;
    let node = world.node("node1");
    let fired = Arc::new(AtomicU64::new(0));
    let transport = FaultyFetch { inner: node.transport(), fault: Fault::Flips, after: 6_000, fired: Arc::clone(&fired) };
    let error = node.builder().transport(transport).build().unwrap().run(&RunOptions::default()).await.unwrap_err();
    assert!(matches!(error, RunError::ContentDamaged { .. }), "{error:?}");
    assert_eq!(fired.load(Ordering::SeqCst), 1);
    assert!(!node.root.join("srv").exists(), "something was touched");
    let outcome = node.run().await;
    let requested = outcome.wire.contents_requested;
    assert!(requested > 0 && requested < FILES as u64, "{requested} of {FILES} contents were asked for again");
    assert_eq!(files(&node.path("/srv/tree")), files(&world.site.tree()));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_run_is_of_one_version_while_code_is_published() {
    for link in Link::all() {
        let world = Arc::new(World::new(link).await);
        world.site.fill(20, "v0");
        world.publish().await;
        let done = CancellationToken::new();
        let publisher = tokio::spawn({
            let (world, done) = (Arc::clone(&world), done.clone());
            async move {
                let mut published = 0;
                while !done.is_cancelled() {
                    published += 1;
                    world.site.fill(20, &format!("v{published}"));
                    world.publish().await;
                }
                published
            }
        });
        let nodes: Vec<_> = (0..50).map(|number| world.node(&format!("node{number}"))).collect();
        for _ in 0..3 {
            let runs = nodes.iter().map(|node| async {
                node.run().await;
                let found = files(&node.path("/srv/tree"));
                let text = |content: &Vec<u8>| String::from_utf8(content.clone()).unwrap().split(' ').next().unwrap().to_owned();
                let versions: std::collections::BTreeSet<String> = found.values().map(text).collect();
                assert_eq!((found.len(), versions.len()), (20, 1), "{} has a mixture of {versions:?}", node.name);
            });
            futures::future::join_all(runs).await;
        }
        done.cancel();
        assert!(publisher.await.unwrap() > 3, "too little was published meanwhile");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_server_the_cached_catalog_is_used_and_said_so() {
    let world = World::new(Link::memory()).await;
    world.site.fill(3, "one");
    world.publish().await;
    let node = world.node("node1");
    let away = node.builder().transport(Away).build().unwrap();
    let error = away.run(&RunOptions::default()).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    node.run().await;
    std::fs::remove_file(node.path("/srv/tree/d01/file00001")).unwrap();
    std::fs::copy(node.path("/srv/tree/d02/file00002"), node.path("/srv/tree/d01/file00002")).unwrap();
    let outcome = away.run(&RunOptions::default()).await;
    // What is missing cannot be fetched; what is here in excess is known to be so.
    assert!(matches!(outcome, Err(RunError::Fetch { missing: 1, .. })), "{outcome:?}");
    node.run().await;
    std::fs::write(node.path("/srv/tree/extra"), "not ours").unwrap();
    let outcome = away.run(&RunOptions::default()).await.unwrap();
    assert_eq!((outcome.answer, outcome.status), (Some(Answer::Cached), RunStatus::Changed));
    assert!(outcome.messages.iter().any(|message| message.contains("using the cached catalog")), "{:?}", outcome.messages);
    assert!(!node.path("/srv/tree/extra").exists());
    let options = RunOptions { use_cache_on_failure: false, ..RunOptions::default() };
    assert!(matches!(away.run(&options).await, Err(RunError::CheckIn(_))));
    // The reports that could not be sent go with the next run that can.
    node.run().await;
    let reports = std::fs::read_dir(node.root.join("var/lib/direct-puppet/pending_reports")).unwrap().count();
    assert_eq!(reports, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_at_once_are_one_too_many() {
    let world = World::new(Link::memory()).await;
    world.site.fill(200, "one");
    world.publish().await;
    let node = world.node("node1");
    let runs = (0..8).map(|_| node.try_run());
    let results = futures::future::join_all(runs).await;
    let busy = results.iter().filter(|result| matches!(result, Err(RunError::Busy { .. }))).count();
    assert!(results.iter().any(Result::is_ok) && busy > 0, "{busy} busy");
    assert_eq!(busy + results.iter().filter(|result| result.is_ok()).count(), 8);
    assert_eq!(files(&node.path("/srv/tree")), files(&world.site.tree()));
}

#[tokio::test(flavor = "multi_thread")]
async fn code_never_goes_back_unless_told_to() {
    let world = World::new(Link::memory()).await;
    for version in ["one", "two"] {
        world.site.fill(3, version);
        world.publish().await;
    }
    let node = world.node("node1");
    node.run().await;
    // A server rebuilt from nothing begins to count anew.
    let older = World::new(Link::memory()).await;
    older.site.fill(3, "one");
    older.publish().await;
    let agent = node.builder().transport(older.node("node1").transport()).build().unwrap();
    // An honest server says so itself; one that does not is not believed.
    let strict = RunOptions { use_cache_on_failure: false, ..RunOptions::default() };
    let error = agent.run(&strict).await.unwrap_err();
    assert!(matches!(&error, RunError::CheckIn(CallError::Refused(refusal)) if refusal.code == RefusalCode::Stale), "{error:?}");
    let at_least = Some(VersionCounter::default());
    let error = agent.run(&RunOptions { at_least, ..strict }).await.unwrap_err();
    assert!(matches!(error, RunError::OlderVersion { .. }), "{error:?}");
    let accepted = agent.run(&RunOptions { accept_older: true, ..RunOptions::default() }).await.unwrap();
    assert_eq!(accepted.status, RunStatus::Changed);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cached_is_no_answer_to_who_asks_for_a_version_that_it_may_not_hold() {
    let world = World::new(Link::memory()).await;
    world.site.fill(3, "one");
    world.publish().await;
    let node = world.node("node1");
    let held = node.run().await.version.unwrap();
    let away = node.builder().transport(Away).build();
    let (here, away) = (node.agent(), away.unwrap());
    let older_epoch = VersionCounter { epoch: held.epoch - 1, sequence: held.sequence };
    let next = VersionCounter { sequence: held.sequence + 1, ..held };
    for (at_least, is_held) in [(held, true), (next, false), (older_epoch, false)] {
        let options = RunOptions { at_least: Some(at_least), ..RunOptions::default() };
        let run = away.run(&options).await;
        assert_eq!(run.is_ok(), is_held, "{at_least}: {run:?}");
        let run = here.run(&RunOptions { use_cached_catalog: true, ..options }).await;
        match run {
            Ok(_) => assert!(is_held, "{at_least}"),
            Err(error) => assert!(!is_held && error.to_string().contains("leave out --use-cached-catalog"), "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_says_so_and_leaves_each_file_old_or_new() {
    let world = World::new(Link::memory()).await;
    world.site.fill(3_000, "one");
    world.publish().await;
    let node = world.node("node1");
    node.run().await;
    world.site.fill(3_000, "two");
    world.publish().await;
    let (agent, cancel) = (node.agent(), CancellationToken::new());
    let mut events = agent.events();
    let canceller = tokio::spawn({
        let cancel = cancel.clone();
        async move {
            while let Some(event) = events.next().await {
                if matches!(event, direct_puppet_agent::RunEvent::Phase(direct_puppet_agent::Phase::Apply)) {
                    cancel.cancel();
                    break;
                }
            }
        }
    });
    let result = agent.run_until(&RunOptions::default(), cancel).await;
    canceller.await.unwrap();
    for (path, content) in files(&node.path("/srv/tree")) {
        let text = String::from_utf8(content).unwrap();
        let number: usize = path.to_string_lossy()[path.to_string_lossy().len() - 5..].parse().unwrap();
        assert!(text == body(number, "one") || text == body(number, "two"), "{} is torn", path.display());
    }
    if let Ok(outcome) = result {
        assert!(outcome.report.transaction_completed || outcome.status != RunStatus::Unchanged || outcome.resources.skipped > 0);
    }
    assert_eq!(node.run().await.status, RunStatus::Changed);
    assert_eq!(files(&node.path("/srv/tree")), files(&world.site.tree()));
}
