/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Who has not proven the cluster's key reaches nothing of libfabric's by way of the ofi provider:
 * a test speaks the protocol before libfabric itself, in either role, and counts what the provider
 * calls of libfabric meanwhile.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ofi_itself.h" /* first: cmocka's fail() is a macro */
#include "provider_rig.h"

static struct ofi_prov *prov_of(struct gvm_host *node)
{
	return (struct ofi_prov *)node->prov;
}

/* ---- what is called of libfabric ----------------------------------------------------------- */

static unsigned calls;
static struct fi_ops_domain *true_domain, counted_domain;
static struct fi_ops_av *true_av, counted_av;
static struct fi_ops_msg *true_msg, counted_msg;

static int count_endpoint(struct fid_domain *domain, struct fi_info *info, struct fid_ep **ep,
			  void *context)
{
	calls++;
	return true_domain->endpoint(domain, info, ep, context);
}

static int count_av_open(struct fid_domain *domain, struct fi_av_attr *attr, struct fid_av **av,
			 void *context)
{
	calls++;
	return true_domain->av_open(domain, attr, av, context);
}

static int count_insert(struct fid_av *av, const void *addr, size_t count, fi_addr_t *fi,
			uint64_t flags, void *context)
{
	calls++;
	return true_av->insert(av, addr, count, fi, flags, context);
}

static ssize_t count_recv(struct fid_ep *ep, void *buf, size_t len, void *desc, fi_addr_t from,
			  void *context)
{
	calls++;
	return true_msg->recv(ep, buf, len, desc, from, context);
}

static ssize_t count_send(struct fid_ep *ep, const void *buf, size_t len, void *desc, fi_addr_t to,
			  void *context)
{
	calls++;
	return true_msg->send(ep, buf, len, desc, to, context);
}

/* Without an endpoint nothing can be enabled, received or sent: what makes one is counted. */
static void count_new(struct gvm_host *node)
{
	struct fid_domain *domain = prov_of(node)->domain;

	calls = 0;
	true_domain = domain->ops;
	counted_domain = *true_domain;
	counted_domain.endpoint = count_endpoint;
	counted_domain.av_open = count_av_open;
	domain->ops = &counted_domain;
	assert_null(prov_of(node)->ports);
}

/* And of the one that is there for another side. */
static void count_there(struct gvm_host *node)
{
	struct ofi_port *port = prov_of(node)->ports;

	calls = 0;
	true_av = port->av->ops;
	counted_av = *true_av;
	counted_av.insert = count_insert;
	port->av->ops = &counted_av;
	true_msg = port->ep->msg;
	counted_msg = *true_msg;
	counted_msg.recv = count_recv;
	counted_msg.send = count_send;
	port->ep->msg = &counted_msg;
}

/* ---- what is logged ------------------------------------------------------------------------- */

static unsigned lines_heard;
static const char *hear_for;

static void hear(enum gvm_log_level level, const char *line)
{
	lines_heard += strstr(line, hear_for) != NULL;
}

static void listen_for(const char *words)
{
	lines_heard = 0;
	hear_for = words;
	prov_of(&server)->log_at = prov_of(&client)->log_at = 0;
	gvm_log_set(hear);
}

/* ---- a side that is no provider ------------------------------------------------------------ */

struct speaker {
	int fd;
	const char *key;
	uint8_t said[GVM_PROOF_TEXT_MAX];
	uint32_t len;
};

static void spk_dial(struct speaker *s, const char *key)
{
	struct sockaddr_in sa = { .sin_family = AF_INET,
				  .sin_port = htons((uint16_t)server.port),
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };

	memset(s, 0, sizeof(*s));
	s->key = key;
	s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(s->fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
}

static void spk_say(struct speaker *s, const void *frame, uint32_t len)
{
	assert_true(s->len + len <= sizeof(s->said));
	memcpy(s->said + s->len, frame, len);
	s->len += len;
	assert_int_equal(send(s->fd, frame, len, MSG_NOSIGNAL), len);
}

/* So many bytes; returns how many came before the other side closed. */
static uint32_t spk_hear(struct speaker *s, uint32_t len)
{
	uint64_t end = host_now(NULL) + PATIENCE_NS;
	uint32_t got = 0;

	while (got < len) {
		ssize_t n = recv(s->fd, s->said + s->len, len - got, MSG_DONTWAIT);

		if (n == 0 || (n < 0 && errno != EAGAIN))
			break;
		got += n > 0 ? (uint32_t)n : 0;
		s->len += n > 0 ? (uint32_t)n : 0;
		if (n < 0)
			step(5);
		assert_true(host_now(NULL) < end);
	}
	return got;
}

/* The other side says nothing more, and closes. */
static void spk_closed(struct speaker *s)
{
	uint32_t len = s->len;

	assert_int_equal(spk_hear(s, 1), 0);
	s->len = len;
	close(s->fd);
}

static struct gvm_ofi_hello own_hello(const struct gvm_host *like)
{
	const struct ofi_prov *prov = (struct ofi_prov *)like->prov;
	struct gvm_ofi_hello hello = { .magic = GVM_OFI_HELLO_MAGIC,
				       .features = GVM_FEAT_KEY,
				       .nonce = { 5, 6, 7 } };

	strcpy(hello.provider, prov->info->fabric_attr->prov_name);
	memcpy(hello.machine, prov->machine, sizeof(hello.machine));
	return hello;
}

static void spk_hello(struct speaker *s)
{
	struct gvm_ofi_hello hello = own_hello(&server);
	uint8_t frame[GVM_OFI_HELLO_LEN];

	gvm_ofi_hello_encode(frame, &hello);
	spk_say(s, frame, sizeof(frame));
}

static void spk_prove(struct speaker *s, uint8_t *frame, uint32_t len)
{
	uint8_t text[GVM_PROOF_TEXT_MAX];
	uint32_t n = len - GVM_WIRE_MAC_LEN;

	memcpy(text, s->said, s->len);
	memcpy(text + s->len, frame, n);
	key_mac(s->key, text, s->len + n, frame + n);
	spk_say(s, frame, len);
}

static void spk_proof(struct speaker *s)
{
	struct gvm_ofi_proof proof = { .magic = GVM_OFI_PROOF_MAGIC };
	uint8_t frame[GVM_OFI_PROOF_LEN];

	gvm_ofi_proof_encode(frame, &proof);
	spk_prove(s, frame, sizeof(frame));
}

static void spk_name(struct speaker *s, const void *name, uint32_t len)
{
	struct gvm_ofi_name m = { .magic = GVM_OFI_NAME_MAGIC, .id = 1, .name_len = len };
	uint8_t frame[GVM_OFI_NAME_LEN];

	memcpy(m.name, name, len);
	gvm_ofi_name_encode(frame, &m);
	spk_prove(s, frame, sizeof(frame));
}

/* What the server said last. */
static void *spk_heard(struct speaker *s, uint32_t len)
{
	return s->said + s->len - len;
}

static void spk_is_refused(struct speaker *s)
{
	struct gvm_ofi_proof proof;

	assert_int_equal(spk_hear(s, GVM_OFI_PROOF_LEN), GVM_OFI_PROOF_LEN);
	assert_int_equal(
	    gvm_ofi_proof_decode(spk_heard(s, GVM_OFI_PROOF_LEN), GVM_OFI_PROOF_LEN, &proof), 0);
	assert_int_equal(proof.status, GVM_ST_AUTH);
	for (unsigned i = 0; i < sizeof(proof.mac); i++)
		assert_int_equal(proof.mac[i], 0);
	spk_closed(s);
}

static void spk_meet(struct speaker *s, const char *key)
{
	spk_dial(s, key);
	spk_hello(s);
	assert_int_equal(spk_hear(s, GVM_OFI_HELLO_LEN), GVM_OFI_HELLO_LEN);
}

static void spk_prove_both(struct speaker *s)
{
	struct gvm_ofi_proof proof;

	spk_meet(s, server.key);
	spk_proof(s);
	assert_int_equal(spk_hear(s, GVM_OFI_PROOF_LEN), GVM_OFI_PROOF_LEN);
	assert_int_equal(
	    gvm_ofi_proof_decode(spk_heard(s, GVM_OFI_PROOF_LEN), GVM_OFI_PROOF_LEN, &proof), 0);
	assert_int_equal(proof.status, 0);
}

/* ---- strangers at a listener --------------------------------------------------------------- */

static void say_garbage(struct speaker *s)
{
	spk_dial(s, NULL);
	spk_say(s, "GET / HTTP/1.1", 14);
	spk_closed(s);
}

static void say_half(struct speaker *s)
{
	uint8_t frame[GVM_OFI_PROOF_LEN] = { 0x11, 0x47, 0x56, 0x4d, 0x4f, 0x46, 0x49, 0x34 };

	spk_dial(s, NULL);
	spk_say(s, frame, 20);
	shutdown(s->fd, SHUT_WR);
	spk_closed(s);
	spk_meet(s, NULL);
	frame[7] = 'P';
	spk_say(s, frame, 20);
	shutdown(s->fd, SHUT_WR);
	spk_closed(s);
}

/* A side of an earlier version hears which one this is: as many bytes as it looks for. */
static void say_malformed(struct speaker *s)
{
	struct gvm_ofi_hello hello = own_hello(&server), back;
	uint8_t frame[GVM_OFI_HELLO_LEN];

	gvm_ofi_hello_encode(frame, &hello);
	for (unsigned i = 0; i < 3; i++) {
		uint8_t *at = &frame[i == 0 ? 7 : i == 1 ? 12 : 319], before = *at;

		*at = i ? 1 : '3';
		spk_dial(s, NULL);
		spk_say(s, frame, sizeof(frame));
		*at = before;
		assert_int_equal(spk_hear(s, GVM_OFI_HELLO_LEN), GVM_OFI_HELLO_LEN);
		assert_int_equal(
		    gvm_ofi_hello_decode(spk_heard(s, GVM_OFI_HELLO_LEN), GVM_OFI_HELLO_LEN, &back),
		    0);
		spk_closed(s);
	}
}

static void say_no_proof(struct speaker *s)
{
	uint8_t frame[GVM_OFI_PROOF_LEN];
	struct gvm_ofi_proof proof = { .magic = GVM_OFI_PROOF_MAGIC };

	spk_meet(s, NULL);
	gvm_ofi_proof_encode(frame, &proof);
	spk_say(s, frame, sizeof(frame));
	spk_is_refused(s);
	/* or that one's own is refused */
	spk_meet(s, NULL);
	proof.status = GVM_ST_AUTH;
	gvm_ofi_proof_encode(frame, &proof);
	spk_say(s, frame, sizeof(frame));
	spk_is_refused(s);
}

static void say_another_key(struct speaker *s)
{
	spk_meet(s, "another key");
	spk_proof(s);
	spk_is_refused(s);
}

/* With the server's own hello before it. */
static void say_what_it_says(struct speaker *s)
{
	spk_meet(s, NULL);
	spk_say(s, spk_heard(s, GVM_OFI_HELLO_LEN), GVM_OFI_HELLO_LEN);
	spk_closed(s);
}

static void say_it_again(struct speaker *s)
{
	uint8_t proof[GVM_OFI_PROOF_LEN];

	spk_prove_both(s);
	memcpy(proof, s->said + 2 * GVM_OFI_HELLO_LEN, sizeof(proof));
	close(s->fd);
	spk_meet(s, NULL);
	spk_say(s, proof, sizeof(proof));
	spk_is_refused(s);
	/* the server's, which is the other side's */
	spk_prove_both(s);
	memcpy(proof, spk_heard(s, sizeof(proof)), sizeof(proof));
	close(s->fd);
	spk_meet(s, NULL);
	spk_say(s, proof, sizeof(proof));
	spk_is_refused(s);
}

static void say_a_name_too_early(struct speaker *s)
{
	spk_meet(s, server.key);
	spk_name(s, "x", 1);
	spk_closed(s);
	/* all at once, without the server's nonce, and more than there is to say */
	spk_dial(s, server.key);
	spk_hello(s);
	spk_proof(s);
	spk_name(s, "x", 1);
	spk_name(s, "x", 1);
	assert_int_equal(spk_hear(s, GVM_OFI_HELLO_LEN), GVM_OFI_HELLO_LEN);
	spk_is_refused(s);
}

static void say_a_changed_name(struct speaker *s)
{
	spk_prove_both(s);
	s->key = "another key";
	spk_name(s, "x", 1);
	spk_closed(s);
}

static void (*const unproven[])(struct speaker *s) = {
	say_garbage,      say_half,     say_malformed,        say_no_proof,      say_another_key,
	say_what_it_says, say_it_again, say_a_name_too_early, say_a_changed_name
};

static void strangers_reach_no_libfabric(void **state)
{
	struct speaker s;
	uint8_t buf[64];
	struct conn c;

	count_new(&server);
	for (unsigned i = 0; i < sizeof(unproven) / sizeof(unproven[0]); i++) {
		unproven[i](&s);
		assert_int_equal(calls, 0);
		assert_null(prov_of(&server)->ports);
	}
	assert_true(server.refused > 0);
	/* a side with the key does, with its name and not before: what is counted can be */
	spk_prove_both(&s);
	for (int i = 0; i < 20; i++)
		step(1);
	assert_int_equal(calls, 0);
	spk_name(&s, "x", 1);
	assert_int_equal(spk_hear(&s, GVM_OFI_NAME_LEN), GVM_OFI_NAME_LEN);
	assert_int_equal(calls, 2);
	spk_closed(&s);
	/* nor what is there for another one */
	offer(1, 4096, GVM_ACCESS_FETCH, 0);
	dial(&c);
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 1, 0, buf, 64), 0);
	for (int i = 0; i < 20; i++) /* shm's are never at rest */
		step(1);
	count_there(&server);
	for (unsigned i = 0; i < sizeof(unproven) / sizeof(unproven[0]); i++)
		unproven[i](&s);
	assert_int_equal(calls, 0);
	assert_int_equal(server.accepted, 1);
	/* a message does; what is read is served inside libfabric */
	assert_int_equal(say(&c, 0, "hello", 5), 0);
	until(calls);
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 1, 0, buf, 64), 0);
	client.ops->shut(c.ep, -ECANCELED);
}

/* Names that libfabric would believe are refused before it sees them, from whomever they come. */
static void names_that_are_none(void **state)
{
	static const char *const bad[] = { "fi_shm://1", "fi_shm://99999999:0:0", "fi_shm://../x",
					   "fi_shm://",  "fi_ns://1:0:0",         "" };
	int is_shm = strcmp(node_args, "shm") == 0;
	const struct ofi_port *port;
	struct speaker s;
	struct conn c;

	dial(&c);
	client.ops->shut(c.ep, -ECANCELED);
	settle();
	port = prov_of(&server)->ports;
	count_there(&server);
	counted_msg = *true_msg; /* a proven one has receive buffers */
	for (unsigned i = 0; i < (is_shm ? 6 : 4); i++) {
		uint8_t name[240] = { 0 };
		uint32_t len = i ? (uint32_t)strlen(bad[i]) + 1 : 10; /* without its end */

		if (is_shm) {
			strcpy((char *)name, bad[i]);
		} else {
			memcpy(name, port->name, port->name_len);
			name[i < 2 ? i : 2] ^= i < 2 ? 0x55 : name[2]; /* family, port */
			name[3] = i < 2 ? name[3] : 0;
			len = port->name_len - (i == 3);
		}
		spk_prove_both(&s);
		spk_name(&s, name, len);
		assert_int_equal(spk_hear(&s, GVM_OFI_NAME_LEN), GVM_OFI_NAME_LEN);
		spk_closed(&s);
	}
	assert_int_equal(calls, 0);
	server.accepted = 0;
	dial(&c);
	client.ops->shut(c.ep, -ECANCELED);
}

/* ---- strangers who say nothing more -------------------------------------------------------- */

#define CROWD (GVM_HANDSHAKES_MAX + 200u)

static unsigned open_files(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned n = 0;

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static void room_for_a_crowd(void)
{
	struct rlimit files;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
	assert_true(files.rlim_max > 3 * CROWD);
	files.rlim_cur = files.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
}

static unsigned waiting(enum ofi_wait what)
{
	return prov_of(&server)->waits[what].count;
}

/* Has the server closed it? */
static int spk_has_ended(const struct speaker *s)
{
	uint8_t buf[GVM_OFI_HELLO_LEN];
	ssize_t n;

	do
		n = recv(s->fd, buf, sizeof(buf), MSG_DONTWAIT);
	while (n > 0);
	return n == 0 || errno != EAGAIN;
}

static void a_member_works(void)
{
	uint64_t begun = host_now(NULL);
	uint8_t buf[64];
	struct conn c;

	server.accepted = 0;
	dial(&c);
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 1, 0, buf, 64), 0);
	assert_true(host_now(NULL) - begun < PATIENCE_NS / 2);
	client.ops->shut(c.ep, -ECANCELED); /* shm is never at rest with so many */
}

/* More of them than may be in their handshake: the oldest gives way, and members get in. */
static void idle_strangers_give_way(void **state)
{
	struct speaker *s = calloc(CROWD, sizeof(*s));
	unsigned before = open_files();

	room_for_a_crowd();
	offer(1, 4096, GVM_ACCESS_FETCH, 0);
	listen_for("too many connections are in their handshake");
	for (unsigned i = 0; i < CROWD; i++) {
		if (i % 3)
			spk_dial(&s[i], NULL);
		else
			spk_meet(&s[i], NULL);
		step(0);
		assert_true(prov_of(&server)->conns <= GVM_HANDSHAKES_MAX);
	}
	until(waiting(OFI_WAIT_PROOF) == GVM_HANDSHAKES_MAX && spk_has_ended(&s[100]));
	gvm_log_set(NULL);
	assert_in_range(lines_heard, 1, 10); /* not one for each */
	assert_true(spk_has_ended(&s[0]));
	assert_false(spk_has_ended(&s[CROWD - 1]));
	assert_true(open_files() <= before + CROWD + GVM_HANDSHAKES_MAX + 2);
	assert_null(prov_of(&server)->ports);
	a_member_works();
	for (unsigned i = 0; i < CROWD; i++)
		close(s[i].fd);
	until(prov_of(&server)->conns == 0);
	free(s);
}

/* Without a key anybody has proven what there is to be proven: those are bounded as well. */
static void and_without_a_key_as_well(void **state)
{
	struct speaker *s = calloc(CROWD, sizeof(*s));

	room_for_a_crowd();
	offer(1, 4096, GVM_ACCESS_FETCH, 0);
	server.key = client.key = NULL;
	listen_for("too many connections are in their handshake");
	for (unsigned i = 0; i < CROWD; i++) {
		struct gvm_ofi_hello hello = own_hello(&server);
		uint8_t frame[GVM_OFI_HELLO_LEN];

		hello.features = 0;
		gvm_ofi_hello_encode(frame, &hello);
		spk_dial(&s[i], NULL);
		spk_say(&s[i], frame, sizeof(frame));
		assert_int_equal(spk_hear(&s[i], GVM_OFI_HELLO_LEN), GVM_OFI_HELLO_LEN);
		spk_proof(&s[i]);
		assert_int_equal(spk_hear(&s[i], GVM_OFI_PROOF_LEN), GVM_OFI_PROOF_LEN);
	}
	gvm_log_set(NULL);
	assert_int_equal(waiting(OFI_WAIT_OPEN), GVM_HANDSHAKES_MAX);
	assert_int_equal(prov_of(&server)->conns, GVM_HANDSHAKES_MAX);
	assert_true(spk_has_ended(&s[0]));
	a_member_works();
	for (unsigned i = 0; i < CROWD; i++)
		close(s[i].fd);
	until(prov_of(&server)->conns == 0);
	free(s);
}

static int with_handshake_ms(void **state, const char *ms)
{
	int err = gvm_option_set("GVM_HANDSHAKE_MS", ms);

	if (!err)
		err = no_allow(state);
	return err ? err : gvm_option_set("GVM_HANDSHAKE_MS", "5000");
}

static int patient(void **state)
{
	return with_handshake_ms(state, "60000");
}

static int impatient(void **state)
{
	return with_handshake_ms(state, "500");
}

/* From the connection to the proof, whatever is said in between; and who has proven it is not
 * hurried. */
static void strangers_have_a_time(void **state)
{
	uint64_t begun = host_now(NULL);
	struct speaker idle, half, member;

	listen_for("did not finish the handshake in time");
	spk_prove_both(&member);
	spk_dial(&idle, NULL);
	spk_meet(&half, NULL);
	while (host_now(NULL) - begun < 300000000ull)
		step(10);
	spk_say(&half, "\x11", 1);
	until(spk_has_ended(&idle) && spk_has_ended(&half));
	assert_true(host_now(NULL) - begun >= 500000000ull);
	gvm_log_set(NULL);
	assert_true(lines_heard > 0);
	while (host_now(NULL) - begun < 1200000000ull)
		step(10);
	assert_false(spk_has_ended(&member));
	spk_name(&member, "x", 1);
	assert_int_equal(spk_hear(&member, GVM_OFI_NAME_LEN), GVM_OFI_NAME_LEN);
	spk_closed(&member);
	close(idle.fd);
	close(half.fd);
}

/* ---- strangers where a node is looked for -------------------------------------------------- */

/* The client dials s, and says its hello. */
static void spk_dialled(struct speaker *s, struct conn *c, const char *key)
{
	struct sockaddr_in sa = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(sa);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
	memset(c, 0, sizeof(*c));
	c->node = &client;
	assert_int_equal(
	    client.ops->connect(client.prov, "127.0.0.1", ntohs(sa.sin_port), c, &c->ep), 0);
	memset(s, 0, sizeof(*s));
	s->key = key;
	s->fd = accept(fd, NULL, NULL);
	close(fd);
	assert_int_equal(spk_hear(s, GVM_OFI_HELLO_LEN), GVM_OFI_HELLO_LEN);
}

static void spk_answers(struct speaker *s, struct conn *c, const char *key)
{
	spk_dialled(s, c, key);
	spk_hello(s);
	assert_int_equal(spk_hear(s, GVM_OFI_PROOF_LEN), GVM_OFI_PROOF_LEN);
}

static void comes_to(struct speaker *s, struct conn *c, int why)
{
	if (s->fd >= 0)
		close(s->fd);
	until(c->connected);
	assert_int_equal(c->connected, why);
	assert_int_equal(calls, 0);
	assert_null(prov_of(&client)->ports);
}

static void who_answers_without_the_key_reaches_no_libfabric(void **state)
{
	struct speaker s;
	struct conn c;

	count_new(&client);
	/* as an earlier version does */
	listen_for("");
	spk_dialled(&s, &c, NULL);
	comes_to(&s, &c, -ECONNRESET);
	gvm_log_set(NULL);
	assert_int_equal(lines_heard, 0); /* core has a line for it, with the reason in it */
	assert_non_null(strstr(c.reason, "without an answer"));
	spk_dialled(&s, &c, NULL);
	spk_say(&s, "HTTP/1.1", 8);
	comes_to(&s, &c, -EPROTO);
	spk_answers(&s, &c, NULL);
	comes_to(&s, &c, -ECONNRESET);
	/* the client's own hello and proof, given back */
	spk_dialled(&s, &c, NULL);
	spk_say(&s, s.said, GVM_OFI_HELLO_LEN);
	assert_int_equal(spk_hear(&s, GVM_OFI_PROOF_LEN), GVM_OFI_PROOF_LEN);
	spk_say(&s, spk_heard(&s, GVM_OFI_PROOF_LEN), GVM_OFI_PROOF_LEN);
	comes_to(&s, &c, -EACCES);
	spk_answers(&s, &c, "another key");
	spk_proof(&s);
	comes_to(&s, &c, -EACCES);
	spk_answers(&s, &c, NULL);
	spk_proof(&s);
	comes_to(&s, &c, -EACCES);
	spk_answers(&s, &c, client.key);
	spk_name(&s, "x", 1);
	comes_to(&s, &c, -EPROTO);
	/* who has the key does */
	spk_answers(&s, &c, client.key);
	spk_proof(&s);
	assert_int_equal(spk_hear(&s, GVM_OFI_NAME_LEN), GVM_OFI_NAME_LEN);
	assert_int_equal(calls, 2);
	close(s.fd);
	until(c.connected);
	assert_int_equal(c.connected, -ECONNRESET);
}

/* ---- ends, and keys that differ ------------------------------------------------------------ */

/* Wherever it ends, in either role: nothing is kept, and the next connection is as any. */
static void an_end_at_each_step(void **state)
{
	struct speaker s;
	uint8_t buf[64];
	struct conn c;

	for (unsigned frames = 0; frames < 3; frames++) {
		spk_dial(&s, server.key);
		for (unsigned n = 0; n < frames; n++) {
			n ? spk_proof(&s) : spk_hello(&s);
			spk_hear(&s, n ? GVM_OFI_PROOF_LEN : GVM_OFI_HELLO_LEN);
		}
		close(s.fd);
		settle();
		assert_int_equal(prov_of(&server)->conns, 0);
		for (unsigned i = 0; i < OFI_WAITS; i++)
			assert_null(prov_of(&server)->waits[i].first);
	}
	for (unsigned n = 0; n < 3; n++) {
		spk_dialled(&s, &c, client.key);
		if (n)
			spk_hello(&s);
		if (n == 2) {
			spk_hear(&s, GVM_OFI_PROOF_LEN);
			spk_proof(&s);
			spk_hear(&s, GVM_OFI_NAME_LEN);
		}
		/* as core does when the time for it is over */
		client.ops->shut(c.ep, -ETIMEDOUT);
		settle();
		assert_int_equal(prov_of(&client)->conns, 0);
		close(s.fd);
	}
	assert_int_equal(server.accepted, 0);
	offer(1, 4096, GVM_ACCESS_FETCH, 0);
	dial(&c);
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 1, 0, buf, 64), 0);
	client.ops->shut(c.ep, -ECANCELED);
}

/* Both sides say so, and the client's end is one that is not tried again. */
static void keys_that_differ(void **state)
{
	static const char *const keys[] = { "another key", NULL };
	struct conn c;

	count_new(&server);
	for (unsigned i = 0; i < 2; i++) {
		server.key = keys[i];
		listen_for(keys[i] ? GVM_KEYS_DIFFER : GVM_KEY_OF_ONE);
		dial_host(&c, "127.0.0.1");
		until(c.connected);
		settle();
		gvm_log_set(NULL);
		assert_int_equal(c.connected, -EACCES);
		assert_int_equal(lines_heard, 2);
		assert_int_equal(server.accepted, 0);
	}
	assert_int_equal(calls, 0);
	client.key = NULL; /* as with --insecure, on both sides */
	dial(&c);
	client.ops->shut(c.ep, -ECANCELED);
}

#ifdef __SANITIZE_THREAD__
/* libfabric is built without the sanitizer, which does not see how its threads agree. */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
	return "race:libfabric.so.1\n";
}
#endif

#define WITH(setup, test)                                                                          \
	cmocka_unit_test_prestate_setup_teardown(test, setup, teardown, (void *)&ofi)
#define CASE(test) WITH(no_allow, test)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		CASE(strangers_reach_no_libfabric),
		CASE(names_that_are_none),
		WITH(patient, idle_strangers_give_way),
		WITH(patient, and_without_a_key_as_well),
		WITH(impatient, strangers_have_a_time),
		CASE(who_answers_without_the_key_reaches_no_libfabric),
		CASE(an_end_at_each_step),
		CASE(keys_that_differ),
	};

	node_args = argc > 1 ? argv[1] : "tcp";
	return cmocka_run_group_tests_name("ofi, strangers", tests, NULL, NULL);
}
