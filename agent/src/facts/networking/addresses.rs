//! Arithmetic of addresses.

use std::net::{IpAddr, Ipv6Addr};

/// Which addresses facts are about, and the names of those facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const fn has(self, ip: IpAddr) -> bool {
        match self {
            Self::V4 => ip.is_ipv4(),
            Self::V6 => ip.is_ipv6(),
        }
    }

    pub(super) const fn list_name(self) -> &'static str {
        match self {
            Self::V4 => "bindings",
            Self::V6 => "bindings6",
        }
    }

    /// Returns what of a binding stands beside the list of them, and under which name.
    pub(super) const fn names(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::V4 => &[("address", "ip"), ("netmask", "netmask"), ("network", "network")],
            Self::V6 => &[("address", "ip6"), ("netmask", "netmask6"), ("network", "network6"), ("scope6", "scope6")],
        }
    }
}

/// Returns the part of an address that its network has in common.
pub(super) fn network(ip: IpAddr, netmask: IpAddr) -> Option<IpAddr> {
    match (ip, netmask) {
        (IpAddr::V4(ip), IpAddr::V4(mask)) => Some(IpAddr::V4((ip.to_bits() & mask.to_bits()).into())),
        (IpAddr::V6(ip), IpAddr::V6(mask)) => Some(IpAddr::V6((ip.to_bits() & mask.to_bits()).into())),
        _ => None,
    }
}

/// Returns how far an address of version 6 reaches, in the words of ifconfig(8).
pub(super) fn scope(ip: IpAddr) -> Option<String> {
    let IpAddr::V6(ip) = ip else { return None };
    let bits = ip.to_bits();
    let is_compatible = bits >> 32 == 0 && bits > 1;
    let reach = match () {
        () if ip.is_unicast_link_local() => "link",
        () if is_within(ip, 0xfec0, 10) => "site",
        () if ip.is_loopback() => "host",
        () => "global",
    };
    Some(if is_compatible { format!("compat,{reach}") } else { reach.to_owned() })
}

/// Tells addresses by which nobody outside reaches this node: loopback, link-local, and those local to a site.
pub(super) fn is_ignored(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unique_local(),
    }
}

const fn is_within(ip: Ipv6Addr, prefix: u16, bits: u32) -> bool {
    ip.segments()[0] >> (16 - bits) == prefix >> (16 - bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes() {
        for (ip, expected) in [
            ("fe80::1", "link"),
            ("febf::1", "link"),
            ("fec0::1", "site"),
            ("::1", "host"),
            ("fd00::2", "global"),
            ("2001:db8::1", "global"),
            ("::1.2.3.4", "compat,global"),
        ] {
            assert_eq!(scope(ip.parse().unwrap()).as_deref(), Some(expected), "{ip}");
        }
        assert_eq!(scope("127.0.0.1".parse().unwrap()), None);
    }

    #[test]
    fn networks_and_what_is_ignored() {
        for (ip, mask, expected) in [
            ("192.0.2.77", "255.255.255.0", "192.0.2.0"),
            ("10.1.2.3", "255.255.255.255", "10.1.2.3"),
            ("fd00::2", "ffff:ffff:ffff:ffff::", "fd00::"),
        ] {
            assert_eq!(network(ip.parse().unwrap(), mask.parse().unwrap()), Some(expected.parse().unwrap()));
        }
        assert_eq!(network("10.0.0.1".parse().unwrap(), "ffff::".parse().unwrap()), None);
        for (ip, ignored) in
            [("127.0.0.9", true), ("169.254.1.1", true), ("10.0.0.1", false), ("fd00::1", true), ("2001:db8::1", false)]
        {
            assert_eq!(is_ignored(ip.parse().unwrap()), ignored, "{ip}");
        }
    }
}
