//! The built-in compiler of `site.yaml`.

use std::collections::HashSet;

use direct_puppet_transport::protocol::catalog::CATALOG_FORMAT;
use direct_puppet_transport::protocol::{Catalog, Edge, Resource, ResourceRef, TreePath};

use super::resource::Builder;
use super::site::{SITE, Site};
use super::template::{self, Renderer};
use super::{CompileError, CompileRequest, Compiled, Compiler};
use crate::code::Code;

/// Longest `site.yaml`, in bytes.
const MAX_SITE_BYTES: u64 = 16 << 20;

/// Compiles `site.yaml`: nodes, classes, resources, with templates. It is there so that everything runs without Ruby.
#[derive(Debug, Clone, Default)]
pub struct ManifestCompiler {}

impl Compiler for ManifestCompiler {
    fn name_and_version(&self) -> &str {
        "manifest 1"
    }

    fn check(&self, code: &Code) -> Result<(), CompileError> {
        template::check_site(&load(code)?)?;
        template::check(code)
    }

    fn compile(&self, request: &CompileRequest) -> Result<Compiled, CompileError> {
        let site = load(&request.code)?;
        let certname = request.certname.as_str();
        let rule = site.rule(certname).ok_or_else(|| {
            CompileError::at(SITE, format!("no node rule matches {certname}: add one, or a last one with match: \"*\""))
        })?;
        let renderer = Renderer::new(certname, &request.facts, &rule.data);
        let mut builder = Builder { code: &request.code, renderer: &renderer, contents: Vec::new() };
        let mut catalog = Catalog {
            format: CATALOG_FORMAT,
            certname: request.certname.clone(),
            environment: request.code.version.environment.clone(),
            classes: Vec::new(),
            resources: Vec::new(),
            edges: Vec::new(),
        };
        let mut seen = HashSet::new();
        for class in &rule.classes {
            if catalog.classes.contains(class) {
                continue;
            }
            catalog.classes.push(class.clone());
            let container = ResourceRef { resource_type: "Class".to_owned(), title: class_title(class) };
            catalog.resources.push(Resource::new("Class", &container.title));
            for declaration in site.classes.get(class).into_iter().flatten() {
                let line = declaration.defined.line();
                let resource = builder.resource(&declaration.value, class, line)?;
                let reference = resource.reference();
                if !seen.insert(reference.clone()) {
                    return Err(CompileError::at(SITE, format!("{reference} is declared twice")).with_line(line));
                }
                catalog.edges.push(Edge { source: container.clone(), target: reference });
                catalog.resources.push(resource);
            }
        }
        catalog.validate().map_err(|error| CompileError::at(SITE, crate::error::chain(&error)))?;
        Ok(Compiled { catalog, contents: builder.contents })
    }
}

fn load(code: &Code) -> Result<Site, CompileError> {
    let path: TreePath = SITE.parse().map_err(|_| CompileError::at(SITE, "its name cannot be read"))?;
    let text = super::read(code, &path, MAX_SITE_BYTES)?;
    let text = text.ok_or_else(|| CompileError::at(SITE, "it is not there: every environment needs one"))?;
    Site::parse(&text)
}

/// `base` is `Base`, `profile::web` is `Profile::Web`, as Puppet writes references to classes.
fn class_title(class: &str) -> String {
    let capitalise = |segment: &str| {
        let mut letters = segment.chars();
        letters.next().map(|first| first.to_uppercase().chain(letters).collect::<String>()).unwrap_or_default()
    };
    class.split("::").map(capitalise).collect::<Vec<_>>().join("::")
}
