//! A fast hash for tables in memory that are looked into for every resource of a catalog.
//!
//! Eight bytes at a time are multiplied to 16 and folded, as in wyhash and its kin. The key is random for each process: whoever names resources
//! cannot choose names that fall together. Values mean nothing outside the process.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::OnceLock;

/// An odd number whose bits look random: the fraction of the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Makes hashers with the key of this process, for tables whose keys come from catalogs and files.
#[derive(Debug, Clone, Copy)]
pub struct FastState {
    key: u64,
}

impl Default for FastState {
    fn default() -> Self {
        static KEY: OnceLock<u64> = OnceLock::new();
        Self { key: *KEY.get_or_init(|| RandomState::new().hash_one(SPREAD)) }
    }
}

impl BuildHasher for FastState {
    type Hasher = FastHasher;

    fn build_hasher(&self) -> FastHasher {
        FastHasher { state: self.key, key: self.key | 1 }
    }
}

/// See [`FastState`].
#[derive(Debug, Clone, Copy)]
pub struct FastHasher {
    state: u64,
    key: u64,
}

impl FastHasher {
    fn add(&mut self, word: u64) {
        self.state = folded(self.state ^ word, self.key ^ SPREAD);
    }
}

/// Returns both halves of a product, one over the other.
#[expect(clippy::cast_possible_truncation, reason = "the halves of 128 bits")]
fn folded(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

impl Hasher for FastHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.add(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        // With the length, so that what is filled up is not taken for zeros.
        self.add(u64::from_le_bytes(last) ^ (bytes.len() as u64).rotate_left(56));
    }

    fn write_u8(&mut self, byte: u8) {
        self.add(byte.into());
    }

    fn write_usize(&mut self, number: usize) {
        self.add(number as u64);
    }

    fn finish(&self) -> u64 {
        folded(self.state, SPREAD)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_that_are_alike_do_not_fall_together() {
        let state = FastState::default();
        let names: Vec<String> =
            (0..20_000).map(|number| format!("bench{number}.example.com")).chain(["".into(), "\0".into()]).collect();
        let hashes: HashSet<u64> = names.iter().map(|name| state.hash_one(name)).collect();
        assert_eq!(hashes.len(), names.len());
        assert_eq!(state.hash_one(("File", "/a")), state.hash_one(("File", "/a")));
        assert_ne!(state.hash_one(("File", "/a")), state.hash_one(("File/", "a")));
        // Tables look at the lowest and the highest bits.
        for shift in [0, 48] {
            let places: HashSet<u64> = hashes.iter().map(|hash| (hash >> shift) & 0xffff).collect();
            assert!(places.len() > 15_000, "{} places of {} are taken", places.len(), 1 << 16);
        }
    }
}
