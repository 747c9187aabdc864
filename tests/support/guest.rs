//! A virtual machine that runs one program: for what the limits of this machine do not allow.
//!
//! It boots a kernel of Debian's with an initial file system (cpio "newc", `Documentation/driver-api/early-userspace/buffer-format.rst` of
//! the kernel) that holds the program, our two, and busybox. Nothing of this machine is visible in it, and nothing of it stays.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "for tests")]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::binaries::binaries;

const QEMU: &str = "qemu-system-x86_64";
/// In software: slow, and possible everywhere. `GUEST_ACCELERATOR=kvm` is fast, where it works, which it often does not inside another virtual
/// machine.
const SOFTWARE: &str = "tcg,thread=multi";
const BUSYBOX: &str = "/bin/busybox";

/// What is done first in the machine. The program may open a million files, which a machine's root may allow itself.
const INIT: &str = "#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
$b mount -t tmpfs -o size=90% tmp /tmp
$b ip link set lo up
ulimit -n 1000000
cd /tmp
export PROGRAMS=/programs
/programs/program \"$@\" </dev/null >/dev/ttyS0 2>&1
echo \"the program ended with $?\" >/dev/ttyS0
$b poweroff -f
";

/// What a virtual machine is made of.
#[derive(Debug)]
pub struct Guest {
    kernel: PathBuf,
    accelerator: OsString,
}

impl Guest {
    /// Finds what it needs: qemu, busybox, and a kernel that has its drivers built in.
    ///
    /// # Errors
    ///
    /// What is missing.
    #[expect(clippy::disallowed_methods, reason = "where the kernel is, and what runs it")]
    pub fn find() -> Result<Self, String> {
        if Command::new(QEMU).arg("--version").output().is_err() {
            return Err(format!("{QEMU} (Debian package qemu-system-x86)"));
        }
        if !Path::new(BUSYBOX).exists() {
            return Err(format!("{BUSYBOX} (Debian package busybox)"));
        }
        let installed = || {
            let names = fs::read_dir("/boot").ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            names.filter(|name| name.starts_with("vmlinuz-") && name.ends_with("-cloud-amd64")).max()
        };
        let named = std::env::var_os("GUEST_KERNEL").map(PathBuf::from);
        match named.or_else(|| Some(Path::new("/boot").join(installed()?))) {
            Some(kernel) if kernel.exists() => {
                let accelerator = std::env::var_os("GUEST_ACCELERATOR").unwrap_or_else(|| SOFTWARE.into());
                Ok(Self { kernel, accelerator })
            }
            _ => Err("a kernel (of Debian's package linux-image-cloud-amd64; GUEST_KERNEL says where it is)".to_owned()),
        }
    }

    /// Runs a program with arguments and environment, on two processors, and returns what it printed. What it links to comes along.
    #[must_use]
    pub fn run(&self, program: &Path, arguments: &[&str], environment: &[(&str, &str)], memory_mib: u32) -> String {
        // The kernel gives init a variable that it does not know itself, and as arguments what stands behind "--".
        let variables = environment.iter().map(|(name, value)| format!("{name}={value}"));
        let words: Vec<String> = variables.chain(["--".into()]).chain(arguments.iter().map(|word| (*word).into())).collect();
        assert!(words.iter().all(|word| !word.contains([' ', '"'])), "the kernel parts words at blanks: {words:?}");
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("initial");
        let mut archive = Archive::new(&image);
        for name in ["bin", "dev", "proc", "programs", "sys", "tmp"] {
            archive.directory(Path::new(name));
        }
        archive.file(Path::new("init"), INIT.as_bytes());
        let ours = binaries();
        let programs = [
            (Path::new(BUSYBOX), "bin/busybox"),
            (program, "programs/program"),
            (&ours.agent, "programs/direct-puppet"),
            (&ours.server, "programs/direct-puppet-server"),
        ];
        for (path, name) in programs {
            archive.file(Path::new(name), &fs::read(path).unwrap());
        }
        for library in programs.iter().flat_map(|(path, _)| libraries(path)).collect::<BTreeSet<_>>() {
            let below = library.strip_prefix("/").unwrap();
            let above: Vec<&Path> = below.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()).collect();
            above.into_iter().rev().for_each(|above| archive.directory(above));
            archive.file(below, &fs::read(&library).unwrap());
        }
        archive.end();
        let mut qemu = Command::new(QEMU);
        qemu.arg("-accel").arg(&self.accelerator).args(["-cpu", "max", "-smp", "2", "-m", &memory_mib.to_string()]);
        qemu.args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]);
        qemu.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&image);
        qemu.arg("-append").arg(format!("console=ttyS0 quiet panic=-1 {}", words.join(" ")));
        let output = qemu.stdin(Stdio::null()).stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "{qemu:?}: {}", output.status);
        String::from_utf8_lossy(&output.stdout).replace('\r', "")
    }
}

/// Returns the libraries that a program is linked to, with their loader.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

/// Writes an archive in the format that the kernel unpacks.
struct Archive {
    out: BufWriter<fs::File>,
    made: BTreeSet<PathBuf>,
}

impl Archive {
    fn new(path: &Path) -> Self {
        Self { out: BufWriter::new(fs::File::create(path).unwrap()), made: BTreeSet::new() }
    }

    fn directory(&mut self, path: &Path) {
        if self.made.insert(path.to_owned()) {
            self.add(path, 0o040_755, &[]).unwrap();
        }
    }

    fn file(&mut self, path: &Path, content: &[u8]) {
        self.add(path, 0o100_755, content).unwrap();
    }

    fn end(mut self) {
        self.add(Path::new("TRAILER!!!"), 0, &[]).unwrap();
        self.out.flush().unwrap();
    }

    fn add(&mut self, path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
        let name = path.to_str().unwrap();
        let number = |number: usize| u32::try_from(number).map_err(io::Error::other);
        // Inode, mode, owner, group, links, time, size, four devices, length of the name, checksum.
        let fields = [0, mode, 0, 0, 1, 0, number(content.len())?, 0, 0, 0, 0, number(name.len() + 1)?, 0];
        let head: String = fields.iter().map(|field| format!("{field:08X}")).collect();
        let mut head = format!("070701{head}{name}\0").into_bytes();
        head.resize(head.len().next_multiple_of(4), 0);
        self.out.write_all(&head)?;
        self.out.write_all(content)?;
        self.out.write_all(&[0; 3][..content.len().next_multiple_of(4) - content.len()])
    }
}
