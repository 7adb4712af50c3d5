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
unset "${!GVM_@}"

# node_up: the node listens; false also when it has ended
node_listens() { gone "$node_pid" || listens "$port"; }

# launch_node ARGUMENT...: gvm-memsrv on $port; sets $node_pid; true when it is ready
launch_node() {
	"$memsrv" --listen "127.0.0.1:$port" --key-file "$key" "$@" >>"$node_log" 2>&1 </dev/null &
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
		printf '0 127.0.0.1 %s\n' "$port" >"$conf"
		if launch_node "$@"; then
			return
		fi
		# another program may have taken the port since it was found free
		grep -qi 'in use' "$node_log" || break
	done
	tail -n 20 "$node_log" >&2
	return 1
}

# gvm_run LOCAL ARGUMENT... -- PROGRAM...: run it on the node's memory, with at most LOCAL here
gvm_run() {
	local budget=$1
	shift
	"$gvm" run --cluster "$conf" --key-file "$key" --local "$budget" "$@"
}

memwork() {
	[ -x "$scratch/memwork" ] ||
		gcc -O2 -Wall -Wextra -Werror -pthread -o "$scratch/memwork" "$top/ci/guest/memwork.c"
}
