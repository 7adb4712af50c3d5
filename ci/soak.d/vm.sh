# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# shellcheck shell=bash disable=SC2154 # variables of tap.sh
#
# vm.sh: the lines of virtual machines as a case's own. Sourced after tap.sh.

# in_vm NAME [ARGUMENT...]: what ci/vm says, each line a check of this case
in_vm() {
	local line
	while read -r line; do
		case $line in
		"ok "*) pass "$*: ${line#ok * - }" ;;
		"not ok "*) fail "$*: ${line#not ok * - }" ;;
		"# "*) say "$line" ;;
		esac
	done < <("$top/ci/vm" "$@" 2>&1 </dev/null || echo "not ok 0 - did not come to its end")
}
