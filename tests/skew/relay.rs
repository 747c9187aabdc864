//! A way to a server on which every message becomes one of a program of another age.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use direct_puppet_transport::protocol::frame::FetchHeader;
use direct_puppet_transport::protocol::{
    CatalogReply, CheckIn, Fetch, Operation, Refusal, Report, ReportAccepted, SubmitFacts, SyncConfirm, SyncConfirmed, SyncEpoch,
    SyncEpochReply, SyncManifest, SyncManifestReply, codec,
};
use direct_puppet_transport::{Request, Response, Status, Transport, TransportError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::tree::{Struct, Tree, tree_of};

/// What must be said in each struct, as it was when the struct came: any other field may be left out for ever. What is added here
/// refuses every program that is older.
const REQUIRED: &[(&str, &[&str])] = &[
    ("CheckIn", &["protocol", "certname", "environment"]),
    ("Held", &["catalog_id", "code_id", "version"]),
    ("VersionCounter", &["epoch", "sequence"]),
    ("SubmitFacts", &["check_in", "facts"]),
    ("CatalogReply.current", &["code_id", "version"]),
    ("CatalogReply.catalog", &["catalog_id", "code_id", "version", "catalog"]),
    ("CatalogReply.packed", &["catalog_id", "code_id", "version", "size", "packed"]),
    ("Fetch", &["certname", "digests"]),
    ("FetchHeader.blob", &["digest", "size"]),
    ("FetchHeader.missing", &["digest"]),
    ("FetchHeader.end", &["blobs"]),
    ("Pack", &["first", "count", "size", "length", "encoding"]),
    (
        "Report",
        &["host", "environment", "transaction_uuid", "report_format", "time_unix_nanos", "status", "transaction_completed"],
    ),
    ("ReportAccepted", &[]),
    ("Refusal", &["code", "message"]),
    ("SyncConfirm", &["protocol", "replica"]),
    ("SyncConfirmed", &["live"]),
    ("PublishedVersion", &["environment", "code_id", "version", "time_unix_seconds", "files"]),
    ("SyncEpoch", &["protocol", "replica", "epoch"]),
    ("SyncEpochReply", &["epoch", "is_raised", "is_primary", "live"]),
    ("SyncManifest", &["replica", "environment", "code_id"]),
    ("SyncManifestReply.whole", &["manifest"]),
    ("SyncManifestReply.delta", &["removed", "changed"]),
    ("ManifestEntry", &["path", "mode", "kind"]),
    ("EntryKind.file", &["digest", "size"]),
    ("EntryKind.link", &["target"]),
    ("PackedFetch", &["catalog_id", "spans"]),
    ("Part", &["stretches"]),
    ("PackBase", &["size"]),
    ("Deployed", &["code_id", "version"]),
    ("Rollout", &[]),
    ("Answered", &["at", "request", "code_id", "version", "is_changed", "files", "new_contents"]),
    ("ResourceStatus", &["resource"]),
    ("Event", &["resource", "property", "previous_value", "desired_value", "message", "status"]),
    ("Log", &["level", "message", "source", "time_unix_nanos"]),
];

/// Lists of what a peer understands, where anything may be named.
const FEATURES: &[(&str, &str)] = &[("CheckIn", "features"), ("PackedFetch", "encodings")];

/// What is done to each message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    /// It comes from a later program of the same protocol: fields and features that nobody knows.
    Later,
    /// It comes from the first program of this protocol: nothing that may be left out.
    First,
    /// As from the first program that had each struct: all of these are there, and nothing in them that may be left out.
    Bare,
    /// It comes from a program of another protocol, which has it in the same form.
    OtherProtocol(u16),
    /// The same, and the form is another too.
    OtherForm(u16),
}

impl Age {
    /// Returns the message of that age.
    pub(crate) fn of(self, message: Tree) -> Tree {
        match message {
            Tree::Struct(message) => Tree::Struct(self.of_struct(message)),
            Tree::Variant(name, inside) => Tree::Variant(name, Box::new(self.of(*inside))),
            Tree::List(values) => Tree::List(values.into_iter().map(|value| self.of(value)).collect()),
            Tree::Map(entries) => Tree::Map(entries.into_iter().map(|(key, value)| (key, self.of(value))).collect()),
            leaf => leaf,
        }
    }

    fn of_struct(self, Struct { name, mut fields }: Struct) -> Struct {
        match self {
            Self::Later => {
                add_feature(&name, &mut fields);
                fields.insert(0, ("a_later_field".to_owned(), unheard_of()));
                fields.push(("the_last_field".to_owned(), Tree::Nil));
            }
            Self::First | Self::Bare => {
                let required = REQUIRED.iter().find(|(of, _)| *of == name);
                let (_, required) = required.unwrap_or_else(|| panic!("{name} is no struct of the first program: see REQUIRED"));
                let is_kept = |value: &Tree| self == Self::Bare && value.holds_struct();
                fields.retain(|(field, value)| required.contains(&field.as_str()) || is_kept(value));
            }
            Self::OtherProtocol(version) | Self::OtherForm(version) => {
                for (_, value) in fields.iter_mut().filter(|(field, _)| field == "protocol") {
                    *value = Tree::Unsigned(version.into());
                }
                if matches!(self, Self::OtherForm(_)) {
                    fields.retain(|(field, _)| !matches!(field.as_str(), "certname" | "replica"));
                }
            }
        }
        let fields = fields.into_iter().map(|(field, value)| (field, self.of(value))).collect();
        Struct { name, fields }
    }
}

/// Every kind of value that MessagePack has, one in the other.
fn unheard_of() -> Tree {
    let text = |text: &str| Tree::Text(text.to_owned());
    let inner = vec![(Tree::Unsigned(1), Tree::Float(0.5)), (text("x"), Tree::Boolean(true)), (Tree::Signed(-70_000), Tree::Nil)];
    Tree::List(vec![Tree::Map(inner), Tree::Bytes(vec![0xff; 40]), text("later")])
}

fn add_feature(name: &str, fields: &mut Vec<(String, Tree)>) {
    let Some((_, list)) = FEATURES.iter().find(|(of, _)| *of == name) else { return };
    let unknown = Tree::Text("a_later_feature".to_owned());
    match fields.iter_mut().find(|(field, _)| field == list) {
        Some((_, Tree::List(features))) => features.insert(0, unknown),
        _ => fields.push(((*list).to_owned(), Tree::List(vec![unknown]))),
    }
}

/// How many messages were made into others: requests and answers of each operation.
pub(crate) type Changed = BTreeMap<Operation, [usize; 2]>;

/// The way there; clones count together.
#[derive(Debug, Clone)]
pub(crate) struct Relay<T> {
    inner: T,
    age: Age,
    changed: Arc<Mutex<Changed>>,
}

impl<T: Transport> Relay<T> {
    pub(crate) fn new(inner: T, age: Age) -> Self {
        Self { inner, age, changed: Arc::default() }
    }

    /// Returns how many messages became others so far.
    pub(crate) fn changed(&self) -> Changed {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self, operation: Operation, at: usize) {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).entry(operation).or_default()[at] += 1;
    }

    fn request(&self, operation: Operation, body: &Bytes) -> Bytes {
        let aged = match operation {
            Operation::CheckIn => aged::<CheckIn>(self.age, body),
            Operation::SubmitFacts => aged::<SubmitFacts>(self.age, body),
            Operation::Fetch | Operation::SyncFetch => aged::<Fetch>(self.age, body),
            Operation::Report => aged::<Report>(self.age, body),
            Operation::SyncConfirm => aged::<SyncConfirm>(self.age, body),
            Operation::SyncEpoch => aged::<SyncEpoch>(self.age, body),
            Operation::SyncManifest => aged::<SyncManifest>(self.age, body),
            other => panic!("{other} is new here"),
        };
        if aged != *body {
            self.count(operation, 0);
        }
        aged
    }

    fn answer(&self, operation: Operation, status: Status, body: &Bytes) -> Bytes {
        let aged = match operation {
            _ if status == Status::Refused => aged::<Refusal>(self.age, body),
            Operation::CheckIn | Operation::SubmitFacts => aged::<CatalogReply>(self.age, body),
            Operation::Fetch | Operation::SyncFetch => aged_stream(self.age, body),
            Operation::Report => aged::<ReportAccepted>(self.age, body),
            Operation::SyncConfirm => aged::<SyncConfirmed>(self.age, body),
            Operation::SyncEpoch => aged::<SyncEpochReply>(self.age, body),
            Operation::SyncManifest => aged::<SyncManifestReply>(self.age, body),
            other => panic!("{other} is new here"),
        };
        if aged != *body {
            self.count(operation, 1);
        }
        aged
    }
}

/// Returns a message of that age; as it is, were there nothing to do, which is looked at too.
pub(crate) fn aged<M: Serialize + DeserializeOwned>(age: Age, body: &Bytes) -> Bytes {
    let tree = tree_of(&codec::decode::<M>(body, u64::MAX).unwrap());
    assert_eq!(codec::encode(&tree).unwrap(), body[..], "the tree of a message is not the message: {tree:?}");
    codec::encode(&age.of(tree)).unwrap().into()
}

/// The same for the headers in the answer to a fetch; contents stay as they are.
fn aged_stream(age: Age, mut body: &[u8]) -> Bytes {
    let mut stream = Vec::new();
    while !body.is_empty() {
        let (length, rest) = body.split_at(4);
        let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
        let (header, rest) = rest.split_at(length);
        let contents = match codec::decode(header, u64::MAX).unwrap() {
            FetchHeader::Blob { size, offset, .. } => size - offset,
            FetchHeader::Pack(pack) => pack.length,
            _ => 0,
        };
        let (contents, rest) = rest.split_at(usize::try_from(contents).unwrap());
        let header = aged::<FetchHeader>(age, &Bytes::copy_from_slice(header));
        stream.extend_from_slice(&u32::try_from(header.len()).unwrap().to_be_bytes());
        stream.extend_from_slice(&header);
        stream.extend_from_slice(contents);
        body = rest;
    }
    stream.into()
}

#[async_trait]
impl<T: Transport> Transport for Relay<T> {
    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        let operation = request.operation;
        let body = self.request(operation, &request.body);
        let response = self.inner.call(Request { operation, body }).await?;
        let (status, retry_after) = (response.status, response.retry_after);
        let body = response.into_bytes(u64::MAX, self.endpoint()).await?;
        Ok(Response { retry_after, ..Response::whole(status, self.answer(operation, status, &body)) })
    }

    fn endpoint(&self) -> &str {
        self.inner.endpoint()
    }

    fn is_local(&self) -> bool {
        self.inner.is_local()
    }
}
