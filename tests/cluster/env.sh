# Settings shared by the scripts beside this file; sourced, not run.
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# Everything the cluster keeps lives here: keys, images, logs and, while it runs, the node's data.
STATE=$(realpath -m "${MIRRORD_TUI_CLUSTER_DIR:-/var/tmp/mirrord-tui-cluster}")
# Process ids and the lock. One cluster per machine: addresses and names below are fixed.
RUN=/run/mirrord-tui-cluster

NODE=node1
NETNS=mtui-node                 # network namespace, host end of the veth pair, and cgroup of the node
CGROUP=mirrord-tui-e2e
HOST_IP=10.243.0.1
NODE_IP=10.243.0.2
POD_CIDR=10.244.0.0/24
SERVICE_CIDR=10.96.0.0/16
API_SERVICE_IP=10.96.0.1
DNS_SERVICE_IP=10.96.0.10
