#!/usr/bin/env bash
# Publish the mean time of benchmarks: pytest-benchmark.sh [ARGUMENT OF PYTEST]...
set -euo pipefail
runs=$(mktemp)
trap 'rm -f "$runs"' EXIT
python -m pytest --benchmark-json="$runs" "$@" >&2
jq -c '.benchmarks[] | {(.name + ".seconds"): .stats.mean}' "$runs" | bai-emit
