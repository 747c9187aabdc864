//! The allocator of Direct Puppet's programs, and the calls of C libraries and of the kernel that no safe library offers: all `unsafe` of the project.

#[cfg(feature = "allocator")]
mod allocator;
#[cfg(target_os = "linux")]
mod descriptors;

#[cfg(feature = "allocator")]
pub use allocator::{Allocator, give_back_freed_memory};
#[cfg(target_os = "linux")]
pub use descriptors::keep_descriptors_apart;
