//! What is written beside the code, and cannot be: it stops nobody, and nothing is wrong for good.

use std::collections::BTreeSet;

use direct_puppet_transport::protocol::{Environment, VersionCounter};

use super::replica::Pair;
use super::role::{Turn, Two, promote};
use super::*;

/// Keeps a state file from being written, as a full disk would, until it is dropped.
struct Blocked(PathBuf);

impl Blocked {
    fn new(file: &std::path::Path) -> Self {
        let temporary = PathBuf::from(format!("{}.new", file.display()));
        fs::create_dir_all(temporary.join("in the way")).unwrap();
        Self(temporary)
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn version(epoch: u64, sequence: u64) -> VersionCounter {
    VersionCounter { epoch, sequence }
}

/// Returns a server whose primary is gone, and which cannot write what a promotion takes over.
async fn before_a_promotion(two: &Two) -> (Arc<Server>, Blocked) {
    let (a, b) = (two.start_a(), two.start_b());
    publish_all(&a).await;
    b.confirm().await.unwrap();
    two.stop_a(a);
    (b, Blocked::new(&two.b.data().join("code/production/live.json")))
}

#[tokio::test]
async fn a_promotion_that_cannot_write_what_it_took_over_has_its_history_all_the_same() {
    let two = Two::new();
    let (b, blocked) = before_a_promotion(&two).await;
    let production = Environment::default();
    let promoted = promote(&b, true).await.unwrap();
    assert_eq!((promoted.epoch, promoted.live[0].version), (2, version(1, 1)), "primary, with what was live before");
    assert!(promoted.unfinished.unwrap().contains("live.json"));
    assert!(compiled(&b, "n1").await.0.version == version(1, 1));
    // Whatever is published on top of it has it in its history.
    let next = b.environments.next(&production, b.role.epoch());
    assert_eq!((next.version, next.lineage), (version(2, 1), vec![version(1, 1)]));
    two.b.stage("modules/app/files/tree/a", "by b");
    assert!(b.publish(PublishRequest::default()).await.unwrap()[0].error.is_some());
    drop(blocked);
    let published = publish_all(&b).await;
    assert_eq!((published.epoch, published.sequence), (2, 2), "what was taken over is 2.1");
    let live = live(&b);
    assert_eq!(live.version.lineage, [version(1, 1)]);
    let history = b.environments.history(&production).unwrap();
    let versions: BTreeSet<VersionCounter> = history.iter().map(|version| version.version).collect();
    assert_eq!(versions, BTreeSet::from([version(1, 1), version(2, 1), version(2, 2)]));
    assert!(history.iter().all(|version| !version.is_left_out_of(&live.version)));
}

#[tokio::test(start_paused = true)]
async fn a_promotion_that_could_not_be_ended_is_as_soon_as_it_can_be() {
    let two = Two::new();
    let (b, blocked) = before_a_promotion(&two).await;
    promote(&b, true).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(11)).await;
    assert_eq!(live(&b).version.version, version(1, 1));
    compiled(&b, "n1").await;
    drop(blocked);
    tokio::time::sleep(std::time::Duration::from_secs(11)).await;
    assert_eq!((live(&b).version.version, live(&b).version.lineage.as_slice()), (version(2, 1), &[version(1, 1)][..]));
}

#[tokio::test]
async fn a_replica_answers_nodes_though_it_cannot_remember_how_requests_were_answered() {
    let pair = Pair::new();
    let named = |id: &str| PublishRequest { request_id: Some(id.to_owned()), ..PublishRequest::default() };
    publish(&pair.primary, named("r1")).await;
    let replica = pair.replica();
    let (held, _) = compiled(&replica, "n1").await;
    let answers = replica.environments.dir(&Environment::default()).join("answered.json");
    let blocked = Blocked::new(&answers);
    publish(&pair.primary, named("r2")).await;
    let reply = replica.check_in(&Peer::InProcess, check_in("n1", Some(held))).await;
    assert!(matches!(reply, Ok(CatalogReply::Current { .. })), "{reply:?}");
    let is_known = |id: &str| replica.environments.answers.find(&Environment::default(), id).is_some();
    assert!(is_known("r1") && !is_known("r2"));
    drop(blocked);
    // Told again with the next answer.
    replica.confirm().await.unwrap();
    assert!(is_known("r2"));
}

#[tokio::test]
async fn a_server_that_is_started_after_a_promotion_that_could_not_be_ended_ends_it() {
    let two = Two::new();
    let (b, blocked) = before_a_promotion(&two).await;
    assert!(promote(&b, true).await.unwrap().unfinished.is_some());
    two.stop_b(b);
    drop(blocked);
    let b = two.start_b();
    assert!(b.role.is_primary());
    let live = live(&b);
    assert_eq!((live.version.version, live.version.lineage.as_slice()), (version(2, 1), &[version(1, 1)][..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_whose_asker_went_away_is_ended_all_the_same() {
    async fn until(what: &str, is_so: impl Fn() -> bool) {
        let begun = std::time::Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < std::time::Duration::from_secs(30), "waited in vain until {what}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
    let two = Two::new();
    let (b, blocked) = before_a_promotion(&two).await;
    // Something else has the turn, as a long publish would.
    let turn = Turn::hold(&b).await;
    let server = Arc::clone(&b);
    let asked = tokio::spawn(async move { promote(&server, true).await });
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert!(!asked.is_finished() && !b.role.is_primary());
    asked.abort();
    assert!(asked.await.unwrap_err().is_cancelled());
    drop(turn);
    until("it is primary", || b.role.is_primary()).await;
    assert_eq!(live(&b).version.version, version(1, 1));
    drop(blocked);
    until("what is live is of its epoch", || live(&b).version.version == version(2, 1)).await;
}
