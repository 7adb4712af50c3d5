# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# shellcheck shell=bash disable=SC2034,SC2154 # variables are shared with the scripts that source it
#
# cluster.sh: a memory node and programs that use it, for the demo and the end-to-end cases. Sourced
# after lib.sh and make_scratch. It owns $scratch/key, $scratch/cluster.conf and the node's process.

bin=${GVM_BIN:-$top/build/release}
memsrv=$bin/memsrv/gvm-memsrv
gvm=$bin/libgvmnet/gvm
key=$scratch/key
conf=$scratch/cluster.conf
port=
node_pid=
node_log=$scratch/node.log
# the environment of who runs this must not change what is tested
for name in "${!GVM_@}"; do
	[ "$name" = GVM_SOAK_S ] || unset "$name"
done

host=127.0.0.1
node_via=() # what the node's command line is put behind: nsenter, a limit of memory

node_listens() { gone "$node_pid" || "${node_via[@]}" bash -c ": </dev/tcp/$host/$port" 2>/dev/null; }

# launch_node ARGUMENT...: gvm-memsrv on $port; sets $node_pid; true when it is ready
launch_node() {
	"${node_via[@]}" "$memsrv" --listen "$host:$port" --key-file "$key" "$@" >>"$node_log" 2>&1 </dev/null &
	node_pid=$!
	started+=("$node_pid")
	await 20 node_listens && alive "$node_pid"
}

# start_node ARGUMENT...: the same with a fresh key, on a free port, which is written to $conf
start_node() {
	local try
	: >"$node_log"
	[ -f "$key" ] || new_key "$key"
	for try in 1 2 3 4 5; do
		port=$(free_port)
		printf '0 %s %s\n' "$host" "$port" >"$conf"
		if launch_node "$@"; then
			return
		fi
		# another program may have taken the port since it was found free
		grep -qi 'in use' "$node_log" || break
	done
	tail -n 20 "$node_log" >&2
	return 1
}

# http PATH: what the node's metrics server at $metrics_port answers
metrics_port=
http() {
	{
		exec 3<>"/dev/tcp/127.0.0.1/$metrics_port"
		printf 'GET /%s HTTP/1.0\r\n\r\n' "$1" >&3
		timeout 10 sed '1,/^\r*$/d' <&3
		exec 3>&-
	} 2>/dev/null
}

# kill_node: as the kernel or a power cut would, without a word
kill_node() {
	kill -KILL "$node_pid"
	wait "$node_pid" 2>/dev/null || true
}

# gvm_run LOCAL ARGUMENT... -- PROGRAM...: run it on the node's memory, with at most LOCAL here
gvm_run() {
	local budget=$1
	shift
	"$gvm" run --cluster "$conf" --key-file "$key" --local "$budget" "$@"
}

# need_memwork: build the verifier for the host, as $scratch/memwork
need_memwork() {
	[ -x "$scratch/memwork" ] ||
		gcc -O2 -Wall -Wextra -Werror -pthread -o "$scratch/memwork" "$top/ci/guest/memwork.c"
}

# launch_work LOG LOCAL ARGUMENT... -- MEMWORK-ARGUMENT...: memwork under gvm run in the background;
# sets $work_pid
work_pid=
launch_work() {
	local log=$1 budget=$2 run=()
	shift 2
	while [ "$1" != -- ]; do
		run+=("$1")
		shift
	done
	shift
	"${work_via[@]}" "$gvm" run --cluster "$conf" --key-file "$key" --local "$budget" "${run[@]}" -- \
		"$scratch/memwork" "$@" >"$log" 2>&1 </dev/null &
	work_pid=$!
	started+=("$work_pid")
}
work_via=()

# has LOG PATTERN: for await
has() { grep -qE -- "$2" "$1" 2>/dev/null; }

# work_reaches LOG PATTERN: the workload has said so; false if it ends or takes too long before
work_reaches() {
	has_or_gone() { has "$1" "$2" || gone "$work_pid"; }
	await "${3:-120}" has_or_gone "$1" "$2"
	has "$1" "$2"
}

# end_of PID SECONDS: wait for its end; sets $ended to its exit status, "late" if it did not end
ended=
end_of() {
	ended=late
	if await "$2" gone "$1"; then
		ended=0
		wait "$1" || ended=$?
	fi
}
