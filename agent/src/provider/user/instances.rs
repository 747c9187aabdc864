//! Users as resources.

use direct_puppet_transport::protocol::{Resource, Value};

use super::compare::{AGES, Account};
use crate::fs::FsError;
use crate::provider::Context;
use crate::provider::accounts::AccountFiles;
use crate::provider::instances::texts;

/// Lists all users of the files. Blocking.
pub(super) fn list(context: &Context, files: &AccountFiles) -> Result<Vec<Resource>, FsError> {
    let users = files.users(context)?;
    users.iter().map(|user| Ok(describe(&Account::of(context, files, user.clone())?))).collect()
}

/// Returns a user as a resource. Of a password it is told only that there is none: no hash leaves the machine.
pub(super) fn describe(account: &Account) -> Resource {
    let user = &account.user;
    let mut resource = Resource::new("User", &user.name)
        .with("ensure", "present")
        .with("comment", user.comment.as_str())
        .with("gid", i64::from(user.gid))
        .with("groups", texts(&account.groups))
        .with("home", user.home.as_str())
        .with("provider", "useradd")
        .with("shell", user.shell.as_str())
        .with("uid", i64::from(user.uid));
    for (at, name) in AGES.into_iter().enumerate() {
        if let Some(days) = account.age(at) {
            resource = resource.with(name, days);
        }
    }
    let locked = account.shadow.as_ref().map(|shadow| shadow.password.as_str()).filter(|password| is_no_hash(password));
    let words = [("expiry", account.expiry()), ("password", locked.map(str::to_owned))];
    for (name, value) in words.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        resource = resource.with(name, Value::from(value));
    }
    resource
}

/// Returns whether what stands in the place of a hash lets nobody in.
fn is_no_hash(password: &str) -> bool {
    password.bytes().all(|byte| matches!(byte, b'!' | b'*'))
}

#[cfg(test)]
mod tests {
    use crate::provider::Provider as _;
    use crate::provider::file::tests::World;
    use crate::provider::user::UserProvider;

    use super::*;

    #[tokio::test]
    async fn users_are_listed_without_their_hashes() {
        let world = World::new();
        world.write("/etc/passwd", "web:x:1001:5:A, B:/home/web:/bin/sh\nlocked:x:7:8:::\n");
        world.write("/etc/group", "adm:x:4:web\nweb:x:5:\nlp:x:6:web\n");
        world.write("/etc/shadow", "web:$6$salt$hash:19000:0:99999:7::21916:\nlocked:!*:19000::::::\n");
        let (provider, context) = (UserProvider::default(), world.context());
        let all = provider.instances(&context, None).await.unwrap().unwrap();
        let [web, locked] = &all[..] else { panic!("{all:?}") };
        assert!(!format!("{all:?}").contains("hash") && web.parameter("password").is_none());
        assert_eq!(web.parameter("groups"), Some(&Value::Array(vec!["adm".into(), "lp".into()])));
        assert_eq!((web.parameter("expiry"), web.parameter("uid")), (Some(&"2030-01-02".into()), Some(&1001.into())));
        assert_eq!(web.parameter("password_max_age"), Some(&99999.into()));
        assert_eq!(locked.parameter("password"), Some(&"!*".into()));
        assert_eq!((locked.parameter("expiry"), locked.parameter("password_min_age")), (None, Some(&(-1).into())));
        assert_eq!(provider.instances(&context, Some("locked")).await.unwrap().unwrap(), all[1..]);
        assert_eq!(provider.instances(&context, Some("nobody")).await.unwrap().unwrap(), []);
        for (password, none) in
            [("*", true), ("!", true), ("!!", true), ("", true), ("!$6$x", false), ("x", false), ("Ab1", false)]
        {
            assert_eq!(is_no_hash(password), none, "{password}");
        }
    }
}
