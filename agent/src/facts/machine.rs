//! What facts are gathered from: files, and the few things that only a system call tells.

use std::net::IpAddr;
use std::path::Path;
use std::time::SystemTime;

use nix::sys::socket::SockaddrStorage;

use super::tree::Tree;
use crate::system::Environment;

/// A machine, or what a test says that one is.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) tree: Tree,
    pub(super) kernel: Kernel,
    /// In the kernel's order.
    pub(super) addresses: Vec<Address>,
    /// Real user and group of this process.
    pub(super) ids: (u32, u32),
    pub(super) ticks_per_second: u64,
    pub(super) unix_seconds: i64,
    /// `PATH` and `TZ` of this process.
    pub(super) path: Option<String>,
    pub(super) timezone: Option<String>,
    /// Tells the sizes of the file system at a path.
    pub(super) measure: fn(&Path) -> Option<Sizes>,
}

/// What uname(2) says.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    pub(super) name: String,
    pub(super) nodename: String,
    pub(super) release: String,
    pub(super) machine: String,
}

/// An address of an interface.
#[derive(Debug, Clone)]
pub(super) struct Address {
    /// The interface, or the label that the address was given, as in `eth0:1`.
    pub(super) interface: String,
    pub(super) ip: IpAddr,
    pub(super) netmask: IpAddr,
}

/// What statvfs(3) says, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) total: u64,
    pub(super) free: u64,
    /// Free for everybody, not only for root.
    pub(super) available: u64,
}

impl Machine {
    /// Asks the kernel about the machine that this process is on.
    pub(super) fn this(environment: &Environment) -> Self {
        let uname = rustix::system::uname();
        let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            tree: Tree::new("/"),
            kernel: Kernel {
                name: text(uname.sysname()),
                nodename: text(uname.nodename()),
                release: text(uname.release()),
                machine: text(uname.machine()),
            },
            addresses: addresses(),
            ids: (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()),
            ticks_per_second: rustix::param::clock_ticks_per_second().max(1),
            unix_seconds: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
            path: environment.path.clone(),
            timezone: environment.timezone.clone(),
            measure,
        }
    }
}

fn addresses() -> Vec<Address> {
    let ip = |address: Option<SockaddrStorage>| {
        let address = address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    };
    let all = nix::ifaddrs::getifaddrs().into_iter().flatten();
    all.filter_map(|address| {
        Some(Address { interface: address.interface_name, ip: ip(address.address)?, netmask: ip(address.netmask)? })
    })
    .collect()
}

fn measure(path: &Path) -> Option<Sizes> {
    let stat = rustix::fs::statvfs(path).ok()?;
    let bytes = |blocks: u64| blocks.checked_mul(stat.f_frsize);
    Some(Sizes { total: bytes(stat.f_blocks)?, free: bytes(stat.f_bfree)?, available: bytes(stat.f_bavail)? })
}
