//! The wire as bytes: each message has golden bytes and a readable twin in `tests/golden/`.
//!
//! A difference here is a change of the protocol. If it is meant, write the files anew with `BLESS=1 cargo test --test golden`
//! and say in the commit how older agents and servers read it.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use direct_puppet_transport::protocol::catalog::CATALOG_FORMAT;
use direct_puppet_transport::protocol::frame::FetchHeader;
use direct_puppet_transport::protocol::pack::ZSTD;
use direct_puppet_transport::protocol::report::{CachedCatalogStatus, Event, EventStatus, REPORT_FORMAT, ResourceStatus};
use direct_puppet_transport::protocol::{
    Answered, Catalog, CatalogId, CatalogLayout, CatalogReply, CheckIn, Deployed, Digest, Edge, Encoding, EntryKind, Environment,
    Fetch, Grain, Held, Manifest, ManifestEntry, Pack, PackBase, PackedFetch, Part, ProtocolVersion, PublishedVersion, Refusal,
    RefusalCode, Report, ReportAccepted, ResolvedSource, Resource, Rollout, RunStatus, Span, SubmitFacts, SyncConfirm,
    SyncConfirmed, SyncEpoch, SyncEpochReply, SyncManifest, SyncManifestReply, TreePath, Value, VersionCounter, codec,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Compares a message with its golden files, and reads the golden bytes back.
fn golden<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(name: &str, message: &T) {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden");
    let (binary, readable) = (dir.join(format!("{name}.msgpack")), dir.join(format!("{name}.json")));
    let bytes = codec::encode(message).unwrap();
    let json = serde_json::to_string_pretty(message).unwrap() + "\n";
    #[expect(clippy::disallowed_methods, reason = "the one switch of this test")]
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&binary, &bytes).unwrap();
        std::fs::write(&readable, &json).unwrap();
    }
    let expected = std::fs::read(&binary).unwrap_or_else(|error| panic!("{}: {error}", binary.display()));
    assert_eq!(std::fs::read_to_string(&readable).unwrap(), json, "the readable twin of {name} differs");
    assert_eq!(bytes, expected, "the bytes of {name} differ: this changes the protocol");
    assert_eq!(&codec::decode::<T>(&expected, 1 << 20).unwrap(), message);
}

fn version() -> VersionCounter {
    VersionCounter { epoch: 1, sequence: 42 }
}

fn manifest() -> Manifest {
    let entry = |path: &[u8], mode, kind| ManifestEntry { path: TreePath::from_bytes(path).unwrap(), mode, kind };
    Manifest::new(vec![
        entry(b"files", 0o755, EntryKind::Directory),
        entry(b"files/motd", 0o644, EntryKind::File { digest: Digest::of(b"hello\n"), size: 6 }),
        entry(b"files/odd\xff\nname", 0o600, EntryKind::File { digest: Digest::of(b""), size: 0 }),
        entry(b"files/link", 0, EntryKind::Link { target: b"motd".to_vec() }),
    ])
    .unwrap()
}

fn catalog() -> Catalog {
    let mut motd = Resource::new("File", "/etc/motd").with("mode", "0644").with("ensure", "file");
    motd.tags = vec!["file".to_owned(), "base".to_owned()];
    motd.resolved = Some(ResolvedSource {
        uri: None,
        entries: vec![ManifestEntry {
            path: TreePath::root(),
            mode: 0o644,
            kind: EntryKind::File { digest: Digest::of(b"hello\n"), size: 6 },
        }],
    });
    motd.file = Some("site.yaml".to_owned());
    motd.line = Some(7);
    let secret = Resource::new("Exec", "reload")
        .with("command", Value::Sensitive(Box::new("true".into())))
        .with("refreshonly", true)
        .with("environment", vec![Value::from("A=1"), Value::Binary(vec![0, 255])])
        .with("subscribe", "File[/etc/motd]");
    Catalog {
        format: CATALOG_FORMAT,
        certname: "web01.example.com".parse().unwrap(),
        environment: Environment::default(),
        classes: vec!["base".to_owned()],
        resources: vec![Resource::new("Class", "Base"), motd, secret],
        edges: vec![Edge { source: "Class[Base]".parse().unwrap(), target: "File[/etc/motd]".parse().unwrap() }],
    }
}

fn check_in() -> CheckIn {
    let catalog_id = catalog().encode().unwrap().0;
    CheckIn {
        protocol: ProtocolVersion::CURRENT,
        certname: "web01.example.com".parse().unwrap(),
        environment: Environment::default(),
        held: Some(Held { catalog_id, code_id: manifest().code_id(), version: version() }),
        features: vec!["zstd".to_owned()],
        wait_seconds: 30,
        at_least: None,
    }
}

#[test]
fn manifests() {
    golden("manifest", &manifest());
    assert_eq!(
        manifest().code_id().to_string(),
        "blake3:fd85dcd3d5cd8afe2b273f16587373f1e482d800952fafc4879a44553569be31",
        "the code_id of a tree changed: every agent would compile again"
    );
}

#[test]
fn catalogs() {
    golden("catalog", &catalog());
    assert_eq!(
        catalog().encode().unwrap().0.to_string(),
        "blake3:675aa55ee6656e81c43d90c3ae7f4522dce6fd1c94afcab38360262f23fb9b9a",
        "the catalog_id of a catalog changed: every agent would fetch it again"
    );
}

#[test]
fn check_ins() {
    golden("check_in", &check_in());
    golden("check_in_first", &CheckIn { held: None, features: Vec::new(), wait_seconds: 0, ..check_in() });
    golden("check_in_at_least", &CheckIn { at_least: Some(VersionCounter { epoch: 1, sequence: 9 }), ..check_in() });
    let facts = [("kernel".to_owned(), Value::from("Linux")), ("cores".to_owned(), Value::Integer(2))].into();
    golden("submit_facts", &SubmitFacts { check_in: check_in(), facts });
}

#[test]
fn catalog_replies() {
    let (catalog_id, bytes) = catalog().encode().unwrap();
    let code_id = manifest().code_id();
    golden("reply_current", &CatalogReply::Current { code_id, version: version(), unconfirmed_seconds: None });
    let unconfirmed = CatalogReply::Current { code_id, version: version(), unconfirmed_seconds: Some(90) };
    golden("reply_current_unconfirmed", &unconfirmed);
    golden(
        "reply_catalog",
        &CatalogReply::Catalog { catalog_id, code_id, version: version(), unconfirmed_seconds: None, catalog: bytes },
    );
    let packed = CatalogReply::Packed {
        catalog_id,
        code_id,
        version: version(),
        unconfirmed_seconds: None,
        is_against_held: true,
        layout: CatalogLayout::AsItIs,
        size: 1000,
        packed: bytes::Bytes::from_static(b"packed"),
    };
    golden("reply_packed", &packed);
    let in_columns = CatalogReply::Packed {
        catalog_id,
        code_id,
        version: version(),
        unconfirmed_seconds: None,
        is_against_held: true,
        layout: CatalogLayout::InColumns,
        size: 1000,
        packed: bytes::Bytes::from_static(b"packed"),
    };
    golden("reply_packed_in_columns", &in_columns);
    golden("reply_facts_needed", &CatalogReply::FactsNeeded);
}

#[test]
fn fetches() {
    let digest = Digest::of(b"hello\n");
    let offsets = [(digest, 3)].into();
    let fetch = Fetch { certname: "web01.example.com".parse().unwrap(), digests: vec![digest], offsets, packed: None };
    golden("fetch", &fetch);
    let packed = PackedFetch {
        catalog_id: CatalogId::of(b"new"),
        base_catalog_id: Some(CatalogId::of(b"old")),
        encodings: vec![ZSTD.to_owned()],
        spans: vec![Span { first: 0, count: 7, base: Some(1) }, Span { first: 9, count: 1, base: None }],
        part: None,
    };
    let by_place =
        |packed| Fetch { digests: Vec::new(), offsets: BTreeMap::new(), packed: Some(packed), certname: fetch.certname.clone() };
    golden("fetch_packed", &by_place(packed.clone()));
    let spans = vec![Span { first: 9, count: 1, base: None }];
    let part = Some(Part { stretches: vec![(0, 70_000), (1 << 20, 4_000)], grain: Some(Grain::Fine) });
    golden("fetch_part", &by_place(PackedFetch { base_catalog_id: None, spans: spans.clone(), part, ..packed.clone() }));
    let part = Some(Part { stretches: vec![(100, 2_000)], grain: None });
    golden("fetch_part_bytes", &by_place(PackedFetch { base_catalog_id: None, spans, part, ..packed }));
    golden(
        "fetch_header_pieces",
        &FetchHeader::Pack(Pack { first: 0, count: 1, at: 0, size: 74_000, length: 840, encoding: Encoding::Pieces, base: None }),
    );
    let base = Some(PackBase { at: 0, size: 90 });
    golden(
        "fetch_header_pack",
        &FetchHeader::Pack(Pack { first: 0, count: 7, at: 0, size: 100, length: 20, encoding: Encoding::Zstd, base }),
    );
    golden("fetch_header_blob", &FetchHeader::Blob { digest, size: 6, offset: 3 });
    golden("fetch_header_missing", &FetchHeader::Missing { digest });
    golden("fetch_header_end", &FetchHeader::End { blobs: 1 });
}

#[test]
fn replicas() {
    let deployed = Deployed { code_id: manifest().code_id(), version: version() };
    let confirm = SyncConfirm {
        protocol: ProtocolVersion::CURRENT,
        replica: "replica1.example.com".parse().unwrap(),
        deployed: [(Environment::default(), deployed)].into(),
        wait_seconds: 30,
        rollout: Rollout::default(),
        epoch: 1,
        answered: [(Environment::default(), version())].into(),
        nodes: None,
    };
    golden("sync_confirm", &confirm);
    let nodes = [(Environment::default(), [(manifest().code_id(), 12)].into())].into();
    golden("sync_confirm_nodes", &SyncConfirm { nodes: Some(nodes), ..confirm });
    let live = PublishedVersion {
        environment: Environment::default(),
        code_id: manifest().code_id(),
        version: version(),
        time_unix_seconds: 1_700_000_000,
        author: "A. Operator".to_owned(),
        email: "a@example.com".to_owned(),
        message: "a new motd".to_owned(),
        revision: None,
        request_id: None,
        files: 2,
        lineage: Vec::new(),
    };
    let answered = Answered {
        at: version(),
        request: Digest::of(b"deploy-7"),
        code_id: manifest().code_id(),
        version: version(),
        is_changed: true,
        files: 2,
        new_contents: 1,
    };
    let answered: BTreeMap<_, _> = [(Environment::default(), vec![answered])].into();
    let confirmed = SyncConfirmed {
        live: vec![live.clone()],
        rollout: Rollout::default(),
        epoch: 1,
        answered: answered.clone(),
        is_part: false,
    };
    golden("sync_confirmed", &confirmed);
    let rollout = Rollout { per_second: 50, paused: Some("it broke".to_owned()) };
    golden(
        "sync_confirmed_paused",
        &SyncConfirmed { live: Vec::new(), rollout, epoch: 2, answered: BTreeMap::new(), is_part: false },
    );
    let replica = "replica1.example.com".parse().unwrap();
    golden("sync_epoch", &SyncEpoch { protocol: ProtocolVersion::CURRENT, replica, epoch: 2, instance: 0 });
    let promoted = PublishedVersion {
        lineage: vec![VersionCounter { epoch: 1, sequence: 7 }],
        revision: Some("0123abc".to_owned()),
        ..live
    };
    let reply = SyncEpochReply {
        epoch: 2,
        is_raised: true,
        is_primary: false,
        live: vec![promoted],
        answered,
        instance: 0,
        rollout: None,
    };
    golden("sync_epoch_reply", &reply);
    golden(
        "sync_epoch_reply_instance",
        &SyncEpochReply { live: Vec::new(), answered: BTreeMap::new(), instance: 0x0123_4567_89ab_cdef, ..reply.clone() },
    );
    let rollout = Some(Rollout { per_second: 50, paused: Some("it broke".to_owned()) });
    golden("sync_epoch_reply_rollout", &SyncEpochReply { live: Vec::new(), answered: BTreeMap::new(), rollout, ..reply });
    golden(
        "sync_manifest",
        &SyncManifest {
            replica: "replica1.example.com".parse().unwrap(),
            environment: Environment::default(),
            code_id: manifest().code_id(),
            base: Some(Manifest::default().code_id()),
        },
    );
    golden("sync_manifest_whole", &SyncManifestReply::Whole { manifest: codec::encode(&manifest()).unwrap().into() });
    let changed = manifest().entries().cloned().collect();
    golden("sync_manifest_delta", &SyncManifestReply::Delta { removed: vec!["old".parse().unwrap()], changed });
}

#[test]
fn refusals() {
    let refusal = Refusal { code: RefusalCode::Busy, message: "too many compiles".to_owned(), retry_after_seconds: Some(9) };
    golden("refusal", &refusal);
}

#[test]
fn reports() {
    let event = Event {
        resource: "File[/etc/motd]".to_owned(),
        property: "content".into(),
        previous_value: "{blake3}old".into(),
        desired_value: "{blake3}new".into(),
        message: "content changed {blake3}old to {blake3}new".into(),
        status: EventStatus::Success,
        corrective_change: true,
        redacted: false,
        loglevel: None,
        time_unix_nanos: 1_700_000_000_000_000_001,
    };
    let status = ResourceStatus {
        resource: "File[/etc/motd]".to_owned(),
        out_of_sync: true,
        changed: true,
        corrective_change: true,
        events: vec![event],
        ..ResourceStatus::default()
    };
    let report = Report {
        host: "web01.example.com".parse().unwrap(),
        environment: Environment::default(),
        transaction_uuid: "00112233445566778899aabbccddeeff".to_owned(),
        report_format: REPORT_FORMAT,
        time_unix_nanos: 1_700_000_000_000_000_000,
        catalog_id: Some(catalog().encode().unwrap().0),
        code_id: Some(manifest().code_id()),
        version: Some(version()),
        cached_catalog_status: CachedCatalogStatus::NotUsed,
        configuration_version: None,
        given_code_id: None,
        catalog_uuid: None,
        status: RunStatus::Changed,
        transaction_completed: true,
        noop: false,
        noop_pending: false,
        corrective_change: true,
        metrics: [("resources".to_owned(), [("total".to_owned(), 1.0)].into())].into(),
        logs: Vec::new(),
        resource_statuses: vec![status],
    };
    golden("report", &report);
    golden("report_accepted", &ReportAccepted { duplicate: true });
}
