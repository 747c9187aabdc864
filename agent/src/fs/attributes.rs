//! Owner and mode to be set.

/// Owner and permissions; `None` leaves what is there, or what a new object gets by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permissions within `0o7777`.
    pub mode: Option<u32>,
    /// User id.
    pub uid: Option<u32>,
    /// Group id.
    pub gid: Option<u32>,
}
