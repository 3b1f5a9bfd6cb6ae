//! nf_tables by netlink: expressions of a rule, and a transaction of tables, chains and rules.
//!
//! Only what the two rule sets need. Constants: linux/netfilter/nf_tables.h. All expressions work on register 1.

use crate::netlink::{APPEND, CREATE, Message, Netlink, NetlinkError};

/// NFNL_SUBSYS_NFTABLES.
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
const DELETE_RULE: u16 = 8;
/// NFT_TABLE_F_OWNER: the table goes when the socket that made it is closed.
const TABLE_OWNER: u32 = 2;
/// NFPROTO_INET: IPv4 and IPv6 in one table.
const FAMILY_INET: u8 = 1;
/// nfgenmsg of a batch's ends: the subsystem as a big-endian resource id.
const BATCH_HEADER: [u8; 4] = [0, 0, 0, 10];
const HEADER: [u8; 4] = [FAMILY_INET, 0, 0, 0];
const REGISTER: u32 = 1;
/// NFT_NAT_DNAT.
const NAT_DESTINATION: u32 = 1;

/// Where a base chain is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    Prerouting = 0,
    Input = 1,
    Output = 3,
}

/// Type of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChainType {
    Filter,
    Nat,
}

/// What `meta` loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meta {
    Mark = 3,
    OutputInterface = 5,
    Family = 15,
    Transport = 16,
}

/// Which header `payload` loads from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    Network = 1,
    Transport = 2,
}

/// How `cmp` compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compare {
    Equal = 0,
    NotEqual = 1,
}

/// ICMP codes that exist for both families (NFT_REJECT_ICMPX_*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreachable {
    Route = 0,
    Port = 1,
    Host = 2,
}

/// The expressions of one rule, in order.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    expressions: Message,
    comment: Option<String>,
}

impl Rule {
    pub(super) fn new() -> Self {
        Self { expressions: Message::content(), comment: None }
    }

    /// Shown by `nft list ruleset`, and how a rule is found again.
    pub(super) fn comment(mut self, text: String) -> Self {
        self.comment = Some(text);
        self
    }

    pub(super) fn meta(self, key: Meta) -> Self {
        self.expression("meta", |data| {
            data.be32(1, REGISTER).be32(2, key as u32);
        })
    }

    pub(super) fn payload(self, header: Header, offset: u32, len: u32) -> Self {
        self.expression("payload", |data| {
            data.be32(1, REGISTER).be32(2, header as u32).be32(3, offset).be32(4, len);
        })
    }

    pub(super) fn compare(self, how: Compare, value: &[u8]) -> Self {
        self.expression("cmp", |data| {
            data.be32(1, REGISTER).be32(2, how as u32).nest(3, |content| {
                content.attribute(1, value);
            });
        })
    }

    /// register = register & mask; the mask is 1 to 16 bytes.
    pub(super) fn mask(self, mask: &[u8]) -> Self {
        let len = u32::try_from(mask.len()).unwrap_or(0);
        let zero = vec![0; mask.len()];
        self.expression("bitwise", |data| {
            data.be32(1, REGISTER).be32(2, REGISTER).be32(3, len);
            data.nest(4, |content| {
                content.attribute(1, mask);
            });
            data.nest(5, |content| {
                content.attribute(1, &zero);
            });
        })
    }

    /// Connection tracking knows the flow in one of these states (NF_CT_STATE_*_BIT), or in none of them.
    pub(super) fn conntrack_state(self, states: u32, how: Compare) -> Self {
        let how = if how == Compare::Equal { Compare::NotEqual } else { Compare::Equal };
        self.expression("ct", |data| {
            data.be32(1, REGISTER).be32(2, 0);
        })
        .mask(&states.to_ne_bytes())
        .compare(how, &0_u32.to_ne_bytes())
    }

    /// The destination is an address of this namespace (`fib daddr type local`).
    pub(super) fn destination_is_local(self) -> Self {
        const RESULT_ADDRESS_TYPE: u32 = 3;
        const FLAG_DESTINATION: u32 = 2;
        const RTN_LOCAL: u32 = 2;
        self.expression("fib", |data| {
            data.be32(1, REGISTER).be32(2, RESULT_ADDRESS_TYPE).be32(3, FLAG_DESTINATION);
        })
        .compare(Compare::Equal, &RTN_LOCAL.to_ne_bytes())
    }

    pub(super) fn counter(self) -> Self {
        self.expression("counter", |_| {})
    }

    pub(super) fn accept(self) -> Self {
        self.verdict(1)
    }

    pub(super) fn drop(self) -> Self {
        self.verdict(0)
    }

    /// redirect to a fixed port of this namespace.
    pub(super) fn redirect(self, port: u16) -> Self {
        self.load_port(port).redirect_to_register()
    }

    /// dnat to another port of the same address. A redirect would lead to 127.0.0.1 what leaves through `lo`, and a client there that
    /// is not of this machine would never be answered from that address.
    pub(super) fn change_port(self, port: u16) -> Self {
        self.load_port(port).expression("nat", |data| {
            data.be32(1, NAT_DESTINATION).be32(2, FAMILY_INET.into()).be32(5, REGISTER);
        })
    }

    fn load_port(self, port: u16) -> Self {
        self.expression("immediate", |data| {
            data.be32(1, REGISTER).nest(2, |content| {
                content.attribute(1, &port.to_be_bytes());
            });
        })
    }

    /// redirect to the port that the first two bytes of the register hold. Has no form in nft's own language.
    pub(super) fn redirect_to_register(self) -> Self {
        self.expression("redir", |data| {
            data.be32(1, REGISTER);
        })
    }

    pub(super) fn reject_reset(self) -> Self {
        self.expression("reject", |data| {
            data.be32(1, 1).attribute(2, &[0]);
        })
    }

    pub(super) fn reject_unreachable(self, code: Unreachable) -> Self {
        self.expression("reject", |data| {
            data.be32(1, 2).attribute(2, &[code as u8]);
        })
    }

    /// nf_tables' own queue expression (CONFIG_NFT_QUEUE).
    pub(super) fn queue_native(self, number: u16) -> Self {
        self.expression("queue", |data| {
            data.attribute(1, &number.to_be_bytes());
            data.attribute(2, &1_u16.to_be_bytes());
            data.attribute(3, &0_u16.to_be_bytes());
        })
    }

    /// xtables' NFQUEUE, revision 3, through nft_compat: struct xt_NFQ_info_v3 in the machine's byte order, padded to 8 bytes.
    pub(super) fn queue_compat(self, number: u16) -> Self {
        let [low, high] = number.to_ne_bytes();
        let [one_low, one_high] = 1_u16.to_ne_bytes();
        self.expression("target", |data| {
            data.text(1, "NFQUEUE").be32(2, 3).attribute(3, &[low, high, one_low, one_high, 0, 0, 0, 0]);
        })
    }

    fn verdict(self, code: u32) -> Self {
        self.expression("immediate", |data| {
            data.be32(1, 0).nest(2, |content| {
                content.nest(2, |verdict| {
                    verdict.be32(1, code);
                });
            });
        })
    }

    fn expression(mut self, name: &str, fill: impl FnOnce(&mut Message)) -> Self {
        self.expressions.nest(1, |element| {
            element.text(1, name).nest(2, fill);
        });
        self
    }
}

/// A transaction on one table.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    table: &'a str,
    messages: Vec<Message>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(table: &'a str) -> Self {
        Self { table, messages: Vec::new() }
    }

    /// Makes the table, owned by the socket that commits.
    pub(super) fn owned_table(mut self) -> Self {
        let mut message = Message::new(SUBSYSTEM << 8 | NEW_TABLE, CREATE, &HEADER);
        message.text(1, self.table).be32(2, TABLE_OWNER);
        self.messages.push(message);
        self
    }

    pub(super) fn delete_table(mut self) -> Self {
        let mut message = Message::new(SUBSYSTEM << 8 | DELETE_TABLE, 0, &HEADER);
        message.text(1, self.table);
        self.messages.push(message);
        self
    }

    pub(super) fn chain(mut self, name: &str, kind: ChainType, hook: Hook, priority: i32) -> Self {
        let mut message = Message::new(SUBSYSTEM << 8 | NEW_CHAIN, CREATE, &HEADER);
        message.text(1, self.table).text(3, name);
        message.nest(4, |place| {
            place.be32(1, hook as u32).attribute(2, &priority.to_be_bytes());
        });
        message.text(7, if kind == ChainType::Nat { "nat" } else { "filter" });
        self.messages.push(message);
        self
    }

    /// Adds a rule at the end of a chain.
    pub(super) fn rule(self, chain: &str, rule: &Rule) -> Self {
        self.rule_at(chain, rule, APPEND)
    }

    /// Adds a rule at the beginning of a chain.
    pub(super) fn first_rule(self, chain: &str, rule: &Rule) -> Self {
        self.rule_at(chain, rule, 0)
    }

    fn rule_at(mut self, chain: &str, rule: &Rule, place: u16) -> Self {
        let mut message = Message::new(SUBSYSTEM << 8 | NEW_RULE, CREATE | place, &HEADER);
        message.text(1, self.table).text(2, chain);
        message.nest(4, |list| {
            list.append(&rule.expressions);
        });
        if let Some(comment) = &rule.comment {
            message.attribute(7, &comment_bytes(comment));
        }
        self.messages.push(message);
        self
    }

    pub(super) fn delete_rule(mut self, chain: &str, handle: u64) -> Self {
        let mut message = Message::new(SUBSYSTEM << 8 | DELETE_RULE, 0, &HEADER);
        message.text(1, self.table).text(2, chain).attribute(3, &handle.to_be_bytes());
        self.messages.push(message);
        self
    }

    pub(super) fn commit(self, netlink: &Netlink) -> Result<(), NetlinkError> {
        let begin = Message::new(BATCH_BEGIN, 0, &BATCH_HEADER);
        let end = Message::new(BATCH_END, 0, &BATCH_HEADER);
        netlink.batch(begin, self.messages, end)
    }
}

/// A rule with a comment as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) table: String,
    pub(super) chain: String,
    pub(super) handle: u64,
    pub(super) comment: String,
    /// Packets of its first counter.
    pub(super) packets: u64,
}

/// The rules of a table that have a comment; `None`: of all tables of the namespace, whosever they are.
pub(super) fn list(netlink: &Netlink, table: Option<&str>) -> Result<Vec<Listed>, NetlinkError> {
    let mut message = Message::new(SUBSYSTEM << 8 | GET_RULE, 0, &HEADER);
    if let Some(table) = table {
        message.text(1, table);
    }
    let rows = netlink.dump(&message)?;
    let text = |bytes: &[u8]| Some(String::from_utf8_lossy(bytes.strip_suffix(&[0])?).into_owned());
    Ok(rows
        .iter()
        .map(|row| row.attributes(HEADER.len()))
        // Old kernels dump the rules of all tables.
        .filter(|rule| table.is_none_or(|table| rule.value(1) == Some(text_bytes(table).as_slice())))
        .filter_map(|rule| {
            Some(Listed {
                table: text(rule.value(1)?)?,
                chain: text(rule.value(2)?)?,
                handle: crate::bytes::array(rule.value(3)?, 0).map(u64::from_be_bytes)?,
                comment: comment_text(rule.value(7)?)?,
                packets: rule.inside(4).and_then(counted).unwrap_or(0),
            })
        })
        .collect())
}

/// Packets of the first counter among the expressions.
fn counted(expressions: crate::netlink::Attributes<'_>) -> Option<u64> {
    expressions.into_iter().find_map(|(_, element)| {
        let element = crate::netlink::Attributes::new(element);
        let counter = element.value(1)? == b"counter\0";
        let packets = element.inside(2)?.value(2)?;
        counter.then(|| crate::bytes::array(packets, 0).map(u64::from_be_bytes))?
    })
}

fn text_bytes(text: &str) -> Vec<u8> {
    text.bytes().chain([0]).collect()
}

/// A comment in the form that nft's user data has: type 0, length, text with its final zero.
fn comment_bytes(text: &str) -> Vec<u8> {
    let text = text_bytes(text);
    let len = u8::try_from(text.len()).unwrap_or(u8::MAX);
    [0, len].into_iter().chain(text).take(usize::from(len) + 2).collect()
}

fn comment_text(bytes: &[u8]) -> Option<String> {
    let (header, text) = bytes.split_first_chunk::<2>()?;
    let text = text.get(..usize::from(header.last().copied()?))?.strip_suffix(&[0])?;
    (header.first() == Some(&0)).then(|| String::from_utf8_lossy(text).into_owned())
}
