//! Installation by frida-gum: the bodies of libc's functions jump to the detours, so that calls inside of libc and functions found by
//! dlsym(3) are seen as well. Done once, before the program's own code and its threads; the detours are those of the exported names.

use core::{ffi::c_void, mem};
use std::vec::Vec;

use frida_gum::{Gum, NativePointer, interceptor::Interceptor};

use crate::hook::Hook;

/// Replaces the functions that this libc has. One that cannot be replaced, because it is too short or resolved by the processor's kind
/// (IFUNC), stays as it is.
pub(crate) fn replace<'a>(hooks: impl Iterator<Item = &'a Hook>) {
    let gum = Gum::obtain();
    let mut interceptor = Interceptor::obtain(&gum);
    // Names of one function, such as open and open64, share its body, which is replaced once.
    let mut replaced: Vec<(*mut c_void, *mut c_void)> = Vec::new();
    interceptor.begin_transaction();
    for hook in hooks {
        let address = hook.real.address();
        if address.is_null() {
            continue;
        }
        if let Some((_, original)) = replaced.iter().find(|(of, _)| *of == address) {
            hook.real.moved_to(*original);
            continue;
        }
        let detour = NativePointer(hook.detour.cast_mut().cast());
        if let Ok(original) = interceptor.replace_fast(NativePointer(address), detour) {
            hook.real.moved_to(original.0);
            replaced.push((address, original.0));
        }
    }
    interceptor.end_transaction();
    // The bodies stay replaced as long as the process lives, and what replaced them must do so, too.
    mem::forget((interceptor, gum));
}
