//! `identity`: who gathers.

use direct_puppet_transport::protocol::Value;

use super::tree::Tree;
use super::{hash, known, text};

/// Names are those of `/etc/passwd` and `/etc/group`: an account that only a directory service knows has none.
pub(super) fn identity(tree: &Tree, (uid, gid): (u32, u32)) -> Option<Value> {
    let passwd = tree.read("/etc/passwd").unwrap_or_default();
    let user = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| has_id(fields, uid));
    // As Facter: the group of the account, whatever this process has at the moment.
    let gid = user.as_ref().and_then(|fields| fields.get(3)?.parse().ok()).unwrap_or(gid);
    let groups = tree.read("/etc/group").unwrap_or_default();
    let group = groups.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| has_id(fields, gid));
    hash(known([
        ("uid", Some(Value::Integer(uid.into()))),
        ("gid", Some(Value::Integer(gid.into()))),
        ("user", user.and_then(|fields| text(fields[0]))),
        ("group", group.and_then(|fields| text(fields[0]))),
        ("privileged", Some((uid == 0).into())),
    ]))
}

fn has_id(fields: &[&str], id: u32) -> bool {
    fields.get(2).and_then(|field| field.parse().ok()) == Some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::testing::{Scratch, json};

    #[test]
    fn names_are_those_of_the_files() {
        let scratch = Scratch::new(&[
            ("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n+::::::\nann:x:1000:100:Ann:/home/ann:/bin/sh\n"),
            ("/etc/group", "root:x:0:\nusers:x:100:ann\n"),
        ]);
        let ann = identity(&scratch.tree(), (1000, 1000));
        assert_eq!(ann, Some(json(r#"{"uid": 1000, "gid": 100, "user": "ann", "group": "users", "privileged": false}"#)));
        let nobody = identity(&scratch.tree(), (7, 100));
        assert_eq!(nobody, Some(json(r#"{"uid": 7, "gid": 100, "group": "users", "privileged": false}"#)));
    }
}
