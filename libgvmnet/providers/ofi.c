/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The ofi fabric: what libfabric's reliable datagram endpoints do, for rma.c. In this file the
 * worker's device, work and completions, sleeping, and memory. ofi.h has the other files.
 *
 * Work of connections that have ended stays with libfabric, whose endpoint goes on for the others:
 * it ends when it ends. A write is complete when the bytes are in the other side's memory
 * (FI_DELIVERY_COMPLETE). Writes are not overtaken by reads where the provider can promise that.
 *
 * Sleeping: the completion queue has a descriptor where the provider gives it one (tcp, verbs).
 * Where it has none (shm) a timer looks: each 50 us while there is something to wait for or there
 * was 10 ms ago, else each ms, as long as there are connections.
 */
#include "providers/ofi.h"

#include <endian.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define BATCH       16
#define POLL_MOST   64
#define CQ_SIZE     4096
#define NAP_BUSY_NS 50000l
#define NAP_IDLE_NS 1000000l
#define BUSY_NS     10000000ull
#define RENEW_NS    100000000l   /* between tries to open libfabric again */
#define STOP_NS     100000000ull /* for cells that are to leave before the end */
#define KEY_TRIES   16

/* docs/rdma.md, libfabric: what reads that are under way are given */
#define OFI_GRACE_MS  3000u
#define OFI_LINGER_MS 6000u
#define OFI_LATE_MS   5000u

int ofi_errno(ssize_t err)
{
	/* libfabric's own codes begin at 256; below they are errno's */
	return err > -256 ? (int)err : -EIO;
}

/* ---- the device ---------------------------------------------------------------------------- */

/* An endpoint on this machine only, or one that emulates what another provider does better: not for
 * who has not asked for it. */
static int is_last_choice(const char *provider)
{
	static const char *const last[] = { "shm", "sockets", "udp", "net", "tcp" };

	for (size_t i = 0; i < sizeof(last) / sizeof(last[0]); i++)
		if (strncmp(provider, last[i], strlen(last[i])) == 0)
			return strcmp(last[i], "tcp") == 0 ? 1 : 2;
	return 0;
}

struct fi_info *ofi_hints(const char *provider)
{
	struct fi_info *hints = fi_allocinfo();

	if (!hints)
		return NULL;
	hints->ep_attr->type = FI_EP_RDM;
	hints->caps = FI_MSG | FI_RMA;
	hints->mode = FI_CONTEXT | FI_CONTEXT2;
	hints->domain_attr->threading = FI_THREAD_DOMAIN;
	/* Either will do: a worker asks for completions as manual progress wants it, and asks
	 * fi_trywait() before it sleeps. To ask for automatic progress would have a provider make
	 * threads for it, to ask for manual would take from one what it has anyway. */
	hints->domain_attr->control_progress = FI_PROGRESS_UNSPEC;
	hints->domain_attr->data_progress = FI_PROGRESS_UNSPEC;
	/* shm takes the right to virtual addresses for one to reach memory past its registration,
	 * and past the end of that. */
	hints->domain_attr->mr_mode =
	    FI_MR_LOCAL | FI_MR_ALLOCATED | FI_MR_PROV_KEY | FI_MR_ENDPOINT;
	if (!provider || strncmp(provider, "shm", 3) != 0)
		hints->domain_attr->mr_mode |= FI_MR_VIRT_ADDR;
	hints->tx_attr->msg_order = hints->rx_attr->msg_order = FI_ORDER_SAS | FI_ORDER_RAW;
	if (provider) {
		hints->fabric_attr->prov_name = strdup(provider);
		if (!hints->fabric_attr->prov_name) {
			fi_freeinfo(hints);
			return NULL;
		}
	}
	return hints;
}

static int get_info(const char *provider, struct fi_info **list)
{
	struct fi_info *hints = ofi_hints(provider);
	int err;

	if (!hints)
		return -ENOMEM;
	err = fi_getinfo(OFI_VERSION, NULL, NULL, 0, hints, list);
	if (err == -FI_ENODATA) {
		/* a fetch may then overtake a put that is under way, which nobody was promised */
		hints->tx_attr->msg_order = hints->rx_attr->msg_order = FI_ORDER_SAS;
		err = fi_getinfo(OFI_VERSION, NULL, NULL, 0, hints, list);
	}
	fi_freeinfo(hints);
	return err == -FI_ENODATA ? -ENODEV : ofi_errno(err);
}

/* shm comes twice, and the one for memory of other devices than the CPU has no inject_size
 * (ofi_shm_cell()). */
static int is_better(const struct fi_info *i, int rank, const struct fi_info *best)
{
	const char *name = best->fabric_attr->prov_name;

	if (strcmp(i->fabric_attr->prov_name, name) == 0 && strncmp(name, "shm", 3) == 0)
		return i->tx_attr->inject_size > best->tx_attr->inject_size;
	return rank < is_last_choice(name);
}

/* The best of what there is: libfabric has it in its order. */
static const struct fi_info *choose(const struct fi_info *list, int asked)
{
	const struct fi_info *best = NULL;

	for (const struct fi_info *i = list; i; i = i->next) {
		int rank = asked ? 0 : is_last_choice(i->fabric_attr->prov_name);

		if (rank > 1 || strlen(i->fabric_attr->prov_name) >= 40)
			continue;
		if (!best || is_better(i, rank, best))
			best = i;
	}
	return best;
}

int ofi_is_repeated(const struct fi_info *list, const struct fi_info *entry)
{
	for (const struct fi_info *i = list; i != entry; i = i->next)
		if (!strcmp(i->fabric_attr->prov_name, entry->fabric_attr->prov_name))
			return 1;
	return 0;
}

/* Each name once. */
static void list_names(const struct fi_info *list, char *names, size_t room)
{
	size_t at = 0;

	names[0] = 0;
	for (const struct fi_info *i = list; i; i = i->next) {
		const char *name = i->fabric_attr->prov_name;
		int n;

		if (ofi_is_repeated(list, i))
			continue;
		n = snprintf(names + at, room - at, "%s%s", at ? ", " : "", name);
		if (n < 0 || (size_t)n >= room - at) {
			names[at] = 0; /* no half a name */
			return;
		}
		at += (size_t)n;
	}
}

/* A provider was asked for that is not there. */
static void tell_names(const char *provider)
{
	struct fi_info *list = NULL;
	char names[512];

	if (get_info(NULL, &list))
		list = NULL;
	list_names(list, names, sizeof(names));
	if (list)
		fi_freeinfo(list);
	gvm_log(GVM_LOG_ERROR,
		"transport ofi:%s: libfabric has no such provider that gvmnet could use; there %s: "
		"%s",
		provider, *names ? "are" : "is", *names ? names : "none");
}

static int find_device(const char *args, struct fi_info **out)
{
	const char *provider = *args ? args : NULL;
	const struct fi_info *best;
	struct fi_info *list;
	int err = get_info(provider, &list);

	if (err == -ENODEV && provider)
		tell_names(provider);
	if (err)
		return err;
	best = choose(list, provider != NULL);
	*out = best ? fi_dupinfo(best) : NULL;
	fi_freeinfo(list);
	if (!best)
		return -ENODEV;
	return *out ? 0 : -ENOMEM;
}

int ofi_probe(const char **why)
{
	struct fi_info *info;
	int err = find_device("", &info);

	if (err) {
		*why = "libfabric has no provider here that gvmnet could use (fi_info shows them)";
		return err;
	}
	fi_freeinfo(info);
	return 0;
}

static void close_fid(struct fid *fid)
{
	if (fid)
		fi_close(fid);
}

int ofi_try(struct fi_info *info)
{
	struct fi_cq_attr cq_attr = { .format = FI_CQ_FORMAT_MSG, .size = CQ_SIZE };
	struct fi_av_attr av_attr = { .type = FI_AV_UNSPEC };
	struct fid_fabric *fabric = NULL;
	struct fid_domain *domain = NULL;
	struct fid_cq *cq = NULL;
	struct fid_av *av = NULL;
	struct fid_ep *ep = NULL;
	int err = fi_fabric(info->fabric_attr, &fabric, NULL);

	if (!err)
		err = fi_domain(fabric, info, &domain, NULL);
	if (!err)
		err = fi_cq_open(domain, &cq_attr, &cq, NULL);
	if (!err)
		err = fi_av_open(domain, &av_attr, &av, NULL);
	if (!err)
		err = fi_endpoint(domain, info, &ep, NULL);
	if (!err)
		err = fi_ep_bind(ep, &av->fid, 0);
	if (!err)
		err = fi_ep_bind(ep, &cq->fid, FI_TRANSMIT | FI_RECV);
	if (!err)
		err = fi_enable(ep);
	close_fid(ep ? &ep->fid : NULL);
	close_fid(av ? &av->fid : NULL);
	close_fid(cq ? &cq->fid : NULL);
	close_fid(domain ? &domain->fid : NULL);
	close_fid(fabric ? &fabric->fid : NULL);
	return ofi_errno(err);
}

/* ---- work ---------------------------------------------------------------------------------- */

static ssize_t post_send(struct ofi_ep *ep, struct ofi_work *w)
{
	uint64_t to = htole64(ep->to);
	ssize_t err;

	memcpy(w->work.buf + 8, &to, sizeof(to));
	err = ofi_send(ep->port, ep->addr, w->work.buf, w->work.len, w->work.reg->local, &w->ctx);
	ep->sent += !err;
	return err;
}

static ssize_t post_write(struct ofi_ep *ep, struct ofi_work *w)
{
	struct gvm_rma_work *work = &w->work;
	struct iovec iov = { work->buf, work->len };
	struct fi_rma_iov to = { work->remote_addr, work->len, work->remote_key };
	void *desc = work->reg->local;
	struct fi_msg_rma msg = { .msg_iov = &iov,
				  .desc = &desc,
				  .iov_count = 1,
				  .addr = ep->addr->fi,
				  .rma_iov = &to,
				  .rma_iov_count = 1,
				  .context = &w->ctx };

	return fi_writemsg(ep->port->ep, &msg, FI_COMPLETION | FI_DELIVERY_COMPLETE);
}

static int ofi_post(struct gvm_rma_ep *gep, struct gvm_rma_work *work)
{
	struct ofi_ep *ep = (struct ofi_ep *)gep;
	struct ofi_work *w = (struct ofi_work *)work;
	ssize_t err;

	w->ctx.kind = OFI_CTX_WORK;
	w->addr = ep->addr;
	if (work->kind == GVM_RMA_SEND)
		err = post_send(ep, w);
	else if (work->kind == GVM_RMA_READ)
		err = fi_read(ep->port->ep, work->buf, work->len, work->reg->local, ep->addr->fi,
			      work->remote_addr, work->remote_key, &w->ctx);
	else
		err = post_write(ep, w);
	if (err == -FI_EAGAIN) {
		ofi_of(ep)->again = 1;
		return -EAGAIN;
	}
	if (err)
		return ofi_errno(err);
	w->addr->refs++;
	ofi_begin(ofi_of(ep), &w->ctx);
	return 0;
}

static void ofi_ring(struct gvm_rma *rma)
{
}

/* ---- completions --------------------------------------------------------------------------- */

static void work_done(struct ofi_prov *prov, struct ofi_ctx *ctx, int err)
{
	struct ofi_work *w = container_of(ctx, struct ofi_work, ctx);
	struct gvm_rma_ep *ep = w->work.ep;

	prov->sends -= w->work.kind == GVM_RMA_SEND;
	ofi_end(prov, ctx);
	ofi_addr_put(w->addr);
	gvm_rma_done(&w->work, err);
	if (err && ep)
		gvm_rma_broken(ep, -ECONNRESET, "libfabric could not reach the other side");
}

/* A cell, whoever it is for: one for a connection that has ended goes nowhere. */
static void cell_arrived(struct ofi_prov *prov, struct ofi_buf *buf, size_t len)
{
	struct rma_node *node = NULL;
	struct ofi_ep *ep;
	uint64_t id;

	if (len >= GVM_RMA_CELL_HDR) {
		memcpy(&id, buf->at + 8, sizeof(id));
		node = rma_table_find(&prov->ids, le64toh(id));
	}
	ep = node ? container_of(node, struct ofi_ep, node) : NULL;
	if (ep && ep->state == OFI_PATH && ep->listener) {
		ofi_path_open(ep);
	} else if (ep) {
		ep->received++;
		gvm_rma_cell(&ep->ep, buf->at, (uint32_t)len);
		if (ep->state == OFI_ENDING)
			ofi_check_ending(ep);
	}
	ofi_port_repost(buf);
}

static void path_done(struct ofi_buf *buf, int err)
{
	struct ofi_ep *ep = ofi_path_sent(buf);

	if (ep)
		ofi_path_done(ep, err);
}

static void take_error(struct ofi_prov *prov)
{
	struct fi_cq_err_entry e = { 0 };
	struct ofi_ctx *ctx;

	if (fi_cq_readerr(prov->cq, &e, 0) != 1 || !e.op_context)
		return;
	ctx = e.op_context;
	if (ctx->kind == OFI_CTX_WORK)
		work_done(prov, ctx, -EIO);
	else if (ctx->kind == OFI_CTX_PATH)
		path_done((struct ofi_buf *)ctx, -EIO);
	else
		ofi_port_repost((struct ofi_buf *)ctx);
}

/* Libfabric looks for what has come each time that it is asked for completions. */
static ssize_t read_cq(struct ofi_prov *prov, struct fi_cq_msg_entry e[BATCH])
{
	struct ofi_gate *gate = prov->ports ? prov->ports->gate : NULL;
	int err = gate ? ofi_gate_enter(gate) : 0;
	ssize_t n;

	if (err == -EAGAIN)
		prov->again = 1;
	else if (err)
		prov->spoiled = 1;
	if (err)
		return -FI_EAGAIN;
	n = fi_cq_read(prov->cq, e, BATCH);
	if (gate)
		ofi_gate_leave(gate);
	return n;
}

static ssize_t take_some(struct ofi_prov *prov)
{
	struct fi_cq_msg_entry e[BATCH];
	ssize_t n = read_cq(prov, e);

	if (n == -FI_EAVAIL) {
		take_error(prov);
		return 1;
	}
	for (ssize_t i = 0; i < n; i++) {
		struct ofi_ctx *ctx = e[i].op_context;

		if (ctx->kind == OFI_CTX_WORK)
			work_done(prov, ctx, 0);
		else if (ctx->kind == OFI_CTX_PATH)
			path_done((struct ofi_buf *)ctx, 0);
		else
			cell_arrived(prov, (struct ofi_buf *)ctx, e[i].len);
	}
	return n;
}

static void renew(struct ofi_prov *prov);
static void renew_again(struct ofi_prov *prov);

int ofi_poll(struct gvm_rma *rma)
{
	struct ofi_prov *prov = ofi_prov(rma);
	ssize_t n = 0, got;

	if (!prov->cq) {
		renew_again(prov);
		return 0;
	}
	if (prov->unposted)
		ofi_ports_post(prov);
	if (prov->paths)
		ofi_paths_try(prov);
	if (prov->looked) {
		prov->looked = 0;
		return 0;
	}
	do {
		got = take_some(prov);
		n += got > 0 ? got : 0;
	} while (got == BATCH && n < POLL_MOST);
	if (prov->spoiled)
		renew(prov);
	if (n)
		prov->busy_at = gvm_now();
	return (int)n;
}

/* ---- sleeping ------------------------------------------------------------------------------ */

/* Each look is a system call of libfabric's. After this one the next round need not have its own:
 * what is left (behind an error), or comes meanwhile, ofi_arm() finds, or the next look but one. */
static void cq_ready(struct gvm_watch *watch, uint32_t events)
{
	struct ofi_prov *prov = container_of(watch, struct ofi_prov, cq_watch);

	prov->looked = 0;
	prov->looked = ofi_poll(&prov->rma) < BATCH;
}

static void nap_over(struct gvm_watch *watch, uint32_t events)
{
	struct ofi_prov *prov = container_of(watch, struct ofi_prov, nap);
	uint64_t times;

	if (read(watch->fd, &times, sizeof(times)) == sizeof(times))
		ofi_poll(&prov->rma);
}

static void set_nap(struct ofi_prov *prov)
{
	int busy = gvm_now() - prov->busy_at < BUSY_NS;
	struct itimerspec when = { .it_value.tv_nsec = busy ? NAP_BUSY_NS : NAP_IDLE_NS };

	if (!prov->cq)
		when.it_value.tv_nsec = RENEW_NS;
	if (!prov->cq || (prov->conns && prov->ports) || prov->again)
		timerfd_settime(prov->nap.fd, 0, &when, NULL);
}

static int ofi_arm(struct gvm_rma *rma)
{
	struct ofi_prov *prov = ofi_prov(rma);
	struct fid *fids[] = { prov->cq ? &prov->cq->fid : NULL };

	/* libfabric does not tell when there is room, or a path to another endpoint */
	if (prov->again || prov->cq_watch.fd < 0)
		set_nap(prov);
	prov->again = 0;
	return prov->cq_watch.fd >= 0 && fi_trywait(prov->fabric, fids, 1) != FI_SUCCESS;
}

static int nap_open(struct ofi_prov *prov)
{
	int err;

	prov->nap.ready = nap_over;
	prov->nap.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (prov->nap.fd < 0)
		return -errno;
	err = prov->rma.up->watch(prov->rma.host, &prov->nap, EPOLLIN);
	if (err) {
		close(prov->nap.fd);
		prov->nap.fd = -1;
	}
	return err;
}

static int cq_open(struct ofi_prov *prov)
{
	struct fi_cq_attr attr = { .format = FI_CQ_FORMAT_MSG,
				   .wait_obj = FI_WAIT_FD,
				   .size = CQ_SIZE };
	int fd = -1;
	int err = fi_cq_open(prov->domain, &attr, &prov->cq, NULL);

	if (!err && !fi_control(&prov->cq->fid, FI_GETWAIT, &fd) && fd >= 0) {
		prov->cq_watch.fd = fd;
		prov->cq_watch.ready = cq_ready;
		err = prov->rma.up->watch(prov->rma.host, &prov->cq_watch, EPOLLIN);
		if (err)
			prov->cq_watch.fd = -1;
		return err;
	}
	if (!err)
		fi_close(&prov->cq->fid);
	prov->cq = NULL;
	attr.wait_obj = FI_WAIT_NONE;
	return ofi_errno(fi_cq_open(prov->domain, &attr, &prov->cq, NULL));
}

/* ---- memory -------------------------------------------------------------------------------- */

/* A key that nobody guesses, of as many bytes as the provider takes. */
static int draw_key(const struct ofi_prov *prov, uint64_t *key)
{
	size_t bytes = prov->info->domain_attr->mr_key_size;

	*key = 0;
	if (prov->info->domain_attr->mr_mode & FI_MR_PROV_KEY)
		return 0;
	if (bytes > sizeof(*key))
		bytes = sizeof(*key);
	return getrandom(key, bytes, 0) == (ssize_t)bytes ? 0 : -EIO;
}

static int bind_mr(struct ofi_prov *prov, struct ofi_port *port, struct fid_mr *mr)
{
	int err;

	if (!(prov->info->domain_attr->mr_mode & FI_MR_ENDPOINT))
		return 0;
	err = fi_mr_bind(mr, &port->ep->fid, 0);
	return err ? err : fi_mr_enable(mr);
}

static int reg_new(struct ofi_prov *prov, struct ofi_port *port, void *at, size_t len,
		   uint64_t access, struct fid_mr **mr)
{
	uint64_t key;
	int err = -FI_ENOKEY;

	/* a key may be taken where they are short */
	for (int i = 0; i < KEY_TRIES && err == -FI_ENOKEY; i++) {
		err = draw_key(prov, &key);
		if (!err)
			err = fi_mr_reg(prov->domain, at, len, access, 0, key, 0, mr, NULL);
	}
	if (err)
		return ofi_errno(err);
	err = bind_mr(prov, port, *mr);
	if (err)
		fi_close(&(*mr)->fid);
	return ofi_errno(err);
}

static uint64_t access_bits(unsigned access)
{
	if (!access)
		return FI_SEND | FI_RECV | FI_READ | FI_WRITE;
	return (access & GVM_ACCESS_FETCH ? FI_REMOTE_READ : 0) |
	       (access & GVM_ACCESS_PUT ? FI_REMOTE_WRITE : 0);
}

/* reg->local: the descriptor that local work names the memory by, reg->mr the registration. */
static int ofi_reg(struct gvm_rma *rma, struct gvm_rma_ep *ep, void *at, size_t len,
		   unsigned access, struct gvm_rma_reg *reg)
{
	struct ofi_prov *prov = ofi_prov(rma);
	int mode = prov->info->domain_attr->mr_mode;
	struct ofi_port *port = ep ? ((struct ofi_ep *)ep)->port : prov->ports;
	struct fid_mr *mr;
	int err;

	reg->len = len;
	/* A read or write whose registration has ended stops shm's way between the two for good. */
	if (access && ofi_is_shm(prov))
		return -EOPNOTSUPP;
	if (!access && !(mode & FI_MR_LOCAL))
		return 0;
	err = reg_new(prov, port, at, len, access_bits(access), &mr);
	if (err)
		return err;
	reg->mr = mr;
	reg->local = fi_mr_desc(mr);
	reg->key = fi_mr_key(mr);
	reg->base = mode & FI_MR_VIRT_ADDR ? (uintptr_t)at : 0;
	if (reg->key != FI_KEY_NOTAVAIL)
		return 0;
	/* keys that are longer than what MAPPED has room for */
	fi_close(&mr->fid);
	return -EOPNOTSUPP;
}

static void ofi_dereg(struct gvm_rma *rma, struct gvm_rma_reg *reg)
{
	struct fid_mr *mr = reg->mr;

	if (mr)
		fi_close(&mr->fid);
}

/* ---- the worker ---------------------------------------------------------------------------- */

/* Which machine this is, for providers that reach no other. */
static void name_machine(struct ofi_prov *prov)
{
	char text[64] = "";
	FILE *f;

	if (!ofi_is_shm(prov))
		return;
	f = fopen("/proc/sys/kernel/random/boot_id", "re");
	if (f && fgets(text, sizeof(text), f))
		for (unsigned i = 0, n = 0; text[i] && n < 32; i++)
			if (text[i] != '-' && text[i] != '\n') {
				unsigned digit = (unsigned)text[i] & 0xF;

				digit += text[i] > '9' ? 9 : 0;
				prov->machine[n / 2] |= (uint8_t)(digit << (n % 2 ? 0 : 4));
				n++;
			}
	if (f)
		fclose(f);
}

static int fabric_open(struct ofi_prov *prov)
{
	int err = ofi_errno(fi_fabric(prov->info->fabric_attr, &prov->fabric, NULL));

	if (!err)
		err = ofi_errno(fi_domain(prov->fabric, prov->info, &prov->domain, NULL));
	return err ? err : cq_open(prov);
}

static void fabric_close(struct ofi_prov *prov)
{
	if (prov->cq_watch.fd >= 0)
		prov->rma.up->unwatch(prov->rma.host, &prov->cq_watch);
	prov->cq_watch.fd = -1;
	close_fid(prov->cq ? &prov->cq->fid : NULL);
	close_fid(prov->domain ? &prov->domain->fid : NULL);
	close_fid(prov->fabric ? &prov->fabric->fid : NULL);
	prov->cq = NULL;
	prov->domain = NULL;
	prov->fabric = NULL;
}

/* What is under way will not be told to have ended: nobody may look for that any more. Cells have
 * been copied, or are read by others from memory that stays; who reads copies by itself. */
static void end_all(struct ofi_prov *prov)
{
	struct ofi_ctx *ctx;

	while ((ctx = prov->under_way))
		if (ctx->kind == OFI_CTX_WORK)
			work_done(prov, ctx, -EIO);
		else
			path_done((struct ofi_buf *)ctx, -EIO);
}

/* A process has died inside the region of this worker's port, which nobody can use any more: all
 * connections end, and the next ones have a port of their own. */
static void renew(struct ofi_prov *prov)
{
	int err;

	if (prov->ports) {
		gvm_log(GVM_LOG_WARN, "transport ofi: a process has died while it had a lock of "
				      "shared memory of this one: all connections over libfabric's "
				      "shm end, and are made again");
		ofi_conns_fail(prov, "a process has died inside libfabric's shm");
	}
	end_all(prov);
	ofi_ports_stop(prov);
	ofi_ports_free(prov);
	fabric_close(prov);
	err = fabric_open(prov);
	prov->spoiled = err != 0;
	if (!err)
		return;
	fabric_close(prov);
	if (!prov->renew_at)
		gvm_log(GVM_LOG_WARN,
			"transport ofi: libfabric's %.40s cannot be opened again (%s); it is tried "
			"until it can",
			prov->info->fabric_attr->prov_name, strerror(-err));
	prov->renew_at = gvm_now() + RENEW_NS;
}

/* It could not be opened: ofi_arm() has it tried again. */
static void renew_again(struct ofi_prov *prov)
{
	if (gvm_now() < prov->renew_at)
		return;
	renew(prov);
	if (prov->cq)
		prov->renew_at = 0;
}

static void device_close(struct ofi_prov *prov)
{
	ofi_ports_stop(prov);
	ofi_ports_free(prov);
	if (prov->nap.fd >= 0) {
		prov->rma.up->unwatch(prov->rma.host, &prov->nap);
		close(prov->nap.fd);
	}
	fabric_close(prov);
	fi_freeinfo(prov->info);
}

static int make_first_port(struct ofi_prov *prov)
{
	const struct sockaddr any = { .sa_family = AF_INET };
	struct ofi_port *port;
	int err = ofi_port_get(prov, &any, &port);

	if (err && ofi_is_verbs(prov->info))
		gvm_log(GVM_LOG_ERROR,
			"transport ofi: libfabric can make no endpoint of %.40s (%.40s): "
			"%s; " OFI_VERBS_ADVICE,
			prov->info->fabric_attr->prov_name, prov->info->domain_attr->name,
			strerror(-err));
	return err;
}

/* Is it a device that moves the bytes, and looks at the registration for each packet? Of those not
 * named here we do not know, which costs puts the short way. */
static int is_hardware(const struct fi_info *info)
{
	const char *name = info->fabric_attr->prov_name;

	return strncmp(name, "cxi", 3) == 0 || (ofi_is_verbs(info) && !strstr(name, "ofi_rxd"));
}

/* In software libfabric goes on with the message that it is in the middle of, whatever has become
 * of the registration. */
static void set_limits(struct ofi_prov *prov)
{
	if (ofi_is_shm(prov))
		prov->rma.cell = (uint32_t)ofi_shm_cell(prov->info);
	if (is_hardware(prov->info))
		return;
	prov->rma.no_writes = 1;
	prov->rma.hides_refusals = 1;
	prov->rma.grace_ms = OFI_GRACE_MS;
	prov->rma.linger_ms = OFI_LINGER_MS;
	prov->rma.late_ms = OFI_LATE_MS;
}

static int device_open(struct ofi_prov *prov, const char *args)
{
	int err = find_device(args, &prov->info);

	if (err)
		return err;
	set_limits(prov);
	name_machine(prov);
	err = fabric_open(prov);
	if (!err)
		err = nap_open(prov);
	/* what is registered for an endpoint wants one; or it shows that none can be made */
	if (!err &&
	    ((prov->info->domain_attr->mr_mode & FI_MR_ENDPOINT) || ofi_is_verbs(prov->info)))
		err = make_first_port(prov);
	return err;
}

static int ofi_open(struct gvm_rma *rma, const char *args)
{
	struct ofi_prov *prov = ofi_prov(rma);
	int err;

	prov->cq_watch.fd = prov->nap.fd = -1;
	err = device_open(prov, args);
	if (!err)
		err = ofi_boot_open(prov);
	if (err && prov->info)
		device_close(prov);
	return err;
}

/* What rxm has put off, as a queue of the device's was full, is to be done: an endpoint of verbs
 * that is closed before may take the process with it (1.17). */
static void rest(struct ofi_prov *prov, uint64_t end)
{
	struct pollfd p = { .fd = prov->cq_watch.fd, .events = POLLIN };

	for (int quiet = 0; quiet < 3 && gvm_now() < end; quiet++)
		if (ofi_poll(&prov->rma))
			quiet = 0;
		else
			poll(&p, prov->cq_watch.fd >= 0, 2);
}

/* Cells that were said before an orderly end leave first, if they can soon. */
static void ofi_stop(struct gvm_rma *rma)
{
	struct ofi_prov *prov = ofi_prov(rma);
	uint64_t end = gvm_now() + STOP_NS;
	struct pollfd p = { .fd = prov->cq_watch.fd, .events = POLLIN };

	while (prov->sends && gvm_now() < end)
		if (!ofi_poll(rma))
			poll(&p, prov->cq_watch.fd >= 0, 1);
	if (ofi_is_verbs(prov->info))
		rest(prov, end);
	ofi_ports_stop(prov);
}

static void ofi_close(struct gvm_rma *rma)
{
	struct ofi_prov *prov = ofi_prov(rma);

	ofi_boot_close(prov);
	device_close(prov);
	free(prov->ids.slot);
}

const struct gvm_rma_fabric ofi_fabric = {
	.name = "ofi",
	.what = "libfabric",
	.prov_size = sizeof(struct ofi_prov),
	.ep_size = sizeof(struct ofi_ep),
	.work_size = sizeof(struct ofi_work),
	.probe = ofi_probe,
	.open = ofi_open,
	.stop = ofi_stop,
	.close = ofi_close,
	.listen = ofi_listen,
	.unlisten = ofi_unlisten,
	.connect = ofi_connect,
	.receives = ofi_receives,
	.disconnect = ofi_disconnect,
	.post = ofi_post,
	.ring = ofi_ring,
	.poll = ofi_poll,
	.arm = ofi_arm,
	.reg = ofi_reg,
	.dereg = ofi_dereg,
};
