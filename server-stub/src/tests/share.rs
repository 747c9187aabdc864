//! Replicas that may have only some environments.

use direct_puppet_transport::protocol::{
    Deployed, Digest, Environment, Fetch, PackedFetch, Refusal, RefusalCode, Rollout, SyncConfirm, SyncEpoch, SyncManifest,
    SyncManifestReply, VersionCounter,
};
use direct_puppet_transport::{FetchItem, MemoryTransport, Transport};
use futures::StreamExt as _;
use hyper::{Request, StatusCode};

use super::*;
use crate::listen::Routes as _;
use crate::role::PromoteRequest;
use crate::{AdminRoutes, AllowedReplica, BlobRoutes, Peers, ServerError};

const NAMES: [&str; 3] = ["whole", "tests", "nothing"];

/// A primary with the environments `production` and `test`, each with a content of its own and one that both have.
struct Site {
    world: World,
    primary: Arc<Server>,
}

impl Site {
    async fn new() -> Self {
        let world = World::new();
        world.stage("modules/app/files/tree/secret", "of production");
        let test = world.dir.path().join("staging/environments/test/modules/app/files/tree");
        fs::create_dir_all(&test).unwrap();
        fs::write(test.join("a"), "content a").unwrap();
        fs::write(test.join("own"), "of test").unwrap();
        fs::write(world.dir.path().join("staging/environments/test/site.yaml"), SITE).unwrap();
        let primary = world.open_with(|options| options.replicas = allowed(&["whole", "tests=test", "nothing=other"]));
        let results =
            primary.publish(PublishRequest { request_id: Some("first".to_owned()), ..PublishRequest::default() }).await.unwrap();
        assert!(results.len() == 2 && results.iter().all(|result| result.error.is_none()), "{results:?}");
        Self { world, primary }
    }

    fn replica(&self, name: &str) -> Arc<Server> {
        let handler: Arc<dyn direct_puppet_transport::Handler> = Arc::<Server>::clone(&self.primary);
        let transport: Arc<dyn Transport> = Arc::new(MemoryTransport::new(handler));
        let mut options = ServerOptions::new(self.world.dir.path().join(name), Staging::Nowhere);
        options.primary = Some(Peers { transports: vec![transport], name: certname(name) });
        Server::open(options).unwrap()
    }

    fn live(&self, environment: &str) -> Arc<Code> {
        self.primary.environments.live(&environment.parse().unwrap()).unwrap()
    }
}

fn allowed(texts: &[&str]) -> Vec<AllowedReplica> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn confirm(name: &str, epoch: u64) -> SyncConfirm {
    SyncConfirm {
        protocol: ProtocolVersion::CURRENT,
        replica: certname(name),
        deployed: BTreeMap::new(),
        wait_seconds: 0,
        rollout: Rollout::default(),
        epoch,
        answered: BTreeMap::new(),
        nodes: None,
    }
}

#[tokio::test]
async fn as_a_node_it_gets_no_more() {
    let site = Site::new().await;
    let node = |environment: &str, name: &str| CheckIn { environment: environment.parse().unwrap(), ..check_in(name, None) };
    for (name, environment, may) in
        [("tests", "test", true), ("tests", "production", false), ("whole", "production", true), ("n1", "production", true)]
    {
        let peer = Peer::certificate(certname(name));
        let answer = code(site.primary.check_in(&peer, node(environment, name)).await);
        let facts = SubmitFacts { check_in: node(environment, name), facts: BTreeMap::new() };
        let compiled = code(site.primary.submit_facts(&peer, facts).await);
        let is_forbidden = [answer.err(), compiled.err()].map(|refused| refused == Some(RefusalCode::Forbidden));
        assert_eq!(is_forbidden, [!may; 2], "{name} in {environment}");
    }
}

/// A catalog that it got as a node before it may have less gives it nothing more: neither by digest nor by place; and no other way does.
#[tokio::test]
async fn as_a_node_it_gets_nothing_of_what_it_may_not_have_any_more() {
    let site = Site::new().await;
    let mut primary = site.primary;
    let (Held { catalog_id, .. }, catalog) = compiled(&primary, "whole").await;
    let own = Digest::of(b"of production");
    let place = u32::try_from(catalog.contents().position(|(digest, _)| digest == own).unwrap()).unwrap();
    for (replicas, may) in [("whole", true), ("whole=test", false)] {
        primary = reopened(primary, &site.world, &[replicas]);
        let peer = Peer::certificate(certname("whole"));
        let places = PackedFetch {
            catalog_id,
            base_catalog_id: None,
            encodings: Vec::new(),
            spans: PackedFetch::spans([(place, None)]),
            part: None,
        };
        for (digests, packed) in [(vec![own], None), (vec![], Some(places))] {
            let request = Fetch { certname: certname("whole"), digests, offsets: BTreeMap::new(), packed };
            let mut items = primary.fetch(&peer, request).await.unwrap();
            let (mut came, mut is_missing) = (false, false);
            while let Some(item) = items.next().await {
                match item.unwrap() {
                    FetchItem::Content(mut content) => {
                        while content.body.next().await.is_some() {
                            came = true;
                        }
                    }
                    FetchItem::Pack(..) => came = true,
                    FetchItem::Missing(_) => is_missing = true,
                }
            }
            assert_eq!((came, is_missing), (may, !may), "{replicas}");
        }
        let blobs = BlobRoutes::new(Arc::clone(&primary), Arc::new(AdminRoutes::new(Arc::clone(&primary), Vec::new())));
        let asked = Request::get(format!("/direct/v1/blob/{own}")).body(bytes::Bytes::new()).unwrap();
        let status = blobs.route(&peer, asked).await.unwrap().status();
        assert_eq!(status, if may { StatusCode::OK } else { StatusCode::FORBIDDEN }, "{replicas}");
    }
}

/// What of each a replica gets: `Ok` with whether the content came, or the code of the refusal.
async fn fetch(server: &Arc<Server>, name: &str, contents: &[&str]) -> Result<Vec<bool>, RefusalCode> {
    let digests = contents.iter().map(|content| Digest::of(content.as_bytes())).collect();
    let request = Fetch { certname: certname(name), digests, offsets: BTreeMap::new(), packed: None };
    let mut items = server.sync_fetch(&Peer::certificate(certname(name)), request).await.map_err(|refusal| refusal.code)?;
    let mut came = Vec::new();
    while let Some(item) = items.next().await {
        match item.unwrap() {
            FetchItem::Content(mut content) => {
                while content.body.next().await.is_some() {}
                came.push(true);
            }
            _ => came.push(false),
        }
    }
    came.sort_unstable();
    Ok(came)
}

fn code<T>(answer: Result<T, Refusal>) -> Result<T, RefusalCode> {
    answer.map_err(|refusal| refusal.code)
}

#[tokio::test]
async fn each_is_told_and_given_what_it_may_have_and_nothing_else() {
    let site = Site::new().await;
    let expected: [(&str, &[&str]); 3] = [("whole", &["production", "test"]), ("tests", &["test"]), ("nothing", &[])];
    for (name, environments) in expected {
        let peer = Peer::certificate(certname(name));
        let confirmed = site.primary.sync_confirm(&peer, confirm(name, 1)).await.unwrap();
        let told: Vec<&str> = confirmed.live.iter().map(|live| live.environment.as_str()).collect();
        assert_eq!((told, confirmed.is_part), (environments.to_vec(), name != "whole"), "{name}");
        assert!(confirmed.answered.keys().map(Environment::as_str).eq(environments.iter().copied()), "{confirmed:?}");
        for environment in ["production", "test"] {
            let request = |base| SyncManifest {
                replica: certname(name),
                environment: environment.parse().unwrap(),
                code_id: site.live(environment).version.code_id,
                base,
            };
            // A base of another environment is no way in either.
            for base in [None, Some(site.live("test").version.code_id)] {
                let answer = code(site.primary.sync_manifest(&peer, request(base)).await);
                match environments.contains(&environment) {
                    true => assert!(matches!(answer, Ok(SyncManifestReply::Whole { .. } | SyncManifestReply::Delta { .. }))),
                    false => assert_eq!(answer, Err(RefusalCode::Forbidden), "{name} {environment}"),
                }
            }
            // That the code is another's is not said: what nobody has is refused alike.
            let unknown =
                SyncManifest { code_id: format!("blake3:{}", Digest::of(b"x").to_hex()).parse().unwrap(), ..request(None) };
            let expected = if environments.contains(&environment) { RefusalCode::NotFound } else { RefusalCode::Forbidden };
            assert_eq!(code(site.primary.sync_manifest(&peer, unknown).await), Err(expected), "{name} {environment}");
        }
    }
    let fetched = async |name: &str, contents: &[&str]| fetch(&site.primary, name, contents).await;
    assert_eq!(fetched("whole", &["of production", "of test", "content a", "nobody's"]).await, Ok(vec![false, true, true, true]));
    assert_eq!(fetched("tests", &["of test", "content a"]).await, Ok(vec![true, true]));
    // Beside what it may have, another's is missing as what nobody has is; by itself, both are refused.
    assert_eq!(fetched("tests", &["of test", "of production"]).await, Ok(vec![false, true]));
    assert_eq!(fetched("tests", &["of test", "nobody's"]).await, Ok(vec![false, true]));
    for content in ["of production", "nobody's"] {
        assert_eq!(fetched("tests", &[content]).await, Err(RefusalCode::Forbidden), "{content}");
    }
    for content in ["of production", "of test", "content a"] {
        assert_eq!(fetched("nothing", &[content]).await, Err(RefusalCode::Forbidden), "{content}");
    }
    // Neither does a manifest that it was given once, before it may have less.
    let site = Site { primary: reopened(site.primary, &site.world, &["tests=production"]), world: site.world };
    assert_eq!(fetch(&site.primary, "tests", &["of test"]).await, Err(RefusalCode::Forbidden));
    for name in NAMES.into_iter().filter(|name| *name != "tests") {
        assert_eq!(fetch(&site.primary, name, &["content a"]).await, Err(RefusalCode::Forbidden), "{name}");
    }
}

fn reopened(primary: Arc<Server>, world: &World, replicas: &[&str]) -> Arc<Server> {
    drop(Arc::into_inner(primary).expect("nobody else has it"));
    world.open_with(|options| options.replicas = allowed(replicas))
}

#[tokio::test]
async fn a_replica_of_some_environments_serves_these_and_takes_nobodys_place() {
    let site = Site::new().await;
    let replica = site.replica("tests");
    replica.confirm().await.unwrap();
    let environments: Vec<Environment> =
        replica.environments.all_live().iter().map(|code| code.version.environment.clone()).collect();
    assert_eq!(environments, ["test".parse().unwrap()]);
    assert!(!replica.store.has(&Digest::of(b"of production")) && replica.store.has(&Digest::of(b"of test")));
    let node = |environment: &str| CheckIn { environment: environment.parse().unwrap(), ..check_in("n1", None) };
    assert!(matches!(replica.check_in(&Peer::InProcess, node("test")).await, Ok(CatalogReply::FactsNeeded)));
    let refused = replica.check_in(&Peer::InProcess, node("production")).await.unwrap_err();
    assert_eq!(refused.code, RefusalCode::NotPublished, "{refused}");
    // It cannot be promoted, by force neither, nor after a restart without its primary; nor end the primary by a word.
    for force in [false, true] {
        let error = replica.promote(&PromoteRequest { force }, "who").await.unwrap_err();
        assert!(matches!(&error, ServerError::NotPromoted { reason } if reason.contains("only some environments")), "{error}");
    }
    drop(Arc::into_inner(replica).unwrap());
    let replica = site.replica("tests");
    assert!(replica.promote(&PromoteRequest { force: true }, "who").await.is_err());
    let peer = Peer::certificate(certname("tests"));
    let epoch = SyncEpoch { protocol: ProtocolVersion::CURRENT, replica: certname("tests"), epoch: 2, instance: 0 };
    assert_eq!(code(site.primary.sync_epoch(&peer, epoch.clone()).await), Err(RefusalCode::Forbidden));
    assert_eq!(code(site.primary.sync_confirm(&peer, confirm("tests", 2)).await), Err(RefusalCode::Forbidden));
    assert!(site.primary.role.is_primary() && site.primary.role.epoch() == 1);
    let told = site.primary.sync_epoch(&peer, SyncEpoch { epoch: 1, ..epoch }).await.unwrap();
    assert_eq!(told.live.iter().map(|live| live.environment.as_str()).collect::<Vec<_>>(), ["test"]);
    assert_eq!(told.answered.keys().map(Environment::as_str).collect::<Vec<_>>(), ["test"]);
    // One that may have all can.
    let whole = site.replica("whole");
    whole.promote(&PromoteRequest { force: false }, "who").await.unwrap();
    assert_eq!(whole.environments.all_live().len(), 2);
}

#[tokio::test]
async fn what_a_replica_may_not_have_any_more_it_answers_nobody_from() {
    let site = Site::new().await;
    let replica = site.replica("whole");
    replica.confirm().await.unwrap();
    let node = |environment: &str| CheckIn { environment: environment.parse().unwrap(), ..check_in("n1", None) };
    assert!(replica.check_in(&Peer::InProcess, node("production")).await.is_ok());
    drop(replica);
    let site = Site { primary: reopened(site.primary, &site.world, &["whole=test"]), world: site.world };
    let replica = site.replica("whole");
    assert!(replica.check_in(&Peer::InProcess, node("test")).await.is_ok());
    let refused = replica.check_in(&Peer::InProcess, node("production")).await.unwrap_err();
    assert!(refused.code != RefusalCode::Internal && refused.message.contains("production"), "{refused}");
    // And when it may again, it does.
    drop(replica);
    let site = Site { primary: reopened(site.primary, &site.world, &["whole"]), world: site.world };
    let replica = site.replica("whole");
    assert!(replica.check_in(&Peer::InProcess, node("production")).await.is_ok());
    assert!(!replica.role.is_part());
}

/// It may say that it has anything: what it may not have is not noted, and what it says keeps nobody from publishing.
#[tokio::test]
async fn what_a_replica_of_some_environments_says_it_has_counts_for_nothing() {
    let site = Site::new().await;
    let ahead = |environment: &str| {
        let version = &site.live(environment).version;
        let sequence = version.version.sequence + 9;
        (
            environment.parse().unwrap(),
            Deployed { code_id: version.code_id, version: VersionCounter { sequence, ..version.version } },
        )
    };
    let all = ["production", "test"];
    let told = |name: &str| SyncConfirm { deployed: all.map(ahead).into(), ..confirm(name, 1) };
    for (name, expected) in [("nothing", &all[..0]), ("tests", &all[1..]), ("whole", &all)] {
        site.primary.sync_confirm(&Peer::certificate(certname(name)), told(name)).await.unwrap();
        let noted = site.primary.followers.all()[&certname(name)].deployed.clone();
        assert!(noted.keys().map(Environment::as_str).eq(expected.iter().copied()), "{name}: {noted:?}");
        let results = site.primary.publish(PublishRequest::default()).await.unwrap();
        // One that may have all is believed: it has what this one has lost.
        assert!(results.iter().all(|result| result.error.is_some() == (name == "whole")), "{name}: {results:?}");
    }
}
