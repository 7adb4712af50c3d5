# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# shellcheck shell=bash disable=SC2034,SC2154 # $kept is for the scripts that source it, $top and $cache are of lib.sh
#
# kept.sh: folders that take long to make and are kept in the cache, for ci/kernel, ci/headers and ci/siw. Sourced
# after lib.sh. Their checksums are looked at each time; what is damaged is made anew.

kept=
intact() { (cd "$1" 2>/dev/null && sha256sum --status -c SHA256SUMS 2>/dev/null); }

# keep KIND NAME COMMAND: set $kept to the folder NAME of that kind, which "COMMAND DIR" fills where it is
# not there. One makes it, others who want the same wait for it.
keep() {
	local store=$cache/$1 fresh
	need flock
	# a cache that cannot be written is no reason to fail
	if ! mkdir -p "$store" 2>/dev/null || ! [ -w "$store" ]; then
		store=$top/build/$1
		mkdir -p "$store"
	fi
	kept=$store/$2
	exec 9>"$store/lock"
	flock 9
	if ! intact "$kept"; then
		make_scratch
		fresh=$(mktemp -d "$store/new.XXXXXX")
		undo+=("rm -rf '$fresh'")
		"$3" "$fresh"
		(cd "$fresh" && find . -type f ! -name SHA256SUMS -print0 | sort -z | xargs -0 sha256sum >SHA256SUMS)
		chmod 755 "$fresh"
		rm -rf "$kept"
		mv -T "$fresh" "$kept"
	fi
	touch "$kept"
	# what nobody has used for a week: an older version, or what was left by a run that was killed
	find "$store" -mindepth 1 -maxdepth 1 ! -name lock ! -path "$kept" -mtime +7 -exec rm -rf {} +
}

# download DIR PACKAGE=VERSION...: fetch the packages' files into DIR, without installing anything
download() {
	local dir=$1
	shift
	(cd "$dir" && apt-get -qq -o APT::Sandbox::User="$(id -un)" -o Acquire::Retries=3 download "$@") >&2 ||
		die "these packages could not be downloaded: $*"
}
