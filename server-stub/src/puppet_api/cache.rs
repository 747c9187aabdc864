//! Answers as they were sent, kept for who asks the same.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// Keeps answers up to a number of bytes; the oldest go first. A key names everything that its answer is made from.
#[derive(Debug)]
pub(super) struct Cache {
    most_bytes: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    answers: HashMap<String, Bytes>,
    /// Keys, oldest first.
    order: VecDeque<String>,
    bytes: usize,
}

impl Cache {
    pub(super) fn new(most_bytes: usize) -> Self {
        Self { most_bytes, kept: Mutex::default() }
    }

    pub(super) fn get(&self, key: &str) -> Option<Bytes> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).answers.get(key).cloned()
    }

    /// Keeps an answer, unless it alone would take a quarter of the room.
    pub(super) fn put(&self, key: String, answer: &Bytes) {
        let bytes = answer.len() + 2 * key.len();
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
                kept.bytes -= answer.len() + 2 * oldest.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_when_room_is_short() {
        let cache = Cache::new(1000);
        for number in 0..10 {
            cache.put(format!("{number}"), &Bytes::from(vec![0; 198]));
        }
        let kept: Vec<String> = (0..10).map(|number| number.to_string()).filter(|key| cache.get(key).is_some()).collect();
        assert_eq!(kept, ["5", "6", "7", "8", "9"]);
        cache.put("large".to_owned(), &Bytes::from(vec![0; 900]));
        assert!(cache.get("large").is_none() && cache.get("9").is_some());
        // The same once more takes no more room.
        (0..10).for_each(|_| cache.put("9".to_owned(), &Bytes::from(vec![0; 198])));
        assert!(cache.get("5").is_some());
    }
}
