#!/bin/bash
# Applies what users apply to a real Kubernetes API server: the Kustomize bases, the samples, and the chart by `helm install`, `upgrade` and
# `uninstall`, with the pods that their controllers would make. There are no nodes and no controllers: the server's own defaults,
# validation and admission are what is tried, not what runs. Not among the tests: it needs Go and its module proxy, and builds kube-apiserver
# once, which takes six minutes of one core.
#
# usage: [VERSION=1.34.2] apiserver.sh [bases|security|chart|rights|samples]...     all, or these

set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
project=$(realpath "$here/../..")
version=${VERSION:-1.34.2}
build=$project/target/kubernetes-$version
helm=$project/target/tools/helm
etcd_port=19021 peer_port=19022 port=19023
token=throw-away

parts=("$@")
((${#parts[@]})) || parts=(bases security chart rights samples)

say() { echo "apiserver: $*"; }
die() { echo "apiserver: $*" >&2; exit 1; }

for needed in go openssl python3; do
    command -v "$needed" >/dev/null || die "needs $needed"
done
"$project/deploy/tools.sh"

# The staging modules, which Kubernetes has in its own tree, are those of the release.
make_module() {
    local pins module
    pins=$(GOFLAGS=-mod=mod go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/.*"GoMod": "\(.*\)",/\1/p')
    go mod init apiserver
    while read -r module; do
        go mod edit -replace "$module=$module@v0.${version#*.}"
    done < <(sed -n 's|.*=> \./staging/src/\(k8s.io/.*\)|\1|p' "$pins")
    go mod edit -require "k8s.io/kubernetes@v$version"
    go mod tidy
}

# main PACKAGE EXPRESSION: a program that is a command of Kubernetes
main() {
    printf 'package main\n\nimport (\n\t"os"\n\n\t"k8s.io/component-base/cli"\n\tcommand "%s"\n)\n\nfunc main() { os.Exit(cli.Run(%s)) }\n' "$1" "$2"
}

if [[ ! -x $build/kubectl ]]; then
    say "building kube-apiserver and kubectl $version"
    mkdir -p "$build"/cmd/{kube-apiserver,kubectl}
    cd "$build"
    main k8s.io/kubernetes/cmd/kube-apiserver/app 'command.NewAPIServerCommand()' >cmd/kube-apiserver/main.go
    main k8s.io/kubectl/pkg/cmd 'command.NewDefaultKubectlCommand()' >cmd/kubectl/main.go
    make_module
    said=k8s.io/component-base/version
    flags="-s -w -X $said.gitVersion=v$version -X $said.gitMajor=${version%%.*} -X $said.gitMinor=$(cut -d. -f2 <<<"$version")"
    CGO_ENABLED=0 go build -trimpath -ldflags="$flags" -o . ./cmd/kube-apiserver
    CGO_ENABLED=0 go build -trimpath -ldflags="$flags" -o . ./cmd/kubectl
fi
etcd=$(command -v etcd || echo "$build/etcd/usr/bin/etcd")
if [[ ! -x $etcd ]]; then
    mkdir -p "$build/etcd"
    (cd "$build/etcd" && apt-get download -qq etcd-server 2>/dev/null && dpkg -x etcd-server_*.deb .) || die 'cannot have Debian'\''s etcd-server'
fi

work=$(mktemp -d)
started=()
end() {
    kill "${started[@]}" 2>/dev/null || true
    wait "${started[@]}" 2>/dev/null || true
    rm -rf "$work"
}
trap end EXIT

export KUBECONFIG=$work/kubeconfig
kubectl() { "$build/kubectl" "$@"; }

start_server() {
    local url=http://127.0.0.1:$etcd_port peer=http://127.0.0.1:$peer_port
    "$etcd" --data-dir "$work/etcd" --listen-client-urls "$url" --advertise-client-urls "$url" --listen-peer-urls "$peer" \
        --initial-advertise-peer-urls "$peer" --initial-cluster "default=$peer" --log-level error >"$work/etcd.log" 2>&1 &
    started+=($!)
    openssl genrsa -out "$work/accounts.key" 2048 2>/dev/null
    echo "$token,admin,1,system:masters" >"$work/tokens"
    # Without controllers there is no account in a namespace, so admission does not insist on one.
    "$build/kube-apiserver" --etcd-servers "$url" --bind-address 127.0.0.1 --secure-port $port --cert-dir "$work/certificates" \
        --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$work/accounts.key" \
        --service-account-signing-key-file "$work/accounts.key" --service-cluster-ip-range 10.0.0.0/24 --token-auth-file "$work/tokens" \
        --authorization-mode RBAC --disable-admission-plugins ServiceAccount >"$work/apiserver.log" 2>&1 &
    started+=($!)
    kubectl config set-cluster here --server "https://127.0.0.1:$port" --insecure-skip-tls-verify >/dev/null
    kubectl config set-credentials admin --token "$token" >/dev/null
    kubectl config set-context here --cluster here --user admin >/dev/null
    kubectl config use-context here >/dev/null
    for _ in {1..600}; do
        [[ $(kubectl get --raw /readyz 2>/dev/null) != ok ]] || return 0
        sleep 0.2
    done
    tail -5 "$work"/{etcd,apiserver}.log >&2
    die 'the server is not ready'
}

# definition KIND PLURAL GROUP VERSION: a kind of somebody else's, of which any content will do
definition() {
    kubectl apply -f - >/dev/null <<EOF
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: $2.$3}
spec:
  group: $3
  scope: Namespaced
  names: {kind: $1, plural: $2}
  versions:
    - name: $4
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
EOF
    kubectl wait --for condition=established --timeout 30s "crd/$2.$3" >/dev/null
}

# pods FILE...: the pods that the controllers of these manifests would make, as JSON
pods() {
    kubectl create --dry-run=client --validate=false -o json "${@/#/--filename=}" | python3 -c '
import json, sys
decoder, text, at = json.JSONDecoder(), sys.stdin.read(), 0
while at < len(text):
    found, at = decoder.raw_decode(text, at)
    at += len(text[at:]) - len(text[at:].lstrip())
    for item in found.get("items", [found]):
        template = item.get("spec", {}).get("template")
        if item["kind"] in ("DaemonSet", "Deployment", "Job"):
            name = {"name": item["metadata"]["name"], "namespace": item["metadata"].get("namespace", "default")}
            print(json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": template.get("metadata", {}) | name, "spec": template["spec"]}))'
}

namespace() {
    kubectl create namespace "$1" >/dev/null
    kubectl label namespace "$1" "pod-security.kubernetes.io/enforce=$2" >/dev/null
}

# is_empty NAMESPACE: whether nothing of ours is left in it
is_empty() {
    local left
    left=$(kubectl --namespace "$1" get daemonsets,deployments,jobs,services,configmaps,secrets,networkpolicies,serviceaccounts,poddisruptionbudgets \
        --output name --ignore-not-found)
    [[ -z $left ]] || die "these are left in $1: $left"
}

# A release is gone when its Job is, which no controller ends here.
complete_job() {
    local now
    until kubectl --namespace podwasm get job podwasm-cleanup-await >/dev/null 2>&1; do sleep 0.2; done
    now=$(date -u +%Y-%m-%dT%H:%M:%SZ)
    kubectl --namespace podwasm patch job podwasm-cleanup-await --subresource status --type merge --patch '{"status":
        {"startTime": "'"$now"'", "completionTime": "'"$now"'", "succeeded": 1, "uncountedTerminatedPods": {}, "conditions": [
            {"type": "SuccessCriteriaMet", "status": "True", "lastTransitionTime": "'"$now"'"},
            {"type": "Complete", "status": "True", "lastTransitionTime": "'"$now"'"}]}}' >/dev/null
}

try_bases() {
    local base name
    for base in "$project"/deploy/kustomize/*/; do
        name=$(basename "$base")
        kubectl apply --validate=strict -k "$base" >/dev/null
        # What is applied again changes nothing: no default of the server differs from what is written.
        kubectl diff -k "$base" >"$work/diff" || die "$name is not what was applied: $(cat "$work/diff")"
        pods "$base/podwasm.yaml" "$base/cleanup/cleanup.yaml" >"$work/pods.json"
        kubectl create --validate=strict --dry-run=server -f "$work/pods.json" >/dev/null
        kubectl delete --wait=false -k "$base" --ignore-not-found >/dev/null
        # Without a controller, nobody else empties a namespace.
        kubectl get namespace podwasm -o json | sed 's/"kubernetes"//' | kubectl replace --raw /api/v1/namespaces/podwasm/finalize -f - >/dev/null
        namespace podwasm privileged
        kubectl apply --validate=strict -k "$base/cleanup" >/dev/null
        kubectl delete -k "$base/cleanup" >/dev/null
        is_empty podwasm
        kubectl delete --wait=false namespace podwasm >/dev/null
        kubectl get namespace podwasm -o json | sed 's/"kubernetes"//' | kubectl replace --raw /api/v1/namespaces/podwasm/finalize -f - >/dev/null
        say "Kustomize base $name: applied, unchanged when applied again, its pods admitted, deleted"
    done
}

try_security() {
    local level
    for level in baseline restricted; do
        namespace "$level" "$level"
        pods "$project/deploy/rendered/k8s.yaml" | sed "s/\"namespace\": \"podwasm\"/\"namespace\": \"$level\"/" >"$work/$level.json"
        ! grep '"name": "podwasm"' "$work/$level.json" | kubectl create --dry-run=server -f - 2>"$work/said" >/dev/null ||
            die "the daemon is admitted under $level"
        grep -q PodSecurity "$work/said" || die "refused for another reason: $(cat "$work/said")"
        grep '"name": "podwasm-scaler"' "$work/$level.json" | kubectl create --dry-run=server -f - >/dev/null
    done
    say 'Pod Security: the daemon needs privileged, the scaler is admitted under restricted'
}

try_chart() {
    local chart=$project/deploy/helm/podwasm
    namespace podwasm privileged
    "$helm" install podwasm "$chart" --namespace podwasm --dry-run=server >/dev/null
    "$helm" install podwasm "$chart" --namespace podwasm >/dev/null
    [[ $(kubectl --namespace podwasm get daemonsets,deployments -o name | wc -l) == 3 ]] || die 'not all is installed'
    "$helm" upgrade podwasm "$chart" --namespace podwasm --values "$project/deploy/helm/all.yaml" \
        --set namespace.create=false >/dev/null
    "$helm" rollback podwasm 1 --namespace podwasm >/dev/null
    complete_job & started+=($!)
    "$helm" uninstall podwasm --namespace podwasm --timeout 60s >/dev/null
    is_empty podwasm
    say 'chart: installed, upgraded with every value set, rolled back, uninstalled with its hooks: nothing is left'
}

# What the chart allows the plugin, if it is asked to, is what it needs, and the server takes what it sends.
try_rights() {
    local chart=$project/deploy/helm/podwasm account=$work/account
    kubectl get namespace podwasm >/dev/null 2>&1 || namespace podwasm privileged
    kubectl create namespace shop >/dev/null
    "$helm" template podwasm "$chart" --namespace podwasm --kube-version "$version" --set plugin.kubernetes.events=true,plugin.kubernetes.evict=true \
        --show-only templates/rbac.yaml --show-only templates/serviceaccounts.yaml | kubectl apply --namespace podwasm -f - >/dev/null
    mkdir "$account"
    kubectl --namespace podwasm create token podwasm-plugin >"$account/token"
    cp "$work/certificates/apiserver.crt" "$account/ca.crt"
    kubectl apply -f - >/dev/null <<EOF
apiVersion: v1
kind: Pod
metadata:
  name: web-1
  namespace: shop
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web, uid: 5bdf4d40-0000-4000-8000-000000000000, controller: true}]
spec: {containers: [{name: c, image: none}]}
EOF
    (cd "$project" && KUBERNETES_SERVER=https://127.0.0.1:$port KUBERNETES_ACCOUNT=$account \
        cargo test --quiet -p podwasm --lib -- --ignored --exact kubernetes::tests::a_real_server_takes_what_is_sent >"$work/rights" 2>&1) ||
        die "the server does not take what the plugin sends: $(cat "$work/rights")"
    [[ $(kubectl --namespace shop get events --output jsonpath='{.items[*].reason}') == CreatedWithoutPodwasm ]] || die 'the event is not there, or there twice'
    [[ -z $(kubectl --namespace shop get pods --output name) ]] || die 'the pod was not evicted'
    say 'rights: an event made once, the right pod evicted and no other, secrets refused'
}

try_samples() {
    local sample count=0
    kubectl get namespace podwasm >/dev/null 2>&1 || namespace podwasm privileged
    for sample in "$project"/deploy/samples/*.yaml; do
        kubectl apply --validate=strict -f "$sample" >/dev/null
        pods "$sample" >"$work/pods.json"
        [[ ! -s $work/pods.json ]] || kubectl create --validate=strict --dry-run=server -f "$work/pods.json" >/dev/null
        count=$((count + 1))
    done
    say "$count samples: applied, their pods admitted where they are"
}

start_server
say "Kubernetes $(kubectl version -o json | sed -n 's/.*"gitVersion": "\(.*\)".*/\1/p' | tail -1), $("$etcd" --version | head -1)"
definition Certificate certificates cert-manager.io v1
definition PodMonitor podmonitors monitoring.coreos.com v1
definition PrometheusRule prometheusrules monitoring.coreos.com v1
definition ScaledObject scaledobjects keda.sh v1alpha1
definition ServiceMonitor servicemonitors monitoring.coreos.com v1
definition TriggerAuthentication triggerauthentications keda.sh v1alpha1
for part in "${parts[@]}"; do "try_$part"; done
say 'all was accepted'
