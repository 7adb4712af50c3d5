# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# shellcheck shell=bash disable=SC2034 # variables are for the scripts that source it
#
# microvm.sh: how QEMU is called for the guests of the demo and of the tests. Sourced after lib.sh.
# $microvm is the beginning of QEMU's options, $microvm_append the beginning of the kernel's.

# Under TCG the clock is only right when the kernel is told how fast the TSC runs.
tsc_khz=$(awk -F: '/^cpu MHz/ {printf "%d\n", $2 * 1000; exit}' /proc/cpuinfo)
microvm=(
	-M "microvm,rtc=on" -cpu max -accel "tcg,thread=multi"
	-nodefaults -no-user-config -no-reboot -display none -serial stdio
)
microvm_append="console=ttyS0 quiet reboot=t panic=-1 mitigations=off tsc=reliable tsc_early_khz=${tsc_khz:-2600000}"
