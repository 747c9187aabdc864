//! Ranges of versions, and how Debian compares versions.

use std::cmp::Ordering;

/// How a version is related to that of a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A range as `>=1.0`, or `>1.0 <=2.0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Range {
    /// As the resource has it.
    pub(super) text: String,
    bounds: Vec<(Relation, String)>,
}

impl Range {
    /// Reads a range: one bound, or two of which both hold.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let relations =
            [(">=", Relation::GreaterOrEqual), ("<=", Relation::LessOrEqual), (">", Relation::Greater), ("<", Relation::Less)];
        let bound = |word: &str| {
            let (relation, version) =
                relations.iter().find_map(|(sign, relation)| Some((*relation, word.strip_prefix(sign)?)))?;
            let is_version =
                version.starts_with(|c: char| c.is_ascii_alphanumeric()) && !version.contains(['<', '>', '=', '|', ',']);
            is_version.then(|| (relation, version.to_owned()))
        };
        let bounds = text.split_whitespace().map(bound).collect::<Option<Vec<_>>>();
        let bounds = bounds.filter(|bounds| (1..=2).contains(&bounds.len()));
        let bounds = bounds.ok_or("must be a version, or a range as >=1.0 or >1.0 <=2.0: no others are supported")?;
        Ok(Self { text: text.to_owned(), bounds })
    }

    /// Returns whether a version is in it.
    pub(super) fn contains(&self, version: &str, compare: impl Fn(&str, &str) -> Ordering) -> bool {
        self.bounds.iter().all(|(relation, bound)| {
            let order = compare(version, bound);
            match relation {
                Relation::Less => order == Ordering::Less,
                Relation::LessOrEqual => order != Ordering::Greater,
                Relation::Greater => order == Ordering::Greater,
                Relation::GreaterOrEqual => order != Ordering::Less,
            }
        })
    }
}

/// Compares two versions as dpkg does (deb-version(7)): epoch, upstream version, revision.
pub(super) fn compare_debian(a: &str, b: &str) -> Ordering {
    let ((epoch_a, upstream_a, revision_a), (epoch_b, upstream_b, revision_b)) = (parts(a), parts(b));
    let epoch = |text: &str| text.parse::<u64>().unwrap_or_default();
    epoch(epoch_a)
        .cmp(&epoch(epoch_b))
        .then_with(|| compare_part(upstream_a, upstream_b))
        .then_with(|| compare_part(revision_a, revision_b))
}

fn parts(version: &str) -> (&str, &str, &str) {
    let (epoch, rest) = version.split_once(':').unwrap_or(("0", version));
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, "0"));
    (epoch, upstream, revision)
}

/// Compares by turns what is no digit, letters before others and a tilde before the end, and numbers.
fn compare_part(mut a: &str, mut b: &str) -> Ordering {
    let weight = |c: Option<u8>| match c {
        Some(b'~') => -1,
        None => 0,
        Some(c) if c.is_ascii_alphabetic() => i32::from(c),
        Some(c) => i32::from(c) + 256,
    };
    while !a.is_empty() || !b.is_empty() {
        let (text_a, text_b);
        (text_a, a) = cut(a, |c| !c.is_ascii_digit());
        (text_b, b) = cut(b, |c| !c.is_ascii_digit());
        for at in 0..text_a.len().max(text_b.len()) {
            let order = weight(text_a.as_bytes().get(at).copied()).cmp(&weight(text_b.as_bytes().get(at).copied()));
            if order != Ordering::Equal {
                return order;
            }
        }
        let (number_a, number_b);
        (number_a, a) = cut(a, |c| c.is_ascii_digit());
        (number_b, b) = cut(b, |c| c.is_ascii_digit());
        let (number_a, number_b) = (number_a.trim_start_matches('0'), number_b.trim_start_matches('0'));
        let order = number_a.len().cmp(&number_b.len()).then_with(|| number_a.cmp(number_b));
        if order != Ordering::Equal {
            return order;
        }
    }
    Ordering::Equal
}

/// Splits off what begins a text and is of a kind.
fn cut(text: &str, is: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !is(c)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges() {
        let contains = |range: &str, version: &str| Range::parse(range).unwrap().contains(version, compare_debian);
        for (range, inside, outside) in [
            (">1.0", "1.1", "1.0"),
            (">=1.0", "1.0", "0.9"),
            ("<2.0", "2.0~rc1", "2.0"),
            ("<=2.0", "2.0", "2.0-1"),
            (">1.0  <=2.0", "1.5", "2.1"),
        ] {
            assert!(contains(range, inside) && !contains(range, outside), "{range}");
        }
        for text in ["", "1.0", "~1.0", ">=", ">1 <2 <3", ">1 2", "=1", "=>1", ">1||<0", ">1,<2", "* "] {
            assert!(Range::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn versions_are_compared_as_dpkg_does() {
        use Ordering::{Equal, Greater, Less};
        for (a, b, order) in [
            ("1.0", "1.0-0", Equal),
            ("1:0.1", "2.0", Greater),
            ("1.0~rc1", "1.0", Less),
            ("1.0~~", "1.0~", Less),
            ("1.10", "1.9", Greater),
            ("1.0+b1", "1.0", Greater),
            ("1.0a", "1.0+", Less),
            ("007", "7", Equal),
            ("1-2-3", "1-2-10", Less),
        ] {
            assert_eq!((compare_debian(a, b), compare_debian(b, a)), (order, order.reverse()), "{a} and {b}");
        }
    }

    #[test]
    fn the_real_dpkg_agrees() {
        if Command::new("dpkg").arg("--version").output().is_err() {
            println!("LEFT OUT: comparing with dpkg, which needs Debian");
            return;
        }
        let versions =
            ["1", "1.0", "1.0-1", "1.0~rc1-1", "1.0+dfsg", "1.0a", "1.00", "2:0.1", "1.0-1+deb12u1", "1.0-1~bpo", "10", "9z"];
        for (a, b) in versions.iter().flat_map(|a| versions.iter().map(move |b| (a, b))) {
            let is =
                |relation: &str| Command::new("dpkg").args(["--compare-versions", a, relation, b]).status().unwrap().success();
            let order = if is("lt") {
                Ordering::Less
            } else if is("eq") {
                Ordering::Equal
            } else {
                Ordering::Greater
            };
            assert_eq!(compare_debian(a, b), order, "{a} and {b}");
        }
    }

    proptest! {
        #[test]
        fn comparing_is_an_order(a in "[0-9a-z.~+:-]{0,8}", b in "[0-9a-zé.~+:-]{0,8}") {
            prop_assert_eq!(compare_debian(&a, &a), Ordering::Equal);
            prop_assert_eq!(compare_debian(&a, &b), compare_debian(&b, &a).reverse());
        }
    }
}
