# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# shellcheck shell=bash disable=SC2034,SC2154,SC2164 # of lib.sh, which has errexit set, and kept.sh
#
# source.sh: QEMU's source, fetched by checksum from this machine's own package sources, with Debian's fixes
# and our series. Sourced after kept.sh.

# pinned PIN KIND: the files of that kind, in order, as "NAME SHA256"
pinned() { sed -n "s/^$2 //p" "$top/qemu/pins/$1"; }
is_pinned() { [ "$(sha256sum <"$1" 2>/dev/null | cut -d' ' -f1)" = "$2" ]; }

# A private configuration of apt's, in $scratch/apt, that has the source packages of the pin's suite where the machine's
# has binary ones of its own. The machine's own stays as it is.
private_apt() {
	local apt=$scratch/apt file own suite types=deb-src
	mkdir -p "$apt"/{lists/partial,cache/archives/partial,parts,preferences}
	# shellcheck source=/dev/null
	own=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
	suite=$(pinned "$fetch_pin" suite)
	[ -z "$(pinned "$fetch_pin" package)" ] || types="deb deb-src"
	for file in /etc/apt/sources.list.d/*.sources; do
		if [ -f "$file" ] && grep -q debian-archive "$file"; then
			sed "s/^Types:.*/Types: $types/; /^Suites:/s/${own:-$}/${suite:-$own}/g" "$file" >"$apt/parts/${file##*/}"
		fi
	done
	for file in $types; do
		sed -n "s/^deb /$file /; T; s/${own:-$}/${suite:-$own}/g; p" /etc/apt/sources.list 2>/dev/null || true
	done >"$apt/parts/main.list"
	apt_options=(
		-qq -o "Dir::Etc::sourcelist=$apt/none" -o "Dir::Etc::sourceparts=$apt/parts"
		-o "Dir::Etc::preferencesparts=$apt/preferences" -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache"
		-o APT::Sandbox::User="$(id -un)" -o Acquire::Retries=3
	)
}

# fetch_source DIR: the tarball, the patches and the packages that $fetch_pin names, checked
fetch_source() {
	local name sum
	need apt-get dpkg-deb tar xz
	warn "fetching the source of QEMU $fetch_pin"
	private_apt
	apt-get "${apt_options[@]}" update >&2 || die "the lists of source packages could not be fetched"
	(cd "$1" && apt-get "${apt_options[@]}" source --download-only qemu) >&2 ||
		die "apt-get could not fetch the source package qemu"
	while read -r name _; do
		(cd "$1" && apt-get "${apt_options[@]}" download "${name%%_*}") >&2 || die "apt-get could not fetch $name"
	done < <(pinned "$fetch_pin" package)
	mkdir "$scratch/debian"
	tar -C "$scratch/debian" --strip-components=1 -xf "$1"/qemu_*.debian.tar.xz
	rm -f "$1"/qemu_*.debian.tar.xz "$1"/*.dsc
	while read -r name sum; do
		is_pinned "$1/$name" "$sum" || die "$name is not there, or not the one that qemu/pins/$fetch_pin names"
	done < <(pinned "$fetch_pin" source && pinned "$fetch_pin" package)
	while read -r name sum; do
		is_pinned "$scratch/debian/patches/$name" "$sum" ||
			die "Debian's $name is not there, or not the one that qemu/pins/$fetch_pin names"
		cp "$scratch/debian/patches/$name" "$1"
	done < <(pinned "$fetch_pin" patch)
}

apply() { # FILE: to the source in the current folder
	patch -s -f -p1 --no-backup-if-mismatch <"$1" >&2 || die "${1##*/} does not apply"
}

# unpack PIN DIR: the source with Debian's fixes and our series
unpack() {
	local name series=$top/qemu/patches/$1
	fetch_pin=$1
	keep qemu-source "$1-$(sha256sum <"$top/qemu/pins/$1" | cut -c1-16)" fetch_source
	mkdir -p "$2"
	tar -C "$2" --strip-components=1 -xf "$kept"/qemu_*.orig.tar.xz
	cd "$2"
	while read -r name _; do
		apply "$kept/$name"
	done < <(pinned "$1" patch)
	while read -r name; do
		apply "$series/$name"
	done < <(grep -v '^#' "$series/series")
	# what this QEMU wants newer than the machine has it, for whoever builds it
	for name in "$kept"/*.deb; do
		[ ! -f "$name" ] || dpkg-deb -x "$name" wanted
	done
}

# put_source PIN DIR: all of it with our own files, in DIR, which is left alone as far as it is right
put_source() {
	local stamp
	stamp=$(cat "$top/qemu/pins/$1" "$top/qemu/patches/$1"/* | sha256sum)
	if [ "$(cat "$2.from" 2>/dev/null)" != "$stamp" ]; then
		rm -rf "$2" "$2.new"
		(undo=() && unpack "$1" "$2.new")
		mv "$2.new" "$2"
		printf '%s' "$stamp" >"$2.from"
	fi
	# what has not changed keeps its time, so that it is not built again
	(cd "$top/qemu/src" && find . -type f) | while read -r name; do
		cmp -s "$top/qemu/src/$name" "$2/$name" && continue
		mkdir -p "$(dirname "$2/$name")"
		cp "$top/qemu/src/$name" "$2/$name"
	done
}
