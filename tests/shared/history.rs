//! What clients of servers that share a store see, judged as a whole.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use direct_puppet_server_stub::linearisable::{Act, Op, is_linearisable};
use direct_puppet_tests::binaries::json;
use direct_puppet_tests::equals::Equals;
use direct_puppet_tests::postgres::Postgres;
use direct_puppet_tests::serving::Serving;

use super::FILES;

/// What each publisher makes live in a round, and how often each node asks: at least, and at the most while something goes on.
const WRITES: (u32, u32) = (3, 7);
const READS: (usize, usize) = (5, 12);

struct History<'a> {
    equals: &'a Equals,
    servers: &'a [Serving; 2],
    begun: Instant,
    ops: Mutex<Vec<Op>>,
    /// Which value each code is.
    values: Mutex<BTreeMap<String, u32>>,
    next: AtomicU32,
}

impl History<'_> {
    /// Microseconds since the history began.
    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap()
    }

    /// Publishes the next value at a server; what is not acknowledged may have been made all the same.
    fn publish(&self, at: usize) {
        let value = self.next.fetch_add(1, Ordering::SeqCst);
        self.equals.sites[at].fill(FILES, &format!("v{value}"));
        let begun = Instant::now();
        let code_id = loop {
            // Which code it is is known before it is published.
            let dry = self.servers[at].verb(&["publish", "--dry-run"]);
            if dry.status.success() {
                break json(&dry)["environments"][0]["code_id"].as_str().unwrap().to_owned();
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{}", String::from_utf8_lossy(&dry.stderr));
        };
        self.values.lock().unwrap().insert(code_id, value);
        let begun = self.now();
        let is_done = self.servers[at].verb(&["publish"]).status.success();
        let ended = is_done.then(|| self.now());
        self.ops.lock().unwrap().push(Op { act: Act::Write(value), begun, ended, who: format!("publish at {at}") });
    }

    /// How many publishes were not acknowledged.
    fn lost(&self) -> usize {
        self.ops.lock().unwrap().iter().filter(|op| op.ended.is_none()).count()
    }

    /// A node runs against a server; returns whether it was answered.
    fn read(&self, root: &Path, at: usize) -> bool {
        let begun = self.now();
        let outcome = json(&self.equals.agent(root, at));
        let ended = Some(self.now());
        if outcome["answer"] != "current" && outcome["answer"] != "catalog" {
            return false;
        }
        let value = self.values.lock().unwrap()[outcome["code_id"].as_str().unwrap()];
        self.ops.lock().unwrap().push(Op { act: Act::Read(value), begun, ended, who: format!("node at {at}") });
        true
    }

    /// Publishes at both servers at once while nodes run against both, until what happens meanwhile is over; returns how many runs were not
    /// answered.
    fn round(&self, meanwhile: impl FnOnce()) -> usize {
        let is_over = &AtomicBool::new(false);
        let goes_on = move || !is_over.load(Ordering::SeqCst);
        std::thread::scope(|scope| {
            let publishers: Vec<_> = (0..2)
                .map(|at| {
                    let is_next = move |done: &u32| *done < WRITES.0 || *done < WRITES.1 && goes_on();
                    scope.spawn(move || (0..).take_while(is_next).for_each(|_| self.publish(at)))
                })
                .collect();
            let nodes: Vec<_> = (0..2)
                .map(|at| {
                    let root = self.equals.node(&format!("node{at}"));
                    let is_next = move |done: &usize| *done < READS.0 || *done < READS.1 && goes_on();
                    scope.spawn(move || (0..).take_while(is_next).filter(|_| !self.read(&root, at)).count())
                })
                .collect();
            meanwhile();
            is_over.store(true, Ordering::SeqCst);
            publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
            nodes.into_iter().map(|node| node.join().unwrap()).sum()
        })
    }
}

#[test]
fn what_clients_see_while_postgresql_crashes_is_what_one_register_would_answer() {
    let Some(mut postgres) = Postgres::start(&[]) else { return };
    let equals = Equals::new(Some(&postgres.url()));
    let servers = [equals.start(0, &[]), equals.start(1, &[])];
    let history = History {
        equals: &equals,
        servers: &servers,
        begun: Instant::now(),
        ops: Mutex::default(),
        values: Mutex::default(),
        next: AtomicU32::new(0),
    };
    history.publish(0);
    assert_eq!((history.round(|| ()), history.lost()), (0, 0), "nothing happens");
    let mut unanswered = 0;
    for pause in [50, 400] {
        unanswered += history.round(|| {
            std::thread::sleep(Duration::from_millis(300));
            postgres.kill();
            std::thread::sleep(Duration::from_millis(pause));
            postgres.resume();
        });
    }
    // Who was cut off from it is answered again, and what was live last is live.
    for at in 0..2 {
        let (root, begun) = (equals.node(&format!("node{at}")), Instant::now());
        while !history.read(&root, at) {
            assert!(begun.elapsed() < Duration::from_secs(60), "it is never answered again");
        }
    }
    let lost = history.lost();
    let ops = history.ops.into_inner().unwrap();
    let writes = ops.iter().filter(|op| matches!(op.act, Act::Write(_))).count();
    println!("{} operations, {writes} publishes, {lost} not acknowledged; {unanswered} runs not answered", ops.len());
    assert!(unanswered + lost > 0, "no crash hit anybody");
    assert!(is_linearisable(&ops), "the history has no order: {ops:#?}");
    // The judge would notice: the same with the last read older than it may be.
    let mut stale = ops;
    let last = stale.iter().rposition(|op| matches!(op.act, Act::Read(_))).unwrap();
    stale[last].act = Act::Read(0);
    assert!(!is_linearisable(&stale), "a stale read goes unnoticed");
}
