#!/usr/bin/env bash
# Puts this machine's own PostgreSQL, as Debian packages it, into an image: image.sh MAJOR NAME. Nothing is downloaded.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
major=${1:?image.sh MAJOR NAME} name=${2:?image.sh MAJOR NAME}
programs=/usr/lib/postgresql/$major
root=$(mktemp -d)
trap 'rm -rf "$root" "$root.files" "$root.libraries"' EXIT

# Not what compiles queries: the compiler's libraries are most of the size, and the server does without.
{
  for tool in bash cat chmod chown env id mkdir sed setpriv; do command -v "$tool"; done
  find "$programs/bin" "$programs/lib" "/usr/share/postgresql/$major" -type f -not -path '*/bitcode/*' -not -path '*/pgxs/*' -not -name 'llvmjit*'
  find /usr/lib/locale /usr/share/zoneinfo -not -type d
} >"$root.files"
{ grep -E '/bin/|\.so$' "$root.files" | xargs ldd 2>/dev/null || true; } | grep -oE '/[^ :]+\.so[^ :]*' >"$root.libraries"

mkdir -p "$root"/{etc,run,tmp,usr/bin,usr/lib,usr/lib64,usr/local/bin,var/lib/postgresql}
chmod 755 "$root"
chmod 1777 "$root/tmp"
ln -s usr/bin usr/lib usr/lib64 "$root"
ln -s ../run "$root/var/run"
ln -s bash "$root/usr/bin/sh"
sort -u "$root.files" "$root.libraries" | sed 's,^/,,' |
  tar --create --directory=/ --dereference --hard-dereference --transform='s,^\(bin\|lib\|lib64\)/,usr/\1/,' --files-from=- |
  tar --extract --directory="$root"
sed -i "s/^#\?listen_addresses = .*/listen_addresses = '*'/" "$root/usr/share/postgresql/$major/postgresql.conf.sample"
printf '%s\n' root:x:0:0::/root:/bin/sh postgres:x:999:999::/var/lib/postgresql:/bin/sh >"$root/etc/passwd"
printf '%s\n' root:x:0: postgres:x:999: >"$root/etc/group"
install -m 755 "$here/entrypoint.sh" "$root/usr/local/bin/docker-entrypoint.sh"

tar --create --directory="$root" . | docker import \
  --change "ENV PATH=$programs/bin:/usr/local/bin:/usr/bin" --change 'ENV LANG=C.UTF-8' --change 'ENV PGDATA=/var/lib/postgresql/data' \
  --change 'VOLUME /var/lib/postgresql/data' --change 'EXPOSE 5432' \
  --change 'ENTRYPOINT ["docker-entrypoint.sh"]' --change 'CMD ["postgres"]' - "$name"
