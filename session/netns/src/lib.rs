//! Linux namespaces, rtnetlink, nf_tables, NFQUEUE, socket diagnosis and packet capture: the kernel-facing library of host and agent.
