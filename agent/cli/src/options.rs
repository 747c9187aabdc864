//! Options that every verb has.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use direct_puppet_agent::facts::ExternalFacts;
use direct_puppet_agent::provider::executable::ExecutableProvider;
use direct_puppet_agent::provider::ruby::RubyOptions;
use direct_puppet_agent::system::{RealSystem, hostname};
use direct_puppet_agent::{Agent, AgentBuilder, Compression, DEFAULT_STATE_DIR};
use direct_puppet_transport::protocol::{Certname, Environment, Value};
use direct_puppet_transport::{HttpSourceClient, Transport};

use crate::config;
use crate::log::LogFormat;
use crate::reporting::{self, ReportTo};

/// Options that every verb has; each can stand in the configuration file too.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// Manage everything below this directory instead of "/"
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Keep state here [default: var/lib/direct-puppet below the root]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Name of this node [default: the host's name]
    #[arg(long, global = true, value_name = "NAME", visible_alias = "certname")]
    pub(crate) node: Option<Certname>,
    /// Environment [default: production]
    #[arg(long, global = true, value_name = "ENV")]
    pub(crate) environment: Option<Environment>,
    /// Facts in JSON or YAML, added to those of the machine
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) facts: Option<PathBuf>,
    /// Directory with external facts, beside Facter's usual ones; can be given again, the first one wins
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) external_dir: Vec<PathBuf>,
    /// Directory with programs that manage types of your own, as level.py for Level; can be given again
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) provider_dir: Vec<PathBuf>,
    /// Ruby with Puppet's library, for types that exist only in Ruby [default: that of puppet-agent or openvox-agent, else ruby]
    #[arg(long, global = true, value_name = "PROGRAM")]
    pub(crate) ruby: Option<PathBuf>,
    /// Directory with types and providers in Ruby, in place of Puppet's libdir; can be given again
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) ruby_lib: Vec<PathBuf>,
    /// Start no Ruby: resources of types that exist only there fail
    #[arg(long, global = true)]
    pub(crate) no_ruby: bool,
    /// Configuration file in TOML, with these options as keys
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Read the catalog and ask every provider in each run, also when all that an earlier run looked at is as it was
    #[arg(long, global = true)]
    pub(crate) no_settled: bool,
    /// Threads that look at files and read them [default: one for each processor]; one alone has the descriptors that all have
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Refuse the whole run when one resource has an unknown type or bad parameters, instead of failing it alone
    #[arg(long, global = true, alias = "strict_types")]
    pub(crate) strict_types: bool,
    /// Draw the catalog of each run for GraphViz, in "graphs" of the state directory: resources.dot, relationships.dot, expanded_relationships.dot
    #[arg(long, global = true)]
    pub(crate) graph: bool,
    /// Give reports to this too: puppet=URL, puppetdb=URL, foreman=URL, store=DIR, prometheus=FILE; can be given again
    #[arg(long, global = true, value_name = "KIND=TARGET")]
    pub(crate) report_to: Vec<ReportTo>,
    /// Print one JSON object instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// How to write what runs tell and log: text, json (one object a line), journald
    #[arg(long, global = true, value_name = "FORMAT", value_enum)]
    pub(crate) log_format: Option<LogFormat>,
    /// Log more; twice for everything
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Directory with certificates in Puppet's layout [default for puppet://: where Puppet's packages have it]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) ssldir: Option<PathBuf>,
    /// URL of the server: https://host:8140, http://127.0.0.1:8141, unix:/run/direct-puppet.sock; puppet://host:8140 for a Puppet Server
    #[arg(long, global = true, value_name = "URL", env = "DIRECT_PUPPET_SERVER")]
    pub(crate) server: Option<String>,
    /// Get contents compressed, and against what this node has, and send reports compressed: auto (unless the server is on this machine), always, never
    #[arg(long, global = true, value_name = "WHEN")]
    pub(crate) compression: Option<Compression>,
}

impl Common {
    pub(crate) fn verbosity(&self) -> &'static str {
        match self.verbose {
            0 => "warn",
            1 => "info",
            _ => "debug",
        }
    }

    /// Fills in from the configuration file what the command line does not say.
    pub(crate) fn merged_with_config(mut self) -> anyhow::Result<Self> {
        let Some(path) = &self.config else { return Ok(self) };
        let config = config::load(path)?;
        self.root = self.root.or(config.root);
        self.state_dir = self.state_dir.or(config.state_dir);
        self.node = self.node.or(config.node);
        self.environment = self.environment.or(config.environment);
        self.facts = self.facts.or(config.facts);
        self.no_settled |= config.no_settled.unwrap_or_default();
        self.threads = self.threads.or(config.threads.map(std::num::NonZeroU16::get));
        self.strict_types |= config.strict_types.unwrap_or_default();
        self.graph |= config.graph.unwrap_or_default();
        if self.external_dir.is_empty() {
            self.external_dir = config.external_dir;
        }
        if self.provider_dir.is_empty() {
            self.provider_dir = config.provider_dir;
        }
        self.ruby = self.ruby.or(config.ruby);
        if self.ruby_lib.is_empty() {
            self.ruby_lib = config.ruby_lib;
        }
        self.no_ruby |= config.no_ruby.unwrap_or_default();
        if self.report_to.is_empty() {
            self.report_to = config.report_to;
        }
        self.log_format = self.log_format.or(config.log_format);
        self.ssldir = self.ssldir.or(config.ssldir);
        self.server = self.server.or(config.server);
        self.compression = self.compression.or(config.compression);
        Ok(self)
    }

    pub(crate) fn root(&self) -> anyhow::Result<PathBuf> {
        let root = self.root.clone().unwrap_or_else(|| PathBuf::from("/"));
        std::path::absolute(&root).with_context(|| format!("could not make {} absolute", root.display()))
    }

    pub(crate) fn state_dir(&self) -> anyhow::Result<PathBuf> {
        match &self.state_dir {
            Some(dir) => std::path::absolute(dir).with_context(|| format!("could not make {} absolute", dir.display())),
            None => Ok(self.root()?.join(DEFAULT_STATE_DIR)),
        }
    }

    pub(crate) fn certname(&self) -> anyhow::Result<Certname> {
        if let Some(node) = &self.node {
            return Ok(node.clone());
        }
        let name = hostname();
        name.parse().with_context(|| format!("the host's name {name:?} cannot name a node: give one with --node"))
    }

    /// Returns a builder that has everything but a transport.
    pub(crate) fn builder(&self) -> anyhow::Result<AgentBuilder<()>> {
        Ok(Agent::builder()
            .root(self.root()?)
            .state_dir(self.state_dir()?)
            .certname(self.certname()?)
            .environment(self.environment.clone().unwrap_or_default())
            .settled(!self.no_settled)
            .threads(self.threads.map_or(0, usize::from))
            .strict_types(self.strict_types)
            .graph(self.graph)
            .compression(self.compression.unwrap_or_default())
            .system(self.system()?))
    }

    pub(crate) fn agent<T: Transport>(&self, transport: T) -> anyhow::Result<Agent<T>> {
        self.complete(self.builder()?.transport(transport))
    }

    /// Adds the types and the processors of reports that the options name, and makes the agent.
    pub(crate) fn complete<T: Transport>(&self, builder: AgentBuilder<T>) -> anyhow::Result<Agent<T>> {
        let http = HttpSourceClient::new();
        // As Puppet, which trusts its own authority beside the machine's.
        let http = match &self.ssldir {
            Some(ssldir) => http.trusting(ssldir.join("certs/ca.pem")),
            None => http,
        };
        let mut builder = reporting::add(self, builder)?.http_source(http);
        for dir in &self.provider_dir {
            let programs = ExecutableProvider::in_directory(dir);
            let programs =
                programs.with_context(|| format!("could not take the programs of the provider directory {}", dir.display()))?;
            builder = programs.into_iter().fold(builder, |builder, program| builder.provider(program));
        }
        if let Some(ruby) = self.ruby_options()? {
            builder = builder.ruby(ruby);
        }
        Ok(builder.build()?)
    }

    /// Returns how types that exist only in Ruby are applied; `None` when they are not to be.
    fn ruby_options(&self) -> anyhow::Result<Option<RubyOptions>> {
        if self.no_ruby {
            return Ok(None);
        }
        let absolute =
            |path: &PathBuf| std::path::absolute(path).with_context(|| format!("could not make {} absolute", path.display()));
        let mut options = RubyOptions::default();
        options.program = match &self.ruby {
            Some(program) if program.components().count() > 1 => Some(absolute(program)?),
            other => other.clone(),
        };
        options.libraries = self.ruby_lib.iter().map(absolute).collect::<anyhow::Result<_>>()?;
        options.check().context("could not use what --ruby and --ruby-lib name (--no-ruby does without)")?;
        Ok(Some(options))
    }

    /// Returns this machine, with the facts that were given beside its own.
    pub(crate) fn system(&self) -> anyhow::Result<RealSystem> {
        let external_facts = ExternalFacts { dirs: self.external_dir.clone(), ..ExternalFacts::default() };
        Ok(RealSystem { external_facts, extra_facts: self.extra_facts()? })
    }

    fn extra_facts(&self) -> anyhow::Result<BTreeMap<String, Value>> {
        let Some(path) = &self.facts else { return Ok(BTreeMap::new()) };
        let text = std::fs::read_to_string(path).with_context(|| format!("could not read the facts in {}", path.display()))?;
        // JSON is YAML too, but its own reader gives better errors.
        let parsed = if path.extension().is_some_and(|extension| extension == "json") {
            serde_json::from_str(&text).map_err(anyhow::Error::from)
        } else {
            serde_saphyr::from_str(&text).map_err(anyhow::Error::from)
        };
        parsed.with_context(|| format!("facts in {} are not one hash of names to values", path.display()))
    }
}
