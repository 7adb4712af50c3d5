# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# shellcheck shell=bash
#
# figures.sh: what is made of figures that two programs give in turns. One that is missing, or no number above zero, is
# never good enough: a program that says nothing must not pass for a fast one. Sourced.

# is_figure TEXT: a number above zero
is_figure() { [[ $1 =~ ^[0-9]+(\.[0-9]+)?$ && ! $1 =~ ^[0.]*$ ]]; }

are_figures() {
	local one
	[ $# -gt 0 ] || return 1
	for one in "$@"; do
		is_figure "$one" || return 1
	done
}

# ratio_of OURS BY THEIRS TIMES: OURS / BY to THEIRS * TIMES, or "none"
ratio_of() {
	if are_figures "$@"; then
		awk -v ours="$1" -v by="$2" -v theirs="$3" -v times="$4" 'BEGIN { printf "%.4f", ours / by / (theirs * times) }'
	else
		echo none
	fi
}

# fabric_ratio LINE FILE: the number before "times fi_..." in the line that begins so, in what bench/fabric has said; once
fabric_ratio() {
	awk -v begin="$1" 'index($0, begin) == 1 && match($0, /[0-9.]+ times fi_/) { n++; r = substr($0, RSTART) + 0 }
		END { if (n == 1 && r > 0) print r; else exit 1 }' "$2"
}

# keeps_to UNIT BOUND RATIO...: the median of three or more; ns: is at most BOUND, else at least
keeps_to() {
	local unit=$1 bound=$2
	shift 2
	[ $# -ge 3 ] && are_figures "$bound" "$@" || return 1
	awk -v unit="$unit" -v bound="$bound" -v median="$(printf '%s\n' "$@" | sort -n | sed -n "$((($# + 1) / 2))p")" \
		'BEGIN { exit !(unit == "ns" ? median <= bound : median >= bound) }'
}

# is_less WHAT A B: WHAT, which may be below zero, is less than the figures A times B
is_less() {
	[[ $1 =~ ^-?[0-9]+$ ]] && are_figures "$2" "$3" || return 1
	awk -v what="$1" -v a="$2" -v b="$3" 'BEGIN { exit !(what < a * b) }'
}

# same_number A B: both are numbers, zero or more, and the same one
same_number() { [[ $1 =~ ^[0-9]+$ && $2 =~ ^[0-9]+$ ]] && [ "$1" -eq "$2" ]; }
