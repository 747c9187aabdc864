//! `resource`: what there is on this node, as Puppet code.

use anyhow::{Context as _, bail};
use clap::Args;
use direct_puppet_agent::puppet_code::declaration;
use direct_puppet_transport::protocol::{Resource, Value};
use serde::ser::{Serialize, SerializeMap as _, Serializer};

use crate::options::Common;
use crate::{connect, output};

/// Arguments of `resource`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Type, as user, group, host, cron, mount, package, service, sshkey, file
    #[arg(value_name = "TYPE")]
    resource_type: String,
    /// Show this one only [default: all; a file must be named]
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Refused: this verb changes nothing
    #[arg(value_name = "ATTRIBUTE=VALUE", hide = true)]
    attributes: Vec<String>,
    /// Print YAML, for Hiera
    #[arg(long, short = 'y', alias = "to_yaml", conflicts_with = "json")]
    yaml: bool,
}

pub(crate) async fn resource(common: &Common, arguments: Arguments) -> anyhow::Result<u8> {
    let Arguments { resource_type, name, attributes, yaml } = arguments;
    if let Some(attribute) = attributes.first() {
        bail!(
            "\"resource\" shows what is there and changes nothing, so {attribute} cannot be set: declare it in a manifest, and use \"apply\""
        );
    }
    let resources = common.agent(connect::nowhere())?.inspect(&resource_type, name.as_deref()).await?;
    if common.json {
        output::json(&serde_json::json!({ "resources": resources }))?;
    } else if yaml {
        let text = serde_saphyr::to_string(&Type(&resource_type.to_lowercase(), &resources));
        output::raw(&format!("---\n{}", text.context("could not write the resources as YAML")?))?;
    } else {
        output::raw(&resources.iter().map(declaration).collect::<String>())?;
    }
    Ok(0)
}

/// A type with its resources, as `create_resources` takes them.
struct Type<'a>(&'a str, &'a [Resource]);
struct Titles<'a>(&'a [Resource]);
struct Parameters<'a>(&'a Resource);

impl Serialize for Type<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map([(self.0, Titles(self.1))])
    }
}

impl Serialize for Titles<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|resource| (&resource.title, Parameters(resource))))
    }
}

/// `ensure` first.
impl Serialize for Parameters<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (ensure, others): (Vec<(&String, &Value)>, Vec<_>) =
            self.0.parameters.iter().partition(|(name, _)| *name == "ensure");
        let mut map = serializer.serialize_map(Some(self.0.parameters.len()))?;
        ensure.into_iter().chain(others).try_for_each(|(name, value)| map.serialize_entry(name, value))?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_puppet_prints_yaml() {
        let group = Resource::new("Group", "web").with("ensure", "present").with("gid", 5).with("a", "b");
        let text = serde_saphyr::to_string(&Type("group", &[group])).unwrap();
        assert_eq!(text, "group:\n  web:\n    ensure: present\n    a: b\n    gid: 5\n");
    }
}
