//! Lines of `/etc/fstab`, and the list of what is mounted.

use crate::mount_table::unescaped;

/// One file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) device: String,
    /// Where it is mounted, without slashes at the end.
    pub(super) name: String,
    pub(super) fstype: Option<String>,
    pub(super) options: Option<String>,
    pub(super) dump: Option<String>,
    /// With everything that follows it.
    pub(super) pass: Option<String>,
}

/// Returns a mount point as it is compared: without slashes at the end.
pub(super) fn clean(name: &str) -> &str {
    match name.trim_end_matches('/') {
        "" => &name[..name.len().min(1)],
        name => name,
    }
}

/// Reads a line; `None` when it is no entry.
pub(super) fn parse(line: &str) -> Option<Entry> {
    let line = line.trim();
    if line.starts_with('#') {
        return None;
    }
    let mut words = line.split_whitespace();
    let (device, name) = (words.next()?, words.next()?);
    let mut word = || words.next().map(str::to_owned);
    let (fstype, options, dump) = (word(), word(), word());
    let pass = words.collect::<Vec<_>>().join("\t");
    Some(Entry {
        device: device.replace("\\040", " "),
        name: clean(&name.replace("\\040", " ")).to_owned(),
        fstype,
        options,
        dump,
        pass: Some(pass).filter(|pass| !pass.is_empty()),
    })
}

/// Writes an entry as a line. Fields that are not there are so only at the end.
pub(super) fn print(entry: &Entry) -> String {
    let mut fields = vec![entry.device.replace(' ', "\\040"), entry.name.replace(' ', "\\040")];
    let last = [(&entry.fstype, "auto"), (&entry.options, "defaults"), (&entry.dump, "0"), (&entry.pass, "0")];
    let given = last.iter().rposition(|(field, _)| field.is_some()).map_or(0, |at| at + 1);
    fields.extend(last[..given].iter().map(|(field, default)| field.as_deref().unwrap_or(default).to_owned()));
    fields.join("\t")
}

/// Returns the mount points that `/proc/self/mountinfo` lists.
pub(super) fn mounted(mountinfo: &[u8]) -> Vec<Vec<u8>> {
    let lines = mountinfo.split(|&byte| byte == b'\n');
    lines.filter_map(|line| line.split(|&byte| byte == b' ').nth(4)).map(unescaped).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines() {
        let entry = parse(" /dev/x\\040y  /mnt/a\\040b// ext4 rw 0 1 # c").unwrap();
        assert_eq!(
            (entry.device.as_str(), entry.name.as_str(), entry.pass.as_deref()),
            ("/dev/x y", "/mnt/a b", Some("1\t#\tc"))
        );
        assert_eq!(print(&entry), "/dev/x\\040y\t/mnt/a\\040b\text4\trw\t0\t1\t#\tc");
        assert_eq!(print(&parse("proc /proc").unwrap()), "proc\t/proc");
        assert_eq!(parse("/dev/a / ext4").unwrap().name, "/");
        for line in ["", "# a b c", "short"] {
            assert_eq!(parse(line), None, "{line}");
        }
        assert_eq!(
            mounted(b"22 1 0:21 / /mnt/a\\040b rw - tmpfs tmpfs rw\n\nbad\n23 1 0:21 / / rw -\n"),
            [&b"/mnt/a b"[..], b"/"]
        );
        assert_eq!((clean("/"), clean("//"), clean("/a//"), clean("none")), ("/", "/", "/a", "none"));
    }

    proptest! {
        #[test]
        fn entries_are_read_as_they_are_written(
            device in "[a-z/][a-z0-9 /]{0,8}[a-z]", name in "/[a-z ]{0,5}[a-z]", count in 0usize..5, field in "[a-z0-9,=]{1,6}",
        ) {
            let field = |at: usize| (at < count).then(|| field.clone());
            let entry = Entry { device, name, fstype: field(0), options: field(1), dump: field(2), pass: field(3) };
            prop_assert_eq!(parse(&print(&entry)), Some(entry));
        }

        #[test]
        fn any_line_is_read(line in "\\PC{0,60}", bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _entry = parse(&line);
            let _mounted = mounted(&bytes);
        }
    }
}
