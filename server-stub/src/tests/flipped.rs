//! A bit of every byte of a data directory is flipped, one at a time: whatever it is, nobody gets anything wrong.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;

use direct_puppet_transport::protocol::Digest;

use super::promotion::{peers, port, promote};
use super::races::fetch;
use super::*;
use crate::error::chain;
use crate::listen::Routes as _;
use crate::rollout::RolloutRequest;
use crate::{AdminRoutes, PuppetRoutes};

/// Files of which every byte is flipped; of longer ones one in [`STRIDE`].
const WHOLE: usize = 4096;
const STRIDE: usize = 64;

/// Files of which `verify` says nothing when they are damaged, each with why that harms nobody.
const UNREAD: [(&str, &str); 4] = [
    ("rollout.json", "the start reads it: damaged it is moved aside, and the rollout is paused and says why"),
    ("role.json", "the start reads it, and does not go on with one that is damaged"),
    (
        "code/production/staging-index",
        "it only saves reading: what is not as it was written is no proof, and the file is read again",
    ),
    ("nodes/*/reports/*.json", "reports are for people and given as they are; no answer depends on them"),
];

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut entries: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for entry in entries {
        if entry.is_dir() { found.extend(files(&entry)) } else { found.push(entry) }
    }
    found
}

fn copy(from: &Path, to: &Path) {
    for path in files(from) {
        let to = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(&path, to).unwrap();
    }
}

/// Returns a file's name within the data directory, with `*` for what is a node's, a content's or a report's own.
fn kind_of(file: &Path) -> String {
    let is_own = |part: &str| part.len() >= 30 && part.bytes().filter(u8::is_ascii_hexdigit).count() >= 30;
    let name = |part: &std::ffi::OsStr| {
        let part = part.to_str().unwrap();
        match part.split_once('.') {
            Some((own, end)) if is_own(own) => format!("*.{end}"),
            _ if is_own(part) || part.len() == 2 => "*".to_owned(),
            _ => part.to_owned(),
        }
    };
    file.iter().map(name).collect::<Vec<_>>().join("/")
}

/// What must come out, whatever is damaged.
#[derive(Debug, PartialEq)]
struct Right {
    held: Held,
    contents: BTreeMap<Digest, Vec<u8>>,
    versions: Vec<String>,
}

/// What became of one flip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// The server did not start, and named the file.
    Refused,
    /// `verify` named something.
    Named,
    /// Neither, and all answers were right.
    Harmless,
}

/// Starts a server and asks it for everything.
async fn ask(world: &World, right: &Right, file: &Path, verifies_first: bool) -> Fate {
    let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let staging = Staging::Environments(world.dir.path().join("staging"));
        let compiler: Arc<dyn Compiler> = Arc::<Counting>::clone(&world.compiler);
        Server::open(ServerOptions { compiler, ..ServerOptions::new(world.data(), staging) })
    }));
    let server = match opened.expect("the start panicked") {
        Ok(server) => server,
        Err(error) => {
            let (text, name) = (chain(&error), file.file_name().unwrap().to_str().unwrap());
            assert!(text.contains(name), "{} is not named: {text}", file.display());
            return Fate::Refused;
        }
    };
    let verify = |server: &Server| {
        let verified = server.verify().unwrap();
        !(verified.problems.is_empty() && verified.damaged.is_empty() && verified.audit_lines.is_empty())
    };
    let mut is_named = verifies_first && verify(&server);
    let what = file.display();
    let versions = server.versions(None).unwrap();
    let reply = submit(&server, "n1", None, "Linux").await;
    let mut contents = BTreeMap::new();
    match &reply {
        Ok(CatalogReply::Catalog { catalog_id, code_id, version, catalog, .. }) => {
            assert_eq!(
                (*catalog_id, *code_id, *version),
                (right.held.catalog_id, right.held.code_id, right.held.version),
                "{what}"
            );
            let catalog = Catalog::decode(catalog, *catalog_id).unwrap();
            contents = fetch(&server, "n1", catalog.contents().map(|(digest, _)| digest).collect()).await.0;
            assert!(contents.iter().all(|(digest, content)| right.contents[digest] == *content || content.is_empty()), "{what}");
            assert!(contents.values().zip(contents.keys()).all(|(content, digest)| digest.verifies(content)), "{what}");
        }
        Ok(other) => panic!("{what}: {other:?}"),
        Err(refusal) => assert!(refusal.message.contains("damaged"), "{what}: {refusal}"),
    }
    is_named |= verify(&server);
    // That mends what staging still has.
    let again = PublishRequest { dry_run: true, ..PublishRequest::default() };
    let published = publish(&server, again).await;
    assert_eq!((published.code_id, &published.error), (Some(right.held.code_id), &None), "{what}");
    let versions: Vec<String> = versions.iter().map(|listed| format!("{listed:?}")).collect();
    let is_right = reply.is_ok() && contents == right.contents && versions == right.versions;
    assert!(is_right || is_named, "{what}: it is neither right nor named: {reply:?}, {versions:?}");
    assert!(versions.iter().all(|version| right.versions.contains(version)), "{what}: {versions:?}");
    if is_named { Fate::Named } else { Fate::Harmless }
}

/// Makes a data directory with some of everything in it; returns what a server with it answers.
async fn make(world: &World) -> Right {
    let server = world.open();
    publish(&server, PublishRequest { request_id: Some("first".into()), ..PublishRequest::default() }).await;
    world.stage("modules/app/files/tree/large", (0..1200).map(|number| format!("line {number}\n")).collect::<String>());
    publish(&server, PublishRequest { request_id: Some("second".into()), message: "why".into(), ..PublishRequest::default() })
        .await;
    // What was written a moment ago is not in the index of staging yet.
    while !world.data().join("code/production/staging-index").exists() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        assert!(!publish_all(&server).await.changed);
    }
    // It has a past as a replica's primary, of a rollout, and of one epoch before.
    let other = World::new();
    other.open_with(|options| options.primary = peers("r", &[&port(&server)])).confirm().await.unwrap().whole().unwrap();
    server.set_rollout(&RolloutRequest { per_second: Some(100), ..RolloutRequest::default() }, "test").unwrap();
    promote(&server, true).await.unwrap();
    let report = samples::report("n1");
    server.report(&Peer::InProcess, report).await.unwrap();
    let routes = PuppetRoutes::new(Arc::clone(&server), Arc::new(AdminRoutes::new(Arc::clone(&server), Vec::new())));
    let bucket = "/puppet/v3/file_bucket_file/sha256/ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad/etc/motd?environment=production";
    let put = hyper::Request::put(bucket).body(bytes::Bytes::from("abc")).unwrap();
    assert_eq!(routes.route(&Peer::certificate(certname("n1")), put).await.unwrap().status().as_u16(), 200);
    drop(routes);
    let (held, catalog) = compiled(&server, "n1").await;
    let (contents, missing) = fetch(&server, "n1", catalog.contents().map(|(digest, _)| digest).collect()).await;
    assert_eq!((missing, server.verify().unwrap().problems), (0, vec![]));
    let versions = server.versions(None).unwrap().iter().map(|listed| format!("{listed:?}")).collect();
    Right { held, contents, versions }
}

#[test]
fn a_flipped_bit_anywhere_is_named_or_harms_nobody() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let world = World::new();
    let (image, right) = (tempfile::tempdir().unwrap(), runtime().block_on(make(&world)));
    copy(&world.data(), image.path());
    let all: Vec<(PathBuf, usize)> = files(image.path())
        .into_iter()
        .flat_map(|path| {
            let bytes = usize::try_from(fs::metadata(&path).unwrap().len()).unwrap();
            (0..bytes).step_by(if bytes > WHOLE { STRIDE } else { 1 }).map(move |at| (path.clone(), at)).collect::<Vec<_>>()
        })
        .collect();
    // A tenth of them, unless it is a long campaign: others in each file.
    let stride = if campaign(10) == 10 { 1 } else { 11 };
    let (chosen, fates) = (all.iter().step_by(stride), Mutex::new(BTreeMap::<(String, Fate), usize>::new()));
    let (next, chosen) = (AtomicU64::new(0), chosen.collect::<Vec<_>>());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from).min(8) {
            scope.spawn(|| {
                let shm = Path::new("/dev/shm");
                let dir = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
                let own = World { dir, compiler: Arc::default() };
                // Of staging only what is in it counts; the index knows other inodes, which is damage enough.
                copy(&world.dir.path().join("staging"), &own.dir.path().join("staging"));
                loop {
                    let at = usize::try_from(next.fetch_add(1, Ordering::SeqCst)).unwrap();
                    let Some((path, byte)) = chosen.get(at) else { return };
                    if own.data().exists() {
                        fs::remove_dir_all(own.data()).unwrap();
                    }
                    copy(image.path(), &own.data());
                    let file = path.strip_prefix(image.path()).unwrap();
                    let mut bytes = fs::read(path).unwrap();
                    bytes[*byte] ^= 1 << (byte % 8);
                    fs::write(own.data().join(file), bytes).unwrap();
                    let fate = runtime().block_on(ask(&own, &right, file, byte % 2 == 0));
                    *fates.lock().unwrap().entry((kind_of(file), fate)).or_default() += 1;
                }
            });
        }
    });
    let fates = fates.into_inner().unwrap();
    println!("{} flips in {} files", chosen.len(), files(image.path()).len());
    fates.iter().for_each(|((kind, fate), count)| println!("{count:>6} {fate:?} {kind}"));
    let kinds: BTreeSet<&String> = fates.keys().map(|(kind, _)| kind).collect();
    let is_told = |kind: &str| fates.keys().any(|(of, fate)| of == kind && *fate == Fate::Named);
    // Both ways: what stands in the list and is told of by now has no business there.
    let unread: BTreeSet<&str> = kinds.iter().map(|kind| kind.as_str()).filter(|kind| !is_told(kind)).collect();
    let listed: BTreeSet<&str> = UNREAD.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(unread, listed, "what verify does not tell of has a reason in the list");
}
