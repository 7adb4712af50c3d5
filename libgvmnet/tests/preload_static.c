/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A program without a dynamic loader, which gvm run must refuse. */
#include <stdio.h>

int main(void)
{
	puts("static");
	return 0;
}
