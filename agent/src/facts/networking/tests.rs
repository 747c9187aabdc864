use super::*;
use crate::facts::testing::{Scratch, json};

fn address(interface: &str, ip: &str, netmask: &str) -> Address {
    Address { interface: interface.to_owned(), ip: ip.parse().unwrap(), netmask: netmask.parse().unwrap() }
}

/// `lo`, and `eth0` with a lease, a label and two addresses of version 6.
fn machine() -> Scratch {
    let scratch = Scratch::new(&[
        (
            "/proc/net/route",
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\nlo\t0000007F\t0\t1\t0\t0\t0\t000000FF\n\
                             eth0\t00000000\tC0000201\t0003\t0\t0\t0\t00000000\t0\t0\t0\n",
        ),
        (
            "/proc/net/if_inet6",
            "00000000000000000000000000000001 01 80 10 80       lo\nfd000000000000000000000000000002 02 40 00 82     eth0\n\
                                fe8000000000000000fc00fffe000001 02 40 20 80     eth0\nbroken\n",
        ),
        ("/run/systemd/netif/leases/2", "# private\nADDRESS=192.0.2.2\nSERVER_ADDRESS=192.0.2.1\n"),
        ("/sys/class/net/bonding_masters", "bond0\n"),
        ("/etc/hosts", "127.0.0.1 localhost\n127.0.1.1 web01.example.com web01 # own\n"),
    ]);
    for (name, index, mac, mtu, state) in [
        ("lo", "1", "00:00:00:00:00:00", "65536", "unknown"),
        ("eth0", "2", "02:fc:00:00:00:01", "1400", "up"),
        ("sit0", "3", "0.0.0.0", "1480", "down"),
    ] {
        for (file, content) in [("ifindex", index), ("address", mac), ("mtu", mtu), ("operstate", state)] {
            scratch.write(&format!("/sys/class/net/{name}/{file}"), &format!("{content}\n"));
        }
    }
    scratch.make_dir("/sys/class/net/eth0/device");
    scratch.write("/sys/class/net/eth0/speed", "1000\n");
    scratch.write("/sys/class/net/eth0/duplex", "full\n");
    scratch
}

#[test]
fn interfaces_and_the_primary_one() {
    let addresses = [
        address("lo", "127.0.0.1", "255.0.0.0"),
        address("eth0", "192.0.2.2", "255.255.255.0"),
        address("eth0:1", "192.0.2.3", "255.255.255.0"),
        address("lo", "::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        address("eth0", "fd00::2", "ffff:ffff:ffff:ffff::"),
        address("eth0", "fe80::fc:ff:fe00:1", "ffff:ffff:ffff:ffff::"),
    ];
    let expected = r#"{
        "hostname": "web01", "domain": "example.com", "fqdn": "web01.example.com", "primary": "eth0", "dhcp": "192.0.2.1",
        "ip": "192.0.2.2", "ip6": "fd00::2", "mac": "02:fc:00:00:00:01", "mtu": 1400, "netmask": "255.255.255.0",
        "netmask6": "ffff:ffff:ffff:ffff::", "network": "192.0.2.0", "network6": "fd00::", "scope6": "global",
        "interfaces": {
            "eth0": {
                "bindings": [{"address": "192.0.2.2", "netmask": "255.255.255.0", "network": "192.0.2.0"}],
                "bindings6": [
                    {"address": "fd00::2", "netmask": "ffff:ffff:ffff:ffff::", "network": "fd00::", "scope6": "global",
                        "flags": ["noad", "permanent"]},
                    {"address": "fe80::fc:ff:fe00:1", "netmask": "ffff:ffff:ffff:ffff::", "network": "fe80::", "scope6": "link",
                        "flags": ["permanent"]}],
                "dhcp": "192.0.2.1", "duplex": "full", "ip": "192.0.2.2", "ip6": "fd00::2", "mac": "02:fc:00:00:00:01", "mtu": 1400,
                "netmask": "255.255.255.0", "netmask6": "ffff:ffff:ffff:ffff::", "network": "192.0.2.0", "network6": "fd00::",
                "operational_state": "up", "physical": true, "scope6": "global", "speed": 1000},
            "eth0:1": {
                "bindings": [{"address": "192.0.2.3", "netmask": "255.255.255.0", "network": "192.0.2.0"}],
                "ip": "192.0.2.3", "netmask": "255.255.255.0", "network": "192.0.2.0", "physical": false},
            "lo": {
                "bindings": [{"address": "127.0.0.1", "netmask": "255.0.0.0", "network": "127.0.0.0"}],
                "bindings6": [{"address": "::1", "netmask": "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "network": "::1",
                    "scope6": "host", "flags": ["permanent"]}],
                "ip": "127.0.0.1", "ip6": "::1", "mtu": 65536, "netmask": "255.0.0.0",
                "netmask6": "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "network": "127.0.0.0", "network6": "::1",
                "operational_state": "unknown", "physical": false, "scope6": "host"},
            "sit0": {"mtu": 1480, "operational_state": "down", "physical": false}
        }
    }"#;
    assert_eq!(networking(&machine().tree(), "web01", &addresses), Some(json(expected)));
}

#[test]
fn without_a_default_route_the_first_address_of_the_world_counts() {
    let scratch =
        Scratch::new(&[("/sys/class/net/b/ifindex", "2"), ("/sys/class/net/a/ifindex", "3"), ("/sys/class/net/c/ifindex", "4")]);
    let addresses =
        [address("b", "169.254.3.4", "255.255.0.0"), address("a", "fd00::1", "ffff::"), address("c", "10.0.0.1", "255.0.0.0")];
    let Some(Value::Hash(facts)) = networking(&scratch.tree(), "x", &addresses) else { panic!("no facts") };
    assert_eq!((&facts["primary"], &facts["ip"]), (&"c".into(), &"10.0.0.1".into()));
    let Some(Value::Hash(facts)) = networking(&scratch.tree(), "x", &addresses[..2]) else { panic!("no facts") };
    assert_eq!(facts.get("primary"), None);
}

#[test]
fn the_first_binding_of_the_world_is_preferred() {
    let addresses = [address("a", "169.254.1.1", "255.255.0.0"), address("a", "10.0.0.1", "255.0.0.0")];
    let facts = interface(&Scratch::new(&[]).tree(), "a", &addresses, &Flags::new());
    assert_eq!((&facts["ip"], &facts["network"]), (&"10.0.0.1".into(), &"10.0.0.0".into()));
}

#[test]
fn names_of_hosts() {
    for (nodename, hosts, resolv, fqdn, domain) in [
        ("a.example.com", "", "search other.com", "a.example.com", Some("example.com")),
        ("a", "10.0.0.1 A.x.org\n10.0.0.2 a.example.com A", "", "a.example.com", Some("example.com")),
        ("a", "127.0.0.1 localhost a", "domain d.org\nsearch s.org t.org", "a.d.org", Some("d.org")),
        ("a", "", "nameserver 10.0.0.1\nsearch . s.org\nsearch s.org t.org\n", "a.s.org", Some("s.org")),
        ("a", "# 127.0.0.1 a.example.com a", "searching x.org", "a", None),
        ("a.", "", "", "a.", None),
    ] {
        let scratch = Scratch::new(&[("/etc/hosts", hosts), ("/etc/resolv.conf", resolv)]);
        let names = names::names(&scratch.tree(), nodename);
        assert_eq!((names.fqdn.as_str(), names.domain.as_deref()), (fqdn, domain), "{nodename} {hosts} {resolv}");
    }
}

#[test]
fn an_interface_in_a_bond_has_its_own_address() {
    let bond = "Ethernet Channel Bonding Driver\n\nSlave Interface: eth1\nMII Status: up\nPermanent HW addr: 52:54:00:00:00:01\n\n\
                Slave Interface: eth2\nPermanent HW addr: 52:54:00:00:00:02\n";
    let scratch = Scratch::new(&[("/proc/net/bonding/bond0", bond), ("/sys/class/net/eth2/address", "52:54:00:00:00:01\n")]);
    scratch.link("/sys/class/net/eth2/master", "../../devices/virtual/net/bond0");
    assert_eq!(mac(&scratch.tree(), "eth2").as_deref(), Some("52:54:00:00:00:02"));
    for (text, is) in [("52:54:00:00:00:01", true), ("00:00:00:00:00:00", false), ("0.0.0.0", false), ("a:b", false), ("", false)]
    {
        assert_eq!(is_mac(text), is, "{text}");
    }
}

#[test]
fn leases_of_every_client() {
    let dhclient = "lease {\n  interface \"eth0\";\n  fixed-address 10.0.0.5;\n  option dhcp-server-identifier 10.0.0.1;\n}\n";
    for (path, content, server) in [
        ("/run/systemd/netif/leases/2", "SERVER_ADDRESS=10.0.0.2\n", Some("10.0.0.2")),
        ("/var/lib/dhcp/dhclient.eth0.leases", dhclient, Some("10.0.0.1")),
        ("/var/lib/dhcp/dhclient.eth0.leases", &dhclient.replace("eth0", "eth01"), None),
        ("/var/lib/NetworkManager/internal-5f0-b-eth0.lease", "SERVER_ADDRESS=10.0.0.3\n", Some("10.0.0.3")),
        ("/var/lib/NetworkManager/internal-5f0-veth0.lease", "SERVER_ADDRESS=10.0.0.3\n", None),
    ] {
        let found = dhcp::server(&Scratch::new(&[(path, content)]).tree(), "eth0", Some("2"));
        assert_eq!(found.as_deref(), server, "{path}");
    }
}
