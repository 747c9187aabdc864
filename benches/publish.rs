//! Publishing, first and again, beside its floor: read and hash everything. `BENCH_FILES` sets how many (default 100,000).

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use direct_puppet_benches::{files, git_commit, git_init, make_site, peer, server, staged, words};
use direct_puppet_transport::protocol::Digest;

fn publishes(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (dir, count) = (tempfile::tempdir().expect("a directory"), files(100_000));
    let staging = dir.path().join("staging");
    make_site(&staging, count).expect("a site");
    let mut group = criterion.benchmark_group(format!("publish/{count} files"));
    group.sample_size(10).throughput(Throughput::Elements(count as u64));
    let mut number = 0;
    group.bench_function("first", |bencher| {
        bencher.iter_batched(
            || {
                number += 1;
                server(&dir.path().join(format!("data{number}")), &staging)
            },
            |server| runtime.block_on(staged(&server)),
            BatchSize::PerIteration,
        );
    });
    let again = server(&dir.path().join("again"), &staging);
    std::thread::sleep(std::time::Duration::from_millis(100));
    runtime.block_on(staged(&again));
    group.bench_function("again, nothing changed", |bencher| bencher.iter(|| runtime.block_on(staged(&again))));
    group.bench_function("floor: read and BLAKE3, one thread", |bencher| {
        let tree = staging.join("environments/production/modules/app/files/tree");
        bencher.iter(|| {
            let paths = (0..count).map(|number| tree.join(direct_puppet_benches::path(number).as_path()));
            paths.map(|path| Digest::of(&std::fs::read(path).expect("a file"))).filter(|digest| digest.bytes()[0] == 0).count()
        });
    });
    if git_init(&staging) {
        let start = || {
            std::fs::remove_dir_all(staging.join(".git")).expect("a repository");
            assert!(git_init(&staging), "git was there a moment ago");
        };
        group.bench_function("peer: git add and commit, first", |bencher| {
            bencher.iter_batched(start, |()| git_commit(&staging), BatchSize::PerIteration);
        });
        group.bench_function("peer: git status, nothing changed", |bencher| {
            bencher.iter(|| assert!(peer("git", &words(&["status", "--porcelain"]), &staging)));
        });
    }
    group.finish();
}

criterion_group!(benches, publishes);
criterion_main!(benches);
