//! The classic BPF program that picks the packets of some TCP ports, both directions, IPv4 and IPv6. Pure.
//!
//! The program sees the packet from its IP header on (SOCK_DGRAM). What it cannot read it refuses: later fragments, and IPv6
//! extension headers other than the hop-by-hop header of a jumbogram.

use libc::{
    BPF_ABS, BPF_ALU, BPF_B, BPF_H, BPF_IMM, BPF_IND, BPF_JA, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD,
    BPF_LDX, BPF_MSH, BPF_RET, BPF_RSH, BPF_W, sock_filter,
};

use crate::limits::CAPTURE_BYTES;

/// Offset of what the kernel knows about a packet beside its bytes (SKF_AD_OFF, -0x1000), and there: type and interface.
const AUXILIARY: u32 = 0xffff_f000;
const PACKET_TYPE: u32 = AUXILIARY + 4;
const INTERFACE: u32 = AUXILIARY + 8;
/// The packet is being sent (PACKET_OUTGOING).
const OUTGOING: u32 = 4;
/// `lo` has this index in every namespace.
const LOOPBACK: u32 = 1;
const TCP: u32 = 6;
const HOP_BY_HOP: u32 = 0;
/// Bits of the fragment offset in an IPv4 header.
const FRAGMENT_OFFSET: u32 = 0x1fff;

/// Packets of these TCP ports on these interfaces (empty: all).
pub(super) fn program(ports: &[u16], interfaces: &[u32]) -> Vec<sock_filter> {
    let mut code = Vec::new();
    if !interfaces.is_empty() {
        code.extend(one_of(interfaces));
    }
    // Every packet on `lo` passes twice, once on its way out.
    code.extend([
        load(BPF_W | BPF_ABS, INTERFACE),
        jump(BPF_JEQ, LOOPBACK, 0, 3),
        load(BPF_B | BPF_ABS, PACKET_TYPE),
        jump(BPF_JEQ, OUTGOING, 0, 1),
        refuse(),
    ]);
    code.extend(transport_offset());
    for offset in [0, 2] {
        code.push(load(BPF_H | BPF_IND, offset));
        for port in ports {
            code.extend([jump(BPF_JEQ, u32::from(*port), 0, 1), accept()]);
        }
    }
    code.push(refuse());
    code
}

/// Refuses packets of other interfaces.
fn one_of(interfaces: &[u32]) -> Vec<sock_filter> {
    let mut code = vec![load(BPF_W | BPF_ABS, INTERFACE)];
    for (index, left) in interfaces.iter().zip((0..interfaces.len()).rev()) {
        // The rest of the list and its refusal are skipped.
        let distance = u32::try_from(2 * left + 1).unwrap_or(u32::MAX);
        code.extend([jump(BPF_JEQ, *index, 0, 1), skip(distance)]);
    }
    code.push(refuse());
    code
}

/// Leaves the offset of the TCP header in X, or refuses the packet.
fn transport_offset() -> Vec<sock_filter> {
    let v4 = [
        vec![load(BPF_B | BPF_ABS, 9)],
        require(TCP),
        vec![load(BPF_H | BPF_ABS, 6), jump(BPF_JSET, FRAGMENT_OFFSET, 0, 1), refuse()],
        vec![instruction(BPF_LDX | BPF_B | BPF_MSH, 0)],
    ]
    .concat();
    let plain = vec![instruction(BPF_LDX | BPF_IMM, 40)];
    // TCP behind a hop-by-hop header of 8 bytes: next header 6, length 0 further units.
    let jumbogram = [
        require(HOP_BY_HOP),
        vec![load(BPF_H | BPF_ABS, 40)],
        require(TCP << 8),
        vec![instruction(BPF_LDX | BPF_IMM, 48)],
    ]
    .concat();
    let v6 =
        [require(6), vec![load(BPF_B | BPF_ABS, 6)], either(jump(BPF_JEQ, TCP, 0, 0), plain, &jumbogram)]
            .concat();
    let version = vec![load(BPF_B | BPF_ABS, 0), instruction(BPF_ALU | BPF_RSH | BPF_K, 4)];
    [version, either(jump(BPF_JEQ, 4, 0, 0), v4, &v6)].concat()
}

/// Refuses the packet unless the accumulator has this value.
fn require(value: u32) -> Vec<sock_filter> {
    vec![jump(BPF_JEQ, value, 1, 0), refuse()]
}

/// One block or the other. Blocks are shorter than the 255 instructions that a conditional jump reaches.
fn either(test: sock_filter, then: Vec<sock_filter>, otherwise: &[sock_filter]) -> Vec<sock_filter> {
    let over = u8::try_from(then.len() + 1).unwrap_or(u8::MAX);
    let end = u32::try_from(otherwise.len()).unwrap_or(u32::MAX);
    [vec![sock_filter { jf: over, ..test }], then, vec![skip(end)], otherwise.to_vec()].concat()
}

fn instruction(code: u32, k: u32) -> sock_filter {
    // All codes of classic BPF fit into 8 bits.
    sock_filter { code: u16::try_from(code).unwrap_or(u16::MAX), jt: 0, jf: 0, k }
}

fn load(mode: u32, k: u32) -> sock_filter {
    instruction(BPF_LD | mode, k)
}

fn jump(test: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { jt, jf, ..instruction(BPF_JMP | test | BPF_K, k) }
}

fn skip(distance: u32) -> sock_filter {
    instruction(BPF_JMP | BPF_JA, distance)
}

fn accept() -> sock_filter {
    instruction(BPF_RET | BPF_K, CAPTURE_BYTES)
}

fn refuse() -> sock_filter {
    instruction(BPF_RET | BPF_K, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel's interpreter does with the instructions that are used here.
    fn run(program: &[sock_filter], packet: &[u8], interface: u32, packet_type: u32) -> u32 {
        let (mut a, mut x, mut pc) = (0_u32, 0_u32, 0_usize);
        loop {
            let at = program[pc];
            pc += 1;
            let bytes = |offset: u32, len: usize| {
                let offset = usize::try_from(offset).unwrap();
                packet.get(offset..offset + len).map(|b| b.iter().fold(0, |sum, b| sum << 8 | u32::from(*b)))
            };
            let code = u32::from(at.code);
            let loaded = match code {
                _ if code == BPF_LD | BPF_W | BPF_ABS && at.k == INTERFACE => Some(interface),
                _ if code == BPF_LD | BPF_B | BPF_ABS && at.k == PACKET_TYPE => Some(packet_type),
                _ if code == BPF_LD | BPF_B | BPF_ABS => bytes(at.k, 1),
                _ if code == BPF_LD | BPF_H | BPF_ABS => bytes(at.k, 2),
                _ if code == BPF_LD | BPF_H | BPF_IND => bytes(x + at.k, 2),
                _ if code == BPF_ALU | BPF_RSH | BPF_K => Some(a >> at.k),
                _ => Some(a),
            };
            let Some(loaded) = loaded else { return 0 };
            a = loaded;
            let taken = |yes: bool| usize::from(if yes { at.jt } else { at.jf });
            match code {
                _ if code == BPF_LDX | BPF_IMM => x = at.k,
                _ if code == BPF_LDX | BPF_B | BPF_MSH => x = (bytes(at.k, 1).unwrap() & 15) * 4,
                _ if code == BPF_JMP | BPF_JEQ | BPF_K => pc += taken(a == at.k),
                _ if code == BPF_JMP | BPF_JSET | BPF_K => pc += taken(a & at.k != 0),
                _ if code == BPF_JMP | BPF_JA => pc += usize::try_from(at.k).unwrap(),
                _ if code == BPF_RET | BPF_K => return at.k,
                _ => {}
            }
        }
    }

    fn v4(protocol: u8, src: u16, dst: u16) -> Vec<u8> {
        let mut ip = vec![0x46, 0, 0, 44, 0, 0, 0, 0, 64, protocol, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 1, 1, 1, 1];
        ip.extend(src.to_be_bytes());
        ip.extend(dst.to_be_bytes());
        ip
    }

    fn v6(next: u8, extension: &[u8], dst: u16) -> Vec<u8> {
        let mut ip = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        ip.resize(40, 0);
        ip.extend(extension);
        ip.extend([0, 9]);
        ip.extend(dst.to_be_bytes());
        ip
    }

    #[test]
    fn both_directions_of_the_ports_pass_and_nothing_else() {
        let program = program(&[80, 443], &[]);
        let passes = |packet: &[u8]| run(&program, packet, 2, 0) == CAPTURE_BYTES;
        assert!(passes(&v4(6, 40000, 80)) && passes(&v4(6, 443, 40000)));
        assert!(!passes(&v4(6, 40000, 81)) && !passes(&v4(17, 40000, 80)));
        let mut fragment = v4(6, 40000, 80);
        fragment[7] = 1;
        assert!(!passes(&fragment));
        assert!(passes(&v6(6, &[], 443)) && !passes(&v6(17, &[], 443)) && !passes(&v6(6, &[], 444)));
        assert!(passes(&v6(0, &[6, 0, 0xc2, 4, 0, 2, 0, 0], 443)));
        assert!(!passes(&v6(0, &[17, 0, 0xc2, 4, 0, 2, 0, 0], 443)) && !passes(&[0x10]) && !passes(&[]));
    }

    #[test]
    fn loopback_counts_once_and_interfaces_are_chosen() {
        let packet = v4(6, 40000, 80);
        let all = program(&[80], &[]);
        assert_eq!(run(&all, &packet, LOOPBACK, OUTGOING), 0);
        assert_ne!(run(&all, &packet, LOOPBACK, 0), 0);
        assert_ne!(run(&all, &packet, 2, OUTGOING), 0);
        let some = program(&[80], &[2, 5, 7]);
        let seen: Vec<u32> = (1..9).filter(|index| run(&some, &packet, *index, 0) != 0).collect();
        assert_eq!(seen, [2, 5, 7]);
    }

    #[test]
    fn the_largest_program_fits_into_the_kernel_s_bound() {
        let ports: Vec<u16> = (1..).take(crate::limits::CAPTURE_PORTS).collect();
        assert!(program(&ports, &[1; crate::limits::CAPTURE_INTERFACES]).len() <= 4096);
    }
}
