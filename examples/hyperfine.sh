#!/usr/bin/env bash
# Publish the mean time of commands: hyperfine.sh [OPTION]... COMMAND...
set -euo pipefail
runs=$(mktemp)
trap 'rm -f "$runs"' EXIT
hyperfine --export-json "$runs" "$@" >&2
jq -c '.results[] | {(.command + ".seconds"): .mean}' "$runs" | bai-emit
