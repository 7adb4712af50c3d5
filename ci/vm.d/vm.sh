# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# shellcheck shell=bash disable=SC2034,SC2154 # variables of lib.sh and cluster.sh, and of who sources this
#
# vm.sh: what scripts in ci/vm.d have in common. Sourced after tap.sh and cluster.sh.
#
# Two machines run the same script side by side. Machine 0 speaks for both: what "pair" and "other" find is
# said there. A check in machine 1 is a check of that machine, and ends both if it fails. They meet over the
# folder that they share and not over the cable, so they also do when the cable is what is being tested.

# unit_test PROGRAM [SECONDS [ARGUMENT...]]: a cmocka program of the build, in this machine
unit_test() {
	local name=${1##*/} program=$bin/$1 seconds=${2:-400} begun=$SECONDS status=0
	shift $(($# < 2 ? $# : 2))
	timeout --kill-after=5 "$seconds" "$program" "$@" >"$name.log" 2>&1 </dev/null || status=$?
	if [ "$status" = 0 ]; then
		pass "$name, $((SECONDS - begun)) s"
		return
	fi
	# the first that failed says most: those after it may have failed for its sake. What a program that
	# a test started has found says why ("not so").
	grep -aE -m 9 '^\[ +(ERROR|LINE|FAILED) |: not so: ' "$name.log" >"$name.short" || cp "$name.log" "$name.short"
	fail "$name (exit status $status after $((SECONDS - begun)) s)" "$name.short"
}

# part NAME: say what begins, and how long the machine has run
part() { in_machine 1 || say "# $1 begins at $(cut -d' ' -f1 /proc/uptime) s"; }

in_machine() { [ "$VM_INDEX" = "$1" ]; }

# meet: wait until the other machine is at the same place of the script
meetings=0
meet() {
	meetings=$((meetings + 1))
	: >"$VM_SHARED/meet.$meetings.$VM_INDEX"
	await 150 test -e "$VM_SHARED/meet.$meetings.$((1 - VM_INDEX))" || {
		fail "the other machine comes to meeting $meetings"
		finish
	}
}

# tell WHAT WORD...: let the other machine know something of this pair; it sees the file when it is complete
tell() {
	say "${*:2}" >"$pair_log.new"
	mv "$pair_log.new" "$pair_log.$1"
}

# limited SECONDS COMMAND: replace this process by COMMAND, a line of shell. Line by line, what it has printed is
# there when it is ended.
limited() { exec timeout --kill-after=5 "$1" stdbuf -oL bash -c "$2" </dev/null; }

# pair DESCRIPTION SECONDS READY SERVER CLIENT: SERVER runs in machine 0 and, as soon as the command READY is
# true there, CLIENT in machine 1, each for at most SECONDS. ok if both end well. Afterwards the files
# $pair_log.server and $pair_log.client hold what they printed, in both machines. SERVER and CLIENT are
# lines of shell. $again_if: a client that prints what matches this is known to have failed by its own
# fault; both are tried again then, at most twice.
pairs=0
pair_log=
again_if=
pair() {
	local begun=$EPOCHREALTIME try
	for try in 1 2 3; do
		pairs=$((pairs + 1))
		pair_log=$VM_SHARED/pair.$pairs
		if in_machine 0; then
			serve "$2" "$3" "$4" client_there
		else
			be_client "$2" "$5"
		fi
		meet
		fit_for_another "$try" || break
	done
	! in_machine 0 || verdict "$1" "$begun"
}

# against DESCRIPTION...: the same with a server that does not end by itself: it is ended after the client
against() {
	server_stays=yes
	pair "$@"
	server_stays=no
}
server_stays=no

# other DESCRIPTION SECONDS COMMAND: ok if COMMAND ends well in machine 1
other() { pair "$1" "$2" true true "$3"; }

# both DESCRIPTION SECONDS READY SERVER CLIENT: as pair, but both run here
both() {
	local begun=$EPOCHREALTIME try
	pair_log=$scratch/both
	for try in 1 2 3; do
		serve "$2" "$3" "$4" client_here "$5"
		fit_for_another "$try" || break
	done
	verdict "$1" "$begun"
}

fit_for_another() {
	[ -n "$again_if" ] && [ "$1" -lt 3 ] && grep -q "$again_if" "$pair_log.client" 2>/dev/null || return 1
	say "# $(grep -om 1 "$again_if" "$pair_log.client"): again; they ended with"
	tail -qn 4 "$pair_log.client" "$pair_log.server" | cut -c1-100 | sed 's/^/#   /'
}

ready_or_gone() { $1 || gone "$2"; }

# serve SECONDS READY SERVER CLIENT...: the server's side; CLIENT sets $client_status
serve() {
	local seconds=$1 ready=$2 pid
	client_status='none, as the server was not ready' ended=unknown
	limited "$((seconds + 60))" "$3" >"$pair_log.server" 2>&1 &
	pid=$!
	started+=("$pid")
	if await 30 ready_or_gone "$ready" "$pid"; then
		"${@:4}" "$seconds"
	else
		tell server_is late
	fi
	if [ "$server_stays" = yes ]; then
		ended=0
	elif [ "$client_status" = 0 ]; then
		end_of "$pid" 10
	fi
	stop "$pid"
}

verdict() {
	if [ "$client_status" = 0 ] && [ "$ended" = 0 ]; then
		pass "$1, $(((${EPOCHREALTIME/./} - ${2/./}) / 1000)) ms"
	else
		fail "$1 (exit status of the client $client_status, of the server $ended)" \
			"$pair_log.client" "$pair_log.server"
	fi
}

client_here() {
	client_status=0
	(limited "$2" "$1") >"$pair_log.client" 2>&1 || client_status=$?
	[ "$client_status" != 124 ] || say "not done after $2 s" >>"$pair_log.client"
}

client_there() {
	tell server_is ready
	client_status=unknown
	await $(($1 + 20)) test -e "$pair_log.client_status" || return 0
	client_status=$(cat "$pair_log.client_status")
}

be_client() {
	await 60 test -e "$pair_log.server_is" || true
	if [ "$(cat "$pair_log.server_is" 2>/dev/null)" = ready ]; then
		client_here "$2" "$1"
		tell client_status "$client_status"
	fi
}

# need_node ARGUMENT...: a memory node in machine 0, on its address of the cable. In both machines $conf and $key
# are then what a program needs to use it.
need_node() {
	if in_machine 0; then
		host=$VM_ADDRESS
		must "a memory node in machine 0 starts" start_node "$@"
		cp "$key" "$conf" "$VM_SHARED/"
	fi
	meet
	key=$VM_SHARED/key conf=$VM_SHARED/cluster.conf
}

# finish_both: the end of a script in two machines. Machine 0 says that all was done when machine 1 says so.
finish_both() {
	if [ "$failures" != 0 ] && in_machine 1; then
		finish
	fi
	meet
	finish
}
