#!/usr/bin/env bash
# Publish the CPU time of benchmarks: google-benchmark.sh PROGRAM [OPTION]...
set -euo pipefail
"$@" --benchmark_format=json |
    jq -c '.benchmarks[] | {(.name + "." + .time_unit): .cpu_time}' |
    bai-emit
