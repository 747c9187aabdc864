//! Ruby's gems.

use std::cmp::Ordering;

use async_trait::async_trait;

use super::manager::{Manager, State, Subject, with};
use super::parameters::Wanted;

/// gem.
#[derive(Debug)]
pub(super) struct Gem;

/// Finds the versions of a gem in a list of lines as `name (2.0, default: 1.0 ruby java)`.
fn versions(answer: &str, name: &str) -> Vec<String> {
    let of_line = |line: &str| {
        let (gem, rest) = line.split_once(" (")?;
        let versions = rest.trim_end().strip_suffix(')')?;
        let version = |text: &str| text.trim().trim_start_matches("default: ").split_whitespace().next().map(str::to_owned);
        (gem.trim() == name).then(|| versions.split(',').filter_map(version).collect())
    };
    answer.lines().find_map(of_line).unwrap_or_default()
}

/// Compares two versions as `Gem::Version` does: segments of digits as numbers, of letters as text, which comes before any number; what is missing is 0.
fn compare(a: &str, b: &str) -> Ordering {
    let (a, b) = (segments(a), segments(b));
    for at in 0..a.len().max(b.len()) {
        let order = match (a.get(at).map_or("0", String::as_str), b.get(at).map_or("0", String::as_str)) {
            (x, y) if is_number(x) && is_number(y) => {
                let (x, y) = (x.trim_start_matches('0'), y.trim_start_matches('0'));
                x.len().cmp(&y.len()).then_with(|| x.cmp(y))
            }
            (x, y) if !is_number(x) && !is_number(y) => x.cmp(y),
            (x, _) => {
                if is_number(x) {
                    Ordering::Greater
                } else {
                    Ordering::Less
                }
            }
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    Ordering::Equal
}

fn is_number(segment: &str) -> bool {
    segment.starts_with(|c: char| c.is_ascii_digit())
}

/// Splits a version into runs of digits and of letters; a hyphen begins a prerelease.
fn segments(version: &str) -> Vec<String> {
    let version = version.replace('-', ".pre.");
    let mut segments: Vec<String> = Vec::new();
    let mut last = '.';
    for c in version.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '.') {
        match segments.last_mut() {
            Some(segment) if last != '.' && c != '.' && last.is_ascii_digit() == c.is_ascii_digit() => segment.push(c),
            _ if c != '.' => segments.push(c.to_string()),
            _ => {}
        }
        last = c;
    }
    segments
}

fn program<'a>(subject: &Subject<'a>) -> &'a str {
    subject.parameters.command.as_deref().unwrap_or("gem")
}

/// Returns an expression that only the name matches.
fn only(name: &str) -> String {
    format!("\\A{}\\z", regex::escape(name))
}

/// Some versions of gem end with 0 when they failed.
fn refuse_errors(answer: &str) -> Result<(), String> {
    if answer.contains("ERROR") { Err(format!("gem failed: {}", answer.trim())) } else { Ok(()) }
}

#[async_trait]
impl Manager for Gem {
    async fn query(&self, subject: &Subject<'_>) -> Result<State, String> {
        subject.programs.only_running("gems")?;
        let name = &subject.parameters.name;
        let answer = subject.run(&[program(subject), "list", "--local", &only(name)]).await?;
        Ok(State::of_versions(versions(&answer, name)))
    }

    async fn latest(&self, subject: &Subject<'_>, _state: &State) -> Result<String, String> {
        let (name, source) = (&subject.parameters.name, subject.parameters.source.as_deref());
        let name_only = only(name);
        let mut argv = vec![program(subject), "list", "--remote"];
        argv.extend(source.into_iter().flat_map(|source| ["--source", source]));
        argv.push(&name_only);
        let answer = subject.run(&argv).await?;
        versions(&answer, name).into_iter().next().ok_or_else(|| "no repository has such a gem".to_owned())
    }

    async fn install(&self, subject: &Subject<'_>, _state: &State) -> Result<(), String> {
        let parameters = subject.parameters;
        let mut argv = with(vec![program(subject), "install"], &parameters.install_options);
        if let Wanted::Version(version) = &parameters.wanted {
            argv.extend(["-v", version]);
        }
        argv.push("--no-document");
        match parameters.source.as_deref() {
            None => argv.push(&parameters.name),
            Some(source) if source.starts_with("puppet:") => return Err("gems do not come from a puppet: source".to_owned()),
            Some(source) if source.starts_with("file:") => {
                argv.push(source.trim_start_matches("file:").trim_start_matches("//"));
            }
            Some(source) if source.contains("://") => argv.extend(["--source", source, &parameters.name]),
            Some(file) => argv.push(file),
        }
        refuse_errors(&subject.run(&argv).await?)
    }

    async fn remove(&self, subject: &Subject<'_>, _state: &State) -> Result<(), String> {
        let argv = vec![program(subject), "uninstall", "--executables", "--all", &subject.parameters.name];
        refuse_errors(&subject.run(&with(argv, &subject.parameters.uninstall_options)).await?)
    }

    fn compare(&self, a: &str, b: &str) -> Ordering {
        compare(a, b)
    }

    async fn available(&self, subject: &Subject<'_>) -> Result<Vec<String>, String> {
        let (name, source) = (&subject.parameters.name, subject.parameters.source.as_deref());
        let name_only = only(name);
        let mut argv = vec![program(subject), "list", "--remote", "--all"];
        argv.extend(source.into_iter().flat_map(|source| ["--source", source]));
        argv.push(&name_only);
        Ok(versions(&subject.run(&argv).await?, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_rubygems_does() {
        use Ordering::{Equal, Greater, Less};
        for (a, b, order) in [
            ("1.0", "1", Equal),
            ("1.10", "1.9", Greater),
            ("1.0.a", "1.0", Less),
            ("1.0.a2", "1.0.a10", Less),
            ("1.0.rc1", "1.0.b1", Greater),
            ("1.0-1", "1.0", Less),
            ("2", "10", Less),
        ] {
            assert_eq!((compare(a, b), compare(b, a)), (order, order.reverse()), "{a} and {b}");
        }
    }

    #[test]
    fn lists() {
        let answer = "*** LOCAL GEMS ***\n\njson (2.6.3, default: 2.6.1)\njson_pure (1.0)\nnokogiri (1.15 ruby java)\nodd\n";
        assert_eq!(versions(answer, "json"), ["2.6.3", "2.6.1"]);
        assert_eq!(versions(answer, "nokogiri"), ["1.15"]);
        assert!(versions(answer, "jso").is_empty() && versions(answer, "odd").is_empty());
    }
}
