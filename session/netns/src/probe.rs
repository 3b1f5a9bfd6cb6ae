//! What this machine allows: asked by `doctor` and by the choice of the layer's attachment. Nothing that a probe makes stays.

/// One question and its answer.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Short name: `user-namespace`, `netns`, `nft-owner`, `nfqueue`, `nft-redirect`, `conntrack`, `seccomp-listener`, `pidfd-getfd`,
    /// `process-vm-readv`, `fuse`, `capture`.
    pub name: &'static str,
    /// `Ok`: what was found; `Err`: why it does not work.
    pub result: Result<String, String>,
    /// What to do about it; empty when it works.
    pub hint: String,
}

/// Asks everything, one after the other.
#[must_use]
pub fn all() -> Vec<Probe> {
    Vec::new()
}
