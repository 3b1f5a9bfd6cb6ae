//! Hooks of the exec functions that take their arguments one by one. Rust cannot define functions with variable arguments, but these
//! need none: all of them are pointers, which the calling conventions pass in registers first and then on the stack. A few
//! instructions put the registers in front of the rest, which makes the array that the other exec functions take. Such a function
//! returns only on failure, so nothing is lost that somebody would look for.

use core::{
    arch::naked_asm,
    ffi::{c_char, c_int},
};

use super::{Strings, execute, execute_found, real as others};
use crate::{
    hook::{Hook, Real, run},
    start,
};

/// As declared by unistd.h, without the rest.
type Function = unsafe extern "C" fn(*const c_char, *const c_char) -> c_int;

static EXECL: Real = Real::new(c"execl");
static EXECLE: Real = Real::new(c"execle");
static EXECLP: Real = Real::new(c"execlp");

pub(crate) static TABLE: &[Hook] = &[
    Hook { real: &EXECL, detour: execl as Function as *const () },
    Hook { real: &EXECLE, detour: execle as Function as *const () },
    Hook { real: &EXECLP, detour: execlp as Function as *const () },
];

/// Calls `$detour(first argument, address of the array of the others)`.
#[cfg(target_arch = "x86_64")]
macro_rules! gathered {
    ($detour:ident) => {
        // The return address lies between the arguments of the registers and those of the stack: it moves in front of them, which
        // also aligns the stack, and back again.
        naked_asm!(
            "pop rax",
            "push r9",
            "push r8",
            "push rcx",
            "push rdx",
            "push rsi",
            "mov rsi, rsp",
            "push rax",
            "call {detour}",
            "pop rcx",
            "add rsp, 40",
            "push rcx",
            "ret",
            detour = sym $detour,
        )
    };
}

/// Calls `$detour(first argument, address of the array of the others)`.
#[cfg(target_arch = "aarch64")]
macro_rules! gathered {
    ($detour:ident) => {
        // Seven registers directly below the arguments of the stack; the frame is a multiple of 16.
        naked_asm!(
            "stp x29, x30, [sp, #-80]!",
            "mov x29, sp",
            "str x1, [sp, #24]",
            "stp x2, x3, [sp, #32]",
            "stp x4, x5, [sp, #48]",
            "stp x6, x7, [sp, #64]",
            "add x1, sp, #24",
            "bl {detour}",
            "ldp x29, x30, [sp], #80",
            "ret",
            detour = sym $detour,
        )
    };
}

#[unsafe(naked)]
#[cfg_attr(all(feature = "standalone", not(feature = "frida-gum")), unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn execl(path: *const c_char, first: *const c_char) -> c_int {
    gathered!(with_list)
}

#[unsafe(naked)]
#[cfg_attr(all(feature = "standalone", not(feature = "frida-gum")), unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn execle(path: *const c_char, first: *const c_char) -> c_int {
    gathered!(with_list_and_environment)
}

#[unsafe(naked)]
#[cfg_attr(all(feature = "standalone", not(feature = "frida-gum")), unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn execlp(file: *const c_char, first: *const c_char) -> c_int {
    gathered!(found_with_list)
}

/// The list ends with NULL, so it is an array as execv(3) takes it.
extern "C" fn with_list(path: *const c_char, arguments: Strings) -> c_int {
    run(
        || execute(path, arguments, start::environment()),
        // SAFETY: the strings are the program's own, so its promises to the function hold.
        || unsafe { others::execv::call(path, arguments) },
    )
}

/// Behind the NULL follows the environment.
extern "C" fn with_list_and_environment(path: *const c_char, arguments: Strings) -> c_int {
    let mut end = arguments;
    // SAFETY: the program ends its list with NULL, which ends this loop.
    while !unsafe { end.read() }.is_null() {
        end = end.wrapping_add(1);
    }
    // SAFETY: execle(3) has one more argument behind the NULL, which lies in the next place.
    let environment = unsafe { end.wrapping_add(1).cast::<Strings>().read() };
    run(
        || execute(path, arguments, environment),
        // SAFETY: as in `with_list`.
        || unsafe { others::execve::call(path, arguments, environment) },
    )
}

extern "C" fn found_with_list(file: *const c_char, arguments: Strings) -> c_int {
    run(
        || execute_found(file, arguments, start::environment()),
        // SAFETY: as in `with_list`.
        || unsafe { others::execvp::call(file, arguments) },
    )
}
