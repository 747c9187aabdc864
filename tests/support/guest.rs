//! A virtual machine that runs one program: for what the limits of this machine do not allow.
//!
//! It is user-mode Linux: a kernel that is a program, needs nothing of the machine's own, and runs other programs at full speed, only their
//! system calls slower. Its initial file system (cpio "newc", `Documentation/driver-api/early-userspace/buffer-format.rst` of the kernel) holds
//! the program, our two, and busybox. Nothing of this machine is visible in it, and nothing of it stays.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "for tests")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::binaries::binaries;

const KERNEL: &str = "linux.uml";
const BUSYBOX: &str = "/bin/busybox";

/// What a machine says that runs.
const UP: &str = "the machine is up";

/// What is done first in the machine. The program may open a million files, which a machine's root may allow itself.
const INIT: &str = "#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
$b mount -t tmpfs -o size=90% tmp /tmp
$b ip link set lo up
echo \"the machine is up\" >/dev/console
ulimit -n 1000000
cd /tmp
export PROGRAMS=/programs
/programs/program \"$@\" </dev/null >/dev/console 2>&1
echo \"the program ended with $?\" >/dev/console
$b poweroff -f
";

/// What a virtual machine is made of is here.
#[derive(Debug)]
pub struct Guest(());

impl Guest {
    /// Finds what it needs.
    ///
    /// # Errors
    ///
    /// What is missing.
    pub fn find() -> Result<Self, String> {
        if Command::new(KERNEL).arg("--version").output().is_err() {
            return Err(format!("{KERNEL} (Debian package user-mode-linux)"));
        }
        if !Path::new(BUSYBOX).exists() {
            return Err(format!("{BUSYBOX} (Debian package busybox-static)"));
        }
        Ok(Self(()))
    }

    /// Runs a program with arguments and environment, on one processor, and returns what it printed. What it links to comes along.
    ///
    /// # Errors
    ///
    /// When the machine does not come up: what it said.
    pub fn run(
        &self,
        program: &Path,
        arguments: &[&str],
        environment: &[(&str, &str)],
        memory_mib: u32,
    ) -> Result<String, String> {
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
        let mut machine = Command::new(KERNEL);
        machine.arg(format!("initrd={}", image.display())).arg(format!("mem={memory_mib}M"));
        machine.args(["con=null", "con0=null,fd:1", "quiet"]).args(&words);
        // Its memory is a file, in memory where there is room.
        let room = rustix::fs::statvfs("/dev/shm").map_or(0, |found| found.f_bavail.saturating_mul(found.f_frsize));
        machine.env("TMPDIR", if room >= u64::from(memory_mib) << 20 { Path::new("/dev/shm") } else { dir.path() });
        if let Some(library) = registers(dir.path()) {
            machine.env("LD_PRELOAD", library);
        }
        let output = machine.stdin(Stdio::null()).stderr(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).replace('\r', "");
        if said.contains(UP) { Ok(said) } else { Err(format!("{machine:?}: {}: {said}", output.status)) }
    }
}

/// Makes the library without which the kernel ends at once on some processors. Without a C compiler it does as it can.
fn registers(dir: &Path) -> Option<PathBuf> {
    let (source, library) = (dir.join("registers.c"), dir.join("registers.so"));
    fs::write(&source, include_str!("guest/registers.c")).unwrap();
    let options = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"];
    let compiled = Command::new("cc").args(options).arg(&library).arg(&source).arg("-ldl").status();
    compiled.is_ok_and(|status| status.success()).then_some(library)
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
