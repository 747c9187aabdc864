//! rpm, yum and dnf.

use std::cmp::Ordering;

use async_trait::async_trait;

use super::manager::{Manager, State, Subject, with};
use super::parameters::Wanted;
use crate::provider::programs::failure;

/// What is asked of each package: name, epoch, version, release, architecture.
pub(super) const FORMAT: &str = "%{NAME} %|EPOCH?{%{EPOCH}}:{0}| %{VERSION} %{RELEASE} %{ARCH}\\n";

/// Reads lines in [`FORMAT`] as versions: `epoch:version-release`, without an epoch of 0.
pub(super) fn versions(answer: &str) -> Vec<String> {
    let mut versions = Vec::new();
    for line in answer.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, epoch, version, release, _] = fields[..] else { continue };
        let epoch = if epoch == "0" { String::new() } else { format!("{epoch}:") };
        let version = format!("{epoch}{version}-{release}");
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    versions
}

/// Splits a version into epoch, version and release.
fn parts(text: &str) -> (Option<&str>, &str, Option<&str>) {
    let (epoch, rest) = text.split_once(':').map_or((None, text), |(epoch, rest)| (Some(epoch), rest));
    let (version, release) = rest.split_once('-').map_or((rest, None), |(version, release)| (version, Some(release)));
    (epoch, version, release)
}

/// Compares segment by segment as `rpmvercmp` of librpm does: digits as numbers, letters as text, digits above letters; a tilde
/// sorts before everything, the end too, a caret after the end and before the rest.
fn compare_segments(mut a: &str, mut b: &str) -> Ordering {
    let separators = |c: char| !c.is_ascii_alphanumeric() && c != '~' && c != '^';
    loop {
        (a, b) = (a.trim_start_matches(separators), b.trim_start_matches(separators));
        match (a.strip_prefix('~'), b.strip_prefix('~')) {
            (Some(x), Some(y)) => {
                (a, b) = (x, y);
                continue;
            }
            (Some(_), None) => return Ordering::Less,
            (None, Some(_)) => return Ordering::Greater,
            (None, None) => {}
        }
        match (a.strip_prefix('^'), b.strip_prefix('^')) {
            (Some(x), Some(y)) => {
                (a, b) = (x, y);
                continue;
            }
            (Some(_), None) => return if b.is_empty() { Ordering::Greater } else { Ordering::Less },
            (None, Some(_)) => return if a.is_empty() { Ordering::Less } else { Ordering::Greater },
            (None, None) => {}
        }
        let (Some(first), Some(other)) = (a.chars().next(), b.chars().next()) else { return a.len().cmp(&b.len()) };
        let same: fn(char) -> bool = if first.is_ascii_digit() { |c| c.is_ascii_digit() } else { |c| c.is_ascii_alphabetic() };
        if !same(other) {
            return if first.is_ascii_digit() { Ordering::Greater } else { Ordering::Less };
        }
        let cut = |text: &str| text.find(|c: char| !same(c)).unwrap_or(text.len());
        let (x, y) = (&a[..cut(a)], &b[..cut(b)]);
        (a, b) = (&a[x.len()..], &b[y.len()..]);
        let order = if first.is_ascii_digit() {
            let (x, y) = (x.trim_start_matches('0'), y.trim_start_matches('0'));
            x.len().cmp(&y.len()).then_with(|| x.cmp(y))
        } else {
            x.cmp(y)
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// Compares two versions; an epoch or a release that one of them does not name is not compared.
fn compare(a: &str, b: &str) -> Ordering {
    let ((epoch_a, version_a, release_a), (epoch_b, version_b, release_b)) = (parts(a), parts(b));
    let both = |a: Option<&str>, b: Option<&str>| match (a, b) {
        (Some(a), Some(b)) => compare_segments(a, b),
        _ => Ordering::Equal,
    };
    let epochs = compare_segments(epoch_a.unwrap_or("0"), epoch_b.unwrap_or("0"));
    epochs.then_with(|| compare_segments(version_a, version_b)).then_with(|| both(release_a, release_b))
}

async fn query(subject: &Subject<'_>) -> Result<State, String> {
    subject.programs.only_running("packages")?;
    let ask = ["rpm", "-q", "--nosignature", "--nodigest", "--qf", FORMAT];
    let name = subject.parameters.name.as_str();
    let virtual_too = subject.parameters.allow_virtual.unwrap_or(true);
    let asked = [[&ask[..], &[name][..]].concat(), [&ask[..], &["--whatprovides", name]].concat()];
    for argv in asked.iter().take(if virtual_too { 2 } else { 1 }) {
        let output = subject.programs.run(argv, None).await?;
        if output.status.success() {
            let answer = String::from_utf8_lossy(output.stdout()).into_owned();
            let real = answer.split_whitespace().next().filter(|real| *real != name && argv.contains(&"--whatprovides"));
            return Ok(State { name: real.map(str::to_owned), ..State::of_versions(versions(&answer)) });
        }
        // 1 is how it says that there is none; it says so on its standard output or error. A database that cannot be read has
        // the same status.
        let text = output.text();
        if !["is not installed", "no package provides"].iter().any(|words| text.contains(words)) {
            return Err(failure(argv, &output));
        }
    }
    Ok(State::of_versions(Vec::new()))
}

/// Removes with rpm alone, so that nothing else goes with it.
async fn erase(subject: &Subject<'_>, state: &State) -> Result<(), String> {
    let argv = with(vec!["rpm", "-e"], &subject.parameters.uninstall_options);
    let name = state.name.as_deref().unwrap_or(&subject.parameters.name);
    subject.run(&[&argv[..], &[name]].concat()).await.map(drop)
}

/// rpm alone: packages come from files or addresses.
#[derive(Debug)]
pub(super) struct Rpm;

#[async_trait]
impl Manager for Rpm {
    async fn query(&self, subject: &Subject<'_>) -> Result<State, String> {
        query(subject).await
    }

    async fn latest(&self, subject: &Subject<'_>, _state: &State) -> Result<String, String> {
        let source = subject.parameters.source.as_deref().ok_or("rpm installs files only: give source")?;
        let answer = subject.run(&["rpm", "-q", "--qf", FORMAT, "-p", source]).await?;
        versions(&answer).into_iter().next().ok_or_else(|| format!("rpm says nothing of {source}"))
    }

    async fn install(&self, subject: &Subject<'_>, state: &State) -> Result<(), String> {
        let source = subject.parameters.source.as_deref().ok_or("rpm installs files only: give source")?;
        let argv = if state.is_there() { vec!["rpm", "-U", "--oldpackage"] } else { vec!["rpm", "-i"] };
        let mut argv = with(argv, &subject.parameters.install_options);
        argv.push(source);
        subject.run(&argv).await.map(drop)
    }

    async fn remove(&self, subject: &Subject<'_>, state: &State) -> Result<(), String> {
        erase(subject, state).await
    }

    fn is_version(&self, installed: &str, wanted: &str) -> bool {
        compare(installed, wanted) == Ordering::Equal
    }
}

/// yum, and dnf, which takes the same options.
#[derive(Debug)]
pub(super) struct Yum {
    pub(super) program: &'static str,
}

/// Architectures that a name may end with.
const ARCHITECTURES: &[&str] = &["noarch", "x86_64", "i386", "i486", "i586", "i686", "ppc64", "ppc64le", "s390x", "aarch64"];

/// Puts a version behind a name, before its architecture.
fn versioned(name: &str, version: &str) -> String {
    match name.rsplit_once('.').filter(|(_, architecture)| ARCHITECTURES.contains(architecture)) {
        Some((name, architecture)) => format!("{name}-{version}.{architecture}"),
        None => format!("{name}-{version}"),
    }
}

/// Finds the newer version of a package in what `check-update` says: columns of name with architecture, version, repository.
fn update_of(answer: &str, name: &str) -> Option<String> {
    let is_heading = |line: &&str| ["Obsoleting", "Security:", "Update"].iter().any(|word| line.starts_with(word));
    let body = answer.lines().take_while(|line| !is_heading(line));
    // A long name pushes the other columns to the next line.
    let words: Vec<&str> = body.flat_map(str::split_whitespace).collect();
    let is_it = |package: &str| {
        let (short, architecture) = package.rsplit_once('.').unwrap_or_default();
        ARCHITECTURES.contains(&architecture) && (short == name || package == name)
    };
    let update = words.windows(2).find(|pair| is_it(pair[0]))?;
    Some(update[1].strip_prefix("0:").unwrap_or(update[1]).to_owned())
}

impl Yum {
    /// Levels of what they say: nothing but errors.
    fn quiet(&self) -> [&'static str; 5] {
        [self.program, "-d", "0", "-e", if self.program == "dnf" { "1" } else { "0" }]
    }

    /// Returns the call that installs, and the word for the package.
    fn installing<'a>(&'a self, subject: &Subject<'a>, state: &State) -> (Vec<&'a str>, String) {
        let parameters = subject.parameters;
        let update = if self.program == "dnf" { "upgrade" } else { "update" };
        let installed = state.versions().last();
        let (operation, package) = match (&parameters.wanted, installed) {
            (Wanted::Version(version), Some(installed)) => {
                let order = compare(version, installed);
                let operation = if order == Ordering::Less { "downgrade" } else { update };
                (operation, versioned(&parameters.name, version))
            }
            (Wanted::Version(version), None) => ("install", versioned(&parameters.name, version)),
            (Wanted::Latest, Some(_)) => (update, parameters.name.clone()),
            _ => ("install", parameters.name.clone()),
        };
        let mut argv = self.quiet().to_vec();
        argv.push("-y");
        argv = with(argv, &parameters.install_options);
        argv.push(operation);
        (argv, package)
    }
}

#[async_trait]
impl Manager for Yum {
    async fn query(&self, subject: &Subject<'_>) -> Result<State, String> {
        query(subject).await
    }

    async fn latest(&self, subject: &Subject<'_>, state: &State) -> Result<String, String> {
        let name = subject.parameters.name.as_str();
        let repositories = |option: &&String| {
            ["--disablerepo", "--enablerepo", "--disableexcludes"].iter().any(|start| option.starts_with(start))
        };
        let mut argv = vec![self.program, "-q", "check-update"];
        argv.extend(subject.parameters.install_options.iter().filter(repositories).map(String::as_str));
        argv.push(name);
        let output = subject.programs.run(&argv, None).await?;
        let installed = || state.versions().first().cloned().ok_or_else(|| format!("{} knows of no {name}", self.program));
        match output.status.code() {
            Some(0) => installed(),
            // There are updates.
            Some(100) => update_of(&String::from_utf8_lossy(output.stdout()), name).map_or_else(installed, Ok),
            _ => Err(failure(&argv, &output)),
        }
    }

    fn joint(&self, subject: &Subject<'_>, state: &State) -> Option<(Vec<String>, String)> {
        if subject.parameters.source.is_some() || !subject.programs.are_of_root() {
            return None;
        }
        let (argv, package) = self.installing(subject, state);
        Some((argv.into_iter().map(str::to_owned).collect(), package))
    }

    async fn install(&self, subject: &Subject<'_>, state: &State) -> Result<(), String> {
        let (mut argv, package) = self.installing(subject, state);
        argv.push(subject.parameters.source.as_deref().unwrap_or(&package));
        subject.run(&argv).await.map(drop)
    }

    async fn remove(&self, subject: &Subject<'_>, state: &State) -> Result<(), String> {
        erase(subject, state).await
    }

    async fn purge(&self, subject: &Subject<'_>, state: &State) -> Result<(), String> {
        let name = state.name.as_deref().unwrap_or(&subject.parameters.name);
        subject.run(&[self.program, "-y", "erase", name]).await.map(drop)
    }

    fn is_version(&self, installed: &str, wanted: &str) -> bool {
        compare(installed, wanted) == Ordering::Equal
    }

    fn compare(&self, a: &str, b: &str) -> Ordering {
        compare(a, b)
    }

    async fn available(&self, subject: &Subject<'_>) -> Result<Vec<String>, String> {
        let name = subject.parameters.name.as_str();
        let list = subject.run(&[self.program, "-q", "list", "--showduplicates", name]).await?;
        let version = |line: &str| {
            let mut words = line.split_whitespace();
            let (package, version) = (words.next()?, words.next()?);
            let is_it = package == name || package.rsplit_once('.').is_some_and(|(package, _)| package == name);
            is_it.then(|| version.strip_prefix("0:").unwrap_or(version).to_owned())
        };
        Ok(list.lines().filter_map(version).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_rpm_does() {
        use Ordering::{Equal, Greater, Less};
        for (a, b, order) in [
            ("1.0-1", "1.0", Equal),
            ("1.0-1", "1.0-2", Less),
            ("1:1.0", "2.0", Greater),
            ("0:2.0", "2.0-1", Equal),
            ("1.10", "1.9", Greater),
            ("1.010", "1.10", Equal),
            ("1.0~rc1", "1.0", Less),
            ("1.0^git", "1.0", Greater),
            ("1.0^git", "1.0.1", Less),
            ("1.0a", "1.0", Greater),
            ("1.a", "1.1", Less),
            ("2_0", "2.0", Equal),
        ] {
            assert_eq!((compare(a, b), compare(b, a)), (order, order.reverse()), "{a} and {b}");
        }
    }

    #[test]
    fn names_and_updates() {
        assert_eq!(versioned("a.x86_64", "1-2"), "a-1-2.x86_64");
        assert_eq!(versioned("python3.11", "1"), "python3.11-1");
        let answer = "\nkernel.x86_64   5.14-2  baseos\nlong-name-of-a-package.noarch\n    1:2.0-3  appstream\nObsoleting Packages\nold.noarch 9 x\n";
        assert_eq!(update_of(answer, "kernel").as_deref(), Some("5.14-2"));
        assert_eq!(update_of(answer, "long-name-of-a-package").as_deref(), Some("1:2.0-3"));
        assert_eq!((update_of(answer, "old"), update_of(answer, "baseos")), (None, None));
        assert_eq!(versions("a 0 1 2 x86_64\na 3 1 2 i686\na 0 1 2 i686\nnoise\n"), ["1-2", "3:1-2"]);
    }
}
