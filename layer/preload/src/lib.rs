//! `libmirrord_layer.so`: the libc attachment. Loaded into a program by LD_PRELOAD, it asks the supervisor about the calls that the
//! syscall attachment would trap, and does what it is told: give the program a descriptor, a result, an error, or let it go on.
//!
//! The library holds no rule and no state but the path of the supervisor's socket. It has no dependency but libc (unless it is built to
//! replace function bodies, `gum`), allocates nothing, takes no lock and cannot panic, so a hook may run anywhere: in a signal handler, between fork and exec, in a thread of any age.
//! No detour calls a hooked function, so none can be entered again from itself.
//!
//! ```text
//! program -- open("/x") --> detour -- question --> supervisor -- FileCall --> session host
//!         <-- descriptor --        <-- answer + descriptor --
//! ```
#![no_std]
#![cfg_attr(
    not(feature = "standalone"),
    expect(dead_code, reason = "only the standalone library installs its hooks")
)]
#![expect(unsafe_code, reason = "the library stands between C code and C code")]
#![cfg(target_os = "linux")]

#[cfg(any(test, feature = "frida-gum"))]
extern crate std;

mod addresses;
mod ask;
mod calls;
mod decimal;
mod files;
#[cfg(feature = "frida-gum")]
mod gum;
mod hook;
mod install;
mod names;
mod programs;
mod sockets;
mod start;
mod streams;
mod sys;
mod walks;
pub mod wire;

pub use crate::hook::{Hook, Real};

/// All hooks, in groups.
pub(crate) static HOOKS: [&[Hook]; 10] = [
    files::TABLE,
    streams::TABLE,
    sockets::TABLE,
    addresses::TABLE,
    programs::TABLE,
    programs::lists::TABLE,
    programs::descriptors::TABLE,
    names::TABLE,
    names::reverse::TABLE,
    walks::TABLE,
];

/// There is nothing in the library that could panic; the language wants it all the same.
#[cfg(all(feature = "standalone", not(feature = "frida-gum")))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
