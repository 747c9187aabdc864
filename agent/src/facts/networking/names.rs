//! What this host is called.

use crate::facts::tree::Tree;

/// The names of a host.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) hostname: String,
    pub(super) domain: Option<String>,
    pub(super) fqdn: String,
}

/// Finds the domain in the kernel's name, in `/etc/hosts`, or in `/etc/resolv.conf`, in that order. No name server is asked: it
/// may not answer.
pub(super) fn names(tree: &Tree, nodename: &str) -> Names {
    if let Some((hostname, domain)) = nodename.split_once('.').filter(|(_, domain)| !domain.is_empty()) {
        return Names { hostname: hostname.to_owned(), domain: Some(domain.to_owned()), fqdn: nodename.to_owned() };
    }
    let read = |path: &str| tree.read(path).unwrap_or_default();
    let canonical = canonical_name(&read("/etc/hosts"), nodename);
    let of_canonical = canonical.as_deref().and_then(|name| name.strip_prefix(nodename)?.strip_prefix('.'));
    let domain = of_canonical.map(str::to_owned).or_else(|| search_domain(&read("/etc/resolv.conf")));
    let fqdn = domain.as_ref().map_or_else(|| nodename.to_owned(), |domain| format!("{nodename}.{domain}"));
    Names { hostname: nodename.to_owned(), domain, fqdn }
}

/// Reads the format of hosts(5): the first name on the first line that has the name.
fn canonical_name(hosts: &str, name: &str) -> Option<String> {
    let names = |line: &str| line.split('#').next().unwrap_or_default().split_whitespace().skip(1).map(str::to_owned).collect();
    let mut lines = hosts.lines().map(names);
    let line: Vec<String> = lines.find(|line: &Vec<String>| line.iter().any(|known| known.eq_ignore_ascii_case(name)))?;
    line.into_iter().next()
}

/// Reads the format of resolv.conf(5).
fn search_domain(text: &str) -> Option<String> {
    let first = |keyword: &str| {
        let rest = text.lines().filter_map(|line| line.strip_prefix(keyword)?.strip_prefix([' ', '\t']));
        rest.filter_map(|rest| rest.split_whitespace().next()).find(|domain| !domain.starts_with('.')).map(str::to_owned)
    };
    first("domain").or_else(|| first("search"))
}
