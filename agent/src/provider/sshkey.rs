//! The `Sshkey` type: keys of hosts in `/etc/ssh/ssh_known_hosts`.
//!
//! What differs: a record is told by name and type as in Puppet, but reports name it by its title, not by `name@type`; lines of
//! others stay as they are, and no header with the time of the run is written.

use direct_puppet_transport::protocol::{Resource, TreePath};

use super::difference::{Differences, Shown};
use super::file::read;
use super::instances::texts;
use super::record::{Ensure, Place, RecordType, Records};
use super::{Context, ProviderError};
use crate::fs::Attributes;

const KNOWN: &[&str] = &["ensure", "name", "type", "key", "host_aliases", "target", "provider"];
const DEFAULT_TARGET: &str = "/etc/ssh/ssh_known_hosts";

/// Types of keys, and the short names that some have.
const TYPES: &[&str] = &[
    "ssh-dss",
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "sk-ssh-ed25519@openssh.com",
];

/// Returns the full name of a type of keys.
pub(super) fn full_type(name: &str) -> &str {
    match name {
        "dsa" => "ssh-dss",
        "ed25519" => "ssh-ed25519",
        "rsa" => "ssh-rsa",
        "ecdsa-sk" => "sk-ecdsa-sha2-nistp256@openssh.com",
        "ed25519-sk" => "sk-ssh-ed25519@openssh.com",
        other => other,
    }
}

/// Manages keys of hosts.
pub(super) type SshkeyProvider = Records<Sshkey>;

/// The type.
#[derive(Debug, Default)]
pub(super) struct Sshkey;

/// What a resource says.
#[derive(Debug)]
pub(super) struct Wanted {
    ensure: Ensure,
    name: String,
    key_type: String,
    key: Option<String>,
    aliases: Option<Vec<String>>,
    target: TreePath,
}

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    name: String,
    aliases: Vec<String>,
    key_type: String,
    key: String,
}

impl RecordType for Sshkey {
    const TYPE: &'static str = "Sshkey";
    type Record = Entry;
    type Wanted = Wanted;
    const LISTED: Option<&'static str> = Some(DEFAULT_TARGET);

    fn wanted(resource: &Resource) -> Result<Wanted, ProviderError> {
        read::only_known(resource, KNOWN)?;
        let title = read::name(resource)?;
        let (name, type_in_title) = title.split_once('@').map_or((title.as_str(), None), |(name, rest)| (name, Some(rest)));
        if name.is_empty() || name.contains(char::is_whitespace) || name.contains(',') {
            return Err(read::fail(resource, "name", "must be a host name; further names go into host_aliases"));
        }
        let key_type = read::string(resource, "type")?.or(type_in_title).map(full_type);
        let key_type = key_type.filter(|name| TYPES.contains(name));
        let key_type = key_type.ok_or_else(|| read::fail(resource, "type", format!("must be one of {}", TYPES.join(", "))))?;
        let key = read::string(resource, "key")?;
        if key.is_some_and(|key| key.is_empty() || key.trim() != key || key.contains(['\n', '\r'])) {
            return Err(read::fail(resource, "key", "must be a single line without blanks at its ends"));
        }
        let aliases = read::texts(resource, "host_aliases")?;
        if aliases.iter().flatten().any(|alias| alias.is_empty() || alias.contains(',') || alias.contains(char::is_whitespace)) {
            return Err(read::fail(resource, "host_aliases", "must be a list of names without blanks and commas"));
        }
        let target = read::path(resource, "target")?;
        Ok(Wanted {
            ensure: Ensure::read(resource)?,
            name: name.to_owned(),
            key_type: key_type.to_owned(),
            key: key.map(str::to_owned),
            aliases,
            // The constant is a valid path.
            target: target.unwrap_or_else(|| TreePath::from_absolute(DEFAULT_TARGET.as_bytes()).unwrap_or_default()),
        })
    }

    fn ensure(wanted: &Wanted) -> Ensure {
        wanted.ensure
    }

    fn parse(line: &str) -> Option<Entry> {
        if line.starts_with('#') {
            return None;
        }
        let mut words = line.split_whitespace();
        let (names, key_type) = (words.next()?, words.next()?);
        let key = words.collect::<Vec<_>>().join(" ");
        let mut names = names.split(',').map(str::to_owned);
        let name = names.next()?;
        (!key.is_empty()).then(|| Entry { name, aliases: names.collect(), key_type: key_type.to_owned(), key })
    }

    fn print(entry: &Entry) -> String {
        let names: Vec<&str> = [&entry.name].into_iter().chain(&entry.aliases).map(String::as_str).collect();
        format!("{} {} {}", names.join(","), entry.key_type, entry.key)
    }

    fn is_named(wanted: &Wanted, entry: &Entry) -> bool {
        (&wanted.name, &wanted.key_type) == (&entry.name, &entry.key_type)
    }

    fn place(&self, _context: &Context, wanted: &Wanted) -> Result<Option<Place>, ProviderError> {
        let default = TreePath::from_absolute(DEFAULT_TARGET.as_bytes()).unwrap_or_default();
        let other = Some(default).filter(|default| *default != wanted.target);
        Ok(Some(Place { target: wanted.target.clone(), other, attributes: Attributes::default() }))
    }

    fn describe(entry: &Entry) -> Option<Resource> {
        let resource = Resource::new(Self::TYPE, &format!("{}@{}", entry.name, entry.key_type)).with("ensure", "present");
        let resource = resource.with("name", entry.name.as_str()).with("type", entry.key_type.as_str());
        Some(resource.with("key", entry.key.as_str()).with("host_aliases", texts(&entry.aliases)))
    }

    fn create(wanted: &Wanted) -> Result<Entry, String> {
        Ok(Entry {
            name: wanted.name.clone(),
            aliases: wanted.aliases.clone().unwrap_or_default(),
            key_type: wanted.key_type.clone(),
            key: wanted.key.clone().ok_or("Field 'key' is required")?,
        })
    }

    fn compare(wanted: &Wanted, entry: &Entry, found: &mut Differences<'_>) {
        found.compare("key", &Shown::Text(entry.key.clone()), wanted.key.clone().map(Shown::Text).as_ref());
        let aliases = wanted.aliases.clone().map(Shown::List);
        found.compare("host_aliases", &Shown::List(entry.aliases.clone()), aliases.as_ref());
    }

    fn update(wanted: &Wanted, entry: &mut Entry) {
        if let Some(key) = &wanted.key {
            entry.key.clone_from(key);
        }
        if let Some(aliases) = &wanted.aliases {
            entry.aliases.clone_from(aliases);
        }
    }
}

impl SshkeyProvider {
    /// Returns the keys that nobody manages, as resources that shall be absent. Blocking.
    pub(super) fn unmanaged(&self, context: &Context) -> Result<Vec<Resource>, String> {
        let target = TreePath::from_absolute(DEFAULT_TARGET.as_bytes()).unwrap_or_default();
        self.strangers(context, &target, |entry| {
            Resource::new(Sshkey::TYPE, entry.name.as_str()).with("type", entry.key_type.as_str()).with("ensure", "absent")
        })
    }
}

#[cfg(test)]
mod tests {
    use direct_puppet_transport::protocol::Value;
    use proptest::prelude::*;

    use super::*;
    use crate::provider::Provider as _;
    use crate::provider::file::tests::World;

    fn sshkey(title: &str) -> Resource {
        Resource::new("Sshkey", title)
    }

    #[tokio::test]
    async fn keys_come_change_and_go() {
        let world = World::new();
        const OTHERS: &str = "|1|hash= ssh-rsa AAA comment here\n@cert-authority *.x ssh-rsa AAA\n";
        world.write("/etc/ssh/ssh_known_hosts", format!("o.example.com,oo ssh-rsa AAAA9\n{OTHERS}"));
        let provider = SshkeyProvider::default();
        let aliases = vec![Value::from("h"), "10.0.0.1".into()];
        let first = sshkey("h.example.com").with("type", "ssh-rsa").with("key", "AAAA1").with("host_aliases", aliases);
        assert_eq!(world.converge_by(&provider, &first).await.unwrap(), ["created"]);
        let second = sshkey("k.example.com@ssh-ed25519").with("key", "AAAA2");
        assert_eq!(world.converge_by(&provider, &second).await.unwrap(), ["created"]);
        let third =
            sshkey("o.example.com").with("type", "rsa").with("key", "AAAA3").with("host_aliases", Value::Array(Vec::new()));
        assert_eq!(
            world.converge_by(&provider, &third).await.unwrap(),
            ["key changed 'AAAA9' to 'AAAA3'", "host_aliases changed ['oo'] to []"]
        );
        let text = format!("o.example.com ssh-rsa AAAA3\n{OTHERS}h.example.com,h,10.0.0.1 ssh-rsa AAAA1\n");
        assert_eq!(world.read("/etc/ssh/ssh_known_hosts"), format!("{text}k.example.com ssh-ed25519 AAAA2\n"));
        let gone = sshkey("k.example.com@ed25519").with("ensure", "absent");
        assert_eq!(world.converge_by(&provider, &gone).await.unwrap(), ["removed"]);
        assert_eq!(world.read("/etc/ssh/ssh_known_hosts"), text);
    }

    #[test]
    fn parameters_are_checked() {
        for (title, name, value, valid) in [
            ("a", "key", "x", false),
            ("a@ssh-rsa", "key", "x", true),
            ("a@ssh-rsa", "key", " x", false),
            ("a@none", "key", "x", false),
            ("a,b@rsa", "key", "x", false),
            ("a@rsa", "host_aliases", "a,b", false),
            ("a@rsa", "target", "x", false),
        ] {
            let result = SshkeyProvider::default().validate(&sshkey(title).with(name, value));
            assert_eq!(result.is_ok(), valid, "{title} {name} => {value}: {result:?}");
        }
    }

    proptest! {
        #[test]
        fn keys_are_read_as_they_are_written(
            names in prop::collection::vec("[a-z0-9.]{1,6}", 1..4), key_type in "[a-z-]{1,8}", key in "[A-Za-z0-9+/]{1,20}( [a-z]{1,5})?",
        ) {
            let entry = Entry { name: names[0].clone(), aliases: names[1..].to_vec(), key_type, key };
            prop_assert_eq!(Sshkey::parse(&Sshkey::print(&entry)), Some(entry));
        }

        #[test]
        fn any_line_is_read(line in "\\PC{0,60}") {
            let _entry = Sshkey::parse(&line);
        }
    }
}
