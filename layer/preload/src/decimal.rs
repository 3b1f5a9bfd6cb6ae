//! Descriptors as text, without an allocation.

use core::ffi::{c_char, c_int};

/// The number of a descriptor as a C string, behind a prefix.
pub(crate) struct Text([u8; 32]);

impl Text {
    /// `N`.
    pub(crate) fn number(descriptor: c_int) -> Self {
        Self::behind(b"", descriptor)
    }

    /// `/proc/self/fd/N`.
    pub(crate) fn path(descriptor: c_int) -> Self {
        Self::behind(b"/proc/self/fd/", descriptor)
    }

    /// The prefix has at most 20 bytes, so that 11 are left for the digits and their NUL.
    fn behind(prefix: &[u8], descriptor: c_int) -> Self {
        let mut text = [0; 32];
        let mut digits = [0_u8; 10];
        let mut number = descriptor.unsigned_abs();
        let mut count = 0;
        for digit in &mut digits {
            *digit = b'0' + u8::try_from(number % 10).unwrap_or(0);
            number /= 10;
            count += 1;
            if number == 0 {
                break;
            }
        }
        let whole = prefix.iter().chain(digits.iter().take(count).rev());
        text.iter_mut().zip(whole).for_each(|(to, from)| *to = *from);
        Self(text)
    }

    pub(crate) fn pointer(&self) -> *const c_char {
        self.0.as_ptr().cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_written_out() {
        for (number, text) in [(0, &b"0\0"[..]), (10, b"10\0"), (c_int::MAX, b"2147483647\0")] {
            assert!(Text::number(number).0.starts_with(text), "{number}");
        }
        assert!(Text::path(12).0.starts_with(b"/proc/self/fd/12\0"));
    }
}
