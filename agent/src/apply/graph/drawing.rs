//! The graphs of a catalog for GraphViz, as Puppet's `graph` setting has them.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt::Write as _;

use direct_puppet_transport::protocol::{Catalog, Resource};

/// What a catalog contains and what its resources are ordered by, as it stood in the graph: resources by index.
#[derive(Debug)]
pub(crate) struct Drawing {
    names: Vec<String>,
    containers: Vec<bool>,
    contained: Vec<(usize, usize)>,
    related: Vec<Related>,
    known: Known,
}

/// How much is known of a catalog's edges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Known {
    Nothing,
    Containment,
    All,
}

/// One relationship that was asked for.
#[derive(Debug)]
struct Related {
    /// The resource that asked for it, and the place of the parameter among others: they are drawn in this order.
    place: (usize, usize),
    edge: (usize, usize),
}

/// Relationship parameters in Puppet's order.
const PARAMETERS: [&str; 4] = ["require", "subscribe", "before", "notify"];

impl Drawing {
    /// Returns the drawing of a catalog of which no edge is known yet.
    pub(crate) fn of(catalog: &Catalog) -> Self {
        Self {
            names: catalog.resources.iter().map(name).collect(),
            containers: catalog.resources.iter().map(|resource| resource.is_container()).collect(),
            contained: Vec::new(),
            related: Vec::new(),
            known: Known::Nothing,
        }
    }

    /// Adds an edge of the catalog.
    pub(super) fn edge(&mut self, source: usize, target: usize) {
        if self.containers[source] {
            self.contained.push((source, target));
        } else {
            self.related.push(Related { place: (source, PARAMETERS.len()), edge: (source, target) });
        }
    }

    /// Adds what a parameter of the resource at `of` asks for.
    pub(super) fn relationship(&mut self, of: usize, parameter: &str, edge: (usize, usize)) {
        let parameter = PARAMETERS.iter().position(|name| *name == parameter).unwrap_or(PARAMETERS.len());
        self.related.push(Related { place: (of, parameter), edge });
    }

    /// Adds what nobody asked for, after all that was.
    pub(super) fn autorelation(&mut self, edge: (usize, usize)) {
        self.related.push(Related { place: (usize::MAX, 0), edge });
    }

    /// Says that all edges of the catalog are known.
    pub(super) fn end_edges(&mut self) {
        self.known = Known::Containment;
    }

    /// Says that all relationships are known too.
    pub(super) fn end(&mut self) {
        self.related.sort_by_key(|related| related.place);
        self.known = Known::All;
    }

    /// Returns the graphs by Puppet's names, as far as they are known.
    pub(crate) fn to_dot(&self) -> Vec<(&'static str, String)> {
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        if self.known < Known::Containment {
            return Vec::new();
        }
        let contained = by_target(names.len(), &self.contained);
        let mut graphs = vec![("resources", dot("Resources", &names, &contained))];
        if self.known == Known::All {
            let related: Vec<(usize, usize)> = self.related.iter().map(|related| related.edge).collect();
            graphs.push(("relationships", dot("Relationships", &names, &by_target(names.len(), &related))));
            graphs.push(("expanded_relationships", self.expanded(&contained, &related)));
        }
        graphs
    }

    /// Puts two nodes in the place of each container: one before all that it contains, one after.
    fn expanded(&self, contained: &[(usize, usize)], related: &[(usize, usize)]) -> String {
        let count = self.names.len();
        let mut names: Vec<String> = Vec::new();
        // By index: where a resource begins, and where it ends.
        let mut ends = vec![(0, 0); count];
        for at in (0..count).filter(|&at| !self.containers[at]) {
            ends[at] = (names.len(), names.len());
            names.push(self.names[at].clone());
        }
        let containers: Vec<usize> = (0..count).filter(|&at| self.containers[at]).collect();
        for &at in &containers {
            ends[at] = (names.len(), names.len() + 1);
            names.extend(["admissible_", "completed_"].map(|which| border(which, &self.names[at])));
        }
        let mut contents: Vec<Vec<usize>> = vec![Vec::new(); count];
        contained.iter().for_each(|&(container, content)| contents[container].push(content));
        let moved = |edge: &(usize, usize)| (ends[edge.0].1, ends[edge.1].0);
        let is_moved = |edge: &&(usize, usize)| self.containers[edge.0] || self.containers[edge.1];
        // What has no container stays where it was, before all that is made.
        let mut edges: Vec<(usize, usize)> = related.iter().filter(|edge| !is_moved(edge)).map(moved).collect();
        let into = by_target(count, related);
        let swapped = |edge: &(usize, usize)| (edge.1, edge.0);
        let out = by_target(count, &related.iter().map(swapped).collect::<Vec<_>>());
        let out: Vec<(usize, usize)> = out.iter().map(swapped).collect();
        for &at in &containers {
            let (begin, end) = ends[at];
            if contents[at].is_empty() {
                edges.push((begin, end));
            }
            edges.extend(contents[at].iter().flat_map(|&content| [(begin, ends[content].0), (ends[content].1, end)]));
            // Between two containers, the first of them moves it.
            let is_first = |other: usize| !self.containers[other] || other >= at;
            let from = into.partition_point(|edge| edge.1 < at);
            edges.extend(into[from..].iter().take_while(|edge| edge.1 == at).filter(|edge| is_first(edge.0)).map(moved));
            let from = out.partition_point(|edge| edge.0 < at);
            let leaving = out[from..].iter().take_while(|edge| edge.0 == at);
            edges.extend(leaving.filter(|edge| edge.1 != at && is_first(edge.1)).map(moved));
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        dot("Expanded_relationships", &names, &by_target(names.len(), &edges))
    }
}

/// Returns the name of a node; classes are written as types are.
fn name(resource: &Resource) -> String {
    match resource.resource_type.as_str() {
        "Class" => format!("Class[{}]", type_name(&resource.title)),
        _ => resource.reference().to_string(),
    }
}

/// Returns the name of a node that stands for a container, written as Puppet's `Whit` writes it.
fn border(which: &str, container: &str) -> String {
    let (resource_type, title) = container.split_once('[').unwrap_or((container, "]"));
    format!("Whit[{}[{title}]", type_name(&format!("{which}{resource_type}")))
}

fn type_name(name: &str) -> String {
    name.split("::").map(capitalized).collect::<Vec<_>>().join("::")
}

fn capitalized(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars.flat_map(char::to_lowercase)).collect())
}

/// Returns edges in Puppet's order: by target; into one target, sources as they came first, with those between the same two together.
fn by_target(count: usize, edges: &[(usize, usize)]) -> Vec<(usize, usize)> {
    let mut sources: Vec<Vec<usize>> = vec![Vec::new(); count];
    edges.iter().for_each(|&(source, target)| sources[target].push(source));
    let mut ordered = Vec::with_capacity(edges.len());
    for (target, mut sources) in sources.into_iter().enumerate() {
        let mut first: HashMap<usize, usize> = HashMap::new();
        for (at, &source) in sources.iter().enumerate() {
            first.entry(source).or_insert(at);
        }
        sources.sort_by_key(|source| first.get(source).copied());
        ordered.extend(sources.into_iter().map(|source| (source, target)));
    }
    ordered
}

fn dot(name: &str, names: &[&str], edges: &[(usize, usize)]) -> String {
    let quoted: Vec<String> =
        names.iter().map(|name| format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))).collect();
    let mut text = format!("digraph {name} {{\n    label = \"{name}\"\n");
    // Writing to a string cannot fail.
    for name in &quoted {
        let _ = write!(text, "    {name} [\n        fontsize = 8,\n        label = {name}\n    ]\n\n");
    }
    for &(source, target) in edges {
        let _ = write!(text, "    {} -> {} [\n        fontsize = 8\n    ]\n\n", quoted[source], quoted[target]);
    }
    text.push_str("}\n");
    text
}
