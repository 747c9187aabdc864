//! What an account is, and what it shall be.

use std::collections::BTreeSet;

use direct_puppet_transport::protocol::Resource;

use super::parameters::{Expiry, Parameters, PrimaryGroup};
use crate::fs::FsError;
use crate::provider::accounts::{AccountFiles, Shadow, User};
use crate::provider::difference::{Differences, Shown};
use crate::provider::record::Ensure;
use crate::provider::{Change, Context};

/// Ages of passwords, in the order of [`Parameters::ages`].
pub(super) const AGES: [&str; 3] = ["password_min_age", "password_max_age", "password_warn_days"];

/// An account, as far as a resource says something of it.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) user: User,
    pub(super) shadow: Option<Shadow>,
    /// The names of its groups but the primary one, in the order of `/etc/group`.
    pub(super) groups: Vec<String>,
}

/// What the files say of the account, and of what the resource names.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    pub(super) account: Option<Account>,
    /// The number of the wanted primary group.
    pub(super) gid: Option<u32>,
    /// There is a group of the user's name.
    pub(super) has_own_group: bool,
}

impl Found {
    /// Reads the files. Blocking.
    pub(super) fn load(context: &Context, files: &AccountFiles, parameters: &Parameters) -> Result<Self, FsError> {
        let groups = files.groups(context)?;
        let gid = match &parameters.gid {
            Some(PrimaryGroup::Id(gid)) => Some(*gid),
            Some(PrimaryGroup::Name(name)) => groups.get(name).map(|group| group.gid),
            None => None,
        };
        let has_own_group = groups.get(&parameters.name).is_some();
        let user = files.users(context)?.get(&parameters.name).cloned();
        let account = match user {
            Some(user) => Some(Account::of(context, files, user)?),
            None => None,
        };
        Ok(Self { account, gid, has_own_group })
    }
}

impl Account {
    /// Completes a user by what the other files say. Blocking.
    pub(super) fn of(context: &Context, files: &AccountFiles, user: User) -> Result<Self, FsError> {
        let groups = files.groups(context)?;
        let is_member = |members: &[String]| members.contains(&user.name);
        let groups = groups.iter().filter(|group| is_member(&group.members)).map(|group| group.name.clone()).collect();
        // Who may not read hashes may not change them either, and hears of that then.
        let shadow = match files.shadows(context) {
            Ok(shadows) => shadows.get(&user.name).cloned(),
            Err(error) if error.kind == crate::fs::FsErrorKind::Denied => None,
            Err(error) => return Err(error),
        };
        Ok(Self { user, shadow, groups })
    }

    pub(super) fn age(&self, at: usize) -> Option<i64> {
        let shadow = self.shadow.as_ref()?;
        [shadow.min_age, shadow.max_age, shadow.warn_days].get(at).copied()
    }

    pub(super) fn expiry(&self) -> Option<String> {
        self.shadow.as_ref().map(|shadow| shadow.expiry).filter(|days| *days >= 0).map(date)
    }
}

impl Parameters {
    /// Returns all further groups that there shall be, sorted, given those that there are.
    pub(super) fn wanted_groups(&self, current: &[String]) -> Option<Vec<String>> {
        let wanted = self.groups.as_ref()?;
        let kept = current.iter().filter(|_| !self.is_inclusive);
        Some(wanted.iter().chain(kept).collect::<BTreeSet<_>>().into_iter().cloned().collect())
    }

    /// Returns the changes of an account.
    pub(super) fn compare(&self, resource: &Resource, found: &Found) -> Vec<Change> {
        let mut differences = Differences::of(resource);
        match (self.ensure, &found.account) {
            (Ensure::Absent, None) => {}
            (Ensure::Absent, Some(_)) => differences.add_ensure("present", "absent"),
            (Ensure::Present, None) => differences.add_ensure("absent", "present"),
            (Ensure::Present, Some(account)) => self.compare_account(account, found.gid, &mut differences),
        }
        differences.into_changes()
    }

    fn compare_account(&self, account: &Account, gid: Option<u32>, found: &mut Differences<'_>) {
        let number = |id: u32| Shown::Number(id.into());
        let text = |text: &String| Shown::Text(text.clone());
        found.compare("home", &text(&account.user.home), self.home.as_ref().map(text).as_ref());
        found.compare("uid", &number(account.user.uid), self.uid.map(number).as_ref());
        if let Some(wanted) = self.gid.as_ref().filter(|_| gid != Some(account.user.gid)) {
            let wanted = match wanted {
                PrimaryGroup::Id(id) => number(*id),
                PrimaryGroup::Name(name) => text(name),
            };
            found.add("gid", &number(account.user.gid), &wanted);
        }
        found.compare("comment", &text(&account.user.comment), self.comment.as_ref().map(text).as_ref());
        found.compare("shell", &text(&account.user.shell), self.shell.as_ref().map(text).as_ref());
        let hash = account.shadow.as_ref().map(|shadow| &shadow.password);
        if self.password.as_ref().is_some_and(|wanted| Some(&wanted.0) != hash) {
            found.add_secret("password");
        }
        for (at, (name, wanted)) in AGES.iter().zip(self.ages).enumerate() {
            found.compare(name, &Shown::number(account.age(at)), wanted.map(Shown::Number).as_ref());
        }
        let current: BTreeSet<&String> = account.groups.iter().collect();
        if let Some(wanted) = self.wanted_groups(&account.groups).filter(|wanted| !current.iter().copied().eq(wanted)) {
            let shown =
                if account.groups.is_empty() { Shown::Bare(String::new()) } else { Shown::Bare(account.groups.join(",")) };
            let joined = Shown::Text(wanted.join(","));
            found.add("groups", &shown, &Shown::Joined(wanted));
            found.word_wanted(&joined);
        }
        let expiry = self.expiry.as_ref().map(|expiry| match expiry {
            Expiry::Never => Shown::Absent,
            Expiry::On(date) => text(date),
        });
        found.compare("expiry", &Shown::text(account.expiry()), expiry.as_ref());
    }
}

/// Returns a day, counted from 1970, as `YYYY-MM-DD`.
fn date(days: i64) -> String {
    // Days and years of the Gregorian calendar are counted from 1 March of the year 0, so that leap days come last: 146,097
    // days are 400 years, and months of 30 and 31 days repeat every 153.
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (days, text) in
            [(0, "1970-01-01"), (59, "1970-03-01"), (11_016, "2000-02-29"), (21_916, "2030-01-02"), (47_540, "2100-02-28")]
        {
            assert_eq!(date(days), text);
        }
    }
}
