//! What resources say of how they are applied, themselves or by the containers that hold them.

use std::collections::HashMap;

use direct_puppet_transport::protocol::report::LogLevel;
use direct_puppet_transport::protocol::{Catalog, Resource, ResourceRef, Value};

use crate::provider::ProviderError;

/// Metaparameters of one resource. What it does not say, the nearest container that holds it says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Metaparameters {
    /// Change nothing, or change something although the container would not.
    pub(crate) noop: Option<bool>,
    /// Name of the schedule.
    pub(crate) schedule: Option<String>,
    /// Level at which changes are told.
    pub(crate) loglevel: Option<LogLevel>,
}

impl Metaparameters {
    /// Reads what the resource itself says.
    ///
    /// # Errors
    ///
    /// Names the metaparameter and what it may be.
    pub(crate) fn parse(resource: &Resource) -> Result<Self, ProviderError> {
        let is_read = |name: &String| matches!(name.as_str(), "noop" | "schedule" | "loglevel" | "alias" | "audit" | "tag");
        if !resource.parameters.keys().any(is_read) {
            return Ok(Self::default());
        }
        let noop = match resource.parameter("noop") {
            None => None,
            Some(value) => match value.as_bool() {
                Some(noop) => Some(noop),
                None => return Err(parameter_error(resource, "noop", "must be true or false")),
            },
        };
        let schedule = match resource.parameter("schedule") {
            None => None,
            Some(value) => match value.as_str() {
                Some(name) => Some(name.to_owned()),
                None => return Err(parameter_error(resource, "schedule", "must be the name of a schedule")),
            },
        };
        let loglevel = match resource.parameter("loglevel") {
            None => None,
            Some(value) => match value.as_str().and_then(LogLevel::from_name) {
                Some(level) => Some(level),
                None => {
                    let reason = "must be one of emerg, alert, crit, err, warning, notice, info, verbose, debug";
                    return Err(parameter_error(resource, "loglevel", reason));
                }
            },
        };
        for name in ["alias", "audit", "tag"] {
            if resource.parameter(name).map(Value::as_list).unwrap_or_default().iter().any(|value| value.as_str().is_none()) {
                return Err(parameter_error(resource, name, "must be text or a list of it"));
            }
        }
        Ok(Self { noop, schedule, loglevel })
    }

    fn or(mut self, outer: &Self) -> Self {
        self.noop = self.noop.or(outer.noop);
        self.schedule = self.schedule.or_else(|| outer.schedule.clone());
        self.loglevel = self.loglevel.or(outer.loglevel);
        self
    }
}

/// Returns the metaparameters of all resources, by index, with what containers hand down. What does not parse counts as not said.
pub(crate) fn handed_down(catalog: &Catalog) -> Vec<Metaparameters> {
    let key = |reference: &ResourceRef| (reference.resource_type.clone(), reference.title.clone());
    let own: Vec<_> = catalog.resources.iter().map(|resource| Metaparameters::parse(resource).unwrap_or_default()).collect();
    let says_something = |at: usize| catalog.resources[at].is_container() && own[at] != Metaparameters::default();
    if !(0..own.len()).any(says_something) {
        // Nothing is handed down; Puppet's compiler does so itself.
        return own;
    }
    let index: HashMap<_, _> =
        catalog.resources.iter().enumerate().map(|(at, resource)| (key(&resource.reference()), at)).collect();
    let mut holder: Vec<Option<usize>> = vec![None; own.len()];
    for edge in &catalog.edges {
        let (Some(&source), Some(&target)) = (index.get(&key(&edge.source)), index.get(&key(&edge.target))) else { continue };
        if catalog.resources[source].is_container() && holder[target].is_none() {
            holder[target] = Some(source);
        }
    }
    let whole = |at: usize| {
        let (mut said, mut next) = (own[at].clone(), holder[at]);
        // Containers that hold each other are a cycle, which is told elsewhere.
        for _ in 0..own.len() {
            let Some(outer) = next else { break };
            said = said.or(&own[outer]);
            next = holder[outer];
        }
        said
    };
    (0..own.len()).map(whole).collect()
}

/// Returns the error of one parameter.
pub(crate) fn parameter_error(resource: &Resource, parameter: &str, reason: &str) -> ProviderError {
    ProviderError::Parameter { resource: resource.reference(), parameter: parameter.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use direct_puppet_transport::protocol::{Edge, Environment};

    use super::*;

    #[test]
    fn containers_hand_down_what_resources_do_not_say() {
        let edge = |source: &str, target: &str| Edge { source: source.parse().unwrap(), target: target.parse().unwrap() };
        let define = Resource { container: true, ..Resource::new("D", "d").with("schedule", "daily") };
        let catalog = Catalog {
            format: 1,
            certname: "n".parse().unwrap(),
            environment: Environment::default(),
            classes: Vec::new(),
            resources: vec![
                Resource::new("Class", "C").with("noop", true).with("loglevel", "verbose"),
                define,
                Resource::new("T", "a"),
                Resource::new("T", "b").with("noop", false),
                Resource::new("T", "c"),
            ],
            edges: vec![edge("Class[C]", "D[d]"), edge("D[d]", "T[a]"), edge("Class[C]", "T[b]"), edge("T[a]", "T[c]")],
        };
        let found = handed_down(&catalog);
        let of = |at: usize| (found[at].noop, found[at].schedule.as_deref(), found[at].loglevel);
        assert_eq!(of(2), (Some(true), Some("daily"), Some(LogLevel::Info)));
        assert_eq!(of(3), (Some(false), None, Some(LogLevel::Info)));
        assert_eq!(of(4), (None, None, None));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (name, value) in [
            ("noop", Value::from("perhaps")),
            ("schedule", Value::Integer(1)),
            ("loglevel", "loud".into()),
            ("alias", Value::Integer(1)),
            ("audit", Value::Boolean(true)),
        ] {
            let error = Metaparameters::parse(&Resource::new("T", "a").with(name, value)).unwrap_err().to_string();
            assert!(error.starts_with(&format!("T[a]: parameter {name}: must be")), "{error}");
        }
    }
}
