//! Templates: minijinja over `facts`, `data` and `node`.

use std::collections::BTreeMap;

use direct_puppet_transport::protocol::{EntryKind, TreePath, Value};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde::Serialize;

use super::CompileError;
use super::site::{SITE, Site};
use crate::code::Code;

/// Longest template, in bytes.
const MAX_TEMPLATE_BYTES: u64 = 4 << 20;

/// Most work that one rendering may do, in instructions of the engine.
const MAX_FUEL: u64 = 10_000_000;

/// What templates see.
#[derive(Debug, Serialize)]
struct Context<'a> {
    node: &'a str,
    facts: &'a BTreeMap<String, Value>,
    data: &'a BTreeMap<String, Value>,
}

/// Renders the templates of one compile.
#[derive(Debug)]
pub(super) struct Renderer {
    environment: Environment<'static>,
    context: minijinja::Value,
}

impl Renderer {
    pub(super) fn new(certname: &str, facts: &BTreeMap<String, Value>, data: &BTreeMap<String, Value>) -> Self {
        Self { environment: strict(), context: Serde(Context { node: certname, facts, data }).into() }
    }

    /// Renders text that stands in `site.yaml`; text without a template in it is returned as it is.
    pub(super) fn inline(&self, text: &str, line: u64) -> Result<String, CompileError> {
        if !text.contains("{{") && !text.contains("{%") && !text.contains("{#") {
            return Ok(text.to_owned());
        }
        self.environment.render_str(text, &self.context).map_err(|error| CompileError::at(SITE, describe(&error)).with_line(line))
    }

    /// Renders `<module>/<path>`, which is `modules/<module>/templates/<path>`.
    pub(super) fn file(&self, code: &Code, name: &str) -> Result<String, CompileError> {
        let path = template_path(name)?;
        let file = path.to_string();
        let content = super::read(code, &path, MAX_TEMPLATE_BYTES)?
            .ok_or_else(|| CompileError::at(SITE, format!("template {name} is not there: expected the file {file}")))?;
        let text = std::str::from_utf8(&content).map_err(|error| CompileError::at(&file, format!("it is not UTF-8: {error}")))?;
        self.environment.render_named_str(&file, text, &self.context).map_err(|error| place(&file, &error))
    }
}

/// Checks the syntax of every template of the code.
pub(super) fn check(code: &Code) -> Result<(), CompileError> {
    let environment = strict();
    for entry in code.manifest.entries() {
        let is_template = entry.path.components().nth(2) == Some(b"templates") && entry.path.as_bytes().ends_with(b".j2");
        if !is_template || !matches!(entry.kind, EntryKind::File { .. }) {
            continue;
        }
        let file = entry.path.to_string();
        let content = super::read(code, &entry.path, MAX_TEMPLATE_BYTES)?.unwrap_or_default();
        let text = std::str::from_utf8(&content).map_err(|error| CompileError::at(&file, format!("it is not UTF-8: {error}")))?;
        environment.template_from_named_str(&file, text).map(drop).map_err(|error| place(&file, &error))?;
    }
    Ok(())
}

/// Checks the syntax of every text of a site.
pub(super) fn check_site(site: &Site) -> Result<(), CompileError> {
    let environment = strict();
    for declaration in site.classes.values().flatten() {
        let line = declaration.defined.line();
        check_text(&environment, &declaration.value.title, line)?;
        for (_, value) in &declaration.value.parameters {
            check_value(&environment, value, line)?;
        }
    }
    Ok(())
}

fn check_value(environment: &Environment<'_>, value: &Value, line: u64) -> Result<(), CompileError> {
    match value {
        Value::String(text) => check_text(environment, text, line),
        Value::Array(values) => values.iter().try_for_each(|value| check_value(environment, value, line)),
        Value::Hash(values) => values.values().try_for_each(|value| check_value(environment, value, line)),
        _ => Ok(()),
    }
}

fn check_text(environment: &Environment<'_>, text: &str, line: u64) -> Result<(), CompileError> {
    let parsed = environment.template_from_named_str(SITE, text);
    parsed.map(drop).map_err(|error| CompileError::at(SITE, describe(&error)).with_line(line))
}

fn strict() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(MAX_FUEL));
    // A file keeps its last newline.
    if let Ok(syntax) = SyntaxConfig::builder().keep_trailing_newline(true).build() {
        environment.set_syntax(syntax);
    }
    environment
}

fn template_path(name: &str) -> Result<TreePath, CompileError> {
    let fail = |reason: String| CompileError::at(SITE, format!("template {name:?}: {reason}"));
    let (module, path) = name.split_once('/').ok_or_else(|| fail("write <module>/<path>".to_owned()))?;
    TreePath::from_bytes(format!("modules/{module}/templates/{path}").as_bytes()).map_err(|error| fail(error.to_string()))
}

fn place(file: &str, error: &minijinja::Error) -> CompileError {
    CompileError::at(file, describe(error)).with_line(error.line().unwrap_or_default() as u64)
}

fn describe(error: &minijinja::Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None if error.kind() == minijinja::ErrorKind::UndefinedError => {
            "a value that is not there is used: check the names of facts and data, or use default()".to_owned()
        }
        None => error.kind().to_string(),
    }
}
