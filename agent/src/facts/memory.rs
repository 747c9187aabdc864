//! `memory`: what `/proc/meminfo` says.

use direct_puppet_transport::protocol::Value;

use super::{count, hash, known, text, units};

/// Reads the format of `/proc/meminfo`.
pub(super) fn memory(meminfo: &str) -> Option<Value> {
    let bytes = |wanted: &str| {
        let (_, rest) = meminfo.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| *name == wanted)?;
        rest.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    };
    // Kernels before 3.14 do not say what is available.
    let available = bytes("MemAvailable").or_else(|| Some(bytes("MemFree")? + bytes("Buffers")? + bytes("Cached")?));
    let swap = bytes("SwapTotal").filter(|&total| total > 0);
    hash(known([
        ("system", bytes("MemTotal").zip(available).and_then(|(total, available)| area(total, available))),
        ("swap", swap.zip(bytes("SwapFree")).and_then(|(total, free)| area(total, free))),
    ]))
}

fn area(total: u64, available: u64) -> Option<Value> {
    let used = total.checked_sub(available)?;
    hash(known([
        ("available", text(units::bytes(available))),
        ("available_bytes", count(available)),
        ("capacity", text(units::share(used, total))),
        ("total", text(units::bytes(total))),
        ("total_bytes", count(total)),
        ("used", text(units::bytes(used))),
        ("used_bytes", count(used)),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::testing::json;

    #[test]
    fn memory_and_swap_as_facter_writes_them() {
        let meminfo = "MemTotal:       24684084 kB\nMemFree:         1000000 kB\nMemAvailable:   23657468 kB\nBuffers: 1 kB\n\
                       SwapTotal:       2097148 kB\nSwapFree:        2096124 kB\n";
        let expected = r#"{
            "system": {"available": "22.56 GiB", "available_bytes": 24225247232, "capacity": "4.16%", "total": "23.54 GiB",
                "total_bytes": 25276502016, "used": "1002.55 MiB", "used_bytes": 1051254784},
            "swap": {"available": "2.00 GiB", "available_bytes": 2146430976, "capacity": "0.05%", "total": "2.00 GiB",
                "total_bytes": 2147479552, "used": "1.00 MiB", "used_bytes": 1048576}
        }"#;
        assert_eq!(memory(meminfo), Some(json(expected)));
    }

    #[test]
    fn what_is_not_there_is_left_out() {
        assert_eq!(memory(""), None);
        let old =
            memory("MemTotal: 100 kB\nMemFree: 10 kB\nBuffers: 20 kB\nCached: 30 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n").unwrap();
        let Value::Hash(old) = old else { panic!("not a hash") };
        assert_eq!(old.keys().collect::<Vec<_>>(), ["system"]);
        let Value::Hash(system) = &old["system"] else { panic!("not a hash") };
        assert_eq!(system["available_bytes"], Value::Integer(60 * 1024));
    }
}
