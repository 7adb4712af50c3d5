# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# shellcheck shell=bash disable=SC2034,SC2154 # variables of and for the scripts that source it
#
# rdma.sh: RDMA devices made of software, and what is done to their link. Sourced after vm.sh by scripts
# with "modules=siw" in their settings. There is at most one device at a time: rdma_cm takes one by its
# address alone, and two on the same interface have the same.

dev=	   # rxe0 or siw0
gid_index= # that of RoCE v2 over IPv4 with this machine's address; of siw its only one

# A machine without a cable gets an interface that leads nowhere: its own address is all that is needed.
need_eth0() {
	[ "$VM_MACHINES" = 1 ] || return 0
	export VM_ADDRESS=198.18.0.1
	ip link add eth0 type dummy && ip addr add "$VM_ADDRESS/24" dev eth0 && link_up
}

load_rdma() {
	need_eth0 && modprobe -a rdma_rxe rdma_ucm ib_uverbs libcrc32c && insmod /run/modules/siw.ko
}

active() { [[ $(rdma link show "$1/1") == *"state ACTIVE"* ]]; }

# find_gid: what verbs call a port's address; rxe has one for each IP address of the interface, siw only one,
# made of the MAC, which it calls "IB/RoCE v1"
find_gid() {
	local port=/sys/class/infiniband/$dev/ports/1 wanted='[1-9a-f]' wanted_type="IB/RoCE v1" value type part
	if [ "$dev" = rxe0 ]; then
		IFS=. read -ra part <<<"$VM_ADDRESS"
		printf -v wanted '^0000:0000:0000:0000:0000:ffff:%02x%02x:%02x%02x' "${part[@]}"
		wanted_type="RoCE v2"
	fi
	for gid_index in 0 1 2 3 4 5 6 7; do
		# not each entry has both, and reading is then an error
		{ read -r value <"$port/gids/$gid_index" && read -r type <"$port/gid_attrs/types/$gid_index"; } 2>/dev/null || continue
		[[ $value =~ $wanted && $type == "$wanted_type" ]] && return
	done
	return 1
}

# make_device rxe|siw: instead of the one there was; sets $dev and $gid_index
make_device() {
	[ -z "$dev" ] || rdma link delete "$dev"
	dev=${1}0
	rdma link add "$dev" type "$1" netdev eth0 && await 20 active "$dev" && await 20 find_gid
}

# renew_device: take it away under the programs that use it, and put it back
renew_device() {
	timeout 60 rdma link delete "$dev" || return
	pause 1
	rdma link add "$dev" type "${dev%0}" netdev eth0 && await 20 active "$dev" && await 20 find_gid
}

# For READY of "pair": a program listens on this TCP port; with rdma_cm.
listens_tcp() { [ -n "$(ss -Htln "sport = :$1")" ]; }
listens_cm() { [[ $(rdma resource show cm_id) == *"state LISTEN"* ]]; }

# counted NAME: one of the device's counters
counted() { cat "/sys/class/infiniband/$dev/ports/1/hw_counters/$1"; }

slow_link() { tc qdisc replace dev eth0 root netem "$@"; }
plain_link() { tc qdisc del dev eth0 root; }
link_up() { ip link set eth0 up; }
link_down() { ip link set eth0 down; }
