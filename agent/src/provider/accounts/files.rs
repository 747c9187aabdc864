//! `/etc/passwd`, `/etc/group` and `/etc/shadow`.

use std::collections::HashMap;
use std::sync::Arc;

use direct_puppet_transport::hashing::FastState;
use direct_puppet_transport::protocol::TreePath;

use crate::fs::FsError;
use crate::provider::Context;
use crate::provider::text_file::TextCache;

/// A line of `/etc/passwd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::provider) struct User {
    pub(in crate::provider) name: String,
    pub(in crate::provider) uid: u32,
    pub(in crate::provider) gid: u32,
    pub(in crate::provider) comment: String,
    pub(in crate::provider) home: String,
    pub(in crate::provider) shell: String,
}

/// A line of `/etc/group`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::provider) struct Group {
    pub(in crate::provider) name: String,
    pub(in crate::provider) gid: u32,
    pub(in crate::provider) members: Vec<String>,
}

/// A line of `/etc/shadow`; numbers are days, `-1` where there are none.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::provider) struct Shadow {
    /// Its hash, or what stands for none.
    pub(in crate::provider) password: String,
    pub(in crate::provider) min_age: i64,
    pub(in crate::provider) max_age: i64,
    pub(in crate::provider) warn_days: i64,
    /// Since 1970.
    pub(in crate::provider) expiry: i64,
}

impl std::fmt::Debug for Shadow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shadow [redacted]")
    }
}

impl User {
    /// Reads a line; `None` when it is none of an account.
    pub(in crate::provider) fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let mut text = || fields.next().unwrap_or_default().to_owned();
        let (comment, home, shell) = (text(), text(), text());
        (!name.is_empty()).then(|| Self { name: name.to_owned(), uid, gid, comment, home, shell })
    }
}

impl Group {
    /// Reads a line; `None` when it is none of a group.
    pub(in crate::provider) fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(':');
        let (name, _password, gid) = (fields.next()?, fields.next()?, fields.next()?.parse().ok()?);
        let members = fields.next().unwrap_or_default().split(',').filter(|member| !member.is_empty());
        (!name.is_empty()).then(|| Self { name: name.to_owned(), gid, members: members.map(str::to_owned).collect() })
    }
}

impl Shadow {
    fn parse(line: &str) -> Option<(String, Self)> {
        let fields: Vec<&str> = line.split(':').collect();
        let (name, password) = (*fields.first()?, *fields.get(1)?);
        let days = |at: usize| fields.get(at).and_then(|field| field.parse().ok()).unwrap_or(-1);
        let (min_age, max_age, warn_days, expiry) = (days(3), days(4), days(5), days(7));
        (!name.is_empty()).then(|| (name.to_owned(), Self { password: password.to_owned(), min_age, max_age, warn_days, expiry }))
    }
}

/// Lines that are accounts, in order, and by name.
#[derive(Debug)]
pub(in crate::provider) struct Table<T> {
    list: Vec<T>,
    by_name: HashMap<String, usize, FastState>,
}

impl<T> Table<T> {
    /// Parses a text; what is no account is passed over, and the first of a name counts.
    fn parse(text: &[u8], parse: impl Fn(&str) -> Option<(String, T)>) -> Self {
        let mut table = Self { list: Vec::new(), by_name: HashMap::default() };
        let lines = text.split(|&byte| byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
        for (name, account) in lines.filter_map(parse) {
            table.by_name.entry(name).or_insert(table.list.len());
            table.list.push(account);
        }
        table
    }

    pub(in crate::provider) fn get(&self, name: &str) -> Option<&T> {
        self.by_name.get(name).and_then(|&at| self.list.get(at))
    }

    pub(in crate::provider) fn iter(&self) -> impl Iterator<Item = &T> {
        self.list.iter()
    }
}

/// The files, read again when they have changed. All methods block.
#[derive(Debug, Default)]
pub(in crate::provider) struct AccountFiles {
    users: TextCache<Table<User>>,
    groups: TextCache<Table<Group>>,
    shadows: TextCache<Table<Shadow>>,
}

/// Returns where a file really is; distributions link some of them.
fn resolve(context: &Context, path: &str) -> Result<TreePath, FsError> {
    // The constants given are valid paths.
    let path = TreePath::from_bytes(path.as_bytes()).unwrap_or_default();
    Ok(context.resolve_links(&path)?.unwrap_or(path))
}

impl AccountFiles {
    pub(in crate::provider) fn users(&self, context: &Context) -> Result<Arc<Table<User>>, FsError> {
        let parse = |line: &str| User::parse(line).map(|user| (user.name.clone(), user));
        self.users.load(context, &resolve(context, "etc/passwd")?, |text| Table::parse(text, parse))
    }

    pub(in crate::provider) fn groups(&self, context: &Context) -> Result<Arc<Table<Group>>, FsError> {
        let parse = |line: &str| Group::parse(line).map(|group| (group.name.clone(), group));
        self.groups.load(context, &resolve(context, "etc/group")?, |text| Table::parse(text, parse))
    }

    pub(in crate::provider) fn shadows(&self, context: &Context) -> Result<Arc<Table<Shadow>>, FsError> {
        self.shadows.load(context, &resolve(context, "etc/shadow")?, |text| Table::parse(text, Shadow::parse))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::file::tests::World;

    #[test]
    fn odd_lines_are_passed_over() {
        let world = World::new();
        world.write(
            "/etc/passwd",
            b"web:x:1001:1002:A, B:/home/web:/bin/sh\n\n+nis\nbad:x:no:1::\n\xff:x:1:1\nweb:x:5:5:::\nshort:x:7:8\n",
        );
        world.write("/etc/group", "g:x:5:a,b\nempty:x:6:\nbad:x\n");
        world.write("/etc/shadow", "web:$6$x:19000:0:99999:7::21916:\nlocked:!:19000::::::\n");
        let (context, files) = (world.context(), AccountFiles::default());
        let users = files.users(&context).unwrap();
        let web = users.get("web").unwrap();
        assert_eq!((web.uid, web.gid, web.comment.as_str(), web.home.as_str()), (1001, 1002, "A, B", "/home/web"));
        assert_eq!(users.get("short").unwrap().shell, "");
        assert!(users.get("bad").is_none());
        let groups = files.groups(&context).unwrap();
        assert_eq!(groups.get("g").unwrap().members, ["a", "b"]);
        assert!(groups.get("empty").unwrap().members.is_empty());
        assert_eq!(groups.iter().count(), 2);
        let shadows = files.shadows(&context).unwrap();
        let web = shadows.get("web").unwrap();
        assert_eq!((web.min_age, web.max_age, web.warn_days, web.expiry), (0, 99999, 7, 21916));
        let locked = shadows.get("locked").unwrap();
        assert_eq!((locked.min_age, locked.expiry), (-1, -1));
        assert!(!format!("{web:?}").contains("$6$"));
    }
}
