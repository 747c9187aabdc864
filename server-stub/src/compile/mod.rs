//! From code and facts to a catalog.
//!
//! [`AutomaticCompiler`] chooses for each environment: the built-in compiler where there is a `site.yaml`, else Puppet's.

mod automatic;
mod manifest;
mod puppet;
mod resource;
mod site;
mod template;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use direct_puppet_transport::Extensions;
use direct_puppet_transport::protocol::{Catalog, Certname, Digest, EntryKind, Environment, TreePath, Value};

use crate::code::Code;
use crate::error::chain;

pub use automatic::AutomaticCompiler;
pub use manifest::ManifestCompiler;
pub use puppet::{OidMappingError, PuppetCompiler, PuppetOptions};

/// What to compile.
#[derive(Debug, Clone)]
pub struct CompileRequest {
    /// The node.
    pub certname: Certname,
    /// The code, all of it of one version.
    pub code: Arc<Code>,
    /// The node's facts.
    pub facts: BTreeMap<String, Value>,
    /// What the node's certificate says beside the name; nothing where who asks has shown none.
    pub extensions: Extensions,
}

/// A catalog, and the contents in it that stand in no published file.
#[derive(Debug, Clone, PartialEq)]
pub struct Compiled {
    /// The catalog; every content in it is named by digest.
    pub catalog: Catalog,
    /// Contents made by the compile, as rendered templates.
    pub contents: Vec<Bytes>,
}

/// What is at fault when code does not compile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CompileErrorKind {
    /// The code. The same code, certname, facts and extensions fail again: not tried again until there is other code, the
    /// node's certificate has other extensions, or an administrator says so.
    Code,
    /// The server, which has a content of the code damaged or not at all. Tried again whenever it is asked for; the content is brought
    /// again meanwhile, where there is another server.
    Unreadable {
        /// The content.
        digest: Digest,
    },
    /// The server, which could not finish. Tried again whenever it is asked for.
    Server,
    /// The server, which lacks what it compiles with: Ruby, or Puppet's library. Tried again whenever it is asked for.
    NoCompiler,
    /// The server, whose disk did not take the files to compile from. Tried again whenever it is asked for.
    Disk,
}

/// Why code does not compile; names the place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}{}{}: {message}", line.map(|line| format!(":{line}")).unwrap_or_default(), column.map(|column| format!(":{column}")).unwrap_or_default())]
pub struct CompileError {
    /// The file, within the environment.
    pub file: String,
    /// The line, from 1.
    pub line: Option<u64>,
    /// The column, from 1.
    pub column: Option<u64>,
    /// What is wrong and what to do.
    pub message: String,
    /// What is at fault.
    pub kind: CompileErrorKind,
}

impl CompileError {
    /// Returns an error at a file as a whole.
    pub(crate) fn at(file: &str, message: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: None, column: None, message: message.into(), kind: CompileErrorKind::Code }
    }

    /// Returns the same at a column; 0 for none.
    pub(crate) const fn with_column(mut self, column: u64) -> Self {
        self.column = if column == 0 { None } else { Some(column) };
        self
    }

    /// Returns the same as the fault of the server.
    pub(crate) const fn of_server(mut self) -> Self {
        self.kind = CompileErrorKind::Server;
        self
    }

    /// Returns the same, with whether the server or the code is at fault.
    pub(crate) const fn with_kind(mut self, kind: CompileErrorKind) -> Self {
        self.kind = kind;
        self
    }

    /// Returns the same at a line; 0 for none.
    pub(crate) const fn with_line(mut self, line: u64) -> Self {
        self.line = if line == 0 { None } else { Some(line) };
        self
    }
}

/// Reads a file of the code, at most `limit` bytes, verified; `None` when the code has none there. Blocking.
///
/// # Errors
///
/// [`CompileErrorKind::Unreadable`] when the server has its content damaged or not at all; when the file is longer it is the code's fault.
pub fn read(code: &Code, path: &TreePath, limit: u64) -> Result<Option<Bytes>, CompileError> {
    let (digest, size) = match code.manifest.get(path).map(|entry| &entry.kind) {
        Some(EntryKind::File { digest, size }) => (*digest, *size),
        _ => return Ok(None),
    };
    let file = path.to_string();
    if size > limit {
        return Err(CompileError::at(&file, format!("it is longer than {limit} bytes")));
    }
    let kind = CompileErrorKind::Unreadable { digest };
    code.read(path, limit).map_err(|error| CompileError { kind, ..CompileError::at(&file, chain(&error)) })
}

/// Makes catalogs.
///
/// # Obligations
///
/// * The same code, certname, facts and extensions give the same catalog, byte for byte.
/// * Nothing is read but the code given, and that with [`read`]: what it fails with is passed on as it is. (What code in Ruby reads by
///   itself is its author's responsibility.)
/// * Both methods block, and end in bounded time.
pub trait Compiler: Debug + Send + Sync + 'static {
    /// Returns name and version, as `manifest 1`; a new version compiles everything anew.
    fn name_and_version(&self) -> &str;

    /// Checks code that is about to be published, for whatever can be found out without a node.
    ///
    /// # Errors
    ///
    /// Names file, line and column.
    fn check(&self, code: &Code) -> Result<(), CompileError>;

    /// Returns the environment that a node classifier puts a node into; `None` where there is no classifier, or it says none. Blocking.
    ///
    /// # Errors
    ///
    /// When the classifier does not say what the node is: the reason.
    fn environment_of(&self, _certname: &Certname) -> Result<Option<Environment>, String> {
        Ok(None)
    }

    /// Reads again whatever it has written out of the code; says what is damaged, of which nothing is compiled from now on (what is being
    /// compiled just now may be of it), and what could not be read. Blocking.
    fn verify(&self) -> Vec<String> {
        Vec::new()
    }

    /// Compiles the catalog of one node.
    ///
    /// # Errors
    ///
    /// Names the place in the code, and what is wrong with it for this node.
    fn compile(&self, request: &CompileRequest) -> Result<Compiled, CompileError>;
}
