//! Every limit on what a peer may send, in one place; checked before bytes are read or memory is taken.

/// Longest check-in, refusal, acceptance: small messages.
pub const MAX_SMALL_MESSAGE_BYTES: u64 = 64 * 1024;
/// Longest facts message: the payload soft limit of Puppet (16 MiB), made hard.
pub const MAX_FACTS_BYTES: u64 = 16 * 1024 * 1024;
/// Longest catalog: room for about a million files.
pub const MAX_CATALOG_BYTES: u64 = 256 * 1024 * 1024;
/// Longest catalog that travels packed, and that one is packed against; both ends hold both of them.
pub const MAX_PACKED_CATALOG_BYTES: u64 = 64 * 1024 * 1024;
/// How many times as long as its bytes on the way what comes out of a packed catalog may be, beside what it was packed against,
pub const MAX_UNPACKED_RATIO: u64 = 100;
/// when it is longer than this.
pub const MAX_UNPACKED_ANYWAY_BYTES: u64 = 1024 * 1024;
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
/// Most bytes of contents in one pack of a fetch reply, before and after packing; larger contents come in parts.
pub const MAX_PACK_BYTES: u64 = 1024 * 1024;
/// Most bytes of what the receiver has that one pack refers to.
pub const MAX_PACK_BASE_BYTES: u64 = 2 * 1024 * 1024;
/// Most contents in one pack.
pub const MAX_PACK_CONTENTS: u32 = 4096;
/// Most stretches of a content that are asked for at once, by their bytes or by how they are cut.
pub const MAX_PART_STRETCHES: usize = 16 * 1024;
/// Most bytes that these stretches may have in all, unless only a coarse cut is wanted; both ends hold the answer.
pub const MAX_PART_BYTES: u64 = 32 * 1024 * 1024;
/// Longest frame on a Unix socket; longer bodies travel in several.
pub const MAX_FRAME_BYTES: u32 = 1024 * 1024;
/// Deepest nesting in any message.
pub const MAX_DEPTH: usize = 64;
