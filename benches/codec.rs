//! Encoding and decoding: the steady check-in, a catalog of 10,000 files, and its id beside plain BLAKE3 over the same bytes.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use direct_puppet_benches::catalog;
use direct_puppet_transport::protocol::{
    Catalog, CatalogId, CheckIn, Digest, Environment, Held, Manifest, ProtocolVersion, VersionCounter, codec,
};

fn check_in(criterion: &mut Criterion) {
    let held = Held {
        catalog_id: CatalogId::of(b"x"),
        code_id: Manifest::default().code_id(),
        version: VersionCounter { epoch: 1, sequence: 7 },
    };
    let message = CheckIn {
        protocol: ProtocolVersion::CURRENT,
        certname: "web01.example.com".parse().expect("a valid name"),
        environment: Environment::default(),
        held: Some(held),
        features: Vec::new(),
        wait_seconds: 0,
        at_least: None,
    };
    let bytes = codec::encode(&message).expect("messages can be encoded");
    let mut group = criterion.benchmark_group("codec/check_in");
    group.bench_function("encode", |bencher| bencher.iter(|| codec::encode(black_box(&message))));
    group.bench_function("decode", |bencher| bencher.iter(|| codec::decode::<CheckIn>(black_box(&bytes), 1 << 16)));
    group.finish();
}

fn catalogs(criterion: &mut Criterion) {
    let catalog = catalog(10_000);
    let (id, bytes) = catalog.encode().expect("catalogs can be encoded");
    let mut group = criterion.benchmark_group("codec/catalog of 10000 files");
    group.throughput(Throughput::Bytes(bytes.len() as u64)).sample_size(20);
    group.bench_function("encode", |bencher| bencher.iter(|| black_box(&catalog).encode()));
    group.bench_function("decode and verify", |bencher| bencher.iter(|| Catalog::decode(black_box(&bytes), id)));
    group.bench_function("floor: BLAKE3 of the bytes", |bencher| bencher.iter(|| Digest::of(black_box(&bytes))));
    group.finish();
}

criterion_group!(benches, check_in, catalogs);
criterion_main!(benches);
