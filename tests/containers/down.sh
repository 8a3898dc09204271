#!/usr/bin/env bash
# Stops the engine that up.sh STATE started, by its process id, with its containers, and removes STATE.
set -euo pipefail
state=${1:?down.sh STATE}
[ -d "$state" ] || exit 0

pid=$(cat "$state/engine.pid" 2>/dev/null || true)
ours() { [ -n "$pid" ] && grep -qzxF -- "$state/dockerd.pid" "/proc/$pid/cmdline" 2>/dev/null; } # and no other that got its number
if ours; then
  kill "$pid"
  for _ in $(seq 150); do
    ours || break
    sleep 0.2
  done
  if ours; then
    echo "down.sh: the engine does not stop; its process is $pid" >&2
    exit 1
  fi
fi
if bridge=$(cat "$state/bridge" 2>/dev/null) && [ -e "/sys/class/net/$bridge" ]; then
  ip link delete "$bridge"
fi
rm -rf "$state"
