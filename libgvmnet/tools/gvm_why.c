/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Why a memory node cannot be asked, in words that say what to do. The library logs what it met on
 * the way; the commands that say one line of their own keep that to themselves. One thread.
 */
#include "tools/gvm.h"

#include <gvmnet/gvmnet.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

static char last[512];
static enum gvm_log_level last_level;

/* What a line says is the reason for all that fails after it: a name that means nothing, or a way
 * that is there, from another device or address than the one that was asked for. */
static int no_address(void)
{
	return strstr(last, "cannot find the address") != NULL;
}

static int another_way(void)
{
	return strstr(last, "choose with GVM_TRANSPORT=") || strstr(last, "not reached from GID");
}

/* What is logged besides (--log debug) is no reason. */
static void keep_line(enum gvm_log_level level, const char *line)
{
	if (*last && (level > last_level || no_address() || another_way()))
		return;
	snprintf(last, sizeof(last), "%s", line);
	last_level = level;
}

void gvm_why_begin(void)
{
	last[0] = 0;
	gvm_log_set(keep_line);
}

const char *gvm_why_line(void)
{
	return last;
}

static const char *why_no_entry(void)
{
	if (!*gvm_option_text("GVM_KEY_FILE"))
		return "it wants a key: --key-file must name the same key as the node's";
	if (strstr(last, "only one of the two sides has a key"))
		return "it has no key and this side has: start the node with the same --key-file, "
		       "or leave --key-file out here";
	return "the key is not the node's; --key-file must name the same key";
}

const char *gvm_why(int err)
{
	if (no_address())
		return "its name has no address: check it, or give an address";
	switch (err) {
	case -ETIMEDOUT:
		return "it does not answer; is a memory node there (not its metrics), and does a "
		       "firewall let this through?";
	case -ECONNREFUSED:
		return "connection refused; is gvm-memsrv running there?";
	case -EHOSTUNREACH:
	case -ENETUNREACH:
		return another_way() ? last
				     : "there is no way to that address; check it, and this "
				       "machine's network";
	case -EACCES:
		return why_no_entry();
	case -EXDEV:
		return "it belongs to another cluster, or its cluster file differs; use the same "
		       "file on both sides";
	default:
		return NULL;
	}
}
