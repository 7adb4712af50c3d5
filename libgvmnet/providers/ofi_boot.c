/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connections over libfabric's endpoints, which have none: the two sides meet at the port of the
 * cluster file, over TCP, prove to each other that they have the cluster's key, and then say by
 * what name libfabric reaches them (wire.h, gvm_ofi_hello and after). The TCP connection stays for
 * as long as the connection does: it says that a process has died or ended, which libfabric does
 * not; and each connection has ids of its own, so that a cell of an earlier one is known.
 *
 *     DIALLING --> HELLO --> PROOF --> NAME --> PATH --> OPEN ---> ENDING ---> ENDED
 *        TCP         |                                     |  orderly end of     disconnect()
 *               accepted ones                              |  the other side
 *
 * In each of HELLO, PROOF and NAME the connecting side speaks first and the other one answers, with
 * a frame of the same kind. A proof, and that at a name's end, is over all that was said before it,
 * which has a nonce of each side's. Neither side calls libfabric for the other one before it has
 * its proof: it is not written for strangers (docs/rdma.md). This is besides core's handshake,
 * which needs a connection, and so libfabric.
 *
 * In PATH the connecting side sends an empty first cell, which goes no further: a new connection
 * must not fail because of what an earlier one has left behind in libfabric, so it is sent again
 * when that is found to be broken. It also shows that the other side is where it says that it is,
 * before core hears of it.
 *
 * Strangers cost little. Who connects has GVM_HANDSHAKE_MS for its proof, as core's handshake gives
 * it, and no more than GVM_HANDSHAKES_MAX of a worker are in that time: the oldest gives way. Who
 * has the key has longer for what follows, as libfabric takes its time for it. Where there is no
 * key anybody comes that far: so those are bounded as well, on their own, where strangers without
 * it do not get in the way of members.
 */
#include "providers/ofi.h"

#include <assert.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define TICK_NS       50000000l
#define OPEN_NS       20000000000ull /* both sides may make an endpoint in it, of 70 MiB for tcp */
#define LATE_TICKS    4
#define ENDING_NS     200000000ull /* cells that were to come, and the other side is gone */
#define LOG_EVERY_NS  1000000000ull
#define PATH_TRIES    100u
#define PATH_PAUSE_NS 5000000ull /* libfabric looks after what is broken each 10 ms */
#define EVENTS        (EPOLLIN | EPOLLRDHUP)
#define LIBFABRIC_FDS 2 /* a socket for the way there, and one more */

static void boot_ready(struct gvm_watch *watch, uint32_t events);

/* ---- those that do not wait for ever ------------------------------------------------------- */

static void tick(struct ofi_prov *prov)
{
	struct itimerspec each = { { 0, TICK_NS }, { 0, TICK_NS } };

	timerfd_settime(prov->clock.fd, 0, &each, NULL);
}

static int nobody_waits(const struct ofi_prov *prov)
{
	for (unsigned i = 0; i < OFI_WAITS; i++)
		if (prov->waits[i].first)
			return 0;
	return 1;
}

static void wait_remove(struct ofi_ep *ep)
{
	struct ofi_queue *q = ep->wait;

	if (!q)
		return;
	if (ep->wait_prev)
		ep->wait_prev->wait_next = ep->wait_next;
	else
		q->first = ep->wait_next;
	if (ep->wait_next)
		ep->wait_next->wait_prev = ep->wait_prev;
	else
		q->last = ep->wait_prev;
	q->count--;
	ep->wait = NULL;
}

static void fail(struct ofi_ep *ep, int err, const char *reason);
static int may_log(struct ofi_prov *prov);

static void give_up(struct ofi_ep *ep, const char *why)
{
	if (ep->wait != &ofi_of(ep)->waits[OFI_WAIT_END] && may_log(ofi_of(ep)))
		gvm_log(GVM_LOG_WARN, "%s: %s", ep->ep.ep.name, why);
	wait_remove(ep);
	fail(ep, -ECONNRESET, "the other side has gone");
}

static void wait_for(struct ofi_ep *ep, enum ofi_wait what)
{
	struct ofi_prov *prov = ofi_of(ep);
	struct ofi_queue *q = &prov->waits[what];

	wait_remove(ep);
	if (nobody_waits(prov))
		tick(prov);
	ep->wait = q;
	ep->until = ofi_now(prov) + q->ns;
	ep->wait_next = NULL;
	ep->wait_prev = q->last;
	if (q->last)
		q->last->wait_next = ep;
	else
		q->first = ep;
	q->last = ep;
	if (++q->count > q->most && q->most)
		give_up(q->first,
			"too many connections are in their handshake; the oldest is ended");
}

/* ---- the first cell ------------------------------------------------------------------------ */

/* The other side has ended it, in good order. */
static void begin_ending(struct ofi_ep *ep)
{
	ep->state = OFI_ENDING;
	wait_for(ep, OFI_WAIT_END);
	ofi_check_ending(ep);
}

static void path_add(struct ofi_ep *ep)
{
	struct ofi_prov *prov = ofi_of(ep);

	ep->path_next = prov->paths;
	prov->paths = ep;
	prov->again = 1;
}

static void path_unlink(struct ofi_ep **at, const struct ofi_ep *ep)
{
	while (*at && *at != ep)
		at = &(*at)->path_next;
	if (*at)
		*at = ep->path_next;
}

static void path_remove(struct ofi_ep *ep)
{
	struct ofi_prov *prov = ofi_of(ep);

	if (ep->path)
		ep->path->ep = NULL;
	ep->path = NULL;
	path_unlink(&prov->paths, ep);
	path_unlink(&prov->trying, ep);
}

void ofi_paths_try(struct ofi_prov *prov)
{
	struct ofi_ep *ep;
	int err;

	prov->trying = prov->paths;
	prov->paths = NULL;
	while ((ep = prov->trying)) {
		prov->trying = ep->path_next;
		err = ep->path_tries && gvm_now() < ep->path_at ? -EAGAIN : ofi_path_send(ep);
		if (err == -EAGAIN)
			path_add(ep);
		else if (err)
			ofi_path_done(ep, err);
	}
}

static void path_again(struct ofi_ep *ep)
{
	ep->path_at = gvm_now() + PATH_PAUSE_NS;
	path_add(ep);
}

void ofi_path_done(struct ofi_ep *ep, int err)
{
	if (!err)
		ofi_path_open(ep);
	else if (++ep->path_tries >= PATH_TRIES)
		fail(ep, -ECONNRESET, "");
	else
		path_again(ep);
}

void ofi_path_open(struct ofi_ep *ep)
{
	struct gvm_listener *listener = ep->listener;

	wait_remove(ep);
	ep->listener = NULL;
	ep->state = OFI_OPEN;
	if (listener)
		gvm_rma_accepted(listener, &ep->ep);
	else
		gvm_rma_connected(&ep->ep, 0);
	if (ep->state == OFI_OPEN && ep->ends_early)
		begin_ending(ep);
}

static int may_log(struct ofi_prov *prov)
{
	uint64_t now = gvm_now();

	if (now < prov->log_at)
		return 0;
	prov->log_at = now + LOG_EVERY_NS;
	return 1;
}

/* libfabric needs descriptors of its own for a way to the other side, and where there are none it
 * tries on without a word. So who comes to nothing looks whether that may be why. */
static void tell_of_descriptors(struct ofi_ep *ep)
{
	struct ofi_prov *prov = ofi_of(ep);
	int fd[LIBFABRIC_FDS], err = 0;
	unsigned n = 0;

	while (n < LIBFABRIC_FDS && !err) {
		fd[n] = fcntl(prov->clock.fd, F_DUPFD_CLOEXEC, 0);
		err = fd[n] < 0 ? errno : 0;
		n += !err;
	}
	while (n)
		close(fd[--n]);
	if (err && may_log(prov))
		gvm_log(GVM_LOG_WARN,
			"%s: no connection over libfabric, which needs descriptors of its own and "
			"finds none (%s): raise the limit of open files (ulimit -n)",
			ep->ep.ep.name, strerror(err));
}

/* ---- the end ------------------------------------------------------------------------------- */

static void close_socket(struct ofi_ep *ep)
{
	struct ofi_prov *prov = ofi_of(ep);

	if (ep->watch.fd < 0)
		return;
	prov->rma.up->unwatch(prov->rma.host, &ep->watch);
	close(ep->watch.fd);
	ep->watch.fd = -1;
	prov->conns--;
}

/* Say how much is still to come. */
static void say_end(struct ofi_ep *ep)
{
	struct gvm_ofi_end end = { GVM_OFI_END_MAGIC, ep->sent };
	uint8_t buf[GVM_OFI_END_LEN];

	gvm_ofi_end_encode(buf, &end);
	send(ep->watch.fd, buf, sizeof(buf), MSG_NOSIGNAL);
	shutdown(ep->watch.fd, SHUT_WR);
	/* what is not read would make a reset of the end, which may overtake it */
	while (recv(ep->watch.fd, NULL, GVM_OFI_HELLO_LEN, MSG_TRUNC) > 0)
		;
}

static void talk_free(struct ofi_ep *ep)
{
	free(ep->talk);
	ep->talk = NULL;
}

static void reset_at_close(struct ofi_ep *ep)
{
	struct linger now = { .l_onoff = 1, .l_linger = 0 };

	setsockopt(ep->watch.fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
}

void ofi_disconnect(struct gvm_rma_ep *gep, int orderly)
{
	struct ofi_ep *ep = (struct ofi_ep *)gep;
	struct ofi_prov *prov = ofi_of(ep);

	assert(ep->state != OFI_ENDED);
	if (ep->state == OFI_NAME || ep->state == OFI_PATH)
		tell_of_descriptors(ep);
	gvm_dial_stop(&ep->dial);
	if (ep->watch.fd >= 0 && orderly)
		say_end(ep);
	else if (ep->watch.fd >= 0 && !ep->told)
		reset_at_close(ep);
	close_socket(ep);
	talk_free(ep);
	wait_remove(ep);
	path_remove(ep);
	ep->state = OFI_ENDED;
	if (ep->node.key)
		rma_table_remove(&prov->ids, &ep->node);
	if (ep->addr)
		ofi_addr_put(ep->addr);
	if (ep->port)
		ofi_receives(&ep->ep, 0);
	ep->addr = NULL;
	ep->port = NULL;
}

/* It comes to nothing, or has ended. */
static void fail(struct ofi_ep *ep, int err, const char *reason)
{
	if (ep->state >= OFI_OPEN)
		gvm_rma_broken(&ep->ep, err, reason);
	else if (ep->listener)
		gvm_rma_unaccept(&ep->ep);
	else
		gvm_rma_connected(&ep->ep, err);
}

void ofi_check_ending(struct ofi_ep *ep)
{
	if (ep->received >= ep->last)
		fail(ep, -ECONNRESET, "the other side has closed the connection");
}

void ofi_conns_fail(struct ofi_prov *prov, const char *reason)
{
	for (uint32_t i = 0; i < prov->ids.cap; i++)
		while (prov->ids.slot[i])
			fail(container_of(prov->ids.slot[i], struct ofi_ep, node), -ECONNRESET,
			     reason);
}

void ofi_unaccept_all(struct ofi_prov *prov, const struct gvm_listener *listener)
{
	for (unsigned i = 0; i < OFI_WAITS; i++)
		for (struct ofi_ep *ep = prov->waits[i].first, *next; ep; ep = next) {
			next = ep->wait_next;
			if (ep->listener == listener)
				gvm_rma_unaccept(&ep->ep);
		}
}

/* ---- what is said before libfabric is used ------------------------------------------------- */

static int talk_new(struct ofi_ep *ep)
{
	ep->talk = calloc(1, sizeof(*ep->talk));
	return ep->talk ? 0 : -ENOMEM;
}

/* Where the next frame begins, said or heard. */
static uint8_t *talk_end(const struct ofi_ep *ep)
{
	return ep->talk->said + ep->talk->len;
}

/* A frame that has been laid out at talk_end(). */
static int say(struct ofi_ep *ep, uint32_t len)
{
	const uint8_t *frame = talk_end(ep);

	ep->talk->len += len;
	/* it is one of the first of a connection, which always fit */
	return send(ep->watch.fd, frame, len, MSG_NOSIGNAL) == (ssize_t)len ? 0 : -ECONNRESET;
}

/* The last bytes of the frame of this length at talk_end() are the proof. */
static int add_proof(const struct ofi_ep *ep, uint32_t len)
{
	const struct gvm_rma *rma = ep->ep.rma;
	uint32_t text = ep->talk->len + len - GVM_WIRE_MAC_LEN;

	return rma->up->prove(rma->host, ep->talk->said, text, ep->talk->said + text);
}

static int check_proof(const struct ofi_ep *ep, uint32_t len)
{
	const struct gvm_rma *rma = ep->ep.rma;
	uint32_t text = ep->talk->len + len - GVM_WIRE_MAC_LEN;

	return rma->up->proven(rma->host, ep->talk->said, text, ep->talk->said + text);
}

static void refuse(const struct ofi_ep *ep, const char *why)
{
	if (may_log(ofi_of(ep)))
		gvm_log(GVM_LOG_WARN, "%s: refused: %s", ep->ep.ep.name, why);
}

static int is_keyed(const struct ofi_ep *ep)
{
	return ep->ep.rma->up->has_key(ep->ep.rma->host);
}

/* ---- hello --------------------------------------------------------------------------------- */

static int say_hello(struct ofi_ep *ep)
{
	const struct ofi_prov *prov = ofi_of(ep);
	struct gvm_ofi_hello hello = { .magic = GVM_OFI_HELLO_MAGIC };

	hello.features = is_keyed(ep) ? GVM_FEAT_KEY : 0;
	if (getrandom(hello.nonce, sizeof(hello.nonce), 0) != sizeof(hello.nonce))
		return -EIO;
	snprintf(hello.provider, sizeof(hello.provider), "%s", prov->info->fabric_attr->prov_name);
	memcpy(hello.machine, prov->machine, sizeof(hello.machine));
	gvm_ofi_hello_encode(talk_end(ep), &hello);
	return say(ep, GVM_OFI_HELLO_LEN);
}

static int say_proof(struct ofi_ep *ep, unsigned status)
{
	struct gvm_ofi_proof proof = { .magic = GVM_OFI_PROOF_MAGIC, .status = status };
	int err = 0;

	gvm_ofi_proof_encode(talk_end(ep), &proof);
	if (!status)
		err = add_proof(ep, GVM_OFI_PROOF_LEN);
	return err ? err : say(ep, GVM_OFI_PROOF_LEN);
}

/* Can the two reach each other? If not, another transport may (-EPROTONOSUPPORT would be final). */
static int agree(const struct ofi_ep *ep, const struct gvm_ofi_hello *hello)
{
	struct ofi_prov *prov = ofi_of(ep);
	const char *ours = prov->info->fabric_attr->prov_name;

	ep->talk->key_of_one = !(hello->features & GVM_FEAT_KEY) != !is_keyed(ep);
	if (strcmp(hello->provider, ours) != 0) {
		if (may_log(prov))
			gvm_log(GVM_LOG_WARN,
				"%s has libfabric's provider %.40s, and this side %.40s",
				ep->ep.ep.name, hello->provider, ours);
		return -EHOSTUNREACH;
	}
	if (memcmp(hello->machine, prov->machine, sizeof(hello->machine)) == 0)
		return 0;
	if (may_log(prov))
		gvm_log(GVM_LOG_WARN,
			"%s is another machine, and libfabric's provider %.40s reaches none",
			ep->ep.ep.name, ours);
	return -EHOSTUNREACH;
}

/* Who is refused is told by whom: a side of an earlier version reads as many bytes, too. */
static int hello_took(struct ofi_ep *ep)
{
	struct gvm_ofi_hello hello;
	int bad = gvm_ofi_hello_decode(talk_end(ep), GVM_OFI_HELLO_LEN, &hello), err = 0;

	ep->talk->len += GVM_OFI_HELLO_LEN;
	if (ep->listener)
		err = say_hello(ep);
	if (bad && may_log(ofi_of(ep)))
		gvm_log(GVM_LOG_WARN,
			"%s is refused: the other side is no gvmnet node of this version",
			ep->ep.ep.name);
	if (!err)
		err = bad ? -EPROTO : agree(ep, &hello);
	if (err) {
		ep->told = 1;
		return err;
	}
	ep->state = OFI_PROOF;
	return ep->listener ? 0 : say_proof(ep, 0);
}

/* ---- proof and name ------------------------------------------------------------------------ */

static int draw_id(struct ofi_ep *ep)
{
	struct ofi_prov *prov = ofi_of(ep);

	do
		if (getrandom(&ep->node.key, sizeof(ep->node.key), 0) != sizeof(ep->node.key)) {
			ep->node.key = 0;
			return -EIO;
		}
	while (!ep->node.key || rma_table_find(&prov->ids, ep->node.key));
	if (!rma_table_add(&prov->ids, &ep->node))
		return 0;
	ep->node.key = 0;
	return -ENOMEM;
}

/* A place in libfabric for the connection, as its socket's local address has it. Not before the
 * other side has proven the key: it may be the endpoint's first. */
static int take_port(struct ofi_ep *ep)
{
	struct sockaddr_storage local;
	socklen_t len = sizeof(local);
	struct ofi_port *port;
	int err;

	assert(ep->state == OFI_NAME);
	if (getsockname(ep->watch.fd, (struct sockaddr *)&local, &len))
		return -errno;
	err = ofi_port_get(ofi_of(ep), (const struct sockaddr *)&local, &port);
	if (err)
		return err;
	ep->port = port;
	err = ofi_receives(&ep->ep, GVM_RMA_FIRST);
	return err ? err : draw_id(ep);
}

static int say_name(struct ofi_ep *ep)
{
	struct gvm_ofi_name name = { .magic = GVM_OFI_NAME_MAGIC };
	int err = take_port(ep);

	if (err)
		return err;
	name.id = ep->node.key;
	name.name_len = ep->port->name_len;
	memcpy(name.name, ep->port->name, ep->port->name_len);
	gvm_ofi_name_encode(talk_end(ep), &name);
	err = add_proof(ep, GVM_OFI_NAME_LEN);
	return err ? err : say(ep, GVM_OFI_NAME_LEN);
}

static int proof_took(struct ofi_ep *ep)
{
	struct gvm_ofi_proof proof;
	int err = gvm_ofi_proof_decode(talk_end(ep), GVM_OFI_PROOF_LEN, &proof) ? -EPROTO : 0;

	if (!err)
		err = proof.status ? -EACCES : check_proof(ep, GVM_OFI_PROOF_LEN);
	ep->talk->len += GVM_OFI_PROOF_LEN;
	if (err == -EACCES) {
		refuse(ep, ep->talk->key_of_one ? GVM_KEY_OF_ONE : GVM_KEYS_DIFFER);
		ep->told = ep->listener && !say_proof(ep, GVM_ST_AUTH);
	}
	if (!err && ep->listener)
		err = say_proof(ep, 0);
	if (err)
		return err;
	ep->state = OFI_NAME;
	if (!ep->listener)
		return say_name(ep);
	wait_for(ep, OFI_WAIT_OPEN);
	return 0;
}

static int take_addr(struct ofi_ep *ep, const struct gvm_ofi_name *name)
{
	int err = ofi_addr_get(ep->port, name->name, name->name_len, &ep->addr);

	if (err && may_log(ofi_of(ep)))
		gvm_log(GVM_LOG_WARN, "%s is refused: %s", ep->ep.ep.name,
			err == -EPROTO ? "what it gives for its address is none of libfabric's"
				       : "libfabric takes no more addresses");
	return err;
}

static int name_took(struct ofi_ep *ep)
{
	struct gvm_ofi_name name;
	int err = gvm_ofi_name_decode(talk_end(ep), GVM_OFI_NAME_LEN, &name) ? -EPROTO : 0;

	if (!err)
		err = check_proof(ep, GVM_OFI_NAME_LEN);
	ep->talk->len += GVM_OFI_NAME_LEN;
	if (err == -EACCES) {
		refuse(ep, "what it gives for its address has been changed on the way");
		err = -EPROTO; /* its key is the right one, so it may well be tried again */
	}
	if (!err && ep->listener)
		err = say_name(ep);
	if (!err)
		err = take_addr(ep, &name);
	if (err)
		return err;
	ep->to = name.id;
	ep->state = OFI_PATH;
	talk_free(ep);
	if (!ep->listener)
		path_add(ep);
	return 0;
}

static void end_done(struct ofi_ep *ep)
{
	struct gvm_ofi_end end;

	if (gvm_ofi_end_decode(ep->rx, GVM_OFI_END_LEN, &end)) {
		fail(ep, -EPROTO, "this is not the gvmnet protocol");
		return;
	}
	ep->last = end.cells;
	ep->ep.has_let_go = 1;
	close_socket(ep);
	if (ep->state == OFI_OPEN) {
		begin_ending(ep);
		return;
	}
	ep->ends_early = 1;
	wait_for(ep, OFI_WAIT_END);
}

/* ---- the TCP connection -------------------------------------------------------------------- */

static const struct {
	uint32_t len;
	int (*took)(struct ofi_ep *ep); /* a frame that begins at talk_end() */
} frames[] = {
	[OFI_HELLO] = { GVM_OFI_HELLO_LEN, hello_took },
	[OFI_PROOF] = { GVM_OFI_PROOF_LEN, proof_took },
	[OFI_NAME] = { GVM_OFI_NAME_LEN, name_took },
};

/* Somebody who speaks another protocol need not be waited for. */
static int is_strange(const uint8_t *frame, uint32_t len)
{
	static const uint8_t magic[] = { 0x11, 0x47, 0x56, 0x4d, 0x4f, 0x46, 0x49 };

	return memcmp(frame, magic, len < sizeof(magic) ? len : sizeof(magic)) != 0;
}

/* An earlier version closes the connection without a word. */
static void hung_up(struct ofi_ep *ep)
{
	if (ep->state == OFI_HELLO && !ep->listener && !ep->rx_len)
		ep->ep.ep.why = "closed without an answer: no gvmnet node over libfabric, or one "
				"of another version";
	fail(ep, -ECONNRESET, "the other side has gone");
}

static void boot_read(struct ofi_ep *ep)
{
	uint8_t *frame = ep->talk ? talk_end(ep) : ep->rx;
	uint32_t want = ep->talk ? frames[ep->state].len : GVM_OFI_END_LEN;
	ssize_t got = recv(ep->watch.fd, frame + ep->rx_len, want - ep->rx_len, 0);
	int err = 0;

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got <= 0) {
		ep->ep.has_let_go = got == 0 || errno == ECONNRESET;
		hung_up(ep);
		return;
	}
	ep->rx_len += (uint32_t)got;
	if (is_strange(frame, ep->rx_len)) {
		fail(ep, -EPROTO, "this is not the gvmnet protocol");
		return;
	}
	if (ep->rx_len < want)
		return;
	ep->rx_len = 0;
	if (ep->talk)
		err = frames[ep->state].took(ep);
	else
		end_done(ep);
	if (err)
		fail(ep, err, "");
}

static int dialled(struct ofi_ep *ep)
{
	struct ofi_prov *prov = ofi_of(ep);
	int err = prov->rma.up->rewatch(prov->rma.host, &ep->watch, EVENTS);

	if (!err)
		err = say_hello(ep);
	ep->state = OFI_HELLO;
	return err;
}

static void dial_ready(struct ofi_ep *ep)
{
	int err = gvm_dial_ready(&ep->dial);

	if (!err) {
		ofi_of(ep)->conns++;
		err = dialled(ep);
	}
	if (err && err != -EINPROGRESS)
		fail(ep, err, "");
}

static void dial_failed(struct gvm_dial *dial, int err)
{
	fail(container_of(dial, struct ofi_ep, dial), err, "");
}

int ofi_connect(struct gvm_rma_ep *gep, const char *host, unsigned port)
{
	struct ofi_ep *ep = (struct ofi_ep *)gep;

	int err = talk_new(ep);

	if (err)
		return err;
	ep->state = OFI_DIALLING;
	ep->watch.ready = boot_ready;
	ep->dial = (struct gvm_dial){ .ep = &gep->ep, .watch = &ep->watch, .events = EPOLLOUT };
	err = gvm_dial_start(&ofi_of(ep)->dialler, &ep->dial, host, port);
	if (err)
		talk_free(ep);
	return err;
}

static void boot_ready(struct gvm_watch *watch, uint32_t events)
{
	struct ofi_ep *ep = container_of(watch, struct ofi_ep, watch);

	if (ep->state == OFI_DIALLING)
		dial_ready(ep);
	else
		boot_read(ep);
}

void ofi_accept(struct ofi_prov *prov, struct gvm_listener *listener, int fd,
		const struct sockaddr *from)
{
	struct ofi_ep *ep = (struct ofi_ep *)gvm_rma_accept(&prov->rma);

	if (!ep) {
		close(fd);
		return;
	}
	gvm_dial_options(fd);
	gvm_addr_print(from, ep->ep.ep.name, sizeof(ep->ep.ep.name));
	ep->listener = listener;
	ep->state = OFI_HELLO;
	ep->watch.fd = fd;
	ep->watch.ready = boot_ready;
	if (talk_new(ep) || prov->rma.up->watch(prov->rma.host, &ep->watch, EVENTS)) {
		close(fd);
		ep->watch.fd = -1;
		gvm_rma_unaccept(&ep->ep);
		return;
	}
	prov->conns++;
	wait_for(ep, OFI_WAIT_PROOF);
}

/* ---- the clock ----------------------------------------------------------------------------- */

static void clock_ticks(struct gvm_watch *watch, uint32_t events)
{
	struct ofi_prov *prov = container_of(watch, struct ofi_prov, clock);
	const struct itimerspec never = { 0 };
	uint64_t now = ofi_now(prov), times;
	struct ofi_ep *ep;

	if (read(watch->fd, &times, sizeof(times)) != sizeof(times))
		return;
	/* this worker was held up: what they have said may not have been read */
	prov->late = times > LATE_TICKS && !prov->late;
	if (prov->late)
		return;
	for (unsigned i = 0; i < OFI_WAITS; i++)
		while ((ep = prov->waits[i].first) && ep->until <= now)
			give_up(ep, "did not finish the handshake in time; connection ended");
	if (nobody_waits(prov))
		timerfd_settime(prov->clock.fd, 0, &never, NULL);
}

int ofi_boot_open(struct ofi_prov *prov)
{
	uint64_t handshake_ns = gvm_option_number("GVM_HANDSHAKE_MS") * 1000000;
	int err;

	prov->waits[OFI_WAIT_PROOF] =
	    (struct ofi_queue){ .most = GVM_HANDSHAKES_MAX, .ns = handshake_ns };
	prov->waits[OFI_WAIT_OPEN] =
	    (struct ofi_queue){ .most = GVM_HANDSHAKES_MAX, .ns = OPEN_NS };
	prov->waits[OFI_WAIT_END] = (struct ofi_queue){ .ns = ENDING_NS };
	prov->dialler = (struct gvm_dialler){ .host = prov->rma.host,
					      .up = prov->rma.up,
					      .failed = dial_failed };
	gvm_acceptors_init(&prov->acceptors, prov->rma.host, prov->rma.up, ofi_acceptor_accepted);
	prov->clock.ready = clock_ticks;
	prov->clock.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (prov->clock.fd < 0)
		return -errno;
	err = prov->rma.up->watch(prov->rma.host, &prov->clock, EPOLLIN);
	if (err)
		close(prov->clock.fd);
	return err;
}

void ofi_boot_close(struct ofi_prov *prov)
{
	gvm_dialler_close(&prov->dialler);
	gvm_acceptors_close(&prov->acceptors);
	prov->rma.up->unwatch(prov->rma.host, &prov->clock);
	close(prov->clock.fd);
}
