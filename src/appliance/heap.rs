//! One heap for all threads.
//!
//! glibc gives each thread that meets another one in `malloc` a heap of its own, and none of them gives back what its
//! thread freed: of the most memory that a release of 2,000 files takes, that is a tenth. Nothing here allocates per
//! packet, so that threads seldom meet.

/// Call it before there are threads.
#[cfg(target_env = "gnu")]
pub fn share() {
    // SAFETY: it takes two numbers by value, and there is no other thread yet. If it refuses, nothing has changed.
    #[expect(unsafe_code, reason = "no package of ours wraps mallopt, and this is the whole call")]
    let _taken = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Other C libraries have no such heaps.
#[cfg(not(target_env = "gnu"))]
pub fn share() {}
