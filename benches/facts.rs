//! Gathering the facts of this machine, beside the whole process of Facter.

use std::path::Path;

use criterion::{Criterion, criterion_group, criterion_main};
use direct_puppet_agent::facts::ExternalFacts;
use direct_puppet_agent::system::{RealSystem, System as _};
use direct_puppet_benches::{peer, words};

fn gather(criterion: &mut Criterion) {
    let system =
        RealSystem { external_facts: ExternalFacts { usual_dirs: false, ..ExternalFacts::default() }, ..RealSystem::default() };
    let mut group = criterion.benchmark_group("facts");
    group.sample_size(20).bench_function("gather", |bencher| bencher.iter(|| system.facts().expect("facts can be gathered")));
    let arguments = words(&["--json", "--no-external-facts", "--no-custom-facts"]);
    if peer("facter", &arguments, Path::new("/")) {
        group
            .sample_size(10)
            .bench_function("peer: facter", |bencher| bencher.iter(|| peer("facter", &arguments, Path::new("/"))));
    }
    group.finish();
}

criterion_group!(benches, gather);
criterion_main!(benches);
