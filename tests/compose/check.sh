#!/usr/bin/env bash
# Builds the image and runs docker-compose.yml for real, with podman in place of Docker.
#
#   tests/compose/check.sh [WORK]
#
# With BUILD=0 the images of the last time are used. WORK (default: a folder of its own under $TMPDIR) keeps base image and layers for the next time.
# Needs root, Debian's podman, runc, debootstrap, catatonit, netavark, aardvark-dns and
# iptables, and
# podman-compose on the PATH (pip install podman-compose). Ends what it started.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

work=${1:-${TMPDIR:-/tmp}/ragsocket-compose}
port=${PORT:-8000}
mkdir -p "$work"
say() { printf '\n== %s\n' "$*"; }
fail() { echo "FAILED: $*" >&2; exit 1; }

cat > "$work/storage.conf" <<CONF
[storage]
driver = "vfs"
runroot = "$work/run"
graphroot = "$work/storage"
CONF
# crun does not start under hybrid control groups, and without the limits no run starts as root
# of a sandbox.
cat > "$work/containers.conf" <<CONF
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=1000:1000"]
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
CONF
export CONTAINERS_STORAGE_CONF="$work/storage.conf" CONTAINERS_CONF="$work/containers.conf"

base=localhost/python:3.11-slim
if ! podman image exists "$base"; then
  say "the base image, from this machine's own Debian mirror"
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)
  debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates \
    bookworm "$work/rootfs" "$mirror" > "$work/debootstrap.log"
  tar -C "$work/rootfs" -c . | podman import - "$base"
  rm -rf "$work/rootfs"
fi

# How this machine reaches its package registries holds inside the build as well.
reach=(--network host)
for path in /etc/hosts /etc/resolv.conf /etc/pip.conf "$HOME/.config/pip" /etc/ssl/certs \
  "${PIP_CERT:-}" "${SSL_CERT_FILE:-}" /usr/local/share/ca-certificates; do
  if [[ -n $path && -e $path ]]; then reach+=(--volume "$path:$path:ro"); fi
done
for name in PIP_CERT SSL_CERT_FILE REQUESTS_CA_BUNDLE; do
  if [[ -n ${!name:-} ]]; then reach+=(--env "$name=${!name}"); fi
done

build() {
  podman build --format docker --ulimit nproc=1000:1000 --ulimit nofile=4096:4096 \
    "${reach[@]}" --build-arg "BASE=$base" "$@" . > "$work/build.log" 2>&1 \
    || { tail -n 40 "$work/build.log" >&2; fail "the image cannot be built"; }
}
bytes() { podman image inspect --format '{{.Size}}' "$1"; }

if [[ ${BUILD:-1} == 1 ]]; then
  say "the image without native model code"
  build --build-arg REQUIREMENTS=base --tag localhost/ragsocket:base
  say "the image"
  build --tag localhost/ragsocket
fi
grown() { echo $((($(bytes "$1") - $(bytes "$base")) / 1000000)); }
printf 'base %d MB; without model code %d MB more, with it %d MB more\n' \
  $(($(bytes "$base") / 1000000)) "$(grown localhost/ragsocket:base)" "$(grown localhost/ragsocket)"

say "docker compose up"
export RAGSOCKET_IMAGE=localhost/ragsocket PORT=$port
# RAGSOCKET_LLM_MODEL= (empty) fetches the default model, as a stranger's first start does.
export RAGSOCKET_LLM_MODEL=${RAGSOCKET_LLM_MODEL-none}
# Debian's podman does not know host-gateway yet; nothing here asks for a server of this machine.
sed '/extra_hosts:/d; /host-gateway/d' docker-compose.yml > "$work/docker-compose.yml"
ln -sfn "$PWD/data" "$work/data"
compose=(podman-compose --file "$work/docker-compose.yml" --project-name ragsocket_check)
trap '"${compose[@]}" down --volumes > "$work/down.log" 2>&1 || true' EXIT
"${compose[@]}" up --detach --no-build > "$work/up.log" 2>&1 \
  || { cat "$work/up.log" >&2; fail "the services do not start"; }
container=$(podman ps --quiet --filter label=io.podman.compose.project=ragsocket_check | head -n 1)
for _ in $(seq 240); do
  if curl --silent --fail "http://127.0.0.1:$port/readyz" > /dev/null; then break; fi
  sleep 0.5
done
curl --silent --fail "http://127.0.0.1:$port/readyz" \
  || { podman logs "$container" >&2; fail "it does not become ready"; }
echo

say "an answer from ./data"
curl --silent --fail --get --data-urlencode 'query_text=When are dogs allowed in the huts?' \
  "http://127.0.0.1:$port/stream-question/" | tee "$work/answer.txt"
[[ -s $work/answer.txt ]] || fail "there is no answer"
echo

say "who it runs as, and what it may write"
podman exec "$container" sh -c 'id -u; ! touch /opt/ragsocket/x 2>/dev/null && touch /state/x /tmp/x' \
  || fail "the root file system can be written, or its volumes cannot"
[[ $(podman exec "$container" id -u) != 0 ]] || fail "it runs as root"
podman healthcheck run "$container" || fail "its health check fails"
address=$(hostname -I | cut -d' ' -f1)
if [[ -n $address ]] && curl --silent --max-time 2 "http://$address:$port/healthz" > /dev/null; then
  fail "it can be reached from the network"
fi

say "a second start keeps what was said"
made=$(curl --silent --fail -X POST -H 'Content-Type: application/json' -d '{}' \
  "http://127.0.0.1:$port/v1/conversations" | sed 's/.*"id":"\([^"]*\)".*/\1/')
"${compose[@]}" restart > "$work/restart.log" 2>&1
for _ in $(seq 240); do
  if curl --silent --fail "http://127.0.0.1:$port/readyz" > /dev/null; then break; fi
  sleep 0.5
done
curl --silent --fail "http://127.0.0.1:$port/v1/conversations/$made" > /dev/null \
  || fail "the conversation is gone"

say "docker compose stop: it drains and leaves by itself"
"${compose[@]}" stop > "$work/stop.log" 2>&1
[[ $(podman inspect --format '{{.State.ExitCode}}' "$container") == 0 ]] \
  || fail "it ended with $(podman inspect --format '{{.State.ExitCode}}' "$container")"
say "all well"
