//! The last good catalog of each environment, on disk.
//!
//! ```text
//! <state dir>/catalog/<environment>.json     which catalog is held, and where it came from
//!                    /given-<environment>.json  as above, of catalogs that were given instead of asked for
//!                    /<64 hex>.catalog       canonical bytes of a catalog, by id
//! ```
//!
//! A catalog is held from the moment at which all its contents are on the node. Valid: as long as the bytes have the id.
//! Anything else on disk counts as no catalog.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use direct_puppet_transport::protocol::{Catalog, CatalogId, Certname, Environment, Held};
use serde::{Deserialize, Serialize};

use crate::fs::{FsError, ensure_private_dir, write_state};
use crate::lock::own_file;

/// Format of the JSON file.
const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    format: u32,
    certname: Certname,
    held: Held,
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

    /// Holds a catalog whose bytes are on disk already, under a new code.
    pub(crate) fn hold(&self, environment: &Environment, held: Held) -> Result<(), FsError> {
        if self.record(environment).is_some_and(|record| record.held == held) {
            return Ok(());
        }
        let path = self.record_path(environment);
        let record = Record { format: FORMAT, certname: self.certname.clone(), held };
        let text =
            serde_json::to_vec_pretty(&record).map_err(|error| own_file(&path, "encode the catalog record", error.into()))?;
        write_state(&path, &text, 0o600)?;
        self.prune();
        Ok(())
    }

    /// Puts a catalog on disk and holds it.
    pub(crate) fn put(&self, environment: &Environment, held: Held, catalog: &Bytes) -> Result<(), FsError> {
        write_state(&self.path_of(held.catalog_id), catalog, 0o600)?;
        self.hold(environment, held)
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
        let is = |path: &Path, extension: &str| path.extension().is_some_and(|found| found == extension);
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
            cache.put(&environment, held(id), &bytes).unwrap();
            assert_eq!(cache.load(&environment).unwrap(), (held(id), catalog(title)));
        }
        assert_eq!(std::fs::read_dir(dir.path().join("catalog")).unwrap().count(), 2);
        let other = CatalogCache::ensure(dir.path(), &"n2".parse().unwrap()).unwrap();
        assert!(other.load(&environment).is_none());
    }

    #[test]
    fn a_damaged_byte_anywhere_is_no_catalog() {
        let dir = tempfile::tempdir().unwrap();
        let environment = Environment::default();
        let cache = CatalogCache::ensure(dir.path(), &"n1".parse().unwrap()).unwrap();
        let (id, bytes) = catalog("/a").encode().unwrap();
        cache.put(&environment, held(id), &bytes).unwrap();
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 0x40;
            std::fs::write(cache.path_of(id), damaged).unwrap();
            assert!(cache.load(&environment).is_none(), "byte {at}");
        }
    }
}
