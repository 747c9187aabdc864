//! `timezone`: the abbreviation that is in force now.

use tz::TimeZone;

use super::tree::Tree;

const ZONES: &str = "/usr/share/zoneinfo";

/// Follows tzset(3): `TZ` if it is set, else `/etc/localtime`, else UTC.
pub(super) fn timezone(tree: &Tree, tz: Option<&str>, unix_seconds: i64) -> Option<String> {
    let zone = zone(tree, tz)?;
    let name = match &zone {
        Some(zone) => zone.find_local_time_type(unix_seconds).ok()?.time_zone_designation(),
        None => "UTC",
    };
    (!name.is_empty()).then(|| name.to_owned())
}

/// Returns how many seconds local time is ahead of UTC; 0 where the zone is not known.
pub(super) fn utc_offset(tree: &Tree, tz: Option<&str>, unix_seconds: i64) -> i32 {
    let zone = zone(tree, tz).flatten();
    zone.and_then(|zone| Some(zone.find_local_time_type(unix_seconds).ok()?.ut_offset())).unwrap_or_default()
}

/// Returns the zone that is in force, `Some(None)` for UTC; `None` when it is not known.
fn zone(tree: &Tree, tz: Option<&str>) -> Option<Option<TimeZone>> {
    Some(match tz.map(|tz| tz.strip_prefix(':').unwrap_or(tz)) {
        Some("") => None,
        // What is neither a zone nor a rule stays unknown.
        Some(name) => Some(of_file(tree, name).or_else(|| TimeZone::from_posix_tz(name).ok())?),
        None => tree.read_bytes("/etc/localtime").and_then(|data| TimeZone::from_tz_data(&data).ok()),
    })
}

fn of_file(tree: &Tree, name: &str) -> Option<TimeZone> {
    let path = if name.starts_with('/') { name.to_owned() } else { format!("{ZONES}/{name}") };
    let leaves = name.split('/').any(|part| part == "..");
    let data = if leaves { None } else { tree.read_bytes(&path) };
    TimeZone::from_tz_data(&data?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::testing::Scratch;

    /// A file in the format of RFC 8536 that has one zone, `XYZ`, an hour east.
    fn xyz() -> Vec<u8> {
        let mut data = b"TZif\0".to_vec();
        data.extend([0; 15]);
        for count in [0_u32, 0, 0, 0, 1, 4] {
            data.extend(count.to_be_bytes());
        }
        data.extend(3600_u32.to_be_bytes());
        data.extend(b"\0\0XYZ\0");
        data
    }

    #[test]
    fn as_tzset() {
        let scratch = Scratch::new(&[("/usr/share/zoneinfo/Own/README", "no zone")]);
        let zone = |tz: Option<&str>| timezone(&scratch.tree(), tz, 1_700_000_000);
        assert_eq!(zone(None).as_deref(), Some("UTC"));
        std::fs::create_dir_all(scratch.path("/etc")).unwrap();
        for path in ["/etc/localtime", "/usr/share/zoneinfo/Own/Zone"] {
            std::fs::write(scratch.path(path), xyz()).unwrap();
        }
        for (tz, name) in [
            (None, Some("XYZ")),
            (Some("Own/Zone"), Some("XYZ")),
            (Some(":Own/Zone"), Some("XYZ")),
            (Some(""), Some("UTC")),
            (Some("CET-1CEST,M3.5.0,M10.5.0/3"), Some("CET")),
            (Some("Own/README"), None),
            (Some("../../etc/localtime"), None),
        ] {
            assert_eq!(zone(tz).as_deref(), name, "{tz:?}");
        }
        for (tz, offset) in [(None, 3600), (Some(""), 0), (Some("Own/README"), 0), (Some("EST5EDT"), -5 * 3600)] {
            assert_eq!(utc_offset(&scratch.tree(), tz, 1_700_000_000), offset, "{tz:?}");
        }
    }
}
