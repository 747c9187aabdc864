//! Records over real directories, and over bytes that are none.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use direct_puppet_transport::protocol::{Algorithm, Digest, TreePath};
use proptest::prelude::*;
use tempfile::TempDir;

use super::super::record::CLOCK_GRANULARITY;
use super::contents::ProvedContent;
use super::*;
use crate::fs::{FileKind, Time};
use crate::tree::StatCache;
use crate::tree::scan::{ScanOptions, scan_below};

const KEY: [u8; 32] = [5; 32];
const BINDING: [u8; 32] = [6; 32];

/// A root and a state directory with a secret and something that stands for a catalog.
pub(super) struct Ground {
    dir: TempDir,
    witnesses: Witnesses,
}

impl Ground {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        StatCache::load(&dir.path().join("state")).unwrap();
        fs::write(dir.path().join("catalog"), "catalog").unwrap();
        Self { dir, witnesses: Witnesses::default() }
    }

    pub(super) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn catalog(&self) -> PathBuf {
        self.dir.path().join("catalog")
    }

    pub(super) fn write(&self, path: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "content").unwrap();
    }

    pub(super) fn sees(&mut self, path: &str, seen: impl Fn(&Stat) -> Seen) {
        let stat = stat_of_own(&self.root().join(path));
        let seen = stat.as_ref().map_or(Seen::Absent, seen);
        assert!(self.witnesses.add(Witness { path: path.parse().unwrap(), seen }));
    }

    /// Writes a record as a run would that began at `recorded_at`.
    fn settle(&self, recorded_at: SystemTime) -> bool {
        self.settle_with(recorded_at, Vec::new())
    }

    /// As [`Ground::settle`], with what the scan has proved.
    fn settle_with(&self, recorded_at: SystemTime, contents: Vec<(TreePath, ProvedContent)>) -> bool {
        let proofs =
            Proofs { listed: 3, stat_proved: 2, due_at: nanos_at(SystemTime::now() + Duration::from_secs(3600)), contents };
        let settled = Settled {
            binding: BINDING,
            recorded_at,
            resources: 4,
            proofs: &proofs,
            witnesses: &self.witnesses,
            catalog: &self.catalog(),
            root: &self.root(),
        };
        settled.write(&self.state()).unwrap()
    }

    /// A time at which everything there is old enough, within the clock's reach.
    pub(super) fn settle_later(&self) {
        assert!(self.settle(SystemTime::now() + Duration::from_secs(1)));
    }

    pub(super) fn load(&self) -> Option<SettledRecord> {
        SettledRecord::load(&self.state(), &BINDING, &self.catalog(), SystemTime::now() + Duration::from_secs(2))
    }

    /// Whether the record holds; the same with one thread and with several.
    fn holds(&self) -> bool {
        let record = self.load().unwrap();
        let answers = [1, 4].map(|threads| record.holds(&self.root(), threads, &AtomicBool::new(false), &AtomicU64::new(0)));
        assert_eq!(answers[0], answers[1]);
        answers[0]
    }
}

/// Verifies by a record of three files, of which one is large, with these digest and fingerprint for `d/file`; the same with one thread and
/// with several. Returns how many were proved by fingerprint.
fn verify(content: ProvedContent, proof: Proof, with: impl FnOnce(&Ground)) -> Option<u64> {
    let mut ground = Ground::new();
    ["d/file", "d/other", "e/large"].iter().for_each(|path| ground.write(path));
    let large = vec![7; 3 << 20];
    fs::write(ground.root().join("e/large"), &large).unwrap();
    for path in ["", "d", "e"] {
        fs::set_permissions(ground.root().join(path), fs::Permissions::from_mode(0o755)).unwrap();
        ground.sees(path, Seen::attributes);
    }
    for path in ["d/file", "d/other", "e/large"] {
        fs::set_permissions(ground.root().join(path), fs::Permissions::from_mode(0o644)).unwrap();
        ground.sees(path, unchanged);
    }
    let proved = |digest| ProvedContent { digest, fingerprint: None };
    let contents = vec![
        ("d/file".parse().unwrap(), content),
        ("d/other".parse().unwrap(), proved(Digest::by(Algorithm::Sha256, b"content"))),
        ("e/large".parse().unwrap(), proved(Digest::of(&large))),
    ];
    assert!(ground.settle_with(SystemTime::now() + Duration::from_secs(1), contents));
    with(&ground);
    let record = ground.load().unwrap();
    let contents = fs::read(ground.state().join(CONTENTS)).ok();
    let answers = [1, 4].map(|threads| {
        if let Some(contents) = &contents {
            fs::write(ground.state().join(CONTENTS), contents).unwrap();
        }
        let (interrupt, progress) = (AtomicBool::new(false), AtomicU64::new(0));
        record.verify((&ground.state(), &ground.root()), (threads, proof), &interrupt, &progress)
    });
    assert_eq!(answers[0], answers[1]);
    if let Some(counters) = answers[0] {
        assert_eq!((counters.listed, counters.opened, counters.stat_proved), (3, 3, 0));
        assert_eq!(counters.bytes_hashed, 14 + (3 << 20));
        // What was not known is known now, but of large files.
        let (interrupt, progress) = (AtomicBool::new(false), AtomicU64::new(0));
        let again = record.verify((&ground.state(), &ground.root()), (2, Proof::Fingerprint), &interrupt, &progress).unwrap();
        assert_eq!(again.fingerprint_proved, if content.fingerprint.is_some_and(|found| found == 1) { 1 } else { 2 });
    }
    answers[0].map(|counters| counters.fingerprint_proved)
}

#[test]
fn contents_are_verified_by_digest_whatever_metadata_says() {
    let right = ProvedContent { digest: Digest::of(b"content"), fingerprint: None };
    let none = |_: &Ground| {};
    for proof in [Proof::Digest, Proof::Fingerprint] {
        assert_eq!(verify(right, proof, none), Some(0), "{proof:?}");
        // A fingerprint of something else proves nothing, and hides nothing.
        assert_eq!(verify(ProvedContent { fingerprint: Some(1), ..right }, proof, none), Some(0), "{proof:?}");
        // Metadata says that the file is as it was, but what was proved of it is not what it holds: as after damage.
        assert_eq!(verify(ProvedContent { digest: Digest::of(b"CONTENT"), ..right }, proof, none), None, "{proof:?}");
        assert_eq!(verify(right, proof, |ground| drop(fs::remove_file(ground.state().join(CONTENTS)))), None);
        let otherwise =
            |ground: &Ground| fs::set_permissions(ground.root().join("d"), fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(verify(right, proof, otherwise), None, "{proof:?}");
        let rewritten = |ground: &Ground| fs::write(ground.root().join("e/large"), vec![7; 3 << 20]).unwrap();
        assert_eq!(verify(right, proof, rewritten), None, "{proof:?}");
    }
}

/// What nothing came or went in need not be looked at before it is opened: the answer is the same as if all were.
#[test]
fn names_of_unchanged_directories_are_relied_upon_and_nothing_else_of_them() {
    let settled = || {
        let mut ground = Ground::new();
        for path in ["d/a", "d/b", "d/c", "e/a"] {
            ground.write(path);
            ground.sees(path, unchanged);
        }
        ground.sees("d", Seen::attributes);
        let proved = ProvedContent { digest: Digest::of(b"content"), fingerprint: None };
        let contents = ["d/a", "d/b", "d/c", "e/a"].map(|path| (path.parse().unwrap(), proved)).to_vec();
        assert!(ground.settle_with(SystemTime::now() + Duration::from_secs(1), contents));
        ground
    };
    let verify = |ground: &Ground, is_fast: bool| {
        let record = ground.load().unwrap();
        let (key, encoded) = (known_key(&ground.state()).unwrap(), record.encoded());
        let bytes = fs::read(ground.state().join(CONTENTS)).unwrap();
        let counts = (encoded.entry_count(), encoded.group_count());
        let mut contents = Contents::decode(bytes, encoded.checksum(), counts, &key.settled_key()).unwrap();
        if !is_fast {
            contents.forget_directories();
        }
        let interrupt = AtomicBool::new(false);
        let reader = Reader { record: encoded, contents: &contents, proof: Proof::Digest, key: &key, interrupt: &interrupt };
        let verified = reader.all_verify(&ground.root(), 2, &AtomicU64::new(0))?;
        assert_eq!((verified.counters.opened, verified.counters.bytes_hashed), (4, 28));
        Some(verified.names_known)
    };
    let root = RootDir::open(Path::new("/")).unwrap();
    let root = root.dir(&TreePath::default()).unwrap().unwrap();
    if root.open_own_file(b"no such file").err() != Some(rustix::io::Errno::NOENT) {
        println!("LEFT OUT: no openat2(2) here");
        return;
    }
    type Change<'a> = &'a dyn Fn(&Path);
    let again = |path: &Path, content: &str| {
        let before = fs::metadata(path).unwrap().modified().unwrap();
        fs::write(path, content).unwrap();
        File::open(path).unwrap().set_modified(before).unwrap();
    };
    let changes: [(&str, Option<u64>, Change<'_>); 12] = [
        ("nothing", Some(4), &|_| {}),
        ("another file came", Some(1), &|root| fs::write(root.join("d/more"), "more").unwrap()),
        ("a file came and went", Some(3), &|root| {
            fs::write(root.join("e/more"), "more").unwrap();
            fs::remove_file(root.join("e/more")).unwrap();
        }),
        ("a content is otherwise", None, &|root| again(&root.join("d/b"), "CONTENT")),
        ("a content was written again", None, &|root| again(&root.join("e/a"), "content")),
        ("longer", None, &|root| again(&root.join("d/a"), "content, and more")),
        ("gone", None, &|root| fs::remove_file(root.join("d/c")).unwrap()),
        ("replaced", None, &|root| fs::rename(root.join("d/c"), root.join("d/b")).unwrap()),
        ("permissions", None, &|root| fs::set_permissions(root.join("d/a"), fs::Permissions::from_mode(0o600)).unwrap()),
        ("a fifo", None, &|root| {
            fs::remove_file(root.join("d/a")).unwrap();
            let at = rustix::fs::CWD;
            rustix::fs::mknodat(at, root.join("d/a"), rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
        }),
        ("a link", None, &|root| {
            fs::rename(root.join("d/a"), root.join("d/moved")).unwrap();
            symlink("moved", root.join("d/a")).unwrap();
        }),
        ("another directory", None, &|root| {
            fs::rename(root.join("d"), root.join("moved")).unwrap();
            fs::create_dir(root.join("d")).unwrap();
            ["a", "b", "c"]
                .iter()
                .for_each(|name| fs::copy(root.join("moved").join(name), root.join("d").join(name)).map(drop).unwrap());
        }),
    ];
    for (what, expected, change) in changes {
        let ground = settled();
        // Later by any file system's clock.
        std::thread::sleep(Duration::from_millis(20));
        change(&ground.root());
        assert_eq!(verify(&ground, true), expected, "{what}");
        assert_eq!(verify(&ground, false), expected.map(|_| 0), "{what}");
    }
}

/// Threads with descriptors of their own are not the last to close what all have.
#[test]
fn whoever_reads_leaves_nothing_open() {
    let mut ground = Ground::new();
    ground.write("file");
    ground.sees("file", unchanged);
    let content = ProvedContent { digest: Digest::of(b"content"), fingerprint: None };
    assert!(ground.settle_with(SystemTime::now() + Duration::from_secs(1), vec![("file".parse().unwrap(), content)]));
    let record = ground.load().unwrap();
    let mut cache = StatCache::load(&ground.state()).unwrap();
    let (interrupt, progress) = (AtomicBool::new(false), AtomicU64::new(0));
    for _ in 0..20 {
        let verified = record.verify((&ground.state(), &ground.root()), (2, Proof::Digest), &interrupt, &progress);
        assert_eq!(verified.unwrap().opened, 1);
        let options = ScanOptions { threads: 2, ..ScanOptions::default() };
        scan_below(&ground.root(), &[], &mut cache, &options, SystemTime::now(), &interrupt, &progress).unwrap();
    }
    let open = fs::read_dir("/proc/self/fd").unwrap().flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    let below: Vec<PathBuf> = open.filter(|path| path.starts_with(ground.root())).collect();
    assert_eq!(below, Vec::<PathBuf>::new());
}

#[test]
fn an_interrupt_ends_a_verification_without_an_answer() {
    let mut ground = Ground::new();
    ground.write("file");
    ground.sees("file", unchanged);
    let content = ProvedContent { digest: Digest::of(b"content"), fingerprint: None };
    assert!(ground.settle_with(SystemTime::now() + Duration::from_secs(1), vec![("file".parse().unwrap(), content)]));
    let verify = |interrupt| {
        let places = (ground.state(), ground.root());
        let record = ground.load().unwrap();
        record.verify((&places.0, &places.1), (1, Proof::Digest), &AtomicBool::new(interrupt), &AtomicU64::new(0))
    };
    assert!(verify(false).is_some() && verify(true).is_none());
}

pub(super) fn unchanged(stat: &Stat) -> Seen {
    Seen::Unchanged(*stat)
}

#[test]
fn holds_until_something_that_counts_is_otherwise() {
    let mut ground = Ground::new();
    for path in ["whole/file", "attributes/file", "listed/file", "present/file"] {
        ground.write(path);
    }
    symlink("target", ground.root().join("link")).unwrap();
    for path in ["whole/file", "listed", "link"] {
        ground.sees(path, unchanged);
    }
    for path in ["", "attributes", "attributes/file"] {
        ground.sees(path, Seen::attributes);
    }
    ground.sees("present/file", |_| Seen::Present);
    for path in ["absent", "no/such/dir/absent", "whole/absent"] {
        ground.sees(path, unchanged);
    }
    ground.settle_later();
    let record = ground.load().unwrap();
    assert_eq!(record.len(), 10);
    assert_eq!(record.counts(), SettledCounts { resources: 4, listed: 3, stat_proved: 2 });
    let root = ground.root();
    let at = |path: &str| root.join(path);
    assert!(ground.holds());
    // What does not count.
    fs::write(at("attributes/file"), "other").unwrap();
    fs::write(at("attributes/more"), "more").unwrap();
    fs::remove_file(at("present/file")).unwrap();
    symlink("/nowhere", at("present/file")).unwrap();
    assert!(ground.holds());
    // Each of these by itself, and what takes it back; nothing takes back a change of times.
    let mode = |path: &str, mode| fs::set_permissions(at(path), fs::Permissions::from_mode(mode)).unwrap();
    mode("attributes/file", 0o600);
    assert!(!ground.holds());
    mode("attributes/file", 0o644);
    assert!(ground.holds());
    fs::write(at("absent"), "").unwrap();
    assert!(!ground.holds());
    fs::remove_file(at("absent")).unwrap();
    fs::create_dir_all(at("no/such/dir")).unwrap();
    assert!(ground.holds());
    symlink("dir", at("no/such/dir/absent")).unwrap();
    assert!(!ground.holds());
    fs::remove_dir_all(at("no")).unwrap();
    symlink("whole", at("no")).unwrap();
    // On the way to what is absent is a link, which a check would not follow.
    assert!(!ground.holds());
    fs::remove_file(at("no")).unwrap();
    fs::rename(at("present/file"), at("present/gone")).unwrap();
    assert!(!ground.holds());
    fs::rename(at("present/gone"), at("present/file")).unwrap();
    fs::rename(at("attributes"), at("moved")).unwrap();
    symlink("moved", at("attributes")).unwrap();
    assert!(!ground.holds());
    fs::remove_file(at("attributes")).unwrap();
    fs::rename(at("moved"), at("attributes")).unwrap();
    assert!(ground.holds());
    fs::write(at("listed/more"), "").unwrap();
    assert!(!ground.holds());
}

#[test]
fn no_change_of_an_unchanged_file_is_hidden_by_setting_back_its_times() {
    for change in [
        (|path| fs::write(path, "CONTENT").unwrap()) as fn(&Path),
        |path| {
            fs::copy(path, path.with_extension("copy")).unwrap();
            fs::rename(path.with_extension("copy"), path).unwrap();
        },
        |path| fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap(),
    ] {
        let mut ground = Ground::new();
        ground.write("d/file");
        ground.sees("d/file", unchanged);
        ground.settle_later();
        assert!(ground.holds());
        let path = ground.root().join("d/file");
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        change(&path);
        File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        assert!(!ground.holds());
    }
}

#[test]
fn what_is_too_new_is_not_written_down() {
    let mut ground = Ground::new();
    ground.write("file");
    ground.sees("file", unchanged);
    let changed = fs::metadata(ground.root().join("file")).unwrap().modified().unwrap();
    assert!(!ground.settle(changed + CLOCK_GRANULARITY));
    assert!(!ground.settle(changed - Duration::from_secs(5)));
    assert!(ground.load().is_none());
    // The catalog was written before the file.
    assert!(ground.settle(changed + CLOCK_GRANULARITY + Duration::from_millis(1)));
}

#[test]
fn fits_only_what_it_was_made_for_and_only_in_its_time() {
    let ground = Ground::new();
    let now = SystemTime::now();
    let hour = Duration::from_secs(3600);
    ground.settle_later();
    let load = |binding, now| SettledRecord::load(&ground.state(), &binding, &ground.catalog(), now).is_some();
    assert!(load(BINDING, now + hour / 2));
    assert!(!load([7; 32], now + hour / 2));
    // A clock that was set back, and a file that is to be proved again.
    assert!(!load(BINDING, now - hour));
    assert!(!load(BINDING, now + hour * 2));
    fs::write(ground.catalog(), "CATALOG").unwrap();
    assert!(!load(BINDING, now + hour / 2));
    ground.settle_later();
    assert!(load(BINDING, now + hour / 2));
    fs::write(ground.state().join("scan-key"), [9; 192]).unwrap();
    assert!(!load(BINDING, now + hour / 2));
}

#[test]
fn is_gone_once_forgotten() {
    let ground = Ground::new();
    forget(&ground.state()).unwrap();
    ground.settle_later();
    forget(&ground.state()).unwrap();
    assert!(ground.load().is_none());
}

#[test]
fn a_directory_of_many_files_is_shared_out_and_every_file_counts() {
    let mut ground = Ground::new();
    let files = 1500;
    for number in 0..files {
        ground.write(&format!("d/f{number}"));
        ground.sees(&format!("d/f{number}"), unchanged);
    }
    ground.settle_later();
    let record = ground.load().unwrap();
    assert!(record.encoded.group_count() > 1);
    let progress = AtomicU64::new(0);
    assert!(record.holds(&ground.root(), 2, &AtomicBool::new(false), &progress));
    assert_eq!(progress.load(Ordering::Relaxed), files);
    assert!(!record.holds(&ground.root(), 2, &AtomicBool::new(true), &progress));
    for number in [0, files / 2, files - 1] {
        let path = ground.root().join(format!("d/f{number}"));
        fs::rename(&path, path.with_extension("away")).unwrap();
        assert!(!ground.holds());
        // The name is back, but its ctime is not.
        fs::rename(path.with_extension("away"), &path).unwrap();
        assert!(!ground.holds());
        ground.witnesses = Witnesses::default();
        (0..files).for_each(|number| ground.sees(&format!("d/f{number}"), unchanged));
        ground.settle_later();
    }
}

prop_compose! {
    fn stat()(
        numbers in any::<[u64; 3]>(), times in any::<[i32; 2]>(), nanos in 0..1_000_000_000_u32, ids in any::<[u32; 3]>(),
    ) -> Stat {
        let [dev, ino, size] = numbers;
        let [mtime, ctime] = times.map(|seconds| Time { seconds: i64::from(seconds), nanos });
        let [mode, uid, gid] = ids;
        Stat { dev: dev % 4, ino, size, mtime, ctime, mode, uid, gid, nlink: 1 }
    }
}

fn seen() -> impl Strategy<Value = Seen> {
    prop_oneof![
        Just(Seen::Absent),
        Just(Seen::Present),
        stat().prop_map(|stat| Seen::attributes(&stat)),
        stat().prop_map(Seen::Unchanged),
    ]
}

fn witnesses() -> impl Strategy<Value = Vec<(TreePath, Seen)>> {
    let path = proptest::collection::vec(any::<u8>(), 0..20).prop_filter_map("a path", |bytes| TreePath::from_bytes(&bytes).ok());
    proptest::collection::hash_map(path, seen(), 0..8).prop_map(|map| map.into_iter().collect())
}

fn encoded(list: &[(TreePath, Seen)], catalog: &Stat) -> (Header, Vec<u8>) {
    let header = Header { binding: BINDING, recorded_at: -1, due_at: i64::MAX, resources: 1, listed: 2, stat_proved: u64::MAX };
    let mut witnesses = Witnesses::default();
    list.iter().for_each(|(path, seen)| assert!(witnesses.add(Witness { path: path.clone(), seen: *seen })));
    (header, format::encode(&header, catalog, &format::in_order(&witnesses), &KEY).unwrap())
}

/// Everything in a record, as paths and entries.
fn decoded(record: &Encoded) -> Vec<(Vec<u8>, [u8; format::ENTRY_BYTES])> {
    let mut found = Vec::new();
    for group in (0..record.group_count()).map(|number| record.group(number).unwrap()) {
        let directory = group.directory.strip_suffix(b"\0").unwrap();
        let mut names = group.names;
        for entry in group.entries {
            let (name, rest) = names.split_at(format::name_length(entry));
            names = rest;
            let path = [directory, b"/", name.strip_suffix(b"\0").unwrap()].concat();
            found.push((path.strip_prefix(b"./").map(<[u8]>::to_vec).unwrap_or(path), *entry));
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn round_trips(mut list in witnesses(), catalog in stat(), other in stat()) {
        let (header, bytes) = encoded(&list, &catalog);
        let record = Encoded::new(bytes, &BINDING, &KEY).unwrap();
        prop_assert_eq!(record.header, header);
        prop_assert!(record.is_catalog(&catalog));
        prop_assert_eq!(record.is_catalog(&other), catalog == other);
        let mut found = decoded(&record);
        found.sort();
        let name = |path: &TreePath| if path.is_root() { b".".to_vec() } else { path.as_bytes().to_vec() };
        list.sort_by_key(|(path, _)| name(path));
        prop_assert_eq!(found.len(), list.len());
        for ((path, seen), (found, entry)) in list.iter().zip(&found) {
            prop_assert_eq!(found, &name(path));
            prop_assert_eq!(record.is_as_seen(entry, None), *seen == Seen::Absent);
            let same = match seen {
                Seen::Absent => false,
                Seen::Present => true,
                Seen::Attributes { mode, uid, gid } => {
                    let like = Stat { mode: *mode, uid: *uid, gid: *gid, ..other };
                    prop_assert!(record.is_as_seen(entry, Some(&like)));
                    Seen::attributes(&other) == *seen
                }
                Seen::Unchanged(stat) => {
                    prop_assert!(record.is_as_seen(entry, Some(stat)));
                    for otherwise in [
                        Stat { dev: stat.dev + 1, ..*stat },
                        Stat { ino: stat.ino ^ 1, ..*stat },
                        Stat { size: stat.size ^ 1, ..*stat },
                        Stat { mode: stat.mode ^ 1, ..*stat },
                        Stat { uid: stat.uid ^ 1, ..*stat },
                        Stat { gid: stat.gid ^ 1, ..*stat },
                        Stat { mtime: Time { nanos: stat.mtime.nanos ^ 1, ..stat.mtime }, ..*stat },
                        Stat { ctime: Time { nanos: stat.ctime.nanos ^ 1, ..stat.ctime }, ..*stat },
                    ] {
                        prop_assert!(!record.is_as_seen(entry, Some(&otherwise)), "{:?}", otherwise);
                    }
                    *stat == other
                }
            };
            prop_assert_eq!(record.is_as_seen(entry, Some(&other)), same);
        }
    }

    #[test]
    fn damage_anywhere_makes_it_no_record(list in witnesses(), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let catalog = Stat { mode: 0o100_600, ..Stat::from_raw(&rustix::fs::lstat("/").unwrap()) };
        prop_assert_eq!(catalog.kind(), FileKind::File);
        let (_, mut bytes) = encoded(&list, &catalog);
        prop_assert!(Encoded::new(bytes.clone(), &BINDING, &[4; 32]).is_none());
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(Encoded::new(bytes.clone(), &BINDING, &KEY).is_none());
        prop_assert!(Encoded::new(bytes[..at].to_vec(), &BINDING, &KEY).is_none());
    }

    #[test]
    fn any_bytes_behind_a_valid_checksum_never_panic(body in proptest::collection::vec(any::<u8>(), 0..600)) {
        let body = [BINDING.as_slice(), &body].concat();
        let checksum = blake3::keyed_hash(&KEY, &body);
        let bytes = [b"DPSETL\0\x01".as_slice(), checksum.as_bytes(), &body].concat();
        if let Some(record) = Encoded::new(bytes, &BINDING, &KEY) {
            (0..record.group_count().min(100)).for_each(|number| assert!(record.group(number).is_none_or(|group| !group.directory.is_empty())));
            let (never, progress) = (AtomicBool::new(false), AtomicU64::new(0));
            let dir = tempfile::tempdir().unwrap();
            verify::all_hold(&record, dir.path(), 1, &never, &progress, None);
        }
    }
}
