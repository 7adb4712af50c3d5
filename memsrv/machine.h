/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the machine gives this process: memory and descriptors. Called once, at the start. */
#ifndef MEMSRV_MACHINE_H
#define MEMSRV_MACHINE_H

#include <stdint.h>

/* As many descriptors as it may have, with a warning if they are few. -EMFILE, with a line: too few
 * to start with. */
int machine_raise_file_limit(void);
/* Can so much memory be offered? 0, with a warning if the kernel may kill the process for it;
 * -ENOMEM, with a line that says why: not even its addresses can be had. has_image: it is a file's.
 */
int machine_check_memory(uint64_t memory, int has_image);

#endif
