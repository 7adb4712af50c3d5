/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the two halves of the recording preload library share. */
#ifndef PRELOAD_FAKE_H
#define PRELOAD_FAKE_H

/* A line of FAKE_LOG. */
void fake_record(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
