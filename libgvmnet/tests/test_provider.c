/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What every provider promises to core (provider_cases.h), over tcp and over loop. */
#include "provider_cases.h"

int main(void)
{
	const struct CMUnitTest tests[] = {
		PROVIDER_CASES(&gvm_provider_tcp),
		CASE(two_threads, &gvm_provider_tcp),
		PROVIDER_CASES(&gvm_provider_loop),
		CASE(two_threads, &gvm_provider_loop),
	};

	return cmocka_run_group_tests_name("provider", tests, NULL, NULL);
}
