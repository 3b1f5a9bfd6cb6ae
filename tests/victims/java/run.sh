#!/bin/sh
# The class lies beside this script. The shared archive and C1 alone halve the start-up time.
exec java -Xshare:auto -XX:TieredStopAtLevel=1 -cp "${0%/*}/.java" Victim "$@"
