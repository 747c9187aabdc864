//! The network between servers and nodes: late, lossy, cut in one direction or both; and servers that die in the middle.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use direct_puppet_transport::protocol::Operation;
use direct_puppet_transport::{MemoryTransport, Request, Response, Transport, TransportError, TransportErrorKind};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::rng::Rng;
use super::world::NODES;
use crate::Server;

/// How long it takes to notice that nothing comes.
const SILENCE: Duration = Duration::from_secs(20);

/// Longest answer that is carried, in bytes.
const MAX_ANSWER: u64 = 1 << 24;

/// Servers are numbered from 0; all nodes are at one place.
pub(super) type Place = usize;

/// How many there are.
pub(super) const PLACES: usize = 5;

/// One life of a server, from start to crash.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) server: Arc<Server>,
    tasks: Mutex<JoinSet<()>>,
    is_over: Arc<AtomicBool>,
    clock: Arc<Clock>,
}

/// The clocks of a server's machine: they go too fast or too slow, and that on the wall is set forward and back.
#[derive(Debug)]
pub(super) struct Clock {
    /// How long it takes to go by a hundred seconds, in seconds.
    hundred: u64,
    begun: Instant,
    jump: AtomicI64,
}

impl Clock {
    /// Sets it so many seconds off.
    pub(super) fn jump(&self, seconds: i64) {
        self.jump.store(seconds, Ordering::SeqCst);
    }

    /// Does what a machine with this clock does.
    pub(super) fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        let gone = self.begun.elapsed().as_secs() * 100 / self.hundred;
        crate::server::set_clocks(self.jump.load(Ordering::SeqCst) + i64::try_from(gone).unwrap(), gone);
        let done = work();
        crate::server::jump_clock(0);
        done
    }
}

impl Life {
    pub(super) fn new(server: Arc<Server>, is_over: Arc<AtomicBool>, clock: Arc<Clock>) -> Arc<Self> {
        Arc::new(Self { server, tasks: Mutex::default(), is_over, clock })
    }

    /// Begins what the server does by itself.
    pub(super) fn begin(&self, work: impl Future<Output = ()> + Send + 'static) {
        let (clock, mut work) = (Arc::clone(&self.clock), Box::pin(work));
        self.tasks.lock().unwrap().spawn(std::future::poll_fn(move |context| clock.run(|| work.as_mut().poll(context))));
    }

    /// Runs `work` as the server would: it ends with the server's life. `None` when it was cut off.
    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> impl Future<Output = Option<T>> + Send + 'static {
        let (tell, hear) = oneshot::channel();
        let work = async move { drop(tell.send(work.await)) };
        self.begin(work);
        async move { hear.await.ok() }
    }

    /// Ends it at once, as kill -9 does.
    pub(super) async fn kill(self: Arc<Self>) {
        self.is_over.store(true, Ordering::SeqCst);
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap());
        tasks.shutdown().await;
        let life = Arc::into_inner(self).expect("only the network holds a life");
        drop(Arc::into_inner(life.server).expect("a server outlived its tasks"));
    }
}

/// How many faults really hit a message.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Hits {
    pub(super) delayed: u64,
    pub(super) dropped: u64,
    pub(super) cut_off: u64,
    /// Those of them whose way back was open.
    pub(super) cut_one_way: u64,
    pub(super) cut_by_crash: u64,
    /// Requests that were delivered once more, after they were answered or lost.
    pub(super) twice: u64,
}

impl Hits {
    pub(super) fn add(&mut self, other: Self) {
        self.delayed += other.delayed;
        self.dropped += other.dropped;
        self.cut_off += other.cut_off;
        self.cut_one_way += other.cut_one_way;
        self.cut_by_crash += other.cut_by_crash;
        self.twice += other.twice;
    }
}

/// Whoever can have a message under way at once from one place to another: nodes, and the operations of servers.
const SLOTS: usize = NODES + 4;

/// No two messages of different links and slots arrive in the same millisecond of a frame, so that what they meet does not depend
/// on which thread was faster.
pub(super) const FRAME: u64 = (PLACES * PLACES * SLOTS) as u64 + 1;

/// The millisecond of a frame in which the driver acts.
pub(super) const DRIVER: u64 = FRAME - 1;

#[derive(Debug, Default)]
struct State {
    cut: BTreeSet<(Place, Place)>,
    lives: BTreeMap<Place, Arc<Life>>,
    hits: Hits,
    is_calm: bool,
    /// The last frame in which something is delivered once more on each way.
    repeated: BTreeMap<u64, u64>,
}

#[derive(Debug)]
pub(super) struct Net {
    seed: u64,
    begun: Instant,
    state: Mutex<State>,
    clocks: [Arc<Clock>; PLACES],
}

impl Net {
    pub(super) fn new(seed: u64) -> Arc<Self> {
        let begun = Instant::now();
        // Up to ten of a hundred seconds too slow or too fast, and up to a day off.
        let clock = |place: Place| {
            let mut rng = Rng::new(!seed ^ (place as u64) << 56);
            let off = i64::try_from(rng.below(172_800)).unwrap() - 86_400;
            Arc::new(Clock { hundred: 90 + rng.below(21), begun, jump: AtomicI64::new(off) })
        };
        Arc::new(Self { seed, begun, state: Mutex::default(), clocks: std::array::from_fn(clock) })
    }

    pub(super) fn clock(&self, place: Place) -> &Arc<Clock> {
        &self.clocks[place]
    }

    pub(super) fn plug(&self, place: Place, life: Arc<Life>) {
        self.state.lock().unwrap().lives.insert(place, life);
    }

    pub(super) fn unplug(&self, place: Place) -> Option<Arc<Life>> {
        self.state.lock().unwrap().lives.remove(&place)
    }

    pub(super) fn server(&self, place: Place) -> Option<Arc<Server>> {
        self.state.lock().unwrap().lives.get(&place).map(|life| Arc::clone(&life.server))
    }

    /// Runs work in a server's life; `None` when it does not run, or was cut off.
    pub(super) async fn run<T, F>(&self, place: Place, work: impl FnOnce(Arc<Server>) -> F) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let running = {
            let state = self.state.lock().unwrap();
            let life = state.lives.get(&place)?;
            life.run(work(Arc::clone(&life.server)))
        };
        running.await
    }

    /// Cuts what goes from one place to the other, or lets it through again.
    pub(super) fn cut(&self, from: Place, to: Place, is_cut: bool) {
        let cut = &mut self.state.lock().unwrap().cut;
        if is_cut {
            cut.insert((from, to));
        } else {
            cut.remove(&(from, to));
        }
    }

    /// Whether what goes from one place to the other, or back, is cut.
    pub(super) fn is_cut(&self, one: Place, other: Place) -> bool {
        let cut = &self.state.lock().unwrap().cut;
        cut.contains(&(one, other)) || cut.contains(&(other, one))
    }

    /// Ends all faults of the network.
    pub(super) fn calm(&self) {
        let mut state = self.state.lock().unwrap();
        state.cut.clear();
        state.is_calm = true;
    }

    pub(super) fn hits(&self) -> Hits {
        self.state.lock().unwrap().hits
    }

    /// Milliseconds since the world began.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap()
    }

    /// Waits until this millisecond.
    pub(super) async fn until(&self, millis: u64) {
        tokio::time::sleep_until(self.begun + Duration::from_millis(millis)).await;
    }

    /// Carries one message: waits as long as it takes; false when it does not arrive.
    async fn carry(&self, from: Place, to: Place, slot: usize) -> bool {
        let now = self.now();
        let residue = ((from * PLACES + to) * SLOTS + slot) as u64;
        // Its fate depends on what it is and when it is sent, and on nothing else.
        let mut rng = Rng::new(self.seed ^ (residue << 48) ^ now);
        let (near, fate, far) = (1 + rng.below(4), rng.below(100), rng.below(60));
        let (delay, arrives) = {
            let mut state = self.state.lock().unwrap();
            match fate {
                _ if state.is_calm => (near, true),
                _ if state.cut.contains(&(from, to)) => {
                    let is_one_way = !state.cut.contains(&(to, from));
                    state.hits.cut_off += 1;
                    state.hits.cut_one_way += u64::from(is_one_way);
                    (near, false)
                }
                0..2 => {
                    state.hits.dropped += 1;
                    (near, false)
                }
                2..16 => {
                    state.hits.delayed += 1;
                    (near + far, true)
                }
                _ => (near, true),
            }
        };
        self.until((now / FRAME + delay) * FRAME + residue).await;
        arrives
    }
}

impl Net {
    /// Delivers some requests once more, late: what answers them is heard by nobody.
    fn perhaps_repeat(self: &Arc<Self>, (from, to): (Place, Place), slot: usize, node: Option<usize>, request: &Request) {
        let now = self.now();
        // Ways that no message takes: a server asks nobody as a node, and nobody asks himself.
        let (from, slot) = if node.is_some() { (to, slot) } else { (from, slot - NODES) };
        let residue = ((from * PLACES + to) * SLOTS + slot) as u64;
        let mut rng = Rng::new(self.seed ^ (residue << 48) ^ now);
        let (fate, later) = (rng.below(100), 1 + rng.below(80));
        let frame = {
            let mut state = self.state.lock().unwrap();
            if fate >= 8 || state.is_calm {
                return;
            }
            let frame = (now / FRAME + later).max(state.repeated.get(&residue).map_or(0, |last| last + 1));
            state.repeated.insert(residue, frame);
            frame
        };
        let (net, request) = (Arc::clone(self), request.clone());
        tokio::spawn(async move {
            net.until(frame * FRAME + residue).await;
            let delivered = net.run(to, |server| async move {
                let handler: Arc<dyn direct_puppet_transport::Handler> = server;
                let response = MemoryTransport::new(handler).call(request).await;
                drop(response.map(|response| response.into_bytes(MAX_ANSWER, "sim")));
            });
            if delivered.await.is_some() {
                net.state.lock().unwrap().hits.twice += 1;
            }
        });
    }
}

/// The way from one place to a server.
#[derive(Debug, Clone)]
pub(super) struct Link {
    net: Arc<Net>,
    from: Place,
    to: Place,
    name: String,
    /// The node that calls; servers have a slot for each operation.
    node: Option<usize>,
    is_over: Arc<AtomicBool>,
}

impl Link {
    /// `is_over` says that who calls is dead.
    pub(super) fn new(net: &Arc<Net>, from: Place, to: Place, node: Option<usize>, is_over: &Arc<AtomicBool>) -> Self {
        Self { net: Arc::clone(net), from, to, name: format!("sim:{to}"), node, is_over: Arc::clone(is_over) }
    }

    async fn exchange(&self, request: Request) -> Result<Response, TransportError> {
        let slot = self.node.unwrap_or(match request.operation {
            Operation::SyncConfirm => NODES,
            Operation::SyncEpoch => NODES + 1,
            Operation::SyncManifest => NODES + 2,
            _ => NODES + 3,
        });
        let lost = |kind| Err(TransportError::new(kind, self.endpoint()));
        self.net.perhaps_repeat((self.from, self.to), slot, self.node, &request);
        if !self.net.carry(self.from, self.to, slot).await {
            tokio::time::sleep(SILENCE).await;
            return lost(TransportErrorKind::Timeout);
        }
        if self.net.server(self.to).is_none() {
            return lost(TransportErrorKind::Connect);
        }
        let answered = self.net.run(self.to, |server| async move {
            let handler: Arc<dyn direct_puppet_transport::Handler> = server;
            let response = MemoryTransport::new(handler).call(request).await?;
            let status = response.status;
            Ok((status, response.into_bytes(MAX_ANSWER, "sim").await?))
        });
        let Some(answered) = answered.await else {
            self.net.state.lock().unwrap().hits.cut_by_crash += 1;
            return lost(TransportErrorKind::Closed);
        };
        if !self.net.carry(self.to, self.from, slot).await {
            tokio::time::sleep(SILENCE).await;
            return lost(TransportErrorKind::Timeout);
        }
        let (status, body) = answered?;
        Ok(Response::whole(status, body))
    }
}

#[async_trait]
impl Transport for Link {
    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        let answered = self.exchange(request).await;
        if self.is_over.load(Ordering::SeqCst) {
            // The dead hear nothing.
            return pending().await;
        }
        answered
    }

    fn endpoint(&self) -> &str {
        &self.name
    }
}
