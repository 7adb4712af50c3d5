# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# shellcheck shell=bash disable=SC2154 # variables of vm.sh, rdma.sh and who sources this
#
# suite.sh: the conformance suite (libgvmnet/tests/conformance.h) between two machines: its servers are in machine 0, its
# cases run in machine 1. Sourced after vm.sh and rdma.sh.

suite_port=18600
suite_words=() # of both sides' environment: NAME=VALUE, without empty space in them
suite_harm=    # what a_command_does_it does in machine 1
suite_what=    # how that is called

# A key for both machines, made now.
need_suite_key() {
	if in_machine 0; then
		new_key "$VM_SHARED/suite.key"
	fi
	meet
}

# suite NAME SECONDS TRANSPORT [SERVERS]: test_NAME over it
suite() {
	local program=$bin/libgvmnet/test_$1 words address=$VM_ADDRESS over="$dev, $3${4:+ to $4}" cases=''
	in_machine 0 || address=$VM_PEER
	[ -n "$dev" ] || over=$3
	words="GVM_CONFORMANCE_HOST=$address GVM_KEY_FILE=$VM_SHARED/suite.key"
	ulimit -n 4096 # a flood of connections is one of the cases
	[ -z "$suite_harm" ] || cases="GVM_CONFORMANCE_HARM=${suite_harm@Q}"
	pair "$over, between two machines: $1${suite_what:+ $suite_what}" "$2" "listens_tcp $suite_port" \
		"$words ${suite_words[*]} $program --serve $suite_port ${*:3}" \
		"$words GVM_CONFORMANCE_OTHER=$suite_port ${suite_words[*]} $cases $program ${*:3}"
	in_machine 0 || return 0
	if [ "$client_status" = 0 ]; then
		# how many there were, what was passed over and why, what was counted
		grep -aE '^# |^not over |^\[ +(SKIPPED|PASSED) +\]' "$pair_log.client" | sort -u | head -n 12 | cut -c1-200
	else
		# the first that failed says most
		grep -aE -m 1 -B 12 -A 4 '^\[ +(ERROR|LINE) ' "$pair_log.client" | cut -c1-200
	fi | sed 's/^\(# \)*/#   /' || true
}

# harmed TRANSPORT DESCRIPTION COMMAND: traffic of all kinds goes on while machine 1 runs COMMAND
harmed() {
	suite_what="while $2" suite_harm=$3
	suite conformance_harm 300 "$1"
	suite_what='' suite_harm=
}

# suite_lossy NAME...: these, over the verbs provider, while both machines lose packets
suite_lossy() {
	local name
	must "$dev: a slow cable that loses packets" slow_link delay 1ms loss 1%
	meet
	suite_what="over a slow cable that loses packets" suite_words=(GVM_CONFORMANCE_CABLE=bad)
	for name in "$@"; do
		suite "$name" 300 verbs
	done
	suite_what='' suite_words=()
	tc -s qdisc show dev eth0 >"$VM_SHARED/netem.$dev.$VM_INDEX"
	plain_link
	meet
	in_machine 0 || return 0
	cat "$VM_SHARED/netem.$dev".? >netem.log
	check_line "$dev: packets were lost" netem.log 'dropped [1-9]'
}
