//! The parameters of an `Ini_setting` resource.

use direct_puppet_transport::protocol::{Resource, TreePath, Value};

use super::ini_file::{Format, FormatOptions};
use crate::provider::ProviderError;
use crate::provider::file::read;
use crate::provider::record::Ensure;

const KNOWN: &[&str] = &[
    "ensure",
    "name",
    "path",
    "section",
    "setting",
    "value",
    "key_val_separator",
    "section_prefix",
    "section_suffix",
    "indent_char",
    "indent_width",
    "show_diff",
    "force_new_section_creation",
    "refreshonly",
    "provider",
];

/// How messages show values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ShowDiff {
    Yes,
    Md5,
    No,
}

/// All parameters of one resource.
#[derive(Debug)]
pub(super) struct Parameters {
    pub(super) ensure: Ensure,
    pub(super) path: TreePath,
    pub(super) section: String,
    /// `None` when the section itself is managed.
    pub(super) setting: Option<String>,
    pub(super) values: Option<Vec<String>>,
    pub(super) sensitive: bool,
    pub(super) format: Format,
    pub(super) show_diff: ShowDiff,
    /// `force_new_section_creation`.
    pub(super) makes_section: bool,
    pub(super) refresh_only: bool,
}

fn show_diff(resource: &Resource) -> Result<ShowDiff, ProviderError> {
    match resource.parameter("show_diff") {
        None => Ok(ShowDiff::Yes),
        Some(value) if value.as_str() == Some("md5") => Ok(ShowDiff::Md5),
        Some(value) => match value.as_bool() {
            Some(true) => Ok(ShowDiff::Yes),
            Some(false) => Ok(ShowDiff::No),
            None => Err(read::fail(resource, "show_diff", "must be true, false or md5")),
        },
    }
}

fn format(resource: &Resource) -> Result<Format, ProviderError> {
    let text = |name, default: &str| Ok(read::string(resource, name)?.unwrap_or(default).to_owned());
    let options = FormatOptions {
        separator: text("key_val_separator", " = ")?,
        section_prefix: text("section_prefix", "[")?,
        section_suffix: text("section_suffix", "]")?,
        indent_char: text("indent_char", " ")?,
        indent_width: read::count(resource, "indent_width")?,
    };
    if options.separator.is_empty() {
        return Err(read::fail(resource, "key_val_separator", "must not be empty"));
    }
    Format::new(options).map_err(|error| read::fail(resource, "key_val_separator", error.to_string()))
}

impl Parameters {
    pub(super) fn parse(resource: &Resource) -> Result<Self, ProviderError> {
        read::only_known(resource, KNOWN)?;
        let single_line = |name: &str, text: &str| match text.contains('\n') {
            true => Err(read::fail(resource, name, "must be a single line")),
            false => Ok(text.trim().to_owned()),
        };
        let section = read::text(resource, "section")?.unwrap_or_default();
        single_line("section", &section)?;
        let setting = read::text(resource, "setting")?.map(|setting| single_line("setting", &setting)).transpose()?;
        if setting.as_deref() == Some("") {
            return Err(read::fail(resource, "setting", "must not be empty"));
        }
        let values = read::texts(resource, "value")?
            .map(|values| values.iter().map(|value| single_line("value", value)).collect::<Result<Vec<_>, _>>())
            .transpose()?;
        Ok(Self {
            ensure: Ensure::read(resource)?,
            path: read::path(resource, "path")?.ok_or_else(|| read::fail(resource, "path", "is required"))?,
            section,
            setting,
            values,
            sensitive: resource.parameter("value").is_some_and(Value::is_sensitive),
            format: format(resource)?,
            show_diff: show_diff(resource)?,
            makes_section: read::boolean(resource, "force_new_section_creation", true)?,
            refresh_only: read::boolean(resource, "refreshonly", false)?,
        })
    }
}
