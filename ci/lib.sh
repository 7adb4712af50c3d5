# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# shellcheck shell=bash disable=SC2034 # variables are for the scripts that source it
#
# lib.sh: what the scripts in ci/ have in common. Sourced, not run. It sets the shell's strict mode,
# $top (the checkout) and $cache (speed-ups only: everything works when it is empty or damaged), and
# owns the scratch directory and the processes of the script that sources it: both go at its end,
# however it ends. Processes are ended by their own id, never by name.
set -euo pipefail
shopt -s inherit_errexit
export LC_ALL=C.UTF-8

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${XDG_CACHE_HOME:-${HOME:-$top/build}/.cache}/gvmnet
me=${0##*/}

say() { printf '%s\n' "$*"; }
warn() { printf '%s: %s\n' "$me" "$*" >&2; }
die() {
	warn "$*"
	exit 1
}

# need PROGRAM...: stop with a sentence if one of them is not there
need() {
	local program
	for program in "$@"; do
		command -v "$program" >/dev/null || die "$program is needed; ci/setup installs it"
	done
}

# -- scratch directory and clean-up ------------------------------------------------------------

scratch=
started=() # ids of processes to end
undo=()	   # commands to run at the end, the last one first

clean_up() {
	local status=$? i
	trap '' INT TERM HUP
	set +e
	for ((i = ${#started[@]} - 1; i >= 0; i--)); do
		stop "${started[i]}"
	done
	for ((i = ${#undo[@]} - 1; i >= 0; i--)); do
		eval "${undo[i]}"
	done
	[ -z "$scratch" ] || rm -rf --one-file-system "$scratch"
	exit "$status"
}

# Make $scratch, which only this user can read, and see to it that all is cleaned up at the end.
make_scratch() {
	scratch=$(mktemp -d "${TMPDIR:-/tmp}/gvmnet-$me.XXXXXX")
	mkfifo "$scratch/.pause"
	trap clean_up EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
}

# await SECONDS COMMAND...: true as soon as the command is. SECONDS is what it takes on a machine that does nothing else;
# false after three times as long, which it says.
await() {
	await_just $(($1 * 3)) "${@:2}" && return
	say "# waited in vain for $(($1 * 3)) s: ${*:2}" >&2
	return 1
}

# await_just SECONDS COMMAND...: the same, with just these. After a second it looks less often: a look that starts a program
# costs as much as 25 ms of a processor, and ten times that of an emulated one.
await_just() {
	local end=$((${EPOCHREALTIME/./} + $1 * 1000000)) looks=0
	shift
	until "$@"; do
		[ "${EPOCHREALTIME/./}" -lt "$end" ] || return 1
		if ((looks++ < 20)); then pause 0.05; else pause 0.2; fi
	done
}

# pause SECONDS: without a process of its own, once there is a scratch directory
pause() {
	if [ -p "$scratch/.pause" ]; then
		read -rt "$1" _ <>"$scratch/.pause" || true
	else
		sleep "$1"
	fi
}

# alive PID: it runs (a zombie does not); without a process of its own
alive() {
	local line
	{ read -r line <"/proc/$1/stat"; } 2>/dev/null || return 1
	line=${line##*) }
	[[ $line != [ZX]* ]]
}
gone() { ! alive "$1"; }

# stop PID [SECONDS]: ask it to end, insist after SECONDS (10), and forget it
stop() {
	local pid=$1
	if alive "$pid"; then
		kill -CONT "$pid" 2>/dev/null || true
		kill -TERM "$pid" 2>/dev/null || true
		await_just "${2:-10}" gone "$pid" || kill -KILL "$pid" 2>/dev/null || true
	fi
	wait "$pid" 2>/dev/null || true
}

# -- odds and ends -----------------------------------------------------------------------------

now_ms() { printf '%s\n' "$((${EPOCHREALTIME/./} / 1000))"; }

# A TCP port that nothing listens on at 127.0.0.1, below the range that connections draw from.
free_port() {
	local port i
	for ((i = 0; i < 100; i++)); do
		port=$((20000 + RANDOM % 10000))
		if ! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
			printf '%s\n' "$port"
			return
		fi
	done
	die "no free TCP port found between 20000 and 29999"
}

listens() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Packages of a group, from ci/packages.
packages_of() { sed -n "s/^$1:[[:space:]]*//p" "$top/ci/packages" | tr -s ' \t' '\n'; }

new_key() {
	(umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$1")
}
