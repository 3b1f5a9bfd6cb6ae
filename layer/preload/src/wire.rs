//! The wire between the library in a program and the supervisor: one connection per call, one datagram each way (SOCK_SEQPACKET).
//!
//! A connection per call needs no state in the program: nothing to lock, to keep over fork and exec, or to lose when the program
//! closes all its descriptors. Who asks is told by the kernel (SO_PEERCRED).
//!
//! ```text
//! question  64 bytes  kind | number of the system call | six arguments, as u64     then the path; a descriptor beside it
//! answer    16 bytes  kind | value as i64                                          then bytes; a descriptor beside it
//! ```
//! Byte order is the machine's own.

/// Variable with the path of the supervisor's socket.
pub const SOCKET_VARIABLE: &str = "MIRRORD_TUI_LAYER";
/// Size of the fixed part of a question.
pub const QUESTION_BYTES: usize = 64;
/// Size of the fixed part of an answer.
pub const ANSWER_BYTES: usize = 16;
/// Longest path or name in a question, and most bytes behind an answer (PATH_MAX of linux/limits.h).
pub const PAYLOAD_BYTES: usize = 4096;

/// Kinds of questions.
pub mod ask {
    /// The library has been loaded. The value of the answer says what the session wants to hear of ([`super::wants`]).
    pub const HELLO: u64 = 1;
    /// A system call, by its number and arguments.
    pub const CALL: u64 = 2;
    /// A program is about to be executed, by this process or by a child: may the library be loaded into it? Its path follows, or its
    /// descriptor comes beside.
    pub const EXECUTE: u64 = 3;
    /// The helper that puts a program under a filter: which calls shall it trap?
    pub const FILTER: u64 = 4;
    /// The helper: here is the listener of the filter.
    pub const LISTENER: u64 = 5;
    /// The addresses of a name; the first argument is the address family or 0.
    pub const RESOLVE: u64 = 6;
    /// A call on a socket of the machine's own network: which ([`super::socket`]), a number, an address behind it, the socket beside
    /// it. The answer is a value, with the address for the program behind it.
    pub const SOCKET: u64 = 7;
    /// The name of an address, whose 4 or 16 bytes follow.
    pub const NAME: u64 = 8;
}

/// Calls on sockets, as `SocketCall.Kind` of layer.proto numbers them.
pub mod socket {
    /// bind(2), done by the host.
    pub const BIND: u64 = 1;
    /// listen(2), done by the host.
    pub const LISTEN: u64 = 2;
    /// connect(2), done by the host.
    pub const CONNECT: u64 = 3;
    /// The address of the socket as the program shall see it.
    pub const LOCAL: u64 = 4;
    /// The address of its peer as the program shall see it.
    pub const PEER: u64 = 5;
    /// Where a datagram has to be sent to.
    pub const SEND: u64 = 6;
    /// Where a datagram came from.
    pub const RECEIVE: u64 = 7;
    /// The error that the program shall see.
    pub const ERROR: u64 = 8;
}

/// Kinds of answers.
pub mod answer {
    /// Make the real call.
    pub const GO_ON: u64 = 0;
    /// The result; a negative one is an error number.
    pub const VALUE: u64 = 1;
    /// The result is the descriptor beside the answer.
    pub const DESCRIPTOR: u64 = 2;
    /// Execute this helper in the program's place; its path comes behind the answer.
    pub const HELPER: u64 = 3;
    /// Addresses, [`super::ADDRESS_BYTES`] each, or the name that was asked for; the value is an error of getaddrinfo(3).
    pub const ADDRESSES: u64 = 4;
}

/// Bits of the value that answers [`ask::HELLO`].
pub mod wants {
    /// socket(2) and listen(2).
    pub const NETWORK: u64 = 1;
    /// Calls that take a path.
    pub const FILES: u64 = 2;
    /// connect(2) to unix sockets.
    pub const UNIX: u64 = 4;
    /// Names are resolved by the host.
    pub const NAMES: u64 = 8;
    /// uname(2).
    pub const HOSTNAME: u64 = 16;
    /// There is no session netns: addresses are rewritten.
    pub const ADDRESSES: u64 = 32;
}

/// Size of one address in an answer: 4 or 6, then 16 bytes of which an IPv4 address takes the first four.
pub const ADDRESS_BYTES: usize = 17;

/// A question from its fixed part; `None` when the bytes are too few.
#[must_use]
pub fn question(bytes: &[u8]) -> Option<[u64; 8]> {
    let words = bytes.get(..QUESTION_BYTES)?;
    let mut question = [0; 8];
    for (word, bytes) in question.iter_mut().zip(words.chunks_exact(8)) {
        *word = u64::from_ne_bytes(bytes.try_into().ok()?);
    }
    Some(question)
}

/// The fixed part of an answer.
#[must_use]
pub fn encode_answer(kind: u64, value: i64) -> [u8; ANSWER_BYTES] {
    let mut bytes = [0; ANSWER_BYTES];
    let (first, second) = bytes.split_at_mut(8);
    first.copy_from_slice(&kind.to_ne_bytes());
    second.copy_from_slice(&value.to_ne_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_eight_words() {
        let mut bytes = [0; QUESTION_BYTES + 3];
        bytes[8..16].copy_from_slice(&7_u64.to_ne_bytes());
        bytes[56..64].copy_from_slice(&u64::MAX.to_ne_bytes());
        assert_eq!(question(&bytes), Some([0, 7, 0, 0, 0, 0, 0, u64::MAX]));
        assert_eq!(question(&bytes[..63]), None);
    }

    #[test]
    fn an_answer_is_its_kind_and_its_value() {
        let bytes = encode_answer(answer::VALUE, -2);
        assert_eq!(bytes[..8], 1_u64.to_ne_bytes());
        assert_eq!(bytes[8..], (-2_i64).to_ne_bytes());
    }
}
