#!/bin/bash
# Behaves as the official image's: POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB and PGDATA, and arguments of the server as the command.
set -euo pipefail
: "${PGDATA:=/var/lib/postgresql/data}" "${POSTGRES_USER:=postgres}"
: "${POSTGRES_DB:=$POSTGRES_USER}"

if [ "${1:0:1}" = - ]; then set -- postgres "$@"; fi
if [ "$1" = postgres ] && [ "$(id -u)" = 0 ]; then
  mkdir -p "$PGDATA" /run/postgresql
  chown postgres "$PGDATA" /run/postgresql
  chmod 700 "$PGDATA"
  exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi
if [ "$1" = postgres ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
  initdb --pgdata "$PGDATA" --username "$POSTGRES_USER" --pwfile <(printf '%s\n' "${POSTGRES_PASSWORD:?set it}") --auth-host scram-sha-256 --auth-local trust
  echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
  # As the official one: the first server is not reachable from outside, and stops again.
  pg_ctl --pgdata "$PGDATA" --options "-c listen_addresses=''" --wait start
  [ "$POSTGRES_DB" = postgres ] || psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d postgres -c "CREATE DATABASE \"$POSTGRES_DB\""
  pg_ctl --pgdata "$PGDATA" --mode fast --wait stop
fi
exec "$@"
