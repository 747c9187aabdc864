//! What `source` names.

use direct_puppet_transport::http_source::shown_url;
use direct_puppet_transport::protocol::TreePath;

use super::read;

/// One entry of `source`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::provider) enum SourceUri {
    /// `puppet:///…`: only the compiler can tell whether it exists.
    Puppet(String),
    /// `/…` or `file:///…`: looked at below the managed root.
    Local(TreePath),
    /// `http://…` or `https://…`: at a web server.
    Http(String),
}

impl SourceUri {
    /// Parses an entry; the error says what it may be.
    pub(in crate::provider) fn parse(text: &str) -> Result<Self, String> {
        let whole = text;
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
            url if is_http(whole) => match url.split_once("://") {
                Some((_, rest))
                    if !rest.starts_with(['/', '?', '#']) && !rest.is_empty() && !rest.contains(char::is_whitespace) =>
                {
                    Ok(Self::Http(url.to_owned()))
                }
                _ => Err(format!("{:?} names no file of a web server", shown_url(whole))),
            },
            // It may hold a password.
            url if url.contains("://") => {
                let scheme = url.split(':').next().unwrap_or_default();
                Err(format!("{scheme}://… must be an absolute path, puppet:///…, file:///…, http://… or https://…"))
            }
            other => Err(format!("{other:?} must be an absolute path, puppet:///…, file:///…, http://… or https://…")),
        }
    }
}

/// Returns whether a source is at a web server.
pub(in crate::provider) fn is_http(text: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)))
}

/// Undoes `%XX` of a URI.
fn percent_decoded(text: &str) -> Option<String> {
    let bytes = direct_puppet_transport::protocol::path::unescape(text)?;
    String::from_utf8(bytes).ok()
}
