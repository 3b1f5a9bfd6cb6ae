//! Putting the hooks in place, and the constructor. Two ways, chosen when the library is built:
//!
//! - *exported names* (default): the detours carry libc's names, and the loader binds the program to them. Nothing is left to do but to
//!   find the real functions. Calls inside of libc are not seen; `streams` and `names` make up for that.
//! - *frida-gum* (feature): the bodies of libc's functions are rewritten to jump to the detours (`gum`).

use crate::{HOOKS, start};

/// Runs when the library is loaded, before the program's own code.
extern "C" fn constructor() {
    for hook in HOOKS.iter().copied().flatten() {
        hook.real.find();
    }
    #[cfg(feature = "frida-gum")]
    crate::gum::replace(HOOKS.iter().copied().flatten());
    start::start();
}

#[cfg(feature = "standalone")]
#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = constructor;
