//! A node that comes back with another certificate: what its extensions were compiled into.

use direct_puppet_transport::protocol::RefusalCode;

use super::shared::{share, store};
use super::*;

/// A node that shows a certificate with this role.
fn with_role(role: &str) -> Peer {
    let extensions = [("pp_role".to_owned(), role.to_owned())].into_iter().collect();
    Peer::Certificate { name: certname("n1"), extensions }
}

async fn ask(server: &Server, peer: &Peer, held: Option<Held>) -> Result<CatalogReply, Refusal> {
    server.check_in(peer, check_in("n1", held)).await
}

async fn send_facts(server: &Server, peer: &Peer, kernel: &str) -> Result<CatalogReply, Refusal> {
    server.submit_facts(peer, SubmitFacts { check_in: check_in("n1", None), facts: facts(kernel) }).await
}

fn held(reply: &CatalogReply) -> Held {
    match reply {
        CatalogReply::Catalog { catalog_id, code_id, version, .. } => {
            Held { catalog_id: *catalog_id, code_id: *code_id, version: *version }
        }
        other => panic!("no catalog but {other:?}"),
    }
}

#[tokio::test]
async fn a_catalog_is_that_of_the_certificate_and_no_other_is_compiled_for_the_same() {
    let world = World::new();
    let server = world.open();
    publish_all(&server).await;
    let before = held(&send_facts(&server, &with_role("web"), "Linux").await.unwrap());
    // Renewed, with the same in it; and facts that have changed.
    assert!(matches!(ask(&server, &with_role("web"), Some(before)).await, Ok(CatalogReply::Current { .. })));
    assert!(matches!(send_facts(&server, &with_role("web"), "other").await, Ok(CatalogReply::Catalog { .. })));
    assert_eq!(world.compiles(), 1);
    // Enrolled again, as another one.
    assert_eq!(ask(&server, &with_role("db"), Some(before)).await, Ok(CatalogReply::FactsNeeded));
    let after = held(&send_facts(&server, &with_role("db"), "other").await.unwrap());
    assert_eq!((world.compiles(), after.code_id), (2, before.code_id));
    assert_ne!(after.catalog_id, before.catalog_id, "the facts of now are in it too");
    assert!(matches!(ask(&server, &with_role("db"), Some(after)).await, Ok(CatalogReply::Current { .. })));
    // Who shows no certificate says nothing of extensions.
    assert!(matches!(ask(&server, &Peer::Plain, Some(after)).await, Ok(CatalogReply::Current { .. })));
    // It is so after a restart.
    drop(server);
    let server = world.open();
    assert!(matches!(ask(&server, &with_role("db"), Some(after)).await, Ok(CatalogReply::Current { .. })));
    assert_eq!(ask(&server, &with_role("web"), Some(after)).await, Ok(CatalogReply::FactsNeeded));
    assert_eq!(world.compiles(), 2);
}

#[tokio::test]
async fn a_failure_is_remembered_for_the_certificate_that_had_it() {
    let world = World::new();
    let server = world.open();
    world.stage("site.yaml", SITE.replace("facts.kernel", "facts.nothing.at_all"));
    publish_all(&server).await;
    for (role, compiles) in [("web", 1), ("web", 1), ("db", 2), ("db", 2)] {
        let refusal = send_facts(&server, &with_role(role), "Linux").await.unwrap_err();
        assert_eq!((refusal.code, world.compiles()), (RefusalCode::CompileFailed, compiles), "{role}");
    }
    assert_eq!(ask(&server, &with_role("db"), None).await.unwrap_err().code, RefusalCode::CompileFailed);
    assert_eq!(ask(&server, &Peer::Plain, None).await.unwrap_err().code, RefusalCode::CompileFailed);
    assert_eq!(ask(&server, &with_role("web"), None).await, Ok(CatalogReply::FactsNeeded));
}

#[tokio::test]
async fn a_compile_under_way_is_shared_by_the_same_certificate_only() {
    let world = World::new();
    let server = world.open();
    publish_all(&server).await;
    let gate = world.compiler.gate.lock().await;
    let (web, db) = (with_role("web"), with_role("db"));
    let mut asked = [&web, &web, &db].map(|peer| Box::pin(send_facts(&server, peer, "Linux")));
    while world.compiles() < 2 {
        for asked in &mut asked {
            assert!(futures::poll!(asked).is_pending());
        }
        tokio::task::yield_now().await;
    }
    drop(gate);
    for reply in futures::future::join_all(asked).await {
        held(&reply.unwrap());
    }
    assert_eq!(world.compiles(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_share_a_store_agree_on_the_newest() {
    let world = World::new();
    let (store, _) = store(&world);
    let (a, b) = (share(&world, &store, "a"), share(&world, &store, "b"));
    publish_all(&a).await;
    held(&send_facts(&a, &with_role("web"), "Linux").await.unwrap());
    held(&send_facts(&b, &with_role("web"), "other").await.unwrap());
    assert_eq!(world.compiles(), 1);
    let after = held(&send_facts(&b, &with_role("db"), "other").await.unwrap());
    assert_eq!(world.compiles(), 2);
    assert!(matches!(ask(&a, &with_role("db"), Some(after)).await, Ok(CatalogReply::Current { .. })));
    assert_eq!(world.compiles(), 2);
}
