//! Everything that can be found out of a catalog without looking at the machine: what cannot be managed, and the order of the rest.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use direct_puppet_transport::Transport;
use direct_puppet_transport::hashing::FastState;
use direct_puppet_transport::protocol::{Catalog, Resource, ResourceRef};

use super::{Run, own_state};
use crate::apply::{
    BadPaths, Drawing, Graph, GraphError, Metaparameters, Relations, Schedules, error_chain, handed_down, managed_paths,
};
use crate::error::RunError;
use crate::fs::{FsError, write_state};
use crate::provider::{Autorequirer, ManagedPaths, Names, Providers};
use crate::puppet_catalog::evaluate_deferred;
use crate::tree::WantedContent;

/// Where graphs are drawn, below the state directory: Puppet's name.
const GRAPHS: &str = "graphs";

/// What a dependency cycle is drawn in.
const CYCLES: &str = "cycles";

/// A catalog in order.
pub(super) struct Plan {
    /// Those of this run: types that only Ruby has are among them.
    pub(super) providers: Arc<Providers>,
    pub(super) graph: Graph,
    pub(super) managed: ManagedPaths,
    pub(super) resources: Looked,
    /// By index, what resources and their containers say of how they are applied.
    pub(super) metaparameters: Vec<Metaparameters>,
    pub(super) schedules: Schedules,
}

/// What resources say of themselves.
#[derive(Default)]
pub(super) struct Looked {
    /// By index, those that cannot be managed, and why.
    pub(super) refused: HashMap<usize, String, FastState>,
    /// The contents that the others want.
    pub(super) wanted: Vec<WantedContent>,
    /// For each of these, the index of the resource that wants it.
    pub(super) owners: Vec<usize>,
}

/// Puts a catalog in order.
pub(super) async fn plan<T: Transport>(run: &mut Run<'_, T>, catalog: &mut Catalog) -> Result<Plan, RunError> {
    let unusable = evaluate_deferred(catalog);
    let providers = run.hand_over(catalog, &unusable).await;
    let mut drawing = run.inner.graph.then(|| Drawing::of(catalog));
    let plan = in_order(run, catalog, &unusable, providers, drawing.as_mut());
    if let Some(drawing) = drawing {
        let graphs = run.inner.state_dir.join(GRAPHS);
        let write = move || drawing.to_dot().iter().try_for_each(|(name, dot)| write_dot(&graphs, name, dot));
        if let Err(error) = tokio::task::spawn_blocking(write).await.map_err(RunError::Lost)? {
            run.warn(format!("the graphs of the catalog could not be drawn: {}", error_chain(&error)));
        }
    }
    plan
}

fn in_order<T: Transport>(
    run: &mut Run<'_, T>,
    catalog: &Catalog,
    unusable: &BTreeMap<ResourceRef, String>,
    of_run: Arc<Providers>,
    drawing: Option<&mut Drawing>,
) -> Result<Plan, RunError> {
    let providers = &*of_run;
    let mut bad_paths = HashMap::default();
    let mut managed = managed_paths(catalog, &mut bad_paths)?;
    // Recursion and purging leave the agent's own state alone, as if a resource of its own managed it.
    managed.extend(own_state(&run.inner.root, &run.inner.state_dir));
    let mut resources = look(run, catalog, unusable, (providers, &managed, &bad_paths))?;
    for (at, error) in bad_paths {
        if run.inner.strict_types {
            return Err(error.into());
        }
        resources.refused.entry(at).or_insert_with(|| error_chain(&error));
    }
    let provider = |at: usize| {
        let resource: &Resource = &catalog.resources[at];
        providers.get(&resource.resource_type).filter(|_| !resource.is_container()).map(|provider| (provider, resource))
    };
    let autorequirers: HashMap<&str, Autorequirer<'_>, FastState> =
        providers.iter().map(|(resource_type, provider)| (resource_type.as_str(), provider.autorequirer(catalog))).collect();
    let autorequire = |at: usize, names: &mut Names<'_>| {
        // One that cannot be managed fails by itself, whatever would come before it.
        if !resources.refused.contains_key(&at)
            && let Some((_, resource)) = provider(at)
            && let Some(autorequirer) = autorequirers.get(resource.resource_type.as_str())
        {
            autorequirer(resource, names);
        }
    };
    let autorelations = |at: usize| provider(at).map(|(provider, resource)| provider.autorelations(resource)).unwrap_or_default();
    let alias = |at: usize| provider(at).and_then(|(provider, resource)| provider.alias(resource));
    let relations = Relations {
        is_container: &Resource::is_container,
        autorequire: &autorequire,
        autorelations: &autorelations,
        alias: &alias,
    };
    let graph = Graph::drawn(catalog, &relations, drawing);
    drop(autorequirers);
    match graph {
        Ok(graph) => Ok(Plan {
            graph,
            managed,
            resources,
            metaparameters: handed_down(catalog),
            schedules: Schedules::of(catalog),
            providers: of_run,
        }),
        Err(error) => {
            draw(run, &error);
            Err(error.into())
        }
    }
}

/// Finds resources that nothing can manage as they are, and the contents that the others want.
fn look<T: Transport>(
    run: &Run<'_, T>,
    catalog: &Catalog,
    deferred: &BTreeMap<ResourceRef, String>,
    (providers, managed, bad_paths): (&Providers, &ManagedPaths, &BadPaths),
) -> Result<Looked, RunError> {
    let given = run.given.as_ref().map(|given| &given.unusable);
    let by_reference = || [Some(deferred), given].into_iter().flatten().filter(|said| !said.is_empty());
    let said = |resource: &Resource| {
        let by_reference = by_reference().map(|said| said.get(&resource.reference()).cloned());
        by_reference.flatten().next().or_else(|| resource.unusable.clone())
    };
    let mut looked = Looked::default();
    for (at, resource) in catalog.resources.iter().enumerate() {
        let metaparameters = Metaparameters::parse(resource).map(drop);
        if resource.is_container() {
            // It is not applied, so it cannot fail alone.
            metaparameters?;
            continue;
        }
        if let Some(reason) = said(resource) {
            let reason = format!("{}: {reason}", resource.reference());
            if run.inner.strict_types {
                return Err(RunError::Unusable { reason });
            }
            looked.refused.insert(at, reason);
            continue;
        }
        let valid = match providers.get(&resource.resource_type) {
            Some(provider) => metaparameters.and_then(|()| provider.validated(resource, managed)).map_err(RunError::from),
            // What only Ruby has is there for this catalog alone: that is no help.
            None => Err(no_provider(resource, run.inner.providers.keys())),
        };
        match valid {
            // Its path cannot be managed: that is said of it then.
            Ok(_) if bad_paths.contains_key(&at) => {}
            Ok(contents) => {
                looked.owners.resize(looked.owners.len() + contents.len(), at);
                looked.wanted.extend(contents);
            }
            Err(error) if run.inner.strict_types => return Err(error),
            Err(RunError::Provider(error)) => {
                looked.refused.insert(at, error_chain(&error));
            }
            Err(error) => {
                looked.refused.insert(at, error_chain(&error));
            }
        }
    }
    Ok(looked)
}

fn no_provider<'a>(resource: &Resource, known: impl Iterator<Item = &'a String>) -> RunError {
    let mut known: Vec<String> = known.cloned().collect();
    known.sort();
    RunError::NoProvider {
        resource: resource.reference().to_string(),
        resource_type: resource.resource_type.clone(),
        declared: resource.file.as_ref().map(|file| match resource.line {
            Some(line) => format!("{file}:{line}"),
            None => file.clone(),
        }),
        known,
    }
}

/// Draws a cycle for GraphViz, as Puppet does with `--graph`; that this cannot be done changes nothing.
fn draw<T: Transport>(run: &mut Run<'_, T>, error: &GraphError) {
    let Some(dot) = error.to_dot() else { return };
    let graphs = run.inner.state_dir.join(GRAPHS);
    match write_dot(&graphs, CYCLES, &dot) {
        Ok(()) => {
            let path = graphs.join(CYCLES).with_extension("dot");
            run.warn(format!("the dependency cycle is drawn in {}: open it with GraphViz", path.display()));
        }
        Err(error) => run.warn(format!("the dependency cycle could not be drawn: {}", error_chain(&error))),
    }
}

fn write_dot(dir: &Path, name: &str, dot: &str) -> Result<(), FsError> {
    crate::fs::ensure_private_dir(dir)?;
    write_state(&dir.join(name).with_extension("dot"), dot.as_bytes(), 0o600)
}
