//! The process that holds the namespace.

use std::{
    os::fd::{AsFd, FromRawFd, OwnedFd},
    time::Duration,
};

use mirrord_netns::{holder, seqpacket::SeqPacket};
use mirrord_protocol::sockets::{REPLY_BYTES, Reply, Request};
use rustix::net::{AddressFamily, SocketType};

use crate::{
    runner::wait,
    session::{LIMIT, Session, address},
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
    let kind = SocketType::STREAM.as_raw() | libc_nonblock();
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

fn libc_nonblock() -> u32 {
    rustix::net::SocketFlags::NONBLOCK.bits()
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
