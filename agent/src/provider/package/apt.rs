//! apt and dpkg. What is installed is read from dpkg's own file, without running anything.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use direct_puppet_transport::protocol::TreePath;

use super::manager::{Installed, Manager, State, Subject, with};
use super::parameters::Wanted;
use super::version::compare_debian;
use crate::fs::FsError;
use crate::provider::Context;
use crate::provider::command::Input;
use crate::provider::file::errors;
use crate::provider::programs::failure;
use crate::provider::text_file::{TextCache, TextFile};

/// What dpkg knows of one package; see `dpkg-query(1)`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Record {
    name: String,
    architecture: String,
    /// What somebody wants of it, as `install`, `hold`.
    desired: String,
    /// `ok`, or what is wrong.
    error: String,
    /// How far it is, as `installed`, `config-files`.
    status: String,
    version: String,
    provides: Vec<String>,
}

/// The records of a file in the order of the file, sorted by name for looking up.
#[derive(Debug, Default)]
pub(super) struct Database {
    records: Vec<Record>,
}

fn parse(text: &[u8]) -> Database {
    // It nearly always is text, and to find that out takes much less than to look for what is not.
    let text = std::str::from_utf8(text).map_or_else(|_| String::from_utf8_lossy(text), Cow::Borrowed);
    let mut records = Vec::new();
    let mut record = Record::default();
    let ends = memchr::memchr_iter(b'\n', text.as_bytes()).chain([text.len()]);
    let lines = ends.scan(0, |start, end| text.get(std::mem::replace(start, end + 1)..end));
    for line in lines.chain([""]) {
        // Nearly all lines are of other fields, or go on with them.
        if !matches!(line.as_bytes().first(), None | Some(b'P' | b'A' | b'V' | b'S')) && !line.trim_start().is_empty() {
            continue;
        }
        if line.trim().is_empty() {
            if !record.name.is_empty() {
                records.push(std::mem::take(&mut record));
            }
            record = Record::default();
            continue;
        }
        let Some((field, value)) = line.split_once(':').filter(|_| !line.starts_with([' ', '\t'])) else { continue };
        let value = value.trim();
        match field {
            "Package" => value.clone_into(&mut record.name),
            "Architecture" => value.clone_into(&mut record.architecture),
            "Version" => value.clone_into(&mut record.version),
            "Status" => {
                let mut words = value.split_whitespace().map(str::to_owned);
                let mut word = || words.next().unwrap_or_default();
                (record.desired, record.error, record.status) = (word(), word(), word());
            }
            "Provides" => {
                let name = |item: &str| item.split_whitespace().next().unwrap_or_default().to_owned();
                record.provides = value.split(',').map(name).collect();
            }
            _ => {}
        }
    }
    // A stable sort: of several architectures the first stays the first.
    records.sort_by(|a, b| a.name.cmp(&b.name));
    Database { records }
}

impl Record {
    fn is_installed(&self) -> bool {
        // As Puppet has it: what waits for triggers is installed.
        !matches!(self.status.as_str(), "not-installed" | "config-files" | "half-installed" | "unpacked" | "half-configured")
    }

    fn state(&self) -> Result<State, String> {
        if self.error != "ok" {
            return Err(format!(
                "{} {} is in the error state {}: install it again with dpkg",
                self.name, self.version, self.error
            ));
        }
        Ok(self.installed())
    }

    fn installed(&self) -> State {
        let installed = match self.status.as_str() {
            "not-installed" => Installed::Purged,
            _ if self.is_installed() => Installed::Versions(vec![self.version.clone()]),
            _ => Installed::Absent,
        };
        State { installed, held: self.desired == "hold", name: None }
    }
}

impl Database {
    /// Looks up a package, perhaps of an architecture; of several that one that is installed.
    fn get(&self, name: &str) -> Option<&Record> {
        let (name, architecture) = name.split_once(':').map_or((name, None), |(name, architecture)| (name, Some(architecture)));
        let from = self.records.partition_point(|record| record.name.as_str() < name);
        let same = self.records.get(from..)?.iter().take_while(|record| record.name == name);
        let mut same = same.filter(|record| architecture.is_none_or(|wanted| wanted == record.architecture));
        let first = same.next()?;
        if first.is_installed() { Some(first) } else { Some(same.find(|record| record.is_installed()).unwrap_or(first)) }
    }

    fn providing(&self, name: &str) -> Option<&Record> {
        self.records.iter().find(|record| record.is_installed() && record.provides.iter().any(|provided| provided == name))
    }
}

/// dpkg's files, parsed once for all packages of a catalog.
#[derive(Debug, Default)]
pub(super) struct DpkgFiles {
    status: TextCache<Database>,
}

fn path(text: &str) -> TreePath {
    // The constants given are valid paths.
    TreePath::from_bytes(text.as_bytes()).unwrap_or_default()
}

impl DpkgFiles {
    /// Finds out the state of a package. Blocking.
    fn state(&self, subject: &Subject<'_>) -> Result<State, FsResult> {
        let (context, name) = (subject.context, subject.parameters.name.as_str());
        let database = self.status.load(context, &path("var/lib/dpkg/status"), parse).map_err(FsResult::Files)?;
        // What a dpkg that was interrupted did not get to write into it.
        let updates = context.seen(|| Updates::load(context));
        let updates = updates.0.as_ref().map_err(|reason| FsResult::Broken(reason.clone()))?;
        let newer = updates.iter().rev().find_map(|update| update.get(name)).cloned();
        let state = |record: &Record| record.state().map_err(FsResult::Broken);
        if subject.parameters.allow_virtual == Some(true)
            && newer.is_none()
            && !database.get(name).is_some_and(Record::is_installed)
            && let Some(record) = database.providing(name)
        {
            return Ok(State { name: Some(record.name.clone()), ..state(record)? });
        }
        match newer.as_ref().or_else(|| database.get(name)) {
            Some(record) => state(record),
            None => Ok(State { installed: Installed::Purged, held: false, name: None }),
        }
    }
}

impl DpkgFiles {
    /// Finds out the states of all packages that are known, by name. Blocking, for the time of reading a few files.
    pub(super) fn states(&self, context: &Context) -> Result<BTreeMap<String, State>, String> {
        let database = self.status.load(context, &path("var/lib/dpkg/status"), parse).map_err(|error| errors::chain(&error))?;
        let updates = Updates::load(context).0?;
        let mut names: BTreeSet<&str> = BTreeSet::new();
        names.extend([&*database].into_iter().chain(&updates).flat_map(|of| &of.records).map(|record| record.name.as_str()));
        let newest = |name: &str| updates.iter().rev().find_map(|update| update.get(name)).or_else(|| database.get(name));
        let states = names.into_iter().filter_map(|name| Some((name.to_owned(), newest(name)?)));
        // One that is damaged is no reason to be silent of the others.
        Ok(states.map(|(name, record)| (name, record.installed())).collect())
    }
}

/// What a dpkg that was interrupted did not get to write into its main file, oldest first; or why that is not known.
struct Updates(Result<Vec<Database>, String>);

impl Updates {
    fn load(context: &Context) -> Self {
        let load = || {
            let updates = path("var/lib/dpkg/updates");
            if context.root().stat(&updates)?.is_none() {
                return Ok(Vec::new());
            }
            let mut entries = context.root().list(&updates)?;
            entries.retain(|entry| entry.name.iter().all(u8::is_ascii_digit));
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            let files = entries.iter().filter_map(|entry| updates.child(&entry.name).ok());
            files.map(|file| Ok(parse(&TextFile::load(context, &file)?.text))).collect()
        };
        Self(load().map_err(|error: FsError| errors::chain(&error)))
    }
}

/// Why a state is not known.
enum FsResult {
    Files(FsError),
    Broken(String),
}

pub(super) fn query(subject: &Subject<'_>) -> Result<State, String> {
    // The file is parsed once and then only looked at: not worth a thread for each package.
    subject.files.state(subject).map_err(|error| match error {
        FsResult::Files(error) => errors::chain(&error),
        FsResult::Broken(reason) => reason,
    })
}

/// Returns how to speak of a package, with what to do about states that dpkg and apt are often found in.
fn advise(reason: String) -> String {
    let advice = if reason.contains("dpkg was interrupted") || reason.contains("dpkg --configure -a") {
        "run dpkg --configure -a once by hand"
    } else if reason.contains("lock") && (reason.contains("another process") || reason.contains("Could not get lock")) {
        "another program installs packages just now: the next run tries again"
    } else if reason.contains("apt --fix-broken install") || reason.contains("apt-get -f install") {
        "dependencies are broken: run apt-get --fix-broken install once by hand"
    } else {
        return reason;
    };
    format!("{advice}; {reason}")
}

fn name<'a>(subject: &Subject<'a>, state: &'a State) -> &'a str {
    state.name.as_deref().unwrap_or(&subject.parameters.name)
}

impl Subject<'_> {
    async fn run_advised(&self, argv: &[&str]) -> Result<String, String> {
        self.run(argv).await.map_err(advise)
    }

    /// Runs dpkg for the managed root.
    async fn dpkg(&self, arguments: &[&str], input: Option<Input>) -> Result<(), String> {
        let root = if self.programs.are_of_root() {
            None
        } else {
            let path = std::path::absolute(self.context.root().path());
            Some(format!("--root={}", path.map_err(|error| format!("the managed root has no name: {error}"))?.display()))
        };
        let argv: Vec<&str> = ["dpkg"].into_iter().chain(root.as_deref()).chain(arguments.iter().copied()).collect();
        let output = self.programs.run(&argv, input).await?;
        if output.status.success() { Ok(()) } else { Err(advise(failure(&argv, &output))) }
    }

    /// Answers questions of the package beforehand.
    async fn preseed(&self) -> Result<(), String> {
        match &self.parameters.response_file {
            Some(file) => self.run(&["debconf-set-selections", file]).await.map(drop),
            None => Ok(()),
        }
    }

    async fn select(&self, name: &str, held: bool) -> Result<(), String> {
        let line = format!("{name} {}\n", if held { "hold" } else { "install" });
        self.dpkg(&["--set-selections"], Some(Input(line.into_bytes()))).await
    }
}

/// dpkg alone: packages come from files.
#[derive(Debug)]
pub(super) struct Dpkg;

#[async_trait]
impl Manager for Dpkg {
    async fn query(&self, subject: &Subject<'_>) -> Result<State, String> {
        query(subject)
    }

    async fn latest(&self, subject: &Subject<'_>, _state: &State) -> Result<String, String> {
        let source = subject.parameters.source.as_deref().unwrap_or_default();
        let answer = subject.run(&["dpkg-deb", "--show", "--showformat=${Package} ${Version}", source]).await?;
        let (package, version) = answer.trim().split_once(' ').ok_or_else(|| format!("dpkg-deb says nothing of {source}"))?;
        if package != subject.parameters.name.split(':').next().unwrap_or_default() {
            return Err(format!("{source} is the package {package}"));
        }
        Ok(version.to_owned())
    }

    async fn install(&self, subject: &Subject<'_>, state: &State) -> Result<(), String> {
        let parameters = subject.parameters;
        let source = parameters.source.as_deref().ok_or("dpkg installs files only: give source")?;
        if state.held {
            subject.select(name(subject, state), false).await?;
        }
        let force = if parameters.keeps_configuration { "--force-confold" } else { "--force-confnew" };
        let done = subject.dpkg(&[force, "-i", source], None).await;
        if parameters.held == Some(true) || (state.held && parameters.held.is_none()) {
            subject.select(name(subject, state), true).await?;
        }
        done
    }

    async fn remove(&self, subject: &Subject<'_>, state: &State) -> Result<(), String> {
        subject.dpkg(&["-r", name(subject, state)], None).await
    }

    async fn purge(&self, subject: &Subject<'_>, state: &State) -> Result<(), String> {
        subject.dpkg(&["--purge", name(subject, state)], None).await
    }

    async fn hold(&self, subject: &Subject<'_>, held: bool) -> Result<(), String> {
        subject.select(&subject.parameters.name, held).await
    }
}

/// Beginning of each call of apt: quiet, asks nothing, and waits for others that install packages (seconds).
const APT_GET: [&str; 5] = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=120"];

/// apt: packages come from repositories, or from a file with what it depends on.
#[derive(Debug)]
pub(super) struct Apt;

/// Returns the call that installs, and the word for the package.
fn installing<'a>(subject: &Subject<'a>, state: &State) -> (Vec<&'a str>, String) {
    let parameters = subject.parameters;
    let mut argv = APT_GET.to_vec();
    let keep = parameters.keeps_configuration;
    argv.extend(["-o", if keep { "DPkg::Options::=--force-confold" } else { "DPkg::Options::=--force-confnew" }]);
    let mut package = parameters.name.clone();
    if let Wanted::Version(version) = &parameters.wanted {
        package.push('=');
        package.push_str(version);
        argv.push("--allow-downgrades");
    }
    argv.extend(state.held.then_some("--allow-change-held-packages"));
    argv = with(argv, &parameters.install_options);
    argv.push("install");
    (argv, package)
}

fn refuse_cdrom(subject: &Subject<'_>) -> Result<(), String> {
    let sources = TextFile::load(subject.context, &path("etc/apt/sources.list")).map_err(|error| errors::chain(&error))?;
    let text = String::from_utf8_lossy(&sources.text);
    let has_cdrom = text.lines().any(|line| line.split('#').next().is_some_and(|line| line.contains("cdrom:")));
    if has_cdrom && !subject.parameters.allow_cdrom {
        return Err("/etc/apt/sources.list has a CD, which would be asked for: set allowcdrom, or remove it".to_owned());
    }
    Ok(())
}

#[async_trait]
impl Manager for Apt {
    async fn query(&self, subject: &Subject<'_>) -> Result<State, String> {
        query(subject)
    }

    async fn latest(&self, subject: &Subject<'_>, state: &State) -> Result<String, String> {
        subject.programs.only_running("packages")?;
        let policy = subject.run(&["apt-cache", "policy", "--", name(subject, state)]).await?;
        let candidate = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:")).map(str::trim);
        match candidate.filter(|version| !version.is_empty() && *version != "(none)") {
            Some(version) => Ok(version.to_owned()),
            None => Err("apt knows no version that could be installed: look at the name, or run apt-get update".to_owned()),
        }
    }

    fn joint(&self, subject: &Subject<'_>, state: &State) -> Option<(Vec<String>, String)> {
        let parameters = subject.parameters;
        let is_plain = parameters.source.is_none() && parameters.response_file.is_none();
        let is_held = state.held || parameters.held.is_some();
        if !is_plain || is_held || !subject.programs.are_of_root() || refuse_cdrom(subject).is_err() {
            return None;
        }
        let (argv, package) = installing(subject, state);
        Some((argv.into_iter().map(str::to_owned).collect(), package))
    }

    async fn install_together(&self, subject: &Subject<'_>, argv: &[&str]) -> Result<(), String> {
        subject.run_advised(argv).await.map(drop)
    }

    async fn install(&self, subject: &Subject<'_>, state: &State) -> Result<(), String> {
        let parameters = subject.parameters;
        subject.programs.only_running("packages")?;
        subject.preseed().await?;
        refuse_cdrom(subject)?;
        let (mut argv, package) = installing(subject, state);
        argv.push(parameters.source.as_deref().unwrap_or(&package));
        let done = subject.run_advised(&argv).await;
        if parameters.held == Some(true) || (state.held && parameters.held.is_none()) {
            subject.select(name(subject, state), true).await?;
        }
        done.map(drop)
    }

    async fn remove(&self, subject: &Subject<'_>, state: &State) -> Result<(), String> {
        subject.programs.only_running("packages")?;
        subject.preseed().await?;
        let mut argv = APT_GET.to_vec();
        argv.extend(state.held.then_some("--allow-change-held-packages"));
        argv.extend(["remove", name(subject, state)]);
        subject.run_advised(&argv).await.map(drop)
    }

    async fn purge(&self, subject: &Subject<'_>, state: &State) -> Result<(), String> {
        subject.programs.only_running("packages")?;
        subject.preseed().await?;
        if state.is_there() {
            let mut argv = APT_GET.to_vec();
            argv.extend(state.held.then_some("--allow-change-held-packages"));
            argv.extend(["remove", "--purge", name(subject, state)]);
            return subject.run_advised(&argv).await.map(drop);
        }
        // apt does not purge what is removed already.
        subject.dpkg(&["--purge", name(subject, state)], None).await
    }

    async fn hold(&self, subject: &Subject<'_>, held: bool) -> Result<(), String> {
        subject.programs.only_running("packages")?;
        subject.select(&subject.parameters.name, held).await
    }

    fn compare(&self, a: &str, b: &str) -> Ordering {
        compare_debian(a, b)
    }

    async fn available(&self, subject: &Subject<'_>) -> Result<Vec<String>, String> {
        let table = subject.run(&["apt-cache", "madison", "--", &subject.parameters.name]).await?;
        let version = |line: &str| line.split('|').nth(1).map(|version| version.trim().to_owned());
        Ok(table.lines().filter_map(version).collect())
    }

    fn is_version(&self, installed: &str, wanted: &str) -> bool {
        compare_debian(installed, wanted) == Ordering::Equal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &[u8] = b"Package: b\nStatus: install ok installed\nArchitecture: i386\nVersion: 1\n\
        Description: x\n Package: no\n\nPackage: b\nStatus: hold ok installed\nArchitecture: amd64\nVersion: 2\n\
        Provides: mta (= 1), c\n\nPackage: a\nStatus: deinstall ok config-files\nVersion: 3\n\n\
        Package: d\nStatus: install reinstreq half-installed\nVersion: 4\n\nPackage: a\nStatus: install ok installed\nVersion: 5";

    #[test]
    fn records() {
        let database = parse(STATUS);
        let version = |name: &str| database.get(name).map(|record| record.version.as_str());
        assert_eq!((version("b"), version("b:amd64"), version("b:arm64")), (Some("1"), Some("2"), None));
        assert_eq!((version("a"), version("no"), version("")), (Some("5"), None, None));
        assert!(database.get("b:amd64").unwrap().state().unwrap().held);
        assert!(database.get("d").unwrap().state().unwrap_err().contains("reinstreq"));
        assert_eq!(database.providing("mta").map(|record| record.version.as_str()), Some("2"));
        assert!(parse(b"\xff\n:\n\n\n").records.is_empty());
    }

    #[test]
    fn advice() {
        for (said, advice) in [
            ("E: dpkg was interrupted, you must manually run 'dpkg --configure -a'", "--configure -a once"),
            ("E: Could not get lock /var/lib/dpkg/lock-frontend.", "the next run"),
            ("dpkg: error: dpkg frontend lock was locked by another process with pid 1", "the next run"),
            ("E: Unmet dependencies. Try 'apt --fix-broken install'", "once by hand"),
            ("E: Unable to locate package x", "E: Unable to locate package x"),
        ] {
            assert!(advise(said.to_owned()).contains(advice), "{said}");
            assert!(advise(said.to_owned()).ends_with(said), "{said}");
        }
    }
}
