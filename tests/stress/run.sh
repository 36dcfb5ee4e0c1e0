#!/bin/sh
# Builds the stress tests of the handoff, over worker counts and wait policies, and of the rings of events; runs them.
# usage: run.sh [ROUNDS] [CFLAGS...]     e.g. run.sh 50000 -fsanitize=thread
set -eu
here=$(cd "$(dirname "$0")" && pwd)
rounds=${1:-200000}
[ $# -gt 0 ] && shift
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
${CC:-cc} -std=gnu11 -O2 -g -Wall -Wextra -Wno-unused-function "$@" -I"$here/../../fastvec_c" "$here/trace_stress.c" -o "$out/trace" -pthread
"$out/trace" $((rounds / 25)) 1
for futex in "" -DFV_NO_FUTEX; do
    ${CC:-cc} -std=gnu11 -O2 -g -Wall -Wextra -Wno-unused-function $futex "$@" \
        -I"$here/../../fastvec_c" "$here/mailbox_stress.c" -o "$out/stress" -pthread
    for policy in 0 1 2 3; do
        for workers in 1 3 70; do
            "$out/stress" "$workers" "$rounds" "$policy" 1
        done
    done
done
