/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * GVM_TRANSPORT=auto: without an RDMA device nothing is loaded and nothing said; with one (which is
 * none: stub_rdma.c) verbs is listened and connected with before tcp, and whatever keeps it from
 * working costs one line and no more.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>

#include "peer_rig.h"
#include "stub_rdma.h"
#include "tools/gvm.h"

static char lines[4096];
static unsigned warnings;

static void keep_line(enum gvm_log_level level, const char *text)
{
	size_t at = strlen(lines);

	warnings += level <= GVM_LOG_WARN;
	snprintf(lines + at, sizeof(lines) - at, "%u %s\n", level, text);
}

static int is_loaded(const char *what)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[512];
	int found = 0;

	while (fgets(line, sizeof(line), maps))
		found |= strstr(line, what) != NULL;
	fclose(maps);
	return found;
}

/* With the library's own log in the hands of the test, at its most talkative. */
static void begin(const char *rdma_folder)
{
	gvm_net_rdma_folder = rdma_folder;
	lines[0] = 0;
	warnings = 0;
	gvm_log_set(keep_line);
	gvm_log_set_level(GVM_LOG_DEBUG);
}

/* Of the module that is loaded. */
static void *of_device(const char *name)
{
	void *handle = dlopen(STUB "/gvmnet-verbs.so", RTLD_NOW | RTLD_NOLOAD);
	void *found = handle ? dlsym(handle, name) : NULL;

	assert_non_null(found);
	dlclose(handle);
	return found;
}

static struct stub_device *device(void)
{
	return of_device("stub");
}

static void open_pair(struct rig *rig, const char *of_server, const char *of_client)
{
	memset(rig, 0, sizeof(*rig));
	transport = of_server;
	open_node(&rig->server);
	transport = of_client;
	open_node(&rig->client);
	rig->client.worker->opt.backoff_max_ns = 1;
	assert_int_equal(gvm_worker_listen(rig->server.worker, "127.0.0.1", 0, &rig->port), 0);
	assert_int_equal(gvm_peer_at(rig->client.worker, "127.0.0.1", rig->port, &rig->peer), 0);
}

static void call_over(struct rig *rig, const char *name)
{
	struct gvm_msg msg = { .type = 64, .arg = 1 };
	struct job job = new_job();

	assert_int_equal(gvm_call(rig->peer, &msg, &job.op), 0);
	UNTIL(rig, job.done);
	assert_int_equal(job.status, 0);
	assert_string_equal(gvm_peer_transport(rig->peer), name);
	assert_string_equal(gvm_peer_transport(rig->server.session), name);
}

static void listens_with(const struct node *node, const char *want)
{
	char names[64], little[4];

	gvm_worker_listens_with(node->worker, names, sizeof(names));
	assert_string_equal(names, want);
	gvm_worker_listens_with(node->worker, little, sizeof(little));
	assert_int_equal(strlen(little), strlen(want) < 3 ? strlen(want) : 3);
}

/* First of all: what is loaded stays. */
static void without_a_device_nothing_is_loaded(void **state)
{
	char empty[] = "/tmp/gvm-no-rdma-XXXXXX";
	const char *folders[] = { "/nonexistent", empty };
	struct rig rig;

	assert_non_null(mkdtemp(empty));
	for (unsigned i = 0; i < 2; i++) {
		begin(folders[i]);
		open_pair(&rig, "auto", "auto");
		assert_string_equal(gvm_net_transport(rig.client.net), "tcp");
		assert_int_equal(gvm_net_pins(rig.server.net), 0);
		listens_with(&rig.server, "tcp");
		call_over(&rig, "tcp");
		assert_int_equal(warnings, 0);
		assert_string_equal(lines, "");
		assert_false(is_loaded("gvmnet-verbs"));
		close_rig(&rig);
	}
	rmdir(empty);
}

static void verbs_comes_first(void **state)
{
	struct rig rig;

	begin("/");
	open_pair(&rig, "auto", "auto");
	assert_true(is_loaded("gvmnet-verbs"));
	assert_string_equal(gvm_net_transport(rig.client.net), "verbs+tcp");
	assert_int_equal(gvm_net_pins(rig.server.net), 1);
	listens_with(&rig.server, "verbs+tcp");
	listens_with(&rig.client, "");
	call_over(&rig, "verbs");
	assert_int_equal(warnings, 0);
	close_rig(&rig);
	open_pair(&rig, "auto", "tcp");
	call_over(&rig, "tcp");
	close_rig(&rig);
	open_pair(&rig, "auto", "verbs");
	call_over(&rig, "verbs");
	assert_int_equal(warnings, 0);
	close_rig(&rig);
}

static void a_peer_without_it_costs_a_line(void **state)
{
	struct rig rig;

	begin("/");
	open_pair(&rig, "tcp", "auto");
	for (unsigned round = 1; round <= 3; round++) {
		call_over(&rig, "tcp");
		assert_int_equal(rig.client.ready, round);
		assert_int_equal(rig.client.ended, round - 1);
		assert_int_equal(warnings, 1);
		assert_non_null(strstr(lines, "not over verbs (Connection refused), trying tcp"));
		gvm_peer_disconnect(rig.server.session, -ESHUTDOWN);
		UNTIL(&rig, rig.client.ended == round);
	}
	close_rig(&rig);
}

/* The address is another device's, or none's. */
static void an_address_that_verbs_does_not_reach(void **state)
{
	struct rig rig;

	begin("/");
	device()->devices = 2;
	device()->way = 1;
	open_pair(&rig, "auto", "auto");
	listens_with(&rig.server, "tcp");
	assert_int_equal(warnings, 0);
	call_over(&rig, "tcp");
	assert_int_equal(warnings, 1);
	assert_non_null(strstr(lines, "not over verbs (No route to host), trying tcp"));
	close_rig(&rig);
	device()->devices = 1;
	device()->way = 0;
}

static void what_keeps_verbs_from_listening_costs_a_line(void **state)
{
	struct rig rig;

	begin("/");
	device()->listen_errno = ENOMEM;
	open_pair(&rig, "auto", "tcp");
	listens_with(&rig.server, "tcp");
	call_over(&rig, "tcp");
	assert_int_equal(warnings, 1);
	assert_non_null(strstr(lines, "transport verbs cannot be used there: Cannot allocate"));
	close_rig(&rig);
	/* who has asked for it is refused */
	memset(&rig, 0, sizeof(rig));
	transport = "verbs+tcp";
	open_node(&rig.server);
	assert_int_equal(gvm_worker_listen(rig.server.worker, "127.0.0.1", 0, NULL), -ENOMEM);
	close_node(&rig.server);
	device()->listen_errno = 0;
}

/* The device is gone: what was connected comes back over tcp. */
static void a_device_that_is_taken_away(void **state)
{
	void (*take_away)(void);
	struct rig rig;

	begin("/");
	open_pair(&rig, "auto", "auto");
	*(void **)&take_away = of_device("stub_fail_all");
	call_over(&rig, "verbs");
	take_away();
	UNTIL(&rig, rig.client.ended == 1 && !rig.server.session);
	call_over(&rig, "tcp");
	assert_int_equal(warnings, 3); /* each side: the device has failed; not over verbs */
	assert_non_null(strstr(lines, "not over verbs (No such device), trying tcp"));
	close_rig(&rig);
}

/* Operations on memory of both sides that the hardware knows. */
static void move_page(struct rig *rig, struct gvm_mem *there, struct gvm_mem *here, uint8_t *at,
		      uint8_t byte)
{
	struct job job = new_job();

	memset(at, byte, 4096);
	assert_int_equal(gvm_put(rig->peer, gvm_mem_key(there), 4096, at, 4096, here, &job.op), 0);
	UNTIL(rig, job.done);
	assert_int_equal(job.status, 0);
	memset(at, 0, 4096);
	job = new_job();
	assert_int_equal(gvm_fetch(rig->peer, gvm_mem_key(there), 4096, at, 4096, here, &job.op),
			 0);
	UNTIL(rig, job.done);
	assert_int_equal(job.status, 0);
	for (unsigned i = 0; i < 4096; i++)
		assert_int_equal(at[i], byte);
}

/* Where there is nothing but verbs the peers wait for it: it is closed, opened again, what was
 * registered is registered anew, and a call that was posted meanwhile is answered. */
static void a_device_that_comes_back(void **state)
{
	static uint8_t memory[8192], buf[4096];
	struct gvm_mem *there, *here;
	unsigned (*opened)(void);
	void (*take_away)(void);
	struct rig rig;

	begin("/");
	open_pair(&rig, "verbs", "verbs");
	*(void **)&opened = of_device("stub_open");
	*(void **)&take_away = of_device("stub_fail_all");
	assert_int_equal(gvm_mem_register(rig.server.net, memory, sizeof(memory),
					  GVM_ACCESS_FETCH | GVM_ACCESS_PUT, 0, &there),
			 0);
	assert_int_equal(gvm_mem_register(rig.client.net, buf, sizeof(buf), 0, 0, &here), 0);
	for (uint8_t i = 1; i <= 3; i++) {
		move_page(&rig, there, here, buf, i);
		assert_int_equal(memory[4096], i);
		assert_int_equal(opened(), 2);
		device()->removed = 1;
		take_away();
		UNTIL(&rig, !rig.client.session && !rig.server.session && !opened());
		device()->removed = 0;
		call_over(&rig, "verbs");
	}
	move_page(&rig, there, here, buf, 4);
	assert_non_null(strstr(lines, "the RDMA device stub0 is there again"));
	gvm_mem_unregister(there, NULL, NULL);
	gvm_mem_unregister(here, NULL, NULL);
	close_rig(&rig);
	assert_int_equal(opened(), 0);
}

/* A device that auto has no use for is no news; a limit that can be raised is. */
static void devices_that_do_not_suit(void **state)
{
	struct rig rig;

	begin("/");
	device()->transport = IBV_TRANSPORT_IWARP;
	open_pair(&rig, "auto", "auto");
	assert_string_equal(gvm_net_transport(rig.client.net), "tcp");
	assert_non_null(strstr(lines, "transport auto: tcp alone, without verbs: it is iWARP"));
	assert_int_equal(warnings, 0);
	device()->transport = IBV_TRANSPORT_IB;
	call_over(&rig, "tcp");
	close_rig(&rig);
}

/* It suits, and then a worker finds that it does not: each goes on without, one says so. */
static void a_worker_that_cannot_open_it(void **state)
{
	struct gvm_worker_config config = { .cpu = -1 };
	struct gvm_worker *one, *two;
	struct gvm_net *net;
	struct gvm_net_config net_config = { .transport = "auto", .node = GVM_NODE_NONE };

	begin("/");
	assert_int_equal(gvm_net_open(&net_config, &net), 0);
	assert_string_equal(gvm_net_transport(net), "verbs+tcp");
	device()->pin_max = 4096;
	assert_int_equal(gvm_worker_open(net, &config, &one), 0);
	assert_int_equal(gvm_worker_open(net, &config, &two), 0);
	device()->pin_max = SIZE_MAX;
	assert_non_null(strstr(lines, "transport verbs cannot be used: Cannot allocate memory"));
	assert_null(strstr(strstr(lines, "verbs cannot be used") + 1, "verbs cannot be used"));
	gvm_worker_close(one);
	gvm_worker_close(two);
	gvm_net_close(net);
}

/* What the commands give for a reason is what can be done about it. */
static void another_device_is_the_reason(void **state)
{
	struct gvm_msg msg = { .type = 64, .arg = 1 };
	struct job job = new_job();
	struct rig rig;

	begin("/");
	device()->devices = 2;
	open_pair(&rig, "verbs", "verbs");
	gvm_why_begin();
	device()->way = 1;
	job.op.deadline_ns = gvm_now() + 300000000u;
	assert_int_equal(gvm_call(rig.peer, &msg, &job.op), 0);
	UNTIL(&rig, job.done);
	assert_int_equal(job.status, -EHOSTUNREACH);
	assert_non_null(strstr(gvm_why(job.status),
			       "is reached through port 1 of stub1, this worker has stub0; choose "
			       "with GVM_TRANSPORT=verbs:DEVICE"));
	gvm_log_set(keep_line);
	close_rig(&rig);
	device()->devices = 1;
	device()->way = 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_a_device_nothing_is_loaded),
		cmocka_unit_test(verbs_comes_first),
		cmocka_unit_test(a_peer_without_it_costs_a_line),
		cmocka_unit_test(an_address_that_verbs_does_not_reach),
		cmocka_unit_test(what_keeps_verbs_from_listening_costs_a_line),
		cmocka_unit_test(a_device_that_is_taken_away),
		cmocka_unit_test(a_device_that_comes_back),
		cmocka_unit_test(devices_that_do_not_suit),
		cmocka_unit_test(a_worker_that_cannot_open_it),
		cmocka_unit_test(another_device_is_the_reason),
	};

	gvm_option_set("GVM_MODULE_PATH", STUB);
	return RUN(tests);
}
