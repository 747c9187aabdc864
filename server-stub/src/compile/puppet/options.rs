//! How real Puppet code is compiled.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use direct_puppet_agent::system;

use super::oid_mapping::{self, OidMappingError};

/// Ruby of the packages `puppet-agent` and `openvox-agent`, which bring their own.
const PACKAGED_RUBY: &str = "/opt/puppetlabs/puppet/bin/ruby";

/// What Ruby may need to find its library and gems, and programs theirs. Puppet Server passes on as little.
const PASSED_ON: [&str; 14] = [
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "RUBYLIB",
    "RUBYOPT",
    "GEM_HOME",
    "GEM_PATH",
    "LD_LIBRARY_PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// How real Puppet code is compiled.
#[derive(Debug, Clone)]
pub struct PuppetOptions {
    /// Where checkouts are made; nobody else writes there, and what is left from before is removed.
    pub work_dir: PathBuf,
    /// The Ruby that has Puppet's library. Default: the one that packages of Puppet and OpenVox bring, where it is; else `ruby`.
    pub ruby: PathBuf,
    /// A directory with a `puppet.conf`, of which only settings of the compiler count. Default: none.
    pub confdir: Option<PathBuf>,
    /// Puppet's `basemodulepath`: modules that all environments have and nobody publishes, so that `puppet:` sources in them are not
    /// resolved. Default: none.
    pub base_modules: Vec<PathBuf>,
    /// A program that says which classes, parameters and environment a node has, as Puppet's `external_nodes`. Default: none.
    pub classifier: Option<PathBuf>,
    /// Variables of this process's environment that Ruby and the classifier get; no others, for there may be secrets in them. Default: those
    /// that say where programs, libraries and settings are, and which language and time zone.
    pub environment_variables: Vec<String>,
    /// How long one compile, or one answer of the classifier, may take. Default: three minutes.
    pub time_limit: Duration,
    /// How many bytes of memory one compile may take (resident). Default: 1 GiB.
    pub memory_limit_bytes: u64,
    /// When a warm parent is replaced. Default: after a day.
    pub max_age: Duration,
    /// After how many compiles a warm parent is replaced. Default: 100,000.
    pub max_compiles: u64,
    /// How many warm parents there are at most, each for one version of the code of one environment. Default: 8.
    pub max_parents: usize,
    /// When a warm parent that compiles nothing ends by itself. Default: after ten minutes.
    pub idle_for: Duration,
    /// The `servername` that code sees. Default: the name of this machine.
    pub server_name: String,
}

impl PuppetOptions {
    /// Leaves a command only the variables that it may have.
    #[expect(clippy::disallowed_methods, reason = "which variables are read is an option")]
    pub(super) fn limit_environment(&self, command: &mut Command) {
        let passed = self.environment_variables.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        command.env_clear().envs(passed);
    }

    /// Looks at `custom_trusted_oid_mapping.yaml` of [`PuppetOptions::confdir`]. Blocking.
    ///
    /// # Errors
    ///
    /// When one extension would have the name of another, so that what code sees of a certificate would depend on their order.
    pub fn check_oid_mapping(&self) -> Result<(), OidMappingError> {
        self.confdir.as_deref().map_or(Ok(()), oid_mapping::check)
    }

    /// Returns the directory for checkouts of a server with these data.
    #[must_use]
    pub fn dir_in(data_dir: &Path) -> PathBuf {
        data_dir.join("compile")
    }

    /// Returns defaults with this directory for checkouts.
    #[must_use]
    pub fn new(work_dir: impl Into<PathBuf>) -> Self {
        let packaged = PathBuf::from(PACKAGED_RUBY);
        Self {
            work_dir: work_dir.into(),
            ruby: if packaged.exists() { packaged } else { "ruby".into() },
            confdir: None,
            base_modules: Vec::new(),
            classifier: None,
            environment_variables: PASSED_ON.map(str::to_owned).to_vec(),
            time_limit: Duration::from_secs(180),
            memory_limit_bytes: 1 << 30,
            max_age: Duration::from_secs(24 * 3600),
            max_compiles: 100_000,
            max_parents: 8,
            idle_for: Duration::from_secs(600),
            server_name: system::hostname(),
        }
    }
}
