#!/bin/bash
# cluster.sh up | down [--wipe] | status | kubeconfig | exec COMMAND... | restart COMPONENT
#
# A real one-node Kubernetes for the end-to-end tests, in its own network, mount and PID namespaces:
#  - it has no default route: nothing that a pod, the kubelet or a probe sends can leave the machine;
#  - a hostPID pod sees the node's processes, not the machine's;
#  - "down" is: kill what is in the network namespace, delete it, remove the cgroups.
# Exit code 77 of "up": this machine cannot run it (the reason is on stderr); tests skip on it.
set -euo pipefail
. "$(dirname "$0")/env.sh"
export KUBECONFIG=$STATE/pki/admin.kubeconfig KUBECACHEDIR=$STATE/kubecache
INIT=$RUN/init.pid
COMPONENTS=(etcd containerd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy cluster-dns)

main() {
  case ${1:-} in
    up) shift; locked up ;;
    down) shift; locked down "$@" ;;
    status) status ;;
    kubeconfig) echo "$KUBECONFIG" ;;
    exec) shift; running || die "the cluster is not up"; in_node "$@" ;;
    restart) shift; locked restart "$@" ;;
    become-node) become_node ;;
    *) sed -n '2s/^# //p' "$0"; exit 2 ;;
  esac
}

die() { echo "cluster.sh: $*" >&2; exit 1; }
skip() { echo "cluster.sh: cannot run here: $*" >&2; exit 77; }
now() { date +%s%3N; }
step() { local t; t=$(now); printf '%6d ms  (+%d)  %s\n' $((t - STARTED)) $((t - LAST)) "$*"; LAST=$t; }
STARTED=$(now) LAST=$STARTED

locked() {
  [ "$(id -u)" = 0 ] || skip "needs root"
  until [ "$RUN/lock" -ef /proc/self/fd/9 ]; do   # again if the "down" before us removed the file
    mkdir -p "$RUN"; exec 9> "$RUN/lock"; flock 9
  done
  if running && [ "$(cat "$RUN/state")" != "$STATE" ]; then die "a cluster is up in $(cat "$RUN/state"); only one fits on a machine"; fi
  "$@"
}

# The init of a live node: the recorded pid, if it still is in the node's network namespace.
running() { [ -f "$INIT" ] && [ "/proc/$(cat "$INIT")/ns/net" -ef "/run/netns/$NETNS" ]; }

in_node() { nsenter -t "$(cat "$INIT")" --net --mount --pid --wdns="$PWD" -- "$@"; }

# --- up ---------------------------------------------------------------------------------------------

up() {
  if running; then echo "already up"; return; fi
  preflight
  trap 'failed' EXIT
  stop_node                                  # whatever a crash left behind
  local bin; bin=$("$HERE/build.sh")
  cd /                                       # the caller's folder may not exist in the node
  unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY
  mkdir -p "$STATE"/{log,data,conf/cni}; rm -f "$STATE"/log/*
  ln -sfn "$bin" "$STATE/bin"
  "$HERE/certs.sh"
  build_images
  write_config
  step "programs, keys, images and configuration"
  make_network
  make_cgroups
  start_namespaces
  step "namespaces"
  start etcd --data-dir=/var/lib/etcd --unsafe-no-fsync --log-level=warn \
    --listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379 --listen-peer-urls=http://127.0.0.1:2380 \
    --initial-advertise-peer-urls=http://127.0.0.1:2380 --initial-cluster=default=http://127.0.0.1:2380
  start kube-apiserver --etcd-servers=http://127.0.0.1:2379 --advertise-address=$NODE_IP --bind-address=0.0.0.0 --secure-port=6443 \
    --service-cluster-ip-range=$SERVICE_CIDR --allow-privileged --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
    --client-ca-file="$STATE/pki/ca.crt" --tls-cert-file="$STATE/pki/apiserver.crt" --tls-private-key-file="$STATE/pki/apiserver.key" \
    --kubelet-certificate-authority="$STATE/pki/ca.crt" --kubelet-preferred-address-types=InternalIP \
    --kubelet-client-certificate="$STATE/pki/apiserver-kubelet.crt" --kubelet-client-key="$STATE/pki/apiserver-kubelet.key" \
    --service-account-issuer=https://kubernetes.default.svc.cluster.local \
    --service-account-key-file="$STATE/pki/sa.pub" --service-account-signing-key-file="$STATE/pki/sa.key"
  start containerd -c "$STATE/conf/containerd.toml"
  wait_for containerd ctr version
  import_images & local import=$!
  wait_for kube-apiserver curl -fsS --cacert "$STATE/pki/ca.crt" "https://$NODE_IP:6443/readyz"
  start kubelet --config="$STATE/conf/kubelet.yaml" --kubeconfig="$STATE/pki/kubelet.kubeconfig" --hostname-override=$NODE --node-ip=$NODE_IP
  start kube-controller-manager --kubeconfig="$STATE/pki/controller-manager.kubeconfig" --use-service-account-credentials --leader-elect=false \
    --flex-volume-plugin-dir=/var/lib/kubelet/volume-plugins \
    --kube-api-qps=500 --kube-api-burst=1000 `# the default, 20, spends 6 s on the controllers' tokens` \
    --service-account-private-key-file="$STATE/pki/sa.key" --root-ca-file="$STATE/pki/ca.crt"
  start kube-scheduler --kubeconfig="$STATE/pki/scheduler.kubeconfig" --leader-elect=false
  start kube-proxy --kubeconfig="$STATE/pki/proxy.kubeconfig" --hostname-override=$NODE --proxy-mode=iptables --cluster-cidr=$POD_CIDR --iptables-min-sync-period=50ms \
    --conntrack-max-per-core=0 --conntrack-min=0 --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0
  start cluster-dns --kubeconfig="$KUBECONFIG" --listen=$NODE_IP:53
  kubectl create -f "$STATE/conf/dns.yaml" > /dev/null
  step "components started"
  wait $import || die "image import failed"
  step "images imported"
  local object
  for object in serviceaccount/default configmap/kube-root-ca.crt node/$NODE; do   # one by one: two at once do not wait
    kubectl wait --for=create --timeout=60s $object > /dev/null
  done
  kubectl wait --for=condition=Ready --timeout=60s "node/$NODE" > /dev/null
  step "node Ready"
  trap - EXIT
  echo "export KUBECONFIG=$KUBECONFIG"
}

# Leaves with what the components said last, and with nothing running.
failed() {
  local code=$?
  trap - EXIT
  if [ $code = 77 ]; then exit 77; fi
  for log in "$STATE"/log/*.log; do echo "--- $log"; tail -n 4 "$log"; done >&2
  stop_node
  die "up failed; the logs stay in $STATE/log"
}

preflight() {
  local caps; caps=0x$(sed -n 's/^CapEff:\t//p' /proc/self/status)
  (( caps >> 21 & 1 )) || skip "needs CAP_SYS_ADMIN"
  (( caps >> 12 & 1 )) || skip "needs CAP_NET_ADMIN"
  grep -qw overlay /proc/filesystems || skip "the kernel has no overlayfs"
  local c; for c in containerd ctr runc iptables ip nsenter unshare pgrep busybox openssl curl cc go /usr/bin/python3 /usr/lib/cni/ptp; do
    command -v "$c" > /dev/null || skip "$c is missing (see tests/cluster/packages)"
  done
  case $STATE/ in /run/*|/var/run/*|/var/lib/*|/var/log/*) die "MIRRORD_TUI_CLUSTER_DIR: the node has its own /run, /var/lib and /var/log; choose another place" ;; esac
}

kubectl() { "$STATE/bin/kubectl" "$@"; }

build_images() {
  local stamp; stamp=$(readlink "$STATE/bin"; sha256sum < "$HERE/images.py")
  [ "$(cat "$STATE/images/stamp" 2> /dev/null)" = "$stamp" ] && return
  rm -rf "$STATE/images"
  /usr/bin/python3 "$HERE/images.py" "$STATE/bin" "$STATE/images"
  echo "$stamp" > "$STATE/images/stamp"
}

write_config() {
  local name
  for name in containerd.toml kubelet.yaml dns.yaml pods.conflist; do
    sed -e "s|@STATE@|$STATE|g; s|@CGROUP@|$CGROUP|g; s|@NODE_IP@|$NODE_IP|g; s|@POD_CIDR@|$POD_CIDR|g; s|@DNS_SERVICE_IP@|$DNS_SERVICE_IP|g" \
      "$HERE/conf/$name" > "$STATE/conf/$name"
  done
  mv "$STATE/conf/pods.conflist" "$STATE/conf/cni/"
}

# The machine reaches the node's own address and nothing behind it: like a developer's laptop it has no
# way to pods and services except through the API. "unreachable" keeps such packets off its default route.
make_network() {
  ip netns add $NETNS
  ip link add $NETNS type veth peer name eth0 netns $NETNS
  ip addr add $HOST_IP/30 dev $NETNS
  ip link set $NETNS up
  ip route add unreachable $POD_CIDR
  ip route add unreachable $SERVICE_CIDR
  ip -n $NETNS link set lo up
  ip -n $NETNS addr add $NODE_IP/30 dev eth0
  ip -n $NETNS link set eth0 up
  # A route of some kind, or the node's own connections to services fail before kube-proxy's DNAT.
  ip -n $NETNS route add $SERVICE_CIDR dev eth0
}

cgroup_mounts() { if [ -f /sys/fs/cgroup/cgroup.controllers ]; then echo /sys/fs/cgroup; else ls -d /sys/fs/cgroup/*/; fi; }

make_cgroups() {
  local mount name
  for mount in $(cgroup_mounts); do mkdir -p "$mount/$CGROUP"; done
  if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    for name in $(cat /sys/fs/cgroup/cgroup.controllers); do echo "+$name" > /sys/fs/cgroup/cgroup.subtree_control; done
  else
    for name in cpuset.cpus cpuset.mems; do   # a new cpuset is empty and takes no process
      cat /sys/fs/cgroup/cpuset/$name > "/sys/fs/cgroup/cpuset/$CGROUP/$name"
    done
  fi
}

start_namespaces() {
  rm -f "$RUN/node-ready"
  # Not "ip netns exec": it mounts a /sys without cgroups.
  setsid nsenter --net=/run/netns/$NETNS unshare --mount --propagation private --pid --fork --mount-proc \
    "$HERE/cluster.sh" become-node > "$STATE/log/init.log" 2>&1 < /dev/null 9>&- &
  local unshare=$!; disown
  echo "$STATE" > "$RUN/state"
  until [ -f "$RUN/node-ready" ]; do
    kill -0 $unshare 2> /dev/null || die "could not make the namespaces"
    sleep 0.02
  done
  pgrep -P $unshare > "$INIT"
  running || die "lost the node's init"
}

# Runs as PID 1 of the new namespaces: gives the node its own /sys, /run, /var/lib and /var/log.
become_node() {
  local run=$STATE/data/mnt kv
  mkdir -p "$run" "$STATE"/data/{kubelet,containerd}
  # /sys of this network namespace, under the cgroups of the machine
  mount --rbind /sys/fs/cgroup "$run"
  mount -t sysfs sysfs /sys
  mount --move "$run" /sys/fs/cgroup
  # The kubelet writes these, and they belong to the whole machine: give it files that hold what it wants.
  for kv in kernel/panic:10 kernel/panic_on_oops:1 vm/overcommit_memory:1 vm/panic_on_oom:0 kernel/keys/root_maxkeys:1000000 kernel/keys/root_maxbytes:25000000; do
    mkdir -p "$STATE/data/sysctl/$(dirname ${kv%:*})"
    echo ${kv#*:} > "$STATE/data/sysctl/${kv%:*}"
    mount --bind "$STATE/data/sysctl/${kv%:*}" "/proc/sys/${kv%:*}"
  done
  echo 1 > /proc/sys/net/ipv4/ip_forward
  mount -t tmpfs -o mode=755 tmpfs /var/log
  mount -t tmpfs -o mode=755 tmpfs /var/lib
  mkdir -m 700 /var/lib/{kubelet,containerd,etcd}
  # What pods write is on disk, as on any node (in a tmpfs it would count as their memory); etcd is not.
  for dir in kubelet containerd; do mount --bind "$STATE/data/$dir" /var/lib/$dir; done
  mount --make-rshared /                   # mountPropagation needs it; no peer is outside this namespace
  touch "$RUN/node-ready"
  mount -t tmpfs -o mode=755 tmpfs /run
  mkdir /run/netns
  exec "$STATE/bin/pause"
}

# start NAME ARGUMENTS...: one component, its output in log/NAME.log, its pid in NAME.pid
start() {
  local program=$1; shift
  local path=$STATE/bin/$program; [ -x "$path" ] || path=$program
  setsid nsenter -t "$(cat "$INIT")" --net --mount --pid -- "$path" "$@" > "$STATE/log/$program.log" 2>&1 < /dev/null 9>&- &
  echo $! > "$RUN/$program.pid"
  disown
}

# restart NAME: ends one component as a crash would, and starts it with the arguments that it had
restart() {
  local name=${1:-} pid child command
  running || die "the cluster is not up"
  pid=$(cat "$RUN/$name.pid" 2> /dev/null) && child=$(pgrep -P "$pid") || die "$name does not run"
  mapfile -d '' command < "/proc/$pid/cmdline"
  kill -9 "$child"
  while kill -0 "$pid" 2> /dev/null; do sleep 0.02; done
  setsid "${command[@]}" >> "$STATE/log/$name.log" 2>&1 < /dev/null 9>&- &
  echo $! > "$RUN/$name.pid"
  disown
}

wait_for() {
  local name=$1 deadline=$((SECONDS + 60)); shift
  until in_node "$@" > /dev/null 2>&1; do
    kill -0 "$(cat "$RUN/$name.pid")" 2> /dev/null || die "$name ended"
    [ $SECONDS -lt $deadline ] || die "$name does not answer"
    sleep 0.1
  done
  step "$name answers"
}

import_images() { local tar; for tar in "$STATE"/images/*.tar; do in_node ctr -n k8s.io images import "$tar" > /dev/null || return; done; }

# --- down, status -----------------------------------------------------------------------------------

down() {
  stop_node
  rm -rf "$RUN"
  if [ "${1:-}" = --wipe ]; then
    rm -rf "$STATE"/{bin,conf,images,kubecache,log,pki}
    rmdir "$STATE" 2> /dev/null || true      # stays if it holds anything of yours
  fi
  step "down"
}

# Takes down what there is of a node; keeps programs, keys, images and logs.
stop_node() {
  local mount pids
  # With PID 1 of its namespace the kernel ends all the others; it goes last, so nothing is left when it is gone.
  while pids=$(ip netns pids $NETNS 2> /dev/null) && [ -n "$pids" ]; do
    kill -9 $pids 2> /dev/null || true
    sleep 0.02
  done
  rm -f "$RUN"/*.pid "$RUN/node-ready"
  ip netns del $NETNS 2> /dev/null || true
  ip link del $NETNS 2> /dev/null || true  # goes with the namespace, but a little later
  ip route del unreachable $POD_CIDR 2> /dev/null || true
  ip route del unreachable $SERVICE_CIDR 2> /dev/null || true
  for mount in $(cgroup_mounts); do
    for _ in $(seq 50); do
      [ -d "$mount/$CGROUP" ] || break
      find "$mount/$CGROUP" -depth -type d -exec rmdir {} + 2> /dev/null || sleep 0.02
    done
  done
  rm -rf "$STATE/data"
}

status() {
  local name code=0
  for name in "${COMPONENTS[@]}"; do
    if running && kill -0 "$(cat "$RUN/$name.pid" 2> /dev/null)" 2> /dev/null; then echo "$name up"; else echo "$name down"; code=3; fi
  done
  [ $code != 0 ] || kubectl get nodes -o wide
  return $code
}

main "$@"
