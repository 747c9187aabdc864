//! The `File_line` type of stdlib: a line in a file.
//!
//! What differs, and why:
//!
//! * Lines are compared byte by byte, whatever `encoding` says; it decides how expressions read them. With UTF-8, a line that
//!   is none is an error, as in Puppet.
//! * A `line` with a line feed inside is refused: no line of the file could ever be equal to it.

mod edit;
mod parameters;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use direct_puppet_transport::protocol::{Catalog, Resource, ResourceRef};

use super::difference::Differences;
use super::file::{blocking, errors};
use super::record::{Ensure, applied};
use super::text_file::TextFile;
use super::{Applied, Change, Checked, Context, Provider, ProviderError};
use crate::fs::Attributes;
use edit::Text;
use parameters::Parameters;

/// Manages lines of files.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FileLineProvider;

fn load(context: &Context, resource: &Resource, parameters: &Parameters) -> Result<TextFile, ProviderError> {
    let failed =
        |source: Box<dyn std::error::Error + Send + Sync>| errors::failed(&resource.reference(), "read the file", source);
    let file = TextFile::load(context, &parameters.path).map_err(|error| failed(error.into()))?;
    let is_noop = context.options().noop || resource.parameter("noop").and_then(|value| value.as_bool()) == Some(true);
    if file.stat.is_none() && !is_noop {
        return Err(failed(format!("there is no {}: manage it too, with a File resource", parameters.path.absolute()).into()));
    }
    Ok(file)
}

fn check(context: &Context, resource: &Resource) -> Result<Vec<Change>, ProviderError> {
    let parameters = Parameters::parse(resource)?;
    let file = load(context, resource, &parameters)?;
    let exists = Text::read(&file.text)
        .exists(&parameters)
        .map_err(|reason| errors::failed(&resource.reference(), "look for the line", reason))?;
    let mut found = Differences::of(resource);
    match (parameters.ensure, exists) {
        (Ensure::Present, false) => found.add_ensure("absent", "present"),
        (Ensure::Absent, true) => found.add_ensure("present", "absent"),
        _ => {}
    }
    Ok(found.into_changes())
}

fn apply(context: &Context, resource: &Resource) -> Result<Result<(), String>, ProviderError> {
    let parameters = Parameters::parse(resource)?;
    let file = load(context, resource, &parameters)?;
    let text = Text::read(&file.text);
    let edited = text.exists(&parameters).and_then(|exists| match (parameters.ensure, exists) {
        (Ensure::Present, false) => text.create(&parameters),
        (Ensure::Absent, true) => text.destroy(&parameters),
        // Somebody else has done it meanwhile.
        _ => Ok(file.text.clone()),
    });
    Ok(edited.and_then(|text| file.replace(context, text, Attributes::default()).map_err(|error| errors::chain(&error))))
}

#[async_trait]
impl Provider for FileLineProvider {
    fn resource_type(&self) -> &str {
        "File_line"
    }

    fn validate(&self, resource: &Resource) -> Result<(), ProviderError> {
        Parameters::parse(resource).map(drop)
    }

    fn autorequire(&self, resource: &Resource, _catalog: &Catalog) -> Vec<ResourceRef> {
        let path = Parameters::parse(resource).ok().map(|parameters| parameters.path.absolute());
        path.map(|title| ResourceRef { resource_type: "File".to_owned(), title }).into_iter().collect()
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
}
