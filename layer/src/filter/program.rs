//! From table to BPF: classic BPF on `struct seccomp_data` (linux/seccomp.h, linux/bpf_common.h).

use libc::sock_filter;

use super::{
    Architecture, Trap, Wanted,
    table::{Call, When},
};

// linux/bpf_common.h
const LOAD_WORD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

// linux/seccomp.h
const ALLOW: u32 = 0x7fff_0000;
const NOTIFY: u32 = 0x7fc0_0000;
const ERRNO: u32 = 0x0005_0000;

// Offsets in struct seccomp_data.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

const SOCKET_TYPE_MASK: u32 = 0xf;

/// The program for these groups of calls.
pub(crate) fn build(architecture: &Architecture, wanted: Wanted) -> Vec<sock_filter> {
    let mut program = vec![
        load(ARCHITECTURE),
        jump_equal(architecture.audit, 1, 0),
        // Another instruction set (an i386 binary): its numbers mean other calls.
        ret(ALLOW),
        load(NUMBER),
        jump_equal(architecture.io_uring_setup, 0, 1),
        ret(ERRNO | libc::ENOSYS.unsigned_abs()),
    ];
    for trap in architecture.traps.iter().filter(|trap| wanted.wants(trap.call)) {
        program.extend(rule(trap));
    }
    program.push(ret(ALLOW));
    program
}

fn rule(trap: &Trap) -> Vec<sock_filter> {
    match trap.when {
        When::Always => vec![jump_equal(trap.number, 0, 1), ret(NOTIFY)],
        When::Clear { argument, bits } => vec![
            jump_equal(trap.number, 0, 4),
            load(low_half(argument)),
            jump_any_bit(bits, 1, 0),
            ret(NOTIFY),
            ret(ALLOW),
        ],
        When::InternetSocket => vec![
            jump_equal(trap.number, 0, 9),
            load(low_half(0)),
            jump_equal(libc::AF_INET.unsigned_abs(), 1, 0),
            jump_equal(libc::AF_INET6.unsigned_abs(), 0, 5),
            load(low_half(1)),
            and(SOCKET_TYPE_MASK),
            jump_equal(libc::SOCK_STREAM.unsigned_abs(), 1, 0),
            jump_equal(libc::SOCK_DGRAM.unsigned_abs(), 0, 1),
            ret(NOTIFY),
            ret(ALLOW),
        ],
    }
}

/// Where the low 32 bits of an argument lie; flags and small numbers fit there.
const fn low_half(argument: u32) -> u32 {
    let offset = ARGUMENTS + 8 * argument;
    if cfg!(target_endian = "little") { offset } else { offset + 4 }
}

const fn load(offset: u32) -> sock_filter {
    sock_filter { code: LOAD_WORD, jt: 0, jf: 0, k: offset }
}
const fn and(mask: u32) -> sock_filter {
    sock_filter { code: AND, jt: 0, jf: 0, k: mask }
}
const fn ret(action: u32) -> sock_filter {
    sock_filter { code: RETURN, jt: 0, jf: 0, k: action }
}
const fn jump_equal(value: u32, then: u8, otherwise: u8) -> sock_filter {
    sock_filter { code: JUMP_EQUAL, jt: then, jf: otherwise, k: value }
}
const fn jump_any_bit(bits: u32, then: u8, otherwise: u8) -> sock_filter {
    sock_filter { code: JUMP_ANY_BIT, jt: then, jf: otherwise, k: bits }
}

// The only condition on `Call` that this file relies on: every row is either always wanted or belongs to a group.
const _: () =
    assert!(Wanted { network: false, files: false, unix: false, hostname: false }.wants(Call::Execute));
