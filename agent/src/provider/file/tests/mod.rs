//! The provider over real directories: what is wanted is put into the store, checked, applied, and checked again.

mod content;
mod http;
mod kinds;
mod parameters;
mod recurse;

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use direct_puppet_transport::protocol::{Digest, EntryKind, ManifestEntry, ResolvedSource, Resource, TreePath};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::FileProvider;
use crate::fs::{Root, StageJournal};
use crate::provider::{
    Applied, ApplyOptions, Change, Checked, Context, ContextParts, ManagedPaths, Ownership, Provider, ProviderError,
};
use crate::store::Store;
use crate::tree::Scan;
use crate::undo::{Previous, UndoEntry, UndoLog};

/// A managed root, a state directory, and what other resources of the catalog manage.
pub(in crate::provider) struct World {
    dir: TempDir,
    managed: ManagedPaths,
    show_diff: bool,
    noop: bool,
    /// Resources of the catalog.
    resources: Vec<Arc<Resource>>,
    /// Contents that are in the store for this run only, and how many files need them.
    uses: HashMap<Digest, u64>,
}

impl World {
    pub(in crate::provider) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        std::fs::create_dir(dir.path().join("state")).unwrap();
        Self { dir, managed: ManagedPaths::default(), show_diff: true, noop: false, resources: Vec::new(), uses: HashMap::new() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path.trim_start_matches('/'))
    }

    pub(in crate::provider) fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub(in crate::provider) fn mkdir(&self, path: &str) {
        std::fs::create_dir_all(self.path(path)).unwrap();
    }

    pub(in crate::provider) fn link(&self, path: &str, target: &str) {
        std::os::unix::fs::symlink(target, self.path(path)).unwrap();
    }

    pub(in crate::provider) fn chmod(&self, path: &str, mode: u32) {
        std::fs::set_permissions(self.path(path), std::fs::Permissions::from_mode(mode)).unwrap();
    }

    pub(in crate::provider) fn read(&self, path: &str) -> String {
        String::from_utf8(std::fs::read(self.path(path)).unwrap()).unwrap()
    }

    pub(in crate::provider) fn read_bytes(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.path(path)).unwrap()
    }

    pub(in crate::provider) fn declare(&mut self, resource: Resource) {
        self.resources.push(Arc::new(resource));
    }

    pub(in crate::provider) fn set_noop(&mut self) {
        self.noop = true;
    }

    pub(in crate::provider) fn mode(&self, path: &str) -> u32 {
        std::fs::symlink_metadata(self.path(path)).unwrap().permissions().mode() & 0o7777
    }

    pub(in crate::provider) fn exists(&self, path: &str) -> bool {
        std::fs::symlink_metadata(self.path(path)).is_ok()
    }

    /// Everything below a directory, relative to it, sorted.
    pub(in crate::provider) fn names(&self, path: &str) -> Vec<String> {
        fn visit(dir: &std::path::Path, prefix: &str, names: &mut Vec<String>) {
            for entry in std::fs::read_dir(dir).unwrap() {
                let entry = entry.unwrap();
                let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
                if entry.file_type().unwrap().is_dir() {
                    visit(&entry.path(), &format!("{name}/"), names);
                }
                names.push(name);
            }
        }
        let mut names = Vec::new();
        visit(&self.path(path), "", &mut names);
        names.sort();
        names
    }

    pub(in crate::provider) fn manage(&mut self, path: &str) {
        self.managed.insert(TreePath::from_absolute(path.as_bytes()).unwrap());
    }

    fn store(&self) -> Store {
        Store::ensure(&self.dir.path().join("state/store")).unwrap()
    }

    /// Puts contents where a fetch would have put them.
    fn fetched(&self, contents: &[&str]) {
        for content in contents {
            self.store().put_bytes(content.as_bytes()).unwrap();
        }
    }

    pub(in crate::provider) fn context(&self) -> Context {
        self.context_with(Scan::default())
    }

    fn context_with(&self, scan: Scan) -> Context {
        let root = Root::open(&self.dir.path().join("root")).unwrap();
        let state = self.dir.path().join("state");
        let (stage_journal, left) = StageJournal::open(&state, &root).unwrap();
        assert_eq!(left, 0, "staged files were left behind");
        Context::new(ContextParts {
            own_state: None,
            root,
            store: self.store(),
            stage_journal,
            scan,
            managed: self.managed.clone(),
            resources: self.resources.clone(),
            options: ApplyOptions {
                show_diff: self.show_diff,
                max_diff_bytes: 1000,
                ownership: if rustix::process::geteuid().is_root() { Ownership::Managed } else { Ownership::Skipped },
                noop: self.noop,
                settle: false,
            },
            undo: UndoLog::new(&state, "test"),
            cancel: CancellationToken::new(),
            scan_is_stale: AtomicBool::new(false),
            uses: Mutex::new(self.uses.clone()),
            written: Mutex::new(Vec::new()),
        })
    }

    pub(in crate::provider) fn undo_entries(&self) -> Vec<UndoEntry> {
        let text = std::fs::read_to_string(self.dir.path().join("state/undo/test.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(in crate::provider) fn previous(&self, path: &str) -> Option<Previous> {
        let entry = self.undo_entries().into_iter().rfind(|entry| entry.path.absolute() == path);
        entry.map(|entry| entry.previous)
    }

    async fn check(&self, resource: &Resource) -> Result<Checked, ProviderError> {
        FileProvider::new().check(&self.context(), &Arc::new(resource.clone())).await
    }

    async fn apply(&self, resource: &Resource, changes: &[Change]) -> Result<Applied, ProviderError> {
        FileProvider::new().apply(&self.context(), &Arc::new(resource.clone()), changes).await
    }

    /// Converges a resource by another provider, proves that a second check finds nothing, and returns the messages of what was
    /// done.
    pub(in crate::provider) async fn converge_by(
        &self,
        provider: &dyn Provider,
        resource: &Resource,
    ) -> Result<Vec<String>, String> {
        provider.validate(resource).map_err(|error| crate::apply::error_chain(&error))?;
        let (context, resource) = (self.context(), Arc::new(resource.clone()));
        let text = |error: ProviderError| crate::apply::error_chain(&error);
        let changes = provider.check(&context, &resource).await.map_err(text)?.changes;
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        let applied = provider.apply(&context, &resource, &changes).await.map_err(text)?;
        if let Some(reason) = applied.failures.into_values().next() {
            return Err(reason);
        }
        let again = provider.check(&context, &resource).await.map_err(text)?;
        assert_eq!(again.changes, [], "not converged");
        let done = |change: Change| change.wording.map(|words| words.done).unwrap_or_default();
        Ok(changes.into_iter().map(done).collect())
    }

    /// Converges a resource, proves that a second check finds nothing, and returns what the first found.
    async fn converge(&self, resource: &Resource) -> Checked {
        let checked = self.check(resource).await.unwrap();
        let applied = self.apply(resource, &checked.changes).await.unwrap();
        assert_eq!(applied.failures, [].into(), "{:?}", checked.changes);
        let again = self.check(resource).await.unwrap();
        assert_eq!(again.changes, [], "not converged");
        checked
    }
}

/// What changed, as `title property previous->desired`.
fn summary(checked: &Checked) -> Vec<String> {
    let line = |change: &Change| {
        let short = |text: &str| text.chars().take(14).collect::<String>();
        format!("{} {} {}->{}", change.resource.title, change.property, short(&change.previous), short(&change.desired))
    };
    checked.changes.iter().map(line).collect()
}

fn file(title: &str) -> Resource {
    Resource::new("File", title)
}

/// One entry of a resolved source: `d path`, `f path content`, `l path target`.
fn entry(text: &str) -> ManifestEntry {
    let mut words = text.splitn(3, ' ');
    let (kind, path, rest) = (words.next().unwrap(), words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (mode, kind) = match kind {
        "d" => (0o750, EntryKind::Directory),
        "f" => (0o640, EntryKind::File { digest: Digest::of(rest.as_bytes()), size: rest.len() as u64 }),
        _ => (0, EntryKind::Link { target: rest.as_bytes().to_vec() }),
    };
    ManifestEntry { path: path.parse().unwrap(), mode, kind }
}

/// A resource whose source the compiler resolved; contents are put into the store.
fn sourced(world: &World, title: &str, entries: &[&str]) -> Resource {
    for text in entries.iter().filter(|text| text.starts_with("f ")) {
        world.fetched(&[text.splitn(3, ' ').nth(2).unwrap_or_default()]);
    }
    let mut resource = file(title).with("source", "puppet:///modules/m/s");
    let entries = entries.iter().map(|text| entry(text)).collect();
    resource.resolved = Some(ResolvedSource { uri: Some("puppet:///modules/m/s".to_owned()), entries });
    resource
}
