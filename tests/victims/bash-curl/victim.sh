#!/bin/bash
# The victim in Bash: curl, getent, coreutils; socat accepts and hands every connection to this script ("handle"),
# which speaks HTTP on it with `read` and `printf`. The contract is in ../README.md.
export LC_ALL=C
NAME=bash-curl

# The tools print libc's words instead of errno.
fail() {
    case $1 in
    *'Connection refused'*) echo 'error ECONNREFUSED' ;;
    *'No route to host'*) echo 'error EHOSTUNREACH' ;;
    *'Network is unreachable'*) echo 'error ENETUNREACH' ;;
    *'timed out'*) echo 'error ETIMEDOUT' ;;
    *'resolve host'*) echo 'error NXDOMAIN' ;;
    *'No such file'*) echo 'error ENOENT' ;;
    *'Permission denied'*) echo 'error EACCES' ;;
    *'Not a directory'*) echo 'error ENOTDIR' ;;
    *'Is a directory'*) echo 'error EISDIR' ;;
    *) echo "error ${1//$'\n'/ }" ;;
    esac
    exit 1
}

handle() {
    local method path version header length close body
    while read -r method path version; do
        length=0 close=keep-alive
        [[ $version == HTTP/1.0* ]] && close=close
        while IFS=$' \r' read -r header && [[ -n $header ]]; do
            case ${header,,} in
            content-length:*) length=${header#*:} ;;
            connection:*close) close=close ;;
            esac
        done
        ((length > 0)) && head -c "$length" >/dev/null
        body="{\"lang\":\"$NAME\",\"peer\":\"$SOCAT_PEERADDR:$SOCAT_PEERPORT\",\"method\":\"$method\",\"path\":\"$path\"}"
        printf 'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Victim: %s\r\nContent-Length: %d\r\nConnection: %s\r\n\r\n%s' \
            "$NAME" ${#body} $close "$body"
        [[ $close == close ]] && break
    done
}

serve() {
    # Only socat knows when it accepts; it says so on stderr (-d -d).
    exec {log}< <(exec socat -d -d "TCP4-LISTEN:$1,bind=0.0.0.0,reuseaddr,fork,backlog=128" "EXEC:$SELF handle,nofork" 2>&1)
    local pid=$! line ready=
    trap 'kill $pid; exit 0' TERM INT
    while read -r line <&$log; do
        case $line in
        *' N listening on '*) [[ $ready ]] || echo "listening $1"; ready=1 ;;
        *' E '*) fail "$line" ;;
        esac
    done
}

get() {
    local body trace status
    body=$(mktemp) && trap 'rm -f "$body"' EXIT
    status=$(curl -sv --noproxy '*' -o "$body" -w '%{http_code}' "$1" 2>"$body.trace") || status=000
    trace=$(<"$body.trace") && rm -f "$body.trace"
    [[ $status == 000 ]] && fail "$trace"
    echo "$status"
    cat "$body"
}

# curl has no "only connect": it asks for / and does not care about the answer. -y: give up on a silent peer after 1 s.
connect() {
    local host=$1 out
    [[ $host == *:* ]] && host="[$host]"
    out=$(curl -sv --noproxy '*' --http0.9 -Y 1 -y 1 -o /dev/null \
        -w 'ok %{num_connects} %{local_ip} %{local_port} %{remote_ip} %{remote_port}' "http://$host:$2/" 2>&1)
    [[ $out =~ ok\ 1\ ([^ ]+)\ ([0-9]+)\ ([^ ]+)\ ([0-9]+)$ ]] || fail "$out"
    set -- "${BASH_REMATCH[@]:1}"
    [[ $1 == *:* ]] && set -- "[$1]" "$2" "[$3]" "$4"
    echo "ok $1:$2 -> $3:$4"
}

resolve() {
    local out
    out=$(getent ahosts "$1") || fail 'resolve host' # getent does not tell why
    awk '$2 == "STREAM" { print $1 }' <<<"$out"
}

# $1 = the tool's complaint; its output went out before.
run() {
    local complaint
    { complaint=$("$@" 2>&1 >&3); } 3>&1 || fail "$complaint"
}

file() { run cat -- "$1"; }

ls_dir() {
    [[ ! -e $1 || -d $1 ]] || fail 'Not a directory'
    run ls -A1 -- "$1"
}

stat_of() {
    local out type
    out=$(stat -L -c '%s %a %F' -- "$1" 2>&1) || fail "$out"
    read -r size mode type <<<"$out"
    case $type in
    regular*) type=file ;;
    directory) type=dir ;;
    symbolic*) type=link ;;
    *) type=other ;;
    esac
    printf '%s %04d %s\n' "$size" "$mode" "$type"
}

SELF=$0
case $1:$# in
serve:2 | get:2 | resolve:2 | connect:3 | file:2) "$@" ;;
ls:2) ls_dir "$2" ;;
stat:2) stat_of "$2" ;;
handle:1) handle ;;
*)
    echo 'usage: victim serve PORT | get URL | resolve NAME | connect HOST PORT | file PATH | ls DIR | stat PATH' >&2
    exit 2
    ;;
esac
