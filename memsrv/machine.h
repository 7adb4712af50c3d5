/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the machine gives this process: memory and descriptors. Called once, at the start. */
#ifndef MEMSRV_MACHINE_H
#define MEMSRV_MACHINE_H

#include <stdint.h>

/* As many descriptors as it may have, with a warning if they are few. -EMFILE, with a line: too few
 * to start with. */
int machine_raise_file_limit(void);
/* The least that a control group of this process, or one that it is in, may have, of version 1 or
 * 2; UINT64_MAX: no bound, or none to be seen. root: where /proc and /sys are, "" but in tests. */
uint64_t machine_group_limit(const char *root);
/* Can so much memory be offered? 0, with a warning if the kernel may kill the process for it;
 * -ENOMEM, with a line that says why: not even its addresses can be had. has_image: it is a file's.
 */
int machine_check_memory(uint64_t memory, int has_image);

#endif
