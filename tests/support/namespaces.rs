//! A network of network namespaces: hosts that reach each other through a router, which can drop what goes from one to the other.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "for tests")]

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Hosts in namespaces of their own, removed when it is dropped. Host `i` has the address `10.77.<i + 1>.2`.
#[derive(Debug)]
pub struct Network {
    prefix: String,
    hosts: usize,
}

impl Network {
    /// Makes the network; `None` where that is not allowed, or there is no `ip`.
    #[must_use]
    pub fn new(hosts: usize) -> Option<Self> {
        static NETWORKS: AtomicUsize = AtomicUsize::new(0);
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let network = Self { prefix: format!("dp{}n{number}", std::process::id()), hosts };
        let router = network.router();
        if !rustix::process::geteuid().is_root() || !ip(&["netns", "add", &router]) {
            // Nothing was made that would have to be removed.
            std::mem::forget(network);
            return None;
        }
        for host in 0..hosts {
            let (namespace, link) = (network.namespace(host), format!("v{host}"));
            let (gateway, address) = (format!("10.77.{}.1", host + 1), network.address(host));
            for arguments in [
                vec!["netns", "add", &namespace],
                vec!["-n", &namespace, "link", "set", "lo", "up"],
                vec!["-n", &router, "link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &namespace],
                vec!["-n", &router, "addr", "add", &format!("{gateway}/24"), "dev", &link],
                vec!["-n", &router, "link", "set", &link, "up"],
                vec!["-n", &namespace, "addr", "add", &format!("{address}/24"), "dev", "eth0"],
                vec!["-n", &namespace, "link", "set", "eth0", "up"],
                vec!["-n", &namespace, "route", "add", "default", "via", &gateway],
            ] {
                assert!(ip(&arguments), "ip {arguments:?} failed");
            }
        }
        let forward = ["netns", "exec", &router, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"];
        assert!(ip(&forward), "the router cannot forward");
        Some(network)
    }

    fn router(&self) -> String {
        format!("{}r", self.prefix)
    }

    /// Returns the name of a host's namespace.
    #[must_use]
    pub fn namespace(&self, host: usize) -> String {
        format!("{}h{host}", self.prefix)
    }

    /// Returns a host's address.
    #[must_use]
    pub fn address(&self, host: usize) -> String {
        format!("10.77.{}.2", host + 1)
    }

    /// Drops, without a word, what goes from one host to the other; or lets it through again.
    pub fn cut(&self, from: usize, to: usize, is_cut: bool) {
        let (from, to, act) = (self.address(from), self.address(to), if is_cut { "add" } else { "del" });
        assert!(ip(&["-n", &self.router(), "rule", act, "from", &from, "to", &to, "blackhole"]), "the network cannot be cut");
    }

    /// Drops half of the packets between two hosts, each way by chance; false where `nft` (Debian: `nftables`) is not installed.
    #[must_use]
    pub fn lose_half(&self, one: usize, other: usize) -> bool {
        if Command::new("nft").arg("--version").output().is_err() {
            return false;
        }
        let (one, other) = (self.address(one), self.address(other));
        let drops = |from: &str, to: &str| format!("ip saddr {from} ip daddr {to} numgen random mod 2 0 counter drop;");
        let chain = "type filter hook forward priority 0;";
        let rules = format!("table ip loss {{ chain forward {{ {chain} {} {} }}; }}", drops(&one, &other), drops(&other, &one));
        assert!(ip(&self.nft(&[&rules])), "no packets can be dropped");
        true
    }

    /// Ends what [`Self::lose_half`] began; returns how many packets were dropped.
    #[must_use]
    pub fn lose_nothing(&self) -> u64 {
        let listed = Command::new("ip").args(self.nft(&["list", "table", "ip", "loss"])).output().unwrap();
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(ip(&self.nft(&["delete", "table", "ip", "loss"])), "packets are still dropped");
        let counted = listed.split("counter packets ").skip(1);
        counted.map(|rest| rest.split(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    fn nft(&self, arguments: &[&str]) -> Vec<String> {
        let router = self.router();
        ["netns", "exec", &router, "nft"].iter().chain(arguments).map(ToString::to_string).collect()
    }

    /// Returns a command that runs `program` on a host.
    #[must_use]
    pub fn command(&self, host: usize, program: &std::path::Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(host)]).arg(program);
        command
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in 0..self.hosts {
            ip(&["netns", "del", &self.namespace(host)]);
        }
        ip(&["netns", "del", &self.router()]);
    }
}

fn ip(arguments: &[impl AsRef<std::ffi::OsStr>]) -> bool {
    Command::new("ip").args(arguments).output().is_ok_and(|output| output.status.success())
}
