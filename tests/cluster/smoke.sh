#!/bin/bash
# smoke.sh: does the cluster do what the end-to-end tests need, and does it leave nothing behind?
# Prints one line per check; exit code 77 where cluster.sh cannot run.
set -euo pipefail
. "$(dirname "$0")/env.sh"
cluster=$HERE/cluster.sh
if "$cluster" status > /dev/null; then echo "smoke.sh: a cluster is up and may be in use; take it down first" >&2; exit 1; fi
export KUBECONFIG=$STATE/pki/admin.kubeconfig KUBECACHEDIR=$STATE/kubecache
scratch=$(mktemp -d)
forward= tries=0
trap 'code=$?; [ -z "$forward" ] || kill $forward; "$cluster" down > /dev/null; rm -rf "$scratch"; exit $code' EXIT

kubectl() { "$STATE/bin/kubectl" "$@"; }
last=$(date +%s%3N)
ok() { local t; t=$(date +%s%3N); printf 'ok %6d ms  %s\n' $((t - last)) "$*"; last=$t; }
expect() { if [[ $1 != *$2* ]]; then echo "FAILED: expected '$2' in: $1" >&2; exit 1; fi; }

# Whatever of the cluster is on the machine outside its state folder.
leftovers() {
  local ns=${1:-none} link
  ip -o link show | grep -w $NETNS || true
  ip netns list | grep -w $NETNS || true
  ip route show table all | grep -F -e $POD_CIDR -e $SERVICE_CIDR -e ${NODE_IP%.*} || true
  grep -F -e "$STATE" -e "$RUN" -e $NETNS /proc/self/mountinfo || true
  find /sys/fs/cgroup -maxdepth 2 -name $CGROUP
  ls -d "$RUN" "$STATE/data" /var/lib/kubelet /var/lib/etcd /var/log/pods /var/log/containers /usr/libexec/kubernetes /etc/cni/net.d/*pods* 2> /dev/null || true
  iptables-save | grep KUBE || true
  for link in /proc/[0-9]*/ns/net; do [ "$(readlink "$link" 2> /dev/null)" != "$ns" ] || tr '\0' ' ' < "${link%ns/net}cmdline"; done
}
machine_sysctls() { sysctl kernel.panic kernel.panic_on_oops vm.overcommit_memory vm.panic_on_oom net.ipv4.ip_forward net.ipv4.conf.all.route_localnet; }

"$cluster" down > /dev/null                  # what a crash may have left
sysctls=$(machine_sysctls)
[ -z "$(leftovers)" ] || { echo "FAILED: not a clean machine:"; leftovers; exit 1; }

"$cluster" up
expect "$("$cluster" up)" "already up"
expect "$("$cluster" status)" Ready
node_net=$("$cluster" exec readlink /proc/self/ns/net)
ok "up, up again, status"

kubectl create -f - > /dev/null <<Y
apiVersion: v1
kind: Pod
metadata: {name: hello, labels: {app: hello}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: hello, image: "registry.test/hello:1", env: [{name: GREETING, value: moin}], readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}}]
---
apiVersion: v1
kind: Pod
metadata: {name: python}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: python, image: "registry.test/python:1", command: [python3, -m, http.server, "8080"], resources: {limits: {memory: 64Mi}}}]
---
apiVersion: v1
kind: Service
metadata: {name: hello}
spec: {selector: {app: hello}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: hello.default.svc.cluster.local}
Y
kubectl wait --for=condition=Ready --timeout=30s pod/hello pod/python > /dev/null
ok "pods Ready"

expect "$(kubectl exec python -- sh -c 'hostname; id -u')" $'python\n0'
ok "exec"

fetch='import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())'
# Ready is not yet in kube-proxy's tables.
until kubectl exec python -- python3 -c "$fetch" http://hello/ > /dev/null 2>&1; do (( ++tries < 50 )); sleep 0.1; done
for host in hello alias hello.default.svc.cluster.local; do
  expect "$(kubectl exec python -- python3 -c "$fetch" http://$host/dns)" '"greeting":"moin"'
done
expect "$(kubectl exec python -- python3 -c "$fetch" http://www.example.com 2>&1 || true)" "Name or service not known"
ok "service and DNS from a pod"

kubectl port-forward pod/hello 0:8080 --address 127.0.0.1 > "$scratch/forward" 2>&1 & forward=$!
until port=$(grep -oPm1 '127.0.0.1:\K\d+' "$scratch/forward"); do kill -0 $forward; sleep 0.05; done
expect "$(curl -sS -m 5 -d ping "http://127.0.0.1:$port/pf")" '"body":"ping"'
kill $forward; wait $forward || true; forward=
# The older protocol, spoken by clients that are not kubectl; curl cannot end what it upgraded.
upgrade=$(curl -sS -i --max-time 0.5 --http1.1 --cacert "$STATE/pki/ca.crt" --cert "$STATE/pki/admin.crt" --key "$STATE/pki/admin.key" \
  -H "Connection: Upgrade" -H "Upgrade: websocket" -H "Sec-WebSocket-Version: 13" -H "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==" \
  -H "Sec-WebSocket-Protocol: v4.channel.k8s.io" "https://$NODE_IP:6443/api/v1/namespaces/default/pods/hello/portforward?ports=8080" \
  2> /dev/null | tr -d '\0' || true)
expect "$upgrade" "101 Switching Protocols"
ok "port-forward, over both protocols"

# Shaped like the agent's: no image of its own, the program comes in ConfigMaps that the Job owns.
kubectl create -f - > /dev/null <<Y
apiVersion: batch/v1
kind: Job
metadata: {name: agent}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      nodeName: $NODE
      hostPID: true
      automountServiceAccountToken: false
      containers:
        - name: agent
          image: registry.test/busybox:1
          command: [/.agent/run, /.agent/data]
          securityContext:
            runAsUser: 0
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            seccompProfile: {type: RuntimeDefault}
            capabilities: {drop: [ALL], add: [NET_ADMIN, NET_RAW, SYS_PTRACE, SYS_ADMIN]}
          volumeMounts: [{name: program, mountPath: /.agent, readOnly: true}]
      volumes: [{name: program, projected: {defaultMode: 0555, sources: [{configMap: {name: agent-0}}, {configMap: {name: agent-1}}]}}]
Y
owner="ownerReferences: [{apiVersion: batch/v1, kind: Job, name: agent, uid: $(kubectl get job agent -o 'jsonpath={.metadata.uid}')}]"
head -c 1048576 /dev/urandom > "$scratch/data"       # the largest a ConfigMap takes
kubectl create -f - > /dev/null <<Y
apiVersion: v1
kind: ConfigMap
metadata: {name: agent-0, $owner}
immutable: true
data:
  run: |
    #!/bin/sh
    sha256sum < \$1; grep CapEff /proc/self/status
    server=\$(pidof hello); nsenter --net=/proc/\$server/ns/net wget -qO- http://127.0.0.1:8080/from-the-job
---
apiVersion: v1
kind: ConfigMap
metadata: {name: agent-1, $owner}
immutable: true
binaryData: {data: $(base64 -w0 "$scratch/data")}
Y
kubectl wait --for=condition=Complete --timeout=30s job/agent > /dev/null
log=$(kubectl logs job/agent)
expect "$log" "$(sha256sum < "$scratch/data")"
expect "$log" 0000000000283000
expect "$log" /from-the-job
ok "job from ConfigMaps: ran, saw the node's processes, entered a pod's network"

kubectl delete job agent --cascade=background > /dev/null
kubectl wait --for=delete --timeout=30s pod -l job-name=agent > /dev/null
kubectl wait --for=delete --timeout=30s configmap/agent-0 configmap/agent-1 > /dev/null
ok "delete took pod and ConfigMaps along"

expect "$("$cluster" exec ip route get 198.51.100.1 2>&1 || true)" "unreachable"
pod_ip=$(kubectl get pod hello -o 'jsonpath={.status.podIP}')
expect "$(ip route get "$pod_ip" 2>&1 || true)" "No route"
expect "$("$cluster" exec curl -sS -m 5 "http://$pod_ip:8080/node")" '"path":"/node"'
ok "no way out of the node, no way from the machine to a pod"

"$cluster" down
sleep 0.2
left=$(leftovers "$node_net")
[ -z "$left" ] || { echo "FAILED: left behind:"; echo "$left"; exit 1; }
expect "$(machine_sysctls)" "$sysctls"
ok "nothing left behind"
