/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How gvm region shows its list: columns that line up, who holds a region in words, and nothing of
 * a node that could not be asked.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "tools/gvm_region.h"

static void shows(const char *json, const char *want)
{
	json_error_t error;
	json_t *all = json_loads(json, 0, &error);
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	assert_non_null(all);
	assert_non_null(out);
	region_show(all, out);
	fclose(out);
	assert_string_equal(text, want);
	free(text);
	json_decref(all);
}

static void regions_in_columns(void **state)
{
	shows("{\"nodes\": [{\"id\": 3, \"host\": \"10.0.0.3\", \"port\": 9999,"
	      "  \"store\": {\"stored_bytes\": 16777216, \"reserved_bytes\": 67108864,"
	      "             \"limit_bytes\": 1073741824},"
	      "  \"regions\": ["
	      "   {\"name\": \"a\", \"pages\": 1, \"slabs\": 0, \"ephemeral\": false,"
	      "    \"holder\": \"\", \"sessions\": 0},"
	      "   {\"name\": \"work-of-a-week\", \"pages\": 393216, \"slabs\": 65536,"
	      "    \"ephemeral\": true, \"holder\": \"00000000000000ab\", \"sessions\": 2},"
	      "   {\"name\": \"b\", \"pages\": 256, \"slabs\": 1, \"ephemeral\": true,"
	      "    \"holder\": \"00000000000000ac\", \"sessions\": 0},"
	      "   {\"name\": \"s\", \"pages\": 256, \"slabs\": 2, \"ephemeral\": false,"
	      "    \"mode\": \"shared\", \"holder\": \"\", \"sessions\": 3}]}]}",
	      "node 3 (10.0.0.3:9999): 4 regions; 16.0 MiB stored, 64.0 MiB promised, of 1.0 GiB\n"
	      "  NAME                  SIZE   SLABS  MODE     KIND       HELD BY\n"
	      "  a                  4.0 KiB       0  private  saved      nobody\n"
	      "  work-of-a-week     1.5 GiB   65536  private  ephemeral  00000000000000ab, 2 "
	      "connections\n"
	      "  b                  1.0 MiB       1  private  ephemeral  00000000000000ac, lost: "
	      "kept for "
	      "it\n"
	      "  s                  1.0 MiB       2  shared   saved      3 nodes\n");
}

static void nodes_without_regions(void **state)
{
	shows("{\"nodes\": [{\"id\": 0, \"host\": \"a\", \"port\": 1, \"regions\": []},"
	      "{\"id\": 1, \"host\": \"b\", \"port\": 2, \"why\": \"connection refused\"},"
	      "{\"id\": 2, \"host\": \"c\", \"port\": 3, \"regions\": ["
	      " {\"name\": \"x\", \"pages\": 16, \"slabs\": 1, \"ephemeral\": false,"
	      "  \"holder\": \"0000000000000001\", \"sessions\": 1}]}]}",
	      "node 0 (a:1): 0 regions\n"
	      "node 2 (c:3): 1 region\n"
	      "  NAME        SIZE   SLABS  MODE     KIND       HELD BY\n"
	      "  x       64.0 KiB       1  private  saved      0000000000000001, 1 connection\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(regions_in_columns),
		cmocka_unit_test(nodes_without_regions),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
