//! Several environments: what is wrong with one keeps no other waiting.

use std::collections::BTreeSet;
use std::time::Duration;

use direct_puppet_transport::protocol::{Digest, RefusalCode, VersionCounter};

use super::promotion::{Port, peers, port, promote};
use super::*;
use crate::AdminRoutes;
use crate::listen::Routes as _;

const LOCAL: &str = "/local";

fn other(name: &str) -> Environment {
    name.parse().unwrap()
}

/// Stages another environment; returns its `site.yaml`.
fn stage_other(world: &World, name: &str) -> String {
    let dir = world.environment().parent().unwrap().join(name);
    fs::create_dir_all(&dir).unwrap();
    let site = format!("# {name}\n{}", SITE.replace("puppet:///modules/app/tree", LOCAL));
    fs::write(dir.join("site.yaml"), &site).unwrap();
    site
}

async fn publish_everything(server: &Arc<Server>) {
    let results = server.publish(PublishRequest::default()).await.unwrap();
    assert!(results.iter().all(|result| result.error.is_none()), "{results:?}");
}

/// A replica of a primary, and the way between them.
fn follow(primary: &Arc<Server>, world: &World, unconfirmed_for: Duration) -> (Arc<Server>, Arc<Port>) {
    let way = port(primary);
    let replica = world.open_with(|options| {
        options.primary = peers("replica1", &[&way]);
        options.unconfirmed_for = unconfirmed_for;
    });
    (replica, way)
}

async fn ask(server: &Server, environment: &str, held: Option<Held>) -> Result<CatalogReply, Refusal> {
    let request = CheckIn { environment: environment.parse().unwrap(), ..check_in("n1", held) };
    server.check_in(&Peer::InProcess, request).await
}

#[tokio::test]
async fn an_environment_that_cannot_be_brought_is_refused_and_no_other() {
    let (world, own) = (World::new(), World::new());
    let primary = world.open();
    let (replica, way) = follow(&primary, &own, Duration::from_secs(600));
    publish_all(&primary).await;
    let (held, _) = compiled(&replica, "n1").await;
    let site = stage_other(&world, "broken");
    publish_everything(&primary).await;
    fs::write(primary.store.path_of(&Digest::of(site.as_bytes())), "flipped").unwrap();
    assert!(matches!(ask(&replica, "production", Some(held)).await, Ok(CatalogReply::Current { unconfirmed_seconds: None, .. })));
    let refusal = ask(&replica, "broken", None).await.unwrap_err();
    assert_eq!((refusal.code, refusal.retry_after_seconds), (RefusalCode::Stale, Some(5)));
    let confirmed = replica.confirm().await.unwrap();
    assert_eq!(confirmed.behind.keys().collect::<Vec<_>>(), [&other("broken")]);
    assert!(confirmed.whole().unwrap_err().to_string().contains("broken"));
    // Whoever compares commits is not told the old one of it.
    let routes = AdminRoutes::new(Arc::clone(&replica), Vec::new());
    let latest = || hyper::Request::post("/file-sync/v1/latest-commits").body(bytes::Bytes::new()).unwrap();
    assert_eq!(routes.route(&Peer::Plain, latest()).await.unwrap().status(), 503);
    let following = replica.following().unwrap();
    assert!(following.failure.unwrap().contains("broken") && following.confirmed_ago.is_none());
    // When the primary is away, what was confirmed is answered, and nothing else.
    way.is_cut.store(true, Ordering::SeqCst);
    let reply = ask(&replica, "production", Some(held)).await;
    assert!(matches!(reply, Ok(CatalogReply::Current { unconfirmed_seconds: Some(_), .. })), "{reply:?}");
    assert_eq!(ask(&replica, "broken", None).await.unwrap_err().code, RefusalCode::Stale);
    // Whole again at the primary, it comes.
    way.is_cut.store(false, Ordering::SeqCst);
    publish_everything(&primary).await;
    replica.confirm().await.unwrap().whole().unwrap();
    assert_eq!(
        (replica.following().unwrap().failure, ask(&replica, "broken", None).await),
        (None, Ok(CatalogReply::FactsNeeded))
    );
}

#[tokio::test]
async fn an_environment_that_takes_long_to_come_keeps_no_other_waiting() {
    let (world, own) = (World::new(), World::new());
    let primary = world.open();
    let (replica, way) = follow(&primary, &own, Duration::ZERO);
    publish_all(&primary).await;
    replica.confirm().await.unwrap();
    stage_other(&world, "slow");
    world.stage("modules/app/files/tree/a", "second");
    publish_everything(&primary).await;
    let gate = Arc::new(tokio::sync::Mutex::new(()));
    let held = gate.lock().await;
    *way.slow.lock().unwrap() = Some((other("slow"), Arc::clone(&gate)));
    let slow = tokio::spawn({
        let replica = Arc::clone(&replica);
        async move { ask(&replica, "slow", None).await }
    });
    assert_eq!(ask(&replica, "production", None).await, Ok(CatalogReply::FactsNeeded));
    assert_eq!(live(&replica).version.code_id, live(&primary).version.code_id);
    // News of another environment come meanwhile too.
    world.stage("modules/app/files/tree/a", "third");
    publish_everything(&primary).await;
    ask(&replica, "production", None).await.unwrap();
    assert_eq!(live(&replica).version.code_id, live(&primary).version.code_id);
    assert!(!slow.is_finished());
    assert_eq!(replica.following().unwrap().bringing, BTreeSet::from([other("slow")]));
    drop(held);
    assert_eq!(slow.await.unwrap(), Ok(CatalogReply::FactsNeeded));
}

#[tokio::test]
async fn an_environment_that_a_promotion_left_out_is_said_to_be_and_never_answered() {
    let (wp, wr) = (World::new(), World::new());
    let to_r = Arc::<Port>::default();
    let p = wp.open_with(|options| {
        options.successors = peers("p", &[&to_r]);
        options.unconfirmed_for = Duration::from_secs(600);
    });
    let (r, to_p) = follow(&p, &wr, Duration::ZERO);
    *to_r.server.lock().unwrap() = Some(Arc::clone(&r));
    publish_all(&p).await;
    r.confirm().await.unwrap();
    stage_other(&wp, "fresh");
    publish_everything(&p).await;
    to_p.is_cut.store(true, Ordering::SeqCst);
    promote(&r, true).await.unwrap();
    to_p.is_cut.store(false, Ordering::SeqCst);
    // It hears of it, and follows.
    r.tell_peers(r.peers.as_ref().unwrap()).await.unwrap();
    let refusal = ask(&p, "fresh", None).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Stale);
    assert!(refusal.message.contains("publish it there"), "{}", refusal.message);
    p.confirm().await.unwrap().whole().unwrap();
    let listed = p.versions(None).unwrap();
    let left_out: Vec<_> = listed.iter().filter(|listed| listed.is_left_out).map(|listed| &listed.version).collect();
    assert_eq!((left_out.len(), &left_out[0].environment), (1, &other("fresh")));
    let explained = crate::history::ExplainRequest { environment: Some(other("fresh")), version: None, node: None, path: None };
    assert!(p.explain(&explained).unwrap().is_left_out);
    // Nor is whoever compares commits told of it.
    let routes = AdminRoutes::new(Arc::clone(&p), Vec::new());
    let latest = hyper::Request::post("/file-sync/v1/latest-commits").body(bytes::Bytes::new()).unwrap();
    let latest = routes.answer(&Peer::Plain, latest).await.unwrap().into_body();
    let latest: serde_json::Value = serde_json::from_slice(&latest).unwrap();
    let told = latest["puppet-code"]["submodules"].as_object().unwrap();
    assert_eq!(told.keys().collect::<Vec<_>>(), ["production"], "{latest}");
    // Nor is it answered when the new primary is away.
    *to_r.server.lock().unwrap() = None;
    assert_eq!(ask(&p, "fresh", None).await.unwrap_err().code, RefusalCode::Stale);
    assert!(ask(&p, "production", None).await.is_ok());
    // Published there, it is as any other.
    *to_r.server.lock().unwrap() = Some(Arc::clone(&r));
    stage_other(&wr, "fresh");
    publish_everything(&r).await;
    p.confirm().await.unwrap().whole().unwrap();
    assert_eq!(ask(&p, "fresh", None).await, Ok(CatalogReply::FactsNeeded));
    assert!(p.orphans().is_empty());
}

#[tokio::test]
async fn a_server_that_leads_already_takes_over_an_environment_that_it_lacks() {
    let (worlds, port_a) = ([World::new(), World::new()], Arc::<Port>::default());
    let a = worlds[0].open();
    *port_a.server.lock().unwrap() = Some(Arc::clone(&a));
    let b = worlds[1].open_with(|options| options.primary = peers("b", &[&port_a]));
    publish_all(&a).await;
    b.confirm().await.unwrap().whole().unwrap();
    // Promoted when the other could not be reached, which goes on to publish.
    port_a.is_cut.store(true, Ordering::SeqCst);
    assert_eq!(promote(&b, true).await.unwrap().left_out.len(), 1);
    let site = stage_other(&worlds[0], "later");
    publish_everything(&a).await;
    port_a.is_cut.store(false, Ordering::SeqCst);
    let code_id = a.environments.live(&other("later")).unwrap().version.code_id;
    let own = live(&b).version.code_id;

    let promoted = promote(&b, true).await.unwrap();
    assert_eq!((promoted.epoch, promoted.left_out.as_slice(), promoted.unfinished), (3, &[][..], None));
    assert!(b.role.is_primary() && !a.role.is_primary());
    let taken = b.environments.live(&other("later")).expect("it is taken over, though of an epoch before its own");
    assert_eq!((taken.version.code_id, taken.version.version), (code_id, VersionCounter { epoch: 3, sequence: 1 }));
    assert_eq!(taken.version.lineage, [VersionCounter { epoch: 1, sequence: 1 }]);
    assert_eq!(fs::read_to_string(b.store.path_of(&Digest::of(site.as_bytes()))).unwrap(), site);
    assert_eq!(live(&b).version.code_id, own, "what is newer here stays");
}
