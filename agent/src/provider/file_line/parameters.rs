//! The parameters of a `File_line` resource, parsed and checked against each other.

use direct_puppet_transport::protocol::{Resource, TreePath};
use fancy_regex::Regex;

use crate::provider::ProviderError;
use crate::provider::file::read;
use crate::provider::record::Ensure;
use crate::provider::ruby_regex;

const KNOWN: &[&str] = &[
    "ensure",
    "name",
    "path",
    "line",
    "match",
    "match_for_absence",
    "multiple",
    "after",
    "replace",
    "replace_all_matches_not_matching_line",
    "encoding",
    "append_on_no_match",
    "provider",
];

/// Encodings in which every byte is a character, and the first half ASCII.
const SINGLE_BYTE: &[&str] = &["iso-8859-", "iso8859-", "windows-125", "cp125", "cp437", "cp85", "koi8-", "ascii-8bit", "binary"];

/// How lines are read for expressions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Utf8,
    SingleByte,
}

/// A regular expression.
#[derive(Debug)]
pub(super) struct Pattern {
    /// As the resource has it: what is compiled is written otherwise.
    pub(super) text: String,
    pub(super) regex: Regex,
}

/// All parameters of one resource.
#[derive(Debug)]
pub(super) struct Parameters {
    pub(super) ensure: Ensure,
    pub(super) path: TreePath,
    /// `None` only where `pattern` alone says what is to go.
    pub(super) line: Option<String>,
    /// `match`.
    pub(super) pattern: Option<Pattern>,
    pub(super) match_for_absence: bool,
    pub(super) multiple: bool,
    pub(super) after: Option<Pattern>,
    pub(super) replace: bool,
    pub(super) replace_all: bool,
    pub(super) append_on_no_match: bool,
    pub(super) encoding: Encoding,
}

fn pattern(resource: &Resource, name: &str) -> Result<Option<Pattern>, ProviderError> {
    let compile = |text: &str| match ruby_regex::compile(text) {
        Ok(regex) => Ok(Pattern { text: text.to_owned(), regex }),
        Err(reason) => Err(read::fail(resource, name, reason)),
    };
    read::string(resource, name)?.map(compile).transpose()
}

fn encoding(resource: &Resource) -> Result<Encoding, ProviderError> {
    let name = read::string(resource, "encoding")?.unwrap_or("UTF-8").to_ascii_lowercase();
    match name.as_str() {
        "utf-8" | "utf8" => Ok(Encoding::Utf8),
        "us-ascii" | "ascii" => Ok(Encoding::SingleByte),
        name if SINGLE_BYTE.iter().any(|known| name.starts_with(known)) => Ok(Encoding::SingleByte),
        _ => Err(read::fail(resource, "encoding", "must be UTF-8 or an encoding of single bytes, as iso-8859-1")),
    }
}

impl Parameters {
    pub(super) fn parse(resource: &Resource) -> Result<Self, ProviderError> {
        read::only_known(resource, KNOWN)?;
        let path = read::path(resource, "path")?.ok_or_else(|| read::fail(resource, "path", "is required"))?;
        let line = read::text(resource, "line")?.map(|line| line.trim_end_matches('\n').to_owned());
        if line.as_deref().is_some_and(|line| line.contains('\n')) {
            return Err(read::fail(resource, "line", "must be a single line"));
        }
        let parameters = Self {
            ensure: Ensure::read(resource)?,
            path,
            line,
            pattern: pattern(resource, "match")?,
            match_for_absence: read::boolean(resource, "match_for_absence", false)?,
            multiple: read::boolean(resource, "multiple", false)?,
            after: pattern(resource, "after")?,
            replace: read::boolean(resource, "replace", true)?,
            replace_all: read::boolean(resource, "replace_all_matches_not_matching_line", false)?,
            append_on_no_match: read::boolean(resource, "append_on_no_match", true)?,
            encoding: encoding(resource)?,
        };
        let fail = |parameter, reason: &str| Err(read::fail(resource, parameter, reason));
        if parameters.replace_all && resource.parameter("multiple").is_some() && !parameters.multiple {
            return fail("multiple", "must be true when replace_all_matches_not_matching_line is true");
        }
        if parameters.replace_all && !parameters.replace {
            return fail("replace", "must be true when replace_all_matches_not_matching_line is true");
        }
        let is_pattern_enough =
            parameters.ensure == Ensure::Absent && parameters.match_for_absence && parameters.pattern.is_some();
        if parameters.line.is_none() && !is_pattern_enough {
            return fail("line", "is required");
        }
        Ok(parameters)
    }
}
