//! `networking`: names, interfaces, and which of them leads out.

mod addresses;
mod dhcp;
mod names;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;

use direct_puppet_transport::protocol::Value;

use self::addresses::{Family, scope};
use super::machine::Address;
use super::tree::Tree;
use super::{Facts, array, hash, known, text};

/// Flags of addresses in `/proc/net/if_inet6`, as in `linux/if_addr.h`.
const FLAGS: [(u32, &str); 8] = [
    (0x01, "temporary"),
    (0x02, "noad"),
    (0x04, "optimistic"),
    (0x08, "dadfailed"),
    (0x10, "homeaddress"),
    (0x20, "deprecated"),
    (0x40, "tentative"),
    (0x80, "permanent"),
];

/// Facts of the primary interface that stand beside the list of interfaces too.
const OF_PRIMARY: [&str; 10] = ["dhcp", "ip", "ip6", "mac", "mtu", "netmask", "netmask6", "network", "network6", "scope6"];

pub(super) fn networking(tree: &Tree, nodename: &str, addresses: &[Address]) -> Option<Value> {
    let names = names::names(tree, nodename);
    let interfaces = interfaces(tree, addresses);
    let primary = primary(tree, &interfaces, addresses);
    let facts_of = |name: &str| interfaces.iter().find(|(known, _)| known == name).map(|(_, facts)| facts);
    let mut facts = known([
        ("domain", names.domain.and_then(text)),
        ("fqdn", text(names.fqdn)),
        ("hostname", text(names.hostname)),
        ("primary", primary.clone().and_then(text)),
    ]);
    let of_primary = primary.as_deref().and_then(facts_of).into_iter().flatten();
    let of_primary = of_primary.filter(|(name, _)| OF_PRIMARY.contains(&name.as_str()));
    facts.extend(of_primary.map(|(name, value)| (name.clone(), value.clone())));
    facts.extend(
        hash(interfaces.into_iter().map(|(name, facts)| (name, Value::Hash(facts))).collect())
            .map(|all| ("interfaces".to_owned(), all)),
    );
    hash(facts)
}

/// Returns all interfaces in the kernel's order, then the labels of addresses.
fn interfaces(tree: &Tree, addresses: &[Address]) -> Vec<(String, Facts)> {
    let index = |name: &String| tree.number(&format!("/sys/class/net/{name}/ifindex"));
    let mut names: Vec<(i64, String)> =
        tree.list("/sys/class/net").into_iter().filter_map(|name| Some((index(&name)?, name))).collect();
    names.sort_unstable();
    let mut names: Vec<String> = names.into_iter().map(|(_, name)| name).collect();
    for address in addresses {
        if !names.contains(&address.interface) {
            names.push(address.interface.clone());
        }
    }
    let flags = flags(&tree.read("/proc/net/if_inet6").unwrap_or_default());
    names.into_iter().map(|name| (name.clone(), interface(tree, &name, addresses, &flags))).collect()
}

type Flags = BTreeMap<(String, IpAddr), u32>;

fn interface(tree: &Tree, name: &str, addresses: &[Address], flags: &Flags) -> Facts {
    let sys = format!("/sys/class/net/{name}");
    let line = |file: &str| tree.line(&format!("{sys}/{file}"));
    let number = |file: &str| tree.number(&format!("{sys}/{file}")).map(Value::Integer);
    let is_physical = tree.exists(&format!("{sys}/device"));
    let of_physical = |value: Option<Value>| value.filter(|_| is_physical);
    let mut facts = known([
        ("dhcp", dhcp::server(tree, name, line("ifindex").as_deref()).and_then(text)),
        ("duplex", of_physical(line("duplex").and_then(text))),
        ("mac", mac(tree, name).and_then(text)),
        ("mtu", number("mtu")),
        ("operational_state", line("operstate").and_then(text)),
        ("physical", Some(is_physical.into())),
        ("speed", of_physical(number("speed"))),
    ]);
    for family in [Family::V4, Family::V6] {
        let of_family = |address: &&Address| address.interface == name && family.has(address.ip);
        let bindings: Vec<(IpAddr, Facts)> =
            addresses.iter().filter(of_family).map(|address| (address.ip, binding(address, flags))).collect();
        let preferred = bindings.iter().find(|(ip, _)| !addresses::is_ignored(*ip)).or(bindings.first());
        for &(name, suffixed) in family.names() {
            let value = preferred.and_then(|(_, binding)| binding.get(name).cloned());
            facts.extend(value.map(|value| (suffixed.to_owned(), value)));
        }
        let all = array(bindings.into_iter().map(|(_, binding)| Value::Hash(binding)));
        facts.extend(all.map(|all| (family.list_name().to_owned(), all)));
    }
    facts
}

fn binding(address: &Address, flags: &Flags) -> Facts {
    let flags = flags.get(&(address.interface.clone(), address.ip));
    // As Facter: an address without flags has an empty list of them.
    let names = |bits: u32| FLAGS.iter().filter(move |(bit, _)| bits & bit != 0).map(|(_, name)| Value::from(*name)).collect();
    known([
        ("address", text(address.ip.to_string())),
        ("flags", flags.map(|&bits| Value::Array(names(bits)))),
        ("netmask", text(address.netmask.to_string())),
        ("network", addresses::network(address.ip, address.netmask).and_then(|network| text(network.to_string()))),
        ("scope6", scope(address.ip).and_then(text)),
    ])
}

/// Reads the format of `/proc/net/if_inet6`: address, index, prefix, scope, flags, interface.
fn flags(text: &str) -> Flags {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [address, _, _, _, flags, name] = fields.as_slice() else { return None };
        let address = IpAddr::from(u128::from_str_radix(address, 16).ok()?.to_be_bytes());
        Some(((String::from(*name), address), u32::from_str_radix(flags, 16).ok()?))
    };
    text.lines().filter_map(line).collect()
}

/// Returns the hardware address; of an interface in a bond, the one that it has of its own.
fn mac(tree: &Tree, name: &str) -> Option<String> {
    let master = tree.link_name(&format!("/sys/class/net/{name}/master"));
    let bond = master.and_then(|master| tree.read(&format!("/proc/net/bonding/{master}")));
    let own = bond.as_deref().and_then(|bond| permanent_address(bond, name));
    own.or_else(|| tree.line(&format!("/sys/class/net/{name}/address"))).filter(|mac| is_mac(mac))
}

fn permanent_address(bond: &str, name: &str) -> Option<String> {
    let mut lines = bond.lines().map(str::trim).skip_while(|line| line.strip_prefix("Slave Interface: ") != Some(name)).skip(1);
    let found = lines.by_ref().take_while(|line| !line.starts_with("Slave Interface:"));
    found.filter_map(|line| line.strip_prefix("Permanent HW addr: ")).map(str::to_owned).next()
}

/// Six to twenty octets that are not all zero: what a tunnel has in their place is none.
fn is_mac(text: &str) -> bool {
    let octets: Vec<&str> = text.split(':').collect();
    let is_octet = |octet: &&str| octet.len() == 2 && octet.bytes().all(|digit| digit.is_ascii_hexdigit());
    (6..=20).contains(&octets.len()) && octets.iter().all(is_octet) && octets.iter().any(|octet| *octet != "00")
}

/// Returns the interface of the default route, else the first that has an address of the world.
fn primary(tree: &Tree, interfaces: &[(String, Facts)], addresses: &[Address]) -> Option<String> {
    let has_address =
        |name: &String| addresses.iter().any(|address| address.interface == *name && !addresses::is_ignored(address.ip));
    let by_route = tree.read("/proc/net/route").as_deref().and_then(default_route);
    by_route.or_else(|| interfaces.iter().map(|(name, _)| name).find(|name| has_address(name)).cloned())
}

/// Reads the format of `/proc/net/route`: interface, destination, …, mask.
fn default_route(table: &str) -> Option<String> {
    let is_default =
        |fields: &Vec<&str>| fields.len() > 7 && fields[1] == "00000000" && fields[7] == "00000000" && fields[0] != "*";
    table.lines().skip(1).map(|line| line.split_whitespace().collect()).find(is_default).map(|fields| fields[0].to_owned())
}
