//! The world outside the managed root: time, randomness, facts. Behind one trait, so that a run can be replayed.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::PathBuf;
use std::time::SystemTime;

use direct_puppet_transport::protocol::Value;

use crate::facts::{self, ExternalFacts, Facts};

/// Time, randomness and facts of the machine that a run is on.
pub trait System: Debug + Send + Sync + 'static {
    /// Returns the wall-clock time.
    fn now(&self) -> SystemTime;

    /// Returns random bytes that nobody can guess.
    fn random(&self) -> [u8; 16];

    /// Returns how many seconds the wall clocks of this machine are ahead of UTC at a second since 1970 UTC: what schedules count in.
    /// Default: 0.
    fn utc_offset(&self, _unix_seconds: i64) -> i32 {
        0
    }

    /// Gathers the facts. Blocking. Called only when the server needs them.
    ///
    /// # Errors
    ///
    /// A text that says which fact could not be found out and why.
    fn facts(&self) -> Result<BTreeMap<String, Value>, String>;
}

/// The real machine.
///
/// Gathering facts reads `PATH`, `TZ`, `HOME`, `INSIDE_FACTER` and `FACTER_…` of this process, and the offset from UTC reads `TZ`;
/// nothing else here reads the environment.
#[derive(Debug, Clone, Default)]
pub struct RealSystem {
    /// Where external facts come from.
    pub external_facts: ExternalFacts,
    /// Facts added to, or put in place of, all others.
    pub extra_facts: BTreeMap<String, Value>,
}

impl System for RealSystem {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn random(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the kernel gives random bytes on every supported system");
        bytes
    }

    fn utc_offset(&self, unix_seconds: i64) -> i32 {
        facts::utc_offset(&Environment::of_process(), unix_seconds)
    }

    fn facts(&self) -> Result<BTreeMap<String, Value>, String> {
        let mut facts = facts::gather(&self.external_facts, &Environment::of_process());
        facts.extend(self.extra_facts.clone());
        Ok(facts)
    }
}

/// What facts take from the environment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    pub(crate) path: Option<String>,
    /// `TZ`.
    pub(crate) timezone: Option<String>,
    pub(crate) home: Option<PathBuf>,
    /// This process was started by an external fact.
    pub(crate) inside_facter: bool,
    /// The facts in `FACTER_…`.
    pub(crate) facts: Facts,
}

impl Environment {
    fn of_process() -> Self {
        Self::of(std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))))
    }

    fn of(variables: impl Iterator<Item = (String, String)>) -> Self {
        let mut this = Self::default();
        for (name, value) in variables {
            match name.as_str() {
                "PATH" => this.path = Some(value),
                "TZ" => this.timezone = Some(value),
                "HOME" => this.home = Some(value.into()),
                "INSIDE_FACTER" => this.inside_facter = true,
                name => this.facts.extend(fact_name(name).map(|name| (name, value.into()))),
            }
        }
        this
    }
}

/// Returns the fact that a variable is for: `FACTER_role`, in whatever case, is for `role`. As with Facter the line may be missing;
/// `FACTERLIB` is an option of Facter's.
fn fact_name(variable: &str) -> Option<String> {
    let name = variable.to_ascii_lowercase();
    let name = name.strip_prefix("facter")?;
    let name = name.strip_prefix('_').filter(|rest| !rest.is_empty()).unwrap_or(name);
    let is_word = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    (is_word && !name.is_empty() && name != "lib").then(|| name.to_owned())
}

/// Returns the name of this host, in lower case; empty if the kernel knows none.
#[must_use]
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().to_lowercase()
}

/// Returns nanoseconds since 1970 UTC; 0 for times before it.
#[must_use]
pub fn unix_nanos(time: SystemTime) -> i64 {
    let nanos = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    i64::try_from(nanos).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_in_the_environment() {
        let variables = [
            ("FACTER_role", "web"),
            ("facter_Site", "x=y"),
            ("FACTERrack", "7"),
            ("FACTERLIB", "/x"),
            ("FACTER_", "none"),
            ("FACTER", "none"),
            ("FACTER_a-b", "none"),
            ("OTHER", "none"),
            ("TZ", "CET"),
            ("HOME", "/root"),
        ];
        let environment = Environment::of(variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())));
        let facts: Vec<(&str, &Value)> = environment.facts.iter().map(|(name, value)| (name.as_str(), value)).collect();
        assert_eq!(facts, [("_", &"none".into()), ("rack", &"7".into()), ("role", &"web".into()), ("site", &"x=y".into())]);
        assert_eq!((environment.timezone.as_deref(), environment.inside_facter), (Some("CET"), false));
    }
}
