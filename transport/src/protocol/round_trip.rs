//! Every message: what is encoded decodes to the same with nothing left over, any prefix of it is refused, and no bytes make
//! a decoder panic.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::catalog::{CATALOG_FORMAT, Catalog, Edge, ResolvedSource, Resource, ResourceRef};
use super::codec;
use super::digest::{Algorithm, Digest};
use super::frame::FetchHeader;
use super::ids::{CatalogId, Certname, CodeId, Environment, VersionCounter};
use super::manifest::{EntryKind, Manifest, ManifestEntry};
use super::messages::{CatalogReply, CheckIn, Fetch, Held, Refusal, RefusalCode, ReportAccepted, SubmitFacts};
use super::pack::{Encoding, Pack, PackBase, PackedFetch, Span};
use super::packed_catalog::{CATALOG_IN_COLUMNS, CatalogLayout, PACKED_CATALOG};
use super::path::TreePath;
use super::pieces::{Grain, Part};
use super::report::{CachedCatalogStatus, Event, EventStatus, Log, LogLevel, Report, ResourceStatus, RunStatus};
use super::sync::{
    Answered, Deployed, PublishedVersion, Rollout, SyncConfirm, SyncConfirmed, SyncEpoch, SyncEpochReply, SyncManifest,
    SyncManifestReply,
};
use super::value::Value;
use super::version::ProtocolVersion;

const LIMIT: u64 = 1 << 24;

fn digest() -> impl Strategy<Value = Digest> {
    (prop_oneof![Just(Algorithm::Blake3), Just(Algorithm::Sha256)], any::<[u8; 32]>()).prop_map(|(a, b)| Digest::new(a, b))
}

fn catalog_id() -> impl Strategy<Value = CatalogId> {
    any::<[u8; 8]>().prop_map(|bytes| CatalogId::of(&bytes))
}

fn code_id() -> impl Strategy<Value = CodeId> {
    digest().prop_map(CodeId::from_digest)
}

fn certname() -> impl Strategy<Value = Certname> {
    "[a-z0-9_][a-z0-9_-]{0,20}[a-z0-9_]".prop_map(|text| text.parse().unwrap())
}

fn environment() -> impl Strategy<Value = Environment> {
    "[A-Za-z0-9_]{1,20}".prop_map(|text| text.parse().unwrap())
}

fn version() -> impl Strategy<Value = VersionCounter> {
    any::<(u64, u64)>().prop_map(|(epoch, sequence)| VersionCounter { epoch, sequence })
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>().prop_filter("a name has neither", |byte| *byte != 0 && *byte != b'/'), 1..12)
        .prop_filter("not a name", |name| name != b"." && name != b"..")
}

pub(super) fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Undef),
        any::<bool>().prop_map(Value::Boolean),
        any::<i64>().prop_map(Value::Integer),
        (-1e300_f64..1e300).prop_map(Value::Float),
        ".{0,12}".prop_map(Value::String),
        vec(any::<u8>(), 0..12).prop_map(Value::Binary),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::Array),
            btree_map("[a-z]{1,6}", inner.clone(), 0..4).prop_map(Value::Hash),
            inner.prop_map(|value| Value::Sensitive(Box::new(value))),
        ]
    })
}

fn kind() -> impl Strategy<Value = EntryKind> {
    prop_oneof![
        (digest(), any::<u64>()).prop_map(|(digest, size)| EntryKind::File { digest, size }),
        Just(EntryKind::Directory),
        name().prop_map(|target| EntryKind::Link { target }),
    ]
}

fn entries() -> impl Strategy<Value = Vec<ManifestEntry>> {
    btree_map(name(), (kind(), 0..0o10000_u32), 0..6).prop_map(|entries| {
        let entry = |(name, (kind, mode)): (Vec<u8>, _)| ManifestEntry { path: TreePath::from_bytes(&name).unwrap(), mode, kind };
        let mut entries: Vec<ManifestEntry> = entries.into_iter().map(entry).collect();
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        entries
    })
}

fn resource() -> impl Strategy<Value = Resource> {
    let resolved = (option::of(".{0,12}"), entries()).prop_map(|(uri, below)| {
        let root = ManifestEntry { path: TreePath::root(), mode: 0o755, kind: EntryKind::Directory };
        ResolvedSource { uri, entries: [vec![root], below].concat() }
    });
    (
        "[A-Z][a-z]{0,8}",
        "[^\\x00]{1,12}",
        btree_map("[a-z]{1,8}", value(), 0..4),
        vec("[a-z]{1,6}", 0..3),
        option::of(resolved),
        any::<bool>(),
        any::<Option<u32>>(),
    )
        .prop_map(|(resource_type, title, parameters, tags, resolved, container, line)| Resource {
            resource_type,
            title,
            parameters,
            tags,
            resolved,
            container,
            unusable: line.filter(|line| line % 2 == 0).map(|line| format!("reason {line}")),
            file: line.map(|line| format!("file {line}")),
            line,
        })
}

fn catalog() -> impl Strategy<Value = Catalog> {
    (certname(), environment(), vec(resource(), 0..4)).prop_map(|(certname, environment, mut resources)| {
        resources.dedup_by(|a, b| a.reference() == b.reference());
        let end = ResourceRef { resource_type: "Class".to_owned(), title: "Main".to_owned() };
        let edges = resources.iter().map(|resource| Edge { source: end.clone(), target: resource.reference() }).collect();
        Catalog { format: CATALOG_FORMAT, certname, environment, classes: vec!["main".to_owned()], resources, edges }
    })
}

fn check_in() -> impl Strategy<Value = CheckIn> {
    let held =
        (catalog_id(), code_id(), version()).prop_map(|(catalog_id, code_id, version)| Held { catalog_id, code_id, version });
    (any::<u16>(), certname(), environment(), option::of(held), vec("[a-z]{1,6}", 0..3), any::<u32>(), option::of(version()))
        .prop_map(|(protocol, certname, environment, held, features, wait_seconds, at_least)| CheckIn {
            protocol: ProtocolVersion(protocol),
            certname,
            environment,
            held,
            features,
            wait_seconds,
            at_least,
        })
}

fn event() -> impl Strategy<Value = Event> {
    (".{0,12}", ".{0,12}", any::<bool>(), any::<bool>(), any::<i64>()).prop_map(|(resource, text, corrective, redacted, time)| {
        Event {
            resource,
            property: "content".into(),
            previous_value: text.clone().into(),
            desired_value: text.clone().into(),
            message: text.into(),
            status: EventStatus::Noop,
            corrective_change: corrective,
            redacted,
            loglevel: redacted.then_some(LogLevel::Info),
            time_unix_nanos: time,
        }
    })
}

fn report() -> impl Strategy<Value = Report> {
    let status = (vec(event(), 0..3), any::<bool>(), any::<Option<u32>>()).prop_map(|(events, flag, line)| ResourceStatus {
        resource: "File[/a]".to_owned(),
        line,
        changed: flag,
        events,
        ..ResourceStatus::default()
    });
    let metrics = btree_map("[a-z]{1,6}", btree_map("[a-z]{1,6}", 0.0..1e9_f64, 0..3), 0..3);
    (certname(), environment(), option::of((catalog_id(), code_id(), version())), any::<i64>(), metrics, vec(status, 0..3))
        .prop_map(|(host, environment, ids, time, metrics, resource_statuses)| Report {
            host,
            environment,
            transaction_uuid: "0".repeat(32),
            report_format: 12,
            time_unix_nanos: time,
            catalog_id: ids.map(|ids| ids.0),
            code_id: ids.map(|ids| ids.1),
            version: ids.map(|ids| ids.2),
            cached_catalog_status: CachedCatalogStatus::OnFailure,
            configuration_version: None,
            given_code_id: None,
            catalog_uuid: None,
            status: RunStatus::Changed,
            transaction_completed: true,
            noop: false,
            noop_pending: false,
            corrective_change: false,
            metrics,
            logs: vec![Log { level: "notice".to_owned(), message: String::new(), source: "x".to_owned(), time_unix_nanos: time }],
            resource_statuses,
        })
}

fn reply() -> impl Strategy<Value = CatalogReply> {
    prop_oneof![
        (code_id(), version(), any::<Option<u32>>()).prop_map(|(code_id, version, unconfirmed_seconds)| CatalogReply::Current {
            code_id,
            version,
            unconfirmed_seconds
        }),
        (catalog_id(), code_id(), version(), any::<Option<u32>>(), vec(any::<u8>(), 0..40)).prop_map(
            |(catalog_id, code_id, version, unconfirmed_seconds, bytes)| {
                CatalogReply::Catalog { catalog_id, code_id, version, unconfirmed_seconds, catalog: bytes.into() }
            }
        ),
        ((catalog_id(), code_id(), version()), any::<Option<u32>>(), any::<bool>(), any::<u64>(), vec(any::<u8>(), 0..40))
            .prop_map(|((catalog_id, code_id, version), unconfirmed_seconds, is_against_held, size, bytes)| {
                CatalogReply::Packed {
                    catalog_id,
                    code_id,
                    version,
                    unconfirmed_seconds,
                    is_against_held,
                    layout: if is_against_held { CatalogLayout::InColumns } else { CatalogLayout::AsItIs },
                    size,
                    packed: bytes.into(),
                }
            }),
        Just(CatalogReply::FactsNeeded),
    ]
}

fn fetch() -> impl Strategy<Value = Fetch> {
    (certname(), vec(digest(), 0..6), btree_map(digest(), any::<u64>(), 0..3), option::of(packed_fetch()))
        .prop_map(|(certname, digests, offsets, packed)| Fetch { certname, digests, offsets, packed })
}

fn packed_fetch() -> impl Strategy<Value = PackedFetch> {
    let span = any::<(u32, u32, Option<u32>)>().prop_map(Span::from);
    let grain = prop_oneof![Just(Grain::Coarse), Just(Grain::Fine)];
    let part = (vec(any::<(u64, u64)>(), 0..4), option::of(grain)).prop_map(|(stretches, grain)| Part { stretches, grain });
    (catalog_id(), option::of(catalog_id()), vec("[a-z]{1,6}", 0..3), vec(span, 0..4), option::of(part)).prop_map(
        |(catalog_id, base_catalog_id, encodings, spans, part)| PackedFetch {
            catalog_id,
            base_catalog_id,
            encodings,
            spans,
            part,
        },
    )
}

fn pack() -> impl Strategy<Value = Pack> {
    let encoding = prop_oneof![Just(Encoding::Identity), Just(Encoding::Zstd), Just(Encoding::Copy), Just(Encoding::Pieces)];
    let base = any::<(u64, u64)>().prop_map(|(at, size)| PackBase { at, size });
    (any::<(u32, u32)>(), any::<(u64, u64, u64)>(), encoding, option::of(base))
        .prop_map(|((first, count), (at, size, length), encoding, base)| Pack { first, count, at, size, length, encoding, base })
}

fn refusal() -> impl Strategy<Value = Refusal> {
    (".{0,20}", any::<Option<u32>>()).prop_map(|(message, retry_after_seconds)| Refusal {
        code: RefusalCode::Busy,
        message,
        retry_after_seconds,
    })
}

fn deployed() -> impl Strategy<Value = Deployed> {
    (code_id(), version()).prop_map(|(code_id, version)| Deployed { code_id, version })
}

fn published() -> impl Strategy<Value = PublishedVersion> {
    (environment(), deployed(), any::<u64>(), ".{0,12}", option::of("[a-z]{1,6}"), any::<u64>(), vec(version(), 0..3)).prop_map(
        |(environment, Deployed { code_id, version }, time_unix_seconds, text, request_id, files, lineage)| PublishedVersion {
            environment,
            code_id,
            version,
            time_unix_seconds,
            author: text.clone(),
            email: text.clone(),
            message: text,
            revision: request_id.clone(),
            request_id,
            files,
            lineage,
        },
    )
}

fn rollout() -> impl Strategy<Value = Rollout> {
    (any::<u32>(), option::of(".{0,12}")).prop_map(|(per_second, paused)| Rollout { per_second, paused })
}

fn all_answered() -> impl Strategy<Value = BTreeMap<Environment, Vec<Answered>>> {
    let answered = (version(), digest(), deployed(), any::<(bool, u64, u64)>()).prop_map(
        |(at, request, Deployed { code_id, version }, (is_changed, files, new_contents))| Answered {
            at,
            request,
            code_id,
            version,
            is_changed,
            files,
            new_contents,
        },
    );
    btree_map(environment(), vec(answered, 0..3), 0..3)
}

fn sync_manifest_reply() -> impl Strategy<Value = SyncManifestReply> {
    prop_oneof![
        vec(any::<u8>(), 0..40).prop_map(|bytes| SyncManifestReply::Whole { manifest: bytes.into() }),
        (entries(), entries()).prop_map(|(removed, changed)| SyncManifestReply::Delta {
            removed: removed.into_iter().map(|entry| entry.path).collect(),
            changed,
        }),
    ]
}

fn header() -> impl Strategy<Value = FetchHeader> {
    prop_oneof![
        (digest(), any::<(u64, u64)>()).prop_map(|(digest, (size, offset))| FetchHeader::Blob { digest, size, offset }),
        pack().prop_map(FetchHeader::Pack),
        digest().prop_map(|digest| FetchHeader::Missing { digest }),
        any::<u64>().prop_map(|blobs| FetchHeader::End { blobs }),
    ]
}

/// Encodes, decodes, compares; then refuses every prefix and a byte too much. JSON, the readable twin, must agree too.
fn check<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(message: &T) -> Result<(), TestCaseError> {
    let bytes = codec::encode(message).unwrap();
    prop_assert_eq!(&codec::decode::<T>(&bytes, LIMIT).unwrap(), message);
    prop_assert_eq!(codec::encode(&codec::decode::<T>(&bytes, LIMIT).unwrap()).unwrap(), bytes.clone(), "one canonical form");
    for cut in 0..bytes.len().min(400) {
        prop_assert!(codec::decode::<T>(&bytes[..cut], LIMIT).is_err(), "a prefix of {} bytes was accepted", cut);
    }
    let longer = [&bytes[..], &[0xc0]].concat();
    prop_assert!(codec::decode::<T>(&longer, LIMIT).is_err(), "a leftover byte was accepted");
    Ok(())
}

macro_rules! messages {
    ($($test:ident: $strategy:expr, $type:ty;)*) => {
        proptest! {
            #![proptest_config(ProptestConfig::with_cases(64))]
            $(
                #[test]
                fn $test(message in $strategy) {
                    check(&message)?;
                }
            )*

            #[test]
            fn any_bytes_decode_without_panic(bytes in vec(any::<u8>(), 0..120)) {
                $( drop(codec::decode::<$type>(&bytes, LIMIT)); )*
            }

            /// Damaged messages come further into the decoders than random bytes do.
            #[test]
            fn damaged_messages_decode_without_panic(message in catalog(), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
                let mut bytes = codec::encode(&message).unwrap();
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
                if let Ok(other) = codec::decode::<Catalog>(&bytes, LIMIT) {
                    drop(other.validate());
                }
            }
        }
    };
}

messages! {
    digests: digest(), Digest;
    values: value(), Value;
    facts: btree_map("[a-z]{1,6}", value(), 0..4), BTreeMap<String, Value>;
    manifests: entries().prop_map(|entries| Manifest::new(entries).unwrap()), Manifest;
    catalogs: catalog(), Catalog;
    check_ins: check_in(), CheckIn;
    fact_submissions: (check_in(), btree_map("[a-z]{1,6}", value(), 0..3)).prop_map(|(check_in, facts)| SubmitFacts { check_in, facts }), SubmitFacts;
    catalog_replies: reply(), CatalogReply;
    fetches: fetch(), Fetch;
    fetch_headers: header(), FetchHeader;
    reports: report(), Report;
    report_answers: any::<bool>().prop_map(|duplicate| ReportAccepted { duplicate }), ReportAccepted;
    refusals: refusal(), Refusal;
    sync_confirms: (certname(), btree_map(environment(), deployed(), 0..3), any::<(u32, u64)>(), rollout(),
        btree_map(environment(), version(), 0..3), option::of(btree_map(environment(), btree_map(code_id(), any::<u64>(), 0..3), 0..3))).prop_map(
        |(replica, deployed, (wait_seconds, epoch), rollout, answered, nodes)|
        SyncConfirm { protocol: ProtocolVersion::CURRENT, replica, deployed, wait_seconds, rollout, epoch, answered, nodes }), SyncConfirm;
    sync_confirmations: (vec(published(), 0..3), rollout(), any::<(u64, bool)>(), all_answered()).prop_map(|(live, rollout, (epoch, is_part), answered)|
        SyncConfirmed { live, rollout, epoch, answered, is_part }), SyncConfirmed;
    sync_epochs: (certname(), any::<(u64, u64)>()).prop_map(|(replica, (epoch, instance))|
        SyncEpoch { protocol: ProtocolVersion::CURRENT, replica, epoch, instance }), SyncEpoch;
    sync_epoch_replies: (any::<(u64, u64)>(), any::<(bool, bool)>(), vec(published(), 0..3), all_answered(), option::of(rollout())).prop_map(
        |((epoch, instance), (is_raised, is_primary), live, answered, rollout)|
        SyncEpochReply { epoch, is_raised, is_primary, live, answered, instance, rollout }), SyncEpochReply;
    sync_manifests: (certname(), environment(), code_id(), option::of(code_id())).prop_map(|(replica, environment, code_id, base)|
        SyncManifest { replica, environment, code_id, base }), SyncManifest;
    sync_manifest_replies: sync_manifest_reply(), SyncManifestReply;
}

proptest! {
    #[test]
    fn manifests_read_the_same_as_json(entries in entries()) {
        let manifest = Manifest::new(entries).unwrap();
        let json = serde_json::to_string(&manifest).unwrap();
        prop_assert_eq!(serde_json::from_str::<Manifest>(&json).unwrap(), manifest);
    }
}

/// A check-in of the steady state and its answer: the promise of issue and design is 256 bytes each way.
#[test]
fn the_steady_state_fits_256_bytes() {
    let held = Held {
        catalog_id: CatalogId::of(b"x"),
        code_id: Manifest::default().code_id(),
        version: VersionCounter { epoch: u64::MAX, sequence: u64::MAX },
    };
    let request = CheckIn {
        protocol: ProtocolVersion::CURRENT,
        certname: "a-rather-long-host-name-0001.datacentre.example.com".parse().unwrap(),
        environment: Environment::default(),
        held: Some(held),
        features: [PACKED_CATALOG, CATALOG_IN_COLUMNS].map(str::to_owned).to_vec(),
        wait_seconds: 0,
        at_least: None,
    };
    let reply = CatalogReply::Current { code_id: held.code_id, version: held.version, unconfirmed_seconds: None };
    assert!(codec::encode(&request).unwrap().len() <= 256);
    assert!(codec::encode(&reply).unwrap().len() <= 256);
}
