//! A first apply, and a run with nothing to do, beside the floor of writing: all temporary files, one syncfs, all renames.
//! `BENCH_FILES` sets how many files (default 10,000).

use std::ffi::OsStr;
use std::fs::File;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use direct_puppet_agent::{Agent, RunOptions};
use direct_puppet_benches::{content, files, make_site, path, peer, server, staged};
use direct_puppet_transport::MemoryTransport;

fn applies(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (dir, count) = (tempfile::tempdir().expect("a directory"), files(10_000));
    make_site(&dir.path().join("staging"), count).expect("a site");
    let server = server(&dir.path().join("data"), &dir.path().join("staging"));
    runtime.block_on(staged(&server));
    let mut number = 0;
    let mut fresh = || {
        number += 1;
        let root = dir.path().join(format!("root{number}"));
        std::fs::create_dir(&root).expect("a root");
        let transport = MemoryTransport::new(std::sync::Arc::<direct_puppet_server_stub::Server>::clone(&server));
        Agent::builder().transport(transport).certname("bench".parse().expect("a name")).root(root).build().expect("an agent")
    };
    let mut group = criterion.benchmark_group(format!("apply/{count} files"));
    group.sample_size(10).throughput(Throughput::Elements(count as u64));
    let options = RunOptions::default();
    let mut spare = Vec::new();
    group.bench_function("first, durable", |bencher| {
        bencher.iter_batched(
            &mut fresh,
            |agent| {
                let outcome = runtime.block_on(agent.run(&options)).expect("a run");
                assert_eq!(outcome.resources.failed, 0);
                spare.push(agent);
            },
            BatchSize::PerIteration,
        );
    });
    let settled = fresh();
    runtime.block_on(settled.run(&options)).expect("a run");
    group.bench_function("nothing to do", |bencher| {
        bencher.iter(|| assert_eq!(runtime.block_on(settled.run(&options)).expect("a run").scan.opened, 0));
    });
    let mut floor = 0;
    group.bench_function("floor: write all, syncfs, rename all", |bencher| {
        bencher.iter_batched(
            || {
                floor += 1;
                let root = dir.path().join(format!("floor{floor}"));
                (0..count.min(1024)).for_each(|number| {
                    std::fs::create_dir_all(root.join(path(number).parent().unwrap_or_default().as_path())).expect("a directory");
                });
                root
            },
            |root| {
                let target = |number: usize| root.join(path(number).as_path());
                (0..count)
                    .for_each(|number| std::fs::write(target(number).with_extension("tmp"), content(number)).expect("a file"));
                rustix::fs::syncfs(File::open(&root).expect("the root")).expect("a sync");
                (0..count)
                    .for_each(|number| std::fs::rename(target(number).with_extension("tmp"), target(number)).expect("a rename"));
            },
            BatchSize::PerIteration,
        );
    });
    let from = dir.path().join("staging/environments/production/modules/app/files/tree/").into_os_string();
    let mut copy = 0;
    let mut rsync = || {
        copy += 1;
        let to = dir.path().join(format!("copy{copy}")).into_os_string();
        peer("rsync", &[OsStr::new("-a"), OsStr::new("--fsync"), &from, &to], dir.path())
    };
    if rsync() {
        group.bench_function("peer: rsync -a --fsync, first, whole process", |bencher| bencher.iter(|| assert!(rsync())));
    }
    group.finish();
}

criterion_group!(benches, applies);
criterion_main!(benches);
