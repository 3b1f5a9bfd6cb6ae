#!/bin/busybox sh
# The victim with nothing but a static busybox: its shell, wget, nc, nslookup, cat, ls, stat, and its httpd, which runs
# this very script as CGI program. The contract, and what busybox cannot do of it, is in ../README.md.
export LC_ALL=C
NAME=busybox-static
bb=/bin/busybox

fail() {
    case $1 in
    *'onnection refused'*) echo 'error ECONNREFUSED' ;;
    *'No route to host'* | *'ost is unreachable'*) echo 'error EHOSTUNREACH' ;;
    *'etwork is unreachable'* | *'etwork unreachable'*) echo 'error ENETUNREACH' ;;
    *'timed out'*) echo 'error ETIMEDOUT' ;;
    *'bad address'*) echo 'error NXDOMAIN' ;;
    *'No such file'*) echo 'error ENOENT' ;;
    *'Permission denied'*) echo 'error EACCES' ;;
    *'Not a directory'*) echo 'error ENOTDIR' ;;
    *'Is a directory'*) echo 'error EISDIR' ;;
    *) echo "error $1" ;;
    esac
    exit 1
}

# httpd goes to the background by itself once it listens: the only moment at which we know that it does.
# Its home holds nothing but cgi-bin/index.cgi, which it runs for every path that ends in "/".
serve() {
    home=$($bb mktemp -d) && $bb mkdir "$home/cgi-bin" && $bb cp "$0" "$home/cgi-bin/index.cgi" || exit 1
    trap '$bb rm -rf "$home"' EXIT
    complaint=$($bb httpd -p "0.0.0.0:$1" -h "$home" 2>&1) || fail "$complaint"
    for process in /proc/[0-9]*; do
        case $($bb tr '\0' ' ' <"$process/cmdline") in
        *httpd*"$home"*) pid=${process#/proc/} ;;
        esac
    done 2>/dev/null # processes end while we look
    $bb sleep 1000000 &
    trap '$bb kill $pid $!; exit 0' TERM INT
    echo "listening $1"
    wait
}

cgi() {
    body="{\"lang\":\"$NAME\",\"peer\":\"$REMOTE_ADDR:$REMOTE_PORT\",\"method\":\"$REQUEST_METHOD\",\"path\":\"$REQUEST_URI\"}"
    printf 'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Victim: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s' \
        "$NAME" ${#body} "$body"
}

get() {
    dir=$($bb mktemp -d) && trap '$bb rm -rf "$dir"' EXIT
    $bb wget -Y off -q -S -O "$dir/body" "$1" 2>"$dir/head" || {
        complaint=$($bb cat "$dir/head")
        case $complaint in
        *'server returned error: HTTP/'*) : >"$dir/body" ;; # wget drops the body of an error
        *) fail "$complaint" ;;
        esac
    }
    $bb sed -n 's|.*HTTP/1\.[01] \([0-9]*\).*|\1|p' "$dir/head" | $bb head -n 1
    $bb cat "$dir/body"
}

# Asks the name server itself: /etc/hosts is not read.
resolve() {
    out=$($bb nslookup "$1" 2>&1) || fail 'bad address'
    echo "$out" | $bb sed '1,/^$/d' | $bb sed -n 's/^Address.*: //p'
}

# nc does not tell the address that a name became, nor its own: a name is shown as given, the local side as "?".
connect() {
    complaint=$($bb nc "$1" "$2" -e $bb true 2>&1) || fail "$complaint"
    case $1 in
    *:*) echo "ok ? -> [$1]:$2" ;;
    *) echo "ok ? -> $1:$2" ;;
    esac
}

file() { # cat's words, when it fails
    { complaint=$($bb cat "$1" 2>&1 >&3); } 3>&1 || fail "$complaint"
}

ls_dir() {
    [ ! -e "$1" ] || [ -d "$1" ] || fail 'Not a directory'
    { complaint=$($bb ls -A1 "$1" 2>&1 >&3); } 3>&1 || fail "$complaint"
}

stat_of() {
    out=$($bb stat -L -c '%s %a %F' "$1" 2>&1) || fail "$out"
    set -- $out
    case $3 in
    regular) type=file ;;
    directory) type=dir ;;
    symbolic) type=link ;;
    *) type=other ;;
    esac
    printf '%s %04d %s\n' "$1" "$2" "$type"
}

if [ -n "$GATEWAY_INTERFACE" ]; then
    cgi
    exit
fi
case $1:$# in
serve:2 | get:2 | resolve:2 | connect:3 | file:2) "$@" ;;
ls:2) ls_dir "$2" ;;
stat:2) stat_of "$2" ;;
*)
    echo 'usage: victim serve PORT | get URL | resolve NAME | connect HOST PORT | file PATH | ls DIR | stat PATH' >&2
    exit 2
    ;;
esac
