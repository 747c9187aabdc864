//! Chooses the compiler of an environment by what is in it.

use direct_puppet_transport::protocol::{Certname, Environment, TreePath};

use super::puppet::PuppetCompiler;
use super::site::SITE;
use super::{CompileError, CompileRequest, Compiled, Compiler, ManifestCompiler};
use crate::code::Code;

/// What an environment of real Puppet code has, one of them at least.
const OF_PUPPET: [&str; 2] = ["manifests", "environment.conf"];

/// Compiles environments with a `site.yaml` by [`ManifestCompiler`], and those without one that look like Puppet's by [`PuppetCompiler`].
#[derive(Debug)]
pub struct AutomaticCompiler {
    manifest: ManifestCompiler,
    puppet: PuppetCompiler,
}

impl AutomaticCompiler {
    /// Returns one that has `puppet` compile real Puppet code.
    #[must_use]
    pub fn new(puppet: PuppetCompiler) -> Self {
        Self { manifest: ManifestCompiler::default(), puppet }
    }

    fn of(&self, code: &Code) -> &dyn Compiler {
        let has = |name: &str| name.parse::<TreePath>().is_ok_and(|path| code.manifest.get(&path).is_some());
        // Where there is nothing of either, the error that asks for a site.yaml is the shorter way.
        if !has(SITE) && OF_PUPPET.into_iter().any(has) { &self.puppet } else { &self.manifest }
    }
}

impl Compiler for AutomaticCompiler {
    fn name_and_version(&self) -> &str {
        "automatic 1"
    }

    fn check(&self, code: &Code) -> Result<(), CompileError> {
        self.of(code).check(code)
    }

    fn environment_of(&self, certname: &Certname) -> Result<Option<Environment>, String> {
        self.puppet.environment_of(certname)
    }

    fn verify(&self) -> Vec<String> {
        self.puppet.verify()
    }

    fn compile(&self, request: &CompileRequest) -> Result<Compiled, CompileError> {
        self.of(&request.code).compile(request)
    }
}
