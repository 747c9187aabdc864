//! Package managers, and what each can do.

use std::cmp::Ordering;

use async_trait::async_trait;

use super::parameters::Parameters;
use super::{apt, gem, pip, rpm};
use crate::provider::Context;
use crate::provider::programs::Programs;

/// A package manager, as `provider` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Apt,
    Dpkg,
    Dnf,
    Yum,
    Rpm,
    Gem,
    Pip,
    Pip2,
    Pip3,
}

/// What a package manager can do.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Features {
    pub(super) purges: bool,
    pub(super) versions: bool,
    pub(super) holds: bool,
    /// It knows ranges of versions.
    pub(super) ranges: bool,
    /// It installs files only.
    pub(super) needs_source: bool,
    /// Another program may stand in for it.
    pub(super) has_command: bool,
}

impl Kind {
    pub(super) const NAMES: &'static [(&'static str, Self)] = &[
        ("apt", Self::Apt),
        ("dpkg", Self::Dpkg),
        ("dnf", Self::Dnf),
        ("yum", Self::Yum),
        ("rpm", Self::Rpm),
        ("gem", Self::Gem),
        ("pip", Self::Pip),
        ("pip2", Self::Pip2),
        ("pip3", Self::Pip3),
    ];

    pub(super) fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }

    /// Returns what it can do, as Puppet's provider of the name says.
    pub(super) const fn features(self) -> Features {
        let none =
            Features { purges: false, versions: false, holds: false, ranges: false, needs_source: false, has_command: false };
        match self {
            Self::Apt => Features { purges: true, versions: true, holds: true, ranges: true, ..none },
            Self::Dpkg => Features { purges: true, holds: true, needs_source: true, ..none },
            Self::Dnf | Self::Yum => Features { purges: true, versions: true, ranges: true, ..none },
            // The version is that of the file.
            Self::Rpm => Features { versions: true, needs_source: true, ..none },
            Self::Gem | Self::Pip | Self::Pip2 | Self::Pip3 => {
                Features { versions: true, ranges: true, has_command: true, ..none }
            }
        }
    }

    pub(super) fn manager(self) -> Box<dyn Manager> {
        match self {
            Self::Apt => Box::new(apt::Apt),
            Self::Dpkg => Box::new(apt::Dpkg),
            Self::Dnf => Box::new(rpm::Yum { program: "dnf" }),
            Self::Yum => Box::new(rpm::Yum { program: "yum" }),
            Self::Rpm => Box::new(rpm::Rpm),
            Self::Gem => Box::new(gem::Gem),
            Self::Pip => Box::new(pip::Pip { program: "pip" }),
            Self::Pip2 => Box::new(pip::Pip { program: "pip2" }),
            Self::Pip3 => Box::new(pip::Pip { program: "pip3" }),
        }
    }

    /// Returns the package manager of the system: as `os-release` says what it is like, else the first that is there.
    pub(super) fn of_system(os_release: &str, programs: &Programs<'_>) -> Option<Self> {
        let like: Vec<&str> = os_release
            .lines()
            .filter_map(|line| line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE=")))
            .flat_map(|value| value.trim_matches(['"', '\'']).split_whitespace())
            .collect();
        if like.iter().any(|id| ["debian", "ubuntu"].contains(id)) {
            return Some(Self::Apt);
        }
        let order = [("dnf", Self::Dnf), ("yum", Self::Yum), ("apt-get", Self::Apt), ("rpm", Self::Rpm), ("dpkg", Self::Dpkg)];
        order.into_iter().find(|(program, _)| programs.has(program)).map(|(_, kind)| kind)
    }
}

/// What is there of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Installed {
    /// Not even its configuration.
    Purged,
    Absent,
    /// These versions; several of a gem or a kernel.
    Versions(Vec<String>),
}

/// A package as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    pub(super) installed: Installed,
    pub(super) held: bool,
    /// Its real name, when another provides what was asked for.
    pub(super) name: Option<String>,
}

impl State {
    /// Returns the state of a package that is there in these versions, or absent without any.
    pub(super) fn of_versions(versions: Vec<String>) -> Self {
        let installed = if versions.is_empty() { Installed::Absent } else { Installed::Versions(versions) };
        Self { installed, held: false, name: None }
    }

    pub(super) fn is_there(&self) -> bool {
        matches!(self.installed, Installed::Versions(_))
    }

    pub(super) fn versions(&self) -> &[String] {
        match &self.installed {
            Installed::Versions(versions) => versions,
            _ => &[],
        }
    }
}

/// A package, and everything that is needed to look at it and to change it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) context: &'a Context,
    pub(super) programs: Programs<'a>,
    pub(super) parameters: &'a Parameters,
    pub(super) files: &'a apt::DpkgFiles,
}

impl Subject<'_> {
    /// Runs a program with arguments; what it says is part of the error when it fails.
    pub(super) async fn run(&self, argv: &[&str]) -> Result<String, String> {
        self.programs.answer(argv).await
    }
}

/// Appends owned arguments to others.
pub(super) fn with<'a>(mut argv: Vec<&'a str>, more: &'a [String]) -> Vec<&'a str> {
    argv.extend(more.iter().map(String::as_str));
    argv
}

/// One package manager.
#[async_trait]
pub(super) trait Manager: Send + Sync {
    /// Finds out what is there.
    async fn query(&self, subject: &Subject<'_>) -> Result<State, String>;
    /// Finds out the newest version that could be installed.
    async fn latest(&self, subject: &Subject<'_>, state: &State) -> Result<String, String>;
    /// Returns how a package is installed in one transaction with others that have the same call: the call, and the word that is added to it
    /// for this package. `None` when it needs one of its own.
    fn joint(&self, _subject: &Subject<'_>, _state: &State) -> Option<(Vec<String>, String)> {
        None
    }
    /// Makes a transaction of what [`Manager::joint`] returned.
    async fn install_together(&self, subject: &Subject<'_>, argv: &[&str]) -> Result<(), String> {
        subject.run(argv).await.map(drop)
    }
    /// Installs the version that the parameters ask for, or brings the package to it.
    async fn install(&self, subject: &Subject<'_>, state: &State) -> Result<(), String>;
    async fn remove(&self, subject: &Subject<'_>, state: &State) -> Result<(), String>;
    async fn purge(&self, subject: &Subject<'_>, state: &State) -> Result<(), String> {
        self.remove(subject, state).await
    }
    /// Holds the package at its version, or no longer.
    async fn hold(&self, _subject: &Subject<'_>, _held: bool) -> Result<(), String> {
        Err("it cannot hold packages".to_owned())
    }
    /// Compares two versions; only asked of those that know ranges.
    fn compare(&self, a: &str, b: &str) -> Ordering {
        a.cmp(b)
    }
    /// Lists all versions that could be installed; only asked of those that know ranges.
    async fn available(&self, _subject: &Subject<'_>) -> Result<Vec<String>, String> {
        Ok(Vec::new())
    }
    /// Returns whether an installed version is the wanted one.
    fn is_version(&self, installed: &str, wanted: &str) -> bool {
        installed == wanted
    }
}
