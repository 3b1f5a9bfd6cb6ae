#!/bin/bash
# Builds the node's programs into the cache folder and prints its name; does nothing when they are
# there. Kubernetes, etcd and kubectl are one Go binary (see node/main.go).
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)

# One folder per set of sources and Go version.
sources() { cat "$HERE"/build.sh "$HERE"/node/{go.mod,go.sum,main.go,dns.go,pause.c,hello/main.go} && go env GOVERSION GOARCH; }
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/mirrord-tui
BIN=$CACHE/k8snode-$(sources | sha256sum | head -c 16)
if [ -f "$BIN/complete" ]; then echo "$BIN"; exit; fi

# Go's build cache for these programs, apart from the user's own; beyond the limit it is not worth keeping.
export GOCACHE=$CACHE/go-build
GO_CACHE_LIMIT_MB=3000

cd "$HERE/node"
version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
minor=${version#v1.}; minor=${minor%%.*}
stamp=k8s.io/component-base/version
flags=(-s -w -X $stamp.gitVersion="$version" -X $stamp.gitMajor=1 -X $stamp.gitMinor="$minor" -X $stamp.gitTreeState=clean)

rm -rf "$BIN.part"; mkdir -p "$BIN.part"
started=$SECONDS
export CGO_ENABLED=0 GOFLAGS=-mod=readonly
# Slow and meek on purpose: it happens once, beside whatever else the machine builds.
go_build() { nice -n 19 go build -p "${GO_BUILD_PARALLEL:-1}" -trimpath -buildvcs=false "$@"; }
go_build -ldflags "${flags[*]}" -o "$BIN.part/k8snode" .
go_build -ldflags "-s -w" -o "$BIN.part/hello" ./hello
cc -O2 -static -s -o "$BIN.part/pause" pause.c
for name in etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl cluster-dns; do
  ln -s k8snode "$BIN.part/$name"
done
touch "$BIN.part/complete"
rm -rf "$BIN"; mv "$BIN.part" "$BIN"
echo "built Kubernetes $version in $((SECONDS - started)) s: $(du -h "$BIN/k8snode" | cut -f1)" >&2

[ "$(du -sm "$GOCACHE" | cut -f1)" -le $GO_CACHE_LIMIT_MB ] || rm -rf "$GOCACHE"
echo "$BIN"
