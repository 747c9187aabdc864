//! The `Ssh_authorized_key` type: keys that users may log in with.
//!
//! What differs, and why:
//!
//! * Lines that are no keys of a known type stay as they are; Puppet refuses the whole file for one that it cannot parse.
//! * Files are written by descriptor below the user's home without following links, so that no privileges need be dropped; the
//!   new file belongs to the user; one that is there keeps its group. One with several names is refused: it may be a file of somebody else.
//! * Options are split outside of quotes, and a type of key inside a quoted option is not taken for the key's.

mod line;

use direct_puppet_transport::protocol::{Resource, ResourceRef, TreePath};

pub(super) use line::{Key, parse as parse_line};

use super::accounts::{AccountFiles, User};
use super::difference::{Differences, Shown};
use super::file::{errors, read};
use super::record::{Ensure, Place, RecordType, Records};
use super::sshkey::full_type;
use super::{Context, Ownership, ProviderError};
use crate::fs::Attributes;

const KNOWN: &[&str] = &["ensure", "name", "type", "key", "user", "target", "options", "drop_privileges", "provider"];

/// Manages keys of users.
pub(super) type SshAuthorizedKeyProvider = Records<SshAuthorizedKey>;

/// The type.
#[derive(Debug, Default)]
pub(super) struct SshAuthorizedKey {
    files: AccountFiles,
}

/// What a resource says.
#[derive(Debug)]
pub(super) struct Wanted {
    resource: ResourceRef,
    ensure: Ensure,
    name: String,
    key_type: Option<String>,
    key: Option<String>,
    user: Option<String>,
    target: Option<TreePath>,
    /// Empty for none; `None` where they are left alone: an empty list wants nothing.
    options: Option<Vec<String>>,
}

fn is_valid_option(option: &str) -> bool {
    let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    is_name
        && value.is_none_or(|value| value.len() > 1 && value.starts_with('"') && value.ends_with('"'))
        && !option.contains('\n')
}

/// Returns where a user's keys usually are.
pub(super) fn default_path(user: &User) -> Result<TreePath, String> {
    read::absolute_path(&format!("{}/.ssh/authorized_keys", user.home))
}

impl SshAuthorizedKey {
    fn user(&self, context: &Context, wanted: &Wanted) -> Result<Option<User>, ProviderError> {
        let Some(name) = &wanted.user else { return Ok(None) };
        let users = self.files.users(context).map_err(|error| errors::failed(&wanted.resource, "look up the user", error))?;
        Ok(users.get(name).cloned())
    }
}

impl RecordType for SshAuthorizedKey {
    const TYPE: &'static str = "Ssh_authorized_key";
    type Record = Key;
    type Wanted = Wanted;

    fn wanted(resource: &Resource) -> Result<Wanted, ProviderError> {
        read::only_known(resource, KNOWN)?;
        let key_type = read::string(resource, "type")?.map(full_type);
        if key_type.is_some_and(|name| !line::TYPES.contains(&name)) {
            return Err(read::fail(resource, "type", format!("must be one of {}", line::TYPES.join(", "))));
        }
        let key = read::string(resource, "key")?;
        if key.is_some_and(|key| key.is_empty() || key.contains(char::is_whitespace)) {
            return Err(read::fail(resource, "key", "must not be empty and not contain whitespace"));
        }
        let options = read::texts(resource, "options")?;
        let are_managed = options.as_ref().is_none_or(|options| !options.is_empty());
        let options: Vec<String> = options.unwrap_or_default().into_iter().filter(|option| option != "absent").collect();
        if !options.iter().all(|option| is_valid_option(option)) {
            return Err(read::fail(resource, "options", "must be a list of name or name=\"value\""));
        }
        let target = resource.parameter("target").filter(|target| target.as_str() != Some("absent"));
        let target = match target {
            Some(_) => read::path(resource, "target")?,
            None => None,
        };
        let user = read::string(resource, "user")?;
        if user.is_none() && target.is_none() {
            return Err(read::fail(resource, "user", "or target must be given"));
        }
        let name = read::name(resource)?;
        if name.contains(['\n', '\r']) {
            return Err(read::fail(resource, "name", "must be a single line"));
        }
        read::boolean(resource, "drop_privileges", true)?;
        Ok(Wanted {
            resource: resource.reference(),
            ensure: Ensure::read(resource)?,
            name,
            key_type: key_type.map(str::to_owned),
            key: key.map(str::to_owned),
            user: user.map(str::to_owned),
            target,
            options: are_managed.then_some(options),
        })
    }

    fn ensure(wanted: &Wanted) -> Ensure {
        wanted.ensure
    }

    fn parse(line: &str) -> Option<Key> {
        line::parse(line)
    }

    fn print(key: &Key) -> String {
        line::print(key)
    }

    fn is_named(wanted: &Wanted, key: &Key) -> bool {
        wanted.name == key.name
    }

    fn place(&self, context: &Context, wanted: &Wanted) -> Result<Option<Place>, ProviderError> {
        let user = self.user(context, wanted)?;
        let target = match (&wanted.target, &user) {
            (Some(target), _) => target.clone(),
            (None, None) => return Ok(None),
            (None, Some(user)) => {
                default_path(user).map_err(|reason| errors::failed(&wanted.resource, "find the user's home", reason))?
            }
        };
        let owner = user.filter(|_| context.options().ownership == Ownership::Managed);
        let (uid, gid) = (owner.as_ref().map(|user| user.uid), owner.as_ref().map(|user| user.gid));
        Ok(Some(Place { target, other: None, attributes: Attributes { mode: Some(0o600), uid, gid } }))
    }

    fn prepare(&self, context: &Context, wanted: &Wanted, place: &Place) -> Result<(), String> {
        let Some(name) = &wanted.user else { return Err("Cannot write SSH authorized keys without user".to_owned()) };
        if self.user(context, wanted).map_err(|error| errors::chain(&error))?.is_none() {
            return Err(format!("User '{name}' does not exist"));
        }
        let root = context.root();
        let text = |error: crate::fs::FsError| errors::chain(&error);
        if root.stat(&place.target).map_err(text)?.is_some_and(|stat| stat.nlink > 1) {
            let path = place.target.absolute();
            return Err(format!("{path} has several names, and may be a file of somebody else: replace it by a copy"));
        }
        let directory = place.target.parent().unwrap_or_default();
        if root.stat(&directory).map_err(text)?.is_none() {
            root.create_dir(&directory, Attributes { mode: Some(0o700), ..place.attributes }).map_err(text)?;
        }
        Ok(())
    }

    fn create(wanted: &Wanted) -> Result<Key, String> {
        Ok(Key {
            options: wanted.options.clone().unwrap_or_default(),
            key_type: wanted.key_type.clone().ok_or("Field 'type' is required")?,
            key: wanted.key.clone().ok_or("Field 'key' is required")?,
            name: wanted.name.clone(),
        })
    }

    fn compare(wanted: &Wanted, key: &Key, found: &mut Differences<'_>) {
        found.compare("type", &Shown::Text(key.key_type.clone()), wanted.key_type.clone().map(Shown::Text).as_ref());
        found.compare("key", &Shown::Text(key.key.clone()), wanted.key.clone().map(Shown::Text).as_ref());
        if let Some(wanted) = wanted.options.as_ref().filter(|wanted| **wanted != key.options) {
            // A list that has only the word for none is what Puppet shows then.
            let current = if key.options.is_empty() { vec!["absent".to_owned()] } else { key.options.clone() };
            let words = if wanted.is_empty() { vec!["absent".to_owned()] } else { wanted.clone() };
            let shown = if wanted.is_empty() { Shown::Absent } else { Shown::List(wanted.clone()) };
            found.add("options", &Shown::List(current), &shown);
            found.word_wanted(&Shown::List(words));
        }
    }

    fn update(wanted: &Wanted, key: &mut Key) {
        if let Some(key_type) = &wanted.key_type {
            key.key_type.clone_from(key_type);
        }
        if let Some(text) = &wanted.key {
            key.key.clone_from(text);
        }
        if let Some(options) = &wanted.options {
            key.options.clone_from(options);
        }
    }

    fn autorequire(resource: &Resource) -> Vec<ResourceRef> {
        let user = Self::wanted(resource).ok().and_then(|wanted| wanted.user);
        user.map(|title| ResourceRef { resource_type: "User".to_owned(), title }).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use direct_puppet_transport::protocol::Value;

    use super::*;
    use crate::provider::Provider as _;
    use crate::provider::file::tests::World;

    fn world() -> World {
        let world = World::new();
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        world.write("/etc/passwd", format!("me:x:{uid}:{gid}::/home/me:/bin/sh\n"));
        world.mkdir("/home/me");
        world
    }

    fn key(name: &str, key: &str) -> Resource {
        Resource::new("Ssh_authorized_key", name).with("user", "me").with("type", "ssh-rsa").with("key", key)
    }

    #[tokio::test]
    async fn a_first_key_makes_directory_and_file() {
        let world = world();
        let provider = SshAuthorizedKeyProvider::default();
        let options = vec![Value::from("no-pty"), "command=\"a b\"".into()];
        let resource = key("me@x", "AAAA").with("options", options);
        assert_eq!(world.converge_by(&provider, &resource).await.unwrap(), ["created"]);
        assert_eq!(world.read("/home/me/.ssh/authorized_keys"), "no-pty,command=\"a b\" ssh-rsa AAAA me@x\n");
        assert_eq!((world.mode("/home/me/.ssh"), world.mode("/home/me/.ssh/authorized_keys")), (0o700, 0o600));
    }

    #[tokio::test]
    async fn keys_change_and_go() {
        let world = world();
        let others = "ssh-ed25519 AAAAu\n# c\nbad line\n";
        world.write("/k", format!("no-pty ssh-rsa AAAAold old\nssh-rsa AAAAgone gone\n{others}"));
        let provider = SshAuthorizedKeyProvider::default();
        let changed = key("old", "AAAAnew").with("target", "/k");
        assert_eq!(
            world.converge_by(&provider, &changed).await.unwrap(),
            ["key changed 'AAAAold' to 'AAAAnew'", "undefined 'options' from ['no-pty']"]
        );
        let more = changed.with("options", "no-X11-forwarding").with("type", "ed25519");
        assert_eq!(
            world.converge_by(&provider, &more).await.unwrap(),
            ["type changed 'ssh-rsa' to 'ssh-ed25519'", "options changed ['absent'] to ['no-X11-forwarding']"]
        );
        let gone = Resource::new("Ssh_authorized_key", "gone").with("ensure", "absent").with("user", "me").with("target", "/k");
        assert_eq!(world.converge_by(&provider, &gone).await.unwrap(), ["removed"]);
        assert_eq!(world.read("/k"), format!("no-X11-forwarding ssh-ed25519 AAAAnew old\n{others}"));
    }

    #[tokio::test]
    async fn a_file_that_is_there_keeps_its_group() {
        if !rustix::process::geteuid().is_root() {
            println!("left out: setting owners needs root");
            return;
        }
        let world = world();
        world.write("/etc/passwd", "me:x:1234:4321::/home/me:/bin/sh\n");
        world.write("/k", "");
        let target = read::absolute_path("/k").unwrap();
        let group = world.context().root().stat(&target).unwrap().unwrap().gid;
        let provider = SshAuthorizedKeyProvider::default();
        world.converge_by(&provider, &key("a", "AAAA").with("target", "/k")).await.unwrap();
        let stat = world.context().root().stat(&target).unwrap().unwrap();
        assert_eq!((stat.uid, stat.gid, world.mode("/k")), (1234, group, 0o600));
    }

    #[tokio::test]
    async fn traps_are_refused() {
        let world = world();
        let provider = SshAuthorizedKeyProvider::default();
        world.write("/etc/shadow", "secret");
        world.mkdir("/home/me/.ssh");
        world.link("/home/me/.ssh/authorized_keys", "../../../etc/shadow");
        assert!(world.converge_by(&provider, &key("a", "AAAA")).await.unwrap_err().contains("symbolic link"));
        let unknown = key("a", "AAAA").with("user", "nobody-there").with("target", "/k");
        assert!(world.converge_by(&provider, &unknown).await.unwrap_err().contains("does not exist"));
        assert_eq!(world.read("/etc/shadow"), "secret");
    }

    #[test]
    fn parameters_are_checked() {
        for (name, value, valid) in [
            ("type", "none", false),
            ("key", "a b", false),
            ("options", "a b", false),
            ("options", "from=\"a,b\"", true),
            ("options", "from=a", false),
            ("target", "k", false),
            ("drop_privileges", "false", true),
        ] {
            let result = SshAuthorizedKeyProvider::default().validate(&key("a", "AAAA").with(name, value));
            assert_eq!(result.is_ok(), valid, "{name} => {value}: {result:?}");
        }
        assert!(SshAuthorizedKeyProvider::default().validate(&Resource::new("Ssh_authorized_key", "a")).is_err());
    }
}
