//! Every limit on what a peer may send, in one place; checked before bytes are read or memory is taken.

/// Longest check-in, refusal, acceptance: small messages.
pub const MAX_SMALL_MESSAGE_BYTES: u64 = 64 * 1024;
/// Longest facts message: the payload soft limit of Puppet (16 MiB), made hard.
pub const MAX_FACTS_BYTES: u64 = 16 * 1024 * 1024;
/// Longest catalog: room for about a million files.
pub const MAX_CATALOG_BYTES: u64 = 256 * 1024 * 1024;
/// Longest fetch request: room for a million digests of 35 bytes.
pub const MAX_FETCH_REQUEST_BYTES: u64 = 40 * 1024 * 1024;
/// Longest question and answer of a replica about what is live: room for 2,000 environments with the longest messages that are published.
pub const MAX_SYNC_CONFIRM_BYTES: u64 = 16 * 1024 * 1024;
/// Longest manifest on its way to a replica: room for some million files.
pub const MAX_MANIFEST_BYTES: u64 = 512 * 1024 * 1024;
/// Longest report: room for a change to each of 100,000 files.
pub const MAX_REPORT_BYTES: u64 = 64 * 1024 * 1024;
/// Longest header in front of a blob in a fetch reply.
pub const MAX_FETCH_HEADER_BYTES: u32 = 1024;
/// Longest frame on a Unix socket; longer bodies travel in several.
pub const MAX_FRAME_BYTES: u32 = 1024 * 1024;
/// Deepest nesting in any message.
pub const MAX_DEPTH: usize = 64;
