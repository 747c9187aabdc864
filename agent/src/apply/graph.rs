//! The order of a catalog's resources.
//!
//! A container (`Class`, `Stage`, a defined type) stands as two nodes: one before everything that it contains, one after.
//! Every other resource is one node. Among what may come next, manifest order decides.

mod drawing;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use direct_puppet_transport::hashing::FastState;
use direct_puppet_transport::protocol::path::PathError;
use direct_puppet_transport::protocol::{Catalog, Resource, ResourceRef, Value};

use crate::provider::{AutoRelation, Names};

pub(crate) use drawing::Drawing;

/// Why resources cannot be put in order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// Resources wait for each other.
    #[error("dependency cycle: {}: remove one of these relationships", members.iter().map(ToString::to_string).collect::<Vec<_>>().join(" => "))]
    Cycle {
        /// The resources on the cycle, in order, the first one again at the end.
        members: Vec<ResourceRef>,
    },
    /// A relationship with a resource that is not there.
    #[error("{resource}: {parameter} names {target}, which is not in the catalog")]
    UnknownTarget {
        /// The resource that has the parameter.
        resource: ResourceRef,
        /// `before`, `require`, `notify` or `subscribe`.
        parameter: &'static str,
        /// What it names.
        target: String,
    },
    /// An alias by which another resource is known.
    #[error("{resource}: alias {alias:?} is a name of {other}")]
    Alias {
        /// The resource that has the parameter.
        resource: ResourceRef,
        /// The alias.
        alias: String,
        /// What has this name already.
        other: String,
    },
    /// Two resources stand for the same path.
    #[error("{path} is managed twice: by {first} and by {second}")]
    DuplicatePath {
        /// The path.
        path: String,
        /// One of them.
        first: ResourceRef,
        /// The other.
        second: ResourceRef,
    },
    /// A path that cannot be managed.
    #[error("{resource} has a path that cannot be managed")]
    Path {
        /// The resource.
        resource: ResourceRef,
        /// What is wrong with the path.
        #[source]
        source: PathError,
    },
}

impl GraphError {
    /// Returns a cycle as a graph in the language of GraphViz; `None` for other errors.
    pub(crate) fn to_dot(&self) -> Option<String> {
        let Self::Cycle { members } = self else { return None };
        let quoted = |member: &ResourceRef| format!("\"{}\"", member.to_string().replace('\\', "\\\\").replace('"', "\\\""));
        let edges = members.windows(2).map(|pair| format!("  {} -> {}\n", quoted(&pair[0]), quoted(&pair[1])));
        Some(format!("digraph Resource_Cycles {{\n  label = \"Resource Cycles\"\n{}}}\n", edges.collect::<String>()))
    }
}

/// What is known of the resources of a catalog beside itself.
pub(crate) struct Relations<'a> {
    /// Which have no provider because they only hold others.
    pub(crate) is_container: &'a dyn Fn(&Resource) -> bool,
    /// Names what the one at an index comes after without being asked.
    pub(crate) autorequire: &'a dyn Fn(usize, &mut Names<'_>),
    /// What else the one at an index is ordered by without being asked.
    pub(crate) autorelations: &'a dyn Fn(usize) -> Vec<AutoRelation>,
    /// By which other title the one at an index may be named.
    pub(crate) alias: &'a dyn Fn(usize) -> Option<String>,
}

/// How a change travels along an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carries {
    /// Order only.
    Nothing,
    /// A change before it refreshes what is behind it.
    Changes,
    /// What reaches a container reaches everything in it, and the other way round.
    Containment,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    to: usize,
    carries: Carries,
}

/// What stands at one place of the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    /// The resource at this index of the catalog.
    Resource(usize),
    /// The border of a container: nothing to do.
    Border(usize),
}

/// The resources of a catalog with everything that orders them.
#[derive(Debug)]
pub(crate) struct Graph {
    nodes: Vec<Node>,
    links: Vec<Vec<Link>>,
    order: Vec<usize>,
}

/// Resources found by reference, and the nodes on which each begins and ends.
struct Index<'a> {
    by_reference: HashMap<(&'a str, &'a str), usize, FastState>,
    /// By type.
    by_alias: HashMap<&'a str, HashMap<String, usize, FastState>, FastState>,
    ends: Vec<(usize, usize)>,
}

impl Index<'_> {
    fn find(&self, reference: &ResourceRef) -> Option<usize> {
        self.find_named(&reference.resource_type, &reference.title)
    }

    fn find_named(&self, resource_type: &str, title: &str) -> Option<usize> {
        let found = self.by_reference.get(&(resource_type, title));
        found.or_else(|| self.by_alias.get(resource_type)?.get(title)).copied()
    }
}

impl Graph {
    /// Puts a catalog in order.
    ///
    /// # Errors
    ///
    /// When a relationship names what is not there, an alias is another's name, or resources wait for each other.
    #[cfg(test)]
    pub(crate) fn new(catalog: &Catalog, relations: &Relations<'_>) -> Result<Self, GraphError> {
        Self::drawn(catalog, relations, None)
    }

    /// Puts a catalog in order, and tells `drawing` of its edges.
    ///
    /// # Errors
    ///
    /// When a relationship names what is not there, an alias is another's name, or resources wait for each other.
    pub(crate) fn drawn(
        catalog: &Catalog,
        relations: &Relations<'_>,
        mut drawing: Option<&mut Drawing>,
    ) -> Result<Self, GraphError> {
        let mut graph = Self { nodes: Vec::with_capacity(catalog.resources.len()), links: Vec::new(), order: Vec::new() };
        let mut index = graph.add_nodes(catalog, relations.is_container);
        add_aliases(catalog, &mut index, relations.alias)?;
        graph.add_edges(catalog, &index, drawing.as_deref_mut());
        if let Some(drawing) = drawing.as_deref_mut() {
            drawing.end_edges();
        }
        graph.add_relationships(catalog, &index, drawing.as_deref_mut())?;
        graph.add_autorelations(catalog, &index, relations, drawing.as_deref_mut());
        if let Some(drawing) = drawing {
            drawing.end();
        }
        graph.order = graph.sort(catalog)?;
        Ok(graph)
    }

    /// Returns the places in the order in which they are to be applied: an id and what stands there.
    pub(crate) fn order(&self) -> impl Iterator<Item = (usize, Node)> {
        self.order.iter().map(|&id| (id, self.nodes[id]))
    }

    /// Returns what waits for `id`.
    pub(crate) fn successors(&self, id: usize) -> impl Iterator<Item = usize> {
        self.links[id].iter().map(|link| link.to)
    }

    /// Returns what hears of a change at `id`, or of a refresh that reached it.
    pub(crate) fn notified_by(&self, id: usize) -> impl Iterator<Item = usize> {
        self.links[id].iter().filter(|link| link.carries != Carries::Nothing).map(|link| link.to)
    }

    /// Returns how many places there are.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    fn add_nodes<'a>(&mut self, catalog: &'a Catalog, is_container: &dyn Fn(&Resource) -> bool) -> Index<'a> {
        let count = catalog.resources.len();
        let by_reference = HashMap::with_capacity_and_hasher(count, FastState::default());
        let mut index = Index { by_reference, by_alias: HashMap::default(), ends: Vec::with_capacity(count) };
        for (at, resource) in catalog.resources.iter().enumerate() {
            index.by_reference.insert((&resource.resource_type, &resource.title), at);
            let first = self.nodes.len();
            if is_container(resource) {
                self.nodes.extend([Node::Border(at), Node::Border(at)]);
                index.ends.push((first, first + 1));
            } else {
                self.nodes.push(Node::Resource(at));
                index.ends.push((first, first));
            }
        }
        self.links = vec![Vec::new(); self.nodes.len()];
        for &(begin, end) in &index.ends {
            if begin != end {
                // In Puppet an empty container passes on no refresh, and a full one only what its members pass on.
                self.links[begin].push(Link { to: end, carries: Carries::Nothing });
            }
        }
        index
    }

    fn add_edges(&mut self, catalog: &Catalog, index: &Index<'_>, mut drawing: Option<&mut Drawing>) {
        let mut last: Option<(&ResourceRef, Option<usize>)> = None;
        for edge in &catalog.edges {
            // Mostly what holds many stands before all of them.
            let source = match last {
                Some((reference, source)) if *reference == edge.source => source,
                _ => index.find(&edge.source),
            };
            last = Some((&edge.source, source));
            let (Some(source), Some(target)) = (source, index.find(&edge.target)) else { continue };
            if let Some(drawing) = drawing.as_deref_mut() {
                drawing.edge(source, target);
            }
            let ((begin, end), (target_begin, target_end)) = (index.ends[source], index.ends[target]);
            if begin == end {
                self.links[end].push(Link { to: target_begin, carries: Carries::Nothing });
            } else {
                self.links[begin].push(Link { to: target_begin, carries: Carries::Containment });
                self.links[target_end].push(Link { to: end, carries: Carries::Containment });
            }
        }
    }

    fn add_relationships(
        &mut self,
        catalog: &Catalog,
        index: &Index<'_>,
        mut drawing: Option<&mut Drawing>,
    ) -> Result<(), GraphError> {
        const PARAMETERS: [(&str, bool, Carries); 4] = [
            ("before", true, Carries::Nothing),
            ("notify", true, Carries::Changes),
            ("require", false, Carries::Nothing),
            ("subscribe", false, Carries::Changes),
        ];
        let names_others = |resource: &Resource| {
            resource.parameters.keys().any(|name| matches!(name.as_str(), "before" | "notify" | "require" | "subscribe"))
        };
        for (at, resource) in catalog.resources.iter().enumerate().filter(|(_, resource)| names_others(resource)) {
            for (parameter, forward, carries) in PARAMETERS {
                for target in resource.parameter(parameter).map(Value::as_list).unwrap_or_default() {
                    let text = target.as_str().unwrap_or_default();
                    let unknown = || GraphError::UnknownTarget {
                        resource: resource.reference(),
                        parameter,
                        target: if text.is_empty() { format!("{target:?}") } else { text.to_owned() },
                    };
                    let reference: ResourceRef = text.parse().map_err(|_| unknown())?;
                    let other = index.find(&reference).ok_or_else(unknown)?;
                    let (from, to) = if forward { (at, other) } else { (other, at) };
                    if let Some(drawing) = drawing.as_deref_mut() {
                        drawing.relationship(at, parameter, (from, to));
                    }
                    self.links[index.ends[from].1].push(Link { to: index.ends[to].0, carries });
                }
            }
        }
        Ok(())
    }

    /// Adds autorequires and the like, each unless that order or the opposite has been asked for: then the explicit relationship wins, as in
    /// Puppet.
    fn add_autorelations(
        &mut self,
        catalog: &Catalog,
        index: &Index<'_>,
        relations: &Relations<'_>,
        mut drawing: Option<&mut Drawing>,
    ) {
        let mut add = |edge: (usize, usize), carries: Carries| {
            let is_added = self.add_autorelation(edge, carries, index);
            if let Some(drawing) = drawing.as_deref_mut().filter(|_| is_added) {
                drawing.autorelation(edge);
            }
        };
        for at in 0..catalog.resources.len() {
            (relations.autorequire)(at, &mut |resource_type, title| {
                if let Some(other) = index.find_named(resource_type, title) {
                    add((other, at), Carries::Nothing);
                }
            });
            for relation in (relations.autorelations)(at) {
                let (reference, is_first, carries) = match &relation {
                    AutoRelation::Before(other) => (other, true, Carries::Nothing),
                    AutoRelation::Notify(other) => (other, true, Carries::Changes),
                    AutoRelation::Subscribe(other) => (other, false, Carries::Changes),
                };
                if let Some(other) = index.find(reference) {
                    add(if is_first { (at, other) } else { (other, at) }, carries);
                }
            }
        }
    }

    /// Returns whether it was added.
    fn add_autorelation(&mut self, (from, to): (usize, usize), carries: Carries, index: &Index<'_>) -> bool {
        let goes = |from: usize, to: usize| self.links[index.ends[from].1].iter().any(|link| link.to == index.ends[to].0);
        let is_new = from != to && !goes(from, to) && !goes(to, from);
        if is_new {
            self.links[index.ends[from].1].push(Link { to: index.ends[to].0, carries });
        }
        is_new
    }

    /// Kahn's algorithm; the ready node that was declared first goes first.
    fn sort(&self, catalog: &Catalog) -> Result<Vec<usize>, GraphError> {
        let mut waiting = vec![0_usize; self.nodes.len()];
        for link in self.links.iter().flatten() {
            waiting[link.to] += 1;
        }
        let mut ready: BinaryHeap<Reverse<usize>> = (0..waiting.len()).filter(|&id| waiting[id] == 0).map(Reverse).collect();
        let mut order = Vec::with_capacity(self.nodes.len());
        while let Some(Reverse(id)) = ready.pop() {
            order.push(id);
            for link in &self.links[id] {
                waiting[link.to] -= 1;
                if waiting[link.to] == 0 {
                    ready.push(Reverse(link.to));
                }
            }
        }
        if order.len() == self.nodes.len() { Ok(order) } else { Err(self.cycle(catalog, &waiting)) }
    }

    /// Walks backwards from a node that never became ready: among its predecessors there is always one that is not ready
    /// either, so the walk must come round.
    fn cycle(&self, catalog: &Catalog, waiting: &[usize]) -> GraphError {
        let mut before: Vec<Option<usize>> = vec![None; self.nodes.len()];
        for (id, links) in self.links.iter().enumerate().filter(|(id, _)| waiting[*id] > 0) {
            for link in links {
                before[link.to] = Some(id);
            }
        }
        let start = (0..waiting.len()).find(|&id| waiting[id] > 0 && before[id].is_some()).unwrap_or_default();
        let mut seen: HashMap<usize, usize> = HashMap::new();
        let mut path = Vec::new();
        let mut id = start;
        while !seen.contains_key(&id) {
            seen.insert(id, path.len());
            path.push(id);
            match before[id] {
                Some(previous) => id = previous,
                None => break,
            }
        }
        let mut members: Vec<ResourceRef> = path[seen.get(&id).copied().unwrap_or_default()..]
            .iter()
            .rev()
            .map(|&id| match self.nodes[id] {
                Node::Resource(at) | Node::Border(at) => catalog.resources[at].reference(),
            })
            .collect();
        members.dedup();
        if let Some(first) = members.first().cloned() {
            members.push(first);
        }
        GraphError::Cycle { members }
    }
}

/// Adds the other names of resources: the metaparameter `alias`, which must be nobody else's, and what providers know, as the path of a file.
fn add_aliases<'a>(
    catalog: &'a Catalog,
    index: &mut Index<'a>,
    alias_of: &dyn Fn(usize) -> Option<String>,
) -> Result<(), GraphError> {
    for (at, resource) in catalog.resources.iter().enumerate() {
        for alias in resource.parameter("alias").map(Value::as_list).unwrap_or_default().iter().filter_map(Value::as_str) {
            let reference = ResourceRef { resource_type: resource.resource_type.clone(), title: alias.to_owned() };
            if let Some(other) = index.find(&reference).filter(|&other| other != at) {
                let other = catalog.resources[other].reference().to_string();
                return Err(GraphError::Alias { resource: resource.reference(), alias: alias.to_owned(), other });
            }
            index.by_alias.entry(&resource.resource_type).or_default().insert(alias.to_owned(), at);
        }
    }
    for (at, resource) in catalog.resources.iter().enumerate() {
        if let Some(alias) = alias_of(at) {
            index.by_alias.entry(&resource.resource_type).or_default().entry(alias).or_insert(at);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use direct_puppet_transport::protocol::{Edge, Environment};

    pub(super) fn catalog(resources: Vec<Resource>, edges: &[(&str, &str)]) -> Catalog {
        let edges = edges.iter().map(|(a, b)| Edge { source: a.parse().unwrap(), target: b.parse().unwrap() }).collect();
        Catalog {
            format: 1,
            certname: "n".parse().unwrap(),
            environment: Environment::default(),
            classes: Vec::new(),
            resources,
            edges,
        }
    }

    fn graph(catalog: &Catalog) -> Result<Graph, GraphError> {
        graph_with(catalog, &|_| Vec::new(), &|_| None)
    }

    fn graph_with(
        catalog: &Catalog,
        autorequire: &dyn Fn(usize) -> Vec<ResourceRef>,
        alias: &dyn Fn(usize) -> Option<String>,
    ) -> Result<Graph, GraphError> {
        let autorequire = |at: usize, names: &mut Names<'_>| {
            autorequire(at).iter().for_each(|before| names(&before.resource_type, &before.title));
        };
        let autorequire = &autorequire;
        let relations = Relations { is_container: &Resource::is_container, autorequire, autorelations: &|_| Vec::new(), alias };
        Graph::new(catalog, &relations)
    }

    fn titles(catalog: &Catalog) -> Vec<&str> {
        graph(catalog)
            .unwrap()
            .order()
            .filter_map(|(_, node)| match node {
                Node::Resource(at) => Some(catalog.resources[at].title.as_str()),
                Node::Border(_) => None,
            })
            .collect()
    }

    #[test]
    fn manifest_order_among_the_rest() {
        let resources = vec![Resource::new("T", "b"), Resource::new("T", "a"), Resource::new("T", "c").with("before", "T[b]")];
        assert_eq!(titles(&catalog(resources, &[])), ["a", "c", "b"]);
    }

    #[test]
    fn containers_hold_their_order() {
        let resources = vec![
            Resource::new("T", "after").with("require", "Class[C]"),
            Resource::new("Class", "C"),
            Resource::new("T", "inside"),
            Resource::new("T", "before").with("before", "Class[C]"),
        ];
        assert_eq!(titles(&catalog(resources, &[("Class[C]", "T[inside]")])), ["before", "inside", "after"]);
    }

    #[test]
    fn a_cycle_names_its_members() {
        let resources = vec![
            Resource::new("T", "x"),
            Resource::new("T", "a").with("require", "T[b]"),
            Resource::new("T", "b").with("require", "T[a]"),
        ];
        let Err(GraphError::Cycle { members }) = graph(&catalog(resources, &[])) else { panic!("no cycle") };
        assert_eq!(members.len(), 3);
        assert_eq!(members[0], members[2]);
        assert!(!members.iter().any(|member| member.title == "x"));
    }

    #[test]
    fn a_cycle_is_drawn() {
        let members = ["T[a \"b\"]", "T[c]", "T[a \"b\"]"].map(|text| text.parse().unwrap()).to_vec();
        let dot = GraphError::Cycle { members }.to_dot().unwrap();
        assert!(dot.starts_with("digraph Resource_Cycles {\n"));
        assert!(dot.contains("  \"T[a \\\"b\\\"]\" -> \"T[c]\"\n  \"T[c]\" -> \"T[a \\\"b\\\"]\"\n}"), "{dot}");
    }

    #[test]
    fn aliases_are_names() {
        let named =
            |alias: &str| vec![Resource::new("T", "b").with("require", "T[x]"), Resource::new("T", "a").with("alias", alias)];
        assert_eq!(titles(&catalog(named("x"), &[])), ["a", "b"]);
        let error = graph(&catalog(named("b"), &[])).unwrap_err();
        assert_eq!(error.to_string(), "T[a]: alias \"b\" is a name of T[b]");
        // What a provider knows serves too, and yields to titles.
        let resources = vec![Resource::new("T", "b").with("require", "T[/p]"), Resource::new("T", "a")];
        let catalog = catalog(resources, &[]);
        let alias = |at: usize| Some(if at == 1 { "/p".to_owned() } else { "a".to_owned() });
        let order: Vec<Node> = graph_with(&catalog, &|_| Vec::new(), &alias).unwrap().order().map(|(_, node)| node).collect();
        assert_eq!(order, [Node::Resource(1), Node::Resource(0)]);
    }

    #[test]
    fn unknown_targets_are_named() {
        let error = graph(&catalog(vec![Resource::new("T", "a").with("notify", "T[zz]")], &[])).unwrap_err();
        assert_eq!(error.to_string(), "T[a]: notify names T[zz], which is not in the catalog");
    }

    #[test]
    fn automatic_relationships_order_and_notify() {
        let resources = |last: Resource| vec![Resource::new("T", "a"), Resource::new("T", "b"), Resource::new("T", "c"), last];
        let places = |last: Resource, relation: &dyn Fn(ResourceRef) -> AutoRelation| {
            let catalog = catalog(resources(last), &[]);
            let autorelations = |at: usize| if at == 3 { vec![relation("T[b]".parse().unwrap())] } else { Vec::new() };
            let relations = Relations {
                is_container: &Resource::is_container,
                autorequire: &|_, _| (),
                autorelations: &autorelations,
                alias: &|_| None,
            };
            let graph = Graph::new(&catalog, &relations).unwrap();
            let order: Vec<usize> = graph.order().map(|(id, _)| id).collect();
            let heard = |id: usize| graph.notified_by(id).collect::<Vec<_>>();
            (order, heard(1), heard(3))
        };
        let plain = || Resource::new("T", "d");
        assert_eq!(places(plain(), &AutoRelation::Before), (vec![0, 2, 3, 1], vec![], vec![]));
        assert_eq!(places(plain(), &AutoRelation::Notify), (vec![0, 2, 3, 1], vec![], vec![1]));
        assert_eq!(places(plain(), &AutoRelation::Subscribe), (vec![0, 1, 2, 3], vec![3], vec![]));
        // What was asked for stays as it was, in either direction.
        let required = || Resource::new("T", "d").with("require", "T[b]");
        assert_eq!(places(required(), &AutoRelation::Subscribe), (vec![0, 1, 2, 3], vec![], vec![]));
        assert_eq!(places(required(), &AutoRelation::Notify), (vec![0, 1, 2, 3], vec![], vec![]));
    }

    #[test]
    fn an_autorequire_yields_to_an_explicit_relationship() {
        let catalog = catalog(vec![Resource::new("T", "a").with("before", "T[b]"), Resource::new("T", "b")], &[]);
        let autorequire = |at: usize| if at == 0 { vec!["T[b]".parse().unwrap()] } else { Vec::new() };
        assert!(graph_with(&catalog, &autorequire, &|_| None).is_ok());
    }
}
