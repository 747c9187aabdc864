//! Answers, and what they are found by, kept for who asks the same.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use direct_puppet_transport::hashing::FastState;
use direct_puppet_transport::protocol::{CodeId, Digest};

/// What takes room in a [`Cache`].
pub(super) trait Weighed {
    /// Returns how much of it, in bytes.
    fn bytes(&self) -> usize;
}

impl Weighed for String {
    fn bytes(&self) -> usize {
        self.len()
    }
}

impl Weighed for Bytes {
    fn bytes(&self) -> usize {
        self.len()
    }
}

impl Weighed for Digest {
    fn bytes(&self) -> usize {
        size_of::<Self>()
    }
}

/// Where a file is asked for: the code, and the mount and path.
pub(super) type Place = (CodeId, String);

impl Weighed for Place {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.1.len()
    }
}

/// Keeps answers up to a number of bytes; the oldest go first. A key names everything that its answer is made from.
#[derive(Debug)]
pub(super) struct Cache<K, A> {
    most_bytes: usize,
    kept: Mutex<Kept<K, A>>,
}

#[derive(Debug)]
struct Kept<K, A> {
    answers: HashMap<K, A, FastState>,
    /// Keys, oldest first.
    order: VecDeque<K>,
    bytes: usize,
}

impl<K: Hash + Eq + Clone + Weighed, A: Clone + Weighed> Cache<K, A> {
    pub(super) fn new(most_bytes: usize) -> Self {
        let kept = Kept { answers: HashMap::default(), order: VecDeque::new(), bytes: 0 };
        Self { most_bytes, kept: Mutex::new(kept) }
    }

    pub(super) fn get(&self, key: &K) -> Option<A> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).answers.get(key).cloned()
    }

    /// Keeps an answer, unless it alone would take a quarter of the room.
    pub(super) fn put(&self, key: K, answer: &A) {
        let bytes = answer.bytes() + 2 * key.bytes();
        if bytes > self.most_bytes / 4 {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.answers.insert(key.clone(), answer.clone()).is_some() {
            return;
        }
        kept.order.push_back(key);
        kept.bytes += bytes;
        while kept.bytes > self.most_bytes
            && let Some(oldest) = kept.order.pop_front()
        {
            if let Some(answer) = kept.answers.remove(&oldest) {
                kept.bytes -= answer.bytes() + 2 * oldest.bytes();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_when_room_is_short() {
        let cache: Cache<String, Bytes> = Cache::new(1000);
        for number in 0..10 {
            cache.put(format!("{number}"), &Bytes::from(vec![0; 198]));
        }
        let kept: Vec<String> = (0..10).map(|number| number.to_string()).filter(|key| cache.get(key).is_some()).collect();
        assert_eq!(kept, ["5", "6", "7", "8", "9"]);
        cache.put("large".to_owned(), &Bytes::from(vec![0; 900]));
        assert!(cache.get(&"large".to_owned()).is_none() && cache.get(&"9".to_owned()).is_some());
        // The same once more takes no more room.
        (0..10).for_each(|_| cache.put("9".to_owned(), &Bytes::from(vec![0; 198])));
        assert!(cache.get(&"5".to_owned()).is_some());
    }
}
