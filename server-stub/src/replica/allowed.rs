//! Which servers may follow this one, and what of its code each of them may have.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use direct_puppet_transport::protocol::{Certname, Environment};
use serde::Deserialize;

/// A server that may follow this one; as text `NAME`, or `NAME=ENVIRONMENT,…` for one that may have only these.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct AllowedReplica {
    /// The name of its certificate.
    pub certname: Certname,
    /// The environments that it may have; `None` for all.
    pub environments: Option<BTreeSet<Environment>>,
}

/// A text that names no server that may follow this one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names no replica ({reason}): write CERTNAME, or CERTNAME=ENVIRONMENT,ENVIRONMENT")]
pub struct NoReplica {
    text: String,
    reason: String,
}

impl From<Certname> for AllowedReplica {
    fn from(certname: Certname) -> Self {
        Self { certname, environments: None }
    }
}

impl FromStr for AllowedReplica {
    type Err = NoReplica;

    fn from_str(text: &str) -> Result<Self, NoReplica> {
        let fail = |reason: String| NoReplica { text: text.to_owned(), reason };
        let (name, environments) = match text.split_once('=') {
            Some((name, environments)) => (name, Some(environments)),
            None => (text, None),
        };
        let certname = name.parse::<Certname>().map_err(|error| fail(error.to_string()))?;
        let parse = |name: &str| name.parse::<Environment>().map_err(|error| fail(error.to_string()));
        let environments = environments.map(|names| names.split(',').map(parse).collect::<Result<_, _>>()).transpose()?;
        Ok(Self { certname, environments })
    }
}

impl TryFrom<String> for AllowedReplica {
    type Error = NoReplica;

    fn try_from(text: String) -> Result<Self, NoReplica> {
        text.parse()
    }
}

/// What of the code of this server another one may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Share {
    /// All.
    Whole,
    /// Only these environments.
    Part(BTreeSet<Environment>),
}

impl Share {
    /// Returns what `name` may have. Who is not among `replicas` and is let in all the same, as a process of root, may have all.
    pub(crate) fn of(name: &Certname, replicas: &[AllowedReplica]) -> Self {
        let mut part = BTreeSet::new();
        let mut named = replicas.iter().filter(|replica| replica.certname == *name).peekable();
        if named.peek().is_none() {
            return Self::Whole;
        }
        for replica in named {
            match &replica.environments {
                None => return Self::Whole,
                Some(environments) => part.extend(environments.iter().cloned()),
            }
        }
        Self::Part(part)
    }

    pub(crate) const fn is_part(&self) -> bool {
        matches!(self, Self::Part(_))
    }

    pub(crate) fn has(&self, environment: &Environment) -> bool {
        match self {
            Self::Whole => true,
            Self::Part(environments) => environments.contains(environment),
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => f.write_str("all environments"),
            Self::Part(environments) => {
                let names: Vec<&str> = environments.iter().map(Environment::as_str).collect();
                write!(f, "only {}", names.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_may_have_what_all_that_names_it_says() {
        let replicas: Vec<AllowedReplica> =
            ["whole", "part=production", "part=test,dev", "both=test", "both"].iter().map(|text| text.parse().unwrap()).collect();
        let share = |name: &str| Share::of(&name.parse().unwrap(), &replicas);
        let [production, test, dev]: [Environment; 3] = ["production", "test", "dev"].map(|name| name.parse().unwrap());
        assert_eq!((share("whole"), share("both"), share("somebody")), (Share::Whole, Share::Whole, Share::Whole));
        assert_eq!(share("part"), Share::Part([production, test, dev].into()));
        assert_eq!(share("part").to_string(), "only dev, production, test");
        assert!(!share("part").has(&"other".parse().unwrap()));
        for wrong in ["", "=production", "part=", "part=,", "part=a-b", "Upper=x", "part=x=y"] {
            let error = wrong.parse::<AllowedReplica>().unwrap_err().to_string();
            assert!(error.contains("names no replica") && error.contains("CERTNAME=ENVIRONMENT"), "{error}");
        }
    }
}
