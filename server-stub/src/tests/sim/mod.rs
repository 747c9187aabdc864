//! The whole server, on real files, in simulated time over a simulated network: one seed is one run.
//!
//! Nodes read, administrators publish and promote, servers crash, messages are late, lost, delivered twice or cut off in one direction. What
//! everybody saw must be what one register would have answered. `SEEDS` says how many seeds to run, `SEED` names a single one.

mod net;
mod rng;
mod world;

use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use net::Hits;
use rng::Rng;
use world::{Deeds, World};

use crate::linearisable::{Op, is_linearisable};

/// Seeds that are run when nothing else is said.
const SEEDS: u64 = 150;

/// Mistakes that can be made on purpose, to see that they are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// What was confirmed once is never confirmed again.
    StaleConfirm,
    /// Who comes while a confirmation is under way uses it.
    ConfirmReused,
    /// The switch comes before the contents are here.
    SwitchBeforeVerify,
    /// Nobody asks or hears of epochs.
    EpochIgnored,
    /// Epochs are heard of, but not compared in confirmations.
    EpochNotCompared,
    /// A promotion takes nothing over from the server that it replaces.
    NothingTakenOver,
    /// As [`Bug::StaleConfirm`], and nobody looks at what a session asks for.
    SessionIgnored,
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    static SIMULATED: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread simulates.
pub(crate) fn is_simulated() -> bool {
    SIMULATED.get()
}

/// Whether this mistake is to be made in this thread.
pub(crate) fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// What came of one seed.
struct Run {
    history: Vec<Op>,
    wrong: Vec<String>,
    deeds: Deeds,
    hits: Hits,
}

fn run(seed: u64, bug: Option<Bug>) -> Run {
    PLANTED.set(bug);
    SIMULATED.set(true);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).max_blocking_threads(4).build().unwrap();
    let run = runtime.block_on(async {
        let world = World::new(seed);
        let mut rng = Rng::new(seed);
        world.live_through(&mut rng).await;
        world.settle().await;
        let mut wrong = world.wrong();
        let history = world.history();
        if !is_linearisable(&history) {
            wrong.push("the history has no order".to_owned());
        }
        Run { history, wrong, deeds: world.deeds(), hits: world.net.hits() }
    });
    PLANTED.set(None);
    SIMULATED.set(false);
    crate::server::jump_clock(0);
    run
}

#[expect(clippy::disallowed_methods, reason = "a knob of tests")]
fn number(name: &str) -> Option<u64> {
    let text = std::env::var_os(name)?.into_string().expect("a number");
    Some(text.parse().expect("a number"))
}

fn tell(seed: u64, run: &Run) -> String {
    let ops: Vec<String> = run
        .history
        .iter()
        .map(|op| {
            format!("{:>6} {:>6} {:?} {}", op.begun, op.ended.map_or("-".to_owned(), |end| end.to_string()), op.act, op.who)
        })
        .collect();
    format!("seed {seed}: {:?}\n{}", run.wrong, ops.join("\n"))
}

#[test]
fn whatever_happens_every_answer_is_one_that_a_single_server_could_have_given() {
    if let Some(seed) = number("SEED") {
        let run = run(seed, None);
        println!("{}", tell(seed, &run));
        assert!(run.wrong.is_empty());
        return;
    }
    let seeds = number("SEEDS").unwrap_or(SEEDS);
    let (next, total) = (AtomicU64::new(0), Mutex::new((Deeds::default(), Hits::default())));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= seeds {
                        return;
                    }
                    let run = run(seed, None);
                    assert!(run.wrong.is_empty(), "{}", tell(seed, &run));
                    let mut total = total.lock().unwrap();
                    total.0.add(run.deeds);
                    total.1.add(run.hits);
                }
            });
        }
    });
    let (deeds, hits) = total.into_inner().unwrap();
    println!("{seeds} seeds: {deeds:?}, {hits:?}");
    let fired = [
        deeds.reads,
        deeds.publishes,
        deeds.crashes,
        deeds.handovers,
        deeds.forced,
        deeds.forced_beside,
        deeds.cuts,
        deeds.clock_jumps,
        hits.delayed,
        hits.dropped,
        hits.cut_off,
        hits.cut_one_way,
        hits.cut_by_crash,
        hits.twice,
        deeds.publishes_cut_off,
        deeds.sessions,
        deeds.unconfirmed,
    ];
    assert!(fired.iter().all(|&count| count > 0), "something never happened");
}

#[test]
fn a_clock_that_jumped_in_one_world_is_right_in_the_next() {
    let jumped = (0..20).map(|seed| run(seed, None).deeds.clock_jumps).sum::<u64>();
    assert!(jumped > 0, "no clock jumped");
    let real = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(crate::server::now().abs_diff(real) < 100);
    crate::server::jump_clock(100_000);
    let elsewhere = std::thread::spawn(crate::server::now).join().unwrap();
    crate::server::jump_clock(0);
    assert!(elsewhere.abs_diff(real) < 100, "another world's clock jumped too");
}

#[test]
fn one_seed_is_one_run() {
    for seed in 0..100 {
        let (one, two) = (run(seed, None), run(seed, None));
        assert!(one.history == two.history, "{}\n\n{}", tell(seed, &one), tell(seed, &two));
    }
}

/// The checker and the worlds are worth something: each mistake is found, and as what it is.
#[test]
fn every_planted_mistake_is_found() {
    const MOST: u64 = 1_500;
    let order = "the history has no order";
    for (bug, what) in [
        (Bug::StaleConfirm, order),
        (Bug::ConfirmReused, order),
        (Bug::SwitchBeforeVerify, "without its contents"),
        (Bug::EpochIgnored, order),
        (Bug::EpochNotCompared, order),
        (Bug::NothingTakenOver, order),
        (Bug::SessionIgnored, "who asked for"),
    ] {
        let found = (0..MOST).find(|&seed| run(seed, Some(bug)).wrong.iter().any(|wrong| wrong.contains(what)));
        println!("{bug:?}: found by seed {found:?}");
        assert!(found.is_some(), "{bug:?} was not found by {MOST} seeds");
    }
}
