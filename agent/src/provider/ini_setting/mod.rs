//! The `Ini_setting` type of inifile: a setting in a section of a file.
//!
//! What differs, and why:
//!
//! * `key_val_separator` is taken literally, never as part of an expression.
//! * A section that comes several times is looked into where it comes last, as in Puppet, but never written twice.
//! * Values are hidden in reports too, where `show_diff` hides them in messages.
//! * Removing a whole section fails: Puppet reports it as done and does nothing.

mod ini_file;
mod parameters;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use direct_puppet_transport::protocol::{Catalog, Resource, ResourceRef};
use md5::{Digest as _, Md5};

use super::difference::{Differences, Shown};
use super::file::{blocking, errors};
use super::record::{Ensure, applied};
use super::text_file::TextFile;
use super::{Applied, Change, Checked, Context, Provider, ProviderError};
use crate::fs::{Attributes, FsError};
use ini_file::IniFile;
use parameters::{Parameters, ShowDiff};

/// What stands for values that are not to be shown.
const HIDDEN: &str = "[redacted sensitive information]";

/// Manages settings of files.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct IniSettingProvider;

fn exists(parameters: &Parameters, file: &IniFile<'_>) -> bool {
    match &parameters.setting {
        None => file.has_section(&parameters.section),
        Some(setting) => file.values(&parameters.section, setting).is_some(),
    }
}

/// Returns values as messages show them.
fn shown(context: &Context, parameters: &Parameters, values: &[String]) -> String {
    let text = match values {
        [value] => value.clone(),
        values => serde_json::json!(values).to_string(),
    };
    match parameters.show_diff {
        ShowDiff::Yes if context.options().show_diff => text,
        ShowDiff::Md5 if context.options().show_diff => {
            let digest = Md5::digest(text.as_bytes());
            format!("{{md5}}{}", digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        }
        _ => HIDDEN.to_owned(),
    }
}

fn compare(context: &Context, resource: &Resource, parameters: &Parameters, file: &IniFile<'_>) -> Vec<Change> {
    let mut found = Differences::of(resource);
    let exists = exists(parameters, file);
    let waits = parameters.setting.is_some() && !parameters.makes_section && !file.has_section(&parameters.section);
    match parameters.ensure {
        _ if parameters.refresh_only => {}
        Ensure::Absent if exists => found.add_ensure("present", "absent"),
        Ensure::Absent => {}
        Ensure::Present if !exists && !waits => found.add_ensure("absent", "present"),
        Ensure::Present => {
            let current = parameters.setting.as_ref().and_then(|setting| file.values(&parameters.section, setting));
            if let (Some(wanted), Some(current)) = (&parameters.values, current)
                && !current.iter().map(Vec::as_slice).eq(wanted.iter().map(String::as_bytes))
            {
                let current: Vec<String> = current.iter().map(|value| String::from_utf8_lossy(value).into_owned()).collect();
                let shown = |values: &[String]| Shown::Bare(shown(context, parameters, values));
                found.add("value", &shown(&current), &shown(wanted));
                if parameters.sensitive {
                    found.redact("value");
                }
            }
        }
    }
    found.into_changes()
}

/// Makes the file as the resource wants it.
fn edit(parameters: &Parameters, file: &mut IniFile<'_>) -> Result<(), String> {
    match (parameters.ensure, &parameters.setting, &parameters.values) {
        (Ensure::Present, Some(setting), Some(values)) => file.set(&parameters.section, setting, values),
        (Ensure::Present, Some(setting), None) => return Err(format!("there is no value to give to {setting}")),
        (Ensure::Present, None, _) => drop(file.ensure_section(&parameters.section)),
        (Ensure::Absent, Some(setting), _) => file.remove(&parameters.section, setting),
        (Ensure::Absent, None, _) => return Err("a whole section cannot be removed: name a setting".to_owned()),
    }
    Ok(())
}

fn check(context: &Context, resource: &Resource) -> Result<Vec<Change>, ProviderError> {
    let parameters = Parameters::parse(resource)?;
    let file = TextFile::load(context, &parameters.path)
        .map_err(|error| errors::failed(&resource.reference(), "read the file", error))?;
    Ok(compare(context, resource, &parameters, &IniFile::parse(&parameters.format, &file.text)))
}

fn apply(context: &Context, resource: &Resource) -> Result<Result<(), String>, ProviderError> {
    let parameters = Parameters::parse(resource)?;
    let text = |error: FsError| errors::chain(&error);
    let converge = || {
        let file = TextFile::load(context, &parameters.path).map_err(text)?;
        let mut ini = IniFile::parse(&parameters.format, &file.text);
        edit(&parameters, &mut ini)?;
        file.replace(context, ini.print(), Attributes::default()).map_err(text)
    };
    Ok(converge())
}

#[async_trait]
impl Provider for IniSettingProvider {
    fn resource_type(&self) -> &str {
        "Ini_setting"
    }

    fn validate(&self, resource: &Resource) -> Result<(), ProviderError> {
        Parameters::parse(resource).map(drop)
    }

    fn autorequire(&self, resource: &Resource, _catalog: &Catalog) -> Vec<ResourceRef> {
        let directory = Parameters::parse(resource).ok().and_then(|parameters| parameters.path.parent());
        let file = |title: String| ResourceRef { resource_type: "File".to_owned(), title };
        directory.map(|directory| file(directory.absolute())).into_iter().collect()
    }

    async fn check(&self, context: &Context, resource: &Arc<Resource>) -> Result<Checked, ProviderError> {
        let (context, resource) = (context.clone(), Arc::clone(resource));
        let changes = blocking(resource.reference(), move || check(&context, &resource)).await?;
        Ok(Checked { resources: 1, changes, ..Checked::default() })
    }

    fn hides_secrets(&self) -> bool {
        true
    }

    async fn apply(&self, context: &Context, resource: &Arc<Resource>, changes: &[Change]) -> Result<Applied, ProviderError> {
        let (context, resource) = (context.clone(), Arc::clone(resource));
        let result = blocking(resource.reference(), move || apply(&context, &resource)).await?;
        Ok(applied(changes, result))
    }

    fn refreshes(&self) -> bool {
        true
    }

    async fn refresh(&self, context: &Context, resource: &Arc<Resource>) -> Result<bool, ProviderError> {
        if !Parameters::parse(resource)?.refresh_only {
            return Ok(false);
        }
        let (context, resource, reference) = (context.clone(), Arc::clone(resource), resource.reference());
        let result = blocking(reference.clone(), move || apply(&context, &resource)).await?;
        result.map(|()| true).map_err(|reason| errors::failed(&reference, "change the setting", reason))
    }
}
