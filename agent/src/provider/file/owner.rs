//! Names of users and groups, as the managed root's own `/etc/passwd` and `/etc/group` have them.
//!
//! Other name services (LDAP, systemd-userdb) are not asked: numeric ids always work.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use direct_puppet_transport::hashing::FastState;
use direct_puppet_transport::protocol::TreePath;

use super::parameters::Account;
use crate::fs::{FsError, Root, Stat};
use crate::provider::Context;
use crate::tree::is_racy;

/// Longest file of accounts that is read, in bytes: some hundred thousand lines.
const MAX_ACCOUNT_BYTES: u64 = 64 * 1024 * 1024;

/// Which of the two files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AccountKind {
    User,
    Group,
}

impl AccountKind {
    /// Returns the same as a path below the root.
    pub(super) const fn path(self) -> &'static [u8] {
        match self {
            Self::User => b"etc/passwd",
            Self::Group => b"etc/group",
        }
    }

    /// Returns the file that says who there is.
    pub(super) const fn file(self) -> &'static str {
        match self {
            Self::User => "/etc/passwd",
            Self::Group => "/etc/group",
        }
    }

    /// Returns the word for messages.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Group => "group",
        }
    }
}

/// The names of one file.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    ids: HashMap<String, u32, FastState>,
    names: HashMap<u32, String, FastState>,
}

impl Accounts {
    /// Parses lines of `name:password:id:…`; what is no such line is passed over, and the first of a name or id counts.
    fn parse(text: &[u8]) -> Self {
        let mut accounts = Self::default();
        for line in text.split(|&byte| byte == b'\n') {
            let mut fields = line.split(|&byte| byte == b':');
            let (Some(name), Some(_), Some(id)) = (fields.next(), fields.next(), fields.next()) else { continue };
            let id = std::str::from_utf8(id).ok().and_then(|id| id.parse::<u32>().ok());
            if let (Ok(name), Some(id)) = (std::str::from_utf8(name), id)
                && !name.is_empty()
            {
                accounts.ids.entry(name.to_owned()).or_insert(id);
                accounts.names.entry(id).or_insert_with(|| name.to_owned());
            }
        }
        accounts
    }

    /// Returns the id of an account.
    pub(super) fn id(&self, account: &Account) -> Option<u32> {
        match account {
            Account::Id(id) => Some(*id),
            Account::Name(name) => self.ids.get(name).copied(),
        }
    }

    /// Returns the name of an id, or the id.
    pub(super) fn name(&self, id: u32) -> String {
        self.names.get(&id).cloned().unwrap_or_else(|| id.to_string())
    }
}

/// The accounts of one file.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub(super) accounts: Arc<Accounts>,
    /// Where the file is, its links followed; `None` when there is none.
    pub(super) path: Option<TreePath>,
    /// Its metadata from before it was read.
    pub(super) stat: Option<Stat>,
}

/// The root that a file of accounts was below, and what was in it.
type Remembered = (std::path::PathBuf, Loaded);

/// What was found in the moment of a context that stands for one.
#[derive(Debug, Default)]
struct OfMoment {
    users: OnceLock<Arc<Loaded>>,
    groups: OnceLock<Arc<Loaded>>,
}

/// Accounts by kind, read again when their file has changed: a run may add users.
#[derive(Debug, Default)]
pub(super) struct AccountCache {
    users: Mutex<Option<Remembered>>,
    groups: Mutex<Option<Remembered>>,
}

impl AccountCache {
    /// Returns the accounts of a root; none when there is no file. Blocking.
    pub(super) fn load(&self, context: &Context, kind: AccountKind) -> Result<Arc<Loaded>, FsError> {
        let of_moment = context.seen(OfMoment::default);
        let slot = match kind {
            AccountKind::User => &of_moment.users,
            AccountKind::Group => &of_moment.groups,
        };
        if let Some(known) = slot.get() {
            return Ok(Arc::clone(known));
        }
        let loaded = Arc::new(self.load_now(context, kind)?);
        Ok(Arc::clone(slot.get_or_init(|| loaded)))
    }

    fn load_now(&self, context: &Context, kind: AccountKind) -> Result<Loaded, FsError> {
        let root = context.root();
        // The constant is a valid path; the root itself would be the answer otherwise, which is no file.
        let path = context.resolve_links(&TreePath::from_bytes(kind.path()).unwrap_or_default())?;
        let stat = match &path {
            Some(path) => context.stat(path)?,
            None => None,
        };
        let slot = match kind {
            AccountKind::User => &self.users,
            AccountKind::Group => &self.groups,
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known_root, known)) = &*slot
            && known_root.as_os_str() == root.path().as_os_str()
            && (&known.path, known.stat) == (&path, stat)
        {
            return Ok(known.clone());
        }
        let now = SystemTime::now();
        let accounts = match path.as_ref().filter(|_| stat.is_some()) {
            Some(path) => Arc::new(read(root, path)?),
            None => Arc::default(),
        };
        let loaded = Loaded { accounts, path, stat };
        // One that was changed just now may be changed again without a change of its times: it is read again the next time.
        *slot = Some((root.path().to_owned(), loaded.clone())).filter(|_| !stat.is_some_and(|stat| is_racy(&stat, now)));
        Ok(loaded)
    }
}

fn read(root: &Root, path: &TreePath) -> Result<Accounts, FsError> {
    let mut text = Vec::new();
    let file = root.open_file(path)?;
    file.take(MAX_ACCOUNT_BYTES).read_to_end(&mut text).map_err(|source| super::errors::io(root, path, "read", source))?;
    Ok(Accounts::parse(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_is_there() {
        let accounts = Accounts::parse(
            b"root:x:0:0:root:/root:/bin/sh\n\n#c\nbad:x:no\nweb:x:1001:1001::/:\nalias:x:0:0\n\xff:x:5:5\n:x:6:",
        );
        assert_eq!(accounts.id(&Account::Name("web".to_owned())), Some(1001));
        assert_eq!(accounts.id(&Account::Name("bad".to_owned())), None);
        assert_eq!(accounts.id(&Account::Id(7)), Some(7));
        assert_eq!((accounts.name(0), accounts.name(5), accounts.name(6)), ("root".to_owned(), "5".to_owned(), "6".to_owned()));
    }
}
