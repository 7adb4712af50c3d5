/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Providers that are modules: a good one is opened, asked and used; of one that is not there or not
 * right it is said what is wrong. What was opened stays, so each case is a process of its own.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gvmnet/gvmnet.h>
#include "core/module.h"

static char lines[8192]; /* what was logged */

static void keep_line(enum gvm_log_level level, const char *line)
{
	size_t at = strlen(lines);

	snprintf(lines + at, sizeof(lines) - at, "%s\n", line);
}

static void in_folder(const char *folder)
{
	assert_int_equal(gvm_option_set("GVM_MODULE_PATH", folder), 0);
	lines[0] = 0;
	gvm_log_set(keep_line);
}

static int open_net(const char *transport, struct gvm_net **net)
{
	struct gvm_net_config config = { .transport = transport,
					 .node = GVM_NODE_NONE,
					 .insecure = 1 };

	return gvm_net_open(&config, net);
}

/* ---- a good one ---------------------------------------------------------------------------- */

static void its_provider_is_used(void **state)
{
	struct gvm_worker_config config = { .cpu = -1 };
	struct gvm_worker *worker;
	struct gvm_net *net;

	in_folder(MODULES "/good");
	gvm_option_set("GVM_TRANSPORT", "verbs:y");
	assert_int_equal(open_net("verbs:x", &net), 0);
	assert_string_equal(gvm_net_transport(net), "verbs");
	assert_int_equal(gvm_net_pins(net), 1);
	assert_int_equal(gvm_worker_open(net, &config, &worker), -EDOM);
	assert_non_null(strstr(lines, "verbs:y\n")); /* by its log, from the options */
	gvm_net_close(net);
	assert_int_equal(open_net("verbs:z", &net), 0);
	assert_int_equal(gvm_worker_open(net, &config, &worker), -EINVAL);
	gvm_net_close(net);
}

/* Whatever comes with it may take signals when it is loaded. */
static void signals_stay_the_programs(void **state)
{
	struct sigaction now;
	struct gvm_net *net;

	in_folder(MODULES "/good");
	assert_int_equal(open_net("verbs:x", &net), 0);
	assert_int_equal(sigaction(SIGUSR2, NULL, &now), 0);
	assert_ptr_equal(now.sa_handler, SIG_DFL);
	gvm_net_close(net);
}

static void keep_depth(void *arg, unsigned depth, const char *text)
{
	size_t at = strlen(lines);

	snprintf(lines + at, sizeof(lines) - at, "%u %s\n", depth, text);
}

static void its_hardware_is_described(void **state)
{
	struct gvm_provider_info info[8];
	size_t n, i;

	in_folder(MODULES "/good");
	n = gvm_providers(info, 8);
	for (i = 0; i < n && strcmp(info[i].name, "verbs"); i++)
		;
	assert_true(i < n);
	assert_int_equal(info[i].usable, 0);
	assert_string_equal(info[i].what, "a fake");
	assert_int_equal(gvm_provider_describe("verbs", keep_depth, NULL), 0);
	assert_string_equal(lines, "0 fake0\n1 port 1\n");
	assert_int_equal(gvm_provider_describe("tcp", keep_depth, NULL), 0);
	assert_string_equal(lines, "0 fake0\n1 port 1\n");
	assert_int_equal(gvm_provider_describe("pigeon", keep_depth, NULL), -ENOENT);
}

static void no_device_is_said(void **state)
{
	struct gvm_net *net;

	setenv("FAKE_NO_DEVICE", "1", 1);
	in_folder(MODULES "/good");
	assert_int_equal(open_net("verbs", &net), -EPROTONOSUPPORT);
	assert_non_null(strstr(lines, "transport verbs: no device of the fake kind"));
}

/* ---- and others ---------------------------------------------------------------------------- */

static void refused(const char *folder, int err, const char *says)
{
	const struct gvm_module *module = NULL;
	struct gvm_net *net;
	char why[512];

	in_folder(folder);
	assert_int_equal(gvm_module_open(folder, "verbs", &module, why, sizeof(why)), err);
	assert_null(module);
	if (!strstr(why, says))
		fail_msg("\"%s\" does not say \"%s\"", why, says);
	assert_int_equal(open_net("verbs", &net), -EPROTONOSUPPORT);
	assert_non_null(strstr(lines, says));
	assert_non_null(strstr(lines, "tcp, loop"));
}

static void another_version(void **state)
{
	refused(MODULES "/abi", -ENOEXEC, "another version of the library");
}

static void one_that_refuses_the_library(void **state)
{
	refused(MODULES "/refuses", -ENOEXEC, "another version of the library");
}

static void one_of_another_name(void **state)
{
	refused(MODULES "/name", -ENOEXEC, "has the provider ofi, not verbs");
}

static void a_library_that_is_no_module(void **state)
{
	refused(MODULES "/nothing", -ENOEXEC, "it has no gvm_provider_module");
}

static void none_there(void **state)
{
	refused("/nonexistent", -ENOENT, "there is no gvmnet-verbs.so in /nonexistent");
}

static void no_library_at_all(void **state)
{
	char folder[] = "/tmp/gvm-module-XXXXXX", path[64];
	FILE *f;

	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/gvmnet-verbs.so", folder);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs("text\n", f);
	fclose(f);
	refused(folder, -ELIBACC, "gvmnet-verbs.so cannot be loaded: ");
	unlink(path);
	rmdir(folder);
}

/* Without GVM_MODULE_PATH: found where the build has it, or said to be in no build. */
static void beside_the_library(void **state)
{
	const char *why;
	const struct gvm_module *module = gvm_module_get("verbs", &why);

	if (module)
		assert_string_equal(module->ops->name, "verbs");
	else
		assert_non_null(strstr(why, "not in this build"));
	assert_null(gvm_module_get("pigeon", &why));
	assert_string_equal(why, "the pigeon provider is not in this build");
}

/* ---- gvm info, which has the shared library ------------------------------------------------ */

static void run(const char *command, const char *says)
{
	char text[65536];
	size_t n;
	FILE *p = popen(command, "r");

	assert_non_null(p);
	n = fread(text, 1, sizeof(text) - 1, p);
	text[n] = 0;
	assert_int_equal(pclose(p), 0);
	if (!strstr(text, says))
		fail_msg("%s\n%s\ndoes not say\n%s", command, text, says);
}

static void gvm_info_lists_it(void **state)
{
	run("GVM_MODULE_PATH=" MODULES "/good " GVM_PROGRAM " info", "verbs  usable    a fake\n");
	run("GVM_MODULE_PATH=" MODULES "/good " GVM_PROGRAM " info -v",
	    "verbs  usable    a fake\n         fake0\n           port 1\n");
	run("GVM_MODULE_PATH=" MODULES "/good " GVM_PROGRAM " info --json", "\"  port 1\"");
	run("GVM_MODULE_PATH=" MODULES "/abi " GVM_PROGRAM " info", "verbs  not here ");
}

/* Who may not be trusted with the environment of a set-id program may not load code into it. */
static void set_id_programs_do_not_take_it_from_the_environment(void **state)
{
	char folder[] = "/tmp/gvm-module-XXXXXX", command[1024];

	if (geteuid()) {
		print_message("not root: skipped\n");
		return;
	}
	assert_non_null(mkdtemp(folder));
	assert_int_equal(chmod(folder, 0755), 0);
	snprintf(command, sizeof(command),
		 "cp " GVM_PROGRAM " %s/gvm && chown 65534 %s/gvm && chmod 4755 %s/gvm && "
		 "GVM_MODULE_PATH=" MODULES "/good %s/gvm info 2>&1; rm -r %s",
		 folder, folder, folder, folder, folder);
	run(command, "verbs  not here  there is no gvmnet-verbs.so in ");
}

/* ---- each in a process of its own ---------------------------------------------------------- */

static void apart(void **state)
{
	void (*test)(void **) = (void (*)(void **)) * state;
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		const struct CMUnitTest one[] = { { "apart", test, NULL, NULL, NULL } };

		_exit(cmocka_run_group_tests(one, NULL, NULL) != 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

#define APART(test)                                                                                \
	{                                                                                          \
#test, apart, NULL, NULL, (void *)(test)                                           \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
		APART(its_provider_is_used),
		APART(signals_stay_the_programs),
		APART(its_hardware_is_described),
		APART(no_device_is_said),
		APART(another_version),
		APART(one_that_refuses_the_library),
		APART(one_of_another_name),
		APART(a_library_that_is_no_module),
		APART(none_there),
		APART(no_library_at_all),
		APART(beside_the_library),
		APART(gvm_info_lists_it),
		APART(set_id_programs_do_not_take_it_from_the_environment),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
