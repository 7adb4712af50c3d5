# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# shellcheck shell=bash disable=SC2034 # variables are for the scripts that source it
#
# tap.sh: how the end-to-end cases in ci/test.d and ci/soak.d say what they found: the Test Anything
# Protocol. A case sources it, checks things, and ends with "finish"; one that ends otherwise counts as
# a failure, because its plan is missing. It runs in a scratch directory of its own.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

checks=0
failures=0
bin=${GVM_BIN:-$top/build/release}

make_scratch
cd "$scratch"

pass() {
	checks=$((checks + 1))
	say "ok $checks - $1"
}

# fail DESCRIPTION [FILE...]: with the ends of the files that tell why
fail() {
	local file
	checks=$((checks + 1))
	failures=$((failures + 1))
	say "not ok $checks - $1"
	shift
	for file in "$@"; do
		[ -f "$file" ] || continue
		say "# -- ${file##*/} ends with"
		tail -n 15 "$file" | cut -c1-300 | sed 's/^/# /'
	done
}

skip() {
	checks=$((checks + 1))
	say "ok $checks - $1 # SKIP $2"
}

# check DESCRIPTION COMMAND...: ok if the command succeeds; what it printed is shown if it does not
check() {
	local description=$1
	shift
	if "$@" >"$scratch/check.out" 2>&1; then
		pass "$description"
	else
		fail "$description" "$scratch/check.out"
	fi
}

# must DESCRIPTION COMMAND...: a check without which the rest of the case makes no sense
must() {
	local before=$failures
	check "$@"
	[ "$failures" = "$before" ] || finish
}

# check_line DESCRIPTION FILE PATTERN: the file has a line that matches (extended, any case)
check_line() {
	if grep -qiE -- "$3" "$2"; then
		pass "$1"
	else
		fail "$1" "$2"
		say "# wanted a line like: $3"
	fi
}

# equal DESCRIPTION WANTED FOUND
equal() {
	if [ "$2" = "$3" ]; then
		pass "$1"
	else
		fail "$1"
		say "# wanted '$2', found '$3'"
	fi
}

skip_all() {
	say "1..0 # SKIP $1"
	exit 0
}

finish() {
	say "1..$checks"
	[ "$failures" = 0 ] || exit 1
	exit 0
}
