//! Ways between servers that break in the middle, or are slow.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use direct_puppet_transport::protocol::Operation;
use direct_puppet_transport::{MemoryTransport, Request, Response, Transport, TransportError, TransportErrorKind};
use futures::StreamExt as _;
use futures::stream;

use super::log::Log;
use super::*;
use crate::Peers;

/// How the contents that a way carries are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carriage {
    Whole,
    /// It breaks after so many bytes of each answer; then nothing goes at all.
    BreaksAfter(u64),
    /// So many bytes a second.
    Slow(usize),
}

/// A way to a primary; counts the bytes of contents that it carries.
#[derive(Debug)]
struct Narrow {
    inner: MemoryTransport,
    carriage: std::sync::Mutex<Carriage>,
    is_broken: Arc<AtomicBool>,
    carried: Arc<AtomicU64>,
    fetches: AtomicU64,
}

impl Narrow {
    fn new(primary: &Arc<Server>) -> Arc<Self> {
        let handler: Arc<dyn direct_puppet_transport::Handler> = Arc::<Server>::clone(primary);
        Arc::new(Self {
            inner: MemoryTransport::new(handler),
            carriage: std::sync::Mutex::new(Carriage::Whole),
            is_broken: Arc::default(),
            carried: Arc::default(),
            fetches: AtomicU64::default(),
        })
    }

    fn set(&self, carriage: Carriage) {
        self.is_broken.store(false, Ordering::SeqCst);
        *self.carriage.lock().unwrap() = carriage;
    }

    fn carried(&self) -> u64 {
        self.carried.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Transport for Narrow {
    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        let broken = || TransportError::new(TransportErrorKind::Connect, "memory:narrow");
        if self.is_broken.load(Ordering::SeqCst) {
            return Err(broken());
        }
        let carriage = *self.carriage.lock().unwrap();
        let is_fetch = request.operation == Operation::SyncFetch;
        let response = self.inner.call(request).await?;
        if !is_fetch {
            return Ok(response);
        }
        self.fetches.fetch_add(1, Ordering::SeqCst);
        let (carried, is_broken) = (Arc::clone(&self.carried), Arc::clone(&self.is_broken));
        let most = if let Carriage::BreaksAfter(most) = carriage { most } else { u64::MAX };
        // In pieces as a network has them.
        let pieces = response.body.flat_map(|chunk| match chunk {
            Ok(bytes) => {
                let starts = (0..bytes.len()).step_by(1024);
                let pieces: Vec<_> = starts.map(|at| Ok(bytes.slice(at..bytes.len().min(at + 1024)))).collect();
                stream::iter(pieces)
            }
            Err(error) => stream::iter(vec![Err(error)]),
        });
        let mut sent = 0;
        let body = pieces.then(move |piece| {
            let bytes = piece.as_ref().map_or(0, |piece| piece.len() as u64);
            sent += bytes;
            let (carried, is_broken, is_over) = (Arc::clone(&carried), Arc::clone(&is_broken), sent > most);
            async move {
                if is_over {
                    is_broken.store(true, Ordering::SeqCst);
                    return Err(TransportError::new(TransportErrorKind::Closed, "memory:narrow"));
                }
                if let Carriage::Slow(per_second) = carriage {
                    tokio::time::sleep(Duration::from_secs_f64(1024.0 / f64::from(u32::try_from(per_second).unwrap()))).await;
                }
                carried.fetch_add(bytes, Ordering::SeqCst);
                piece
            }
        });
        Ok(Response { body: body.boxed(), ..response })
    }

    fn endpoint(&self) -> &str {
        "memory:narrow"
    }
}

fn follow(world: &World, name: &str, way: &Arc<Narrow>) -> Arc<Server> {
    let transport: Arc<dyn Transport> = Arc::<Narrow>::clone(way);
    world.open_with(|options| options.primary = Some(Peers { name: certname(name), transports: vec![transport] }))
}

/// Stages contents that are all different and cannot be compressed; returns their bytes.
fn stage_many(world: &World, files: u32, bytes: usize) -> u64 {
    for number in 0..files {
        let mut reader = blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof();
        let mut content = vec![0; bytes];
        reader.fill(&mut content);
        world.stage(&format!("modules/app/files/tree/d{}/f{number}", number % 5), content);
    }
    u64::from(files) * bytes as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_before_a_fetch_broke_off_is_not_fetched_again() {
    let (world, own) = (World::new(), World::new());
    let primary = world.open();
    publish_all(&primary).await;
    let way = Narrow::new(&primary);
    let replica = follow(&own, "r", &way);
    replica.confirm().await.unwrap().whole().unwrap();
    let begun = way.carried();
    let bytes = stage_many(&world, 150, 10_000);
    // One that breaks in its middle is gone on with, too.
    world.stage("modules/app/files/tree/large", vec![b'x'; 600_000]);
    let bytes = bytes + 600_000;
    publish_all(&primary).await;
    let before = live(&replica).version.version;
    let mut breaks = 0;
    loop {
        way.set(Carriage::BreaksAfter(400_000));
        match replica.confirm().await.and_then(crate::Confirmed::whole) {
            Ok(_) => break,
            Err(_) => breaks += 1,
        }
        assert_eq!(live(&replica).version.version, before, "half a version is live");
        assert!(breaks < 20, "it does not come forward");
        // A restart changes nothing.
        if breaks == 2 {
            assert_eq!(replica.verify().unwrap().problems, []);
        }
    }
    let carried = way.carried() - begun;
    println!("{bytes} bytes of contents, {carried} carried, {breaks} breaks, {} fetches", way.fetches.load(Ordering::SeqCst));
    assert!(breaks >= 3, "it was not broken off often enough");
    // What frames and what was written to no disk when it broke take, for each break.
    assert!(carried < bytes + 20_000 + breaks * 70_000, "{carried} bytes were carried for {bytes}");
    assert_eq!(live(&replica).version.code_id, live(&primary).version.code_id);
    assert_eq!(replica.verify().unwrap().problems, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_on_a_slow_link_holds_up_nobody_and_is_told_of() {
    let (world, slow_world, fast_world) = (World::new(), World::new(), World::new());
    let primary = world.open();
    publish_all(&primary).await;
    let (slow_way, fast_way) = (Narrow::new(&primary), Narrow::new(&primary));
    let (slow, fast) = (follow(&slow_world, "slow", &slow_way), follow(&fast_world, "fast", &fast_way));
    for replica in [&slow, &fast] {
        replica.confirm().await.unwrap().whole().unwrap();
    }
    assert_eq!(primary.look_at_followers(), BTreeMap::new());
    stage_many(&world, 40, 5_000);
    slow_way.set(Carriage::Slow(1024));
    publish_all(&primary).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let following = tokio::spawn({
        let (slow, stop) = (Arc::clone(&slow), stop.clone());
        async move { slow.follow(&stop).await }
    });
    while slow_way.carried() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let begun = Instant::now();
    world.stage("modules/app/files/tree/new", "new content");
    publish_all(&primary).await;
    fast.confirm().await.unwrap().whole().unwrap();
    compiled(&fast, "n1").await;
    assert_eq!(live(&fast).version.version, live(&primary).version.version);
    // At 1 KiB a second it takes more than three minutes.
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert_eq!(live(&slow).version.version.sequence, 1);
    // It is asked what is live all the time; what it has is what is old.
    assert_eq!(primary.look_at_followers(), BTreeMap::new(), "a moment is nothing to warn of");
    crate::server::jump_clock(100);
    let told = primary.look_at_followers();
    let reason = told[&certname("slow")].clone();
    assert!(told.len() == 1 && reason.contains("has 1.1 of production, and 1.3 is live since"), "{told:?}");
    assert_eq!(primary.look_at_followers(), BTreeMap::new(), "told once");
    let status = |server: &Arc<Server>| crate::routes::storage_status(server)["status"]["clients"].clone();
    let clients = status(&primary);
    assert_eq!(
        (clients["slow"]["behind"].as_str(), &clients["fast"]["behind"]),
        (Some(reason.as_str()), &serde_json::Value::Null)
    );
    // One that was not heard of for long is told of as well, once.
    crate::server::jump_clock(1_000);
    let told = primary.look_at_followers();
    assert!(told.keys().eq([&certname("fast")]) && told[&certname("fast")].contains("was not heard of for"), "{told:?}");
    crate::server::jump_clock(0);
    stop.cancel();
    following.await.unwrap();
}

#[tokio::test]
async fn a_replica_that_has_caught_up_is_told_of_again_when_it_falls_behind_again() {
    let (world, own) = (World::new(), World::new());
    let primary = world.open();
    publish_all(&primary).await;
    let way = Narrow::new(&primary);
    let replica = follow(&own, "r", &way);
    let mut told = Vec::new();
    let log = Log::new();
    for round in 0..3 {
        replica.confirm().await.unwrap().whole().unwrap();
        // It says what it has when it next asks.
        replica.confirm().await.unwrap();
        assert_eq!(primary.look_at_followers(), BTreeMap::new());
        world.stage("modules/app/files/tree/a", format!("round {round}"));
        publish_all(&primary).await;
        crate::server::jump_clock(100);
        log.of(|| {
            told.extend(primary.look_at_followers());
            assert_eq!(primary.look_at_followers(), BTreeMap::new());
        });
        crate::server::jump_clock(0);
    }
    assert_eq!(told.len(), 3, "{told:?}");
    let log = log.take();
    let warned = log.lines().filter(|line| line.contains("WARN") && line.contains("a replica is behind: it has 1."));
    assert_eq!((warned.filter(|line| line.contains("replica=r")).count(), log.lines().count()), (3, 3), "{log}");
    // A replica tells of none: it is not asked for that.
    assert_eq!(replica.look_at_followers(), BTreeMap::new());
}
