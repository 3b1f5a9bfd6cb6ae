#!/bin/bash
# Builds the fuzz targets and runs each for a while: run.sh [SECONDS] [TARGET...]. A finding ends it with exit code 1 and stays in
# artifacts/TARGET-... . cargo-fuzz works here, too; this needs neither it nor a nightly toolchain: coverage comes from stable
# flags, and Rust's own checks (bounds, overflow, assertions) stand in for the address sanitizer, since no target holds unsafe code.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")"
seconds=${1:-10}
shift || true
targets=("$@")
[[ $# -gt 0 ]] || mapfile -t targets < <(sed -n '/^\[\[bin\]\]/{n;s/name = "\(.*\)"/\1/p}' Cargo.toml)
# No target runs the agent that the session crate embeds.
export MIRRORD_AGENT_BIN=/bin/true
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
# With --target the flags do not reach build scripts and macros, which would not link with them.
triple=$(rustc -vV | sed -n 's/^host: //p')
cargo build --release --locked --target "$triple"
failed=0
for target in "${targets[@]}"; do
    mkdir -p "corpus/$target" artifacts
    echo "== $target, ${seconds} s"
    "${CARGO_TARGET_DIR:-target}/$triple/release/$target" "corpus/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 \
        -artifact_prefix="artifacts/$target-" -print_final_stats=1 -verbosity=0 2>"artifacts/$target.log" || failed=1
    grep -E '^stat::(number_of_executed_units|peak_rss_mb)|panicked|SUMMARY' "artifacts/$target.log" || true
done
exit $failed
