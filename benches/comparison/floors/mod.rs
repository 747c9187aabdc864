//! The least that the machine needs for the same work: small programs, each one process.

mod framed;
mod http2;
mod map;
mod read;
mod stat;
mod write;

use std::path::PathBuf;

use clap::Subcommand;

/// The floors.
#[derive(Debug, Subcommand)]
pub(crate) enum Floor {
    /// fstatat of each listed file, by the descriptor of its directory.
    Stat { root: PathBuf, list: PathBuf },
    /// Open, read, close and BLAKE3 of each listed file.
    Read { root: PathBuf, list: PathBuf },
    /// Open, read and close of each listed file.
    ReadOnly { root: PathBuf, list: PathBuf },
    /// Walk, read and BLAKE3.
    Walk { root: PathBuf },
    /// BLAKE3 of one file, mapped, on all cores.
    Map { file: PathBuf },
    /// Write all contents, one syncfs, rename all.
    WriteAll { packed: PathBuf, root: PathBuf },
    /// Write, fsync and rename each content.
    FsyncEach { packed: PathBuf, root: PathBuf },
    /// Fetch and verify contents over a framed stream.
    Framed { address: String, digests: PathBuf },
    /// Fetch and verify contents with one HTTP/2 request each.
    Http2 { address: String, digests: PathBuf },
}

pub(crate) use framed::serve as serve_framed;
pub(crate) use write::{Packed, pack};

pub(crate) fn floor(floor: Floor) -> anyhow::Result<()> {
    match floor {
        Floor::Stat { root, list } => stat::stat(&root, &list),
        Floor::Read { root, list } => read::read(&root, &list),
        Floor::ReadOnly { root, list } => read::read_only(&root, &list),
        Floor::Walk { root } => read::walk(&root),
        Floor::Map { file } => map::map(&file),
        Floor::WriteAll { packed, root } => write::write_all(&packed, &root),
        Floor::FsyncEach { packed, root } => write::fsync_each(&packed, &root),
        Floor::Framed { address, digests } => framed::fetch(&address, &digests),
        Floor::Http2 { address, digests } => http2::fetch(&address, &digests),
    }
}
