/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "machine.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>

#include <gvmnet/gvmnet.h>

#define FILES_LEAST 32  /* fewer do not do for the node itself */
#define FILES_FEW   256 /* it works, for some dozen clients */

int machine_raise_file_limit(void)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files))
		return 0;
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	if (files.rlim_max >= FILES_FEW)
		return 0;
	int few = files.rlim_max < FILES_LEAST;
	gvm_log(
	    few ? GVM_LOG_ERROR : GVM_LOG_WARN,
	    "it may have %u descriptors only, and each connection takes one, and up to four "
	    "over libfabric: raise the limit "
	    "(ulimit -Hn as root, or LimitNOFILE= of the service) to 65536, as long as there is "
	    "no reason against it",
	    (unsigned)files.rlim_max);
	return few ? -EMFILE : 0;
}

/* ---- memory -------------------------------------------------------------------------------- */

static int check_addresses(uint64_t memory)
{
	struct rlimit space;

	if (getrlimit(RLIMIT_AS, &space) || space.rlim_cur == RLIM_INFINITY ||
	    memory <= space.rlim_cur)
		return 0;
	gvm_log(GVM_LOG_ERROR,
		"--memory is %" PRIu64 " MiB, and this process may map %" PRIu64
		" MiB: raise that limit (ulimit -v, LimitAS=), or lower --memory",
		memory >> 20, (uint64_t)space.rlim_cur >> 20);
	return -ENOMEM;
}

int machine_check_memory(uint64_t memory, int has_image)
{
	uint64_t there = gvm_memory_limit(NULL);
	struct sysinfo info;

	if (check_addresses(memory))
		return -ENOMEM;
	if (has_image || sysinfo(&info))
		return 0;
	if (there > (uint64_t)info.totalram * info.mem_unit)
		there = (uint64_t)info.totalram * info.mem_unit;
	if (memory > there)
		gvm_log(GVM_LOG_WARN,
			"--memory is %" PRIu64 " MiB, and this process may have %" PRIu64
			" MiB: when they are used up the kernel kills it; lower --memory",
			memory >> 20, there >> 20);
	return 0;
}
