//! The last good catalog of each environment, on disk.
//!
//! ```text
//! <state dir>/catalog/<environment>.json     which catalog is held, and where it came from
//!                    /given-<environment>.json  as above, of catalogs that were given instead of asked for
//!                    /<64 hex>.catalog       canonical bytes of a catalog, by id
//! ```
//!
//! A catalog is held from the moment at which all its contents are on the node. Valid: as long as the bytes have the id.
//! Anything else on disk counts as no catalog. What a catalog that is held needs in the store stays there, whichever catalog the
//! run has that tidies up: another environment's, or one that was given.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use direct_puppet_transport::protocol::{Catalog, CatalogId, Certname, Digest, Environment, Held};
use serde::{Deserialize, Serialize};

use crate::fs::{FsError, ensure_private_dir, write_state};
use crate::lock::own_file;

/// Version of what reading makes of the same text; to be counted up whenever that is something else.
const READING: &str = concat!(env!("CARGO_PKG_VERSION"), " reading 1");

/// Format of the JSON file.
const FORMAT: u32 = 1;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    format: u32,
    certname: Certname,
    held: Held,
    /// Contents that its resources need in the store whatever is on the node.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    needed: BTreeSet<Digest>,
    /// What it was read from, when it was given as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<Text>,
}

/// A text of Puppet's that a catalog was read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Text {
    digest: Digest,
    /// [`READING`] of the program that read it.
    reading: String,
    /// Bytes of the catalog on disk.
    length: u64,
}

/// What is said of a catalog beside what it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Said {
    /// Contents that its resources need in the store.
    pub(crate) needed: BTreeSet<Digest>,
    /// The text that it was read from.
    pub(crate) text: Option<Digest>,
}

/// The cached catalogs of one node.
#[derive(Debug, Clone)]
pub(crate) struct CatalogCache {
    dir: PathBuf,
    certname: Certname,
    /// What names of records begin with; no environment's name has a hyphen.
    prefix: &'static str,
}

impl CatalogCache {
    pub(crate) fn ensure(state_dir: &Path, certname: &Certname) -> Result<Self, FsError> {
        let dir = state_dir.join("catalog");
        ensure_private_dir(&dir)?;
        Ok(Self { dir, certname: certname.clone(), prefix: "" })
    }

    /// Returns the cache of catalogs that were given: what the server says is not mixed up with them.
    pub(crate) fn of_given(&self) -> Self {
        Self { prefix: "given-", ..self.clone() }
    }

    /// Returns what is held for `environment`, with the catalog if its bytes still have their id.
    pub(crate) fn load(&self, environment: &Environment) -> Option<(Held, Catalog)> {
        let record = self.record(environment)?;
        let bytes = std::fs::read(self.path_of(record.held.catalog_id)).ok()?;
        match Catalog::decode(&bytes, record.held.catalog_id) {
            Ok(catalog) => Some((record.held, catalog)),
            Err(error) => {
                tracing::warn!(%error, "cached catalog is not used");
                None
            }
        }
    }

    /// Returns what is held for `environment`, without looking at the catalog's bytes.
    pub(crate) fn held(&self, environment: &Environment) -> Option<Held> {
        self.record(environment).map(|record| record.held)
    }

    /// Reads the bytes of a catalog that is held; `None` when they are gone or damaged.
    pub(crate) fn read(&self, id: CatalogId) -> Option<Bytes> {
        let bytes = std::fs::read(self.path_of(id)).ok()?;
        (CatalogId::of(&bytes) == id).then(|| bytes.into())
    }

    /// Returns the catalog that was held when this text was given last, if it still is what this program would make of the text, and its bytes are on disk,
    /// as far as can be told without reading them: who reads them verifies them.
    pub(crate) fn given_as(&self, environment: &Environment, text: Digest) -> Option<Held> {
        let Record { held, text: said, .. } = self.record(environment)?;
        let said = said.filter(|said| said.digest == text && said.reading == READING)?;
        let length = std::fs::metadata(self.path_of(held.catalog_id)).ok()?.len();
        (length == said.length).then_some(held)
    }

    /// Holds a catalog whose bytes are on disk already, under a new code. `said` is `None` where that is as it was said before.
    pub(crate) fn hold(&self, environment: &Environment, held: Held, said: Option<Said>) -> Result<(), FsError> {
        let path = self.record_path(environment);
        let before = self.record(environment).filter(|record| record.held.catalog_id == held.catalog_id);
        let (needed, text) = match (said, before.as_ref()) {
            (Some(said), _) => (said.needed, said.text.and_then(|digest| self.text(held, digest))),
            (None, Some(before)) => (before.needed.clone(), before.text.clone()),
            (None, None) => Default::default(),
        };
        let record = Record { format: FORMAT, certname: self.certname.clone(), held, needed, text };
        if before.is_some_and(|before| before == record) {
            return Ok(());
        }
        let text =
            serde_json::to_vec_pretty(&record).map_err(|error| own_file(&path, "encode the catalog record", error.into()))?;
        write_state(&path, &text, 0o600)?;
        self.prune();
        Ok(())
    }

    fn text(&self, held: Held, digest: Digest) -> Option<Text> {
        let length = std::fs::metadata(self.path_of(held.catalog_id)).ok()?.len();
        Some(Text { digest, reading: READING.to_owned(), length })
    }

    /// Puts a catalog on disk and holds it.
    pub(crate) fn put(&self, environment: &Environment, held: Held, said: Said, catalog: &Bytes) -> Result<(), FsError> {
        write_state(&self.path_of(held.catalog_id), catalog, 0o600)?;
        self.hold(environment, held, Some(said))
    }

    /// Returns what all catalogs that are held need in the store, of all environments and those that were given.
    ///
    /// # Errors
    ///
    /// When it cannot be known: nothing is to be removed then.
    pub(crate) fn needed(&self) -> Result<BTreeSet<Digest>, FsError> {
        let failed = |error| FsError::new(&self.dir, "list the catalogs that are held", error);
        let mut needed = BTreeSet::new();
        for entry in std::fs::read_dir(&self.dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if is(&path, "json") {
                needed.extend(read_record(&path).map(|record| record.needed).unwrap_or_default());
            }
        }
        Ok(needed)
    }

    fn record(&self, environment: &Environment) -> Option<Record> {
        read_record(&self.record_path(environment)).filter(|record| record.certname == self.certname)
    }

    fn record_path(&self, environment: &Environment) -> PathBuf {
        self.dir.join(format!("{}{environment}.json", self.prefix))
    }

    /// Returns the file that holds a catalog.
    pub(crate) fn path_of(&self, id: CatalogId) -> PathBuf {
        self.dir.join(format!("{}.catalog", id.digest().to_hex()))
    }

    /// Removes catalogs that no environment holds; what cannot be removed now is removed next time.
    fn prune(&self) {
        let Ok(names) = std::fs::read_dir(&self.dir).and_then(Iterator::collect::<io::Result<Vec<_>>>) else { return };
        let paths: Vec<PathBuf> = names.into_iter().map(|name| name.path()).collect();
        let held: Vec<PathBuf> = paths
            .iter()
            .filter(|path| is(path, "json"))
            .filter_map(|path| read_record(path))
            .map(|record| self.path_of(record.held.catalog_id))
            .collect();
        for path in paths.iter().filter(|path| is(path, "catalog") && !held.contains(path)) {
            if let Err(error) = std::fs::remove_file(path) {
                tracing::debug!(path = %path.display(), %error, "old catalog stays for now");
            }
        }
    }
}

fn is(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

fn read_record(path: &Path) -> Option<Record> {
    let text = std::fs::read(path).ok()?;
    serde_json::from_slice::<Record>(&text).ok().filter(|record| record.format == FORMAT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use direct_puppet_transport::protocol::catalog::CATALOG_FORMAT;
    use direct_puppet_transport::protocol::{Manifest, Resource, VersionCounter};

    fn catalog(title: &str) -> Catalog {
        Catalog {
            format: CATALOG_FORMAT,
            certname: "n1".parse().unwrap(),
            environment: Environment::default(),
            classes: Vec::new(),
            resources: vec![Resource::new("File", title)],
            edges: Vec::new(),
        }
    }

    fn held(catalog_id: CatalogId) -> Held {
        Held { catalog_id, code_id: Manifest::default().code_id(), version: VersionCounter { epoch: 1, sequence: 1 } }
    }

    #[test]
    fn keeps_the_last_catalog_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let environment = Environment::default();
        let cache = CatalogCache::ensure(dir.path(), &"n1".parse().unwrap()).unwrap();
        assert!(cache.load(&environment).is_none());
        for title in ["/a", "/b"] {
            let (id, bytes) = catalog(title).encode().unwrap();
            cache.put(&environment, held(id), Said::default(), &bytes).unwrap();
            assert_eq!(cache.load(&environment).unwrap(), (held(id), catalog(title)));
        }
        assert_eq!(std::fs::read_dir(dir.path().join("catalog")).unwrap().count(), 2);
        let other = CatalogCache::ensure(dir.path(), &"n2".parse().unwrap()).unwrap();
        assert!(other.load(&environment).is_none());
    }

    #[test]
    fn what_a_catalog_needs_is_known_as_long_as_it_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let cache = CatalogCache::ensure(dir.path(), &"n1".parse().unwrap()).unwrap();
        let (one, other): (Environment, Environment) = ("one".parse().unwrap(), "other".parse().unwrap());
        let needed = |text: &[u8]| BTreeSet::from([Digest::of(text)]);
        let said = |text: &[u8]| Said { needed: needed(text), text: None };
        let (id, bytes) = catalog("/a").encode().unwrap();
        cache.put(&one, held(id), said(b"1"), &bytes).unwrap();
        cache.of_given().put(&other, held(id), said(b"2"), &bytes).unwrap();
        assert_eq!(cache.needed().unwrap(), [Digest::of(b"1"), Digest::of(b"2")].into());
        // The same catalog of newer code, by a run that did not read it.
        let newer = Held { version: VersionCounter { epoch: 1, sequence: 2 }, ..held(id) };
        cache.hold(&one, newer, None).unwrap();
        assert_eq!((cache.held(&one), cache.needed().unwrap().len()), (Some(newer), 2));
        // A program that knows better.
        cache.hold(&one, newer, Some(said(b"3"))).unwrap();
        assert_eq!(cache.needed().unwrap(), [Digest::of(b"3"), Digest::of(b"2")].into());
        // Another catalog says nothing of this one.
        let (id, bytes) = catalog("/b").encode().unwrap();
        cache.put(&one, held(id), Said::default(), &bytes).unwrap();
        assert_eq!(cache.needed().unwrap(), needed(b"2"));
    }

    #[test]
    fn a_text_that_was_given_is_known_again() {
        let dir = tempfile::tempdir().unwrap();
        let cache = CatalogCache::ensure(dir.path(), &"n1".parse().unwrap()).unwrap().of_given();
        let environment = Environment::default();
        let (id, bytes) = catalog("/a").encode().unwrap();
        let (text, other) = (Digest::of(b"text"), Digest::of(b"other"));
        let said = |text| Said { text: Some(text), ..Said::default() };
        cache.put(&environment, held(id), said(text), &bytes).unwrap();
        assert_eq!((cache.given_as(&environment, text), cache.given_as(&environment, other)), (Some(held(id)), None));
        // Another text of the same catalog.
        cache.hold(&environment, held(id), Some(said(other))).unwrap();
        assert_eq!((cache.given_as(&environment, text), cache.given_as(&environment, other)), (None, Some(held(id))));
        // What another program read, and what is cut off, is not relied upon.
        let record = std::fs::read_to_string(cache.record_path(&environment)).unwrap();
        std::fs::write(cache.record_path(&environment), record.replace(READING, "0.0.0")).unwrap();
        assert_eq!(cache.given_as(&environment, other), None);
        cache.hold(&environment, held(id), Some(said(other))).unwrap();
        std::fs::write(cache.path_of(id), &bytes[1..]).unwrap();
        assert_eq!(cache.given_as(&environment, other), None);
        // Nor one that nobody said the text of.
        cache.put(&environment, held(id), Said::default(), &bytes).unwrap();
        assert_eq!(cache.given_as(&environment, other), None);
    }

    #[test]
    fn a_damaged_byte_anywhere_is_no_catalog() {
        let dir = tempfile::tempdir().unwrap();
        let environment = Environment::default();
        let cache = CatalogCache::ensure(dir.path(), &"n1".parse().unwrap()).unwrap();
        let (id, bytes) = catalog("/a").encode().unwrap();
        cache.put(&environment, held(id), Said::default(), &bytes).unwrap();
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 0x40;
            std::fs::write(cache.path_of(id), damaged).unwrap();
            assert!(cache.load(&environment).is_none(), "byte {at}");
        }
    }
}
