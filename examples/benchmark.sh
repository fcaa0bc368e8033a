#!/usr/bin/env bash
# Time sort(1) five times. bash 5 or newer.
set -euo pipefail

# One bai-emit for all metrics, because each start of a program disturbs what is measured.
exec 3> >(bai-emit)
bai_emit=$!

for ((run = 1; run <= 5; run++)); do
    start=${EPOCHREALTIME/[.,]/}
    seq 100000 | sort --reverse --numeric-sort >/dev/null
    end=${EPOCHREALTIME/[.,]/}
    echo "sort.microseconds=$((end - start))" >&3
done

exec 3>&-
wait "$bai_emit" # its exit code: 0 if everything was published
