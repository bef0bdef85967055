//! The allocator's numbers, and giving memory back to the kernel.

use std::io;

use procfs::process::{MMPermissions, MMapPath, MemoryMap, Process};

/// Bounds the number of the C library's arenas and says which blocks are mapped by themselves.
pub(crate) fn bound_allocator(arenas: libc::c_int, mapped_from: libc::c_int) {
    // SAFETY: sets a number of the allocator's; a refusal leaves it as it was.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, arenas) };
    // SAFETY: as above.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, mapped_from) };
}

/// How many bytes of the heap are in use, as the allocator counts; nothing where it does not.
pub(crate) fn heap_in_use() -> Option<usize> {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: it takes the allocator's own locks and only counts.
        let counted = unsafe { libc::mallinfo2() };
        Some(counted.uordblks + counted.hblkhd)
    }
    #[cfg(not(target_env = "gnu"))]
    None
}

/// Gives back what of the heap is free, between what is in use as well.
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes the allocator's own locks and touches only free memory.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Takes the program's code out of the process's page tables. The kernel maps it by the dozen of pages around each one
/// that is run, most of which only ever serve the start.
///
/// # Errors
/// When the process's mappings cannot be read, or the kernel refuses.
pub(crate) fn unmap_code() -> io::Result<()> {
    let maps = Process::myself().and_then(|process| process.smaps()).map_err(io::Error::other)?;
    let program = std::env::current_exe()?;
    let ours = |map: &&MemoryMap| matches!(&map.pathname, MMapPath::Path(path) if *path == program);
    for map in maps.0.iter().filter(ours).filter(|map| is_only_a_copy_of_the_file(map)) {
        let (from, to) = map.address;
        let length = usize::try_from(to - from).map_err(io::Error::other)?;
        let start = std::ptr::with_exposed_provenance_mut(usize::try_from(from).map_err(io::Error::other)?);
        // SAFETY: the mapping is the program's own, so it stays, and all that it shows is read from the file again.
        if unsafe { libc::madvise(start, length, libc::MADV_DONTNEED) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Read-only, and never written before it became so (as relocated data is): the file has it all.
fn is_only_a_copy_of_the_file(map: &MemoryMap) -> bool {
    let of = |field: &str| map.extension.map.get(field).copied();
    !map.perms.contains(MMPermissions::WRITE)
        && ["Anonymous", "Swap"].iter().all(|field| of(field) == Some(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code() -> Vec<MemoryMap> {
        let program = std::env::current_exe().unwrap();
        let ours = |map: &MemoryMap| matches!(&map.pathname, MMapPath::Path(path) if *path == program);
        let maps = Process::myself().unwrap().smaps().unwrap();
        maps.0.into_iter().filter(|map| ours(map) && is_only_a_copy_of_the_file(map)).collect()
    }

    fn resident() -> u64 {
        code().iter().map(|map| map.extension.map["Rss"]).sum()
    }

    #[test]
    fn the_heap_counts_what_is_kept_and_what_is_mapped_by_itself() {
        let before = heap_in_use().unwrap();
        let kept = (vec![1u8; 64 * 1024], vec![1u8; 4 * 1024 * 1024]);
        let grown = heap_in_use().unwrap().saturating_sub(before);
        // Other tests allocate meanwhile.
        assert!(grown > 3 * 1024 * 1024, "{grown} bytes more");
        drop(kept);
    }

    #[test]
    fn code_that_is_not_run_takes_no_memory_and_the_program_runs_on() {
        for map in code() {
            let (from, to) = map.address;
            let start = std::ptr::with_exposed_provenance_mut(usize::try_from(from).unwrap());
            // SAFETY: it only reads what is mapped there.
            let read = unsafe {
                libc::madvise(start, usize::try_from(to - from).unwrap(), libc::MADV_POPULATE_READ)
            };
            assert_eq!(read, 0, "{}", io::Error::last_os_error());
        }
        let before = resident();
        trim_heap();
        unmap_code().unwrap();
        let after = resident();
        assert!(after < before / 2, "{before} bytes before, {after} bytes after");
    }
}
