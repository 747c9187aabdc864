//! Whether contents travel packed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Whether contents and catalogs travel compressed, and against what the node has.
///
/// It costs the server about 2 ms of a core per MiB and both ends far less than a network of 1 Gbit/s takes; between two processes of one machine
/// it costs more than it saves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Compression {
    /// Unless the server is on this machine, as the transport says.
    #[default]
    Auto,
    /// Wherever the server is.
    Always,
    /// Never: every content as it is, asked for by digest.
    Never,
}

impl Compression {
    /// Returns whether to compress on the way to a server that is, or is not, on this machine.
    #[must_use]
    pub const fn is_on(self, is_local: bool) -> bool {
        match self {
            Self::Auto => !is_local,
            Self::Always => true,
            Self::Never => false,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Text that says nothing about compression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("compression {text:?} is not known: write auto, always or never")]
pub struct CompressionError {
    /// What was written.
    pub text: String,
}

impl FromStr for Compression {
    type Err = CompressionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = [Self::Auto, Self::Always, Self::Never];
        all.into_iter().find(|one| one.name() == text).ok_or_else(|| CompressionError { text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for one in [Compression::Auto, Compression::Always, Compression::Never] {
            assert_eq!(one.to_string().parse(), Ok(one));
        }
        assert_eq!("on".parse::<Compression>(), Err(CompressionError { text: "on".to_owned() }));
    }

    #[test]
    fn it_is_off_by_itself_on_one_machine_only() {
        for (compression, here, elsewhere) in
            [(Compression::Auto, false, true), (Compression::Always, true, true), (Compression::Never, false, false)]
        {
            assert_eq!((compression.is_on(true), compression.is_on(false)), (here, elsewhere));
        }
    }
}
