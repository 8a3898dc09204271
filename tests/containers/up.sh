#!/usr/bin/env bash
# Starts a Docker engine of its own, for root on Debian where none is there, and gives it a look-alike of the official image.
#   up.sh STATE [PID]   prints the exports that tests need; STATE is a directory with a short name
#   down.sh STATE       stops the engine, as it also is when the process PID is gone
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
state=${1:?up.sh STATE [PID]}
major=15
export DOCKER_HOST="unix://$state/docker.sock"

fail() {
  echo "up.sh: $1" >&2
  tail -n 5 "$2" >&2
  exit 1
}

install() {
  DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 install -y -qq --no-install-recommends docker.io iproute2 iptables
}

mkdir -p "$state"
if ! command -v dockerd >/dev/null || ! command -v ip >/dev/null; then
  install >"$state/apt.log" 2>&1 || { apt-get update -qq && install; } >"$state/apt.log" 2>&1 || fail "docker.io cannot be installed" "$state/apt.log"
fi

# On a bridge of its own, so that two engines are not in each other's way. Without rules of a firewall and without forwarding: a published port is served
# by docker-proxy, and the rest of the host's network stays as it is.
bridge=rlskit$$
echo "$bridge" >"$state/bridge"
{ ip link add "$bridge" type bridge && ip address add "10.213.$(($$ % 256)).1/24" dev "$bridge" && ip link set "$bridge" up; } >"$state/ip.log" 2>&1 ||
  fail "there is no bridge to be had" "$state/ip.log"
setsid dockerd --data-root "$state/data" --exec-root "$state/exec" --pidfile "$state/dockerd.pid" --host "$DOCKER_HOST" --bridge "$bridge" \
  --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false >"$state/dockerd.log" 2>&1 </dev/null &
echo $! >"$state/engine.pid"
if [ -n "${2:-}" ]; then
  # shellcheck disable=SC2016 # expanded by the other shell
  setsid bash -c 'while kill -0 "$1"; do sleep 2; done; exec "$2" "$3"' - "$2" "$here/down.sh" "$state" >/dev/null 2>&1 </dev/null &
fi
for _ in $(seq 150); do
  docker info >/dev/null 2>&1 && break
  kill -0 "$(cat "$state/engine.pid")" 2>/dev/null || break
  sleep 0.2
done
docker info >/dev/null 2>&1 || fail "dockerd does not answer" "$state/dockerd.log"

"$here/image.sh" "$major" "postgres-lookalike:$major" >"$state/image.log" 2>&1 || fail "the image cannot be made" "$state/image.log"

echo "export DOCKER_HOST=$DOCKER_HOST"
echo "export RLSKIT_TEST_IMAGE=postgres-lookalike:$major"
echo "export TESTCONTAINERS_RYUK_DISABLED=true"          # its image would have to be pulled
echo "export TESTCONTAINERS_CONNECTION_MODE=docker_host" # the engine's ports are on this host, also where this is a container itself
