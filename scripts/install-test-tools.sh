#!/usr/bin/env bash
# Installs the programs that some tests and benchmarks compare with or stand on. Where that is not possible
# (no root, no apt), those tests are skipped and say why. With the argument `peers` also what bench-wan compares with,
# with `deltas` what bench-delta does, with `health` what bench-health asks with.
set -euo pipefail

declare -A package=([ip]=iproute2 [rsync]=rsync [iperf3]=iperf3 [curl]=curl [strace]=strace [sysctl]=procps [mkfs.xfs]=xfsprogs)
package+=([promtool]=prometheus [prometheus-node-exporter]=prometheus-node-exporter)
package+=([debootstrap]=debootstrap)
package+=([go]=golang-go [protoc]=protobuf-compiler)
package+=([chromium]=chromium)
package+=([etcd]=etcd-server [etcdctl]=etcd-client)
package+=([jq]=jq [groff]=groff-base [netstat]=net-tools [ping]=iputils-ping [shellcheck]=shellcheck [yamllint]=yamllint)
if [[ ${1:-} == peers ]]; then
  package+=([rclone]=rclone [scp]=openssh-client [sshd]=openssh-server)
  package+=([globus-url-copy]=globus-gass-copy-progs [globus-gridftp-server]=globus-gridftp-server-progs)
fi
if [[ ${1:-} == deltas ]]; then
  package+=([zstd]=zstd [xdelta3]=xdelta3 [borg]=borgbackup [casync]=casync [restic]=restic)
  package+=([pgbench]=postgresql-contrib [mke2fs]=e2fsprogs [cmp]=diffutils)
fi
if [[ ${1:-} == health ]]; then
  package+=([hey]=hey)
fi
missing=()
for tool in "${!package[@]}"; do
  command -v "$tool" >/dev/null || missing+=("${package[$tool]}")
done
# pprof's definition of its format
[[ -e /usr/share/gocode/src/github.com/google/pprof/proto/profile.proto ]] || missing+=(golang-github-google-pprof-dev)
# for whoever looks at the screenshots
[[ -e /usr/share/fonts/truetype/dejavu ]] || missing+=(fonts-dejavu-core)
[[ ${#missing[@]} -gt 0 ]] || exit 0
if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
  echo "not installed, tests that need them are skipped: ${missing[*]}" >&2
  exit 0
fi
# the tests start what they need; what comes as a service is neither started now nor enabled
services=()
for name in prometheus prometheus-node-exporter etcd; do
  [[ " ${missing[*]} " =~ \ $name(-server)?\  ]] && [[ -d /run/systemd/system ]] && services+=("$name.service")
done
[[ ${#services[@]} -eq 0 ]] || systemctl --quiet --runtime mask "${services[@]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
[[ ${#services[@]} -eq 0 ]] || {
  systemctl --quiet --runtime unmask "${services[@]}"
  systemctl --quiet disable "${services[@]}"
}
