//! `os.selinux`.

use direct_puppet_transport::protocol::Value;

use crate::facts::tree::Tree;
use crate::facts::{hash, known, text};

/// It counts as enabled where its file system is mounted and it is configured.
pub(super) fn selinux(tree: &Tree) -> Option<Value> {
    let mounts = tree.read("/proc/self/mounts")?;
    let mounted = mounts.lines().filter(|line| line.contains("selinuxfs")).find_map(|line| line.split_whitespace().nth(1));
    let config = tree.read("/etc/selinux/config").filter(|config| !config.is_empty());
    let Some((directory, config)) = mounted.zip(config) else { return hash(known([("enabled", Some(false.into()))])) };
    let setting = |name: &str| config.lines().filter_map(|line| line.split_once('=')).rfind(|(key, _)| *key == name);
    let setting = |name: &str| setting(name).and_then(|(_, value)| text(value.trim()));
    let is_enforced = tree.line(&format!("{directory}/enforce")).map(|line| line == "1");
    hash(known([
        ("config_mode", setting("SELINUX")),
        ("config_policy", setting("SELINUXTYPE")),
        ("current_mode", is_enforced.and_then(|enforced| text(if enforced { "enforcing" } else { "permissive" }))),
        ("enabled", Some(true.into())),
        ("enforced", is_enforced.map(Value::from)),
        ("policy_version", tree.line(&format!("{directory}/policyvers")).and_then(text)),
    ]))
}
