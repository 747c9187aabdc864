//! A store in a directory of this machine, for several servers of one user.
//!
//! ```text
//! <dir>/store/blobs/…                 contents, by digest
//!      /pointers/<name>.pointer       generation in decimal, a line feed, the value
//!      /lock                          held for each swap
//! ```

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use direct_puppet_agent::fs::{ensure_private_dir, write_state};
use direct_puppet_agent::store::Store;
use direct_puppet_transport::protocol::Digest;
use direct_puppet_transport::{Content, FetchItem, FetchItems};
use futures::StreamExt as _;
use rustix::fs::{FlockOperation, flock};
use tokio::sync::watch;

use super::{Blob, BlobStore, Generation, Pointer, PointerStore, StoreError, WATCHED, check_name};
use crate::blocking;
use crate::disk;

const SUFFIX: &str = ".pointer";

/// How often the directory is looked at for swaps of other processes.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What a server began to put, and did not write to for so long, it does not come back to.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// How much of a content is read at a time.
const CHUNK_BYTES: usize = 256 * 1024;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A store in a directory: `flock`, `rename`, `fsync`. Cheap to clone.
#[derive(Debug, Clone)]
pub struct FileStore {
    dir: PathBuf,
    endpoint: String,
    store: Store,
    swaps: watch::Sender<u64>,
    seen: Arc<tokio::sync::Mutex<Seen>>,
}

/// What [`PointerStore::changed`] saw last.
#[derive(Debug)]
struct Seen {
    swaps: watch::Receiver<u64>,
    files: Vec<(PathBuf, SystemTime)>,
}

impl FileStore {
    /// Opens the directory, or makes it. Blocking.
    ///
    /// # Errors
    ///
    /// When it cannot be made or belongs to somebody else.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let endpoint = format!("file://{}", dir.display());
        let open = || -> Result<Store, Failure> {
            if !dir.is_absolute() {
                return Err("the directory is not absolute".into());
            }
            ensure_private_dir(dir)?;
            ensure_private_dir(&dir.join("pointers"))?;
            let store = Store::ensure(&dir.join("store"))?;
            disk::sync_dir(dir)?;
            Ok(store)
        };
        let (swaps, receiver) = watch::channel(0);
        let seen = Seen { swaps: receiver, files: Vec::new() };
        match open() {
            Ok(store) => Ok(Self { dir: dir.to_owned(), endpoint, store, swaps, seen: Arc::new(tokio::sync::Mutex::new(seen)) }),
            Err(source) => Err(StoreError::Failed { endpoint, act: "be opened", source }),
        }
    }

    /// Does blocking work.
    async fn run<T: Send + 'static>(
        &self,
        act: &'static str,
        work: impl FnOnce(&Self) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let this = self.clone();
        let result = blocking::run(move || work(&this)).await;
        result.map_err(Failure::from).and_then(|result| result).map_err(|source| self.failed(act, source))
    }

    fn failed(&self, act: &'static str, source: Failure) -> StoreError {
        StoreError::Failed { endpoint: self.endpoint.clone(), act, source }
    }

    fn path_of(&self, name: &str) -> PathBuf {
        self.dir.join("pointers").join(format!("{name}{SUFFIX}"))
    }

    fn lock(&self, operation: FlockOperation) -> Result<File, Failure> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(self.dir.join("lock"))?;
        flock(&file, operation)?;
        Ok(file)
    }

    fn swap_now(&self, name: &str, expected: Option<Generation>, value: Option<Bytes>) -> Result<bool, Failure> {
        let _turn = self.lock(FlockOperation::LockExclusive)?;
        let path = self.path_of(name);
        if read(&path)?.map(|found| found.generation) != expected {
            return Ok(false);
        }
        let parent = path.parent().unwrap_or(&self.dir);
        match value {
            None => {
                if expected.is_some() {
                    std::fs::remove_file(&path)?;
                    disk::sync_dir(parent)?;
                }
            }
            Some(value) => {
                let above: Vec<&Path> = parent.ancestors().take_while(|dir| *dir != self.dir).collect();
                for dir in above.into_iter().rev() {
                    if !dir.exists() {
                        ensure_private_dir(dir)?;
                        disk::sync_dir(dir.parent().unwrap_or(&self.dir))?;
                    }
                }
                let mut generation = [0; 8];
                getrandom::fill(&mut generation).map_err(|error| error.to_string())?;
                let mut text = format!("{}\n", u64::from_le_bytes(generation)).into_bytes();
                text.extend_from_slice(&value);
                write_state(&path, &text, 0o600)?;
            }
        }
        if name.starts_with(WATCHED) {
            self.swaps.send_modify(|count| *count += 1);
        }
        Ok(true)
    }

    /// Lists the pointers that begin with `prefix`, a directory.
    fn names_now(&self, prefix: &str) -> Result<Vec<String>, Failure> {
        let root = self.dir.join("pointers");
        // Without it nothing is known, and not that there is nothing.
        std::fs::metadata(&root)?;
        let mut names = Vec::new();
        for entry in walkdir::WalkDir::new(root.join(prefix)) {
            let entry = match entry {
                Ok(entry) => entry,
                // Nothing was ever named so, or it went meanwhile. What cannot be read is not taken for nothing.
                Err(error) if error.io_error().is_some_and(|error| error.kind() == io::ErrorKind::NotFound) => continue,
                Err(error) => return Err(error.into()),
            };
            if !entry.file_type().is_file() {
                continue;
            }
            let name = entry.path().strip_prefix(&root).ok().and_then(Path::to_str).and_then(|name| name.strip_suffix(SUFFIX));
            names.extend(name.map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }
}

fn read(path: &Path) -> Result<Option<Pointer>, Failure> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let damaged = || format!("{} is damaged", path.display());
    let end = text.iter().position(|&byte| byte == b'\n').ok_or_else(damaged)?;
    let generation = std::str::from_utf8(&text[..end]).ok().and_then(|text| text.parse().ok()).ok_or_else(damaged)?;
    Ok(Some(Pointer { generation: Generation(generation), value: Bytes::from(text).slice(end + 1..) }))
}

#[async_trait]
impl BlobStore for FileStore {
    async fn missing(&self, digests: &[Digest]) -> Result<HashSet<Digest>, StoreError> {
        let digests = digests.to_vec();
        self.run("look for contents", move |this| {
            let _turn = this.lock(FlockOperation::LockShared)?;
            let touch = |digest: &Digest| -> io::Result<bool> {
                match this.store.open(digest).map_err(io::Error::other)? {
                    Some(file) => file.set_modified(SystemTime::now()).map(|()| true),
                    None => Ok(false),
                }
            };
            let mut missing = HashSet::new();
            for digest in digests {
                if !touch(&digest)? {
                    missing.insert(digest);
                }
            }
            Ok(missing)
        })
        .await
    }

    async fn put_small(&self, contents: Vec<(Digest, Bytes)>) -> Result<(), StoreError> {
        self.run("take contents", move |this| {
            for (digest, content) in contents {
                let mut incoming = this.store.receive(digest, content.len() as u64, 0)?;
                incoming.write(&content)?;
                // Nobody takes away what this puts in the place of an old one.
                let _turn = this.lock(FlockOperation::LockShared)?;
                incoming.finish()?;
            }
            Ok(this.store.sync()?)
        })
        .await
    }

    async fn put(&self, mut blob: Blob) -> Result<(), StoreError> {
        let act = "take a content";
        let mut incoming = self.run(act, move |this| Ok(this.store.receive(blob.digest, blob.size, 0)?)).await?;
        while let Some(chunk) = blob.body.next().await {
            let chunk = chunk.map_err(|error| self.failed(act, error.into()))?;
            let write = move |_: &Self| {
                incoming.write(&chunk)?;
                Ok(incoming)
            };
            incoming = self.run(act, write).await?;
        }
        self.run(act, move |this| {
            let _turn = this.lock(FlockOperation::LockShared)?;
            incoming.finish()?;
            Ok(this.store.sync()?)
        })
        .await
    }

    fn get(&self, digests: Vec<Digest>) -> FetchItems {
        let store = self.store.clone();
        let item = move |digest| {
            let store = store.clone();
            async move {
                let open = move || store.open(&digest).map_err(io::Error::other);
                let Some(file) = blocking::run(open).await.map_err(io::Error::other)?? else {
                    return Ok(FetchItem::Missing(digest));
                };
                let size = file.metadata()?.len();
                let body = futures::stream::try_unfold(file, |mut file| async move {
                    let read = move || {
                        let mut chunk = vec![0; CHUNK_BYTES];
                        let count = file.read(&mut chunk)?;
                        chunk.truncate(count);
                        Ok::<_, io::Error>((count > 0).then(|| (Bytes::from(chunk), file)))
                    };
                    blocking::run(read).await.map_err(io::Error::other)?
                });
                Ok(FetchItem::Content(Content { digest, size, offset: 0, body: body.boxed() }))
            }
        };
        futures::stream::iter(digests).then(item).boxed()
    }

    async fn all(&self) -> Result<HashSet<Digest>, StoreError> {
        self.run("list its contents", |this| Ok(this.store.digests()?.into_iter().collect())).await
    }

    async fn remove(&self, digests: &[Digest], age: Duration) -> Result<u64, StoreError> {
        let digests = digests.to_vec();
        self.run("remove contents", move |this| {
            // Nobody touches or puts meanwhile.
            let _turn = this.lock(FlockOperation::LockExclusive)?;
            let mut removed = 0;
            for digest in digests {
                let Some(file) = this.store.open(&digest)? else { continue };
                let touched = file.metadata()?.modified()?;
                if SystemTime::now().duration_since(touched).unwrap_or_default() >= age {
                    std::fs::remove_file(this.store.path_of(&digest))?;
                    removed += 1;
                }
            }
            // What went is told whatever else there is.
            if let Err(error) = this.store.remove_abandoned(age.max(ABANDONED_AFTER)) {
                tracing::warn!(%error, "what killed servers left in the store stays for now");
            }
            Ok(removed)
        })
        .await
    }
}

#[async_trait]
impl PointerStore for FileStore {
    fn endpoint(&self) -> &str {
        &self.endpoint
    }

    async fn get(&self, name: &str) -> Result<Option<Pointer>, StoreError> {
        check_name(&self.endpoint, name)?;
        let path = self.path_of(name);
        self.run("read a pointer", move |_| read(&path)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Pointer)>, StoreError> {
        let prefix = prefix.to_owned();
        self.run("list pointers", move |this| {
            let _turn = this.lock(FlockOperation::LockShared)?;
            let mut found = Vec::new();
            for name in this.names_now(&prefix)? {
                if let Some(pointer) = read(&this.path_of(&name))? {
                    found.push((name, pointer));
                }
            }
            Ok(found)
        })
        .await
    }

    async fn names(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let prefix = prefix.to_owned();
        self.run("list pointers", move |this| this.names_now(&prefix)).await
    }

    async fn swap(&self, name: &str, expected: Option<Generation>, value: Option<Bytes>) -> Result<bool, StoreError> {
        check_name(&self.endpoint, name)?;
        let name = name.to_owned();
        self.run("swap a pointer", move |this| this.swap_now(&name, expected, value)).await
    }

    async fn changed(&self, wait: Duration) {
        let watched = self.dir.join("pointers").join(WATCHED);
        let state = || {
            let walk = walkdir::WalkDir::new(&watched).into_iter().filter_map(Result::ok);
            walk.filter_map(|entry| Some((entry.path().to_owned(), entry.metadata().ok()?.modified().ok()?))).collect::<Vec<_>>()
        };
        let look = async {
            let mut seen = self.seen.lock().await;
            loop {
                let files = state();
                let is_told = seen.swaps.has_changed().unwrap_or(false);
                if is_told || files != seen.files {
                    seen.swaps.mark_unchanged();
                    seen.files = files;
                    return;
                }
                tokio::select! {
                    _ = seen.swaps.changed() => seen.swaps.mark_changed(),
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
            }
        };
        // Whether it ended by itself or was too long is the same to a hint.
        let _: Result<(), _> = tokio::time::timeout(wait, look).await;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// What removes contents looks how old they are, and takes them by their name.
    #[tokio::test]
    async fn nothing_is_put_while_contents_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = FileStore::open(dir.path()).unwrap();
        let removing = store.lock(FlockOperation::LockExclusive).unwrap();
        let (small, large) = (Bytes::from_static(b"small"), Bytes::from_static(b"large"));
        let body = futures::stream::iter([Ok(large.clone())]).boxed();
        let puts = {
            let (one, other) = (store.clone(), store.clone());
            let blob = Blob { digest: Digest::of(&large), size: 5, body };
            [
                tokio::spawn(async move { one.put_small(vec![(Digest::of(&small), small)]).await }),
                tokio::spawn(async move { other.put(blob).await }),
            ]
        };
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!puts.iter().any(tokio::task::JoinHandle::is_finished), "a content is put while others are removed");
        drop(removing);
        for put in puts {
            put.await.unwrap().unwrap();
        }
        assert_eq!(store.all().await.unwrap().len(), 2);
    }

    #[test]
    fn pointers_that_cannot_be_listed_are_not_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = FileStore::open(dir.path()).unwrap();
        assert!(store.swap_now("live/env/production", None, Some(Bytes::from_static(b"x"))).unwrap());
        assert_eq!(store.names_now("live/").unwrap(), ["live/env/production"]);
        assert_eq!(store.names_now("version/").unwrap(), Vec::<String>::new());
        let pointers = dir.path().join("pointers/live/env");
        for above in ["", "pointers", "pointers/live"] {
            std::fs::set_permissions(dir.path().join(above), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        std::fs::set_permissions(&pointers, std::fs::Permissions::from_mode(0o000)).unwrap();
        let listed = std::thread::spawn(move || {
            // Root would read it all the same. Of this thread alone, which ends.
            if rustix::process::geteuid().is_root() {
                rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65_534)).unwrap();
            }
            store.names_now("live/").map_err(|error| error.to_string())
        });
        let listed = listed.join().unwrap();
        std::fs::set_permissions(&pointers, std::fs::Permissions::from_mode(0o700)).unwrap();
        assert!(listed.as_ref().is_err_and(|error| error.contains("live/env") && error.contains("denied")), "{listed:?}");
        let (store, pointers) = (FileStore::open(dir.path()).unwrap(), dir.path().join("pointers"));
        std::fs::rename(&pointers, dir.path().join("moved")).unwrap();
        assert!(store.names_now("live/").is_err(), "the directory of all pointers is gone");
    }
}
