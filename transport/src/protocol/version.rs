//! Which protocol the two ends speak.

use serde::{Deserialize, Serialize};

/// A version of the protocol; peers agree when the major numbers are the same.
///
/// Fields, features and refusal codes are added without a new version: readers pass over what they do not know. A field that is added may be left out; any other
/// kind of answer, or of record in a stream, is only for who says by a feature or a field of the request that he knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProtocolVersion(pub u16);

impl ProtocolVersion {
    /// The version that this crate speaks.
    pub const CURRENT: Self = Self(1);

    /// Returns whether a peer that speaks `self` can be answered.
    #[must_use]
    pub const fn is_supported(self) -> bool {
        self.0 == Self::CURRENT.0
    }
}
