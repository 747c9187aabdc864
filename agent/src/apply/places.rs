//! Where declared resources stand in their catalog: what reports and messages say of those that were not in sync.

use std::collections::HashMap;
use std::sync::Arc;

use direct_puppet_transport::protocol::report::Place;
use direct_puppet_transport::protocol::{Edge, Resource, ResourceRef};

/// Finds the containers of resources. Nothing is looked at before the first question: most runs ask none.
#[derive(Debug)]
pub(crate) struct Places<'a> {
    resources: &'a [Arc<Resource>],
    edges: &'a [Edge],
    /// By index, the one that holds it.
    holders: Option<Vec<Option<usize>>>,
}

impl<'a> Places<'a> {
    pub(crate) const fn new(resources: &'a [Arc<Resource>], edges: &'a [Edge]) -> Self {
        Self { resources, edges, holders: None }
    }

    /// Returns the place of the resource at an index.
    pub(crate) fn of(&mut self, at: usize) -> Arc<Place> {
        let holders = self.holders.get_or_insert_with(|| holders(self.resources, self.edges));
        let mut containers = Vec::new();
        let mut next = holders[at];
        // Containers that hold each other are a cycle, which is told elsewhere.
        while let Some(holder) = next.filter(|_| containers.len() < holders.len()) {
            containers.push(name_of(&self.resources[holder]));
            next = holders[holder];
        }
        containers.reverse();
        Arc::new(Place { containers, tags: self.resources[at].tags.clone() })
    }
}

/// Returns how paths name a container: the words of a class as references have them, whatever the compiler calls it.
fn name_of(container: &Resource) -> String {
    let mut reference = container.reference();
    if reference.resource_type == "Class" {
        let capitalised = |word: &str| {
            let mut rest = word.chars();
            rest.next().map_or_else(String::new, |first| first.to_uppercase().chain(rest).collect())
        };
        reference.title = reference.title.split("::").map(capitalised).collect::<Vec<_>>().join("::");
    }
    reference.to_string()
}

fn holders(resources: &[Arc<Resource>], edges: &[Edge]) -> Vec<Option<usize>> {
    let index: HashMap<(&str, &str), usize> = resources
        .iter()
        .enumerate()
        .map(|(at, resource)| ((resource.resource_type.as_str(), resource.title.as_str()), at))
        .collect();
    let find = |reference: &ResourceRef| index.get(&(reference.resource_type.as_str(), reference.title.as_str())).copied();
    let mut holders = vec![None; resources.len()];
    for edge in edges {
        let (Some(source), Some(target)) = (find(&edge.source), find(&edge.target)) else { continue };
        if resources[source].is_container() && holders[target].is_none() {
            holders[target] = Some(source);
        }
    }
    holders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_come_outermost_first() {
        let resource = |resource_type: &str, title: &str| Arc::new(Resource::new(resource_type, title));
        let define = Arc::new(Resource { container: true, ..Resource::new("Web::Site", "a") });
        let resources =
            [resource("File", "/a"), define, resource("Class", "Web"), resource("Stage", "main"), resource("File", "/b")];
        let edge = |source: &str, target: &str| Edge { source: source.parse().unwrap(), target: target.parse().unwrap() };
        let edges = [
            edge("Web::Site[a]", "File[/a]"),
            edge("File[/b]", "File[/a]"),
            edge("Class[Web]", "Web::Site[a]"),
            edge("Stage[main]", "Class[Web]"),
        ];
        let mut places = Places::new(&resources, &edges);
        assert_eq!(places.of(0).path_of("File[/a]"), "/Stage[main]/Web/Web::Site[a]/File[/a]");
        assert_eq!(places.of(4).path_of("File[/b]"), "/File[/b]");
        let resources =
            [resource("Exec", "x"), resource("Class", "main"), resource("Stage", "main"), resource("Class", "web::tls")];
        let edges = [edge("Class[main]", "Exec[x]"), edge("Stage[main]", "Class[main]"), edge("Class[web::tls]", "Class[main]")];
        assert_eq!(
            Places::new(&resources, &edges).of(0).path_of("Exec[x]"),
            "/Stage[main]/Main/Exec[x]",
            "as a compiler calls it"
        );
        assert_eq!(Places::new(&resources, &edges[2..]).of(1).containers, ["Class[Web::Tls]"]);
        let resources = [resource("File", "/a"), resource("Class", "Web"), resource("Stage", "main")];
        let cycle = [edge("Class[Web]", "Stage[main]"), edge("Stage[main]", "Class[Web]")];
        assert!(Places::new(&resources, &cycle).of(1).containers.len() <= resources.len());
    }
}
