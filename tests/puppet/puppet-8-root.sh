#!/bin/sh
# Makes a root directory with Puppet 8, for tests/puppet_8.rs: Debian 13 with its package puppet-agent, some 300 MiB, in a minute or two.
#   sudo tests/puppet/puppet-8-root.sh DIR [MIRROR]      (needs debootstrap; DIR must not be there, or be one that was made before)
# The tests look for it in tmp/puppet-8 of the target directory, or where PUPPET_8_ROOT says.
# Nothing is mounted or started. DIR/outside/{ruby,puppet} run those programs in it, each in a mount namespace that ends with it.
set -eu
root=${1:?"usage: $0 DIR [MIRROR]"}
mirror=${2:-http://deb.debian.org/debian}
if [ -x "$root/outside/ruby" ]; then
  echo "$root is made already"
  exit 0
fi
if [ -e "$root" ]; then
  echo "$root is there and is no finished root: remove it first" >&2
  exit 1
fi
command -v debootstrap >/dev/null || { echo "debootstrap is not installed: apt-get install debootstrap" >&2; exit 1; }
mkdir -p "$(dirname "$root")"
# What is not finished has another name.
making=$root.making
rm -rf "$making"
debootstrap --variant=minbase --include=puppet-agent,ca-certificates trixie "$making" "$mirror" >"$making.log" 2>&1 || {
  tail -n 5 "$making.log" "$making/debootstrap/debootstrap.log" >&2 || true
  exit 1
}
rm -rf "$making/var/cache/apt/archives" "$making.log"
printf '127.0.0.1\tlocalhost\n' > "$making/etc/hosts"
mkdir "$making/outside"
for program in ruby puppet; do
  cat > "$making/outside/$program" <<'SCRIPT'
#!/bin/sh
# Becomes the program of this name in the root that this file is in: with this machine's processes, devices and temporary files, and in the
# directory that it is called in where the root has that too. The mounts are in a namespace of their own, and end with it.
root=$(cd "$(dirname "$0")/.." && pwd -P)
exec unshare -m sh -ec '
  root=$1 program=$2 tmp=$3
  shift 3
  for dir in /proc /dev /sys /tmp ${tmp:+"$tmp"}; do
    mkdir -p "$root$dir"
    mount --rbind "$dir" "$root$dir"
  done
  exec chroot "$root" /bin/sh -c '\''cd "$1" 2>/dev/null || cd /; shift; exec "$@"'\'' sh "$PWD" "$program" "$@"
' sh "$root" "$(basename "$0")" "${TMPDIR:-}" "$@"
SCRIPT
  chmod 755 "$making/outside/$program"
done
mv "$making" "$root"
"$root/outside/puppet" --version
