#!/bin/sh
# Makes a root directory with another Puppet than the one that is installed, some 330 MiB, in a minute or two:
#   puppet-8   Debian 13 with its package puppet-agent, for tests/puppet_8.rs
#   openvox    Debian 14, while it is made, with its package openvox-agent, for tests/openvox.rs
#   sudo tests/puppet/puppet-root.sh puppet-8|openvox DIR [MIRROR]
# It needs debootstrap; DIR must not be there, or be one that was made before. The tests look for it in tmp/puppet-8 or tmp/openvox of the
# target directory, or where PUPPET_8_ROOT or OPENVOX_ROOT says.
# Nothing is mounted or started. DIR/outside/{ruby,puppet} run those programs in it, each in a mount namespace that ends with it.
set -eu
usage="usage: $0 puppet-8|openvox DIR [MIRROR]"
which=${1:?"$usage"}
root=${2:?"$usage"}
mirror=${3:-http://deb.debian.org/debian}
case $which in
  puppet-8) suite=trixie package=puppet-agent ;;
  openvox) suite=forky package=openvox-agent ;;
  *) echo "$usage" >&2; exit 1 ;;
esac
if [ -x "$root/outside/ruby" ]; then
  echo "$root is made already"
  exit 0
fi
if [ -e "$root" ]; then
  echo "$root is there and is no finished root: remove it first" >&2
  exit 1
fi
command -v debootstrap >/dev/null || { echo "debootstrap is not installed: apt-get install debootstrap" >&2; exit 1; }
# What every suite of the last years is made by: the one of this name may be younger than debootstrap.
script=/usr/share/debootstrap/scripts/sid
mkdir -p "$(dirname "$root")"
# What is not finished has another name.
making=$root.making
rm -rf "$making"
debootstrap --variant=minbase --include="$package,ca-certificates" "$suite" "$making" "$mirror" "$script" >"$making.log" 2>&1 || {
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
