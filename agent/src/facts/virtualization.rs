//! `virtual`, `is_virtual` and `hypervisors`: what this machine runs in.
//!
//! A container is known by what its runtime leaves in it, a guest by what its firmware, its devices and its processor say.
//! A guest whose hypervisor cannot be told has `is_virtual` but no `virtual`.

use direct_puppet_transport::protocol::Value;

use super::tree::Tree;
use super::{Facts, dmi, known, text};

/// Parts of product names that tell the hypervisor.
const PRODUCTS: [(&str, &str); 11] = [
    ("VMware", "vmware"),
    ("VirtualBox", "virtualbox"),
    ("Parallels", "parallels"),
    ("KVM", "kvm"),
    ("Virtual Machine", "hyperv"),
    ("RHEV Hypervisor", "rhev"),
    ("oVirt Node", "ovirt"),
    ("HVM domU", "xenhvm"),
    ("Bochs", "bochs"),
    ("OpenBSD", "vmm"),
    ("BHYVE", "bhyve"),
];

/// PCI vendors of virtual devices, each with the one device that counts, if not all do.
const DEVICES: [(&str, Option<&str>, &str); 6] = [
    ("0x80ee", None, "virtualbox"),
    ("0x5853", None, "xenhvm"),
    ("0x1414", Some("0x5353"), "hyperv"),
    ("0x15ad", None, "vmware"),
    ("0x1ab8", None, "parallels"),
    ("0x1af4", None, "kvm"),
];

/// Platforms that run guests, and are none.
const HOSTS: [&str; 3] = ["physical", "xen0", "openvzhn"];

/// What a machine runs in.
#[derive(Debug, Default)]
pub(super) struct Guest {
    /// The fact `virtual`.
    pub(super) platform: Option<String>,
    pub(super) hypervisors: Facts,
    /// The processor says that there is a hypervisor.
    has_hypervisor: bool,
}

impl Guest {
    pub(super) fn is_virtual(&self) -> Option<bool> {
        match &self.platform {
            Some(platform) => Some(!HOSTS.contains(&platform.as_str())),
            None => self.has_hypervisor.then_some(true),
        }
    }

    pub(super) fn is_docker(&self) -> bool {
        self.hypervisors.contains_key("docker")
    }
}

/// Finds out what a machine runs in.
pub(super) fn guest(tree: &Tree) -> Guest {
    let firmware = Firmware::read(tree);
    let container = container(tree);
    let xen = xen(tree, &firmware);
    let device = device(tree);
    let has_hypervisor = has_hypervisor_flag(&tree.read("/proc/cpuinfo").unwrap_or_default());
    let openvz = openvz(tree);
    let machine = xen
        .or_else(|| openvz.as_ref().map(|(platform, _)| *platform))
        .or_else(|| firmware.platform())
        .or(device)
        .or((!has_hypervisor && tree.exists("/proc/cpuinfo")).then_some("physical"));
    let mut hypervisors = hypervisors(tree, &firmware, device, xen);
    hypervisors.extend(openvz.map(|(_, fact)| ("openvz".to_owned(), fact)));
    let platform = match &container {
        Some((name, fact)) => {
            // Facter has no hypervisor of the others' names.
            hypervisors.extend(
                ["docker", "lxc", "systemd_nspawn"].contains(name).then(|| ((*name).to_owned(), Value::Hash(fact.clone()))),
            );
            Some(*name)
        }
        None => machine,
    };
    Guest { platform: platform.map(str::to_owned), hypervisors, has_hypervisor }
}

/// Returns which container this is, and its id or name, if it tells.
fn container(tree: &Tree) -> Option<(&'static str, Facts)> {
    let cgroup = tree.read("/proc/1/cgroup").unwrap_or_default();
    let id = cgroup.lines().find_map(|line| line.split_once("docker/")).map(|(_, id)| id);
    if id.is_some() || tree.exists("/.dockerenv") {
        return Some(("docker", known([("id", id.and_then(text))])));
    }
    let paths = cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let lxc = paths.filter_map(|path| path.strip_prefix("/lxc/")).find_map(|path| path.split('/').next());
    if let Some(name) = lxc {
        return Some(("lxc", known([("name", text(name))])));
    }
    let name = runtime(tree)?;
    match name.as_str() {
        "docker" => Some(("docker", Facts::new())),
        "lxc" => Some(("lxc", Facts::new())),
        "podman" => Some(("podman", Facts::new())),
        "crio" => Some(("crio", Facts::new())),
        "systemd-nspawn" => Some(("systemd_nspawn", known([("id", tree.line("/etc/machine-id").and_then(text))]))),
        _ => None,
    }
}

/// Returns the runtime's own name, from the first process's environment or, where only root may read that, from files.
fn runtime(tree: &Tree) -> Option<String> {
    let environ = tree.read("/proc/1/environ").unwrap_or_default();
    let named = environ.split('\0').find_map(|variable| variable.strip_prefix("container=")).map(str::to_owned);
    let named = named.filter(|name| !name.is_empty()).or_else(|| tree.line("/run/systemd/container"));
    named.or_else(|| tree.exists("/run/.containerenv").then(|| "podman".to_owned()))
}

/// What the firmware says.
#[derive(Debug, Default)]
struct Firmware {
    bios: String,
    maker: String,
    product: String,
}

impl Firmware {
    fn read(tree: &Tree) -> Self {
        let id = |name: &str| dmi::id(tree, name).unwrap_or_default();
        Self { bios: id("bios_vendor"), maker: id("sys_vendor"), product: id("product_name") }
    }

    fn of_product(&self) -> Option<&'static str> {
        PRODUCTS.iter().find(|(part, _)| self.product.contains(part)).map(|(_, platform)| *platform)
    }

    fn platform(&self) -> Option<&'static str> {
        match () {
            () if self.bios.contains("Google") => Some("gce"),
            () if self.bios.contains("Amazon EC2") => Some("kvm"),
            () if self.of_product().is_some() => self.of_product(),
            () if self.maker == "VMware, Inc." => Some("vmware"),
            () if self.maker == "QEMU" || self.product.contains("OpenStack") => Some("kvm"),
            () => None,
        }
    }
}

/// Returns the hypervisor that a device on the PCI bus is made for, or any device on the virtio bus.
fn device(tree: &Tree) -> Option<&'static str> {
    let devices = "/sys/bus/pci/devices";
    let of_pci = tree.list(devices).into_iter().find_map(|name| {
        let line = |file: &str| tree.line(&format!("{devices}/{name}/{file}"));
        let (vendor, device) = (line("vendor")?, line("device"));
        let is_made_for = |(of, only, _): &&(&str, Option<&str>, &str)| {
            *of == vendor && (only.is_none() || only.as_deref() == device.as_deref())
        };
        DEVICES.iter().find(is_made_for).map(|(_, _, platform)| *platform)
    });
    of_pci.or((!tree.list("/sys/bus/virtio/devices").is_empty()).then_some("kvm"))
}

fn xen(tree: &Tree, firmware: &Firmware) -> Option<&'static str> {
    let is_xen = tree.line("/sys/hypervisor/type").is_some_and(|kind| kind == "xen") || tree.exists("/proc/xen");
    match () {
        () if !is_xen => None,
        () if is_privileged(tree) => Some("xen0"),
        () if firmware.of_product() == Some("xenhvm") => Some("xenhvm"),
        () => Some("xenu"),
    }
}

/// Tells the domain that governs the others.
fn is_privileged(tree: &Tree) -> bool {
    tree.line("/proc/xen/capabilities").is_some_and(|capabilities| capabilities.contains("control_d"))
}

fn openvz(tree: &Tree) -> Option<(&'static str, Value)> {
    if tree.list("/proc/vz").is_empty() || tree.exists("/proc/lve/list") {
        return None;
    }
    let status = tree.read("/proc/self/status")?;
    let id: i64 = status.lines().find_map(|line| line.strip_prefix("envID:"))?.trim().parse().ok()?;
    let fact = known([("id", Some(Value::Integer(id))), ("host", Some((id == 0).into()))]);
    Some((if id == 0 { "openvzhn" } else { "openvzve" }, Value::Hash(fact)))
}

fn has_hypervisor_flag(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find_map(|line| line.strip_prefix("flags")?.split_once(':'));
    flags.is_some_and(|(_, flags)| flags.split_whitespace().any(|flag| flag == "hypervisor"))
}

fn hypervisors(tree: &Tree, firmware: &Firmware, device: Option<&str>, xen: Option<&str>) -> Facts {
    let nothing = || Value::Hash(Facts::new());
    let Firmware { bios, maker, product } = firmware;
    let is_other = matches!(firmware.of_product(), Some("virtualbox" | "parallels"));
    let is_kvm = device == Some("kvm") || firmware.platform() == Some("kvm") || bios.contains("Google");
    let provider = match () {
        () if maker == "Google" => Some("google"),
        () if maker.starts_with("OpenStack") => Some("openstack"),
        () if maker.starts_with("Amazon") => Some("amazon"),
        () => None,
    };
    let provider: Facts = provider.map(|name| (name.to_owned(), true.into())).into_iter().collect();
    let context = if xen == Some("xenhvm") || device == Some("xenhvm") { "hvm" } else { "pv" };
    let xen = xen.map(|_| known([("context", text(context)), ("privileged", Some(is_privileged(tree).into()))]));
    known([
        ("hyperv", (maker.contains("Microsoft") || product == "Virtual Machine").then(nothing)),
        ("kvm", (is_kvm && !is_other).then_some(Value::Hash(provider))),
        ("virtualbox", (product == "VirtualBox" || device == Some("virtualbox")).then(nothing)),
        ("vmware", (maker == "VMware, Inc." || device == Some("vmware")).then(nothing)),
        ("xen", xen.map(Value::Hash)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::testing::{Scratch, json};

    const GUEST: (&str, &str) = ("/proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu hypervisor\n");

    fn check(files: &[(&str, &str)], platform: Option<&str>, is_virtual: Option<bool>, hypervisors: &str) {
        let guest = guest(&Scratch::new(files).tree());
        assert_eq!((guest.platform.as_deref(), guest.is_virtual()), (platform, is_virtual), "{files:?}");
        assert_eq!(Value::Hash(guest.hypervisors), json(hypervisors), "{files:?}");
    }

    #[test]
    fn containers() {
        let docker = ("/proc/1/cgroup", "12:pids:/docker/0a1b\n0::/\n");
        check(&[docker, GUEST], Some("docker"), Some(true), r#"{"docker": {"id": "0a1b"}}"#);
        check(&[("/.dockerenv", "")], Some("docker"), Some(true), r#"{"docker": {}}"#);
        check(&[("/proc/1/cgroup", "1:name=systemd:/lxc/web/init\n")], Some("lxc"), Some(true), r#"{"lxc": {"name": "web"}}"#);
        check(&[("/proc/1/environ", "A=1\0container=lxc\0")], Some("lxc"), Some(true), r#"{"lxc": {}}"#);
        check(&[("/proc/1/environ", "container=podman\0")], Some("podman"), Some(true), "{}");
        check(&[("/run/.containerenv", "")], Some("podman"), Some(true), "{}");
        let nspawn = [("/run/systemd/container", "systemd-nspawn"), ("/etc/machine-id", "c0ffee\n")];
        check(&nspawn, Some("systemd_nspawn"), Some(true), r#"{"systemd_nspawn": {"id": "c0ffee"}}"#);
        check(
            &[("/proc/1/environ", "notcontainer=lxc\0"), ("/proc/cpuinfo", "processor: 0\n")],
            Some("physical"),
            Some(false),
            "{}",
        );
    }

    #[test]
    fn guests_by_their_firmware() {
        let vendor = "/sys/class/dmi/id/sys_vendor";
        let product = "/sys/class/dmi/id/product_name";
        let bios = "/sys/class/dmi/id/bios_vendor";
        for (files, platform, hypervisors) in [
            ([(vendor, "VMware, Inc.\n"), (product, "VMware Virtual Platform\n")], "vmware", r#"{"vmware": {}}"#),
            ([(vendor, "innotek GmbH\n"), (product, "VirtualBox\n")], "virtualbox", r#"{"virtualbox": {}}"#),
            ([(vendor, "Microsoft Corporation\n"), (product, "Virtual Machine\n")], "hyperv", r#"{"hyperv": {}}"#),
            ([(vendor, "QEMU\n"), (product, "Standard PC (Q35 + ICH9, 2009)\n")], "kvm", r#"{"kvm": {}}"#),
            ([(vendor, "OpenStack Foundation\n"), (product, "OpenStack Nova\n")], "kvm", r#"{"kvm": {"openstack": true}}"#),
            ([(vendor, "Amazon EC2\n"), (bios, "Amazon EC2\n")], "kvm", r#"{"kvm": {"amazon": true}}"#),
            ([(vendor, "Google\n"), (bios, "Google\n")], "gce", r#"{"kvm": {"google": true}}"#),
        ] {
            check(&[&files[..], &[GUEST]].concat(), Some(platform), Some(true), hypervisors);
        }
        let dell = [(vendor, "Dell Inc.\n"), (product, "PowerEdge R650\n"), ("/proc/cpuinfo", "flags\t: fpu vmx\n")];
        check(&dell, Some("physical"), Some(false), "{}");
    }

    #[test]
    fn guests_by_their_devices_and_processor() {
        let virtio = ("/sys/bus/pci/devices/0000:00:01.0/vendor", "0x1af4\n");
        check(&[virtio, GUEST], Some("kvm"), Some(true), r#"{"kvm": {}}"#);
        check(&[("/sys/bus/virtio/devices/virtio0/vendor", "")], Some("kvm"), Some(true), r#"{"kvm": {}}"#);
        // A network card of Microsoft's is no hypervisor, its virtual screen is.
        let (vendor, device) = ("/sys/bus/pci/devices/0/vendor", "/sys/bus/pci/devices/0/device");
        check(&[(vendor, "0x1414\n"), (device, "0x00b9\n"), GUEST], None, Some(true), "{}");
        check(&[(vendor, "0x1414\n"), (device, "0x5353\n"), GUEST], Some("hyperv"), Some(true), "{}");
        check(&[GUEST], None, Some(true), "{}");
        check(&[], None, None, "{}");
    }

    #[test]
    fn xen_and_openvz() {
        let xen = ("/sys/hypervisor/type", "xen\n");
        check(&[xen], Some("xenu"), Some(true), r#"{"xen": {"context": "pv", "privileged": false}}"#);
        let hvm = ("/sys/class/dmi/id/product_name", "HVM domU\n");
        check(&[xen, hvm], Some("xenhvm"), Some(true), r#"{"xen": {"context": "hvm", "privileged": false}}"#);
        let host = ("/proc/xen/capabilities", "control_d\n");
        check(&[host], Some("xen0"), Some(false), r#"{"xen": {"context": "pv", "privileged": true}}"#);
        let vz = ("/proc/vz/version", "");
        check(
            &[vz, ("/proc/self/status", "envID:\t101\n")],
            Some("openvzve"),
            Some(true),
            r#"{"openvz": {"id": 101, "host": false}}"#,
        );
        check(
            &[vz, ("/proc/self/status", "envID:\t0\n")],
            Some("openvzhn"),
            Some(false),
            r#"{"openvz": {"id": 0, "host": true}}"#,
        );
    }
}
