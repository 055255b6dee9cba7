#!/usr/bin/env bash
# A real Slurm of one node on this machine, for the tests and for trying launch/slurm.sh.
#
#   launch/slurm/local-slurm.sh install      packages of Debian or Ubuntu; needs root
#   launch/slurm/local-slurm.sh start DIR    configuration, state, logs and pids go to DIR; needs root
#   export SLURM_CONF=DIR/slurm.conf         then sbatch, squeue and ligo.sweep cluster=slurm find it
#   launch/slurm/local-slurm.sh stop DIR
#
# No cgroups, no systemd, no accounting. Ports 16817 and 16818, on loopback only.
set -euo pipefail

install() {
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge
}

# a requeued job waits until its credential has expired (AuthInfo): 2 minutes by default, 5 seconds here
start() {
    local dir node cores
    mkdir -p "$1/state" "$1/spool" "$1/log" "$1/pid"
    dir=$(realpath "$1")
    node=$(hostname -s)
    cores=$(getconf _NPROCESSORS_ONLN)  # nproc would obey OMP_NUM_THREADS
    cat >"$dir/slurm.conf" <<CONF
ClusterName=ligo
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldLogFile=$dir/log/slurmctld
SlurmdLogFile=$dir/log/slurmd
SlurmctldPidFile=$dir/pid/slurmctld.own
SlurmdPidFile=$dir/pid/slurmd.own
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
KillWait=5
AuthInfo=cred_expire=5
SlurmdParameters=config_overrides
NodeName=$node NodeAddr=127.0.0.1 CPUs=$cores CoresPerSocket=$cores RealMemory=2000 State=UNKNOWN
PartitionName=debug Nodes=$node Default=YES MaxTime=INFINITE State=UP
CONF
    mkdir -p /run/munge
    chown munge: /run/munge
    chmod 755 /run/munge
    export SLURM_CONF="$dir/slurm.conf"
    # a munged that runs already serves this cluster too
    munge -n >/dev/null 2>&1 ||
        keep munged "$dir" setpriv --reuid munge --regid munge --init-groups munged --foreground
    until munge -n >/dev/null 2>&1; do sleep 0.2; done
    keep slurmctld "$dir" slurmctld -D
    keep slurmd "$dir" slurmd -D
    for _ in $(seq 60); do
        sinfo -h -o %t 2>/dev/null | grep -qx idle && return
        sleep 0.5
    done
    echo "Slurm does not come up: see $dir/log" >&2
    stop "$dir"
    exit 1
}

# keep NAME DIR COMMAND...: run it in the background, with its pid in DIR/pid/NAME
keep() {
    local name=$1 dir=$2
    shift 2
    setsid "$@" >"$dir/log/$name.out" 2>&1 </dev/null &
    echo $! >"$dir/pid/$name"
}

stop() {
    for name in slurmd slurmctld munged; do
        [ -f "$1/pid/$name" ] || continue
        kill "$(cat "$1/pid/$name")" 2>/dev/null || true
        rm "$1/pid/$name"
    done
}

"$@"
