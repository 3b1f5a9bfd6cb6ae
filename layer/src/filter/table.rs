//! System call numbers and conditions, one table per architecture.

/// A trapped system call, by what the supervisor does with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// socket(2).
    Socket,
    /// listen(2).
    Listen,
    /// connect(2).
    Connect,
    /// execve(2), execveat(2): reported, then the kernel goes on.
    Execute,
    /// uname(2), of which gethostname(3) is made.
    Uname,
    /// A call that takes a path.
    Path(PathCall),
}

/// A call that takes a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PathCall {
    Open,
    OpenAt,
    OpenAt2,
    Creat,
    Stat,
    Lstat,
    NewFstatAt,
    Statx,
    Access,
    FaccessAt,
    FaccessAt2,
    Readlink,
    ReadlinkAt,
    Statfs,
    GetXattr,
    LgetXattr,
    ListXattr,
    LlistXattr,
}

/// Which of the calls with a number are trapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    Always,
    /// None of these bits is set in this argument.
    Clear {
        argument: u32,
        bits: u32,
    },
    /// The arguments are those of an internet stream or datagram socket.
    InternetSocket,
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trap {
    pub(crate) number: u32,
    pub(crate) call: Call,
    pub(crate) when: When,
}

/// What differs between processors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Architecture {
    /// AUDIT_ARCH_* of linux/audit.h.
    pub(crate) audit: u32,
    /// io_uring_setup(2), which is answered with ENOSYS: what goes through a ring passes no filter.
    pub(crate) io_uring_setup: u32,
    pub(crate) traps: &'static [Trap],
}

/// AT_EMPTY_PATH: the call is about the descriptor itself. C libraries make fstat(2) of it, which must stay free.
const EMPTY_PATH: u32 = 0x1000;

const fn always(number: u32, call: Call) -> Trap {
    Trap { number, call, when: When::Always }
}
const fn path(number: u32, call: PathCall) -> Trap {
    always(number, Call::Path(call))
}
const fn path_with_flags(number: u32, call: PathCall, argument: u32) -> Trap {
    Trap { number, call: Call::Path(call), when: When::Clear { argument, bits: EMPTY_PATH } }
}
const fn socket(number: u32) -> Trap {
    Trap { number, call: Call::Socket, when: When::InternetSocket }
}

/// arch/x86/entry/syscalls/syscall_64.tbl
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "tables of other processors are only tested")
)]
pub(crate) const X86_64: Architecture = Architecture {
    audit: 0xc000_003e,
    io_uring_setup: 425,
    traps: &[
        path(257, PathCall::OpenAt),
        path_with_flags(262, PathCall::NewFstatAt, 3),
        path_with_flags(332, PathCall::Statx, 2),
        path(4, PathCall::Stat),
        path(6, PathCall::Lstat),
        path(2, PathCall::Open),
        path(21, PathCall::Access),
        path(89, PathCall::Readlink),
        path(267, PathCall::ReadlinkAt),
        path(269, PathCall::FaccessAt),
        path_with_flags(439, PathCall::FaccessAt2, 3),
        path(137, PathCall::Statfs),
        path(437, PathCall::OpenAt2),
        path(85, PathCall::Creat),
        path(191, PathCall::GetXattr),
        path(192, PathCall::LgetXattr),
        path(194, PathCall::ListXattr),
        path(195, PathCall::LlistXattr),
        socket(41),
        always(50, Call::Listen),
        always(42, Call::Connect),
        always(59, Call::Execute),
        always(322, Call::Execute),
        always(63, Call::Uname),
    ],
};

/// include/uapi/asm-generic/unistd.h
#[cfg_attr(
    not(any(target_arch = "aarch64", test)),
    expect(dead_code, reason = "tables of other processors are only tested")
)]
pub(crate) const AARCH64: Architecture = Architecture {
    audit: 0xc000_00b7,
    io_uring_setup: 425,
    traps: &[
        path(56, PathCall::OpenAt),
        path_with_flags(79, PathCall::NewFstatAt, 3),
        path_with_flags(291, PathCall::Statx, 2),
        path(78, PathCall::ReadlinkAt),
        path(48, PathCall::FaccessAt),
        path_with_flags(439, PathCall::FaccessAt2, 3),
        path(43, PathCall::Statfs),
        path(437, PathCall::OpenAt2),
        path(8, PathCall::GetXattr),
        path(9, PathCall::LgetXattr),
        path(11, PathCall::ListXattr),
        path(12, PathCall::LlistXattr),
        socket(198),
        always(201, Call::Listen),
        always(203, Call::Connect),
        always(221, Call::Execute),
        always(281, Call::Execute),
        always(160, Call::Uname),
    ],
};

impl Architecture {
    /// The processor that this program was built for.
    #[cfg(target_arch = "x86_64")]
    pub(crate) const NATIVE: Self = X86_64;
    /// The processor that this program was built for.
    #[cfg(target_arch = "aarch64")]
    pub(crate) const NATIVE: Self = AARCH64;

    /// What the call with this number is.
    pub(crate) fn call(&self, number: i32) -> Option<Call> {
        let number = u32::try_from(number).ok()?;
        self.traps.iter().find(|trap| trap.number == number).map(|trap| trap.call)
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the syscall attachment has no table for this processor");
