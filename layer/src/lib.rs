//! The layer: what sits between the user's process and the kernel and hands out descriptors.
