//! The scan, cold and warm, beside its floor: one `lstat` of each file. `BENCH_FILES` sets how many (default 100,000).

use std::ffi::OsStr;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::SystemTime;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use direct_puppet_agent::tree::{ScanOptions, StatCache, scan_below};
use direct_puppet_benches::{files, git_commit, git_init, make_tree, peer, words};

fn scans(criterion: &mut Criterion) {
    let (dir, count) = (tempfile::tempdir().expect("a directory"), files(100_000));
    let (root, state) = (dir.path().join("root"), dir.path().join("state"));
    std::fs::create_dir_all(&state).expect("a directory");
    let wanted = make_tree(&root, count).expect("a tree");
    let scan = |cache: &mut StatCache| {
        let (interrupt, progress) = (AtomicBool::new(false), AtomicU64::new(0));
        scan_below(&root, &wanted, cache, &ScanOptions::default(), SystemTime::now(), &interrupt, &progress)
            .expect("a scan")
            .counters
    };
    let mut group = criterion.benchmark_group(format!("scan/{count} files"));
    group.sample_size(10).throughput(Throughput::Elements(count as u64));
    group.bench_function("cold: all read and hashed", |bencher| {
        bencher.iter_with_setup(|| StatCache::load(&state).expect("no cache"), |mut cache| black_box(scan(&mut cache)));
    });
    // A scan that reads everything proves everything, once no record can be racy any more.
    std::thread::sleep(std::time::Duration::from_millis(100));
    let mut cache = StatCache::load(&state).expect("no cache");
    scan(&mut cache);
    let warm = scan(&mut cache);
    assert_eq!((warm.stat_proved, warm.opened), (count as u64, 0));
    group.bench_function("warm: proved by stat", |bencher| bencher.iter(|| black_box(scan(&mut cache))));
    group.bench_function("floor: lstat of each path, one thread", |bencher| {
        bencher.iter(|| wanted.iter().filter(|want| root.join(want.path.as_path()).symlink_metadata().is_ok()).count());
    });
    let copy = dir.path().join("copy");
    let (from, to) = (root.join("").into_os_string(), copy.clone().into_os_string());
    if peer("rsync", &[OsStr::new("-a"), &from, &to], dir.path()) {
        let dry = |how: &str| assert!(peer("rsync", &[OsStr::new(how), &from, &to], dir.path()));
        group.bench_function("peer: rsync -an (stat both trees), whole process", |bencher| bencher.iter(|| dry("-an")));
        group.bench_function("peer: rsync -anc (read both trees), whole process", |bencher| bencher.iter(|| dry("-anc")));
    }
    if git_init(&root) {
        git_commit(&root);
        let status = || assert!(peer("git", &words(&["status", "--porcelain"]), &root));
        status();
        group.bench_function("peer: git status, whole process", |bencher| bencher.iter(status));
    }
    group.finish();
}

criterion_group!(benches, scans);
criterion_main!(benches);
