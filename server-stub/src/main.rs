//! `direct-puppet-server`: the reference server as a program.

mod cli;

use std::process::ExitCode;

/// An answer makes many small allocations, and moves between threads: with the C library's, an answer with a small content costs a fifth more.
#[global_allocator]
static ALLOCATOR: direct_puppet_sys::Allocator = direct_puppet_sys::Allocator;

fn main() -> ExitCode {
    direct_puppet_sys::give_back_freed_memory();
    cli::main()
}
