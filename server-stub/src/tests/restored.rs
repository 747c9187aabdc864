//! A data directory that is put back to an earlier state, as from a backup, while other servers and nodes went on.

use std::path::Path;

use direct_puppet_transport::protocol::{RefusalCode, VersionCounter};

use super::promotion::{Port, peers, port, promote};
use super::*;
use crate::ServerError;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        match path.is_dir() {
            true => copy(&path, &to.join(name)),
            false => drop(fs::copy(&path, to.join(name)).unwrap()),
        }
    }
}

/// The state of a data directory; nobody works with it.
struct Image {
    dir: tempfile::TempDir,
    data: PathBuf,
}

impl Image {
    fn of(world: &World) -> Self {
        let image = Self { dir: tempfile::tempdir().unwrap(), data: world.data() };
        copy(&image.data, image.dir.path());
        image
    }

    fn restore(&self) {
        fs::remove_dir_all(&self.data).unwrap();
        copy(self.dir.path(), &self.data);
    }
}

fn version(epoch: u64, sequence: u64) -> VersionCounter {
    VersionCounter { epoch, sequence }
}

/// Ends a server that others reach by these ways.
fn stop(server: Arc<Server>, ways: &[&Arc<Port>]) {
    ways.iter().for_each(|way| drop(way.server.lock().unwrap().take()));
    drop(Arc::into_inner(server).expect("nobody else holds the server"));
}

fn go_on(server: &Arc<Server>, ways: &[&Arc<Port>]) {
    ways.iter().for_each(|way| *way.server.lock().unwrap() = Some(Arc::clone(server)));
}

async fn publish_content(world: &World, server: &Arc<Server>, content: &str) -> EnvironmentResult {
    world.stage("modules/app/files/tree/a", content);
    publish_all(server).await
}

/// Asks with a session's token, as who was told that it is published.
async fn ask(server: &Server, at_least: Option<VersionCounter>) -> Result<CatalogReply, Refusal> {
    server.check_in(&Peer::InProcess, CheckIn { at_least, ..check_in("n2", None) }).await
}

fn listed(server: &Server) -> Vec<(VersionCounter, String, bool)> {
    let versions = server.versions(None).unwrap().into_iter();
    versions.map(|listed| (listed.version.version, listed.version.code_id.to_string(), listed.is_left_out)).collect()
}

#[tokio::test]
async fn a_replica_put_back_answers_with_what_is_live_or_not_at_all() {
    let (wp, wr) = (World::new(), World::new());
    let p = wp.open();
    let way = port(&p);
    let start = || wr.open_with(|options| options.primary = peers("r", &[&way]));
    publish_all(&p).await;
    let r = start();
    let (first, _) = compiled(&r, "n1").await;
    stop(r, &[]);
    let image = Image::of(&wr);
    publish_content(&wp, &p, "second").await;
    let r = start();
    compiled(&r, "n1").await;
    let third = publish_content(&wp, &p, "third").await;
    let (held, _) = compiled(&r, "n1").await;
    assert_eq!((first.version, held.version), (version(1, 1), version(1, 3)));
    stop(r, &[]);
    let told = listed(&p);
    for is_cut in [true, false] {
        image.restore();
        way.is_cut.store(is_cut, Ordering::SeqCst);
        let r = start();
        assert_eq!(live(&r).version.version, version(1, 1), "the image is older");
        for held in [None, Some(first), Some(held)] {
            let reply = submit(&r, "n1", held, "Linux").await;
            match reply {
                Err(refusal) => assert!(is_cut && refusal.code == RefusalCode::Stale, "{refusal}"),
                Ok(CatalogReply::Catalog { version, code_id, .. } | CatalogReply::Current { version, code_id, .. }) => {
                    assert_eq!((is_cut, version, Some(code_id)), (false, self::version(1, 3), third.code_id));
                }
                Ok(other) => panic!("{other:?}"),
            }
        }
        // What it tells of is part of the primary's history.
        assert!(listed(&r).iter().all(|version| told.contains(version)), "{:?}", listed(&r));
        assert_eq!(r.verify().unwrap().problems, []);
        stop(r, &[]);
    }
    assert_eq!(listed(&p), told);
    // Within the time that is allowed the answer says that it was not confirmed, and who has heard of more gets none.
    image.restore();
    way.is_cut.store(true, Ordering::SeqCst);
    let allowed = std::time::Duration::from_secs(3600);
    let r = wr.open_with(|options| (options.primary, options.unconfirmed_for) = (peers("r", &[&way]), allowed));
    assert_eq!(submit(&r, "n1", Some(held), "Linux").await.unwrap_err().code, RefusalCode::Stale);
    assert_eq!(ask(&r, Some(version(1, 2))).await.unwrap_err().code, RefusalCode::Stale);
    // Promoted in this state it takes what the primary has.
    way.is_cut.store(false, Ordering::SeqCst);
    let promoted = promote(&r, false).await.unwrap();
    assert_eq!((promoted.live[0].version, Some(promoted.live[0].code_id)), (version(2, 1), third.code_id));
}

/// A primary at 1.1 that was at 1.3 already, when it runs again, and a replica that is at 1.3.
struct PutBack {
    worlds: [World; 2],
    p: Arc<Server>,
    r: Arc<Server>,
    to_p: Arc<Port>,
    first: EnvironmentResult,
    third: EnvironmentResult,
    /// What node n1 got before.
    held: Held,
}

impl PutBack {
    /// With successors the primary knows whom to ask.
    async fn new(has_successors: bool) -> Self {
        let worlds = [World::new(), World::new()];
        let (to_p, to_r) = (Arc::<Port>::default(), Arc::<Port>::default());
        let start = || worlds[0].open_with(|options| options.successors = peers("p", &[&to_r]).filter(|_| has_successors));
        let r = worlds[1].open_with(|options| options.primary = peers("r", &[&to_p]));
        go_on(&r, &[&to_r]);
        let p = start();
        go_on(&p, &[&to_p]);
        let first = publish_all(&p).await;
        r.confirm().await.unwrap().whole().unwrap();
        stop(p, &[&to_p]);
        let image = Image::of(&worlds[0]);
        let p = start();
        go_on(&p, &[&to_p]);
        for content in ["second", "third"] {
            publish_content(&worlds[0], &p, content).await;
            r.confirm().await.unwrap().whole().unwrap();
        }
        let third = publish_all(&p).await;
        let (held, _) = compiled(&p, "n1").await;
        assert_eq!((held.version, third.changed), (version(1, 3), false));
        stop(p, &[&to_p]);
        image.restore();
        let p = start();
        go_on(&p, &[&to_p]);
        Self { worlds, p, r, to_p, first, third, held }
    }

    /// Nobody who has heard of more is answered with less, and the replica says why it does not follow.
    async fn refuses(&self) {
        assert!(self.r.confirm().await.is_err());
        assert_eq!(ask(&self.r, None).await.unwrap_err().code, RefusalCode::Stale);
        assert_eq!(live(&self.r).version.version, version(1, 3));
        for at_least in [version(1, 2), version(1, 3)] {
            assert_eq!(ask(&self.p, Some(at_least)).await.unwrap_err().code, RefusalCode::Stale);
        }
        let refusal = submit(&self.p, "n1", Some(self.held), "Linux").await.unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Stale);
    }
}

#[tokio::test]
async fn a_primary_put_back_publishes_nothing_over_what_a_replica_has_and_goes_on_by_force() {
    let back = PutBack::new(false).await;
    let error = back.r.confirm().await.unwrap_err();
    assert!(error.to_string().contains("version 1.1") && error.to_string().contains("right primary"), "{error}");
    back.refuses().await;
    // Three of them would have the replica take the third for a successor of its own.
    for content in ["one", "two", "three", "four"] {
        back.worlds[0].stage("modules/app/files/tree/a", content);
        let error = publish(&back.p, PublishRequest::default()).await.error.unwrap();
        assert!(error.code == "unconfirmed" && error.message.contains("r has version 1.3"), "{error:?}");
    }
    let request = crate::history::RollbackRequest::new(Environment::default(), "1.1".parse().unwrap());
    assert!(matches!(back.p.rollback(request).await, Err(ServerError::Unconfirmed { .. })));
    back.refuses().await;
    // By force it goes on with what it has, and who had more is told what is left out.
    let promoted = promote(&back.p, true).await.unwrap();
    assert_eq!((promoted.epoch, Some(promoted.live[0].code_id)), (2, back.first.code_id));
    back.r.confirm().await.unwrap().whole().unwrap();
    assert_eq!((live(&back.r).version.version, Some(live(&back.r).version.code_id)), (version(2, 1), back.first.code_id));
    let left_out: Vec<_> = listed(&back.r).into_iter().filter(|listed| listed.2).map(|listed| listed.0).collect();
    assert_eq!(left_out, [version(1, 2), version(1, 3)]);
    for server in [&back.p, &back.r] {
        let refusal = ask(server, Some(version(1, 3))).await.unwrap_err();
        assert!(refusal.message.contains("not taken it over"), "{refusal}");
        submit(server, "n1", Some(back.held), "Linux").await.unwrap();
    }
    assert!(publish_content(&back.worlds[0], &back.p, "five").await.changed);
}

#[tokio::test]
async fn a_replica_promoted_in_place_of_a_primary_put_back_loses_nothing() {
    let back = PutBack::new(false).await;
    back.refuses().await;
    let promoted = promote(&back.r, false).await.unwrap();
    assert_eq!((promoted.epoch, Some(promoted.live[0].code_id), promoted.left_out.len()), (2, back.third.code_id, 0));
    assert!(listed(&back.r).iter().all(|listed| !listed.2), "{:?}", listed(&back.r));
    submit(&back.r, "n1", Some(back.held), "Linux").await.unwrap();
    assert!(matches!(ask(&back.r, Some(version(1, 3))).await, Ok(CatalogReply::FactsNeeded)));
    // Started to follow, the other has it as well.
    let to_r = port(&back.r);
    stop(back.p, &[&back.to_p]);
    let p = back.worlds[0].open_with(|options| options.primary = peers("p", &[&to_r]));
    assert_eq!(compiled(&p, "n1").await.0.version, version(2, 1));
    assert_eq!(Some(live(&p).version.code_id), back.third.code_id);
}

#[tokio::test]
async fn a_primary_put_back_that_knows_its_successors_hears_of_it_before_it_answers() {
    for promotes_itself in [false, true] {
        let back = PutBack::new(true).await;
        // Nobody at all is answered: it asks before.
        let refusal = ask(&back.p, None).await.unwrap_err();
        assert!(refusal.code == RefusalCode::Stale && refusal.message.contains("has version 1.3"), "{refusal}");
        back.refuses().await;
        back.worlds[0].stage("modules/app/files/tree/a", "one");
        let error = back.p.publish(PublishRequest::default()).await.unwrap_err();
        assert!(error.to_string().contains("earlier state"), "{error}");
        // Whichever is promoted, nothing is lost.
        let (server, other) = if promotes_itself { (&back.p, &back.r) } else { (&back.r, &back.p) };
        let promoted = promote(server, promotes_itself).await.unwrap();
        assert_eq!((promoted.epoch, Some(promoted.live[0].code_id)), (2, back.third.code_id));
        assert_eq!(compiled(other, "n1").await.0.version, version(2, 1));
        assert_eq!(Some(live(other).version.code_id), back.third.code_id);
        assert!([server, other].iter().all(|server| listed(server).iter().all(|listed| !listed.2)));
    }
}
