#!/bin/bash
# Renders the chart: deploy/rendered has what helm makes of it for each distribution, and deploy/kustomize the same as bases, so that
# nobody needs helm. With --check nothing is written; it fails if what is there is not what the chart makes, or if the chart, what
# it makes or the bases are not valid.

set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
tools=$here/../target/tools
chart=$here/helm/podwasm
# The oldest version that the chart is for has the fewest kinds.
kubernetes=1.26.0
distributions=(k8s k3s rke2 k0s microk8s)

say() { echo "render: $*"; }
die() { echo "render: $*" >&2; exit 1; }

# template VALUES...: what is applied
template() { "$tools/helm" template podwasm "$chart" --namespace podwasm --kube-version "$kubernetes" --no-hooks "$@"; }
# cleanup VALUES...: what is applied when it is uninstalled
cleanup() {
    "$tools/helm" template podwasm "$chart" --namespace podwasm --kube-version "$kubernetes" --show-only templates/cleanup.yaml "$@"
}
# Who applies a file by hand has no use for what only helm looks at.
plain() { sed -e '/helm\.sh\/hook/d' -e '/helm\.sh\/chart:/d' -e 's/managed-by: Helm/managed-by: kustomize/' -e '/^  annotations:$/d'; }

kustomization() {
    echo 'apiVersion: kustomize.config.k8s.io/v1beta1'
    echo 'kind: Kustomization'
    echo 'namespace: podwasm'
    echo 'resources:'
    printf '  - %s\n' "$@"
}

# render FOLDER: everything below it
render() {
    local out=$1 distribution base
    mkdir -p "$out/rendered"
    for distribution in "${distributions[@]}"; do
        template --set "distribution=$distribution" >"$out/rendered/$distribution.yaml"
        cleanup --set "distribution=$distribution" >"$out/rendered/$distribution-cleanup.yaml"
        base=$out/kustomize/$distribution
        mkdir -p "$base/cleanup"
        template --set "distribution=$distribution,namespace.create=true" | plain >"$base/podwasm.yaml"
        cleanup --set "distribution=$distribution" | plain >"$base/cleanup/cleanup.yaml"
        kustomization podwasm.yaml >"$base/kustomization.yaml"
        kustomization cleanup.yaml >"$base/cleanup/kustomization.yaml"
    done
    template --set containerd.enableNRI=true >"$out/rendered/nri.yaml"
    cleanup --set containerd.enableNRI=true >"$out/rendered/nri-cleanup.yaml"
    template --values "$here/helm/all.yaml" >"$out/rendered/all.yaml"
}

# Values that have to be refused, with a part of the reason.
refuse() {
    local reason=$1 said
    shift
    if said=$(template "$@" 2>&1 >/dev/null); then die "values are taken that should not be: $*"; fi
    [[ $said == *"$reason"* ]] || die "refused for another reason: $* : $said"
}

check() {
    local out kept
    out=$(mktemp -d)
    # shellcheck disable=SC2064 # now, while it is known
    trap "rm -rf '$out'" EXIT
    "$tools/helm" lint --quiet --strict "$chart"
    "$tools/helm" lint --quiet --strict "$chart" --values "$here/helm/all.yaml"
    refuse distribution --set distribution=openshift
    refuse 'config' --set containerd.enableNRI=true,distribution=k3s
    refuse issuer --set scaler.tls.enabled=true,scaler.tls.certManager.enabled=true
    refuse exporter --set exporter.enabled=false
    refuse 'imagePolicy' --set plugin.imagePolicy=x
    refuse 'bundles' --set paths.bundles=/opt
    refuse 'index' --set nri.plugin.index=100
    render "$out"
    for kept in rendered kustomize; do
        diff -r "$out/$kept" "$here/$kept" || die "deploy/$kept is not what the chart makes: run deploy/render.sh"
    done
    for base in "$here"/kustomize/*/ "$here"/kustomize/*/cleanup/; do
        "$tools/kustomize" build "$base" >"$out/built.yaml"
        python3 "$here/schema.py" "$out/built.yaml"
    done
    python3 "$here/schema.py" "$here"/rendered/*.yaml
    say "the chart, $(find "$here"/rendered -name '*.yaml' | wc -l) renderings and the bases are valid"
}

[[ -x $tools/helm && -x $tools/kustomize ]] || die 'no helm: run deploy/tools.sh'
case ${1:-} in
    --check) check ;;
    '') rm -rf "$here"/{rendered,kustomize} && render "$here" ;;
    *) die "unknown option $1" ;;
esac
