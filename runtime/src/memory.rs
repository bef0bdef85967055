//! How the process's allocator gives memory back.
//!
//! In: nothing. Out: an allocator with few arenas that returns large blocks to the kernel. The daemon's threads come and go
//! with the pods' calls; left alone, the C library gives each of them an arena of its own and keeps what was freed there.

use crate::sys;

/// Arenas: one for each thread that works all the time.
const ARENAS: i32 = 2;
/// Blocks from this size on are mapped, and unmapped when they are freed. Fixed: the C library would raise it up to
/// 32 MiB with the largest block freed.
const MAPPED_FROM: i32 = 128 * 1024;

/// Sets the allocator up. To be called before the first thread is made.
pub fn set_up() {
    sys::bound_allocator(ARENAS, MAPPED_FROM);
}
