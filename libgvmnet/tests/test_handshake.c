/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows that only two sides with the same key, version and cluster get through the handshake, that
 * every changed bit of it is noticed, that a recorded one is worth nothing, and what the key file
 * has to be.
 */
#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "core/core.h"

#define KEY_A "0123456789abcdef0123456789abcdef\n"
#define KEY_B "0123456789abcdef0123456789abcdee\n"
#define MAP   "cluster lab\n1 127.0.0.1 1001\n2 127.0.0.1 1002\n"

static char folder[] = "/tmp/gvm-handshake-XXXXXX";
static char last_line[1024];

static void keep_line(enum gvm_log_level level, const char *line)
{
	snprintf(last_line, sizeof(last_line), "%s", line);
}

static const char *write_file(const char *name, const void *text, size_t len, mode_t mode)
{
	static char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	unlink(path);
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, len), len);
	assert_int_equal(fchmod(fd, mode), 0);
	close(fd);
	return path;
}

static struct gvm_net *open_side(const char *key, const char *map, unsigned node)
{
	struct gvm_net_config config = { .transport = "loop", .node = node };
	struct gvm_cluster *cluster = NULL;
	struct gvm_net *net;

	if (map)
		assert_int_equal(gvm_cluster_parse(map, strlen(map), "map", &cluster, NULL), 0);
	config.cluster = cluster;
	if (key)
		config.key_file = write_file("key", key, strlen(key), 0600);
	assert_int_equal(gvm_net_open(&config, &net), 0);
	return net;
}

static void close_side(struct gvm_net *net)
{
	struct gvm_cluster *cluster = (struct gvm_cluster *)gvm_net_cluster(net);

	gvm_net_close(net);
	if (cluster)
		gvm_cluster_free(cluster);
}

/* ---- two sides that speak through a wire with a tap ---------------------------------------- */

struct pair {
	struct gvm_net *a, *b; /* a connects */
	struct gvm_hs from, to;
	struct gvm_hs_out said[4];  /* as they went over the wire: HELLO, CHALLENGE, PROOF, READY */
	int from_result, to_result; /* how it ended for each: 1, or a negative errno; 0: never */
	char why[GVM_REFUSED_MAX + 1]; /* of the side that refused */
	/* bend frame number `frame`: flip this bit, or cut it to this length */
	int frame, bit, cut;
};

static int deliver(struct gvm_hs *hs, const struct gvm_hs_out *frame, struct gvm_hs_out *out)
{
	struct gvm_hdr hdr = { .type = frame->type,
			       .status = frame->status,
			       .length = frame->length };

	return gvm_hs_step(hs, &hdr, frame->body, out);
}

static void bend(const struct pair *pair, int number, struct gvm_hs_out *frame)
{
	if (number != pair->frame)
		return;
	if (pair->cut >= 0)
		frame->length = (uint32_t)pair->cut;
	else
		frame->body[pair->bit / 8] ^= (uint8_t)(1u << pair->bit % 8);
}

/* Run it to its end. A refusal is delivered to the other side. */
static void shake(struct pair *pair, unsigned to_node)
{
	struct gvm_hs *sides[2] = { &pair->to, &pair->from };
	int *results[2] = { &pair->to_result, &pair->from_result };
	struct gvm_hs_out frame, out;
	int number, result;

	gvm_hs_init(&pair->from, pair->a, 0, to_node, 10, 20);
	gvm_hs_init(&pair->to, pair->b, 1, GVM_NODE_NONE, 30, 40);
	pair->from_result = pair->to_result = 0;
	pair->why[0] = 0;
	gvm_hs_begin(&pair->from, &frame);
	for (number = 0; frame.type; number++) {
		assert_true(number < 6);
		bend(pair, number, &frame);
		if (number < 4)
			pair->said[number] = frame;
		result = deliver(sides[number % 2], &frame, &out);
		if (result)
			*results[number % 2] = result;
		if (result < 0 && !pair->why[0])
			strcpy(pair->why, out.why);
		frame = out;
	}
}

static struct pair new_pair(struct gvm_net *a, struct gvm_net *b)
{
	return (struct pair){ .a = a, .b = b, .frame = -1, .cut = -1 };
}

static void assert_through(const struct pair *pair)
{
	assert_int_equal(pair->from_result, 1);
	assert_int_equal(pair->to_result, 1);
	assert_true(pair->from.theirs.incarnation == gvm_net_incarnation(pair->b));
	assert_true(pair->to.theirs.incarnation == gvm_net_incarnation(pair->a));
	assert_int_equal(pair->from.theirs.credits, 30);
	assert_int_equal(pair->from.theirs.max_fetch, 40);
	assert_int_equal(pair->to.theirs.credits, 10);
}

/* Both sides know why. */
static void assert_refused(const struct pair *pair, int err, const char *word)
{
	assert_int_equal(pair->from_result, err);
	assert_int_equal(pair->to_result, err);
	assert_non_null(strstr(pair->why, word));
}

/* ---- a program that ends ------------------------------------------------------------------- */

static struct pair of_exit;

/* Runs after whatever was registered with atexit() later: libcrypto's own end is among that. */
static void shake_at_exit(void)
{
	shake(&of_exit, GVM_NODE_NONE);
	_exit(of_exit.from_result == 1 && of_exit.to_result == 1 ? 3 : 4);
}

/* The exit status of a program that is in a handshake when all else has ended. The first tests of
 * all: in this process nobody has used libcrypto yet. */
static int shakes_at_exit(int program_uses_libcrypto)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		atexit(shake_at_exit);
		if (program_uses_libcrypto)
			OPENSSL_init_crypto(OPENSSL_INIT_ADD_ALL_DIGESTS, NULL);
		of_exit = new_pair(open_side(KEY_A, NULL, GVM_NODE_NONE),
				   open_side(KEY_A, NULL, GVM_NODE_NONE));
		shake(&of_exit, GVM_NODE_NONE);
		if (of_exit.from_result != 1)
			_exit(5);
		exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void keys_are_proven_at_exit(void **state)
{
	assert_int_equal(shakes_at_exit(0), 3);
}

static void unless_libcrypto_has_ended(void **state)
{
	assert_int_equal(shakes_at_exit(1), 4);
}

/* ---- who gets through ---------------------------------------------------------------------- */

static void same_key_or_none(void **state)
{
	static const char *const keys[] = { KEY_A, NULL };
	unsigned i;

	for (i = 0; i < 2; i++) {
		struct pair pair =
		    new_pair(open_side(keys[i], NULL, GVM_NODE_NONE), open_side(keys[i], MAP, 1));

		shake(&pair, GVM_NODE_NONE);
		assert_through(&pair);
		close_side(pair.a);
		close_side(pair.b);
	}
}

static void other_key_is_refused(void **state)
{
	static const char *const keys[][2] = { { KEY_A, KEY_B }, { KEY_A, NULL }, { NULL, KEY_A } };
	unsigned i;

	for (i = 0; i < 3; i++) {
		struct pair pair = new_pair(open_side(keys[i][0], NULL, GVM_NODE_NONE),
					    open_side(keys[i][1], NULL, GVM_NODE_NONE));

		shake(&pair, GVM_NODE_NONE);
		assert_refused(&pair, -EACCES, "key");
		close_side(pair.a);
		close_side(pair.b);
	}
}

/* A listener that does not know the key cannot pass for one that does. */
static void listener_must_prove_too(void **state)
{
	struct pair pair =
	    new_pair(open_side(KEY_A, NULL, GVM_NODE_NONE), open_side(KEY_A, NULL, GVM_NODE_NONE));
	struct gvm_hs_out out;

	shake(&pair, GVM_NODE_NONE);
	gvm_hs_init(&pair.from, pair.a, 0, GVM_NODE_NONE, 1, 1);
	gvm_hs_begin(&pair.from, &out);
	assert_int_equal(deliver(&pair.from, &pair.said[1], &out), 0);
	assert_int_equal(out.type, GVM_T_PROOF);
	/* its own proof, sent back */
	out.type = GVM_T_READY;
	struct gvm_hs_out reflected = out;
	assert_int_equal(deliver(&pair.from, &reflected, &out), -EACCES);
	close_side(pair.a);
	close_side(pair.b);
}

/* What providers prove before there is a connection: the same key and the same text, and nothing
 * that the handshake takes for a proof of its own. */
static void what_providers_prove(void **state)
{
	struct gvm_net *a = open_side(KEY_A, NULL, GVM_NODE_NONE);
	struct gvm_net *b = open_side(KEY_B, NULL, GVM_NODE_NONE);
	struct gvm_net *none = open_side(NULL, NULL, GVM_NODE_NONE);
	struct pair pair = new_pair(a, a);
	uint8_t text[GVM_PROOF_TEXT_MAX] = { 1 }, mac[GVM_WIRE_MAC_LEN], zeros[sizeof(mac)] = { 0 };
	struct gvm_hs_out out;
	struct gvm_hs hs;

	assert_int_equal(gvm_key_prove(a, text, sizeof(text), mac), 0);
	assert_int_equal(gvm_key_proven(a, text, sizeof(text), mac), 0);
	assert_int_equal(gvm_key_proven(a, text, sizeof(text) - 1, mac), -EACCES);
	assert_int_equal(gvm_key_proven(b, text, sizeof(text), mac), -EACCES);
	assert_int_equal(gvm_key_proven(none, text, sizeof(text), mac), -EACCES);
	assert_int_equal(gvm_key_proven(a, text, sizeof(text), zeros), -EACCES);
	assert_int_equal(gvm_key_proven(none, text, sizeof(text), zeros), 0);
	text[0] ^= 1;
	assert_int_equal(gvm_key_proven(a, text, sizeof(text), mac), -EACCES);
	assert_int_equal(gvm_key_prove(a, text, sizeof(text) + 1, mac), -EIO);
	/* of the two hellos of a handshake */
	shake(&pair, GVM_NODE_NONE);
	assert_through(&pair);
	gvm_hs_init(&hs, a, 0, GVM_NODE_NONE, 1, 1);
	gvm_hs_begin(&hs, &out);
	memcpy(text, hs.hello, GVM_HELLO_LEN);
	memcpy(text + GVM_HELLO_LEN, pair.said[1].body, GVM_HELLO_LEN);
	assert_int_equal(deliver(&hs, &pair.said[1], &out), 0);
	assert_int_equal(gvm_key_proven(a, text, 2 * GVM_HELLO_LEN, out.body), -EACCES);
	assert_int_equal(gvm_key_prove(a, text, 2 * GVM_HELLO_LEN, out.body), 0);
	out.type = GVM_T_READY;
	pair.said[3] = out;
	assert_int_equal(deliver(&hs, &pair.said[3], &out), -EACCES);
	close_side(a);
	close_side(b);
	close_side(none);
}

/* The whole of an earlier conversation, played again to the same listener. */
static void replay_is_refused(void **state)
{
	struct pair pair =
	    new_pair(open_side(KEY_A, NULL, GVM_NODE_NONE), open_side(KEY_A, NULL, GVM_NODE_NONE));
	struct gvm_hs_out out;
	struct gvm_hs hs;

	shake(&pair, GVM_NODE_NONE);
	assert_through(&pair);
	gvm_hs_init(&hs, pair.b, 1, GVM_NODE_NONE, 1, 1);
	assert_int_equal(deliver(&hs, &pair.said[0], &out), 0);
	assert_int_equal(out.type, GVM_T_CHALLENGE);
	assert_int_equal(deliver(&hs, &pair.said[2], &out), -EACCES);
	assert_int_equal(out.type, GVM_T_REFUSED);
	close_side(pair.a);
	close_side(pair.b);
}

/* With a key, no bit of the four frames can change on the way without the connection failing. */
static void every_bit_counts(void **state)
{
	static const unsigned lengths[] = { GVM_HELLO_LEN, GVM_HELLO_LEN, GVM_WIRE_MAC_LEN,
					    GVM_WIRE_MAC_LEN };
	struct pair pair = new_pair(open_side(KEY_A, MAP, 2), open_side(KEY_A, MAP, 1));

	for (pair.frame = 0; pair.frame < 4; pair.frame++)
		for (pair.bit = 0; pair.bit < (int)lengths[pair.frame] * 8; pair.bit++) {
			shake(&pair, 1);
			assert_true(pair.from_result <= 0); /* 0: the connection just ended */
			assert_true(pair.frame == 3 || pair.to_result <= 0);
		}
	close_side(pair.a);
	close_side(pair.b);
}

static void cut_frames(void **state)
{
	struct pair pair = new_pair(open_side(KEY_A, MAP, 2), open_side(KEY_A, MAP, 1));

	for (pair.frame = 0; pair.frame < 4; pair.frame++)
		for (pair.cut = 0; pair.cut < (int)GVM_WIRE_MAC_LEN; pair.cut++) {
			shake(&pair, 1);
			assert_true(pair.from_result == -EPROTO || pair.to_result == -EPROTO);
		}
	close_side(pair.a);
	close_side(pair.b);
}

/* Each type of frame in each state, but the right one. */
static void frames_out_of_turn(void **state)
{
	struct pair pair = new_pair(open_side(KEY_A, MAP, 2), open_side(KEY_A, MAP, 1));
	struct gvm_hs_out out;
	struct gvm_hs hs;
	unsigned type, stage;

	shake(&pair, 1);
	assert_through(&pair);
	for (stage = 0; stage < 2; stage++)
		for (type = 1; type < 256; type++) {
			struct gvm_hdr hdr = { .type = (uint8_t)type, .length = GVM_HELLO_LEN };

			gvm_hs_init(&hs, pair.b, 1, GVM_NODE_NONE, 1, 1);
			if (stage == 1)
				assert_int_equal(deliver(&hs, &pair.said[0], &out), 0);
			if (type == GVM_T_REFUSED || type == (stage ? GVM_T_PROOF : GVM_T_HELLO))
				continue;
			assert_int_equal(gvm_hs_step(&hs, &hdr, pair.said[0].body, &out), -EPROTO);
			assert_int_equal(out.type, 0);
		}
	/* the end is the end */
	assert_int_equal(deliver(&pair.to, &pair.said[2], &out), -EPROTO);
	close_side(pair.a);
	close_side(pair.b);
}

static void clusters_must_agree(void **state)
{
	static const char other_name[] = "cluster den\n1 127.0.0.1 1001\n2 127.0.0.1 1002\n";
	static const char other_nodes[] =
	    "cluster lab\n1 127.0.0.1 1001\n2 127.0.0.1 1002 weight=7\n";
	struct gvm_net *a = open_side(NULL, MAP, 2), *b = open_side(NULL, MAP, 1);
	struct gvm_net *den = open_side(NULL, other_name, 1),
		       *new = open_side(NULL, other_nodes, 1);
	struct gvm_net *bare = open_side(NULL, NULL, GVM_NODE_NONE);
	struct pair pair = new_pair(a, b);

	shake(&pair, 1);
	assert_through(&pair);
	shake(&pair, 2);
	assert_refused(&pair, -EXDEV, "node 2");
	pair = new_pair(a, den);
	shake(&pair, 1);
	assert_refused(&pair, -EXDEV, "cluster 'lab'");
	pair = new_pair(a, new);
	shake(&pair, 1);
	assert_refused(&pair, -EXDEV, "cluster files");
	pair = new_pair(bare, den);
	shake(&pair, GVM_NODE_NONE);
	assert_through(&pair);
	pair = new_pair(a, bare);
	shake(&pair, 1);
	assert_through(&pair);
	close_side(a);
	close_side(b);
	close_side(den);
	close_side(new);
	close_side(bare);
}

/* Without a key nothing notices the change but the check of versions. */
static void versions_must_overlap(void **state)
{
	struct pair pair =
	    new_pair(open_side(NULL, NULL, GVM_NODE_NONE), open_side(NULL, NULL, GVM_NODE_NONE));
	struct gvm_hs_out out, frame;
	struct gvm_hello hello;
	unsigned i;
	static const struct {
		uint16_t min, max;
		int result;
	} cases[] = { { 1, 1, 0 },
		      { 1, 9, 0 },
		      { 2, 9, -EPROTONOSUPPORT },
		      { 0, 1, -EPROTO },
		      { 9, 1, -EPROTO } };

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		gvm_hs_init(&pair.from, pair.a, 0, GVM_NODE_NONE, 1, 1);
		gvm_hs_init(&pair.to, pair.b, 1, GVM_NODE_NONE, 1, 1);
		gvm_hs_begin(&pair.from, &frame);
		assert_int_equal(gvm_hello_decode(frame.body, frame.length, &hello), 0);
		hello.proto_min = cases[i].min;
		hello.proto_max = cases[i].max;
		gvm_hello_encode(frame.body, &hello);
		assert_int_equal(deliver(&pair.to, &frame, &out), cases[i].result);
		if (cases[i].result)
			continue;
		assert_int_equal(gvm_hello_decode(out.body, out.length, &hello), 0);
		assert_int_equal(hello.proto_min, 1);
		assert_int_equal(hello.proto_max, 1);
	}
	close_side(pair.a);
	close_side(pair.b);
}

static void refusals_are_safe_to_log(void **state)
{
	static const char evil[] = "x\n\033[2Jgvmnet: error: \x80\xff";
	struct gvm_net *net = open_side(NULL, NULL, GVM_NODE_NONE);
	struct gvm_hdr hdr = { .type = GVM_T_REFUSED,
			       .status = GVM_ST_BUSY,
			       .length = sizeof(evil) };
	struct gvm_hs_out out;
	struct gvm_hs hs;
	const char *at;

	gvm_hs_init(&hs, net, 0, GVM_NODE_NONE, 1, 1);
	assert_int_equal(gvm_hs_step(&hs, &hdr, evil, &out), -EBUSY);
	assert_int_equal(out.type, 0);
	assert_int_equal(strlen(out.why), sizeof(evil));
	for (at = out.why; *at; at++)
		assert_true(*at >= 0x20 && *at < 0x7f);
	hdr.length = 0;
	assert_int_equal(gvm_hs_step(&hs, &hdr, NULL, &out), -EBUSY);
	assert_true(out.why[0] != 0);
	close_side(net);
}

/* ---- the net's configuration --------------------------------------------------------------- */

static int try_net(const char *transport, const char *key_file, unsigned node)
{
	struct gvm_net_config config = { .transport = transport,
					 .key_file = key_file,
					 .node = node };
	struct gvm_net *net;
	int err;

	last_line[0] = 0;
	gvm_log_set(keep_line);
	err = gvm_net_open(&config, &net);
	gvm_log_set(NULL);
	if (!err)
		gvm_net_close(net);
	else
		assert_true(last_line[0] != 0);
	return err;
}

static void key_files(void **state)
{
	static char long_key[GVM_KEY_MAX + 2];
	char path[128];

	memset(long_key, 'k', sizeof(long_key));
	snprintf(path, sizeof(path), "%s/none", folder);
	assert_int_equal(try_net("loop", path, 1), -ENOENT);
	assert_non_null(strstr(last_line, "openssl rand -hex 32"));
	assert_int_equal(try_net("loop", folder, 1), -EACCES);
	assert_int_equal(try_net("loop", write_file("k", KEY_A, 33, 0640), 1), -EACCES);
	assert_non_null(strstr(last_line, "chmod 600"));
	assert_int_equal(try_net("loop", write_file("k", KEY_A, 33, 0602), 1), -EACCES);
	assert_int_equal(try_net("loop", write_file("k", KEY_A, 33, 0400), 1), 0);
	assert_int_equal(try_net("loop", write_file("k", "0123456789abcde\n", 16, 0600), 1),
			 -EACCES);
	assert_non_null(strstr(last_line, "at least 16"));
	assert_int_equal(try_net("loop", write_file("k", "0123456789abcdef", 16, 0600), 1), 0);
	assert_int_equal(try_net("loop", write_file("k", "", 0, 0600), 1), -EACCES);
	assert_int_equal(try_net("loop", write_file("k", long_key, GVM_KEY_MAX, 0600), 1), 0);
	assert_int_equal(try_net("loop", write_file("k", long_key, GVM_KEY_MAX + 1, 0600), 1),
			 -EACCES);
	snprintf(path, sizeof(path), "%s/fifo", folder);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(try_net("loop", path, 1), -EACCES);
	unlink(path);
}

static void transports(void **state)
{
	struct gvm_provider_info info[8];
	size_t count, i, usable = 0;

	/* What modules there are, and devices for them, is no matter here. */
	assert_int_equal(gvm_option_set("GVM_MODULE_PATH", "/nonexistent"), 0);
	count = gvm_providers(info, 8);
	assert_in_range(count, 4, 8);
	for (i = 0; i < count; i++) {
		assert_true(info[i].what[0] != 0);
		assert_int_equal(info[i].usable == 0, info[i].why[0] == 0);
		usable += info[i].usable == 0;
	}
	assert_int_equal(usable, 2);
	assert_int_equal(try_net("auto", NULL, 1), 0);
	assert_int_equal(try_net("tcp", NULL, 1), 0);
	assert_int_equal(try_net("verbs", NULL, 1), -EPROTONOSUPPORT);
	assert_non_null(strstr(last_line, "tcp, loop"));
	assert_int_equal(try_net("ofi", NULL, 1), -EPROTONOSUPPORT);
	assert_int_equal(try_net("pigeon", NULL, 1), -EPROTONOSUPPORT);
	assert_int_equal(try_net("", NULL, 1), -EPROTONOSUPPORT);
	assert_int_equal(try_net("loop+tcp", NULL, 1), 0);
	assert_int_equal(try_net("tcp+tcp", NULL, 1), -EPROTONOSUPPORT);
	assert_non_null(strstr(last_line, "twice"));
	assert_int_equal(try_net("tcp+", NULL, 1), -EPROTONOSUPPORT);
	assert_int_equal(try_net("tcp+auto", NULL, 1), -EPROTONOSUPPORT);
	assert_int_equal(try_net("tcp:foo", NULL, 1), -EINVAL);
	assert_non_null(strstr(last_line, "transport tcp:foo: tcp takes no argument"));
	assert_int_equal(try_net("tcp+loop:x", NULL, 1), -EINVAL);
	assert_non_null(strstr(last_line, "transport loop:x: loop takes no argument"));
	assert_int_equal(
	    try_net("verbs:xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", NULL, 1),
	    -EINVAL);
	assert_non_null(strstr(last_line, "transport verbs:xxxxxxxxxx...: longer than 63"));
	assert_int_equal(try_net("tcp", NULL, GVM_MAX_NODES), -EINVAL);
}

static int try_listen(const char *host, const char *key, int insecure)
{
	struct gvm_net_config config = { .transport = "tcp", .node = 1, .insecure = insecure };
	struct gvm_worker_config worker_config = { .cpu = -1 };
	struct gvm_worker *worker;
	struct gvm_net *net;
	int err;

	if (key)
		config.key_file = write_file("key", key, strlen(key), 0600);
	assert_int_equal(gvm_net_open(&config, &net), 0);
	assert_int_equal(gvm_worker_open(net, &worker_config, &worker), 0);
	gvm_log_set(keep_line);
	err = gvm_worker_listen(worker, host, 0, NULL);
	gvm_log_set(NULL);
	gvm_worker_close(worker);
	gvm_net_close(net);
	return err;
}

static void beyond_loopback_needs_a_key(void **state)
{
	last_line[0] = 0;
	assert_int_equal(try_listen("127.0.0.1", NULL, 0), 0);
	assert_int_equal(try_listen("127.1.2.3", NULL, 0), 0);
	assert_int_equal(try_listen("localhost", NULL, 0), 0);
	assert_string_equal(last_line, "");
	assert_int_equal(try_listen("0.0.0.0", NULL, 0), -EACCES);
	assert_non_null(strstr(last_line, "--insecure"));
	assert_int_equal(try_listen("*", NULL, 0), -EACCES);
	assert_int_equal(try_listen("::", NULL, 0), -EACCES);
	assert_int_equal(try_listen("192.0.2.1", NULL, 0), -EACCES);
	assert_int_equal(try_listen("*", NULL, 1), 0);
	assert_int_equal(try_listen("0.0.0.0", KEY_A, 0), 0);
}

static int make_folder(void **state)
{
	return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/key", folder);
	unlink(path);
	snprintf(path, sizeof(path), "%s/k", folder);
	unlink(path);
	return rmdir(folder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(keys_are_proven_at_exit),
		cmocka_unit_test(unless_libcrypto_has_ended),
		cmocka_unit_test(same_key_or_none),
		cmocka_unit_test(other_key_is_refused),
		cmocka_unit_test(listener_must_prove_too),
		cmocka_unit_test(replay_is_refused),
		cmocka_unit_test(what_providers_prove),
		cmocka_unit_test(every_bit_counts),
		cmocka_unit_test(cut_frames),
		cmocka_unit_test(frames_out_of_turn),
		cmocka_unit_test(clusters_must_agree),
		cmocka_unit_test(versions_must_overlap),
		cmocka_unit_test(refusals_are_safe_to_log),
		cmocka_unit_test(key_files),
		cmocka_unit_test(transports),
		cmocka_unit_test(beyond_loopback_needs_a_key),
	};

	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
