# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# shellcheck shell=bash disable=SC2034,SC2154 # variables are shared with the scripts that source it
#
# proofs.sh: what is to be true of a guest whose memory is on memory nodes, for ci/test.d and ci/soak.d. Sourced
# after machine.sh. Each function is a few checks of a machine that takes orders.

# How much of its work memwork does where a proof only has to fill memory and read it: all of it, or 2 for ci/test.
work_phases=6

# A disk of the machine's, past this machine's page cache: disk ID MIB HOW, words in $words
words=()
disk() {
	truncate -s "$2M" "$scratch/disk-$1"
	words+=(-drive "file=$scratch/disk-$1,if=none,id=$1,format=raw,cache=none,aio=$3" -device "virtio-blk-pci,drive=$1")
}
# cable ID OWN PEER: a network card with a cable to another machine's
cable() {
	words+=(-netdev "dgram,id=$1,local.type=unix,local.path=$scratch/cable-$2,remote.type=unix,remote.path=$scratch/cable-$3"
		-device "virtio-net-pci,netdev=$1,mac=52:54:00:12:00:0$2")
}

backend_value() { value "$1" query-gvm ".[] | select(.id == \"$2\") | .$3"; }
# below MACHINE BACKEND FIELD BYTES: for await
below() {
	local found
	found=$(backend_value "$1" "$2" "$3")
	echo "$3 is $found, not below $4"
	[ "$found" -lt "$4" ]
}
above() {
	local found
	found=$(backend_value "$1" "$2" "$3")
	echo "$3 is $found, not above $4"
	[ "$found" -gt "$4" ]
}
mib() { echo "$(($1 << 20))"; }

# Memory and disks at once: devices write to memory while its pages come and go. disk_proof MACHINE MIB DISK...
disk_proof() {
	local machine=$1 mib=$2 numbers=() name good=0
	shift 2
	for name; do
		order "$machine" "& iowork -d /dev/$name -m $mib -s ${#numbers[@]} -r 2"
		numbers+=("$order_number")
	done
	check "memory is filled and verified while disks read and write it" obeys "$machine" 120 "memwork -m $((mib * 3)) -s 3"
	for name in "${numbers[@]}"; do
		order_ends "$machine" "$name" 120 && good=$((good + 1))
	done
	equal "and every byte from and to each disk is right" "${#numbers[@]}" "$good"
	[ "$good" = "${#numbers[@]}" ] || console_end "$machine" | sed 's/^/# /'
}

# Two machines with a cable: what one sends from memory arrives in the other's. network_proof FROM TO MIB ADDRESS-OF-TO
network_proof() {
	local there
	# its input never ends: nc would hang up when it does
	order "$2" "& [ -p idle ] || mkfifo idle; nc -l -p 5000 <>idle >/dev/shm/came"
	there=$order_number
	check "a machine makes something to send" obeys "$1" 60 \
		"head -c $3m /dev/urandom >/dev/shm/sent && sum=\$(sha256sum </dev/shm/sent) && echo \"guest: sent \$sum\""
	check "and sends it over virtio-net" obeys "$1" 60 \
		"n=0; until nc $4 5000 </dev/shm/sent; do n=\$((n+1)); [ \$n -lt 50 ] || exit 1; usleep 100000; done"
	check "the other receives it" order_ends "$2" "$there" 60
	check "and sums it up" obeys "$2" 60 "sum=\$(sha256sum </dev/shm/came) && echo \"guest: came \$sum\" && rm /dev/shm/came"
	equal "it is the same, every byte" "$(tr -d '\r' <"$scratch/$1/console" | sed -n 's/^guest: sent //p' | tail -n 1)" \
		"$(tr -d '\r' <"$scratch/$2/console" | sed -n 's/^guest: came //p' | tail -n 1)"
	obeys "$1" 10 "rm /dev/shm/sent" >/dev/null || fail "it goes again"
}

# stress_proof MACHINE MIB SECONDS
stress_order() { printf 'stress-ng --vm 2 --vm-bytes %sM --vm-method all --verify --timeout %ss --metrics-brief' "$2" "$3"; }
stress_proof() { check "stress-ng --vm --verify finds nothing wrong" obeys "$1" $(($3 + 60)) "$(stress_order "$@")"; }

memory_of() {
	obeys "$1" 20 "awk '/MemTotal/ {print \"guest: total\", int(\$2 / 1024)}' /proc/meminfo" >/dev/null || return 1
	tr -d '\r' <"$scratch/$1/console" | sed -n 's/^guest: total //p' | tail -n 1
}
memory_is_at_least() { [ "$(memory_of "$1")" -ge "$2" ]; }
memory_is_below() { [ "$(memory_of "$1")" -lt "$2" ]; }

# A DIMM on the memory nodes is plugged in, used and given back. hot_plug_proof MACHINE MIB WORK-MIB
hot_plug_proof() {
	local machine=$1 before
	before=$(memory_of "$machine")
	check "a backend is added while the machine runs" answer "$machine" object-add \
		"{\"qom-type\": \"memory-backend-gvm\", \"id\": \"more\", \"size\": $(mib "$2"), \"local\": $(mib $(($2 / 4))), \"cluster\": \"$conf\", \"key-file\": \"$key\"}"
	check "and a DIMM of it" answer "$machine" device_add '{"driver": "pc-dimm", "id": "dimm", "memdev": "more"}'
	check "the guest has it" await 20 memory_is_at_least "$machine" $((before + $2 - 8))
	check "work that needs it finds every page right" obeys "$machine" 120 "memwork -m $3 -s 4 -p $work_phases"
	check "some of it is on the memory node" above "$machine" more '"write-back".written' 0
	check "the guest is asked to give the DIMM back" answer "$machine" device_del '{"id": "dimm"}'
	check "it does" await 30 happened "$machine" DEVICE_DELETED
	check "the guest has no more than before" memory_is_below "$machine" $((before + 8))
	check "the backend goes" answer "$machine" object-del '{"id": "more"}'
	equal "and nobody speaks of it any more" "" "$(backend_value "$machine" more id)"
}

# Pages that the guest gives up cost nothing, here or at the node. balloon_proof MACHINE SIZE-MIB BACKEND
balloon_proof() {
	local machine=$1 size=$2 small=$(($2 / 2))
	check "memory is filled" obeys "$machine" 120 "memwork -m $((size * 6 / 10)) -s 5 -p $work_phases"
	check "the balloon is blown up" answer "$machine" balloon "{\"value\": $(mib "$small")}"
	ballooned() {
		local found
		found=$(value "$machine" query-balloon .actual)
		echo "$found bytes, not $1 MiB"
		[ "$found" -le "$(mib "$1")" ]
	}
	check "the guest gives memory up" await 60 ballooned $((small + 8))
	check "the memory node holds none of it" await 20 below "$machine" "$3" stored "$(mib $((small + 16)))"
	check "nor is it here" below "$machine" "$3" held "$(mib $((small + 16)))"
	check "the balloon goes" answer "$machine" balloon "{\"value\": $(mib "$size")}"
	full() { [ "$(value "$machine" query-balloon .actual)" -ge "$(mib "$size")" ]; }
	check "the guest has its memory back" await 60 full
	check "and can use it" obeys "$machine" 120 "memwork -m $((size * 6 / 10)) -s 6 -p $work_phases"
}

# Free pages that the guest reports by itself. reporting_proof MACHINE MIB BACKEND
reporting_proof() {
	check "memory is filled and freed" obeys "$1" 120 "memwork -m $2 -s 7 -p $work_phases"
	check "free pages that are reported go from the memory node" await 30 below "$1" "$3" stored "$(mib $(($2 * 7 / 10)))"
	check "work afterwards finds every page right" obeys "$1" 120 "memwork -m $2 -s 8 -p $work_phases"
}

# What would need all memory at once is refused, with a sentence. refusal_proof MACHINE
refusal_proof() {
	local why='memory on memory nodes can be neither migrated nor saved'
	check "migration is refused" refuses "$1" migrate '{"uri": "exec:cat >/dev/null"}' "$why"
	check "postcopy can be asked for" answer "$1" migrate-set-capabilities '{"capabilities": [{"capability": "postcopy-ram", "state": true}]}'
	check "but is refused too" refuses "$1" migrate '{"uri": "unix:/nowhere"}' "$why"
	answer "$1" migrate-set-capabilities '{"capabilities": [{"capability": "postcopy-ram", "state": false}]}' >/dev/null || true
	hmp "$1" "savevm one" >"$scratch/savevm" || true
	check_line "a snapshot is refused" "$scratch/savevm" "$why"
	equal "the machine runs on" running "$(value "$1" query-status .status)"
}

# -- a machine that may use less of this machine than its guest has
group=
limit_of() { if [ -w "$group/memory.max" ]; then echo "$group/memory.max"; else echo "$group/memory.limit_in_bytes"; fi; }
peak_of() { cat "$group/memory.peak" 2>/dev/null || cat "$group/memory.max_usage_in_bytes"; }
# make_group MIB: a control group for it; false where there can be none
make_group() {
	local at
	for at in /sys/fs/cgroup/memory /sys/fs/cgroup; do
		group=$at/gvmnet-guest-$$
		mkdir "$group" 2>/dev/null || continue
		if [ -w "$(limit_of)" ]; then
			undo+=("rmdir '$group' 2>/dev/null || true")
			mib "$1" >"$(limit_of)"
			return
		fi
		rmdir "$group"
	done
	return 1
}
# larger_proof GUEST-MIB LIMIT-MIB LOCAL-MIB WORK-MIB
larger_proof() {
	if ! make_group "$2" 2>/dev/null; then
		skip "a guest with more memory than this machine may use" "no control group can be made here"
		return
	fi
	on_node "$1" "local=$3M"
	# shellcheck disable=SC2016 # the inner shell's
	machine_via=(bash -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$group")
	check "a guest of $1 MiB boots where QEMU may use $2 MiB" boot_machine large
	machine_via=()
	check "it fills and verifies $4 MiB" obeys large 240 "memwork -m $4 -s 9 -p $work_phases"
	say "# at most $(($(peak_of) >> 20)) MiB of $2 were in use"
	check "nothing was killed for it" end_machine large
	await 5 rmdir "$group" || true
}

# -- ends
# A machine ends while its vCPUs wait for the memory node: leave_proof NAME HOW COMMAND... which makes it end
leave_proof() {
	local name=$1 how=$2 pid status
	shift 2
	on_node 256 local=32M
	check "a machine boots" boot_machine "$name" || return 0
	pid=${machine_of[$name]}
	order "$name" "& memwork -m 150 -s 11 -r 1000"
	check "it pages" says "$name" 60 'round 1 phase 3'
	kill -STOP "$node_pid"
	pause 0.5
	"$@"
	end_of "$pid" 15
	status=$ended
	kill -CONT "$node_pid"
	check "it ends by $how while faults wait for a node that says nothing" test "$status" != late
	say "# exit status $status"
	stop "$pid"
}
quit_machine() { printf '{"execute": "quit"}\n' 1<>"$scratch/$1/monitor.in"; }
regions_left() { "$gvm" top --once --key-file "$key" "127.0.0.1:$port" 2>/dev/null | grep -oE '[0-9]+ regions, [0-9]+ held' | tail -n 1; }
