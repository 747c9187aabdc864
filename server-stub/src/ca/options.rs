//! What an authority allows.

use std::sync::Arc;

use time::OffsetDateTime;

use super::Autosign;

/// How long certificates are valid unless told otherwise; as Puppet.
pub const DEFAULT_TTL: std::time::Duration = std::time::Duration::from_secs(5 * 365 * 86_400);

/// Tells the time; of a test, its own.
pub type Clock = Arc<dyn Fn() -> OffsetDateTime + Send + Sync>;

/// What an authority allows.
#[derive(Clone)]
pub struct CaOptions {
    /// Which requests are signed at once. Default: none.
    pub autosign: Autosign,
    /// Whether requests may ask for alternative names. Default: no.
    pub allow_subject_alt_names: bool,
    /// Whether requests may ask for authorization extensions, `pp_cli_auth` excepted. Default: no.
    pub allow_authorization_extensions: bool,
    /// Whether a request replaces a certificate or a request of the same name. Default: no.
    pub allow_duplicate_certs: bool,
    /// How long certificates are valid, at most as long as the authority. Default: five years.
    pub ttl: std::time::Duration,
    /// How many requests may wait. Default: 10,000.
    pub max_waiting: usize,
    /// The clock. Default: this machine's.
    pub clock: Clock,
}

impl Default for CaOptions {
    fn default() -> Self {
        Self {
            autosign: Autosign::Nobody,
            allow_subject_alt_names: false,
            allow_authorization_extensions: false,
            allow_duplicate_certs: false,
            ttl: DEFAULT_TTL,
            max_waiting: 10_000,
            clock: Arc::new(OffsetDateTime::now_utc),
        }
    }
}

impl std::fmt::Debug for CaOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CaOptions").field("autosign", &self.autosign).field("ttl", &self.ttl).finish_non_exhaustive()
    }
}
