//! Is a history of a register linearisable?
//!
//! The search of Wing and Gong with Lowe's memory of where it has been: take any operation that could come first, and go on. What a
//! crash cut off may have happened at any time after it began, or never.

use std::collections::HashSet;

/// What an operation did to the register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// It was set to this.
    Write(u32),
    /// It was this.
    Read(u32),
}

/// One operation of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    /// What it did.
    pub act: Act,
    /// When it was begun; what ends and begins at the same time may be in either order.
    pub begun: u64,
    /// When its answer came; `None` when it never did.
    pub ended: Option<u64>,
    /// For people.
    pub who: String,
}

/// Most operations in a history.
pub const MAX_OPS: usize = 128;

/// Whether there is an order of all ended operations, each between its begin and its end, in which every read returns what was
/// written last. The register is empty at first, which no read returns.
///
/// # Panics
///
/// When the history has more than [`MAX_OPS`] operations.
#[must_use]
pub fn is_linearisable(history: &[Op]) -> bool {
    // What nobody read and nobody heard of need not have happened.
    let is_read = |value: u32| history.iter().any(|op| op.act == Act::Read(value));
    let counts = |op: &&Op| op.ended.is_some() || matches!(op.act, Act::Write(value) if is_read(value));
    let history: Vec<&Op> = history.iter().filter(counts).collect();
    assert!(history.len() <= MAX_OPS, "the history is too long");
    search(&history, 0, None, &mut HashSet::new())
}

fn search(history: &[&Op], mut done: u128, value: Option<u32>, seen: &mut HashSet<(u128, Option<u32>)>) -> bool {
    // Reads of what is there change nothing: they come at once.
    let writes = loop {
        let is_open = |at: &usize| done & (1 << at) == 0;
        let open: Vec<usize> = (0..history.len()).filter(is_open).collect();
        if open.iter().all(|&at| history[at].ended.is_none()) {
            return true;
        }
        // Whatever begins after another has ended cannot come before it.
        let first_end = open.iter().filter_map(|&at| history[at].ended).min().unwrap_or(u64::MAX);
        let (reads, writes): (Vec<usize>, Vec<usize>) = open
            .into_iter()
            .filter(|&at| history[at].begun <= first_end)
            .partition(|&at| matches!(history[at].act, Act::Read(_)));
        let fitting = reads.into_iter().filter(|&at| value.is_some_and(|value| history[at].act == Act::Read(value)));
        let fitting = fitting.fold(0, |set, at| set | 1 << at);
        if fitting == 0 {
            break writes;
        }
        done |= fitting;
    };
    if !seen.insert((done, value)) {
        return false;
    }
    writes.into_iter().any(|at| match history[at].act {
        Act::Write(written) => search(history, done | 1 << at, Some(written), seen),
        Act::Read(_) => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(ops: &[(Act, u64, u64)]) -> Vec<Op> {
        ops.iter()
            .map(|&(act, begun, ended)| Op { act, begun, ended: (ended > 0).then_some(ended), who: String::new() })
            .collect()
    }

    #[test]
    fn histories_that_have_an_order() {
        use Act::{Read, Write};
        assert!(is_linearisable(&[]));
        assert!(is_linearisable(&history(&[
            (Write(1), 1, 4),
            (Read(1), 2, 3),
            (Write(2), 5, 8),
            (Read(1), 6, 9),
            (Read(2), 7, 10)
        ])));
        // A write whose answer never came may have happened late, or never.
        assert!(is_linearisable(&history(&[(Write(1), 1, 2), (Write(2), 3, 0), (Read(1), 4, 5), (Read(2), 6, 7)])));
        assert!(is_linearisable(&history(&[(Write(1), 1, 2), (Write(2), 3, 0), (Read(1), 4, 5), (Read(1), 6, 7)])));
        // The same value written again.
        assert!(is_linearisable(&history(&[(Write(1), 1, 2), (Write(2), 3, 4), (Write(1), 5, 6), (Read(1), 7, 8)])));
    }

    #[test]
    fn histories_that_have_none() {
        use Act::{Read, Write};
        // Read before anything was written; stale; back in time; a lost write.
        assert!(!is_linearisable(&history(&[(Read(1), 1, 2), (Write(1), 3, 4)])));
        assert!(!is_linearisable(&history(&[(Write(1), 1, 2), (Write(2), 3, 4), (Read(1), 5, 6)])));
        assert!(!is_linearisable(&history(&[(Write(1), 1, 2), (Write(2), 3, 0), (Read(2), 4, 5), (Read(1), 6, 7)])));
        assert!(!is_linearisable(&history(&[(Write(1), 1, 2), (Write(2), 3, 10), (Read(2), 4, 5), (Read(1), 6, 7)])));
    }
}
