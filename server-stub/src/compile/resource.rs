//! From a declaration to a resource, with its source or content resolved to digests.

use std::collections::BTreeMap;

use bytes::Bytes;
use direct_puppet_transport::protocol::{Digest, EntryKind, ManifestEntry, ResolvedSource, Resource, TreePath, Value};

use super::CompileError;
use super::site::{Declaration, SITE};
use super::template::Renderer;
use crate::code::Code;

/// Mode of compiled content where the resource says none; it is only a default for the agent.
const CONTENT_MODE: u32 = 0o644;

/// Turns declarations of one compile into resources.
pub(super) struct Builder<'a> {
    pub(super) code: &'a Code,
    pub(super) renderer: &'a Renderer,
    pub(super) contents: Vec<Bytes>,
}

impl Builder<'_> {
    /// Builds one resource of `class`.
    pub(super) fn resource(&mut self, declaration: &Declaration, class: &str, line: u64) -> Result<Resource, CompileError> {
        let fail = |message: String| CompileError::at(SITE, message).with_line(line);
        let resource_type = type_name(&declaration.resource_type)
            .ok_or_else(|| fail(format!("{:?} is not the name of a type", declaration.resource_type)))?;
        let mut resource = Resource::new(&resource_type, &self.renderer.inline(&declaration.title, line)?);
        resource.tags = vec![declaration.resource_type.to_lowercase(), class.to_owned()];
        resource.file = Some(SITE.to_owned());
        resource.line = u32::try_from(line).ok();
        for (name, value) in &declaration.parameters {
            resource.parameters.insert(name.clone(), self.render(value, line)?);
        }
        let secrets = self.take_secrets(&mut resource).map_err(&fail)?;
        match resource.resource_type.as_str() {
            "File" => self.resolve(&mut resource, line)?,
            "Concat_fragment" => {
                if let Some(source) = resource.parameter("source").cloned() {
                    self.source(&mut resource, &source, line)?;
                }
            }
            _ => {}
        }
        for name in secrets {
            let value = resource.parameters.remove(&name).unwrap_or_default();
            resource.parameters.insert(name, Value::Sensitive(Box::new(value)));
        }
        Ok(resource)
    }

    fn render(&self, value: &Value, line: u64) -> Result<Value, CompileError> {
        Ok(match value {
            Value::String(text) => Value::String(self.renderer.inline(text, line)?),
            Value::Array(values) => Value::Array(values.iter().map(|value| self.render(value, line)).collect::<Result<_, _>>()?),
            Value::Hash(values) => {
                let render = |(name, value): (&String, &Value)| Ok((name.clone(), self.render(value, line)?));
                Value::Hash(values.iter().map(render).collect::<Result<BTreeMap<_, _>, CompileError>>()?)
            }
            other => other.clone(),
        })
    }

    /// Takes the list of parameters that are secret (`sensitive: [content]`).
    fn take_secrets(&self, resource: &mut Resource) -> Result<Vec<String>, String> {
        let Some(value) = resource.parameters.remove("sensitive") else { return Ok(Vec::new()) };
        let mut names = Vec::new();
        for name in value.as_list() {
            let name = name.as_str().ok_or_else(|| format!("{}: sensitive takes names of parameters", resource.reference()))?;
            let name = if name == "template" { "content" } else { name };
            names.push(name.to_owned());
        }
        Ok(names)
    }

    /// Names what a file is made from by digest.
    fn resolve(&mut self, resource: &mut Resource, line: u64) -> Result<(), CompileError> {
        let fail = |resource: &Resource, message: &str| {
            Err(CompileError::at(SITE, format!("{}: {message}", resource.reference())).with_line(line))
        };
        if resource.parameter("mode").is_some_and(|mode| mode.as_str().is_none()) {
            return fail(resource, "mode must be text: put it in quotes, as \"0644\"");
        }
        let given = ["content", "template", "source"].iter().filter(|name| resource.parameter(name).is_some()).count();
        if given > 1 {
            return fail(resource, "give only one of content, template and source");
        }
        if let Some(template) = resource.parameters.remove("template") {
            let Some(name) = template.as_str() else {
                return fail(resource, "template takes the name of one, as <module>/<path>");
            };
            let text = self.renderer.file(self.code, name)?;
            self.content(resource, text.into());
        } else if let Some(content) = resource.parameters.remove("content") {
            match content {
                Value::String(text) => self.content(resource, text.into()),
                Value::Undef => {}
                _ => return fail(resource, "content must be text"),
            }
        } else if let Some(source) = resource.parameter("source").cloned() {
            self.source(resource, &source, line)?;
        }
        Ok(())
    }

    fn content(&mut self, resource: &mut Resource, content: Bytes) {
        let kind = EntryKind::File { digest: Digest::of(&content), size: content.len() as u64 };
        let entry = ManifestEntry { path: TreePath::root(), mode: CONTENT_MODE, kind };
        resource.resolved = Some(ResolvedSource { uri: None, entries: vec![entry] });
        self.contents.push(content);
    }

    /// Resolves the first `puppet:` source that exists. Sources on the node are the agent's to look at.
    fn source(&self, resource: &mut Resource, source: &Value, line: u64) -> Result<(), CompileError> {
        let fail = |message: String| CompileError::at(SITE, format!("{}: {message}", resource.reference())).with_line(line);
        let mut tried = Vec::new();
        let mut is_elsewhere = false;
        for uri in source.as_list() {
            let uri = uri.as_str().ok_or_else(|| fail("source takes text".to_owned()))?;
            let Some(rest) = uri.strip_prefix("puppet:") else {
                is_elsewhere = true;
                continue;
            };
            let path = source_path(rest).ok_or_else(|| fail(format!("source {uri} is not puppet:///modules/<module>/<path>")))?;
            if let Some(root) = self.code.manifest.get(&path) {
                resource.resolved = Some(self.entries(resource, uri, root));
                return Ok(());
            }
            tried.push(format!("{uri} (file {path})"));
        }
        if is_elsewhere || tried.is_empty() { Ok(()) } else { Err(fail(format!("no source exists: {}", tried.join(", ")))) }
    }

    fn entries(&self, resource: &Resource, uri: &str, root: &ManifestEntry) -> ResolvedSource {
        let recurses =
            resource.parameter("recurse").is_some_and(|value| value.as_bool() == Some(true) || value.as_str() == Some("remote"));
        let below = self.code.manifest.below(&root.path).take(if recurses { usize::MAX } else { 1 });
        let relative = |entry: &ManifestEntry| {
            let path = entry.path.strip_prefix(&root.path)?;
            Some(ManifestEntry { path, ..entry.clone() })
        };
        ResolvedSource { uri: Some(uri.to_owned()), entries: below.filter_map(relative).collect() }
    }
}

/// `file` is `File`, `foo::bar` is `Foo::Bar`.
fn type_name(name: &str) -> Option<String> {
    let segment = |segment: &str| {
        let mut letters = segment.chars();
        let first = letters.next().filter(char::is_ascii_alphabetic)?;
        let rest = letters.as_str();
        let is_word = rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        is_word.then(|| format!("{}{rest}", first.to_ascii_uppercase()))
    };
    name.split("::").map(segment).collect::<Option<Vec<_>>>().map(|segments| segments.join("::"))
}

/// `///modules/<module>/<path>`, with any server in front, is the file `modules/<module>/files/<path>`.
fn source_path(rest: &str) -> Option<TreePath> {
    let path = rest.strip_prefix("//")?.split_once('/')?.1;
    let (module, path) = path.strip_prefix("modules/")?.split_once('/').unwrap_or((path.strip_prefix("modules/")?, ""));
    let whole = format!("modules/{module}/files/{path}");
    TreePath::from_bytes(whole.trim_end_matches('/').as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_types() {
        assert_eq!(type_name("file").as_deref(), Some("File"));
        assert_eq!(type_name("foo::bar_baz").as_deref(), Some("Foo::Bar_baz"));
        assert_eq!(type_name("fi le"), None);
        assert_eq!(type_name(""), None);
    }

    #[test]
    fn sources() {
        let path = |rest: &str| source_path(rest).map(|path| path.to_string());
        assert_eq!(path("///modules/app/a/b").as_deref(), Some("modules/app/files/a/b"));
        assert_eq!(path("//server/modules/app/a").as_deref(), Some("modules/app/files/a"));
        assert_eq!(path("///modules/app").as_deref(), Some("modules/app/files"));
        assert_eq!(path("///other/app/a"), None);
        assert_eq!(path("///modules/app/../../x"), None);
    }
}
