//! /etc/nsswitch.conf while names are resolved in the target: `hosts` goes to files and DNS, so that no local service (mDNS,
//! systemd-resolved, LDAP) answers for the target's names. All other lines are this machine's.

use bytes::Bytes;
use mirrord_protocol::agent::v1::Stat;

pub(super) const PATH: &str = "/etc/nsswitch.conf";

/// Content and stat of the file that the program sees.
pub(super) fn configuration() -> (Bytes, Stat) {
    let local = std::fs::read_to_string(PATH).unwrap_or_default();
    let content = with_dns(&local);
    let stat = Stat {
        // A key of its own among the copies; the program sees those of the memfd.
        dev: u64::MAX,
        ino: 1,
        mode: libc::S_IFREG | 0o644,
        nlink: 1,
        size: u64::try_from(content.len()).unwrap_or(0),
        blksize: 4096,
        blocks: 8,
        ..Stat::default()
    };
    (content.into(), stat)
}

fn with_dns(local: &str) -> String {
    let is_hosts = |line: &&str| line.trim_start().starts_with("hosts:");
    let kept = local.lines().filter(|line| !is_hosts(line));
    kept.chain(["hosts: files dns"]).fold(String::new(), |text, line| text + line + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hosts_line_is_replaced() {
        let text = with_dns(
            "# x\npasswd: files systemd\n hosts:  mymachines resolve [!UNAVAIL=return] dns\nnetworks: files\n",
        );
        assert_eq!(text, "# x\npasswd: files systemd\nnetworks: files\nhosts: files dns\n");
        assert_eq!(with_dns(""), "hosts: files dns\n");
    }
}
