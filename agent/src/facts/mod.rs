//! Facts: what a node knows of itself, under Facter 4's names, in its types and shapes.
//!
//! Three layers, each in place of what the one before says of the same fact:
//!
//! 1. **core**: read from `/proc`, `/sys`, `/etc` and a few system calls; no command is run, no name service is asked, no
//!    remote file system is touched. Some milliseconds;
//! 2. **external**: files and executables in `facts.d` directories ([`ExternalFacts`]);
//! 3. **environment**: `FACTER_name=value`.
//!
//! What cannot be found out is left out, never guessed. Not gathered: Facter's legacy facts (`osfamily`, `ipaddress`, …), what tells
//! of Ruby, Puppet, Facter and Augeas, and what a cloud's metadata service would say. `tests/interop/DIFFERENCES.md` lists all
//! that differs from Facter.
//!
//! One file per theme; each reads text below a root, so that tests bring the machine that they want.

mod disks;
mod dmi;
mod external;
mod identity;
mod kernel;
mod machine;
mod memory;
mod mounts;
mod networking;
mod os;
mod processors;
mod query;
mod ssh;
mod timezone;
mod tree;
mod udev;
mod units;
mod virtualization;

use std::collections::BTreeMap;

use direct_puppet_transport::protocol::Value;

pub use self::external::{EXTERNAL_TIME_LIMIT, ExternalFacts, MAX_EXTERNAL_BYTES};
use self::machine::Machine;
pub use self::query::query;
use crate::system::Environment;

/// Facts by name.
pub type Facts = BTreeMap<String, Value>;

/// Gathers all facts; what goes wrong with an external one is logged. Blocking.
pub(crate) fn gather(external: &ExternalFacts, environment: &Environment) -> Facts {
    let machine = Machine::this(environment);
    let mut facts = core(&machine);
    facts.extend(external.gather(machine.ids.0, environment));
    facts.extend(environment.facts.clone());
    facts.retain(|_, value| *value != Value::Undef);
    facts
}

/// Returns how many seconds local time is ahead of UTC; 0 where the zone is not known.
pub(crate) fn utc_offset(environment: &Environment, unix_seconds: i64) -> i32 {
    timezone::utc_offset(&tree::Tree::new("/"), environment.timezone.as_deref(), unix_seconds)
}

/// Gathers what the machine itself tells.
fn core(machine: &Machine) -> Facts {
    let tree = &machine.tree;
    let read = |path: &str| tree.read(path);
    let guest = virtualization::guest(tree);
    let mounts = mounts::read(tree);
    let mut facts = kernel::kernel(&machine.kernel);
    facts.extend(known([
        ("disks", disks::disks(tree)),
        ("dmi", dmi::dmi(tree)),
        ("filesystems", read("/proc/filesystems").as_deref().and_then(kernel::filesystems)),
        ("fips_enabled", kernel::fips_enabled(tree)),
        ("hypervisors", hash(guest.hypervisors.clone())),
        ("identity", identity::identity(tree, machine.ids)),
        ("is_virtual", guest.is_virtual().map(Value::from)),
        ("load_averages", read("/proc/loadavg").as_deref().and_then(kernel::load_averages)),
        ("memory", read("/proc/meminfo").as_deref().and_then(memory::memory)),
        ("mountpoints", mounts::mountpoints(&mounts, machine.measure)),
        ("networking", networking::networking(tree, &machine.kernel.nodename, &machine.addresses)),
        ("os", os::os(tree, &machine.kernel)),
        ("partitions", disks::partitions(tree, &mounts)),
        ("path", machine.path.clone().and_then(text)),
        ("processors", processors::processors(tree, &machine.kernel.machine)),
        ("ssh", ssh::ssh(tree)),
        ("system_uptime", kernel::system_uptime(tree, guest.is_docker(), machine.ticks_per_second)),
        ("timezone", timezone::timezone(tree, machine.timezone.as_deref(), machine.unix_seconds).and_then(text)),
        ("virtual", guest.platform.and_then(text)),
    ]));
    facts
}

/// Makes facts of what is known; the rest is left out.
fn known<const N: usize>(entries: [(&str, Option<Value>); N]) -> Facts {
    entries.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// Makes one fact of several; none of nothing.
fn hash(facts: Facts) -> Option<Value> {
    (!facts.is_empty()).then_some(Value::Hash(facts))
}

fn array(values: impl IntoIterator<Item = Value>) -> Option<Value> {
    let values: Vec<Value> = values.into_iter().collect();
    (!values.is_empty()).then_some(Value::Array(values))
}

fn text(text: impl Into<String>) -> Option<Value> {
    let text = text.into();
    (!text.is_empty()).then_some(Value::String(text))
}

/// A number too large for a fact is none.
fn count(number: u64) -> Option<Value> {
    i64::try_from(number).ok().map(Value::Integer)
}

#[cfg(test)]
mod testing {
    use super::*;
    use crate::facts::tree::Tree;

    /// A root with files in it.
    #[derive(Debug)]
    pub(super) struct Scratch(tempfile::TempDir);

    impl Scratch {
        pub(super) fn new(files: &[(&str, &str)]) -> Self {
            let this = Self(tempfile::tempdir().unwrap());
            files.iter().for_each(|(path, content)| this.write(path, content));
            this
        }

        pub(super) fn write(&self, path: &str, content: &str) {
            let path = self.path(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }

        pub(super) fn link(&self, path: &str, target: &str) {
            let path = self.path(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(target, path).unwrap();
        }

        pub(super) fn make_dir(&self, path: &str) {
            std::fs::create_dir_all(self.path(path)).unwrap();
        }

        pub(super) fn path(&self, path: &str) -> std::path::PathBuf {
            self.0.path().join(path.trim_start_matches('/'))
        }

        pub(super) fn tree(&self) -> Tree {
            Tree::new(self.0.path())
        }
    }

    /// Reads a value from JSON.
    pub(super) fn json(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_facts() {
        let facts = core(&Machine::this(&Environment::default()));
        for name in ["kernel", "os", "networking", "processors", "memory", "identity", "mountpoints", "timezone", "is_virtual"] {
            assert!(facts.contains_key(name), "{name}");
        }
    }

    #[test]
    fn a_machine_that_tells_nothing_has_few_facts_and_no_errors() {
        let empty = testing::Scratch::new(&[]);
        let machine = Machine { tree: empty.tree(), addresses: Vec::new(), ..Machine::this(&Environment::default()) };
        let facts = core(&machine);
        let names: Vec<&str> = facts.keys().map(String::as_str).collect();
        let expected =
            ["identity", "kernel", "kernelmajversion", "kernelrelease", "kernelversion", "networking", "os", "processors"];
        assert_eq!(names, [expected.as_slice(), &["timezone"]].concat());
    }
}
