#!/bin/bash
# One throw-away CA, a serving certificate for apiserver and kubelet, client certificates and
# kubeconfigs for everybody else. Kept in $STATE/pki until this file or env.sh changes.
set -euo pipefail
. "$(dirname "$0")/env.sh"

stamp=$(cat "$HERE/certs.sh" "$HERE/env.sh" | sha256sum)
[ "$(cat "$STATE/pki/stamp" 2>/dev/null)" = "$stamp" ] && exit
rm -rf "$STATE/pki"; mkdir -m 700 -p "$STATE/pki"; cd "$STATE/pki"

key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"; }

# issue NAME SUBJECT USAGE [SUBJECT-ALTERNATIVE-NAMES]
issue() {
  key "$1"
  openssl req -new -key "$1.key" -subj "$2" |
    openssl x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -out "$1.crt" -extfile <(
      printf 'basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\nextendedKeyUsage=%s\n' "$3"
      [ -z "${4:-}" ] || printf 'subjectAltName=%s\n' "$4") 2>/dev/null
}

kubeconfig() {
  cat > "$1.kubeconfig" <<Y
apiVersion: v1
kind: Config
clusters: [{name: mirrord-tui-e2e, cluster: {server: "https://$NODE_IP:6443", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: $1, user: {client-certificate-data: $(base64 -w0 "$1.crt"), client-key-data: $(base64 -w0 "$1.key")}}]
contexts: [{name: mirrord-tui-e2e, context: {cluster: mirrord-tui-e2e, user: $1}}]
current-context: mirrord-tui-e2e
Y
}

key ca
openssl req -x509 -new -key ca.key -days 3650 -subj /CN=mirrord-tui-e2e-ca -out ca.crt
key sa; openssl ec -in sa.key -pubout -out sa.pub 2>/dev/null
issue apiserver /CN=kube-apiserver serverAuth "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,IP:$NODE_IP,IP:$API_SERVICE_IP,IP:127.0.0.1"
issue kubelet-server "/CN=$NODE" serverAuth "DNS:$NODE,IP:$NODE_IP"
issue apiserver-kubelet /O=system:masters/CN=apiserver-kubelet clientAuth
issue admin /O=system:masters/CN=admin clientAuth
issue controller-manager /CN=system:kube-controller-manager clientAuth
issue scheduler /CN=system:kube-scheduler clientAuth
issue kubelet "/O=system:nodes/CN=system:node:$NODE" clientAuth
issue proxy /CN=system:kube-proxy clientAuth
for user in admin controller-manager scheduler kubelet proxy; do kubeconfig $user; done
echo "$stamp" > stamp
