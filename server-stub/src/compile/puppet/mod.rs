//! Compiles real Puppet code with the Puppet or OpenVox library that is installed.
//!
//! For each version of an environment's code there is one *warm parent*: a Ruby process that has loaded the library and parsed what
//! compiles have needed so far, from a checkout of exactly that version. It runs no Ruby of the code itself. Each catalog is compiled in a
//! child that it forks. So whatever code does (define types and functions, change global state, call `exit!`) ends with one compile, no
//! environment sees another's, and a publish disturbs nothing: a new version has a parent and a checkout of its own.
//!
//! A fork costs a few milliseconds; what the child found in the code is told to the parent, which parses it once for all that follow.
//!
//! A child that takes too long or grows too big is killed with all that it has started. Parents are started when there is something
//! to compile, replaced by age and number of compiles, and end by themselves when idle. When the server dies they end too.
//!
//! What comes back is a catalog that is not static. [`sources`] resolves each `puppet:` source against the published manifest, where the
//! digest of every file is already: nothing is hashed.

mod catalog;
mod checkout;
mod classify;
mod error;
mod message;
mod oid_mapping;
mod options;
mod pool;
mod sources;
#[cfg(test)]
mod tests;
mod worker;

use std::time::Instant;

use direct_puppet_transport::protocol::{Catalog, Certname, Environment};

use super::{CompileError, CompileRequest, Compiled, Compiler};
use crate::code::Code;

pub use oid_mapping::OidMappingError;
pub use options::PuppetOptions;

use error::WorkerError;
use message::{Answer, Question};
use pool::{Lease, Pool};

/// Compiles real Puppet code.
#[derive(Debug)]
pub struct PuppetCompiler {
    options: PuppetOptions,
    pool: Pool,
}

impl PuppetCompiler {
    /// Returns a compiler. No process is started and no file is touched before there is something to compile.
    #[must_use]
    pub fn new(options: PuppetOptions) -> Self {
        Self { pool: Pool::new(options.clone()), options }
    }

    /// Asks a child of the warm parent of `code`. A parent that has just ended, as idle ones do, is replaced once.
    fn ask(&self, code: &Code, question: &Question<'_>) -> Result<(Answer, Lease), CompileError> {
        let of_server = |error: &WorkerError| error::compile_error(code, question, error);
        let bytes = serde_json::to_vec(question).map_err(|error| of_server(&WorkerError::Question(error.to_string())))?;
        let mut is_second = false;
        loop {
            let lease = self.pool.lease(code)?;
            match lease.worker.ask(&bytes, &self.options) {
                Ok(answer) => return Ok((Answer::read(&answer).map_err(|error| of_server(&error))?, lease)),
                Err(error) => {
                    if error.is_fault_of_parent() {
                        self.pool.discard(code, &lease.worker);
                    }
                    if is_second || !matches!(error, WorkerError::Gone) {
                        return Err(of_server(&error));
                    }
                    is_second = true;
                }
            }
        }
    }
}

impl Compiler for PuppetCompiler {
    fn name_and_version(&self) -> &str {
        "puppet 2"
    }

    /// Parses what every node needs: the manifests of the environment itself. What is wrong in a module is told to the nodes that use it.
    fn check(&self, code: &Code) -> Result<(), CompileError> {
        match self.ask(code, &Question::check()) {
            Ok((Answer::Checked, _)) => Ok(()),
            Ok((Answer::Failed(failed), lease)) => Err(failed.error(&lease.checkout, None)),
            Ok((answer, _)) => Err(error::unexpected(code, &answer)),
            // Publishing does not need Ruby; nodes are told.
            Err(error) if error.kind == super::CompileErrorKind::NoCompiler => {
                tracing::warn!("code is published without a look at its manifests: {error}");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn environment_of(&self, certname: &Certname) -> Result<Option<Environment>, String> {
        classify::environment(&self.options, certname)
    }

    fn verify(&self) -> Vec<String> {
        self.pool.verify()
    }

    fn compile(&self, request: &CompileRequest) -> Result<Compiled, CompileError> {
        let (code, certname) = (&request.code, &request.certname);
        let begun = Instant::now();
        let done = self.catalog(request);
        match &done {
            Ok(_) => tracing::info!(%certname, environment = %code.version.environment, code_id = %code.version.code_id,
                milliseconds = begun.elapsed().as_millis(), "compiled"),
            Err(error) => tracing::error!(%certname, environment = %code.version.environment, "{error}"),
        }
        done.map(|catalog| Compiled { catalog, contents: Vec::new() })
    }
}

impl PuppetCompiler {
    fn catalog(&self, request: &CompileRequest) -> Result<Catalog, CompileError> {
        let (code, certname) = (&request.code, &request.certname);
        let classification = classify::classify(&self.options, request)?;
        let question = Question::compile(request, classification.as_ref());
        let (answer, lease) = self.ask(code, &question)?;
        match answer {
            Answer::Compiled(compiled) => {
                compiled.logs.iter().for_each(|entry| entry.log(&lease.checkout, certname));
                catalog::read(request, compiled.catalog, compiled.modules, &lease.checkout)
            }
            Answer::Failed(failed) => {
                failed.logs.iter().filter(|entry| !entry.is_error()).for_each(|entry| entry.log(&lease.checkout, certname));
                Err(failed.error(&lease.checkout, Some(certname)))
            }
            answer @ Answer::Checked => Err(error::unexpected(code, &answer)),
        }
    }
}
