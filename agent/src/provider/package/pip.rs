//! Python's packages.

use std::cmp::Ordering;

use async_trait::async_trait;

use super::manager::{Manager, State, Subject, with};
use super::parameters::Wanted;

/// pip, under one of its names.
#[derive(Debug)]
pub(super) struct Pip {
    pub(super) program: &'static str,
}

/// Returns a name as Python compares it: lower case, and runs of hyphens, underscores and dots are one hyphen (PEP 503).
fn normal(name: &str) -> String {
    let mut normal = String::new();
    for c in name.chars() {
        let c = if matches!(c, '-' | '_' | '.') { '-' } else { c.to_ascii_lowercase() };
        if c != '-' || !normal.ends_with('-') {
            normal.push(c);
        }
    }
    normal
}

/// Finds a version in what `freeze` says: lines as `name==version`.
fn version(answer: &str, name: &str) -> Option<String> {
    let line = |line: &str| {
        let (package, version) = line.trim().split_once("==")?;
        (normal(package) == normal(name)).then(|| version.trim_start_matches('=').to_owned())
    };
    answer.lines().find_map(line)
}

/// Finds the versions that an error names: `(from versions: 1.0, 1.1)`. pip gives them in order.
fn named(answer: &str) -> Vec<String> {
    let list = answer.split_once("from versions: ").and_then(|(_, rest)| rest.split(')').next()).unwrap_or_default();
    list.split(',').map(str::trim).filter(|version| !version.is_empty() && *version != "none").map(str::to_owned).collect()
}

/// By what versions of Python are in order (PEP 440): epoch, release, then prerelease, post-release, development, local version.
type Key = (u64, Vec<u64>, (u8, u64), Option<u64>, (bool, u64), Vec<(u64, String)>);

/// Reads a version; `None` when it is none by PEP 440.
fn key(version: &str) -> Option<Key> {
    let version = version.trim().to_ascii_lowercase();
    let (version, local) = version.split_once('+').unwrap_or((&version, ""));
    let (epoch, mut rest) = version.split_once('!').unwrap_or(("0", version));
    rest = rest.strip_prefix('v').unwrap_or(rest);
    let mut release = Vec::new();
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        release.push(rest[..digits].parse().ok()?);
        rest = &rest[digits..];
        match rest.strip_prefix('.').filter(|next| next.starts_with(|c: char| c.is_ascii_digit())) {
            Some(next) => rest = next,
            None => break,
        }
    }
    while release.len() > 1 && release.last() == Some(&0) {
        release.pop();
    }
    let (mut pre, mut post, mut dev) = (None, None, None);
    while !rest.is_empty() {
        if let Some(number) = rest.strip_prefix('-').filter(|next| next.starts_with(|c: char| c.is_ascii_digit())) {
            post = Some(number.parse().ok()?);
            break;
        }
        rest = rest.trim_start_matches(['-', '_', '.']);
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let (word, after) = rest.split_at(letters);
        let after_word = after.trim_start_matches(['-', '_', '.']);
        let digits = after_word.find(|c: char| !c.is_ascii_digit()).unwrap_or(after_word.len());
        let number = if digits == 0 { 0 } else { after_word[..digits].parse().ok()? };
        rest = if digits == 0 { after } else { &after_word[digits..] };
        match word {
            "a" | "alpha" => pre = Some((1, number)),
            "b" | "beta" => pre = Some((2, number)),
            "c" | "rc" | "pre" | "preview" => pre = Some((3, number)),
            "post" | "rev" | "r" => post = Some(number),
            "dev" => dev = Some(number),
            _ => return None,
        }
    }
    // A development version of the release itself comes before its prereleases.
    let pre = pre.unwrap_or(if post.is_none() && dev.is_some() { (0, 0) } else { (4, 0) });
    let dev = (dev.is_none(), dev.unwrap_or_default());
    let part =
        |text: &str| text.parse().map_or_else(|_| (0, text.to_owned()), |number: u64| (number.saturating_add(1), String::new()));
    let local = local.split(['.', '-', '_']).filter(|text| !text.is_empty()).map(part).collect();
    Some((epoch.parse().ok()?, release, pre, post, dev, local))
}

/// Compares two versions; those that are none come first.
fn compare(a: &str, b: &str) -> Ordering {
    key(a).cmp(&key(b))
}

impl Pip {
    /// Asks for a version that there is not: the error names those that there are.
    async fn all(&self, subject: &Subject<'_>) -> Result<Vec<String>, String> {
        let impossible = format!("{}==9!0dev0+x", subject.parameters.name);
        let argv = with(vec![self.program(subject), "install"], &subject.parameters.install_options);
        let output = subject.programs.run(&[&argv[..], &[&impossible]].concat(), None).await?;
        let versions = named(&output.text());
        if versions.is_empty() {
            return Err(format!("pip does not tell which versions there are: {}", output.text().trim()));
        }
        Ok(versions)
    }

    fn program<'a>(&self, subject: &Subject<'a>) -> &'a str {
        subject.parameters.command.as_deref().unwrap_or(self.program)
    }
}

#[async_trait]
impl Manager for Pip {
    async fn query(&self, subject: &Subject<'_>) -> Result<State, String> {
        subject.programs.only_running("Python packages")?;
        let answer = subject.run(&[self.program(subject), "freeze", "--all"]).await?;
        Ok(State::of_versions(version(&answer, &subject.parameters.name).into_iter().collect()))
    }

    async fn latest(&self, subject: &Subject<'_>, _state: &State) -> Result<String, String> {
        Ok(self.all(subject).await?.pop().unwrap_or_default())
    }

    async fn install(&self, subject: &Subject<'_>, _state: &State) -> Result<(), String> {
        let parameters = subject.parameters;
        let mut argv = with(vec![self.program(subject), "install", "-q"], &parameters.install_options);
        let package = match (&parameters.wanted, &parameters.source) {
            (Wanted::Version(version), Some(source)) => format!("{source}@{version}#egg={}", parameters.name),
            (_, Some(source)) => format!("{source}#egg={}", parameters.name),
            (Wanted::Version(version), None) => format!("{}=={version}", parameters.name),
            (Wanted::Latest, None) => {
                argv.push("--upgrade");
                parameters.name.clone()
            }
            (_, None) => parameters.name.clone(),
        };
        argv.push(&package);
        subject.run(&argv).await.map(drop)
    }

    async fn remove(&self, subject: &Subject<'_>, _state: &State) -> Result<(), String> {
        subject.run(&[self.program(subject), "uninstall", "-y", "-q", &subject.parameters.name]).await.map(drop)
    }

    fn compare(&self, a: &str, b: &str) -> Ordering {
        compare(a, b)
    }

    async fn available(&self, subject: &Subject<'_>) -> Result<Vec<String>, String> {
        self.all(subject).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let frozen = "Foo_Bar==1.0\n-e git+https://x#egg=y\nbaz===2!1.0\n";
        assert_eq!(version(frozen, "foo.bar").as_deref(), Some("1.0"));
        assert_eq!(version(frozen, "BAZ").as_deref(), Some("2!1.0"));
        assert_eq!(version(frozen, "foo"), None);
        let error = "ERROR: Could not find a version that satisfies x==9 (from versions: 1.9, 1.10)\nERROR: none";
        assert_eq!(named(error), ["1.9", "1.10"]);
        assert!(named("(from versions: none)").is_empty() && named("no network").is_empty());
    }

    #[test]
    fn versions_are_compared_as_python_does() {
        // In order, as PEP 440 has it.
        let sorted = [
            "1.dev0",
            "1.0.dev456",
            "1.0a1",
            "1.0a2.dev456",
            "1.0a12.dev456",
            "1.0a12",
            "1.0b1.dev456",
            "1.0b2",
            "1.0b2.post345.dev456",
            "1.0b2.post345",
            "1.0rc1.dev456",
            "1.0rc1",
            "1.0",
            "1.0+abc.5",
            "1.0+abc.7",
            "1.0+5",
            "1.0.post456.dev34",
            "1.0.post456",
            "1.0.15",
            "1.1.dev1",
            "1.10",
            "1!0.1",
        ];
        for pair in sorted.windows(2) {
            assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
        }
        for (a, b) in [("1.0", "1.0.0"), ("1.0-1", "1.0.post1"), ("V1.0RC1", "1.0-c1"), ("1.0.alpha.2", "1.0a2")] {
            assert_eq!(compare(a, b), Ordering::Equal, "{a} and {b}");
        }
        assert!(key("1.0x").is_none() && key("").is_none() && key("1..0").is_none());
    }
}
