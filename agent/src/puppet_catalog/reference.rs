//! References in the one spelling that titles and edges share.

use direct_puppet_transport::protocol::ResourceRef;

/// Parses `Type[title]`; types, and the titles of classes, are capitalised segment by segment, as Puppet does.
pub(super) fn parse(text: &str) -> Option<ResourceRef> {
    let (resource_type, title) = text.split_once('[')?;
    let title = title.strip_suffix(']').filter(|title| !title.is_empty())?;
    of(resource_type, title)
}

/// Returns the reference to a resource of this type and title; `None` when the type is none.
pub(super) fn of(resource_type: &str, title: &str) -> Option<ResourceRef> {
    let segment = |segment: &str| {
        segment.starts_with(|first: char| first.is_ascii_uppercase())
            && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if title.is_empty() {
        return None;
    }
    let resource_type = match resource_type.strip_prefix("::").unwrap_or(resource_type) {
        simple if segment(simple) => simple.to_owned(),
        resource_type => Some(capitalised(resource_type)).filter(|name| name.split("::").all(segment))?,
    };
    // The top class has no name of its own.
    let title = match resource_type.as_str() {
        "Class" if title != "main" => capitalised(title.strip_prefix("::").unwrap_or(title)),
        _ => title.to_owned(),
    };
    Some(ResourceRef { resource_type, title })
}

fn capitalised(name: &str) -> String {
    let segment = |segment: &str| {
        let mut letters = segment.chars();
        letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect::<String>()
    };
    name.split("::").map(segment).collect::<Vec<_>>().join("::")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings() {
        for (text, canonical) in [
            ("File[/a[b]]", "File[/a[b]]"),
            ("foo::bar[x]", "Foo::Bar[x]"),
            ("Class[foo::bar]", "Class[Foo::Bar]"),
            ("Class[::foo]", "Class[Foo]"),
            ("Class[main]", "Class[main]"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), canonical);
        }
        for text in ["", "File", "File[]", "[x]", "File[x", "Fi le[x]", "::[x]"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
