//! The configuration file: TOML, unknown keys are errors.

use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use direct_puppet_agent::Compression;
use direct_puppet_transport::protocol::{Certname, Environment};
use serde::Deserialize;

use crate::log::LogFormat;
use crate::reporting::ReportTo;

/// Keys of the configuration file; each is an option of the same name.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) root: Option<PathBuf>,
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) node: Option<Certname>,
    pub(crate) environment: Option<Environment>,
    pub(crate) facts: Option<PathBuf>,
    pub(crate) no_settled: Option<bool>,
    pub(crate) threads: Option<NonZeroU16>,
    pub(crate) strict_types: Option<bool>,
    pub(crate) graph: Option<bool>,
    #[serde(default)]
    pub(crate) external_dir: Vec<PathBuf>,
    #[serde(default)]
    pub(crate) report_to: Vec<ReportTo>,
    #[serde(default)]
    pub(crate) provider_dir: Vec<PathBuf>,
    pub(crate) ruby: Option<PathBuf>,
    #[serde(default)]
    pub(crate) ruby_lib: Vec<PathBuf>,
    pub(crate) no_ruby: Option<bool>,
    pub(crate) log_format: Option<LogFormat>,
    pub(crate) ssldir: Option<PathBuf>,
    pub(crate) server: Option<String>,
    pub(crate) compression: Option<Compression>,
}

pub(crate) fn load(path: &Path) -> anyhow::Result<Config> {
    let text = std::fs::read_to_string(path).with_context(|| format!("could not read configuration {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("configuration {} is not valid", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_errors() {
        let error = toml::from_str::<Config>("sever = \"https://x\"").unwrap_err();
        assert!(error.to_string().contains("unknown field `sever`"), "{error}");
    }
}
