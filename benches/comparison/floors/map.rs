//! BLAKE3 of one large file: mapped, on all cores.

use std::path::Path;

pub(super) fn map(file: &Path) -> anyhow::Result<()> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_mmap_rayon(file)?;
    println!("{}", hasher.finalize());
    Ok(())
}
