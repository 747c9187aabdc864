//! Scans of real directories, judged by their counters.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use direct_puppet_transport::protocol::{Algorithm, Digest, Hasher, TreePath};

use super::*;

const HALF_A_DAY: Duration = Duration::from_secs(12 * 60 * 60);

struct Node {
    dir: tempfile::TempDir,
    wanted: Vec<WantedContent>,
    options: ScanOptions,
}

impl Node {
    /// A node whose `count` files all are as wanted.
    fn new(count: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut node = Self { dir, wanted: Vec::new(), options: ScanOptions { threads: 2, ..ScanOptions::default() } };
        fs::create_dir(node.root()).unwrap();
        for index in 0..count {
            node.put(&format!("d{}/f{index}", index % 7), format!("content {index}").as_bytes());
        }
        node.keep_private("");
        node
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    /// Whatever the umask is: nobody else may write here.
    fn keep_private(&self, path: &str) {
        for entry in list_tree(&self.at(path), &WalkOptions::default(), &Pool::new(1).unwrap()).unwrap().entries {
            let mode = if entry.stat.kind() == crate::fs::FileKind::Directory { 0o755 } else { 0o644 };
            fs::set_permissions(self.at(path).join(entry.path.as_path()), Permissions::from_mode(mode)).unwrap();
        }
        fs::set_permissions(self.at(path), Permissions::from_mode(0o755)).unwrap();
    }

    /// Writes a file and wants it to have just that content.
    fn put(&mut self, path: &str, content: &[u8]) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), content).unwrap();
        self.want(path, Digest::of(content), content.len());
    }

    fn want(&mut self, path: &str, digest: Digest, size: usize) {
        self.wanted.push(WantedContent { path: path.parse().unwrap(), digest, size: size as u64, replace: true, follow: false });
    }

    fn cache(&self) -> StatCache {
        StatCache::load(&self.dir.path().join("state")).unwrap()
    }

    fn scan_at(&self, cache: &mut StatCache, now: SystemTime) -> Scan {
        let (quiet, progress) = (AtomicBool::new(false), AtomicU64::new(0));
        let scan = scan_below(&self.root(), &self.wanted, cache, &self.options, now, &quiet, &progress).unwrap();
        assert_eq!(progress.into_inner(), self.wanted.len() as u64);
        assert_eq!(scan.counters.listed, self.wanted.len() as u64);
        scan
    }

    /// One run: load, scan, save; begun when no change made before can be racy any more.
    fn run(&self) -> Scan {
        let called = SystemTime::now();
        while called.elapsed().is_ok_and(|elapsed| elapsed < Duration::from_millis(25)) {
            std::thread::yield_now();
        }
        let mut cache = self.cache();
        let scan = self.scan_at(&mut cache, SystemTime::now());
        cache.save_below(&self.root()).unwrap();
        scan
    }

    fn state(&self, scan: &Scan, path: &str) -> ContentState {
        scan.files[&path.parse::<TreePath>().unwrap()].content.clone()
    }

    /// Sets the times back to what they were before: what a clever intruder can do to mtime, but not to ctime.
    fn with_mtime_restored(&self, path: &str, act: impl FnOnce()) {
        let before = fs::metadata(self.at(path)).unwrap().modified().unwrap();
        act();
        File::options().write(true).open(self.at(path)).unwrap().set_modified(before).unwrap();
        assert_eq!(fs::metadata(self.at(path)).unwrap().modified().unwrap(), before);
    }
}

fn all_same(scan: &Scan) -> bool {
    scan.files.values().all(|file| file.content == ContentState::Same)
}

#[test]
fn an_unchanged_tree_is_not_opened() {
    let node = Node::new(50);
    let first = node.run();
    assert_eq!((first.counters.opened, first.counters.stat_proved), (50, 0));
    assert_eq!(first.counters.bytes_hashed, node.wanted.iter().map(|wanted| wanted.size).sum::<u64>());
    let cache_file = node.dir.path().join("state/scan-cache");
    let written = fs::metadata(&cache_file).unwrap().modified().unwrap();
    let second = node.run();
    assert!(all_same(&first) && all_same(&second));
    assert_eq!((second.counters.opened, second.counters.stat_proved, second.counters.bytes_hashed), (0, 50, 0));
    assert_eq!(first.holders, second.holders);
    assert_eq!(fs::metadata(&cache_file).unwrap().modified().unwrap(), written, "an unchanged cache is not written");
}

#[test]
fn a_touched_file_is_proved_by_fingerprint_but_not_where_others_can_write() {
    let node = Node::new(10);
    node.run();
    let touch = || File::options().write(true).open(node.at("d3/f3")).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    touch();
    let scan = node.run();
    assert!(all_same(&scan));
    assert_eq!((scan.counters.opened, scan.counters.fingerprint_proved, scan.counters.stat_proved), (1, 1, 9));
    assert_eq!(node.run().counters.opened, 0, "the record was refreshed");
    // The sticky bit does not help: others could still make files there.
    for mode in [0o775, 0o777, 0o1777] {
        fs::set_permissions(node.root(), Permissions::from_mode(mode)).unwrap();
        File::options().write(true).open(node.at("d3/f3")).unwrap().set_modified(SystemTime::now()).unwrap();
        let scan = node.run();
        assert!(all_same(&scan));
        assert_eq!((scan.counters.opened, scan.counters.fingerprint_proved), (1, 0), "{mode:o}");
    }
}

#[test]
fn a_change_of_equal_size_with_mtime_restored_is_caught() {
    let node = Node::new(10);
    node.run();
    node.with_mtime_restored("d3/f3", || fs::write(node.at("d3/f3"), b"CONTENT 3").unwrap());
    let scan = node.run();
    assert_eq!(node.state(&scan, "d3/f3"), ContentState::Different(Some(Digest::of(b"CONTENT 3"))));
    assert_eq!((scan.counters.opened, scan.counters.fingerprint_proved), (1, 0));
    // The next run knows so without opening it.
    let scan = node.run();
    assert_eq!(node.state(&scan, "d3/f3"), ContentState::Different(Some(Digest::of(b"CONTENT 3"))));
    assert_eq!((scan.counters.opened, scan.counters.stat_proved), (0, 9));
    assert_eq!(scan.holders[&Digest::of(b"CONTENT 3")].to_string(), "d3/f3");
}

#[test]
fn three_of_ten_thousand_drift() {
    let node = Node::new(10_000);
    assert!(all_same(&node.run()));
    fs::write(node.at("d1/f1"), b"other size entirely").unwrap();
    fs::write(node.at("d2/f2"), b"CONTENT 2").unwrap();
    fs::remove_file(node.at("d3/f3")).unwrap();
    let scan = node.run();
    let drifted: Vec<_> = scan.files.values().filter(|file| file.content != ContentState::Same).collect();
    assert_eq!(drifted.len(), 3);
    assert_eq!(node.state(&scan, "d1/f1"), ContentState::Different(None));
    assert_eq!(node.state(&scan, "d3/f3"), ContentState::Absent);
    assert_eq!((scan.counters.opened, scan.counters.stat_proved), (1, 9_997));
}

#[test]
fn a_racy_record_is_not_trusted() {
    let node = Node::new(3);
    // Recorded at the time of a change, and never saved: nothing has waited.
    let now = fs::metadata(node.at("d0/f0")).unwrap().modified().unwrap();
    let mut cache = node.cache();
    node.scan_at(&mut cache, now);
    // Looking again at what was only read proves nothing: it may have changed in the same tick, after it was read.
    cache.save_below(&node.root()).unwrap();
    assert_eq!(node.scan_at(&mut cache, now + Duration::from_secs(60)).counters.opened, 3);
    assert_eq!(node.scan_at(&mut cache, now + Duration::from_secs(120)).counters.opened, 0, "that one was not racy");
}

#[test]
fn a_file_just_written_is_proved_by_stat_in_the_next_run() {
    let mut node = Node::new(0);
    let mut cache = node.cache();
    node.put("a/new", b"new");
    node.put("a/replaced", b"old");
    for path in ["a/new", "a/replaced"] {
        let stat = dir::stat_of(File::open(node.at(path)).unwrap()).unwrap();
        let digest = node.wanted.iter().find(|wanted| wanted.path == path.parse().unwrap()).unwrap().digest;
        cache.record(&path.parse().unwrap(), &stat, digest);
    }
    fs::write(node.at("a/replaced"), b"longer").unwrap();
    cache.save_below(&node.root()).unwrap();
    assert_eq!(cache.len(), 1, "what changed before the cache was saved is not remembered");
    let scan = node.run();
    assert_eq!((scan.counters.stat_proved, scan.counters.opened), (1, 0));
    assert_eq!(node.state(&scan, "a/new"), ContentState::Same);
    assert_eq!(node.state(&scan, "a/replaced"), ContentState::Different(None));
}

#[test]
fn a_clock_stepped_back_makes_records_untrusted() {
    let node = Node::new(5);
    node.run();
    let mut cache = node.cache();
    assert_eq!(node.scan_at(&mut cache, SystemTime::now() - Duration::from_secs(3600)).counters.opened, 5);
}

#[test]
fn every_file_is_proved_again_within_the_interval_and_the_work_is_spread() {
    let node = Node::new(200);
    node.run();
    let start = SystemTime::now();
    let mut cache = node.cache();
    let mut opened = Vec::new();
    for half_hours in 1..=24 {
        let scan = node.scan_at(&mut cache, start + Duration::from_secs(1800) * half_hours);
        opened.push(scan.counters.opened);
    }
    assert!(opened[..11].iter().all(|&count| count == 0), "{opened:?}");
    assert_eq!(opened.iter().sum::<u64>(), 200, "{opened:?}");
    assert!(opened.iter().all(|&count| count < 90), "{opened:?}");
    // Most runs read nothing, so that they can be settled.
    assert_eq!(opened.iter().filter(|&&count| count > 0).count(), 4, "{opened:?}");
}

#[test]
fn a_fingerprint_does_not_put_off_the_proof_by_digest() {
    let node = Node::new(1);
    node.run();
    let mut cache = node.cache();
    let start = SystemTime::now();
    File::options().write(true).open(node.at("d0/f0")).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    let scan = node.scan_at(&mut cache, start + HALF_A_DAY / 3);
    assert_eq!(scan.counters.fingerprint_proved, 1);
    let scan = node.scan_at(&mut cache, start + HALF_A_DAY);
    assert_eq!((scan.counters.opened, scan.counters.fingerprint_proved), (1, 0));
}

#[test]
fn verify_all_trusts_no_record() {
    let mut node = Node::new(5);
    node.run();
    node.options.proof = Proof::Digest;
    let scan = node.run();
    assert_eq!((scan.counters.opened, scan.counters.stat_proved, scan.counters.fingerprint_proved), (5, 0, 0));
}

#[test]
fn all_contents_are_read_and_proved_by_fingerprint_where_that_is_proof() {
    let mut node = Node::new(5);
    node.put("big", &vec![7; (1 << 20) + 1]);
    node.keep_private("");
    node.options.proof = Proof::Fingerprint;
    // None is known yet.
    assert_eq!(node.run().counters.fingerprint_proved, 0);
    // A due proof by digest is not made by the way: it is still due.
    let mut cache = node.cache();
    let scan = node.scan_at(&mut cache, SystemTime::now() + HALF_A_DAY);
    assert!(all_same(&scan));
    assert_eq!((scan.counters.opened, scan.counters.stat_proved, scan.counters.fingerprint_proved), (6, 0, 5));
    node.options.proof = Proof::Stat;
    // All but the large one, which has no fingerprint and was proved by digest.
    assert_eq!(node.scan_at(&mut cache, SystemTime::now() + HALF_A_DAY).counters.opened, 5);
    node.options.proof = Proof::Fingerprint;
    fs::write(node.at("d3/f3"), b"CONTENT 3").unwrap();
    let scan = node.run();
    assert_eq!(node.state(&scan, "d3/f3"), ContentState::Different(Some(Digest::of(b"CONTENT 3"))));
    assert_eq!((scan.counters.opened, scan.counters.fingerprint_proved), (6, 4));
    fs::set_permissions(node.at("d1"), Permissions::from_mode(0o775)).unwrap();
    assert_eq!(node.run().counters.fingerprint_proved, 3);
}

#[test]
fn a_damaged_cache_or_another_key_costs_one_reading() {
    let node = Node::new(5);
    node.run();
    let state = node.dir.path().join("state");
    let mode = |name: &str| fs::metadata(state.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("scan-key"), mode("scan-cache")), (0o600, 0o600));
    let mut bytes = fs::read(state.join("scan-cache")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(state.join("scan-cache"), &bytes).unwrap();
    assert_eq!(node.run().counters.opened, 5);
    assert_eq!(node.run().counters.opened, 0);
    fs::write(state.join("scan-key"), [9; 192]).unwrap();
    assert_eq!(node.run().counters.opened, 5);
    // A key that others could read is replaced.
    fs::set_permissions(state.join("scan-key"), Permissions::from_mode(0o644)).unwrap();
    assert_eq!(node.run().counters.opened, 5);
    assert_ne!(fs::read(state.join("scan-key")).unwrap(), [9; 192]);
}

#[test]
fn one_thread_and_many_give_the_same_answers() {
    let mut node = Node::new(300);
    node.put("big/one", &vec![7; (1 << 20) + 1]);
    node.put("big/two", &vec![8; 3 << 20]);
    fs::write(node.at("d1/f1"), b"CONTENT 1").unwrap();
    let mut scans = [1, 4].map(|threads| {
        node.options.threads = threads;
        let mut cache = StatCache::load(&node.dir.path().join(format!("state-{threads}"))).unwrap();
        node.scan_at(&mut cache, SystemTime::now())
    });
    let [one, many] = &mut scans;
    assert_eq!(one.files, many.files);
    assert_eq!(one.holders, many.holders);
    assert_eq!(one.counters, many.counters);
    assert_eq!(node.state(one, "big/two"), ContentState::Same);
    assert_eq!(one.counters.opened, 302);
}

#[test]
fn what_need_not_be_replaced_is_not_opened() {
    let mut node = Node::new(0);
    node.put("a/there", b"anything");
    node.want("a/missing", Digest::of(b"x"), 1);
    node.want("no/such/directory", Digest::of(b"x"), 1);
    for wanted in &mut node.wanted {
        wanted.replace = false;
        wanted.digest = Digest::of(b"x");
    }
    let scan = node.run();
    assert_eq!(node.state(&scan, "a/there"), ContentState::Different(None));
    assert_eq!(node.state(&scan, "a/missing"), ContentState::Absent);
    assert_eq!(node.state(&scan, "no/such/directory"), ContentState::Absent);
    assert_eq!(scan.counters.opened, 0);
}

#[test]
fn links_and_other_objects_are_never_followed_or_waited_for() {
    let mut node = Node::new(0);
    node.put("real/file", b"x");
    symlink("real", node.at("planted")).unwrap();
    symlink("real/file", node.at("link")).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(node.at("socket")).unwrap();
    for path in ["planted/file", "link", "socket", "real", "real/file/below"] {
        node.want(path, Digest::of(b"x"), 1);
    }
    let scan = node.run();
    drop(socket);
    for path in ["planted/file", "real/file/below"] {
        assert_eq!(node.state(&scan, path), ContentState::Blocked, "{path}");
    }
    for path in ["link", "socket", "real"] {
        assert_eq!(node.state(&scan, path), ContentState::OtherKind, "{path}");
    }
    assert_eq!(scan.counters.opened, 1);
    assert_eq!(scan.holders.len(), 1);
}

#[test]
fn sha256_is_verified_as_sha256() {
    let mut node = Node::new(0);
    node.put("f", b"abc");
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(b"abc");
    node.wanted[0].digest = hasher.finish();
    assert!(all_same(&node.run()));
    assert_eq!(node.run().counters.stat_proved, 1);
    // The record of one algorithm says nothing about the other.
    node.wanted[0].digest = Digest::of(b"abc");
    let scan = node.run();
    assert!(all_same(&scan));
    assert_eq!(scan.counters.opened, 1);
}

#[test]
fn an_interrupt_stops_the_scan() {
    let node = Node::new(5);
    let (interrupt, progress) = (AtomicBool::new(true), AtomicU64::new(0));
    let mut cache = node.cache();
    let error =
        scan_below(&node.root(), &node.wanted, &mut cache, &node.options, SystemTime::now(), &interrupt, &progress).unwrap_err();
    assert_eq!(error.source.kind(), std::io::ErrorKind::Interrupted);
    assert_eq!((progress.load(Ordering::Relaxed), cache.len()), (0, 0));
}

#[test]
fn paths_that_are_no_longer_wanted_are_forgotten() {
    let node = Node::new(5);
    node.run();
    let mut cache = node.cache();
    let kept = node.wanted[0].path.clone();
    cache.keep_only(|path| *path == kept);
    cache.save_below(&node.root()).unwrap();
    assert_eq!(node.cache().len(), 1);
}
