#!/bin/bash
# Builds every victim into OUTDIR, one executable per variant: build.sh OUTDIR
# A variant is built again only when its sources, its command or this script changed (.stamp/NAME holds the hash).
# One line per variant: built, skipped or missing-tool (which is no failure: the machine does without that variant).
set -u
[[ $# == 1 ]] || { echo "usage: $0 OUTDIR" >&2; exit 2; }
mkdir -p "$1/.stamp" "$1/.log" || exit 1
out=$(realpath "$1") src=$(dirname "$(realpath "$0")") failed=0
cd "$src" || exit 1
exec 9>"$out/.lock" && flock 9 # two test runs may share OUTDIR

# The system's interpreter before one from the user's PATH: a version manager's shim is a chain of scripts in a home
# directory that another user cannot read.
interpreter() { PATH=/usr/bin:/bin:$PATH command -v "$1"; }

# variant NAME TOOLS SOURCE COMMAND...: the command leaves its result in $new, which then replaces OUTDIR/NAME in one
# step (a running victim keeps its old file).
variant() {
    local name=$1 tools=$2 source=$3 tool hash new=$out/.new-$1
    shift 3
    for tool in $tools; do
        command -v "$tool" >/dev/null || { echo "$name missing-tool $tool"; return; }
    done
    hash=$({ echo "$name $tools $*"; find "$source" build.sh -type f -print0 | sort -z | xargs -0 sha256sum; } | sha256sum)
    if [[ -x $out/$name && $(cat "$out/.stamp/$name" 2>/dev/null) == "$hash" ]]; then
        echo "$name skipped"
    elif (new=$new nice "$@") >"$out/.log/$name" 2>&1 && chmod 755 "$new" && mv "$new" "$out/$name"; then
        echo "$hash" >"$out/.stamp/$name"
        echo "$name built"
    else
        echo "$name FAILED"
        cat "$out/.log/$name"
        failed=1
    fi
}

# sh -c so that `nice` has a program to run and $new is expanded late.
compiled() { variant "$1" "$2" "$3" sh -euc "$4"; }

script() { # NAME INTERPRETER FILE [TOOLS]: the first line gets the interpreter's full path
    local path
    path=$(interpreter "$2") || { echo "$1 missing-tool $2"; return; }
    variant "$1" "$path ${4-}" "$3" sh -euc "{ echo '#!$path${5:+ $5}'; tail -n +2 '$3'; } >\$new"
}

cc='-O1 -g -Wall -Wextra -Werror -pthread'
for kind in c-static:gcc:-static c-dynamic:gcc: c-musl:musl-gcc:-static c-musl-dynamic:musl-gcc:; do
    IFS=: read -r name compiler flags <<<"$kind"
    # --no-warnings: the linker's about getaddrinfo() in a static glibc program; ours look up by files and dns only
    compiled "$name" "$compiler" c "$compiler $cc $flags -Wl,--no-warnings -DNAME='\"$name\"' -o \$new c/victim.c"
done
compiled behaviour-static gcc behaviour "gcc $cc -static -o \$new behaviour/*.c"
compiled behaviour-dynamic gcc behaviour "gcc $cc -o \$new behaviour/*.c"

compiled go-static go go "cd go && CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-X main.name=go-static' -o \$new ."
compiled go-cgo "go gcc" go "cd go && CGO_ENABLED=1 go build -trimpath -buildvcs=false -tags netcgo -ldflags '-X main.name=go-cgo' -o \$new ."

for name in rust-std rust-tokio; do
    compiled $name cargo rust "cargo build --locked --quiet --jobs 2 --manifest-path rust/Cargo.toml --target-dir '$out/.rust' --bin $name
        cp '$out/.rust/debug/$name' \$new"
done

compiled java "javac java" java "javac -d '$out/.java' java/Victim.java && cp java/run.sh \$new"

script python-threads python3 python-threads/victim.py
script python-asyncio python3 python-asyncio/victim.py
script node node node/victim.js
script ruby ruby ruby/victim.rb
script perl perl perl/victim.pl
script bash-curl bash bash-curl/victim.sh "curl socat getent"
script busybox-static busybox busybox-static/victim.sh "" sh

exit $failed
