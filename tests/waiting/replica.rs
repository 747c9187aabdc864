//! Many nodes that ask a replica at the same time: what that costs its primary.

use std::io::{Read as _, Write as _};
use std::time::SystemTime;

use tokio::sync::Barrier;

use super::*;

/// How many nodes ask,
const NODES: usize = 10_000;
/// and how often each.
const ROUNDS: u32 = 3;

/// Where they come from, in 127.0.0.0/16.
const OWN_NET: u8 = 3;

/// Questions that may reach the primary in a second, however many nodes ask the replica,
const PER_SECOND: f64 = 5.0;
/// and beside them: the one that is held until there are news, and those at both ends of the time.
const BESIDE: f64 = 3.0;

/// Returns what the primary's storage service says of its replicas.
fn clients(primary: SocketAddr) -> serde_json::Value {
    let mut stream = std::net::TcpStream::connect(primary).unwrap();
    let path = "/status/v1/services/file-sync-storage-service";
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    serde_json::from_str::<serde_json::Value>(body).unwrap()["status"]["clients"].take()
}

fn confirmations(primary: SocketAddr) -> u64 {
    clients(primary)["replica1"]["confirmations"].as_u64().unwrap()
}

fn address(server: &Serving) -> SocketAddr {
    server.urls[0].split_once("://").unwrap().1.trim_end_matches('/').parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_that_ask_a_replica_cost_its_primary_a_handful_of_questions_a_second() {
    if open_files() < NODES + 2_000 {
        println!("LEFT OUT: {NODES} nodes that ask a replica at once need more open files: ulimit -n {}", NODES + 2_000);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let site = Site::new(&dir.path().join("site"));
    site.fill(1, "one");
    for name in ["primary", "replica"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    let url = "http://127.0.0.1:0";
    let primary = Serving::listening(&dir.path().join("primary"), &site, &[url], &[]);
    assert!(primary.verb(&["publish"]).status.success());
    let options = ["--primary", &primary.urls[0], "--certname", "replica1", "--max-connections", &(NODES + 100).to_string()];
    let replica = Serving::following(&dir.path().join("replica"), &[url], &options.map(OsString::from));
    let (asked, server) = (address(&primary), address(&replica));
    Node::connect(NODES, server, None, OWN_NET).await.catalog().await;

    let all = Arc::new(Barrier::new(NODES + 1));
    let turns = Arc::new(tokio::sync::Semaphore::new(64));
    let mut nodes = JoinSet::new();
    for number in 0..NODES {
        let (all, turns) = (Arc::clone(&all), Arc::clone(&turns));
        nodes.spawn(async move {
            let turn = turns.acquire_owned().await.unwrap();
            let mut node = Node::connect(number, server, None, OWN_NET).await;
            drop(turn);
            all.wait().await;
            for _ in 0..ROUNDS {
                let request = node.check_in(None, 0);
                assert_eq!(node.ask(Operation::CheckIn, &request).await, CatalogReply::FactsNeeded);
            }
        });
    }
    all.wait().await;
    let (begun, before) = (Instant::now(), confirmations(asked));
    while let Some(ended) = nodes.join_next().await {
        ended.unwrap();
    }
    let (cost, took) = (confirmations(asked) - before, begun.elapsed().as_secs_f64());
    println!("{NODES} nodes asked a replica {ROUNDS} times within {took:.2} s, and that its primary {cost} times");
    assert!(cost >= 1 && cost as f64 <= PER_SECOND * took + BESIDE, "{cost} questions within {took} s");

    // Who has deployed what, and when it was last heard of, as the primary says.
    let live =
        direct_puppet_tests::binaries::json(&primary.verb(&["versions"])).as_array().unwrap().last().unwrap()["code_id"].clone();
    let client = &clients(asked)["replica1"];
    assert_eq!(client["deployed"]["production"]["code_id"], live, "{client}");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let heard = client["last_check_in_time"].as_u64().unwrap();
    assert!((now - 60..=now).contains(&heard), "{client} at {now}");
}
