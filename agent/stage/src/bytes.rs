//! The functions that the compiler calls for moving and comparing bytes. The C library's own would need its startup code, which
//! chooses among variants of them by the processor.
//!
//! Reads that compare are volatile: otherwise the compiler recognizes the loop and replaces it by a call of the very function.

/// Copies forward.
///
/// # Safety
/// As memcpy(3): both blocks valid for `count` bytes and not overlapping.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller guarantees both blocks for `count` bytes; forward order is right for blocks that do not overlap.
    unsafe { forward(to, from, count) };
    to
}

/// Copies in the direction that overlapping blocks need.
///
/// # Safety
/// As memmove(3): both blocks valid for `count` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= count {
        // SAFETY: the caller guarantees both blocks for `count` bytes, and `to` does not begin inside `from`: forward is right.
        unsafe { forward(to, from, count) };
    } else {
        let mut left = count;
        while left > 0 {
            left -= 1;
            // SAFETY: `left` is below `count`, for which the caller guarantees `from`.
            let source = unsafe { from.add(left) };
            // SAFETY: `left` is below `count`, for which the caller guarantees `to`.
            let target = unsafe { to.add(left) };
            // SAFETY: both pointers lie in the caller's valid blocks; a byte has no alignment.
            unsafe { copy_byte(target, source) };
        }
    }
    to
}

/// Fills.
///
/// # Safety
/// As memset(3): the block valid for `count` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: `rep stosb` writes `count` bytes from `to` on, which the caller guarantees; the direction flag is clear by the ABI.
    unsafe {
        core::arch::asm!("rep stosb", inout("rcx") count => _, inout("rdi") to => _, in("al") byte as u8,
            options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    for index in 0..count {
        // SAFETY: `index` is below `count`, for which the caller guarantees the block.
        let target = unsafe { to.add(index) };
        // SAFETY: the pointer lies in the caller's valid block; a byte has no alignment.
        unsafe { target.write_volatile(byte as u8) };
    }
    to
}

/// Compares.
///
/// # Safety
/// As memcmp(3): both blocks valid for `count` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    for index in 0..count {
        // SAFETY: `index` is below `count`, for which the caller guarantees `a`.
        let first = unsafe { byte_at(a, index) };
        // SAFETY: `index` is below `count`, for which the caller guarantees `b`.
        let second = unsafe { byte_at(b, index) };
        if first != second {
            return i32::from(first) - i32::from(second);
        }
    }
    0
}

/// Compares for equality.
///
/// # Safety
/// As bcmp(3): both blocks valid for `count` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    // SAFETY: the caller guarantees both blocks for `count` bytes.
    unsafe { memcmp(a, b, count) }
}

/// Length of a C string.
///
/// # Safety
/// As strlen(3): a NUL must end the text.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut length = 0;
    // SAFETY: all bytes up to the first NUL are valid, and the loop ends there.
    while unsafe { byte_at(text, length) } != 0 {
        length += 1;
    }
    length
}

/// # Safety
/// `from` valid for reads and `to` for writes of `count` bytes, `to` not inside `from`.
unsafe fn forward(to: *mut u8, from: *const u8, count: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: `rep movsb` copies `count` bytes forward between blocks that the caller guarantees; the ABI clears the direction flag.
    unsafe {
        core::arch::asm!("rep movsb", inout("rcx") count => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    for index in 0..count {
        // SAFETY: `index` is below `count`, for which the caller guarantees `from`.
        let source = unsafe { from.add(index) };
        // SAFETY: `index` is below `count`, for which the caller guarantees `to`.
        let target = unsafe { to.add(index) };
        // SAFETY: both pointers lie in the caller's valid blocks; a byte has no alignment.
        unsafe { copy_byte(target, source) };
    }
}

/// # Safety
/// `from` valid for a read, `to` for a write.
unsafe fn copy_byte(to: *mut u8, from: *const u8) {
    // SAFETY: the caller guarantees that `from` is valid for a read; a byte has no alignment.
    let byte = unsafe { from.read_volatile() };
    // SAFETY: the caller guarantees that `to` is valid for a write; a byte has no alignment.
    unsafe { to.write_volatile(byte) };
}

/// # Safety
/// `text` valid for reads of `index` + 1 bytes.
unsafe fn byte_at(text: *const u8, index: usize) -> u8 {
    // SAFETY: the caller guarantees that the block reaches beyond `index`.
    let byte = unsafe { text.add(index) };
    // SAFETY: the pointer lies in the caller's valid block; a byte has no alignment.
    unsafe { byte.read_volatile() }
}
