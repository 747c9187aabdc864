//! Seeded trees and catalogs: the same bytes on every machine; and the programs that others use for the same work.
#![expect(clippy::print_stderr, reason = "a peer that is left out is said so")]

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use direct_puppet_agent::tree::WantedContent;
use direct_puppet_server_stub::publish::PublishRequest;
use direct_puppet_server_stub::{Server, ServerOptions, Staging};
use direct_puppet_transport::protocol::catalog::CATALOG_FORMAT;
use direct_puppet_transport::protocol::{
    Catalog, Digest, EntryKind, Environment, ManifestEntry, ResolvedSource, Resource, TreePath,
};

/// The seed of every tree; changing it makes figures incomparable with older ones.
pub const SEED: u64 = 42;

/// A small generator (SplitMix64, Steele et al. 2014): seeded, fast, and the same everywhere.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Returns the generator of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a size in bytes, exponentially distributed with mean 4096 as in configuration trees.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a size drawn at random"
    )]
    pub fn size(&mut self) -> usize {
        let unit = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        (-(1.0 - unit).ln() * 4096.0) as usize
    }
}

/// Returns the content of file `number`: text that looks like configuration.
#[must_use]
pub fn content(number: usize) -> Vec<u8> {
    let mut random = Random::new(SEED ^ (number as u64) << 20);
    let size = random.size();
    let mut text = Vec::with_capacity(size + 40);
    while text.len() < size {
        text.extend_from_slice(format!("option_{} = value_{:x}\n", random.next() % 97, random.next() % 65_536).as_bytes());
    }
    text.truncate(size);
    text
}

/// Returns the path of file `number`, in one of up to 1,024 directories of two levels.
#[must_use]
pub fn path(number: usize) -> TreePath {
    let directory = number % 1024;
    TreePath::from_bytes(format!("d{:02}/e{:02}/file{number:06}.conf", directory / 32, directory % 32).as_bytes())
        .expect("generated paths are valid")
}

/// Runs a peer's program to its end; says so and returns false where it is not installed.
///
/// # Panics
///
/// When it fails.
#[must_use]
pub fn peer(program: &str, arguments: &[&OsStr], dir: &Path) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(dir).stdin(Stdio::null()).stdout(Stdio::null());
    match command.status() {
        Ok(status) => {
            assert!(status.success(), "{command:?}: {status}");
            true
        }
        Err(error) => {
            eprintln!("LEFT OUT: peer {program}: {error}");
            false
        }
    }
}

/// Makes a git repository of a directory; returns whether there is git.
#[must_use]
pub fn git_init(dir: &Path) -> bool {
    peer("git", &words(&["init", "-q"]), dir)
        && peer("git", &words(&["config", "user.email", "bench@example.com"]), dir)
        && peer("git", &words(&["config", "user.name", "bench"]), dir)
        && peer("git", &words(&["config", "gc.auto", "0"]), dir)
}

/// Adds and commits everything in a directory.
pub fn git_commit(dir: &Path) {
    let committed = peer("git", &words(&["add", "-A"]), dir) && peer("git", &words(&["commit", "-q", "-m", "all"]), dir);
    assert!(committed, "git was there a moment ago");
}

/// Returns arguments as programs take them.
#[must_use]
pub fn words<'a>(words: &[&'a str]) -> Vec<&'a OsStr> {
    words.iter().map(|word| OsStr::new(*word)).collect()
}

/// Writes a tree of `files` files below `root` and returns what it holds.
///
/// # Errors
///
/// When the disk does not take it.
pub fn make_tree(root: &Path, files: usize) -> io::Result<Vec<WantedContent>> {
    let mut wanted = Vec::with_capacity(files);
    for number in 0..files {
        let (path, content) = (path(number), content(number));
        let target = root.join(path.as_path());
        if let Some(parent) = target.parent().filter(|_| number < 1024) {
            fs::create_dir_all(parent)?;
        }
        fs::write(&target, &content)?;
        wanted.push(WantedContent {
            path,
            digest: Digest::of(&content),
            size: content.len() as u64,
            replace: true,
            follow: false,
        });
    }
    Ok(wanted)
}

/// Returns a catalog with one recursive file resource of `files` files at `/srv/tree`.
#[must_use]
pub fn catalog(files: usize) -> Catalog {
    let mut entries = vec![ManifestEntry { path: TreePath::root(), mode: 0o755, kind: EntryKind::Directory }];
    for number in 0..files {
        let content = content(number);
        let kind = EntryKind::File { digest: Digest::of(&content), size: content.len() as u64 };
        entries.push(ManifestEntry { path: path(number), mode: 0o644, kind });
    }
    for number in 0..files.min(1024) {
        let directory = path(number).parent().unwrap_or_default();
        let directories = [directory.parent().unwrap_or_default(), directory];
        entries.extend(directories.into_iter().map(|path| ManifestEntry { path, mode: 0o755, kind: EntryKind::Directory }));
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    entries.dedup_by(|a, b| a.path == b.path);
    let mut resource = Resource::new("File", "/srv/tree").with("ensure", "directory").with("recurse", true);
    resource.resolved = Some(ResolvedSource { uri: Some("puppet:///modules/bench/tree".to_owned()), entries });
    Catalog {
        format: CATALOG_FORMAT,
        certname: "bench".parse().expect("a valid name"),
        environment: Environment::default(),
        classes: Vec::new(),
        resources: vec![resource],
        edges: Vec::new(),
    }
}

/// Returns how many files to use: `BENCH_FILES`, else `default`.
///
/// # Panics
///
/// When the variable is no number.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one knob of the benches")]
pub fn files(default: usize) -> usize {
    std::env::var("BENCH_FILES").map_or(default, |text| text.parse().expect("BENCH_FILES is a number"))
}

/// Stages a site whose nodes get a tree of `files` files.
///
/// # Errors
///
/// When the disk does not take it.
pub fn make_site(staging: &Path, files: usize) -> io::Result<()> {
    let environment = make_environment(staging)?;
    make_tree(&environment.join("modules/app/files/tree"), files).map(drop)
}

/// Stages a site whose nodes get whatever is put into `modules/app/files/tree` of the environment's directory, which is returned, at
/// `/tree`.
///
/// # Errors
///
/// When the disk does not take it.
pub fn make_environment(staging: &Path) -> io::Result<PathBuf> {
    let environment = staging.join("environments/production");
    fs::create_dir_all(environment.join("modules/app/files/tree"))?;
    let text = "nodes: [{ match: \"*\", classes: [base] }]\nclasses:\n  base:\n    - file: /tree\n      \
                source: puppet:///modules/app/tree\n      recurse: true\n";
    fs::write(environment.join("site.yaml"), text)?;
    Ok(environment)
}

/// Returns a server for `staging`.
///
/// # Panics
///
/// When its directory cannot be made.
#[must_use]
pub fn server(data: &Path, staging: &Path) -> std::sync::Arc<Server> {
    Server::open(ServerOptions::new(data, Staging::Environments(staging.to_owned()))).expect("a server can be opened")
}

/// Publishes everything.
///
/// # Panics
///
/// When it is refused.
pub async fn staged(server: &std::sync::Arc<Server>) {
    let results = server.publish(PublishRequest::default()).await.expect("staging can be listed");
    assert!(results.iter().all(|result| result.error.is_none()), "{results:?}");
}
