/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The beginning of the firmware of shared.c, for each CPU: from real mode, at the ROM's first byte,
 * to flat 32-bit code with a stack of the CPU's own, and there to begin() with the CPU's number.
 */
#define STACK (0x80000 + NODE * 0x8000)

	.section .reset, "ax"
	.code16
	ljmp	$0xf000, $0
	.org	16, 0

	.section .start, "ax"
start:
	cli
	lgdtl	%cs:(table - start)
	movl	%cr0, %eax
	orl	$1, %eax
	movl	%eax, %cr0
	ljmpl	$8, $flat
	.code32
flat:
	movw	$16, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movl	0xfee00020, %ebx	/* the local APIC's id */
	shrl	$24, %ebx
	leal	1(%ebx), %esp
	shll	$12, %esp
	addl	$STACK, %esp
	pushl	%ebx
	call	begin

	.p2align 3
segments:
	.quad	0, 0x00cf9b000000ffff, 0x00cf93000000ffff
table:
	.word	23
	.long	segments

	.section .note.GNU-stack, "", @progbits
