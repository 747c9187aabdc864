//! Messages of later and of earlier programs, made from ours: with fields that nobody knows, and with nothing that may be left out.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use direct_puppet_agent::{Agent, Answer, Compression, Outcome, RunError, RunOptions};
use direct_puppet_server_stub::publish::PublishRequest;
use direct_puppet_server_stub::{Peers, PromoteRequest, Server, ServerError, ServerOptions, Staging};
use direct_puppet_tests::link::Link;
use direct_puppet_tests::site::files;
use direct_puppet_tests::world::{Node, World};
use direct_puppet_transport::protocol::frame::FetchHeader;
use direct_puppet_transport::protocol::{
    Catalog, CatalogId, CatalogReply, CheckIn, Fetch, Operation, Refusal, RefusalCode, Report, ReportAccepted, RunStatus,
    SubmitFacts, SyncConfirm, SyncConfirmed, SyncEpoch, SyncEpochReply, SyncManifest, SyncManifestReply, codec,
};
use direct_puppet_transport::testing::samples;
use direct_puppet_transport::{CallError, Client, Handler, MemoryTransport, Transport};

use crate::relay::{Age, Changed, Relay, aged};
use crate::tree::{Struct, Tree, tree_of};

const FILES: usize = 40;

/// What a node asks in a run, and what servers ask one another; for each operation, whether anything in the request and in the answer may
/// be left out that is there.
type Operations = [(Operation, [bool; 2])];
const OF_A_NODE: &Operations = &[
    (Operation::CheckIn, [true, false]),
    (Operation::SubmitFacts, [true, false]),
    (Operation::Fetch, [true, true]),
    (Operation::Report, [true, true]),
];
const OF_A_SERVER: &Operations = &[
    (Operation::SyncConfirm, [true, true]),
    (Operation::SyncManifest, [true, false]),
    (Operation::SyncFetch, [false, true]),
    (Operation::SyncEpoch, [true, true]),
];

async fn run<T: Transport>(node: &Node, transport: T) -> Result<Outcome, RunError> {
    let agent: Agent<T> = node.builder().compression(Compression::Always).transport(transport).build().unwrap();
    agent.run(&RunOptions::default()).await
}

/// Makes a run that must not fail, and leave the node as the site is.
async fn converge<T: Transport>(world: &World, node: &Node, transport: T) -> Outcome {
    let outcome = run(node, transport).await.unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!((outcome.resources.failed, &outcome.messages[..]), (0, &[][..]));
    assert!(files(&node.path("/srv/tree")) == files(&world.site.tree()), "the node is not what was published");
    outcome
}

/// Asserts that requests and answers of each of these became others.
fn assert_changed(age: Age, changed: &Changed, operations: &Operations) {
    for (operation, may_be_left_out) in operations {
        let [requests, answers] = changed.get(operation).copied().unwrap_or_default();
        println!("{age:?}: {operation}: {requests} requests and {answers} answers became others");
        let is_expected = |at: usize| age == Age::Later || may_be_left_out[at];
        assert!(requests > 0 || !is_expected(0), "no request of {operation} became another");
        assert!(answers > 0 || !is_expected(1), "no answer of {operation} became another");
    }
}

async fn publish(server: &Arc<Server>) {
    let results = server.publish(PublishRequest::default()).await.unwrap();
    assert!(results[0].changed && results[0].error.is_none(), "{results:?}");
}

/// A first run, one that has nothing to do, and one after a publish; returns what the last two were.
async fn a_node_whose_messages_are_of(age: Age) -> [Outcome; 2] {
    let world = World::new(Link::memory()).await;
    world.site.fill(FILES, "one");
    publish(&world.server).await;
    let node = world.node("node1.example.com");
    let relay = Relay::new(node.transport(), age);
    let first = converge(&world, &node, relay.clone()).await;
    assert_eq!((first.answer, first.status), (Some(Answer::Catalog), RunStatus::Changed));
    let idle = converge(&world, &node, relay.clone()).await;
    assert_eq!((idle.status, idle.wire.contents_requested), (RunStatus::Unchanged, 0));
    assert_eq!(world.server.nodes().unwrap()[0].status, Some(RunStatus::Unchanged), "the report has come");
    world.site.fill(3, "two");
    publish(&world.server).await;
    let last = converge(&world, &node, relay.clone()).await;
    assert_eq!((last.status, last.wire.contents_received), (RunStatus::Changed, 3));
    assert_eq!(world.server.nodes().unwrap()[0].status, Some(RunStatus::Changed), "the report has come");
    assert_eq!(world.compiles(), 2, "one for each publish");
    assert_changed(age, &relay.changed(), OF_A_NODE);
    [idle, last]
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_and_servers_pass_over_fields_and_features_of_a_later_program() {
    let [idle, last] = a_node_whose_messages_are_of(Age::Later).await;
    assert_eq!(idle.answer, Some(Answer::Current));
    // Beside what nobody knows, what both know is used: three contents of some 100 bytes each, against what the node has.
    assert!(last.wire.bytes_received < 2000, "{:?}", last.wire);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_and_servers_need_no_more_than_the_first_program_said() {
    let [idle, _] = a_node_whose_messages_are_of(Age::First).await;
    // Who does not say what he holds is given it again; that it is the same he sees himself.
    assert_eq!(idle.answer, Some(Answer::Catalog));
}

/// A replica that follows the server of `world` by `transport`.
fn replica(world: &World, transport: Arc<dyn Transport>) -> Arc<Server> {
    let peers = Peers { name: "replica1.example.com".parse().unwrap(), transports: vec![transport] };
    let options = ServerOptions::new(world.path().join("replica"), Staging::Environments(world.site.dir().to_owned()));
    Server::open(ServerOptions { primary: Some(peers), ..options }).unwrap()
}

fn memory(server: &Arc<Server>) -> MemoryTransport {
    let handler: Arc<dyn Handler> = Arc::<Server>::clone(server);
    MemoryTransport::new(handler)
}

/// A replica that follows, from its first copy to its promotion, with a node of its own.
async fn a_replica_whose_messages_are_of(age: Age) {
    let world = World::new(Link::memory()).await;
    let relay = Arc::new(Relay::new(memory(&world.server), age));
    let replica = replica(&world, Arc::<Relay<MemoryTransport>>::clone(&relay));
    let node = world.node("node1.example.com");
    let live = |server: &Arc<Server>| server.live_versions()[0].clone();
    for version in ["one", "two", "three"] {
        // Of the second and third version comes what differs, where that can be said.
        let count = if version == "one" { FILES } else { 3 };
        world.site.fill(count, version);
        publish(&world.server).await;
        let outcome = converge(&world, &node, memory(&replica)).await;
        assert_eq!((outcome.status, outcome.wire.contents_received), (RunStatus::Changed, count as u64));
        assert_eq!((live(&replica).code_id, live(&replica).version), (live(&world.server).code_id, live(&world.server).version));
    }
    assert_eq!(replica.verify().unwrap().problems, []);
    let promoted = replica.promote(&PromoteRequest::default(), "test").await.unwrap();
    assert_eq!((promoted.epoch, promoted.left_out.len()), (2, 0));
    assert!(world.server.publish(PublishRequest::default()).await.is_err(), "it has stepped down");
    world.site.fill(2, "four");
    publish(&replica).await;
    converge(&world, &node, memory(&replica)).await;
    assert_changed(age, &relay.changed(), OF_A_SERVER);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_pass_over_fields_of_a_later_program_at_the_other_end() {
    a_replica_whose_messages_are_of(Age::Later).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_need_no_more_from_one_another_than_the_first_program_said() {
    a_replica_whose_messages_are_of(Age::First).await;
}

/// What a server must say to one who speaks another protocol: both versions, and what to do.
const OTHER_PROTOCOL: &str =
    "server refused (unsupported_version): peer speaks protocol 2, this server speaks 1: update the older of the two";

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |error| error.source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn another_major_version_is_refused_and_both_are_named() {
    // Nothing is known of the form of another protocol but that its version stands where ours does.
    for age in [Age::OtherProtocol(2), Age::OtherForm(2)] {
        let world = World::new(Link::memory()).await;
        world.site.fill(FILES, "one");
        publish(&world.server).await;
        let relay = || Relay::new(memory(&world.server), age);
        let refused = Client::new(relay()).check_in(&samples::check_in("node1.example.com")).await.unwrap_err();
        assert!(
            matches!(&refused, CallError::Refused(refusal) if refusal.code == RefusalCode::UnsupportedVersion),
            "{refused:?}"
        );
        assert!(!refused.is_retryable());

        // A new node says why it does nothing; one that has a catalog says it too, and keeps what it has.
        let new = world.node("node2.example.com");
        let error = run(&new, relay()).await.unwrap_err();
        assert!(chain(&error).contains(OTHER_PROTOCOL), "{}", chain(&error));
        let node = world.node("node1.example.com");
        converge(&world, &node, node.transport()).await;
        let kept = run(&node, relay()).await.unwrap();
        assert_eq!((kept.answer, kept.status), (Some(Answer::Cached), RunStatus::Unchanged));
        assert!(kept.messages.iter().any(|message| message.contains(OTHER_PROTOCOL)), "{:?}", kept.messages);

        // A server that would follow says it, and so do its nodes; it answers nobody.
        let relay = Arc::new(relay());
        let replica = replica(&world, Arc::<Relay<MemoryTransport>>::clone(&relay));
        let error = replica.confirm().await.unwrap_err();
        assert!(matches!(error, ServerError::Unconfirmed { .. }) && chain(&error).contains(OTHER_PROTOCOL), "{error:?}");
        let error = run(&new, memory(&replica)).await.unwrap_err();
        assert!(chain(&error).contains(OTHER_PROTOCOL), "{}", chain(&error));
        let error = replica.promote(&PromoteRequest::default(), "test").await.unwrap_err();
        assert!(chain(&error).contains(OTHER_PROTOCOL), "{}", chain(&error));
        let changed = relay.changed();
        assert!([Operation::SyncConfirm, Operation::SyncEpoch].iter().all(|of| changed[of][0] > 0), "{changed:?}");
    }
}

fn golden(name: &str) -> Bytes {
    std::fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("golden/{name}.msgpack"))).unwrap().into()
}

/// Each of the golden messages, whichever of them a run happens to need.
#[test]
fn every_message_may_have_more_and_less() {
    macro_rules! messages {
        ($($type:ty: $($name:literal)*;)*) => {
            $($({
                let bytes = golden($name);
                let message: $type = codec::decode(&bytes, u64::MAX).unwrap();
                let later = aged::<$type>(Age::Later, &bytes);
                if $name != "reply_facts_needed" {
                    assert!(later.len() > bytes.len(), "nothing was added to {}", $name);
                }
                for age in [Age::First, Age::Bare] {
                    if let Err(error) = codec::decode::<$type>(&aged::<$type>(age, &bytes), u64::MAX) {
                        panic!("{} does without what may be left out: {age:?}: {error:?}", $name);
                    }
                }
                let read = codec::decode::<$type>(&later, u64::MAX);
                let read = read.unwrap_or_else(|error| panic!("{} has fields that nobody knows: {error:?}", $name));
                // Features and encodings are a list of names, and whoever reads it keeps what he does not know.
                let features = |message: &$type| format!("{message:?}").replace("\"a_later_feature\", ", "").replace("\"a_later_feature\"", "");
                assert_eq!(features(&read), features(&message), "{}", $name);
            })*)*
        };
    }
    messages! {
        CheckIn: "check_in" "check_in_first" "check_in_at_least";
        SubmitFacts: "submit_facts";
        CatalogReply: "reply_current" "reply_current_unconfirmed" "reply_catalog" "reply_packed" "reply_facts_needed";
        Fetch: "fetch" "fetch_packed";
        FetchHeader: "fetch_header_blob" "fetch_header_pack" "fetch_header_missing" "fetch_header_end";
        Report: "report";
        ReportAccepted: "report_accepted";
        Refusal: "refusal";
        SyncConfirm: "sync_confirm";
        SyncConfirmed: "sync_confirmed" "sync_confirmed_paused";
        SyncEpoch: "sync_epoch";
        SyncEpochReply: "sync_epoch_reply" "sync_epoch_reply_instance";
        SyncManifest: "sync_manifest";
        SyncManifestReply: "sync_manifest_whole" "sync_manifest_delta";
    }
}

/// What a later program refuses for a reason of its own is still said to whoever looks.
#[test]
fn a_refusal_for_an_unknown_reason_is_read() {
    let mut refusal = tree_of(&Refusal::new(RefusalCode::Busy, "try the other door"));
    let Tree::Struct(Struct { fields, .. }) = &mut refusal else { panic!("{refusal:?}") };
    fields[0].1 = Tree::Text("wrong_door".to_owned());
    let read: Refusal = codec::decode(&codec::encode(&refusal).unwrap(), u64::MAX).unwrap();
    assert_eq!(read.to_string(), "server refused (unknown): try the other door");
    assert!(!read.code.is_retryable());
}

/// A catalog is what its id is made from: what a later compiler adds is read over, and stays in the bytes.
#[test]
fn a_catalog_of_a_later_compiler_is_read() {
    let catalog = golden("catalog");
    let later = aged::<Catalog>(Age::Later, &catalog);
    assert!(later.len() > catalog.len());
    let read = |bytes: &[u8]| Catalog::decode(bytes, CatalogId::of(bytes)).unwrap();
    assert_eq!(read(&later), read(&catalog));
}
