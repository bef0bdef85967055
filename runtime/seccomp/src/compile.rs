//! From a profile to a program.
//!
//! In: an OCI `LinuxSeccomp`. Out: a [`Filter`] for this build's architecture and those of its family that the profile
//! lists; a call in the way of any other ends the process, as does an x32 call where x32 is not listed. Within an
//! architecture the numbers are halved, so that every decision takes about eight comparisons; for calls whose arguments
//! do not matter the kernel remembers the answer and does not run the program again.

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompFilterFlag};

use crate::arch::Arch;
use crate::plan::{Checked, KILL_PROCESS};
use crate::{MAX_INSTRUCTIONS, SeccompError, code};

const FLAG_TSYNC: u32 = 1;
const FLAG_LOG: u32 = 2;
const FLAG_SPEC_ALLOW: u32 = 4;

/// An instruction of classic BPF: the kernel's `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// How many to skip if a comparison holds.
    pub jt: u8,
    /// How many to skip if it does not.
    pub jf: u8,
    /// The value.
    pub k: u32,
}

/// What is loaded into the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// For seccomp(2): `SECCOMP_FILTER_FLAG_…`.
    pub flags: u32,
    /// At most [`MAX_INSTRUCTIONS`].
    pub program: Vec<Instruction>,
}

/// Compiles a profile for this build's architecture.
///
/// # Errors
/// When a field says what cannot be, or the program would be longer than the kernel takes.
pub fn compile(profile: &LinuxSeccomp) -> Result<Filter, SeccompError> {
    compile_for(profile, Arch::NATIVE)
}

pub(crate) fn compile_for(profile: &LinuxSeccomp, native: Arch) -> Result<Filter, SeccompError> {
    let flags = flags(profile)?;
    let checked = Checked::of(profile)?;
    let listed = listed(profile, native);
    let mut program = vec![code::load_arch()];
    for arch in listed.iter().filter(|arch| **arch != Arch::X32) {
        code::for_arch(arch.audit(), &checked.intervals(*arch, &listed), &mut program);
    }
    program.push(code::returning(KILL_PROCESS));
    if program.len() > MAX_INSTRUCTIONS {
        let reason =
            format!("become {} instructions, and the kernel takes {MAX_INSTRUCTIONS}", program.len());
        return Err(SeccompError::field("syscalls", reason));
    }
    Ok(Filter { flags, program })
}

/// The native one first: it is what almost every call is. One of another family cannot run here, and is passed over.
fn listed(profile: &LinuxSeccomp, native: Arch) -> Vec<Arch> {
    let asked = profile.architectures().as_deref().unwrap_or_default();
    let is_listed = |arch: &Arch| *arch == native || asked.contains(&arch.oci());
    let mut listed = native.family().iter().copied().filter(is_listed).collect::<Vec<_>>();
    listed.sort_by_key(|arch| *arch != native);
    listed
}

fn flags(profile: &LinuxSeccomp) -> Result<u32, SeccompError> {
    // As runc has it: who says nothing of flags gets the one that keeps programs from being slowed down.
    let Some(flags) = profile.flags() else { return Ok(FLAG_SPEC_ALLOW) };
    let mut all = 0;
    for flag in flags {
        all |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => FLAG_LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => FLAG_TSYNC,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => FLAG_SPEC_ALLOW,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                let reason =
                    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs SCMP_ACT_NOTIFY, which is not supported";
                return Err(SeccompError::field("flags", reason));
            }
        };
    }
    Ok(all)
}

#[cfg(test)]
#[path = "compile_tests.rs"]
mod tests;
