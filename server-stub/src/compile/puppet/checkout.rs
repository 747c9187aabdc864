//! The files of one version of the code, which nobody changes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use direct_puppet_transport::protocol::{Environment, TreePath};

use super::error;
use crate::code::Code;
use crate::code::tree::Modes;
use crate::compile::{CompileError, CompileErrorKind};
use crate::error::chain;

/// Tells checkouts of one process apart.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// The files of one version. They are removed when nothing compiles from them any more.
///
/// ```text
/// <work>/<n>/environments/<environment>/…   the files
///           /conf, /var                     what Puppet takes for its own
///           /modules                        an empty directory: no modules that were not published
/// ```
#[derive(Debug)]
pub(super) struct Checkout {
    top: PathBuf,
    environment: Environment,
    /// The directory of the environment, as text and with a slash at its end.
    prefix: String,
}

impl Checkout {
    /// Writes code out below `work_dir`. Blocking.
    pub(super) fn make(work_dir: &Path, code: &Code) -> Result<Self, CompileError> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // The process that compiles runs in a directory of its own.
        let work_dir = std::path::absolute(work_dir).unwrap_or_else(|_| work_dir.to_owned());
        let top = work_dir.join(number.to_string());
        let environment = code.version.environment.clone();
        let files = top.join("environments").join(environment.as_str());
        let mut prefix = files.to_string_lossy().into_owned();
        prefix.push('/');
        // From here on, whatever fails, what was begun is removed.
        let checkout = Self { top, environment, prefix };
        let fail = |kind, message| CompileError { kind, ..CompileError::at(&error::place(code), message) };
        for dir in [files.clone(), checkout.confdir(), checkout.vardir(), checkout.no_modules()] {
            direct_puppet_agent::fs::ensure_private_dir(&dir)
                .map_err(|error| fail(CompileErrorKind::Server, format!("no place to compile in: {}", chain(&error))))?;
        }
        code.write_out(&files, Modes::Private).map_err(|failed| {
            let kind = failed.digest.map_or(CompileErrorKind::Server, |digest| CompileErrorKind::Unreadable { digest });
            fail(kind, format!("its files could not be written out to be compiled: {}", chain(&*failed.error)))
        })?;
        Ok(checkout)
    }

    pub(super) const fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The directory of environments.
    pub(super) fn environments(&self) -> PathBuf {
        self.top.join("environments")
    }

    pub(super) fn confdir(&self) -> PathBuf {
        self.top.join("conf")
    }

    pub(super) fn vardir(&self) -> PathBuf {
        self.top.join("var")
    }

    pub(super) fn no_modules(&self) -> PathBuf {
        self.top.join("modules")
    }

    /// Returns text with paths in it as they were published, which are the same on every server.
    pub(super) fn published(&self, text: &str) -> String {
        text.replace(&self.prefix, "")
    }

    /// Returns where a path lies in the published code; `None` if it does not.
    pub(super) fn tree_path(&self, path: &str) -> Option<TreePath> {
        TreePath::from_bytes(path.strip_prefix(&self.prefix)?.as_bytes()).ok()
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.top) {
            tracing::warn!(path = %self.top.display(), %error, "files of code that is not compiled any more stay until the next start");
        }
    }
}
