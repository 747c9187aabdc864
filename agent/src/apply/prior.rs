//! What earlier runs left: tells drift, which somebody else made, from new intent.
//!
//! Puppet's rule: a change is corrective when what is found is not what the last run left there. The last run left what its catalog wanted
//! wherever it had nothing to do or succeeded, so that catalog says it; only of the rest are values kept.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use direct_puppet_transport::hashing::FastState;
use direct_puppet_transport::protocol::manifest::EntryKind;
use direct_puppet_transport::protocol::{Resource, ResourceRef, Value};

use crate::provider::Change;

/// By resource, what the last run left where that is not what its catalog wanted.
pub(crate) type Left = BTreeMap<String, LeftValues>;

/// What was left of one resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LeftValues {
    /// By property. With none, nothing is known of the resource.
    pub(crate) values: BTreeMap<String, String>,
    /// The resource of the catalog that generated it, if it is not there itself: a file below a directory with `recurse`.
    pub(crate) generated_by: Option<String>,
}

impl LeftValues {
    /// Returns those of a resource that `declared` stands for or generated, with nothing known of it.
    pub(super) fn unknown(resource: &str, declared: &Resource) -> Self {
        let own = declared.reference().to_string();
        Self { values: BTreeMap::new(), generated_by: (own != resource).then_some(own) }
    }
}

/// What earlier runs made of the same resources.
#[derive(Debug, Default)]
pub(crate) struct Prior {
    /// The resources of the catalog applied before.
    pub(crate) resources: HashMap<ResourceRef, Arc<Resource>, FastState>,
    /// What that run left otherwise.
    pub(crate) left: Left,
}

impl Prior {
    /// Returns the value that the last run left, `None` if that is not known. What an earlier catalog wanted otherwise is known only where changes
    /// tell values as parameters have them. `others_agree` says of a resource of the catalog before whether what others say with it is as it was.
    pub(super) fn value_left<'a>(
        &'a self,
        declared: &Resource,
        change: &'a Change,
        tells_parameters: bool,
        others_agree: &dyn Fn(&Resource) -> bool,
    ) -> Option<Cow<'a, str>> {
        if self.resources.is_empty() {
            return None;
        }
        let own = declared.reference();
        match self.left.get(&change.resource.to_string()) {
            Some(left) if left.values.is_empty() => return None,
            Some(left) => {
                if let Some(value) = left.values.get(&*change.property) {
                    return Some(value.as_str().into());
                }
            }
            None => {}
        }
        if own != change.resource && self.left.get(&own.to_string()).is_some_and(|left| left.values.is_empty()) {
            return None;
        }
        let before = self.resources.get(&own)?;
        // Of one and the same catalog they do.
        if !std::ptr::eq(&**before, declared) && !others_agree(before) {
            return None;
        }
        if is_same(before, declared) || own == change.resource && wants_the_same(before, declared, &change.property) {
            return Some(change.desired.as_ref().into());
        }
        if own == change.resource && tells_parameters { wanted(before, &change.property).map(Into::into) } else { None }
    }

    /// Returns what is still true of a resource that this run does not look at, to be kept; `None` if the catalog says it all.
    pub(super) fn kept(&self, declared: &Resource) -> Option<LeftValues> {
        let own = declared.reference();
        match self.resources.get(&own) {
            Some(before) if is_same(before, declared) => self.left.get(&own.to_string()).cloned(),
            _ => Some(LeftValues::default()),
        }
    }

    /// Returns what is still true of what these resources of the catalog before generated, when this run does not look at them.
    pub(super) fn kept_below<'a>(
        &'a self,
        passed_over: &'a HashSet<String, FastState>,
    ) -> impl Iterator<Item = (&'a String, &'a LeftValues)> {
        let is_below = |left: &LeftValues| left.generated_by.as_ref().is_some_and(|by| passed_over.contains(by));
        self.left.iter().filter(move |(_, left)| !passed_over.is_empty() && is_below(left))
    }
}

fn is_same(before: &Resource, declared: &Resource) -> bool {
    // Mostly it is the very same: a tree may have very many entries.
    std::ptr::eq(before, declared) || before == declared
}

/// Whether a property was wanted as it is now.
fn wants_the_same(before: &Resource, declared: &Resource, property: &str) -> bool {
    let parameters: &[&str] = match property {
        "content" => &["content", "source", "checksum", "checksum_value", "target"],
        "ensure" => &["ensure", "target"],
        other => &[other],
    };
    let content = |resource: &Resource| resource.resolved.as_ref().and_then(|resolved| resolved.entries.first().cloned());
    parameters.iter().all(|name| before.parameter(name) == declared.parameter(name))
        && (property != "content" || content(before) == content(declared))
}

/// Returns the value that was wanted of a property, as changes tell it, where that can be said.
fn wanted(before: &Resource, property: &str) -> Option<String> {
    if property == "content" {
        return match &before.resolved.as_ref()?.entries.first()?.kind {
            EntryKind::File { digest, .. } => Some(format!("{{{}}}{}", digest.algorithm().name(), digest.to_hex())),
            _ => None,
        };
    }
    let value = match before.parameter(property)? {
        Value::String(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Boolean(flag) => flag.to_string(),
        _ => return None,
    };
    match property {
        // Only what is written in digits names one mode.
        "mode" => u32::from_str_radix(&value, 8).ok().map(|mode| format!("{mode:04o}")),
        _ => Some(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(resource: &Resource, property: &'static str, previous: &'static str, desired: &'static str) -> Change {
        Change {
            resource: resource.reference(),
            property: property.into(),
            previous: previous.into(),
            desired: desired.into(),
            diff: None,
            redacted: false,
            wording: None,
        }
    }

    fn prior(resource: &Resource) -> Prior {
        Prior { resources: [(resource.reference(), Arc::new(resource.clone()))].into_iter().collect(), left: Left::new() }
    }

    #[test]
    fn the_catalog_before_says_what_was_left() {
        let file = |mode: &str| Resource::new("File", "/a").with("ensure", "file").with("mode", mode);
        let before = prior(&file("640"));
        let left = |declared: &Resource, found: &'static str| {
            before.value_left(declared, &change(declared, "mode", found, "0600"), true, &|_| true).map(Cow::into_owned)
        };
        assert_eq!(left(&file("640"), "0777").as_deref(), Some("0600"), "what is wanted now was wanted then");
        assert_eq!(left(&file("0600"), "0640").as_deref(), Some("0640"), "another mode was wanted");
        assert_eq!(
            prior(&file("u+x")).value_left(&file("0600"), &change(&file("0600"), "mode", "0640", "0600"), true, &|_| true),
            None
        );
        assert_eq!(left(&Resource::new("File", "/b"), "0777"), None, "it is new");
        // Where parameters are not what changes tell, only what was wanted then as now is known.
        let unlike = |mode: &str| {
            let declared = file(mode);
            before.value_left(&declared, &change(&declared, "mode", "0640", "0600"), false, &|_| true).map(Cow::into_owned)
        };
        assert_eq!((unlike("640").as_deref(), unlike("0600")), (Some("0600"), None));
        // Another parameter does not count.
        let with_owner = file("640").with("owner", "root");
        assert_eq!(left(&with_owner, "0777").as_deref(), Some("0600"));
        assert_eq!(Prior::default().value_left(&with_owner, &change(&with_owner, "mode", "0777", "0600"), true, &|_| true), None);
        // Others said something else of it then.
        assert_eq!(before.value_left(&with_owner, &change(&with_owner, "mode", "0777", "0600"), true, &|_| false), None);
    }

    fn returned(value: &str) -> LeftValues {
        LeftValues { values: [("returns".to_owned(), value.to_owned())].into(), generated_by: None }
    }

    #[test]
    fn what_was_left_otherwise_counts_first() {
        let exec = Resource::new("Exec", "x");
        let mut before = prior(&exec);
        let found = change(&exec, "returns", "notrun", "0");
        assert_eq!(before.value_left(&exec, &found, true, &|_| true).as_deref(), Some("0"));
        before.left = [("Exec[x]".to_owned(), returned("notrun"))].into();
        assert_eq!(before.value_left(&exec, &found, true, &|_| true).as_deref(), Some("notrun"));
        assert_eq!(before.kept(&exec), Some(returned("notrun")));
        before.left = [("Exec[x]".to_owned(), LeftValues::default())].into();
        assert_eq!(before.value_left(&exec, &found, true, &|_| true), None);
        before.left.clear();
        assert_eq!(before.kept(&exec), None);
        assert_eq!(before.kept(&Resource::new("Exec", "x").with("command", "y")), Some(LeftValues::default()));
    }

    #[test]
    fn what_a_resource_generates_follows_it() {
        let tree = Resource::new("File", "/t").with("recurse", true);
        let child = Change { resource: "File[/t/c]".parse().unwrap(), ..change(&tree, "content", "x", "y") };
        assert_eq!(prior(&tree).value_left(&tree, &child, true, &|_| true).as_deref(), Some("y"));
        let other = Resource::new("File", "/t").with("recurse", true).with("source", "puppet:///modules/m/t");
        assert_eq!(prior(&tree).value_left(&other, &child, true, &|_| true), None);
    }
}
