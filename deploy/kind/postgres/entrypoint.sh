#!/bin/sh
# Initialises a database from POSTGRES_USER, POSTGRES_PASSWORD and POSTGRES_DB, then becomes
# the server. Arguments go to the server ("postgres" itself is dropped from their front).
set -eu
bin=$(find /usr/lib/postgresql -mindepth 2 -maxdepth 2 -name bin | sort | tail -n 1)
user=${POSTGRES_USER:-postgres}
database=${POSTGRES_DB:-$user}
: "${POSTGRES_PASSWORD:?POSTGRES_PASSWORD must be set}"
if [ "${1:-}" = postgres ]; then shift; fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  umask 077
  secret=$(mktemp)
  printf '%s' "$POSTGRES_PASSWORD" > "$secret"
  "$bin/initdb" -D "$PGDATA" --username="$user" --pwfile="$secret" --auth-host=scram-sha-256 \
    --auth-local=trust --encoding=UTF8 --locale=C.UTF-8 --no-sync > /dev/null
  rm -f "$secret"
  echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
  if [ "$database" != postgres ]; then
    printf 'CREATE DATABASE "%s";\n' "$database" |
      "$bin/postgres" --single -j -D "$PGDATA" postgres > /dev/null
  fi
  # Clients that know the official image wait for this line on both streams.
  echo "database system is ready to accept connections (initialised)"
fi
unset POSTGRES_PASSWORD
exec "$bin/postgres" -D "$PGDATA" -c listen_addresses='*' "$@"
