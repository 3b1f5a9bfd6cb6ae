//! The servers inside the target: an echo over TCP, UDP and a unix socket.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream, UdpSocket},
    os::unix::net::UnixListener,
    thread,
};

/// Port of the echo over TCP and UDP.
pub(crate) const ECHO: u16 = 80;
/// Path of the unix socket.
pub(crate) const SOCKET: &str = "/run/echo.sock";

/// Starts them on threads of their own.
pub(crate) fn serve() {
    let listener = TcpListener::bind(("::", ECHO)).unwrap();
    thread::spawn(move || {
        for socket in listener.incoming() {
            let socket = socket.unwrap();
            thread::spawn(move || echo(&socket, || socket.shutdown(Shutdown::Write)));
        }
    });
    let listener = UnixListener::bind(SOCKET).unwrap();
    thread::spawn(move || {
        for socket in listener.incoming() {
            let socket = socket.unwrap();
            thread::spawn(move || echo(&socket, || socket.shutdown(Shutdown::Write)));
        }
    });
    let socket = UdpSocket::bind(("::", ECHO)).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 65_535];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            socket.send_to(&buffer[..length], peer).unwrap();
        }
    });
}

/// Until the peer has ended; then ends as well. A reset is an end.
fn echo<S>(mut socket: &S, end: impl FnOnce() -> std::io::Result<()>)
where
    for<'a> &'a S: Read + Write,
{
    let mut buffer = vec![0; 256 << 10];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return drop(end()),
            Ok(length) if socket.write_all(&buffer[..length]).is_ok() => {}
            _ => return,
        }
    }
}

/// Says something to the echo and hears it.
pub(crate) fn ping(socket: &mut TcpStream, text: &str) {
    socket.write_all(text.as_bytes()).unwrap();
    expect(socket, text);
}

/// Reads exactly this text.
pub(crate) fn expect(socket: &mut TcpStream, text: &str) {
    let mut heard = vec![0; text.len()];
    socket.read_exact(&mut heard).unwrap();
    assert_eq!(String::from_utf8_lossy(&heard), text);
}
