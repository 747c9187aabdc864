//! `processors`: `/proc/cpuinfo` and the topology in `/sys`.

use std::collections::BTreeSet;

use direct_puppet_transport::protocol::Value;

use super::tree::Tree;
use super::{array, count, hash, known, text, units};

/// Levels of the x86-64 psABI (§3.1.1), each beside the flags that it adds, in the kernel's words.
const LEVELS: [(&str, &[&str]); 4] = [
    ("x86_64-v1", &["cmov", "cx8", "fpu", "fxsr", "lm", "mmx", "syscall", "sse2"]),
    ("x86_64-v2", &["cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"]),
    ("x86_64-v3", &["abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"]),
    ("x86_64-v4", &["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]),
];

pub(super) fn processors(tree: &Tree, machine: &str) -> Option<Value> {
    let cpuinfo = Cpuinfo::parse(&tree.read("/proc/cpuinfo").unwrap_or_default());
    let topology = Topology::read(tree);
    let packages = if cpuinfo.packages.is_empty() { topology.packages } else { cpuinfo.packages.len() };
    let per =
        |whole: usize, part: usize| whole.checked_div(part).filter(|&number| number > 0).and_then(|number| count(number as u64));
    hash(known([
        ("cores", per(topology.cores, topology.packages)),
        ("count", per(cpuinfo.count, 1)),
        ("extensions", array(extensions(machine, &cpuinfo.flags).into_iter().map(Value::from))),
        ("isa", text(machine)),
        ("models", array(cpuinfo.models.into_iter().map(Value::from))),
        ("physicalcount", per(packages, 1)),
        ("speed", cpuinfo.megahertz.and_then(|megahertz| units::hertz(megahertz.checked_mul(1_000_000)?)).and_then(text)),
        ("threads", per(topology.threads_per_core, 1)),
    ]))
}

/// What `/proc/cpuinfo` tells.
#[derive(Debug, Default)]
struct Cpuinfo {
    count: usize,
    models: Vec<String>,
    packages: BTreeSet<String>,
    megahertz: Option<u64>,
    flags: BTreeSet<String>,
}

impl Cpuinfo {
    fn parse(text: &str) -> Self {
        let mut this = Self::default();
        for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            match name.trim() {
                "processor" => this.count += 1,
                "model name" | "cpu" => this.models.push(value.to_owned()),
                "physical id" => this.packages.extend([value.to_owned()]),
                // Of the last processor, as Facter; "clock" is what PowerPC calls it.
                "cpu MHz" | "clock" => this.megahertz = leading_number(value),
                "flags" if this.flags.is_empty() => this.flags = value.split_whitespace().map(str::to_owned).collect(),
                _ => {}
            }
        }
        this
    }
}

fn leading_number(text: &str) -> Option<u64> {
    text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// How processors share cores and packages.
#[derive(Debug, Default)]
struct Topology {
    packages: usize,
    cores: usize,
    threads_per_core: usize,
}

impl Topology {
    fn read(tree: &Tree) -> Self {
        let directory = "/sys/devices/system/cpu";
        let is_processor = |name: &str| name.strip_prefix("cpu").is_some_and(|number| number.parse::<u32>().is_ok());
        let (mut packages, mut cores, mut threads_per_core) = (BTreeSet::new(), BTreeSet::new(), 0);
        for processor in tree.list(directory).iter().filter(|name| is_processor(name)) {
            let line = |name: &str| tree.line(&format!("{directory}/{processor}/topology/{name}"));
            let Some(siblings) = line("thread_siblings_list") else { continue };
            threads_per_core = threads_per_core.max(list_length(&siblings));
            cores.insert(siblings);
            packages.extend(line("physical_package_id"));
        }
        Self { packages: packages.len(), cores: cores.len(), threads_per_core }
    }
}

/// Counts the processors in a list as the kernel writes it: `0-3,8`.
fn list_length(list: &str) -> usize {
    let length = |range: &str| match range.split_once('-') {
        None => Some(1),
        Some((first, last)) => (last.parse::<usize>().ok()? + 1).checked_sub(first.parse().ok()?),
    };
    list.split(',').filter_map(length).sum()
}

/// Returns the instruction set and the levels of it that the processors have.
fn extensions(machine: &str, flags: &BTreeSet<String>) -> Vec<String> {
    let has = |needed: &[&str]| machine == "x86_64" && needed.iter().all(|flag| flags.contains(*flag));
    let levels = LEVELS.iter().filter(|(_, needed)| has(needed)).map(|(level, _)| *level);
    [machine].into_iter().filter(|machine| !machine.is_empty()).chain(levels).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::testing::{Scratch, json};

    #[test]
    fn two_packages_of_two_cores_of_two_threads() {
        let mut cpuinfo = String::new();
        let scratch = Scratch::new(&[]);
        for cpu in 0..8 {
            let (package, core) = (cpu % 2, cpu % 4);
            cpuinfo += &format!(
                "processor\t: {cpu}\nmodel name\t: Intel(R) Xeon(R) CPU: E5\ncpu MHz\t\t: 2599.998\nphysical id\t: {package}\n\
                 flags\t\t: fpu cx8 cmov mmx fxsr sse2 syscall lm ssse3 cx16 sse4_1 sse4_2 popcnt lahf_lm avx\n\n"
            );
            let topology = format!("/sys/devices/system/cpu/cpu{cpu}/topology");
            scratch.write(&format!("{topology}/thread_siblings_list"), &format!("{core},{}\n", core + 4));
            scratch.write(&format!("{topology}/physical_package_id"), &format!("{package}\n"));
        }
        scratch.make_dir("/sys/devices/system/cpu/cpufreq");
        scratch.write("/proc/cpuinfo", &cpuinfo);
        let Value::Hash(mut facts) = processors(&scratch.tree(), "x86_64").unwrap() else { panic!("not a hash") };
        assert_eq!(facts.remove("models"), array(vec![Value::from("Intel(R) Xeon(R) CPU: E5"); 8]));
        let expected = r#"{"cores": 2, "count": 8, "extensions": ["x86_64", "x86_64-v1", "x86_64-v2"], "isa": "x86_64", "physicalcount": 2,
            "speed": "2.60 GHz", "threads": 2}"#;
        assert_eq!(Value::Hash(facts), json(expected));
    }

    #[test]
    fn arm_tells_less() {
        let scratch = Scratch::new(&[
            ("/proc/cpuinfo", "processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd\n\nprocessor\t: 1\n"),
            ("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list", "0\n"),
            ("/sys/devices/system/cpu/cpu0/topology/physical_package_id", "0\n"),
            ("/sys/devices/system/cpu/cpu1/topology/thread_siblings_list", "1\n"),
            ("/sys/devices/system/cpu/cpu1/topology/physical_package_id", "0\n"),
        ]);
        let expected =
            r#"{"cores": 2, "count": 2, "extensions": ["aarch64"], "isa": "aarch64", "physicalcount": 1, "threads": 1}"#;
        assert_eq!(processors(&scratch.tree(), "aarch64"), Some(json(expected)));
    }

    #[test]
    fn lists_of_processors() {
        for (list, length) in [("0", 1), ("0-3", 4), ("0-1,8-9", 4), ("0,4", 2), ("3-1", 0), ("x", 1)] {
            assert_eq!(list_length(list), length, "{list}");
        }
    }
}
