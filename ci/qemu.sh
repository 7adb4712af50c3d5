# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# shellcheck shell=bash disable=SC2034,SC2154 # variables are shared with the scripts that source it
#
# qemu.sh: virtual machines of our own QEMU, with QMP and a shell in the guest, for the end-to-end cases. Sourced after
# cluster.sh. One machine at a time: $vm_pid, and in $scratch what it says: qemu.log, qmp.log, serial.log.
. "$top/ci/guest/microvm.sh"

guest=$top/build/guest
vm_pid=
memory_nodes=$conf # the cluster file of the next machine

# need_qemu: QEMU with memory-backend-gvm, or $QEMU
need_qemu() {
	local folder
	qemu=${QEMU:-}
	[ -z "$qemu" ] || return 0
	folder=$("$top/qemu/build" --small) || return 1
	qemu=$folder/qemu-system-x86_64
}

# ram SIZE LOCAL [PROPERTY=VALUE,...]: set $ram to the options for a machine's memory
ram=()
ram() {
	ram=(
		-object "memory-backend-gvm,id=ram0,size=$1,local=$2,cluster=$memory_nodes,key-file=$key${3:+,$3}"
		-machine memory-backend=ram0
	)
}

# launch_vm QEMU-OPTION...: true when QMP is ready
launch_vm() {
	local pipe
	for pipe in qmp serial; do
		rm -f "$scratch/$pipe.in" "$scratch/$pipe.out"
		mkfifo "$scratch/$pipe.in" "$scratch/$pipe.out"
		: >"$scratch/$pipe.log"
	done
	: >"$scratch/qemu.log"
	guest_id=0 qmp_seen=0
	# descriptors that keep both ends open, so that neither side waits for the other
	exec 5<>"$scratch/qmp.in" 6<>"$scratch/serial.in" 7<>"$scratch/qmp.out" 8<>"$scratch/serial.out"
	cat "$scratch/qmp.out" >>"$scratch/qmp.log" 7>&- 8>&- &
	started+=($!)
	cat "$scratch/serial.out" >>"$scratch/serial.log" 7>&- 8>&- &
	started+=($!)
	"${vm_via[@]}" "$qemu" -nodefaults -no-user-config -no-reboot -display none \
		-chardev "pipe,id=qmp,path=$scratch/qmp" -mon chardev=qmp,mode=control \
		-chardev "pipe,id=serial,path=$scratch/serial" -serial chardev:serial "$@" \
		>"$scratch/qemu.log" 2>&1 </dev/null 5>&- 6>&- 7>&- 8>&- &
	vm_pid=$!
	started+=("$vm_pid")
	await 30 vm_greets && ! gone "$vm_pid" && qmp '"execute": "qmp_capabilities"'
}
vm_via=()
vm_greets() { gone "$vm_pid" || has "$scratch/qmp.log" '"QMP"'; }

# boot_vm COMMAND QEMU-OPTION...: the stock guest, which runs the command (words joined by commas)
boot_vm() {
	local command=$1
	shift
	launch_vm "${microvm[@]:0:6}" -kernel "$guest/vmlinux" -initrd "${initrd:-$guest/initramfs}" \
		-append "$microvm_append gvm.run=$command ${vm_append:-}" "$@"
}

# add_modules NAME...: the guest has them as well, to be loaded in this order by load_modules; sets $initrd
add_modules() {
	local name file modules
	modules=$("$top/ci/kernel")/lib/modules || return 1
	mkdir -p "$scratch/extra/modules"
	for name in "$@"; do
		file=$(find "$modules" -name "$name.ko*" | head -n 1)
		case $file in
		*.xz) xz -dc "$file" >"$scratch/extra/modules/$name.ko" ;;
		*.ko) cp "$file" "$scratch/extra/modules/$name.ko" ;;
		*) return 1 ;;
		esac
		echo "/modules/$name.ko" >>"$scratch/extra/modules/order"
	done
	initrd=$scratch/initrd
	(cd "$scratch/extra" && find . | cpio --quiet -o -H newc) | cat "$guest/initramfs" - >"$initrd"
}
load_modules() {
	# shellcheck disable=SC2016 # the guest's shell expands it
	in_guest 30 '(for m in $(cat /modules/order); do busybox insmod $m || exit 1; done)'
}

# qmp MEMBERS: execute a command; true if it succeeds; its answer is in $answer
answer=
qmp() {
	qmp_id=${EPOCHREALTIME/./} # also where this is a subshell, whose variables are lost
	printf '{ %s, "id": %d }\n' "$1" "$qmp_id" >&5
	await "${2:-20}" qmp_answered || return 1
	answer=$(grep -m 1 "\"id\": ${qmp_id}[,}]" "$scratch/qmp.log")
	[[ $answer == *'"return"'* ]]
}
qmp_answered() { gone "$vm_pid" || has "$scratch/qmp.log" "\"id\": ${qmp_id}[,}]"; }

# gvm_of FILTER: what query-gvm says of the first backend (jq)
gvm_of() {
	qmp '"execute": "query-gvm"' || return 1
	jq -r ".return[0] | $1" <<<"$answer"
}

set_of() { # OBJECT PROPERTY VALUE
	qmp "\"execute\": \"qom-set\", \"arguments\": { \"path\": \"$1\", \"property\": \"$2\", \"value\": $3 }"
}

status_is() { qmp '"execute": "query-status"' && [ "$(jq -r .return.status <<<"$answer")" = "$1" ]; }

# event NAME SECONDS: it comes, after those that were waited for before
event() {
	await "$2" event_came "$1" || return 1
	qmp_seen=$(tail -n "+$((qmp_seen + 1))" "$scratch/qmp.log" | grep -n -m 1 "\"event\": \"$1\"" |
		cut -d: -f1 | awk -v seen="$qmp_seen" '{print seen + $1}')
}
event_came() { tail -n "+$((qmp_seen + 1))" "$scratch/qmp.log" | grep -q "\"event\": \"$1\""; }

# in_guest SECONDS COMMAND: run it in the shell of a guest that was booted with "sh"; true if it succeeds
in_guest() {
	local end
	guest_id=$((guest_id + 1))
	printf '%s; echo end-%d-$?\n' "$2" "$guest_id" >&6
	await "$1" guest_said || return 1
	end=$(grep -m 1 -oE "^end-$guest_id-[0-9]+" "$scratch/serial.log") || return 1
	[ "${end##*-}" = 0 ]
}
guest_said() { gone "$vm_pid" || has "$scratch/serial.log" "^end-$guest_id-[0-9]+"; }

# says SECONDS PATTERN: the guest's console does
says() {
	said() { gone "$vm_pid" || has "$scratch/serial.log" "$1"; }
	await "$1" said "$2"
	has "$scratch/serial.log" "$2"
}

stop_vm() {
	stop "$vm_pid" "${1:-10}"
	exec 5>&- 6>&- 7>&- 8>&-
}
