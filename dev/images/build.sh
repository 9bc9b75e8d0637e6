#!/bin/bash
# Build the images, one per target of the Dockerfile: [REGISTRY/]NAMESPACE/NAME:TAG.
#
#   REGISTRY   none      NAMESPACE  neversleeps      TAG  the version in pyproject.toml
#   BASE       base image instead of the Dockerfile's default, best with a digest
#   BUILDER    docker or buildah; by default docker if its engine runs, else buildah
#              buildx for a release: pushes images for PLATFORMS, with SBOM and provenance, and
#              prints their digests
#   PLATFORMS  linux/amd64,linux/arm64
#   PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_CERT
#              pip's own variables, for another package index. They may contain a password. The
#              build gets them as a secret, so that no layer and no history contains them.
set -euo pipefail
unset CDPATH
cd "$(dirname "$0")/../.."

IMAGES=(
  users=user-service-07
  billing=billing-service-07
  orders=order-service-07
  notifications=notification-service-07
  gateway=gateway-service-07
  migrations=migrations-07
)

fail() { echo "images: $*" >&2; exit 1; }

find_builder() {
  if docker version >/dev/null 2>&1; then
    echo docker
  elif command -v buildah >/dev/null; then
    echo buildah
  elif command -v docker >/dev/null; then
    fail "docker is installed but its engine does not respond: start it, or install buildah"
  else
    fail "neither docker nor buildah is installed: install one of them"
  fi
}

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
prefix=${REGISTRY:+$REGISTRY/}${NAMESPACE:-neversleeps}
builder=${BUILDER:-$(find_builder)}
case $builder in
  docker) build=(docker build) ;;
  buildah) build=(buildah build --layers) ;; # without --layers, each image would install all packages again
  buildx)
    metadata=$(mktemp -u)
    build=(docker buildx build --push --platform "${PLATFORMS:-linux/amd64,linux/arm64}"
      --sbom=true --provenance=mode=max --metadata-file "$metadata")
    ;;
  *) fail "BUILDER is docker, buildah or buildx, not $builder" ;;
esac
build+=(--label "org.opencontainers.image.version=$version")
if revision=$(git rev-parse HEAD 2>/dev/null); then
  build+=(--label "org.opencontainers.image.revision=$revision")
fi
[ -z "${BASE:-}" ] || build+=(--build-arg "BASE=$BASE")
# With attestations an image is an index of several parts, which `kind load` may refuse.
export BUILDX_NO_DEFAULT_ATTESTATIONS=1
if [ -n "${PIP_INDEX_URL:-}${PIP_EXTRA_INDEX_URL:-}${PIP_CERT:-}" ]; then
  secrets=$(mktemp -d) # only this user can read it
  trap 'rm -rf "$secrets"' EXIT
  {
    echo "[global]"
    [ -z "${PIP_INDEX_URL:-}" ] || echo "index-url = $PIP_INDEX_URL"
    [ -z "${PIP_EXTRA_INDEX_URL:-}" ] || echo "extra-index-url = $PIP_EXTRA_INDEX_URL"
    [ -z "${PIP_CERT:-}" ] || echo "cert = /etc/pip-ca.pem"
  } >"$secrets/pip.conf"
  build+=(--secret "id=pip-conf,src=$secrets/pip.conf")
  [ -z "${PIP_CERT:-}" ] || build+=(--secret "id=pip-ca,src=$PIP_CERT")
fi

for image in "${IMAGES[@]}"; do
  reference=$prefix/${image#*=}:${TAG:-$version}
  "${build[@]}" --target "${image%%=*}" --tag "$reference" .
  if [ "$builder" = buildx ]; then
    digest=$(sed -n 's/.*"containerimage.digest": *"\(sha256:[0-9a-f]*\)".*/\1/p' "$metadata")
    rm -f "$metadata"
    [ -n "$digest" ] || fail "docker buildx named no digest of $reference"
    reference=${reference%:*}@$digest
  fi
  built+=("$reference")
done
echo "images: built with $builder:"
printf '  %s\n' "${built[@]}"
