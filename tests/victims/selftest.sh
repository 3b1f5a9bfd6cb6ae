#!/bin/bash
# Checks the victims themselves: runs every variant in OUTDIR on plain loopback, without mirrord-tui.
#   selftest.sh OUTDIR [VARIANT...]
# Root runs everything twice, as root and as the user 65534; an ordinary user once. The tests run in a network and mount
# namespace of their own: fixed ports, a name server of our own, and no packet that could leave the machine.
set -u
[[ $# -ge 1 ]] || { echo "usage: $0 OUTDIR [VARIANT...]" >&2; exit 2; }
src=$(dirname "$(realpath "$0")") out=$(realpath "$1")
if [[ -z ${VICTIMS_INSIDE-} ]]; then
    private=(unshare --net --mount)
    [[ $EUID == 0 ]] || private+=(--user --map-root-user)
    VICTIMS_INSIDE=$EUID exec "${private[@]}" "$0" "$@"
fi
shift

# ---- the place: addresses, routes that fail in known ways, names, files

PATH=$PATH:/usr/sbin:/sbin # ip and sysctl, for an ordinary user
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY all_proxy ALL_PROXY
work=$(mktemp -d) && chmod 755 "$work"
background=()
trap 'kill "${background[@]}" 2>/dev/null; umount "$work/ro"; rm -rf "$work"' EXIT
mkdir "$work"/{ro,rw,dir} && cd "$work" || exit 1

ip link set lo up || exit 1
sysctl -qw net.ipv4.ip_unprivileged_port_start=0 net.ipv4.tcp_syn_retries=1
sysctl -qw net.ipv4.tcp_syn_linear_timeouts=0 2>/dev/null # newer kernels; ETIMEDOUT after 3 s instead of 7
ip route add unreachable 192.0.2.1                        # EHOSTUNREACH; everything else is ENETUNREACH

echo 'nameserver 127.0.0.1' >resolv.conf
echo '127.0.0.1 localhost' >hosts
echo 'hosts: files dns' >nsswitch.conf
for file in resolv.conf hosts nsswitch.conf; do mount --bind "$work/$file" "/etc/$file" || exit 1; done

mount -t tmpfs tmpfs ro && echo 'read only' >ro/file && chmod 0666 ro/file && mount -o remount,bind,ro "$work/ro" || exit 1
head -c 300000 /dev/urandom >dir/binary
printf 'hello, victim\nsecond line\n' >dir/text
: >dir/.hidden && mkdir dir/sub && chmod 1777 dir/sub rw && ln -s text dir/link && mkfifo dir/fifo
chmod 0640 dir/binary && chmod 0644 dir/text && chmod 0000 dir/.hidden && chmod 0755 dir
[[ $EUID == 0 && $VICTIMS_INSIDE == 0 ]] && chown -R 65534:65534 dir

# ---- checks

checks=0 failures=0
pass() { ((++checks)); }
bad() { ((++checks, ++failures)); printf '  FAILED %s: %s\n' "$who" "$*"; }
same() { if [[ $2 == "$3" ]]; then pass; else bad "$1: expected '$2', got '$3'"; fi; }
like() { if [[ $3 =~ ^$2$ ]]; then pass; else bad "$1: expected '$2', got '$3'"; fi; }

# expect CODE OUTPUT-REGEX ARGS...: runs the victim
expect() {
    local code=$1 pattern=$2 got
    shift 2
    got=$(timeout 30 "${as[@]}" "$victim" "$@" 2>&1)
    like "$* (exit code $?)" "$pattern \(exit code $code\)" "$got (exit code $?)"
}

# start COMMAND...: in the background, until it says that it listens (or is ready); leaves its id in $pid
start() {
    : >said
    "$@" >said 2>&1 &
    pid=$! background+=("$pid")
    for _ in {1..300}; do
        grep -qsE '^(listening|ready)' said && return
        kill -0 $pid 2>/dev/null || break
        sleep 0.05
    done
    bad "$* did not start: $(<said)"
    return 1
}

# ---- the contract

serve() {
    local port=$1 mode=${2-} reply peer
    start "${as[@]}" "$victim" serve "$port" || return
    same 'first line' "listening $port" "$(<said)"
    exec 3<>"/dev/tcp/127.0.0.1/$port" # an idle connection must not hold up the others
    reply=$(curl -s -i --noproxy '*' -w '\n%{local_ip}:%{local_port} %{num_connects}\n' "http://127.0.0.1:$port/{x,a?b=c}/" | tr -d '\r')
    peer=$(sed -n 's/^\(127.0.0.1:[0-9]*\) 1$/\1/p' <<<"$reply" | head -n 1)
    like 'status' 'HTTP/1.1 200.*' "$reply"
    grep -qi "^x-victim: $name$" <<<"$reply" && pass || bad "no X-Victim in $reply"
    grep -qi '^content-type: application/json$' <<<"$reply" && pass || bad "no Content-Type in $reply"
    same 'body' "{\"lang\":\"$name\",\"peer\":\"$peer\",\"method\":\"GET\",\"path\":\"/x/\"}" "$(grep '^{' <<<"$reply" | head -n 1)"
    if [[ $mode != close ]]; then
        same 'connections of the second request' "$peer 0" "$(tail -n 1 <<<"$reply")"
        same 'second body' "{\"lang\":\"$name\",\"peer\":\"$peer\",\"method\":\"GET\",\"path\":\"/a?b=c/\"}" "$(grep '^{' <<<"$reply" | tail -n 1)"
    fi
    reply=$(head -c 40000 /dev/zero | curl -s --noproxy '*' --data-binary @- -H Expect: -w ' %{http_code}' "http://127.0.0.1:$port/post/")
    like 'POST' '.*"method":"POST","path":"/post/"\} 200' "$reply"
    exec 3>&-
    kill -TERM "$pid"
    timeout 10 tail --pid="$pid" -f /dev/null || bad 'SIGTERM did not end it'
    wait "$pid"
    like 'end by SIGTERM' '(0|143)' $?
    curl -s --noproxy '*' "http://127.0.0.1:$port/" && bad 'still listening'
}

contract() {
    local full=1
    name=$1 victim=$out/$1
    [[ $name == busybox-static ]] && full= # ../README.md says what it cannot do
    serve $((port++)) ${full:-close}
    expect 0 $'200\n\\{"lang":"c-static","peer":"127.0.0.1:[0-9]+","method":"GET","path":"/some/path"\\}' get http://127.0.0.1:8000/some/path
    expect 0 $'200\n\\{.*"path":"/"\\}' get http://one.victim.test:8000/
    expect 1 'error ECONNREFUSED' get http://127.0.0.1:9/
    expect 1 'error EHOSTUNREACH' get http://192.0.2.1/
    expect 1 'error ENETUNREACH' get http://203.0.113.1/
    expect 1 'error NXDOMAIN' get http://none.victim.test/
    expect 0 127.0.0.1 resolve one.victim.test
    expect 0 $'127.0.0.[12]\n127.0.0.[12]' resolve two.victim.test
    [[ $full ]] && expect 0 127.0.0.1 resolve localhost
    expect 1 'error NXDOMAIN' resolve none.victim.test
    local mine='127.0.0.1:[0-9]+' mine6='\[::1\]:[0-9]+'
    [[ $full ]] || mine='\?' mine6='\?'
    expect 0 "ok $mine -> 127.0.0.1:8000" connect 127.0.0.1 8000
    expect 0 "ok $mine6 -> \[::1\]:8006" connect ::1 8006
    [[ $full ]] && expect 0 "ok $mine -> 127.0.0.1:8000" connect one.victim.test 8000
    expect 1 'error ECONNREFUSED' connect 127.0.0.1 9
    expect 1 'error EHOSTUNREACH' connect 192.0.2.1 80
    expect 1 'error ENETUNREACH' connect 203.0.113.1 80
    expect 1 'error NXDOMAIN' connect none.victim.test 80
    same 'file' "$(sha256sum <dir/binary)" "$("${as[@]}" "$victim" file "$work/dir/binary" | sha256sum)"
    expect 0 $'hello, victim\nsecond line' file dir/text # relative
    expect 1 'error ENOENT' file "$work/none"
    expect 1 'error ENOTDIR' file "$work/dir/text/below"
    expect 1 'error EISDIR' file "$work/dir"
    expect 0 $'.hidden\nbinary\nfifo\nlink\nsub\ntext' ls "$work/dir"
    expect 0 '' ls "$work/dir/sub"
    expect 1 'error ENOENT' ls "$work/none"
    expect 1 'error ENOTDIR' ls "$work/dir/text"
    expect 0 '300000 0640 file' stat "$work/dir/binary"
    expect 0 '0 0000 file' stat "$work/dir/.hidden"
    expect 0 '26 0644 file' stat "$work/dir/link"
    expect 0 '[0-9]+ 1777 dir' stat "$work/dir/sub"
    expect 0 '0 0[0-9]+ other' stat "$work/dir/fifo"
    expect 1 'error ENOENT' stat "$work/none"
    [[ $user == root ]] || expect 1 'error EACCES' file "$work/dir/.hidden"
    expect 2 'usage: .*' nonsense
}

# ---- the behaviour program

accepting() { # SUBCOMMAND PATTERN [ARGS...]: one that waits for a client
    local pattern=$2 reply
    start timeout 30 "${as[@]}" "$victim" "$1" $((++port)) "${@:3}" || return
    for _ in $(seq "${clients:-1}"); do
        exec 3<>"/dev/tcp/127.0.0.1/$port"
        echo "hello" >&3
        read -r -t 5 reply <&3
        same "$1: echo" hello "$reply"
        exec 3>&-
    done
    wait "$pid"
    same "$1: exit code" 0 $?
    like "$1" "listening $port"$'\n'"ok $pattern" "$(<said)"
}

behaviour() {
    local text="ok 26 hello, victim" file=dir/text client='127.0.0.1:[0-9]+'
    name=$1 victim=$out/$1
    accepting dup-listener "$client"
    accepting double-listen "$client"
    accepting fork-accept "$client"
    accepting exec-accept "$client"
    accepting getsockname-after-accept "127.0.0.1:$((port + 1)) $client"
    accepting eintr-accept "$client [0-9]+"
    clients=6 accepting reuseport '[0-6] [0-6] [0-6]' 3 6
    expect 0 'ok EADDRINUSE' double-bind $((++port))
    expect 0 'ok [0-9]+ [0-9]+' rebind0
    expect 0 'ok 127.0.0.1 0.0.0.0' self-connect $((++port))
    expect 0 'ok 80 443' privileged-bind
    for command in connect-blocking connect-nonblock bound-connect udp-connected; do
        expect 0 "ok $client -> 127.0.0.1:8001" $command 127.0.0.1 8001
    done
    expect 0 'ok \[::1\]:[0-9]+ -> \[::1\]:8006' connect-nonblock ::1 8006
    expect 0 "ok \[::ffff:127.0.0.1\]:[0-9]+ -> \[::ffff:127.0.0.1\]:8001" v6-mapped 127.0.0.1 8001
    expect 0 'ok 100' connect-many 127.0.0.1 8001 100
    expect 1 'error ECONNREFUSED .*' connect-blocking 127.0.0.1 9
    expect 1 'error ECONNREFUSED .*' connect-nonblock 127.0.0.1 9
    expect 0 'ok 127.0.0.1:8001' udp-echo 127.0.0.1 8001
    expect 0 'ok 127.0.0.1:8001' udp-sendmsg 127.0.0.1 8001
    expect 0 'ok 127.0.0.1:8001 127.0.0.1:8002' udp-many 127.0.0.1 8001 8002
    for command in readv mmap fopen script-chain vfork-exec posix-spawn stdin-closed; do
        expect 0 "$text" $command $file
    done
    expect 0 "$text" openat-relative dir text
    expect 0 "$text" openat-relative dir link
    expect 0 "$text" chdir-relative dir text
    expect 0 'ok 2 5 300[0-9]+' opendir-walk dir
    expect 0 'ok 0640 0604 0431 0755' open-modes "$work/rw/new"
    expect 0 "ok $work/dir/text" realpath dir/link
    expect 0 'ok rw-' access dir/text
    expect 0 'ok text' readlink dir/link
    expect 0 'ok 26 0644' statx dir/text
    expect 0 'ok 0x[0-9a-f]+ [0-9]+' statfs dir/text
    expect 0 'ok EROFS' o-rdwr-remote ro/file
    expect 0 'ok [0-9]+' threads-open 4 dir/text
    expect 0 'ok (works|ENOSYS|EPERM)' io-uring
    expect 0 'ok [0-9]+' pidfd
    expect 0 'ok [0-9]+' getppid
    expect 42 'ok exit 42' exit 42
    expect 137 '(.*Killed.*)?ok raise 9' raise KILL
    rm -f rw/out && expect 0 'ok [0-9]+' daemon "$work/dir/text" "$work/rw/out"
    for _ in {1..100}; do [[ -e rw/out ]] && break; sleep 0.05; done
    same 'daemon' "$("${as[@]}" cat rw/out)" "$(<dir/text)"
    local run="${as[*]} $victim"
    like tty 'ok /dev/pts/[0-9]+ pgrp [0-9]+ sid [0-9]+' "$(script -qec "exec $run tty" /dev/null </dev/null | tr -d '\r')"
    like winch $'ready\nok 33x[0-9]+' "$(script -qec "exec 3<&0; $run winch <&3 & sleep 0.5; stty rows 33; wait" /dev/null </dev/null | tr -d '\r')"
}

# ---- the run

helper() { # a server that all checks use
    who=helper
    start "$@" || exit 1
}
helper "$out/c-static" serve 8000
helper "$out/behaviour-static" echo-server 8001
helper "$out/behaviour-static" echo-server 8002
helper python3 "$src/dns.py" 127.0.0.1 53 one.victim.test=127.0.0.1 two.victim.test=127.0.0.1,127.0.0.2
# A listener whose queue is full drops every further SYN: ETIMEDOUT
helper python3 -c 'if True:
    import signal, socket
    full = socket.create_server(("127.0.0.1", 8003), backlog=0)
    queued = socket.create_connection(("127.0.0.1", 8003))
    print("listening", flush=True)
    signal.pause()'
socat TCP6-LISTEN:8006,fork,reuseaddr EXEC:cat & background+=($!)

variants=("$@")
[[ $# -gt 0 ]] || variants=($(cd "$out" && ls))
port=9000

suite() {
    local before
    user=$1
    shift
    as=("$@")
    for variant in "${variants[@]}"; do
        who="$variant as $user" before="$checks $failures"
        case $variant in
        behaviour-*) behaviour "$variant" ;;
        *) contract "$variant" ;;
        esac
        echo "$variant as $user: $((checks - ${before% *})) checks, $((failures - ${before#* })) failed"
    done
}

# All at once, because each takes three seconds.
timeouts() {
    for variant in "${variants[@]}"; do
        [[ $variant == behaviour-* ]] || timeout 30 "$out/$variant" connect 127.0.0.1 8003 >"timeout.$variant" 2>&1 &
    done
    wait $(jobs -p | grep -vxF "$(printf '%s\n' "${background[@]}")")
    for variant in "${variants[@]}"; do
        [[ $variant == behaviour-* ]] || who=$variant same 'connect to a silent port' 'error ETIMEDOUT' "$(<"timeout.$variant")"
    done
}

if [[ $VICTIMS_INSIDE == 0 ]]; then
    suite root env
    suite 65534 setpriv --reuid 65534 --regid 65534 --clear-groups
else
    # Inside, we are root of a user namespace; a nested one gives the plain user back.
    suite "$VICTIMS_INSIDE" unshare --user --map-user=65534 --map-group=65534
fi
timeouts
echo "$checks checks, $failures failed"
[[ $failures == 0 ]]
