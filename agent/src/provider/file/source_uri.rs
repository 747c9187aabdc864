//! What `source` names.

use direct_puppet_transport::protocol::TreePath;

use super::read;

/// One entry of `source`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::provider) enum SourceUri {
    /// `puppet:///…`: only the compiler can tell whether it exists.
    Puppet(String),
    /// `/…` or `file:///…`: looked at below the managed root.
    Local(TreePath),
}

impl SourceUri {
    /// Parses an entry; the error says what it may be.
    pub(in crate::provider) fn parse(text: &str) -> Result<Self, String> {
        let text = match text.trim_end_matches('/') {
            "" if !text.is_empty() => "/",
            trimmed => trimmed,
        };
        let local = |path: &str| read::absolute_path(path).map(Self::Local);
        if let Some(path) = text.strip_prefix("file://") {
            let path = percent_decoded(path.strip_prefix("localhost").unwrap_or(path)).ok_or("has a % without two hex digits")?;
            return local(&path);
        }
        match text {
            path if path.starts_with('/') => local(path),
            uri if uri.starts_with("puppet://") => Ok(Self::Puppet(uri.to_owned())),
            uri if uri.starts_with("http://") || uri.starts_with("https://") => Err(format!(
                "{uri} is fetched over HTTP, which is not supported: publish the file in a module and use puppet:///modules/…"
            )),
            other => Err(format!("{other:?} must be an absolute path, puppet:///… or file:///…")),
        }
    }
}

/// Undoes `%XX` of a URI.
fn percent_decoded(text: &str) -> Option<String> {
    let bytes = direct_puppet_transport::protocol::path::unescape(text)?;
    String::from_utf8(bytes).ok()
}
