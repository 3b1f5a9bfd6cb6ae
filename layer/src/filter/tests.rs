//! Runs the program in a small interpreter of classic BPF.

use super::{
    Architecture, Wanted, build,
    table::{AARCH64, X86_64},
};

const ALL: Wanted = Wanted { network: true, files: true, unix: true, hostname: true };

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Allow,
    Notify,
    Errno(u32),
}

fn run(program: &[libc::sock_filter], audit: u32, number: u32, arguments: [u64; 6]) -> Verdict {
    let mut data = Vec::new();
    data.extend_from_slice(&number.to_ne_bytes());
    data.extend_from_slice(&audit.to_ne_bytes());
    data.extend_from_slice(&0_u64.to_ne_bytes());
    arguments.iter().for_each(|argument| data.extend_from_slice(&argument.to_ne_bytes()));
    let (mut at, mut accumulator) = (0, 0_u32);
    loop {
        let instruction = program[at];
        let k = instruction.k;
        at += 1;
        match instruction.code {
            0x20 => {
                let start = k as usize;
                accumulator = u32::from_ne_bytes(data[start..start + 4].try_into().unwrap());
            }
            0x54 => accumulator &= k,
            0x15 => at += usize::from(if accumulator == k { instruction.jt } else { instruction.jf }),
            0x45 => at += usize::from(if accumulator & k != 0 { instruction.jt } else { instruction.jf }),
            0x06 => {
                return match k & 0xffff_0000 {
                    0x7fff_0000 => Verdict::Allow,
                    0x7fc0_0000 => Verdict::Notify,
                    0x0005_0000 => Verdict::Errno(k & 0xffff),
                    other => panic!("unknown action {other:x}"),
                };
            }
            other => panic!("unknown instruction {other:x}"),
        }
    }
}

fn native(number: libc::c_long, arguments: [u64; 6]) -> Verdict {
    let program = build(&Architecture::NATIVE, ALL);
    run(&program, Architecture::NATIVE.audit, u32::try_from(number).unwrap(), arguments)
}

fn socket(domain: libc::c_int, kind: libc::c_int) -> Verdict {
    native(libc::SYS_socket, [u64::from(domain.unsigned_abs()), u64::from(kind.unsigned_abs()), 0, 0, 0, 0])
}

#[test]
fn only_internet_stream_and_datagram_sockets_are_trapped() {
    for domain in [libc::AF_INET, libc::AF_INET6] {
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
            assert_eq!(socket(domain, kind), Verdict::Notify);
            assert_eq!(socket(domain, kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC), Verdict::Notify);
        }
        assert_eq!(socket(domain, libc::SOCK_RAW), Verdict::Allow);
        assert_eq!(socket(domain, libc::SOCK_SEQPACKET), Verdict::Allow);
    }
    for domain in [libc::AF_UNIX, libc::AF_NETLINK, libc::AF_PACKET, libc::AF_VSOCK] {
        assert_eq!(socket(domain, libc::SOCK_STREAM), Verdict::Allow);
    }
}

#[test]
fn the_hot_calls_are_free() {
    for number in [
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_close,
        libc::SYS_fstat,
        libc::SYS_mmap,
        libc::SYS_futex,
        libc::SYS_getpid,
        libc::SYS_sendmsg,
        libc::SYS_recvmsg,
        libc::SYS_accept4,
        libc::SYS_getdents64,
    ] {
        assert_eq!(native(number, [0; 6]), Verdict::Allow);
    }
    // fstat(3) of glibc and musl.
    let empty = u64::from(libc::AT_EMPTY_PATH.unsigned_abs());
    assert_eq!(native(libc::SYS_newfstatat, [3, 0, 0, empty, 0, 0]), Verdict::Allow);
    assert_eq!(native(libc::SYS_newfstatat, [3, 0, 0, 0x100, 0, 0]), Verdict::Notify);
    assert_eq!(native(libc::SYS_statx, [3, 0, empty | 0x100, 0, 0, 0]), Verdict::Allow);
    assert_eq!(native(libc::SYS_statx, [3, 0, 0x100, 0, 0, 0]), Verdict::Notify);
}

#[test]
fn groups_can_be_left_out() {
    for architecture in [X86_64, AARCH64] {
        let none = build(&architecture, Wanted::default());
        for trap in architecture.traps {
            let wanted = matches!(trap.call, super::Call::Execute);
            let verdict = run(&none, architecture.audit, trap.number, [2, 1, 0, 0, 0, 0]);
            assert_eq!(verdict == Verdict::Notify, wanted, "{trap:?}");
            let all = build(&architecture, ALL);
            assert_eq!(
                run(&all, architecture.audit, trap.number, [2, 1, 0, 0, 0, 0]),
                Verdict::Notify,
                "{trap:?}"
            );
        }
    }
}

#[test]
fn other_instruction_sets_are_left_alone() {
    let program = build(&X86_64, ALL);
    const I386: u32 = 0x4000_0003;
    assert_eq!(run(&program, I386, 5, [0; 6]), Verdict::Allow);
    // x32 numbers carry bit 30.
    assert_eq!(run(&program, X86_64.audit, 257 | 0x4000_0000, [0; 6]), Verdict::Allow);
}

#[test]
fn rings_are_refused() {
    assert_eq!(native(libc::SYS_io_uring_setup, [0; 6]), Verdict::Errno(libc::ENOSYS.unsigned_abs()));
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_numbers_are_those_of_the_c_library() {
    use super::{Call, PathCall};
    let number = |call| X86_64.traps.iter().find(|trap| trap.call == call).unwrap().number;
    for (call, expected) in [
        (Call::Socket, libc::SYS_socket),
        (Call::Listen, libc::SYS_listen),
        (Call::Connect, libc::SYS_connect),
        (Call::Execute, libc::SYS_execve),
        (Call::Uname, libc::SYS_uname),
        (Call::Path(PathCall::Open), libc::SYS_open),
        (Call::Path(PathCall::OpenAt), libc::SYS_openat),
        (Call::Path(PathCall::OpenAt2), libc::SYS_openat2),
        (Call::Path(PathCall::Creat), libc::SYS_creat),
        (Call::Path(PathCall::Stat), libc::SYS_stat),
        (Call::Path(PathCall::Lstat), libc::SYS_lstat),
        (Call::Path(PathCall::NewFstatAt), libc::SYS_newfstatat),
        (Call::Path(PathCall::Statx), libc::SYS_statx),
        (Call::Path(PathCall::Access), libc::SYS_access),
        (Call::Path(PathCall::FaccessAt), libc::SYS_faccessat),
        (Call::Path(PathCall::FaccessAt2), libc::SYS_faccessat2),
        (Call::Path(PathCall::Readlink), libc::SYS_readlink),
        (Call::Path(PathCall::ReadlinkAt), libc::SYS_readlinkat),
        (Call::Path(PathCall::Statfs), libc::SYS_statfs),
        (Call::Path(PathCall::GetXattr), libc::SYS_getxattr),
        (Call::Path(PathCall::LgetXattr), libc::SYS_lgetxattr),
        (Call::Path(PathCall::ListXattr), libc::SYS_listxattr),
        (Call::Path(PathCall::LlistXattr), libc::SYS_llistxattr),
    ] {
        assert_eq!(libc::c_long::from(number(call)), expected, "{call:?}");
    }
}
