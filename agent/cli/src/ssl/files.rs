//! The files of a node's identity, where Puppet has them below its `ssldir`.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use direct_puppet_agent::fs::write_state;
use direct_puppet_transport::protocol::Certname;

/// Paths below an `ssldir`.
#[derive(Debug, Clone)]
pub(super) struct Files {
    dir: PathBuf,
    name: Certname,
}

impl Files {
    pub(super) fn new(dir: &Path, name: &Certname) -> Self {
        Self { dir: dir.to_owned(), name: name.clone() }
    }

    pub(super) fn authority(&self) -> PathBuf {
        self.dir.join("certs/ca.pem")
    }

    pub(super) fn lists(&self) -> PathBuf {
        self.dir.join("crl.pem")
    }

    pub(super) fn certificate(&self) -> PathBuf {
        self.named("certs")
    }

    pub(super) fn key(&self) -> PathBuf {
        self.named("private_keys")
    }

    pub(super) fn public_key(&self) -> PathBuf {
        self.named("public_keys")
    }

    pub(super) fn request(&self) -> PathBuf {
        self.named("certificate_requests")
    }

    fn named(&self, below: &str) -> PathBuf {
        self.dir.join(below).join(format!("{}.pem", self.name))
    }

    /// Makes the directories, with Puppet's modes.
    pub(super) fn ensure_dirs(&self) -> anyhow::Result<()> {
        let dirs =
            [("", 0o771), ("certs", 0o755), ("public_keys", 0o755), ("certificate_requests", 0o755), ("private_keys", 0o750)];
        for (below, mode) in dirs {
            let dir = self.dir.join(below);
            let made = std::fs::DirBuilder::new().recursive(true).mode(mode).create(&dir);
            made.with_context(|| format!("could not make {}: it can be another with --ssldir", dir.display()))?;
        }
        Ok(())
    }
}

/// Reads a file; `None` when it is not there.
pub(super) fn read(path: &Path) -> anyhow::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("could not read {}", path.display())),
    }
}

/// Replaces a file that everybody may read.
pub(super) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    Ok(write_state(path, text.as_bytes(), 0o644)?)
}

/// Replaces a file that its owner alone may read.
pub(super) fn write_secret(path: &Path, text: &str) -> anyhow::Result<()> {
    Ok(write_state(path, text.as_bytes(), 0o600)?)
}

/// Removes a file; returns whether it was there.
pub(super) fn remove(path: &Path) -> anyhow::Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("could not remove {}", path.display())),
    }
}
