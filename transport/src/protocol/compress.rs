//! Compression of what a [`Pack`](super::pack::Pack) holds: one zstd frame, in memory, against a prefix.
//!
//! Both ends hold no more than one pack, what it refers to and the tables of zstd (some MiB to compress, some hundred KiB to
//! decompress). What comes out is never longer than was said beforehand, whatever the frame claims.

use zstd_safe::{CCtx, CParameter, DCtx};

/// Measured on edits in large contents: 5 and 6 take five times the work for hardly fewer bytes, 1 takes the nearest match in text of
/// lines that are much alike, which costs ten times the bytes.
const LEVEL: i32 = 3;

/// Measured on edits in small contents, a hundred of them together: 3 takes 3 % more bytes, 7 no fewer for more work; without matches of long
/// distance both take the nearest match in lines that are much alike, which costs half as many again.
const ALIKE_LEVEL: i32 = 6;
/// Shortest match of long distance, in bytes: what lies between two edits of small contents is seldom shorter.
const ALIKE_MATCH_BYTES: u32 = 32;
/// One of so many positions is remembered for these, as a power of two: with fewer the matches that there are are missed.
const ALIKE_HASH_RATE: u32 = 4;

/// Why a frame could not be decompressed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecompressError {
    /// zstd says no: truncated, damaged, longer than announced, or made against something else.
    #[error("compressed bytes could not be read: {reason}")]
    Damaged {
        /// What zstd says.
        reason: &'static str,
    },
    /// It is shorter than was said.
    #[error("compressed bytes hold {actual} bytes, {expected} were announced")]
    Short {
        /// What came out, in bytes.
        actual: u64,
        /// What was announced, in bytes.
        expected: u64,
    },
}

/// Compresses `content` against `base`, which may be empty; `None` when the result would be no shorter.
///
/// # Blocking
///
/// Uses a core for about 2 ms per MiB.
#[must_use]
pub fn compress(content: &[u8], base: &[u8]) -> Option<Vec<u8>> {
    compress_by(&[CParameter::CompressionLevel(LEVEL)], content, base)
}

/// As [`compress`], for many small contents against as many that are nearly the same: looks farther for what stays the same, and harder for what
/// else is alike. With some thirty bytes edited in each of a hundred it takes six tenths of the bytes.
///
/// # Blocking
///
/// Uses a core for about 5 ms per MiB.
#[must_use]
pub fn compress_alike(content: &[u8], base: &[u8]) -> Option<Vec<u8>> {
    let parameters = [
        CParameter::CompressionLevel(ALIKE_LEVEL),
        CParameter::EnableLongDistanceMatching(true),
        CParameter::LdmMinMatch(ALIKE_MATCH_BYTES),
        CParameter::LdmHashRateLog(ALIKE_HASH_RATE),
    ];
    compress_by(&parameters, content, base)
}

fn compress_by(parameters: &[CParameter], content: &[u8], base: &[u8]) -> Option<Vec<u8>> {
    let mut context = CCtx::try_create()?;
    let bytes = content.len() + base.len();
    let table = table_log(bytes);
    let of_size = [CParameter::WindowLog(window_log(bytes)), CParameter::HashLog(table), CParameter::ChainLog(table - 1)];
    for parameter in parameters.iter().copied().chain(of_size) {
        context.set_parameter(parameter).ok()?;
    }
    if !base.is_empty() {
        context.ref_prefix(base).ok()?;
    }
    // No room for a result that is no shorter: zstd gives up then.
    let mut packed = Vec::with_capacity(content.len().saturating_sub(1));
    let length = context.compress2(&mut packed, content).ok()?;
    (length > 0 && length < content.len()).then_some(packed)
}

/// Returns how large zstd's tables are to be, as a power of two: with fewer entries than a third of the positions, those at the front are
/// forgotten before anything is compared with them. 16 MiB at the most.
fn table_log(bytes: usize) -> u32 {
    (bytes / 2).max(1).ilog2().clamp(16, 22)
}

/// Returns how far back zstd is to look, as a power of two: over all of it. By itself it looks back 2 MiB, and what comes after the first 2 MiB
/// would be compared with nothing of the base. It allocates nothing for that where both are in memory.
fn window_log(bytes: usize) -> u32 {
    bytes.max(1).next_power_of_two().ilog2().clamp(10, 30)
}

/// Returns how many bytes a frame says that it holds; `None` when it does not say, or is no frame.
#[must_use]
pub fn frame_content_bytes(packed: &[u8]) -> Option<u64> {
    zstd_safe::get_frame_content_size(packed).ok().flatten()
}

/// Decompresses a frame of exactly `size` bytes that was made against `base`.
///
/// # Errors
///
/// When the frame is damaged, not all of it, or does not hold exactly `size` bytes. Against another base the result is an error or
/// other bytes: compare digests.
pub fn decompress(packed: &[u8], base: &[u8], size: usize) -> Result<Vec<u8>, DecompressError> {
    let damaged = |code| DecompressError::Damaged { reason: zstd_safe::get_error_name(code) };
    let mut context = DCtx::try_create().ok_or(DecompressError::Damaged { reason: "no memory for it" })?;
    if !base.is_empty() {
        context.ref_prefix(base).map_err(damaged)?;
    }
    // Written in one go: what does not fit is an error of zstd, and no window is allocated.
    let mut content = Vec::with_capacity(size);
    context.decompress(&mut content, packed).map_err(damaged)?;
    content.truncate(size);
    match content.len() == size {
        true => Ok(content),
        false => Err(DecompressError::Short { actual: content.len() as u64, expected: size as u64 }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(bytes: usize) -> Vec<u8> {
        (0..bytes / 8).flat_map(|number| format!("{number:07}\n").into_bytes()).collect()
    }

    proptest! {
        #[test]
        fn what_was_compressed_comes_back(
            base in proptest::collection::vec(any::<u8>(), 0..2000),
            edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            tail in proptest::collection::vec(any::<u8>(), 0..50),
        ) {
            let mut content = [&base[..], &tail].concat();
            for (at, byte) in edits.iter().filter(|_| !content.is_empty()).map(|(at, byte)| (at.index(content.len()), byte)).collect::<Vec<_>>() {
                content[at] = *byte;
            }
            for base in [&base[..], b""] {
                for packed in [compress(&content, base), compress_alike(&content, base)].into_iter().flatten() {
                    prop_assert!(packed.len() < content.len());
                    prop_assert_eq!(decompress(&packed, base, content.len()).unwrap(), content.clone());
                }
            }
        }

        #[test]
        fn any_bytes_end_without_panic(packed in proptest::collection::vec(any::<u8>(), 0..200), size in 0..10_000_usize) {
            drop(decompress(&packed, b"something", size));
            // The magic number gets further.
            drop(decompress(&[&[0x28, 0xb5, 0x2f, 0xfd], &packed[..]].concat(), b"something", size));
        }

        #[test]
        fn a_damaged_frame_is_an_error_or_other_bytes(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
            let (base, content) = (text(4000), [&text(4000)[..], b"and more"].concat());
            let mut packed = compress(&content, &base).unwrap();
            let at = at.index(packed.len());
            packed[at] ^= 1 << bit;
            if let Ok(found) = decompress(&packed, &base, content.len()) {
                prop_assert_eq!(found.len(), content.len());
            }
        }
    }

    #[test]
    fn a_small_edit_costs_next_to_nothing() {
        let base = text(500_000);
        let mut content = base.clone();
        content.splice(250_000..250_010, *b"other, and longer");
        let packed = compress(&content, &base).unwrap();
        assert!(packed.len() < 1000, "{} bytes", packed.len());
        assert_eq!(decompress(&packed, &base, content.len()).unwrap(), content);
    }

    #[test]
    fn many_small_edits_cost_less_when_all_is_alike() {
        let line = |file: u32, line: u32| format!("option_{} = value_{:x}\n", line % 97, (file * 7919 + line * 104_729) % 65_536);
        let (mut base, mut content) = (Vec::new(), Vec::new());
        for file in 0..120_u32 {
            for at in 0..150 {
                base.extend_from_slice(line(file, at).as_bytes());
                content.extend_from_slice(line(file, at).as_bytes());
                if at == file {
                    content.extend_from_slice(format!("# edited {:08x}\n", file.wrapping_mul(0x9e37_79b9)).as_bytes());
                }
            }
        }
        let [quick, alike] = [compress(&content, &base), compress_alike(&content, &base)].map(Option::unwrap);
        assert_eq!(decompress(&alike, &base, content.len()).unwrap(), content);
        assert!(alike.len() < 120 * 20 && alike.len() < quick.len() * 3 / 4, "{} {}", alike.len(), quick.len());
    }

    #[test]
    fn a_small_edit_costs_no_more_far_behind() {
        let mut base = vec![0; 6 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut base);
        let mut content = base.clone();
        content.splice((5 << 20)..(5 << 20) + 10, *b"other, and longer");
        let packed = compress(&content, &base).unwrap();
        // Not a mebibyte, as it would be if only the first two were compared.
        assert!(packed.len() < 20_000, "{} bytes", packed.len());
        assert_eq!(decompress(&packed, &base, content.len()).unwrap(), content);
    }

    #[test]
    fn what_does_not_help_is_left_as_it_is() {
        let mut content = vec![0; 10_000];
        blake3::Hasher::new().finalize_xof().fill(&mut content);
        assert_eq!(compress(&content, b""), None);
        assert_eq!(compress(b"", b""), None);
        assert_eq!(compress(b"a", b"a"), None);
    }

    #[test]
    fn a_bomb_is_cut_off_where_it_says_it_ends() {
        let bomb = compress(&vec![0; 1 << 20], b"").unwrap();
        assert!(bomb.len() < 200, "{} bytes", bomb.len());
        assert!(matches!(decompress(&bomb, b"", 1000), Err(DecompressError::Damaged { .. })));
        // Several frames one after the other are no way around it.
        let twice = [&bomb[..], &bomb].concat();
        assert!(matches!(decompress(&twice, b"", 1 << 20), Err(DecompressError::Damaged { .. })));
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4][..], &bomb].concat();
        assert_eq!(decompress(&skippable, b"", 1 << 20).unwrap().len(), 1 << 20);
        assert!(matches!(decompress(&bomb, b"", (1 << 20) + 1), Err(DecompressError::Short { .. })));
    }

    #[test]
    fn a_truncated_frame_is_an_error() {
        let content = text(4000);
        let packed = compress(&content, b"").unwrap();
        for cut in 0..packed.len() {
            assert!(decompress(&packed[..cut], b"", content.len()).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn another_base_gives_an_error_or_other_bytes() {
        let (base, content) = (text(4000), [&text(4000)[..], b"and more"].concat());
        let packed = compress(&content, &base).unwrap();
        let mut other = base.clone();
        other[2000] ^= 1;
        for base in [&other[..], &base[..3000], b""] {
            assert_ne!(decompress(&packed, base, content.len()).ok(), Some(content.clone()));
        }
    }
}
