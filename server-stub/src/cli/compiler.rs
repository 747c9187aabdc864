//! Options of `serve` that say how code is compiled.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, ValueEnum};
use direct_puppet_server_stub::compile::{AutomaticCompiler, Compiler, ManifestCompiler, PuppetCompiler, PuppetOptions};
use serde::Deserialize;

/// Longest compile that can be allowed: a day.
const MOST_SECONDS: u64 = 24 * 3600;

/// Most memory that can be allowed: 1 TiB.
const MOST_MEBIBYTES: u64 = 1 << 20;

/// Which compiler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Choice {
    /// The built-in one for environments with a site.yaml, Puppet's for the others
    Automatic,
    /// The built-in one, which needs no Ruby
    Manifest,
    /// Puppet's, for all environments
    Puppet,
}

/// Options; each can stand in the configuration file too.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Options {
    /// Compiler of the code [default: automatic]
    #[arg(long, value_name = "WHICH")]
    compiler: Option<Choice>,
    /// The Ruby that has Puppet's library [default: that of puppet-agent or openvox-agent, else ruby]
    #[arg(long, value_name = "PROGRAM")]
    ruby: Option<PathBuf>,
    /// Directory with a puppet.conf, of which settings of the compiler count [default: none]
    #[arg(long, value_name = "DIR")]
    puppet_confdir: Option<PathBuf>,
    /// Directory with modules for all environments that are not published (basemodulepath) [default: none]
    #[arg(long, value_name = "DIR")]
    #[serde(default)]
    base_modules: Vec<PathBuf>,
    /// Program that says which classes, parameters and environment a node has (external_nodes)
    #[arg(long, value_name = "PROGRAM")]
    node_classifier: Option<PathBuf>,
    /// Variable of this program's environment that Ruby and the classifier get too, beside PATH, HOME, LANG and the like
    #[arg(long, value_name = "NAME")]
    #[serde(default)]
    compile_env: Vec<String>,
    /// How long the compile of one catalog of Puppet code may take [default: 180]
    #[arg(long, value_name = "SECONDS")]
    compile_seconds: Option<u64>,
    /// How much memory it may take [default: 1024]
    #[arg(long, value_name = "MIB")]
    compile_memory: Option<u64>,
}

impl Options {
    /// Returns these with those of the configuration file where these say nothing.
    pub(super) fn or(self, config: Self) -> Self {
        Self {
            compiler: self.compiler.or(config.compiler),
            ruby: self.ruby.or(config.ruby),
            puppet_confdir: self.puppet_confdir.or(config.puppet_confdir),
            base_modules: if self.base_modules.is_empty() { config.base_modules } else { self.base_modules },
            node_classifier: self.node_classifier.or(config.node_classifier),
            compile_env: if self.compile_env.is_empty() { config.compile_env } else { self.compile_env },
            compile_seconds: self.compile_seconds.or(config.compile_seconds),
            compile_memory: self.compile_memory.or(config.compile_memory),
        }
    }

    /// Returns the compiler for a server with these data.
    pub(super) fn compiler(&self, data: &Path) -> anyhow::Result<Arc<dyn Compiler>> {
        let is_within = |value: Option<u64>, most: u64| value.is_none_or(|value| (1..=most).contains(&value));
        if !is_within(self.compile_seconds, MOST_SECONDS) || !is_within(self.compile_memory, MOST_MEBIBYTES) {
            bail!("--compile-seconds must be between 1 and {MOST_SECONDS}, --compile-memory between 1 and {MOST_MEBIBYTES} MiB");
        }
        let mut options = PuppetOptions::new(PuppetOptions::dir_in(data));
        options.ruby = self.ruby.clone().unwrap_or(options.ruby);
        options.confdir = self.puppet_confdir.as_deref().map(std::path::absolute).transpose()?;
        options.base_modules = self.base_modules.iter().map(std::path::absolute).collect::<Result<_, _>>()?;
        options.classifier = self.node_classifier.as_deref().map(std::path::absolute).transpose()?;
        options.environment_variables.extend(self.compile_env.iter().cloned());
        options.time_limit = self.compile_seconds.map_or(options.time_limit, Duration::from_secs);
        options.memory_limit_bytes = self.compile_memory.map_or(options.memory_limit_bytes, |mebibytes| mebibytes << 20);
        options.check_oid_mapping()?;
        let puppet = PuppetCompiler::new(options);
        Ok(match self.compiler.unwrap_or(Choice::Automatic) {
            Choice::Automatic => Arc::new(AutomaticCompiler::new(puppet)),
            Choice::Manifest => Arc::new(ManifestCompiler::default()),
            Choice::Puppet => Arc::new(puppet),
        })
    }
}
