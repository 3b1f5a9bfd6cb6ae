//! The table of hooks: for each function of libc its detour and, behind it, the real one.
//!
//! A detour is plain Rust that returns an [`Outcome`]; what is around it is the same for all and written once, here: errno is as it
//! was when the real function runs or the detour succeeds, nothing panics (the finished library contains no panic at all, which a
//! test of session proves), nothing is locked or allocated, and the real function is called with nothing held.

use core::{
    ffi::{CStr, c_char, c_int, c_long, c_void},
    ptr,
    sync::atomic::{AtomicPtr, Ordering},
};

use crate::{calls::Outcome, sys};

/// What a function returns when it fails.
pub(crate) trait Result: Copy {
    const FAILED: Self;
}

impl Result for c_int {
    const FAILED: Self = -1;
}
impl Result for c_long {
    const FAILED: Self = -1;
}
impl Result for isize {
    const FAILED: Self = -1;
}
impl<T> Result for *mut T {
    const FAILED: Self = ptr::null_mut();
}

/// A function of libc, found when it is first needed.
pub struct Real {
    name: &'static CStr,
    found: AtomicPtr<c_void>,
}

/// RTLD_NEXT of dlfcn.h.
const NEXT: *mut c_void = ptr::without_provenance_mut(usize::MAX);

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

impl core::fmt::Debug for Real {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Real").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Real {
    pub(crate) const fn new(name: &'static CStr) -> Self {
        Self { name, found: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Name of the function.
    #[must_use]
    pub const fn name(&self) -> &'static CStr {
        self.name
    }

    /// Address of the real function; null when this libc has none of this name.
    pub(crate) fn address(&self) -> *mut c_void {
        let found = self.found.load(Ordering::Relaxed);
        if found.is_null() { self.find() } else { found }
    }

    /// Looks it up. At the start of the library for all of them, as dlsym(3) must not be called by signal handlers.
    pub(crate) fn find(&self) -> *mut c_void {
        // SAFETY: dlsym(3) takes a C string, which the name is, and RTLD_NEXT: the next object behind ours that defines it.
        let found = unsafe { dlsym(NEXT, self.name.as_ptr()) };
        self.found.store(found, Ordering::Relaxed);
        found
    }

    /// From now on the real function is called here: its body has been replaced.
    #[cfg(feature = "frida-gum")]
    pub(crate) fn moved_to(&self, address: *mut c_void) {
        self.found.store(address, Ordering::Relaxed);
    }
}

/// Runs a detour and, when it lets the call go on, the real function.
pub(crate) fn run<T: Result>(detour: impl FnOnce() -> Outcome<T>, real: impl FnOnce() -> T) -> T {
    let errno = sys::errno();
    match detour() {
        Outcome::GoOn => {
            sys::set_errno(errno);
            real()
        }
        Outcome::Value(value) => {
            sys::set_errno(errno);
            value
        }
        Outcome::Errno(errno) => {
            sys::set_errno(errno);
            T::FAILED
        }
    }
}

/// Declares hooks: `fn name(arguments) -> result = detour;`. Those marked `checked` are compared with the declaration of the crate `libc` when
/// this is compiled; the others it does not know, or they take variable arguments, which a detour reads as fixed ones: the calling
/// conventions pass both alike.
macro_rules! hooks {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $kind:ty),*) -> $result:ty $(, $checked:ident)? = $detour:expr;)*) => {
        /// The real functions.
        pub(crate) mod real {
            use super::*;
            $(
                pub(crate) mod $name {
                    use super::*;

                    /// Type of the function.
                    pub(crate) type Function = unsafe extern "C" fn($($kind),*) -> $result;

                    /// The real one.
                    pub(crate) static REAL: crate::hook::Real = crate::hook::Real::new(
                        match core::ffi::CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                            Ok(name) => name,
                            Err(_) => c"",
                        },
                    );

                    /// Calls the real one; fails with ENOSYS when this libc does not have it.
                    ///
                    /// # Safety
                    /// As the function itself.
                    pub(crate) unsafe fn call($($argument: $kind),*) -> $result {
                        let address = REAL.address();
                        if address.is_null() {
                            crate::sys::set_errno(libc::ENOSYS);
                            return <$result as crate::hook::Result>::FAILED;
                        }
                        // SAFETY: the address is that of the function of this name, which has this type in every libc.
                        let function = unsafe { core::mem::transmute::<*mut core::ffi::c_void, Function>(address) };
                        // SAFETY: the caller keeps the function's own rules.
                        unsafe { function($($argument),*) }
                    }

                    $(crate::hook::$checked!($name Function);)?
                    const _: Function = super::super::$name;
                }
            )*
        }

        $(
            $(#[$doc])*
            #[cfg_attr(all(feature = "standalone", not(feature = "frida-gum")), unsafe(no_mangle))]
            pub(crate) unsafe extern "C" fn $name($($argument: $kind),*) -> $result {
                crate::hook::run(
                    || $detour($($argument),*),
                    // SAFETY: the arguments are the program's own, so its promises to the function hold.
                    || unsafe { real::$name::call($($argument),*) },
                )
            }
        )*

        /// Every hook of this file: the real function and the detour.
        pub(crate) static TABLE: &[crate::hook::Hook] = &[
            $(crate::hook::Hook { real: &real::$name::REAL, detour: $name as real::$name::Function as *const () },)*
        ];
    };
}

/// Compares a hook's type with libc's declaration.
macro_rules! checked {
    ($name:ident $function:ident) => {
        const _: $function = libc::$name;
    };
}

pub(crate) use checked;
pub(crate) use hooks;

/// One row of the table.
pub struct Hook {
    /// The function of libc.
    pub real: &'static Real,
    /// What is called in its place.
    pub detour: *const (),
}

// SAFETY: the pointer is the address of a function, which every thread may read.
unsafe impl Sync for Hook {}

impl core::fmt::Debug for Hook {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Hook").field("name", &self.real.name).finish_non_exhaustive()
    }
}
