#!/bin/bash
# A node without its programs: namespaces, mounts and cgroups, which go when whoever started it goes.
#
#   node.sh run DIR ROOT[:ROOT...] [INSIDE=OUTSIDE]...
#
# DIR names the node. DIR/files is laid over the roots, the first of which is the topmost; all that the node writes is in
# memory, but for /var/log, which is DIR/log. Each OUTSIDE folder is seen, read-only, at INSIDE.
#
# Prints the pid of the node's init once the node is ready, and lives until standard input ends, which it does however its
# starter ends. Then every process in the node is killed, its mounts and cgroups are removed, and of DIR only the logs stay.

set -euo pipefail

# The hierarchies of cgroup v1, by where the host has them mounted, and the one of v2.
hierarchies() { awk '$3 == "cgroup" || $3 == "cgroup2" { print $2 }' /proc/self/mounts | sort -u; }

# own_cgroup HIERARCHY: the folder of the cgroup that this process is in.
own_cgroup() {
    local hierarchy=$1 options path
    options=$(awk -v at="$1" '$2 == at { print $3 "," $4 }' /proc/self/mounts | tail -1)
    path=$(awk -F: -v options=",$options," '
        options ~ /^,cgroup2,/ { if ($1 == "0") print $3; next }
        { split($2, names, ","); if ($1 != "0" && index(options, "," names[1] ",")) print $3 }' /proc/self/cgroup)
    # Where v2 is alone, no cgroup that holds processes can have children with controllers, except the root.
    if [[ $options == cgroup2,* || ! -d $hierarchy$path ]]; then path=/; fi
    echo "$hierarchy${path%/}"
}

# Some crun refuse to run while a controller of a host with cgroup v1 is mounted nowhere.
mount_left_over_controllers() {
    grep -q '^[^ ]* [^ ]* cgroup ' /proc/self/mounts || return 0
    local at=$dir/cgroup controller
    mkdir -p "$at"
    mount -t tmpfs none "$at"
    while read -r controller; do
        ! grep -q "^[^ ]* [^ ]* cgroup [^ ]*,${controller}[, ]" /proc/self/mounts || continue
        mkdir "$at/$controller"
        mount -t cgroup -o "$controller" cgroup "$at/$controller" 2>>"$dir/log/node.log" || rmdir "$at/$controller"
    done < <(awk '!/^#/ && $4 == 1 { print $1 }' /proc/cgroups)
}

# hand_down CGROUP: gives the cgroup's children (v2) every controller that it has.
hand_down() {
    local controller
    while read -r controller; do
        echo "+$controller" >"$1/cgroup.subtree_control" || echo "$1 keeps its $controller controller to itself" >&2
    done < <(tr ' ' '\n' <"$1/cgroup.controllers")
}

# One cgroup for the node in each hierarchy; this process enters them.
enter_cgroups() {
    local cgroup file
    [[ ! -e /sys/fs/cgroup/cgroup.controllers ]] || hand_down /sys/fs/cgroup
    for cgroup in "${cgroups[@]}"; do
        mkdir -p "$cgroup"
        for file in cpuset.cpus cpuset.mems; do # an empty cpuset takes no process
            [[ ! -e $cgroup/tasks || ! -e $cgroup/$file ]] || cat "$cgroup/../$file" >"$cgroup/$file"
        done
        echo "$BASHPID" >"$cgroup/cgroup.procs"
    done
}

# dying CONTROLLER...: whether one of these hierarchies has cgroups, and none of another node.
dying() {
    local controller
    for controller in "$@"; do
        ! compgen -G "$dir/cgroup/$controller/podwasm-*" >/dev/null || continue
        ! awk -v name="$controller" '$1 == name && $3 > 1 { found = 1 } END { exit !found }' /proc/cgroups || return 0
    done
    return 1
}

cleanup() {
    remove_cgroups
    ! mountpoint -q "$dir/cgroup" || umount -R "$dir/cgroup"
    rm -rf "$dir/files" "$dir/init.pid"
    rmdir "$dir/root" "$dir/cgroup" 2>/dev/null || true
}

remove_cgroups() {
    local cgroup
    for cgroup in "${cgroups[@]}"; do
        [[ ! -d $cgroup ]] || find "$cgroup" -depth -type d -exec rmdir {} + || true
    done
    # A hierarchy of our own that has a dying cgroup when its last mount goes would stay behind.
    local controllers=("$dir"/cgroup/*)
    for _ in {1..100}; do
        dying "${controllers[@]##*/}" || break
        sleep 0.01
    done
}

# The supervisor, in the host's namespaces but for that of mounts: it outlives the node, and cleans up.
run() {
    if [[ ${1:-} != --unshared ]]; then exec unshare --mount bash "$0" run --unshared "$@"; fi
    dir=$2
    shift 2
    trap '' HUP INT TERM
    mount_left_over_controllers
    local hierarchy
    cgroups=()
    for hierarchy in $(hierarchies); do cgroups+=("$(own_cgroup "$hierarchy")/podwasm-$(basename "$dir")"); done
    trap cleanup EXIT
    (
        enter_cgroups
        exec unshare --cgroup bash "$0" leave_top "$dir" "$@"
    ) || true
}

# The node's cgroup is the top one that it sees. With v2 a cgroup that has children holds no processes.
leave_top() {
    local top
    top=/sys/fs/cgroup/podwasm-$(basename "$1")
    if [[ -e $top/cgroup.controllers ]]; then
        mkdir "$top/init"
        echo $$ >"$top/init/cgroup.procs"
    fi
    exec unshare --mount --pid --fork --net --uts --ipc bash "$0" init "$@"
}

# --- from here on as process 1 of the node ---

mount_cgroups() {
    local at hierarchy options
    if [[ $(stat -fc %T /sys/fs/cgroup) == cgroup2fs ]]; then
        at=$root/sys/fs/cgroup
        mount -t cgroup2 cgroup2 "$at"
        hand_down "$at"
        return
    fi
    mount -t tmpfs -o mode=755 cgroup "$root/sys/fs/cgroup"
    while read -r hierarchy options; do
        at=$root/sys/fs/cgroup/$(basename "$hierarchy")
        [[ ! -d $at ]] || continue
        mkdir "$at"
        if [[ $options == cgroup2 ]]; then mount -t cgroup2 cgroup2 "$at"; else mount -t cgroup -o "$options" cgroup "$at"; fi
    done < <(awk '
        $3 == "cgroup2" { print $2, "cgroup2" }
        $3 == "cgroup" {
            n = split($4, option, ","); wanted = ""
            for (i = 1; i <= n; i++) if (option[i] !~ /^(rw|ro|relatime|nosuid|nodev|noexec|xattr|release_agent=.*)$/)
                wanted = wanted (wanted ? "," : "") option[i]
            print $2, (wanted ~ /name=/ ? "none," wanted : wanted)
        }' /proc/self/mounts)
}

make_devices() {
    local at=$root/dev name
    mount -t tmpfs -o mode=755 dev "$at"
    mkdir "$at"/{pts,shm,mqueue}
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$at/pts"
    mount -t tmpfs shm "$at/shm"
    mount -t mqueue mqueue "$at/mqueue"
    for name in null:3 zero:5 full:7 random:8 urandom:9; do mknod -m 666 "$at/${name%:*}" c 1 "${name#*:}"; done
    mknod -m 666 "$at/tty" c 5 0
    ln -s pts/ptmx "$at/ptmx"
    ln -s /proc/self/fd "$at/fd"
    for name in stdin:0 stdout:1 stderr:2; do ln -s "/proc/self/fd/${name#*:}" "$at/${name%:*}"; done
}

init() {
    local dir=$1 roots=$2 pid root bind
    shift 2
    read -r pid _ </proc/self/stat # the host's /proc is still mounted, so this is the host's number
    root=$dir/root
    mkdir -p "$root"
    mount -t tmpfs -o mode=755 node "$root"
    mkdir "$root"/{upper,work,containerd,root}
    mount -t overlay -o "lowerdir=$dir/files:$roots,upperdir=$root/upper,workdir=$root/work" node "$root/root"
    mkdir -p "$root/root/var/lib/containerd"
    mount --bind "$root/containerd" "$root/root/var/lib/containerd" # an overlay cannot be the upper part of another
    root+=/root

    mount -t proc proc "$root/proc"
    mount -t sysfs sysfs "$root/sys"
    mount_cgroups
    make_devices
    mount -t tmpfs -o mode=755 run "$root/run"
    mount -t tmpfs -o mode=1777 tmp "$root/tmp"
    mount --bind "$dir/log" "$root/var/log"
    for bind in "$@"; do
        mkdir -p "$root${bind%%=*}"
        mount --bind -o ro "${bind#*=}" "$root${bind%%=*}"
    done

    hostname "$(basename "$dir")"
    echo "$pid" >"$dir/init.pid"
    cd "$root"
    pivot_root . mnt
    umount -l /mnt
    mount --make-rshared /
    ip link set lo up
    echo "$pid"
    exec catatonit -- bash -c "$until_let_go" >/dev/null
}

# What is frozen in a hierarchy of cgroup v1, as by a runtime that was interrupted, does not even die of SIGKILL, and would
# keep the node from ending.
# shellcheck disable=SC2016 # for the shell that runs it
until_let_go='
    busybox cat
    kill -KILL -1
    for state in $(find /sys/fs/cgroup/freezer -name freezer.state); do echo THAWED >"$state"; done'

"$@"
