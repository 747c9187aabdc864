//! Python's packages.

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

/// Finds the newest of the versions that an error names: `(from versions: 1.0, 1.1)`. pip gives them in order.
fn newest(answer: &str) -> Option<String> {
    let (_, rest) = answer.split_once("from versions: ")?;
    let last = rest.split(')').next()?.split(',').next_back()?.trim();
    (!last.is_empty() && last != "none").then(|| last.to_owned())
}

impl Pip {
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
        // There is no such version; the error names those that there are.
        let impossible = format!("{}==9!0dev0+x", subject.parameters.name);
        let argv = with(vec![self.program(subject), "install"], &subject.parameters.install_options);
        let output = subject.programs.run(&[&argv[..], &[&impossible]].concat(), None).await?;
        newest(&output.text()).ok_or_else(|| format!("pip does not tell which versions there are: {}", output.text().trim()))
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
        assert_eq!(newest(error).as_deref(), Some("1.10"));
        assert_eq!((newest("(from versions: none)"), newest("no network")), (None, None));
    }
}
