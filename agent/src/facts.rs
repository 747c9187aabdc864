//! The core facts of a Linux machine, under Facter's names, from `/proc`, `/etc/os-release` and `uname`.
//!
//! Only what manifests really use; an embedder adds its own through [`System`](crate::system::System).

use std::collections::BTreeMap;
use std::fs;

use direct_puppet_transport::protocol::Value;

type Facts = BTreeMap<String, Value>;

/// Gathers the facts; what cannot be found out is left out. Blocking.
pub(crate) fn gather() -> Facts {
    let uname = rustix::system::uname();
    let text = |text: &std::ffi::CStr| Value::String(text.to_string_lossy().into_owned());
    let release = uname.release().to_string_lossy().into_owned();
    let version = release.split(['-', '+']).next().unwrap_or_default().to_owned();
    let majmin = version.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    let mut facts = hash([
        ("kernel", text(uname.sysname())),
        ("kernelrelease", release.into()),
        ("kernelversion", version.into()),
        ("kernelmajversion", majmin.into()),
        ("hardwaremodel", text(uname.machine())),
        ("os", os(&text(uname.machine()))),
        ("networking", networking(&uname.nodename().to_string_lossy())),
        ("processors", processors()),
        ("identity", identity()),
    ]);
    facts.extend(memory());
    facts.extend(uptime());
    facts.retain(|_, value| *value != Value::Undef);
    facts
}

fn hash<const N: usize>(entries: [(&str, Value); N]) -> Facts {
    entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn unquote(value: &str) -> &str {
    let value = value.trim();
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

/// Parses `NAME=value` lines with optional quotes: the format of os-release(5).
fn os_release(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once('=')).map(|(name, value)| (name.trim(), unquote(value))).collect()
}

fn os(architecture: &Value) -> Value {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    os_from(&os_release(&text), architecture)
}

fn os_from(release: &BTreeMap<&str, &str>, architecture: &Value) -> Value {
    let id = release.get("ID").copied().unwrap_or("linux");
    let like = release.get("ID_LIKE").copied().unwrap_or_default();
    let is = |name: &str| id == name || like.split_whitespace().any(|word| word == name);
    let family = match () {
        () if is("debian") || is("ubuntu") => "Debian",
        () if is("rhel") || is("fedora") || is("centos") => "RedHat",
        () if is("suse") || is("opensuse") => "Suse",
        () if is("arch") => "Archlinux",
        () if is("alpine") => "Alpine",
        () if is("gentoo") => "Gentoo",
        () => "Linux",
    };
    let name = match id {
        "debian" => "Debian".to_owned(),
        "ubuntu" => "Ubuntu".to_owned(),
        "rhel" => "RedHat".to_owned(),
        "centos" => "CentOS".to_owned(),
        "almalinux" => "AlmaLinux".to_owned(),
        "ol" => "OracleLinux".to_owned(),
        other => {
            let mut letters = other.chars();
            letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
        }
    };
    let full = release.get("VERSION_ID").copied().unwrap_or_default();
    let (major, minor) = full.split_once('.').map_or((full, None), |(major, minor)| (major, Some(minor)));
    let mut version = hash([("full", full.into()), ("major", major.into())]);
    if let Some(minor) = minor {
        version.insert("minor".to_owned(), minor.into());
    }
    let mut os = hash([
        ("name", name.into()),
        ("family", family.into()),
        ("architecture", architecture.clone()),
        ("hardware", architecture.clone()),
        ("release", Value::Hash(version)),
    ]);
    if let Some(codename) = release.get("VERSION_CODENAME") {
        os.insert("distro".to_owned(), Value::Hash(hash([("codename", (*codename).into()), ("id", id.into())])));
    }
    Value::Hash(os)
}

fn networking(nodename: &str) -> Value {
    let (hostname, domain) = nodename.split_once('.').unwrap_or((nodename, ""));
    let mut networking = hash([("hostname", hostname.into()), ("fqdn", nodename.into())]);
    if !domain.is_empty() {
        networking.insert("domain".to_owned(), domain.into());
    }
    Value::Hash(networking)
}

fn processors() -> Value {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models: Vec<Value> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| name.trim() == "model name")
        .map(|(_, model)| Value::from(model.trim()))
        .collect();
    let count = std::thread::available_parallelism().map_or(models.len(), std::num::NonZero::get);
    Value::Hash(hash([("count", int(count as u64)), ("models", Value::Array(models))]))
}

fn identity() -> Value {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    Value::Hash(hash([
        ("uid", int(u64::from(uid.as_raw()))),
        ("gid", int(u64::from(gid.as_raw()))),
        ("privileged", uid.is_root().into()),
    ]))
}

fn memory() -> Facts {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let bytes = |wanted: &str| {
        let (_, rest) = text.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| *name == wanted)?;
        Some(rest.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
    };
    let Some(total) = bytes("MemTotal") else { return Facts::new() };
    let system = hash([("total_bytes", int(total)), ("available_bytes", int(bytes("MemAvailable").unwrap_or_default()))]);
    hash([("memory", Value::Hash(hash([("system", Value::Hash(system))])))])
}

fn uptime() -> Facts {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let Some(seconds) = text.split('.').next().and_then(|seconds| seconds.parse::<u64>().ok()) else { return Facts::new() };
    let parts = hash([("seconds", int(seconds)), ("hours", int(seconds / 3600)), ("days", int(seconds / 86_400))]);
    hash([("system_uptime", Value::Hash(parts))])
}

fn int(value: u64) -> Value {
    Value::Integer(i64::try_from(value).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_is_read() {
        let text = "ID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n";
        let Value::Hash(os) = os_from(&os_release(text), &"x86_64".into()) else { panic!("not a hash") };
        assert_eq!(os["family"], "Debian".into());
        assert_eq!(os["name"], "Debian".into());
        let Value::Hash(release) = &os["release"] else { panic!("not a hash") };
        assert_eq!(release["major"], "12".into());
    }

    #[test]
    fn this_machine_has_facts() {
        let facts = gather();
        for name in ["kernel", "os", "networking", "processors"] {
            assert!(facts.contains_key(name), "{name}");
        }
    }
}
