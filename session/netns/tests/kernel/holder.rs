//! The process that holds the namespace.

use std::{
    os::fd::{AsFd, FromRawFd, OwnedFd},
    time::Duration,
};

use mirrord_netns::{holder, seqpacket::SeqPacket};
use mirrord_protocol::sockets::{REPLY_BYTES, Reply, Request};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::{
    runner::wait,
    session::{LIMIT, Session, V4, V6, address},
};

/// What the child process does.
#[expect(unsafe_code, reason = "takes over the descriptor that the parent left at number 3")]
pub(crate) fn process() {
    mirrord_netns::ns::die_with_parent(None).unwrap();
    // SAFETY: the parent mapped exactly one descriptor to this number, and nothing else in this process has touched it.
    let control = unsafe { OwnedFd::from_raw_fd(3) };
    // A failure has been told to the other end.
    holder::run(control).ok();
}

pub(crate) fn serves_endpoints() {
    let session = Session::start();
    let (ours, theirs) = SeqPacket::pair().unwrap();
    session.holder.serve(theirs).unwrap();
    let ask = |request: Request| {
        ours.send(&request.encode(), &[]).unwrap();
        let mut buffer = [0; REPLY_BYTES];
        let received = ours.recv(&mut buffer).unwrap();
        (Reply::decode(&buffer[..received.len]), received.fds)
    };
    let kind = SocketType::STREAM.as_raw() | SocketFlags::NONBLOCK.bits();
    let (reply, fds) = ask(Request::Socket { domain: AddressFamily::INET.as_raw(), kind, protocol: 0 });
    assert_eq!((reply, fds.len()), (Some(Reply::Socket), 1));
    let flags = rustix::fs::fcntl_getfl(&fds[0]).unwrap();
    assert!(flags.contains(rustix::fs::OFlags::NONBLOCK), "flags travel");
    let (reply, fds) = ask(Request::Socket { domain: 99, kind: 1, protocol: 0 });
    let errno = u32::try_from(rustix::io::Errno::AFNOSUPPORT.raw_os_error()).unwrap();
    assert_eq!((reply, fds.len()), (Some(Reply::Failed { errno }), 0));
    // Nonsense closes this endpoint and no other.
    ours.send(b"nonsense", &[]).unwrap();
    assert_eq!(ours.recv(&mut [0; REPLY_BYTES]).unwrap().len, 0);
    session.tcp(address("10.0.0.1", 1));
}

pub(crate) fn ends_with_its_control() {
    let session = Session::start();
    let (ours, theirs) = SeqPacket::pair().unwrap();
    session.holder.serve(theirs).unwrap();
    assert_eq!(wait(session.end(), Duration::from_secs(5)), Some(0));
    // Its other endpoints are closed with it.
    let fd = ours.as_fd();
    let mut fds = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
    assert_eq!(rustix::event::poll(&mut fds, Some(&LIMIT.try_into().unwrap())), Ok(1));
    assert_eq!(ours.recv(&mut [0; 4]).unwrap().len, 0);
}

pub(crate) fn lets_ports_be_bound() {
    let session = Session::start();
    let listener = session.listen("0.0.0.0:80");
    assert_eq!(listener.local_addr().unwrap().port(), 80);
    let v6 = session.listen("[::1]:443");
    assert_eq!(v6.local_addr().unwrap().port(), 443);
}

pub(crate) fn has_no_ipv6_when_the_target_has_none() {
    let session = Session::unconfigured();
    // An address that will not be used is left out; configuring twice is the same as once.
    for _ in 0..2 {
        session.holder.configure(&[V4.parse().unwrap(), V6.parse().unwrap()], false).unwrap();
    }
    let (queue, _table) = session.table();
    let error = session.connect(address("2001:db8::1", 80)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::NETUNREACH.raw_os_error()));
    assert_eq!(queue.recv(&mut Vec::new()).unwrap(), 0, "the kernel itself said so");
}
