//! The `Host` type: entries of `/etc/hosts`.
//!
//! Lines are written as Puppet writes them, so that both can take turns; lines of others stay as they are, and no header with
//! the time of the run is written.

use std::net::{Ipv4Addr, Ipv6Addr};

use direct_puppet_transport::protocol::{Resource, TreePath};

use super::difference::{Differences, Shown};
use super::file::read;
use super::instances::texts;
use super::record::{Ensure, Place, RecordType, Records};
use super::{Context, ProviderError};
use crate::fs::Attributes;

const KNOWN: &[&str] = &["ensure", "ip", "host_aliases", "comment", "target", "name", "provider"];
const DEFAULT_TARGET: &str = "/etc/hosts";

/// Manages entries of `/etc/hosts`.
pub(super) type HostProvider = Records<Host>;

/// The type.
#[derive(Debug, Default)]
pub(super) struct Host;

/// What a resource says.
#[derive(Debug)]
pub(super) struct Wanted {
    ensure: Ensure,
    name: String,
    ip: Option<String>,
    aliases: Option<Vec<String>>,
    comment: Option<String>,
    target: TreePath,
}

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    ip: String,
    name: String,
    /// `None` when there are none; an empty list leaves its mark when it is written.
    aliases: Option<Vec<String>>,
    comment: String,
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Puppet's rule for the parts of a name: letters, digits and underscores, hyphens inside.
fn is_valid_name(name: &str) -> bool {
    let part = |part: &str| part.starts_with(is_word) && part.ends_with(is_word) && part.chars().all(|c| is_word(c) || c == '-');
    name.trim_end_matches('.').split('.').all(part)
}

fn is_valid_ip(text: &str) -> bool {
    let octet =
        |octet: &str| (1..=3).contains(&octet.len()) && octet.bytes().all(|b| b.is_ascii_digit()) && octet.parse::<u8>().is_ok();
    let is_v4 = text.parse::<Ipv4Addr>().is_ok() || (text.split('.').count() == 4 && text.split('.').all(octet));
    let address = text.split_once('%').map_or(text, |(address, _)| address);
    is_v4 || address.parse::<Ipv6Addr>().is_ok()
}

impl RecordType for Host {
    const TYPE: &'static str = "Host";
    type Record = Entry;
    type Wanted = Wanted;
    const LISTED: Option<&'static str> = Some(DEFAULT_TARGET);

    fn wanted(resource: &Resource) -> Result<Wanted, ProviderError> {
        read::only_known(resource, KNOWN)?;
        let name = read::name(resource)?;
        if !is_valid_name(&name) {
            return Err(read::fail(resource, "name", "must be a host name: letters, digits, hyphens, parts separated by dots"));
        }
        let ip = read::text(resource, "ip")?;
        if ip.as_deref().is_some_and(|ip| !is_valid_ip(ip)) {
            return Err(read::fail(resource, "ip", "must be an IPv4 or IPv6 address"));
        }
        let aliases = read::texts(resource, "host_aliases")?;
        if aliases.iter().flatten().any(|alias| alias.is_empty() || alias.contains(char::is_whitespace)) {
            return Err(read::fail(resource, "host_aliases", "must be names without whitespace; an empty list for none"));
        }
        let comment = read::text(resource, "comment")?;
        if comment.as_deref().is_some_and(|comment| comment.contains(['\n', '\r'])) {
            return Err(read::fail(resource, "comment", "must be a single line"));
        }
        let target = read::path(resource, "target")?;
        Ok(Wanted { ensure: Ensure::read(resource)?, name, ip, aliases, comment, target: target.unwrap_or_else(default_target) })
    }

    fn ensure(wanted: &Wanted) -> Ensure {
        wanted.ensure
    }

    fn parse(line: &str) -> Option<Entry> {
        let (ip, rest) = word(line)?;
        let first = ip.chars().next()?;
        if !matches!(first, '0'..='9' | 'a'..='f' | ':') || ip.len() == first.len_utf8() {
            return None;
        }
        let (name, rest) = word(rest.trim_start())?;
        let first = name.chars().next()?;
        if matches!(first, '#' | '+') || name.len() == first.len_utf8() {
            return None;
        }
        let (aliases, comment) = rest.split_once('#').unwrap_or((rest, ""));
        let aliases: Vec<String> = aliases.split_whitespace().map(str::to_owned).collect();
        Some(Entry {
            ip: ip.to_owned(),
            name: name.to_owned(),
            aliases: Some(aliases).filter(|aliases| !aliases.is_empty()),
            comment: comment.trim_start().to_owned(),
        })
    }

    fn print(entry: &Entry) -> String {
        let mut line = format!("{}\t{}", entry.ip, entry.name);
        if let Some(aliases) = &entry.aliases {
            line.push('\t');
            line.push_str(&aliases.join(" "));
        }
        if !entry.comment.is_empty() {
            line.push_str("\t# ");
            line.push_str(&entry.comment);
        }
        line
    }

    fn is_named(wanted: &Wanted, entry: &Entry) -> bool {
        wanted.name == entry.name
    }

    fn place(&self, _context: &Context, wanted: &Wanted) -> Result<Option<Place>, ProviderError> {
        let other = Some(default_target()).filter(|default| *default != wanted.target);
        Ok(Some(Place { target: wanted.target.clone(), other, attributes: Attributes::default() }))
    }

    fn describe(entry: &Entry) -> Option<Resource> {
        let resource = Resource::new(Self::TYPE, &entry.name).with("ensure", "present").with("ip", entry.ip.as_str());
        let aliases = entry.aliases.clone().unwrap_or_default();
        Some(resource.with("host_aliases", texts(&aliases)).with("comment", entry.comment.as_str()))
    }

    fn create(wanted: &Wanted) -> Result<Entry, String> {
        Ok(Entry {
            ip: wanted.ip.clone().ok_or("ip is a required attribute for hosts")?,
            name: wanted.name.clone(),
            aliases: wanted.aliases.clone(),
            comment: wanted.comment.clone().unwrap_or_default(),
        })
    }

    fn compare(wanted: &Wanted, entry: &Entry, found: &mut Differences<'_>) {
        found.compare("ip", &Shown::Text(entry.ip.clone()), wanted.ip.clone().map(Shown::Text).as_ref());
        if let Some(aliases) = wanted.aliases.as_ref().filter(|aliases| **aliases != entry.aliases.clone().unwrap_or_default()) {
            let current = entry.aliases.as_ref().map_or(Shown::Absent, |aliases| Shown::Bare(aliases.join(" ")));
            found.add("host_aliases", &current, &Shown::Text(aliases.join(" ")));
        }
        found.compare("comment", &Shown::Text(entry.comment.clone()), wanted.comment.clone().map(Shown::Text).as_ref());
    }

    fn update(wanted: &Wanted, entry: &mut Entry) {
        if let Some(ip) = &wanted.ip {
            entry.ip.clone_from(ip);
        }
        if let Some(aliases) = wanted.aliases.as_ref().filter(|aliases| **aliases != entry.aliases.clone().unwrap_or_default()) {
            entry.aliases = Some(aliases.clone());
        }
        if let Some(comment) = &wanted.comment {
            entry.comment.clone_from(comment);
        }
    }
}

impl HostProvider {
    /// Returns the hosts that nobody manages, as resources that shall be absent. Blocking.
    pub(super) fn unmanaged(&self, context: &Context) -> Result<Vec<Resource>, String> {
        self.strangers(context, &default_target(), |entry| {
            Resource::new(Host::TYPE, entry.name.as_str()).with("ensure", "absent")
        })
    }
}

fn default_target() -> TreePath {
    // The constant is a valid path.
    TreePath::from_absolute(DEFAULT_TARGET.as_bytes()).unwrap_or_default()
}

/// Splits the first word off; `None` when the text does not begin with one.
fn word(text: &str) -> Option<(&str, &str)> {
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

#[cfg(test)]
mod tests {
    use direct_puppet_transport::protocol::Value;
    use proptest::prelude::*;

    use super::*;
    use crate::provider::Provider as _;
    use crate::provider::file::tests::World;

    const HOSTS: &str = "127.0.0.1 localhost\n# c\n10.0.0.9   z.example.com  q  w # note\nodd line\n::1\tip6 ip6b";

    fn host(name: &str) -> Resource {
        Resource::new("Host", name)
    }

    fn list(names: &[&str]) -> Value {
        Value::Array(names.iter().map(|name| Value::from(*name)).collect())
    }

    #[tokio::test]
    async fn entries_come_change_and_go() {
        let world = World::new();
        world.write("/etc/hosts", HOSTS);
        let provider = HostProvider::default();
        let new = host("a.example.com").with("ip", "10.0.0.1").with("host_aliases", list(&["x", "y"])).with("comment", "hi");
        assert_eq!(world.converge_by(&provider, &new).await.unwrap(), ["created"]);
        assert_eq!(world.read("/etc/hosts"), format!("{HOSTS}\n10.0.0.1\ta.example.com\tx y\t# hi\n"));
        let other = host("a.example.com").with("ip", "10.0.0.3").with("host_aliases", list(&["y"])).with("comment", "ho");
        assert_eq!(
            world.converge_by(&provider, &other).await.unwrap(),
            ["ip changed '10.0.0.1' to '10.0.0.3'", "host_aliases changed x y to 'y'", "comment changed 'hi' to 'ho'"]
        );
        let emptied = host("z.example.com").with("ip", "10.0.0.9").with("host_aliases", list(&[]));
        assert_eq!(world.converge_by(&provider, &emptied).await.unwrap(), ["host_aliases changed q w to ''"]);
        let more = host("localhost").with("host_aliases", "l").with("comment", "new");
        assert_eq!(
            world.converge_by(&provider, &more).await.unwrap(),
            ["defined 'host_aliases' as 'l'", "comment changed '' to 'new'"]
        );
        let gone = host("a.example.com").with("ensure", "absent");
        assert_eq!(world.converge_by(&provider, &gone).await.unwrap(), ["removed"]);
        assert_eq!(world.converge_by(&provider, &gone).await.unwrap(), [""; 0]);
        assert_eq!(
            world.read("/etc/hosts"),
            "127.0.0.1\tlocalhost\tl\t# new\n# c\n10.0.0.9\tz.example.com\t\t# note\nodd line\n::1\tip6 ip6b\n"
        );
    }

    #[tokio::test]
    async fn an_entry_moves_to_its_target() {
        let world = World::new();
        world.write("/etc/hosts", "10.0.0.1 a.b\n10.0.0.2 c.d\n");
        let resource = host("a.b").with("ip", "10.0.0.1").with("target", "/etc/other");
        assert_eq!(
            world.converge_by(&HostProvider::default(), &resource).await.unwrap(),
            ["target changed '/etc/hosts' to '/etc/other'"]
        );
        assert_eq!((world.read("/etc/hosts").as_str(), world.read("/etc/other").as_str()), ("10.0.0.2 c.d\n", "10.0.0.1\ta.b\n"));
    }

    #[tokio::test]
    async fn a_new_entry_needs_an_address() {
        let world = World::new();
        let error = world.converge_by(&HostProvider::default(), &host("a.b")).await.unwrap_err();
        assert!(error.contains("ip is a required"), "{error}");
        assert!(!world.exists("/etc/hosts"));
    }

    #[test]
    fn parameters() {
        for (name, value, valid) in [
            ("ip", Value::from("10.0.0.1"), true),
            ("ip", "010.0.0.1".into(), true),
            ("ip", "10.0.0.256".into(), false),
            ("ip", "fe80::1%eth0".into(), true),
            ("ip", "x".into(), false),
            ("host_aliases", list(&["a b"]), false),
            ("host_aliases", "".into(), false),
            ("comment", "a\nb".into(), false),
            ("target", "hosts".into(), false),
            ("ensure", "latest".into(), false),
            ("name", "a_b.c-d".into(), true),
            ("name", "a b".into(), false),
            ("name", "-a".into(), false),
            ("alias_", "x".into(), false),
        ] {
            let result = HostProvider::default().validate(&host("a").with(name, value.clone()));
            assert_eq!(result.is_ok(), valid, "{name} => {value:?}: {result:?}");
        }
    }

    proptest! {
        #[test]
        fn entries_are_read_as_they_are_written(
            ip in "[0-9a-f:][0-9a-f:.]{1,8}",
            name in "[a-z0-9][a-z0-9.-]{1,8}",
            aliases in prop::option::of(prop::collection::vec("[a-z0-9.]{1,5}", 1..3)),
            comment in "([a-z][a-z# ]{0,8})?",
        ) {
            let entry = Entry { ip, name, aliases, comment };
            prop_assert_eq!(Host::parse(&Host::print(&entry)), Some(entry));
        }

        #[test]
        fn any_line_is_read(line in "\\PC{0,60}") {
            let _entry = Host::parse(&line);
        }
    }
}
