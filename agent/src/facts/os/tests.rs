//! The files of several distributions, as their packages ship them.

use super::*;
use crate::facts::testing::{Scratch, json};

fn os_of(files: &[(&str, &str)]) -> Value {
    let kernel = Kernel { machine: "x86_64".to_owned(), release: "6.9.7-arch1-1".to_owned(), ..Kernel::default() };
    os(&Scratch::new(files).tree(), &kernel).unwrap()
}

#[test]
fn debian() {
    let release = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\n\
                   VERSION=\"12 (bookworm)\"\nVERSION_CODENAME=bookworm\nID=debian\n";
    let expected = r#"{"architecture": "amd64", "family": "Debian", "hardware": "x86_64", "name": "Debian",
        "release": {"full": "12.11", "major": "12", "minor": "11"},
        "distro": {"codename": "bookworm", "description": "Debian GNU/Linux 12 (bookworm)", "id": "Debian",
            "release": {"full": "12.11", "major": "12", "minor": "11"}}}"#;
    assert_eq!(os_of(&[("/etc/os-release", release), ("/etc/debian_version", "12.11\n")]), json(expected));
    // Before its release it has a name only.
    let testing = "PRETTY_NAME=\"Debian GNU/Linux forky/sid\"\nNAME=\"Debian GNU/Linux\"\nVERSION_CODENAME=forky\nID=debian\n";
    let expected = r#"{"architecture": "amd64", "family": "Debian", "hardware": "x86_64", "name": "Debian",
        "release": {"full": "forky/sid", "major": "forky/sid"},
        "distro": {"codename": "forky", "description": "Debian GNU/Linux forky/sid", "id": "Debian",
            "release": {"full": "forky/sid", "major": "forky/sid"}}}"#;
    assert_eq!(os_of(&[("/etc/os-release", testing), ("/etc/debian_version", "forky/sid\n")]), json(expected));
}

#[test]
fn ubuntu_and_mint() {
    let release = "PRETTY_NAME=\"Ubuntu 24.04.1 LTS\"\nNAME=\"Ubuntu\"\nVERSION_ID=\"24.04\"\nVERSION=\"24.04.1 LTS (Noble Numbat)\"\n\
                   VERSION_CODENAME=noble\nID=ubuntu\nID_LIKE=debian\n";
    let expected = r#"{"architecture": "amd64", "family": "Debian", "hardware": "x86_64", "name": "Ubuntu",
        "release": {"full": "24.04", "major": "24.04"},
        "distro": {"codename": "noble", "description": "Ubuntu 24.04.1 LTS", "id": "Ubuntu",
            "release": {"full": "24.04", "major": "24.04"}}}"#;
    assert_eq!(os_of(&[("/etc/os-release", release), ("/etc/debian_version", "trixie/sid\n")]), json(expected));
    let mint = "NAME=\"Linux Mint\"\nVERSION=\"21.2 (Victoria)\"\nID=linuxmint\nID_LIKE=\"ubuntu debian\"\n\
                PRETTY_NAME=\"Linux Mint 21.2\"\nVERSION_ID=\"21.2\"\nVERSION_CODENAME=victoria\n";
    let expected = r#"{"architecture": "amd64", "family": "Debian", "hardware": "x86_64", "name": "Linuxmint",
        "release": {"full": "21", "major": "21"},
        "distro": {"codename": "victoria", "description": "Linux Mint 21.2", "id": "Linuxmint",
            "release": {"full": "21.2", "major": "21.2"}}}"#;
    assert_eq!(os_of(&[("/etc/os-release", mint), ("/etc/linuxmint/info", "RELEASE=21.2\nCODENAME=victoria\n")]), json(expected));
}

#[test]
fn red_hat_and_rebuilds() {
    for (name, id, line, short, distributor, full, minor, codename) in [
        (
            "Red Hat Enterprise Linux",
            "rhel",
            "Red Hat Enterprise Linux release 9.4 (Plow)",
            "RedHat",
            "RedHatEnterprise",
            "9.4",
            Some("4"),
            Some("Plow"),
        ),
        (
            "AlmaLinux",
            "almalinux",
            "AlmaLinux release 9.4 (Seafoam Ocelot)",
            "AlmaLinux",
            "AlmaLinux",
            "9.4",
            Some("4"),
            Some("Seafoam Ocelot"),
        ),
        (
            "Rocky Linux",
            "rocky",
            "Rocky Linux release 8.10 (Green Obsidian)",
            "Rocky",
            "Rocky",
            "8.10",
            Some("10"),
            Some("Green Obsidian"),
        ),
        ("CentOS Stream", "centos", "CentOS Stream release 9", "CentOS", "CentOSStream", "9", None, None),
        (
            "CentOS Linux",
            "centos",
            "CentOS Linux release 7.9.2009 (Core)",
            "CentOS",
            "CentOS",
            "7.9.2009",
            Some("9"),
            Some("Core"),
        ),
        ("Fedora Linux", "fedora", "Fedora release 40 (Forty)", "Fedora", "Fedora", "40", None, Some("Forty")),
    ] {
        let release = format!("NAME=\"{name}\"\nID=\"{id}\"\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=\"9.9\"\n");
        let os = os_of(&[("/etc/os-release", &release), ("/etc/redhat-release", &format!("{line}\n"))]);
        let Value::Hash(os) = os else { panic!("not a hash") };
        let major = full.split('.').next().unwrap();
        let release = known([("full", text(full)), ("major", text(major)), ("minor", minor.and_then(text))]);
        let distro = known([
            ("codename", codename.and_then(text)),
            ("description", text(line)),
            ("id", text(distributor)),
            ("release", hash(release.clone())),
        ]);
        let expected = known([
            ("architecture", text("x86_64")),
            ("distro", hash(distro)),
            ("family", text("RedHat")),
            ("hardware", text("x86_64")),
            ("name", text(short)),
            ("release", hash(release)),
        ]);
        assert_eq!(os, expected, "{line}");
    }
}

#[test]
fn oracle_and_amazon() {
    let oracle = "NAME=\"Oracle Linux Server\"\nVERSION=\"8.9\"\nID=\"ol\"\nID_LIKE=\"fedora\"\nVERSION_ID=\"8.9\"\nPRETTY_NAME=\"Oracle Linux Server 8.9\"\n";
    let expected = r#"{"architecture": "x86_64", "family": "RedHat", "hardware": "x86_64", "name": "OracleLinux",
        "release": {"full": "8.9", "major": "8", "minor": "9"},
        "distro": {"codename": "Ootpa", "description": "Oracle Linux Server 8.9", "id": "Ol", "release": {"full": "8.9", "major": "8", "minor": "9"}}}"#;
    let files = [
        ("/etc/os-release", oracle),
        ("/etc/redhat-release", "Red Hat Enterprise Linux release 8.9 (Ootpa)\n"),
        ("/etc/oracle-release", "Oracle Linux Server release 8.9\n"),
    ];
    assert_eq!(os_of(&files), json(expected));
    let amazon = "NAME=\"Amazon Linux\"\nVERSION=\"2\"\nID=\"amzn\"\nID_LIKE=\"centos rhel fedora\"\nVERSION_ID=\"2\"\n";
    let expected = r#"{"architecture": "x86_64", "family": "RedHat", "hardware": "x86_64", "name": "Amazon",
        "release": {"full": "2", "major": "2"},
        "distro": {"codename": "Karoo", "description": "Amazon Linux release 2 (Karoo)", "id": "Amazon", "release": {"full": "2", "major": "2"}}}"#;
    let files = [("/etc/os-release", amazon), ("/etc/system-release", "Amazon Linux release 2 (Karoo)\n")];
    assert_eq!(os_of(&files), json(expected));
}

#[test]
fn suse() {
    let sles = "NAME=\"SLES\"\nVERSION=\"15-SP5\"\nVERSION_ID=\"15.5\"\nPRETTY_NAME=\"SUSE Linux Enterprise Server 15 SP5\"\nID=\"sles\"\nID_LIKE=\"suse\"\n";
    let expected = r#"{"architecture": "x86_64", "family": "Suse", "hardware": "x86_64", "name": "SLES",
        "release": {"full": "15.5", "major": "15", "minor": "5"},
        "distro": {"codename": "n/a", "description": "SUSE Linux Enterprise Server 15 SP5", "id": "SUSE",
            "release": {"full": "15.5", "major": "15", "minor": "5"}}}"#;
    assert_eq!(os_of(&[("/etc/os-release", sles)]), json(expected));
    let leap = "NAME=\"openSUSE Leap\"\nVERSION=\"15.6\"\nID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"\nVERSION_ID=\"15.6\"\nPRETTY_NAME=\"openSUSE Leap 15.6\"\n";
    let Value::Hash(leap) = os_of(&[("/etc/os-release", leap)]) else { panic!("not a hash") };
    assert_eq!((&leap["name"], &leap["family"]), (&"openSUSE".into(), &"Suse".into()));
    let first = "NAME=\"SLES\"\nVERSION_ID=\"15\"\nID=\"sles\"\n";
    let Value::Hash(first) = os_of(&[("/etc/os-release", first)]) else { panic!("not a hash") };
    assert_eq!(first["release"], json(r#"{"full": "15.0", "major": "15", "minor": "0"}"#));
}

#[test]
fn arch_alpine_gentoo_and_others() {
    let arch = "NAME=\"Arch Linux\"\nPRETTY_NAME=\"Arch Linux\"\nID=arch\nBUILD_ID=rolling\n";
    let expected = r#"{"architecture": "x86_64", "family": "Archlinux", "hardware": "x86_64", "name": "Archlinux",
        "release": {"full": "6.9.7-arch1-1", "major": "6", "minor": "9"}}"#;
    assert_eq!(os_of(&[("/etc/os-release", arch), ("/etc/arch-release", "")]), json(expected));
    let alpine = "NAME=\"Alpine Linux\"\nID=alpine\nVERSION_ID=3.20.1\nPRETTY_NAME=\"Alpine Linux v3.20\"\n";
    let expected = r#"{"architecture": "x86_64", "family": "Alpine", "hardware": "x86_64", "name": "Alpine",
        "release": {"full": "3.20.1", "major": "3", "minor": "20"}}"#;
    assert_eq!(os_of(&[("/etc/os-release", alpine), ("/etc/alpine-release", "3.20.1\n")]), json(expected));
    let gentoo = "NAME=Gentoo\nID=gentoo\nPRETTY_NAME=\"Gentoo Linux\"\nVERSION_ID=\"2.15\"\n";
    let expected = r#"{"architecture": "x86_64", "family": "Gentoo", "hardware": "x86_64", "name": "Gentoo",
        "release": {"full": "2.14", "major": "2", "minor": "14"}}"#;
    assert_eq!(
        os_of(&[("/etc/os-release", gentoo), ("/etc/gentoo-release", "Gentoo Base System release 2.14\n")]),
        json(expected)
    );
    let other = "NAME='Own \"Linux\"'\n# a comment\nID=own\nVERSION_ID=7\n";
    let expected = r#"{"architecture": "x86_64", "family": "Own", "hardware": "x86_64", "name": "Own", "release": {"full": "7.0", "major": "7.0"}}"#;
    assert_eq!(os_of(&[("/usr/lib/os-release", other)]), json(expected));
    assert_eq!(os_of(&[]), json(r#"{"architecture": "x86_64", "hardware": "x86_64"}"#));
}

#[test]
fn selinux_of_every_mode() {
    let mounts = ("/proc/self/mounts", "selinuxfs /sys/fs/selinux selinuxfs rw,relatime 0 0\n");
    let config = ("/etc/selinux/config", "# SELINUX= can be\nSELINUX=enforcing\nSELINUXTYPE=targeted\n");
    for (enforce, mode, is_enforced) in [("1", "enforcing", true), ("0", "permissive", false)] {
        let files = [mounts, config, ("/sys/fs/selinux/enforce", enforce), ("/sys/fs/selinux/policyvers", "33")];
        let Value::Hash(os) = os_of(&files) else { panic!("not a hash") };
        let expected = known([
            ("config_mode", text("enforcing")),
            ("config_policy", text("targeted")),
            ("current_mode", text(mode)),
            ("enabled", Some(true.into())),
            ("enforced", Some(is_enforced.into())),
            ("policy_version", text("33")),
        ]);
        assert_eq!(os["selinux"], Value::Hash(expected));
    }
    let Value::Hash(os) = os_of(&[("/proc/self/mounts", "")]) else { panic!("not a hash") };
    assert_eq!(os["selinux"], json(r#"{"enabled": false}"#));
}

#[test]
fn architectures() {
    for (machine, debian, red_hat) in [("x86_64", "amd64", "x86_64"), ("i686", "i386", "i386"), ("aarch64", "aarch64", "aarch64")]
    {
        assert_eq!(architecture(Distribution::Ubuntu, machine), debian);
        assert_eq!(architecture(Distribution::RedHat, machine), red_hat);
    }
}
