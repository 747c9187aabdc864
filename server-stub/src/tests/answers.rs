//! Check-in, facts, reports.

use direct_puppet_transport::protocol::{RefusalCode, Report, RunStatus};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_askers_share_one_compile() {
    let world = World::new();
    let server = world.open();
    publish_all(&server).await;
    let askers: Vec<_> = (0..1_000)
        .map(|number| {
            let server = Arc::clone(&server);
            // Late ones arrive when the first compile has landed already; every other one goes away at once.
            tokio::spawn(async move {
                let kernel = number.to_string();
                let asked = submit(&server, "n1", None, &kernel);
                if number % 2 == 1 {
                    return tokio::time::timeout(std::time::Duration::ZERO, asked).await.ok();
                }
                Some(asked.await)
            })
        })
        .collect();
    let mut replies = Vec::new();
    for asker in askers {
        replies.extend(asker.await.unwrap());
    }
    assert!(replies.len() >= 500);
    assert!(replies.iter().all(|reply| reply == &replies[0] && matches!(reply, Ok(CatalogReply::Catalog { .. }))));
    assert_eq!(world.compiles(), 1);
    assert_eq!(server.nodes().unwrap()[0].compiles, 1);
}

#[tokio::test]
async fn a_compile_goes_on_when_its_asker_goes_away() {
    let world = World::new();
    let server = world.open();
    publish_all(&server).await;
    let gate = world.compiler.gate.lock().await;
    {
        let mut asked = std::pin::pin!(submit(&server, "n1", None, "Linux"));
        while world.compiles() == 0 {
            assert!(futures::poll!(&mut asked).is_pending());
            tokio::task::yield_now().await;
        }
    }
    // The asker is gone, its compile is not: the next one joins it.
    let mut again = std::pin::pin!(submit(&server, "n1", None, "Linux"));
    assert!(futures::poll!(&mut again).is_pending());
    drop(gate);
    assert!(matches!(again.await, Ok(CatalogReply::Catalog { .. })));
    assert_eq!((world.compiles(), server.nodes().unwrap()[0].compiles), (1, 1));
}

#[tokio::test]
async fn changed_facts_are_no_cause_to_compile_and_an_administrator_is() {
    let world = World::new();
    let server = world.open();
    publish_all(&server).await;
    assert_eq!(server.check_in(&Peer::InProcess, check_in("n1", None)).await, Ok(CatalogReply::FactsNeeded));
    let (held, _) = compiled(&server, "n1").await;
    let current = CatalogReply::Current { code_id: held.code_id, version: held.version, unconfirmed_seconds: None };
    assert_eq!(submit(&server, "n1", Some(held), "other facts").await, Ok(current.clone()));
    assert_eq!(server.check_in(&Peer::InProcess, check_in("n1", Some(held))).await, Ok(current));
    assert_eq!(world.compiles(), 1);

    server.recompile(&certname("n1"), "an administrator").unwrap();
    let audit = fs::read_to_string(world.data().join("audit.jsonl")).unwrap();
    assert!(audit.contains("an administrator") && audit.contains("\"act\":\"publish\""), "{audit}");
    assert_eq!(server.check_in(&Peer::InProcess, check_in("n1", Some(held))).await, Ok(CatalogReply::FactsNeeded));
    let reply = submit(&server, "n1", Some(held), "other facts").await.unwrap();
    assert!(matches!(reply, CatalogReply::Catalog { catalog_id, .. } if catalog_id != held.catalog_id));
    assert_eq!(world.compiles(), 2);
    let error = server.recompile(&certname("unknown"), "an administrator").unwrap_err();
    assert_eq!(error.code(), "unknown_node");
}

#[tokio::test]
async fn new_code_with_the_same_catalog_sends_only_its_id() {
    let world = World::new();
    let server = world.open();
    publish_all(&server).await;
    let (held, _) = compiled(&server, "n1").await;
    world.stage("README", "nothing that a catalog names");
    let next = publish_all(&server).await;
    assert_eq!(server.check_in(&Peer::InProcess, check_in("n1", Some(held))).await, Ok(CatalogReply::FactsNeeded));
    let reply = submit(&server, "n1", Some(held), "Linux").await.unwrap();
    assert!(
        matches!(reply, CatalogReply::Current { code_id, version, .. } if Some(code_id) == next.code_id && version > held.version)
    );
    assert_eq!(world.compiles(), 2);
}

#[tokio::test]
async fn catalogs_and_counts_survive_a_restart() {
    let world = World::new();
    let held = {
        let server = world.open();
        publish_all(&server).await;
        compiled(&server, "n1").await.0
    };
    let server = world.open();
    let reply = server.check_in(&Peer::InProcess, check_in("n1", None)).await.unwrap();
    assert!(matches!(reply, CatalogReply::Catalog { catalog_id, .. } if catalog_id == held.catalog_id));
    assert_eq!((world.compiles(), server.nodes().unwrap()[0].compiles), (1, 1));
}

#[tokio::test]
async fn a_catalog_that_is_damaged_on_disk_is_compiled_again() {
    let world = World::new();
    let server = world.open();
    publish_all(&server).await;
    let (held, _) = compiled(&server, "n1").await;
    let node = fs::read_dir(world.data().join("nodes")).unwrap().next().unwrap().unwrap().path();
    fs::write(node.join(format!("{}.catalog", held.catalog_id.digest().to_hex())), "damaged").unwrap();
    assert_eq!(server.check_in(&Peer::InProcess, check_in("n1", None)).await, Ok(CatalogReply::FactsNeeded));
    assert_eq!(compiled(&server, "n1").await.0.catalog_id, held.catalog_id);
    assert_eq!(world.compiles(), 2);
}

#[tokio::test]
async fn code_that_fails_for_a_node_is_compiled_once_until_there_is_other_code() {
    let world = World::new();
    let server = world.open();
    world.stage("site.yaml", SITE.replace("facts.kernel", "facts.nothing.at_all"));
    publish_all(&server).await;
    for _ in 0..3 {
        assert_eq!(submit(&server, "n1", None, "Linux").await.unwrap_err().code, RefusalCode::CompileFailed);
    }
    assert_eq!(world.compiles(), 1);
    let refusal = server.check_in(&Peer::InProcess, check_in("n1", None)).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::CompileFailed);
    assert!(refusal.message.starts_with("site.yaml:6"), "{}", refusal.message);
    world.stage("site.yaml", SITE);
    publish_all(&server).await;
    compiled(&server, "n1").await;
    assert_eq!(world.compiles(), 2);
}

#[tokio::test]
async fn nothing_published_is_said_so() {
    let world = World::new();
    let refusal = world.open().check_in(&Peer::InProcess, check_in("n1", None)).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::NotPublished);
}

#[tokio::test]
async fn a_waiting_check_in_hears_of_a_publish() {
    let world = World::new();
    let server = world.open();
    publish_all(&server).await;
    let (held, _) = compiled(&server, "n1").await;
    let waiting = CheckIn { wait_seconds: 600, ..check_in("n1", Some(held)) };
    let waiter = tokio::spawn({
        let server = Arc::clone(&server);
        async move { server.check_in(&Peer::InProcess, waiting).await }
    });
    tokio::task::yield_now().await;
    world.stage("modules/app/files/tree/a", "news");
    publish_all(&server).await;
    assert_eq!(waiter.await.unwrap(), Ok(CatalogReply::FactsNeeded));
}

#[tokio::test]
async fn another_nodes_certificate_gets_nothing() {
    let world = World::new();
    let server = world.open();
    publish_all(&server).await;
    let other = Peer::certificate(certname("n2"));
    let refusal = server.check_in(&other, check_in("n1", None)).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Forbidden);
    let request = SubmitFacts { check_in: check_in("n1", None), facts: facts("Linux") };
    assert_eq!(server.submit_facts(&other, request).await.unwrap_err().code, RefusalCode::Forbidden);
    assert_eq!(world.compiles(), 0);
}

fn report(host: &str, number: u32) -> Report {
    let time_unix_nanos = i64::from(number);
    Report { transaction_uuid: format!("{number:032x}"), time_unix_nanos, status: RunStatus::Changed, ..samples::report(host) }
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_are_kept_once_and_only_so_many() {
    let world = World::new();
    let server = world.open();
    assert!(!server.report(&Peer::InProcess, report("n1", 1)).await.unwrap().duplicate);
    assert!(server.report(&Peer::InProcess, report("n1", 1)).await.unwrap().duplicate);
    // Many at once: the node's file is written by one after the other.
    let sent: Vec<_> = (2..=130)
        .map(|number| {
            let server = Arc::clone(&server);
            tokio::spawn(async move { server.report(&Peer::InProcess, report("n1", number)).await })
        })
        .collect();
    for sent in sent {
        assert!(!sent.await.unwrap().unwrap().duplicate);
    }
    let node = fs::read_dir(world.data().join("nodes")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(fs::read_dir(node.join("reports")).unwrap().count(), 100);
    assert_eq!(server.nodes().unwrap()[0].status, Some(RunStatus::Changed));
    let mut bad = report("n1", 0);
    bad.transaction_uuid = "../../../../../etc/passwd-12345678".to_owned();
    assert_eq!(server.report(&Peer::InProcess, bad).await.unwrap_err().code, RefusalCode::BadRequest);
    let refusal = server.report(&Peer::certificate(certname("n2")), report("n1", 1)).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Forbidden);
}

/// A hundred thousand may wait: what holds one has no room for what only some need, or only before they wait.
#[tokio::test]
async fn who_waits_is_held_in_little_memory() {
    let world = World::new();
    let server = world.open();
    let held = size_of_val(&*server.check_in(&Peer::InProcess, check_in("n1", None)));
    assert!(held <= 2048, "{held} bytes");
}
