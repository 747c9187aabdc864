//! Which server leased the address of an interface, from what the usual clients write down.

use std::net::Ipv4Addr;

use crate::facts::tree::Tree;

/// Where dhclient keeps its leases.
const DHCLIENT: [&str; 5] = ["/var/lib/dhclient", "/var/lib/dhcp", "/var/lib/dhcp3", "/var/lib/NetworkManager", "/var/db"];

pub(super) fn server(tree: &Tree, interface: &str, index: Option<&str>) -> Option<String> {
    let networkd = index.and_then(|index| tree.read(&format!("/run/systemd/netif/leases/{index}")));
    let networkd = networkd.as_deref().and_then(server_address);
    networkd.or_else(|| dhclient(tree, interface)).or_else(|| network_manager(tree, interface))
}

fn dhclient(tree: &Tree, interface: &str) -> Option<String> {
    let leases =
        DHCLIENT.iter().flat_map(|directory| tree.list(directory).into_iter().map(move |name| format!("{directory}/{name}")));
    let is_lease = |path: &String| {
        let name = path.rsplit('/').next().unwrap_or_default();
        name.split_once("dhclient").is_some_and(|(_, rest)| rest.contains(".lease"))
    };
    leases.filter(is_lease).find_map(|path| lease(&tree.read(&path)?, interface))
}

/// Reads the format of dhclient.leases(5).
fn lease(text: &str, interface: &str) -> Option<String> {
    let statements = || text.lines().map(|line| line.trim().trim_end_matches(';'));
    let is_for_interface =
        |line: &str| line.strip_prefix("interface ").is_some_and(|name| name.trim().trim_matches('"') == interface);
    if !statements().any(is_for_interface) {
        return None;
    }
    let servers = statements().filter_map(|line| line.strip_prefix("option dhcp-server-identifier "));
    servers.map(str::trim).find(|server| server.parse::<Ipv4Addr>().is_ok()).map(str::to_owned)
}

fn network_manager(tree: &Tree, interface: &str) -> Option<String> {
    let directory = "/var/lib/NetworkManager";
    let is_lease = |name: &String| {
        let of = name.strip_prefix("internal-").and_then(|rest| rest.strip_suffix(".lease"));
        of.is_some_and(|of| of.strip_suffix(interface).is_some_and(|before| before.ends_with('-')))
    };
    let name = tree.list(directory).into_iter().find(is_lease)?;
    server_address(&tree.read(&format!("{directory}/{name}"))?)
}

/// Reads the leases of systemd-networkd and of NetworkManager.
fn server_address(text: &str) -> Option<String> {
    text.lines().find_map(|line| line.strip_prefix("SERVER_ADDRESS=")).map(|server| server.trim().to_owned())
}
