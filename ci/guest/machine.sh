# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# shellcheck shell=bash disable=SC2034,SC2154 # variables are shared with the scripts that source it
#
# machine.sh: virtual machines that take orders, for cases about guests. Sourced after tap.sh and cluster.sh.
# A machine has a name, and a folder $scratch/NAME with what it prints ("console"), what QEMU itself prints
# ("log") and all that its monitor says ("monitor"). Orders and questions go in by pipes, so it also works for a
# machine that puts itself in the background.

guest=$top/build/guest
orders=$guest/orders # the initramfs; orders-stress has stress-ng

# need_machines: QEMU with memory-backend-gvm, or $QEMU, and the guest
qemu=
need_machines() {
	qemu=${QEMU:-}
	[ -n "$qemu" ] || qemu=$("$top/qemu/build" --small)/qemu-system-x86_64
	[ -x "$qemu" ] || die "there is no QEMU at $qemu"
	"$top/ci/guest/build-orders" "$guest" >&2
}

# A backend of the memory node's, by default with a quarter of its size here: gvm_backend ID SIZE-MIB [PROPERTIES]
gvm_backend() {
	printf '%s' "memory-backend-gvm,id=$1,size=$2M,cluster=$conf,key-file=$key,local=$(($2 / 4))M${3:+,$3}"
}
# on_node SIZE-MIB[,MORE OF -m] [PROPERTIES]: all memory of a machine from there, as words in $memory
on_node() { memory=(-m "$1" -object "$(gvm_backend ram0 "${1%%,*}" "${2:-}")" -machine memory-backend=ram0); }
memory=()

# The clock of a machine is only right when its kernel is told how fast the TSC runs.
tsc_khz=$(awk -F: '/^cpu MHz/ {printf "%d\n", $2 * 1000; exit}' /proc/cpuinfo)
machine_append="console=ttyS0 quiet reboot=t panic=-1 oops=panic mitigations=off tsc=reliable tsc_early_khz=${tsc_khz:-2600000}"
machine_via=() # what QEMU's command line is put behind: a control group, strace

# prepare_machine NAME: its folder
prepare_machine() {
	rm -rf "${scratch:?}/$1"
	mkdir "$scratch/$1"
	mkfifo "$scratch/$1/orders.in" "$scratch/$1/monitor.in"
	: >"$scratch/$1/console"
	: >"$scratch/$1/monitor"
	: >"$scratch/$1/given"
	: >"$scratch/$1/asked"
	ln -s console "$scratch/$1/orders.out"
	ln -s monitor "$scratch/$1/monitor.out"
}

# launch_machine NAME [QEMU ARGUMENT...]: start it, with the memory of $memory; sets $machine_pid
machine_pid=
declare -A machine_of=() # their process ids
launch_machine() {
	local name=$1
	shift
	prepare_machine "$name"
	"${machine_via[@]}" "$qemu" -M pc -cpu max -accel tcg,thread=multi -nodefaults -no-user-config -no-reboot -display none \
		-smp "cpus=2" -kernel "$guest/vmlinux" -initrd "$orders" -append "$machine_append ${machine_words:-}" \
		-chardev "pipe,id=orders,path=$scratch/$name/orders" -serial chardev:orders \
		-chardev "pipe,id=monitor,path=$scratch/$name/monitor" -mon chardev=monitor,mode=control \
		"${memory[@]}" "$@" >"$scratch/$name/log" 2>&1 </dev/null &
	machine_pid=$!
	machine_of[$name]=$machine_pid
	started+=("$machine_pid")
}

said() { grep -qE -- "$2" "$scratch/$1/console" 2>/dev/null; }
said_or_gone() { said "$1" "$2" || gone "${machine_of[$1]}"; }
# says NAME SECONDS PATTERN: true when its console has a line like it
says() {
	await "$2" said_or_gone "$1" "$3" || true
	said "$1" "$3"
}

# boot_machine NAME [QEMU ARGUMENT...]: start it, and wait until it takes orders and answers in its monitor
boot_machine() {
	launch_machine "$@"
	says "$1" "${boot_seconds:-60}" '^guest: ready' || return 1
	answer "$1" qmp_capabilities >/dev/null
}

# -- orders
order_number=
# order NAME COMMAND: give it; sets $order_number. "& COMMAND" goes on beside what follows. The number is of a
# file, not of a variable: command substitutions must not give two orders the same, and take the end of one for
# that of the other.
order() {
	order_number=$(($(wc -l <"$scratch/$1/given") + 1))
	printf '%s\n' "$2" >>"$scratch/$1/given"
	# not opened where nobody reads any more: that would wait
	printf '%s %s\n' "$order_number" "$2" 1<>"$scratch/$1/orders.in"
}
# order_ends NAME NUMBER SECONDS: true if it comes to its end, with status 0
order_ends() {
	says "$1" "$3" "^guest: order $2 exit " && said "$1" "^guest: order $2 exit 0"
}
# obeys NAME SECONDS COMMAND: an order that is waited for
obeys() {
	order "$1" "$3"
	order_ends "$1" "$order_number" "$2" || {
		console_end "$1"
		return 1
	}
}
console_end() { tail -n 15 "$scratch/$1/console" "$scratch/$1/log"; }

# -- the monitor
answered() { grep -q "\"id\": ${2}[,}]" "$scratch/$1/monitor"; }
answered_or_gone() { answered "$1" "$2" || gone "${machine_of[$1]}"; }
# answer NAME COMMAND [JSON ARGUMENTS]: print what it answers; false if that is an error, or none in 20 s
answer() {
	local line question
	question=$(($(wc -l <"$scratch/$1/asked") + 1))
	line="{\"execute\": \"$2\", \"id\": $question${3:+, \"arguments\": $3}}"
	printf '%s\n' "$line" >>"$scratch/$1/asked"
	printf '%s\n' "$line" 1<>"$scratch/$1/monitor.in"
	await 20 answered_or_gone "$1" "$question" || true
	line=$(grep "\"id\": ${question}[,}]" "$scratch/$1/monitor") || return 1
	tr -d '\r' <<<"$line"
	[[ $line != *'"error"'* ]]
}
# value NAME COMMAND FILTER: of the answer, by jq
value() { answer "$1" "$2" | jq -r ".return | $3"; }
# happened NAME EVENT: for await
happened() { grep -q "\"event\": \"$2\"" "$scratch/$1/monitor"; }
# hmp NAME COMMAND: of the monitor for people
hmp() { answer "$1" human-monitor-command "{\"command-line\": \"$2\"}" | jq -r .return; }
# refuses NAME COMMAND ARGUMENTS PATTERN: with an error that has such a description
refuses() {
	local line
	! line=$(answer "$1" "$2" "$3") || return 1
	printf '%s\n' "$line"
	jq -r .error.desc <<<"$line" | grep -qiE -- "$4"
}

# end_machine NAME [SECONDS]: as a person would, by the monitor; true if it has ended in time and well
end_machine() {
	local pid=${machine_of[$1]}
	printf '{"execute": "quit"}\n' 1<>"$scratch/$1/monitor.in"
	end_of "$pid" "${2:-20}"
	[ "$ended" = 0 ]
}
