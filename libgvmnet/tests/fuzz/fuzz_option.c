/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The parsers of options. The input is a command line, one argument a line: what remains of it must
 * be arguments that were there, in their order. Each line is also tried as a number of bytes and as
 * the value of every option; what is taken must be in force and within its range.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <gvmnet/gvmnet.h>

#define ARGS 12

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void check(int good)
{
	if (!good)
		abort();
}

static void no_log(enum gvm_log_level level, const char *line)
{
}

static void try_value(const char *value)
{
	size_t i, n;
	const struct gvm_option *o = gvm_options(&n);
	uint64_t number;

	gvm_parse_bytes(value, &number);
	for (i = 0; i < n; i++) {
		if (gvm_option_set(o[i].env, value) < 0)
			continue;
		check(strcmp(gvm_option_text(o[i].env), value) == 0);
		number = gvm_option_number(o[i].env);
		if (o[i].max && strcmp(o[i].type, "node") != 0 &&
		    !(number == GVM_OPTION_AUTO && strcmp(value, "auto") == 0))
			check(number >= o[i].min && number <= o[i].max);
	}
	check(gvm_option_cpu((unsigned)strlen(value)) >= -1);
}

static void try_command_line(int argc, char **argv)
{
	char *before[ARGS + 1];
	int i, j = 0, count = argc;

	memcpy(before, argv, sizeof(before));
	if (gvm_options_parse(&argc, argv) < 0)
		return;
	check(argc >= 1 && argc <= count && !argv[argc]);
	for (i = 0; i < argc; i++) {
		while (j < count && before[j] != argv[i])
			j++;
		check(j++ < count);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	char *text = malloc(len + 1), *argv[ARGS + 1] = { "fuzz" }, *rest = text, *line;
	int argc = 1;

	gvm_log_set(no_log);
	memcpy(text, data, len);
	text[len] = 0;
	while (argc < ARGS && (line = strsep(&rest, "\n"))) {
		try_value(line);
		argv[argc++] = line;
	}
	try_command_line(argc, argv);
	free(text);
	return 0;
}
