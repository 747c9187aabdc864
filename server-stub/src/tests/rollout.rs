//! How new code reaches nodes: at a rate, and not while it is paused.

use std::time::Duration;

use direct_puppet_transport::protocol::{RefusalCode, Rollout};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::role::Two;
use super::shared::{share, store};
use super::*;
use crate::ServerError;
use crate::history::RollbackRequest;
use crate::rollout::RolloutRequest;

fn waiting(name: &str, held: Held) -> CheckIn {
    CheckIn { wait_seconds: 300, ..check_in(name, Some(held)) }
}

fn pause(why: &str) -> RolloutRequest {
    RolloutRequest { pause: Some(why.to_owned()), ..RolloutRequest::default() }
}

const NODES: usize = 21;

/// Has nodes wait at a server and publishes at another, or at the same; returns how long after that each was woken, in order.
async fn woken_after(there: &Arc<Server>, world: &World, here: &Arc<Server>) -> Vec<Duration> {
    publish_all(there).await;
    let mut held = Vec::new();
    for number in 0..NODES {
        held.push(compiled(here, &format!("n{number}")).await.0);
    }
    let setter = Arc::clone(there);
    let rate = RolloutRequest { per_second: Some(10), ..RolloutRequest::default() };
    tokio::task::spawn_blocking(move || setter.set_rollout(&rate, "test")).await.unwrap().unwrap();
    let waits = held.iter().enumerate().map(|(number, held)| {
        let (server, request) = (Arc::clone(here), waiting(&format!("n{number}"), *held));
        tokio::spawn(async move { (server.check_in(&Peer::InProcess, request).await, Instant::now()) })
    });
    let waits: Vec<_> = waits.collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.stage("modules/app/files/tree/a", "second");
    publish_all(there).await;
    let begun = Instant::now();
    let mut ends = Vec::new();
    for wait in waits {
        let (reply, end) = wait.await.unwrap();
        assert_eq!(reply, Ok(CatalogReply::FactsNeeded));
        ends.push(end.saturating_duration_since(begun));
    }
    ends.sort();
    ends
}

#[tokio::test(start_paused = true)]
async fn waiting_nodes_are_woken_at_the_rate_that_was_set() {
    let world = World::new();
    let server = world.open();
    let ends = woken_after(&server, &world, &server).await;
    assert!(ends[0] < Duration::from_millis(100), "the first is woken at once: {:?}", ends[0]);
    assert!((1_900..2_300).contains(&ends[NODES - 1].as_millis()), "{:?}", ends[NODES - 1]);
    assert_eq!(server.rollout().unwrap().waiting, 0);
}

/// What is published elsewhere reaches them as soon, at the rate that was set there.
async fn woken_elsewhere(there: &Arc<Server>, world: &World, here: &Arc<Server>) {
    let stop = CancellationToken::new();
    let following = [there, here].map(|server| {
        let (server, stop) = (Arc::clone(server), stop.clone());
        tokio::spawn(async move { server.follow(&stop).await })
    });
    let ends = woken_after(there, world, here).await;
    assert!(ends[0] < Duration::from_secs(2), "the first is woken after {:?}", ends[0]);
    let took = ends[NODES - 1] - ends[0];
    assert!(took >= Duration::from_millis(1_800) && ends[NODES - 1] < Duration::from_secs(10), "{ends:?}");
    stop.cancel();
    for following in following {
        following.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_at_a_replica_are_woken_by_a_publish_at_the_primary() {
    let two = Two::new();
    let (a, b) = (two.start_a(), two.start_b());
    woken_elsewhere(&a, &two.a, &b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_at_a_server_are_woken_by_a_publish_at_its_equal() {
    let (world, other) = (World::new(), World::new());
    let (store, _) = store(&world);
    let (a, b) = (share(&world, &store, "a"), share(&other, &store, "b"));
    woken_elsewhere(&a, &world, &b).await;
}

#[tokio::test]
async fn of_two_who_set_something_at_once_neither_takes_back_what_the_other_set() {
    let world = World::new();
    let server = world.open();
    for round in 1..=20 {
        let (pause, rate) = (pause(&round.to_string()), RolloutRequest { per_second: Some(round), ..RolloutRequest::default() });
        std::thread::scope(|scope| {
            for request in [&pause, &rate] {
                let server = &server;
                scope.spawn(move || server.set_rollout(request, "test").unwrap());
            }
        });
        let set = server.rollout().unwrap().rollout;
        assert_eq!(set, Rollout { per_second: round, paused: Some(round.to_string()) });
    }
}

#[tokio::test(start_paused = true)]
async fn while_it_is_paused_nodes_keep_what_they_have() {
    let world = World::new();
    let server = world.open();
    publish_all(&server).await;
    let (held, _) = compiled(&server, "n1").await;
    server.set_rollout(&pause("n7 broke"), "test").unwrap();
    // Nothing is new yet: nobody notices.
    assert!(server.check_in(&Peer::InProcess, check_in("n1", Some(held))).await.is_ok());
    world.stage("modules/app/files/tree/a", "second");
    let second = publish_all(&server).await;
    let refusal = server.check_in(&Peer::InProcess, check_in("n1", Some(held))).await.unwrap_err();
    assert_eq!((refusal.code, refusal.retry_after_seconds), (RefusalCode::Busy, None));
    assert!(refusal.message.contains("n7 broke"), "{refusal}");
    assert_eq!(submit(&server, "n1", Some(held), "Linux").await.unwrap_err().code, RefusalCode::Busy);
    let reply = server.check_in(&Peer::InProcess, waiting("n1", held)).await;
    assert!(matches!(reply, Ok(CatalogReply::Current { code_id, .. }) if code_id == held.code_id), "nothing new yet: {reply:?}");
    // A node without a catalog is served, and so is who asks for it by name.
    let (newest, _) = compiled(&server, "n2").await;
    assert_eq!(Some(newest.code_id), second.code_id);
    assert!(server.check_in(&Peer::InProcess, check_in("n2", Some(newest))).await.is_ok());
    let at_least = Some(live(&server).version.version);
    let canary = CheckIn { at_least, ..check_in("n1", Some(held)) };
    assert_eq!(server.check_in(&Peer::InProcess, canary).await, Ok(CatalogReply::FactsNeeded));
    let status = server.rollout().unwrap();
    assert_eq!(status.environments[0].nodes.len(), 2, "{status:?}");
    // It is remembered over a restart, and ends when somebody says so.
    drop(server);
    let server = world.open();
    assert_eq!(server.rollout().unwrap().rollout, Rollout { per_second: 0, paused: Some("n7 broke".to_owned()) });
    server.set_rollout(&RolloutRequest { resume: true, ..RolloutRequest::default() }, "test").unwrap();
    assert_eq!(server.check_in(&Peer::InProcess, check_in("n1", Some(held))).await, Ok(CatalogReply::FactsNeeded));
    let audit = fs::read_to_string(world.data().join("audit.jsonl")).unwrap();
    assert!(audit.contains("paused: n7 broke") && audit.contains("running"), "{audit}");
}

#[tokio::test(start_paused = true)]
async fn nodes_that_have_what_is_live_again_do_not_count_as_waiting() {
    let world = World::new();
    let server = world.open();
    publish_all(&server).await;
    let mut held = Vec::new();
    for name in ["n1", "n2", "n3"] {
        held.push((name, compiled(&server, name).await.0));
    }
    server.set_rollout(&pause("look first"), "test").unwrap();
    world.stage("modules/app/files/tree/a", "second");
    publish_all(&server).await;
    let waits: Vec<_> = held
        .iter()
        .map(|(name, held)| {
            let (server, request) = (Arc::clone(&server), waiting(name, *held));
            tokio::spawn(async move { server.check_in(&Peer::InProcess, request).await })
        })
        .collect();
    let begun = Instant::now();
    while server.rollout().unwrap().waiting < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(begun.elapsed() < Duration::from_secs(100), "they do not wait");
    }
    let request = RollbackRequest::new(Environment::default(), "1.1".parse().unwrap());
    assert!(server.rollback(request).await.unwrap().changed);
    let begun = Instant::now();
    while server.rollout().unwrap().waiting > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(begun.elapsed() < Duration::from_secs(5), "they go on waiting for a turn");
    }
    let status = server.rollout().unwrap();
    assert_eq!((status.waiting, status.rollout.paused.as_deref()), (0, Some("look first")));
    assert_eq!(status.environments[0].nodes[&live(&server).version.code_id.to_string()].len(), 3);
    for wait in waits {
        let reply = wait.await.unwrap();
        assert!(matches!(reply, Ok(CatalogReply::Current { code_id, .. }) if code_id == held[0].1.code_id), "{reply:?}");
    }
}

#[tokio::test]
async fn a_replica_has_its_rules_from_the_primary() {
    let two = Two::new();
    let (a, b) = (two.start_a(), two.start_b());
    publish_all(&a).await;
    let (held, _) = compiled(&b, "n1").await;
    a.set_rollout(&pause("wait"), "test").unwrap();
    two.a.stage("modules/app/files/tree/a", "second");
    publish_all(&a).await;
    let refusal = b.check_in(&Peer::InProcess, check_in("n1", Some(held))).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Busy);
    let resume = RolloutRequest { resume: true, ..RolloutRequest::default() };
    assert!(matches!(b.set_rollout(&resume, "test"), Err(ServerError::Replica { .. })));
    a.set_rollout(&resume, "test").unwrap();
    assert_eq!(b.check_in(&Peer::InProcess, check_in("n1", Some(held))).await, Ok(CatalogReply::FactsNeeded));
}
