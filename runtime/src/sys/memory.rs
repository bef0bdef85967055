//! Giving memory back to the kernel.

use std::io;

use procfs::process::{MMPermissions, MMapPath, MemoryMap, Process};

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
        && ["Private_Dirty", "Anonymous", "Swap"].iter().all(|field| of(field) == Some(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resident_code() -> u64 {
        let program = std::env::current_exe().unwrap();
        let maps = Process::myself().unwrap().smaps().unwrap();
        let ours = |map: &&MemoryMap| matches!(&map.pathname, MMapPath::Path(path) if *path == program);
        let code = maps.0.iter().filter(ours).filter(|map| is_only_a_copy_of_the_file(map));
        code.map(|map| map.extension.map["Rss"]).sum()
    }

    #[test]
    fn code_that_only_served_the_start_takes_no_memory_and_the_program_runs_on() {
        let before = resident_code();
        trim_heap();
        unmap_code().unwrap();
        let after = resident_code();
        assert!(after < before, "{before} bytes before, {after} bytes after");
    }
}
