use direct_puppet_transport::protocol::ResourceRef;

use super::super::tests::catalog;
use super::super::{Graph, GraphError, Relations};
use super::*;
use crate::provider::Names;

fn drawn(catalog: &Catalog, autorequire: &dyn Fn(usize) -> Vec<ResourceRef>) -> (Drawing, Result<Graph, GraphError>) {
    let autorequire = |at: usize, names: &mut Names<'_>| {
        autorequire(at).iter().for_each(|before| names(&before.resource_type, &before.title));
    };
    let autorequire = &autorequire;
    let relations =
        Relations { is_container: &Resource::is_container, autorequire, autorelations: &|_| Vec::new(), alias: &|_| None };
    let mut drawing = Drawing::of(catalog);
    let graph = Graph::drawn(catalog, &relations, Some(&mut drawing));
    (drawing, graph)
}

/// Returns the nodes and the edges of a graph, in order.
fn lines(dot: &str) -> (Vec<&str>, Vec<&str>) {
    let heads: Vec<&str> = dot.lines().filter_map(|line| line.strip_suffix(" [")).map(str::trim_start).collect();
    heads.into_iter().partition(|head| !head.contains("\" -> \""))
}

/// What `puppet apply --graph` (7.23) made of the same resources.
#[test]
fn as_puppet_draws_them() {
    let defined = Resource { container: true, ..Resource::new("My::Def", "one").with("before", "Class[C]") };
    let resources = vec![
        Resource::new("Stage", "main"),
        Resource::new("Class", "A"),
        Resource::new("Notify", "x").with("before", "File[/o]"),
        Resource::new("File", "/o"),
        Resource::new("File", "/o/f").with("notify", "Exec[t]"),
        Resource::new("Exec", "t"),
        Resource::new("Class", "B").with("require", "Class[A]"),
        Resource::new("Class", "C"),
        defined,
        Resource::new("Notify", "d").with("require", "Class[A]"),
    ];
    let edges = [
        ("Stage[main]", "Class[A]"),
        ("Class[A]", "Notify[x]"),
        ("Class[A]", "File[/o]"),
        ("Class[A]", "File[/o/f]"),
        ("Class[A]", "Exec[t]"),
        ("Stage[main]", "Class[B]"),
        ("Stage[main]", "Class[C]"),
        ("My::Def[one]", "Notify[d]"),
    ];
    let catalog = catalog(resources, &edges);
    let autorequire = |at: usize| if at == 4 { vec!["File[/o]".parse().unwrap()] } else { Vec::new() };
    let (drawing, graph) = drawn(&catalog, &autorequire);
    assert!(graph.is_ok());
    let graphs = drawing.to_dot();
    let names: Vec<&str> = graphs.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["resources", "relationships", "expanded_relationships"]);
    let (nodes, contained) = lines(&graphs[0].1);
    assert_eq!((nodes.len(), nodes[8]), (10, "\"My::Def[one]\""));
    assert_eq!(contained.len(), edges.len());
    assert_eq!(contained[1], "\"Class[A]\" -> \"Notify[x]\"");
    let (nodes, related) = lines(&graphs[1].1);
    assert_eq!(nodes.len(), 10);
    assert_eq!(
        related,
        [
            "\"Notify[x]\" -> \"File[/o]\"",
            "\"File[/o]\" -> \"File[/o/f]\"",
            "\"File[/o/f]\" -> \"Exec[t]\"",
            "\"Class[A]\" -> \"Class[B]\"",
            "\"My::Def[one]\" -> \"Class[C]\"",
            "\"Class[A]\" -> \"Notify[d]\"",
        ]
    );
    let (nodes, expanded) = lines(&graphs[2].1);
    assert_eq!(nodes.len(), 15);
    assert_eq!((nodes[4], nodes[5]), ("\"Notify[d]\"", "\"Whit[Admissible_stage[main]]\""));
    assert_eq!(nodes[13..], ["\"Whit[Admissible_my::Def[one]]\"", "\"Whit[Completed_my::Def[one]]\""]);
    let completed = "\"Whit[Completed_class[A]]\"";
    for edge in [
        "\"Whit[Admissible_class[A]]\" -> \"Notify[x]\"".to_owned(),
        format!("\"Exec[t]\" -> {completed}"),
        format!("{completed} -> \"Whit[Admissible_class[B]]\""),
        format!("{completed} -> \"Notify[d]\""),
        "\"Whit[Completed_my::Def[one]]\" -> \"Whit[Admissible_class[C]]\"".to_owned(),
        "\"Whit[Admissible_class[B]]\" -> \"Whit[Completed_class[B]]\"".to_owned(),
        "\"Whit[Admissible_stage[main]]\" -> \"Whit[Admissible_class[A]]\"".to_owned(),
    ] {
        assert_eq!(expanded.iter().filter(|line| **line == edge).count(), 1, "{edge}");
    }
    // Three without containers, twelve of contents, two empty classes, three relationships that lead through containers.
    assert_eq!(expanded.len(), 3 + 2 * edges.len() + 2 + 3);
}

#[test]
fn a_node_and_an_edge() {
    let resources = vec![Resource::new("T", "a \"b\" \\"), Resource::new("T", "c").with("require", "T[a \"b\" \\]")];
    let (drawing, _) = drawn(&catalog(resources, &[]), &|_| Vec::new());
    let graphs = drawing.to_dot();
    let node = |name: &str| format!("    \"{name}\" [\n        fontsize = 8,\n        label = \"{name}\"\n    ]\n\n");
    let edge = "    \"T[a \\\"b\\\" \\\\]\" -> \"T[c]\" [\n        fontsize = 8\n    ]\n\n";
    assert_eq!(
        graphs[1].1,
        format!(
            "digraph Relationships {{\n    label = \"Relationships\"\n{}{}{edge}}}\n",
            node("T[a \\\"b\\\" \\\\]"),
            node("T[c]")
        )
    );
}

#[test]
fn a_cycle_is_in_the_graphs_and_an_unknown_target_ends_them() {
    let waiting =
        |target: &str| vec![Resource::new("T", "a").with("require", target), Resource::new("T", "b").with("require", "T[a]")];
    let (drawing, graph) = drawn(&catalog(waiting("T[b]"), &[]), &|_| Vec::new());
    assert!(matches!(graph, Err(GraphError::Cycle { .. })));
    assert_eq!(lines(&drawing.to_dot()[1].1).1, ["\"T[b]\" -> \"T[a]\"", "\"T[a]\" -> \"T[b]\""]);
    let (drawing, graph) = drawn(&catalog(waiting("T[z]"), &[]), &|_| Vec::new());
    assert!(matches!(graph, Err(GraphError::UnknownTarget { .. })));
    assert_eq!(drawing.to_dot().len(), 1);
}

#[test]
fn classes_are_written_as_types() {
    let (drawing, _) = drawn(&catalog(vec![Resource::new("Class", "main"), Resource::new("T", "main")], &[]), &|_| Vec::new());
    assert_eq!(drawing.names, ["Class[Main]", "T[main]"]);
    assert_eq!(border("completed_", "Class[My::Own]"), "Whit[Completed_class[My::Own]]");
}

#[test]
fn edges_come_by_target_with_those_of_one_source_together() {
    let edges = [(3, 1), (2, 1), (0, 2), (3, 1), (1, 0)];
    assert_eq!(by_target(4, &edges), [(1, 0), (3, 1), (3, 1), (2, 1), (0, 2)]);
}
