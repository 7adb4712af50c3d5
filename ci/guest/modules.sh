# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# shellcheck shell=bash
#
# modules.sh: the kernel's modules for an initramfs. Sourced after lib.sh.

# closure KERNEL MODULE...: the files of the modules and of all that they need, from modules.dep of a folder
# of ci/kernel; relative to its lib/modules/VERSION
closure() {
	local kernel=$1
	shift
	awk -v wanted="$*" '
		{
			path = substr($1, 1, length($1) - 1)
			base = path
			gsub(/.*\/|\.ko.*/, "", base)
			gsub(/-/, "_", base)
			file[base] = path
			needs[base] = $0
		}
		END {
			count = split(wanted, name, " ")
			for (i = 1; i <= count; i++) {
				parts = split(needs[name[i]], part, /:? +|:/)
				for (j = 1; j <= parts; j++)
					if (part[j] != "")
						print part[j]
			}
		}' "$kernel/lib/modules/"*/modules.dep | sort -u
}

# put_modules KERNEL ROOT MODULE...: these and what they need, for modprobe in the file system ROOT
put_modules() {
	local kernel=$1 root=$2 version file
	shift 2
	version=$(ls "$kernel/lib/modules")
	mkdir -p "$root/lib/modules/$version"
	for file in $(closure "$kernel" "$@"); do
		mkdir -p "$root/lib/modules/$version/${file%/*}"
		cp "$kernel/lib/modules/$version/$file" "$root/lib/modules/$version/$file"
	done
	cp "$kernel/lib/modules/$version"/modules.{dep,alias,builtin} "$root/lib/modules/$version/"
}
