/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which RDMA devices there are, whether they can be used, what they can do: for probe, for gvm
 * info, and to choose the one that a worker opens.
 */
#include "providers/verbs.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define GIDS 256

static const char no_device[] =
    "there is no RDMA device; soft-RoCE makes one: rdma link add rxe0 type rxe netdev eth0";
static const char no_manager[] =
    "the kernel's RDMA connection manager cannot be opened: modprobe rdma_ucm, and let this user "
    "open /dev/infiniband/rdma_cm";
static const char no_access[] =
    "no RDMA device can be opened: modprobe ib_uverbs, and let this user open /dev/infiniband";
static const char no_port[] = "no port of an RDMA device is active (rdma link shows them)";

/* ---- devices and ports --------------------------------------------------------------------- */

static int is_active(struct ibv_context *context, unsigned port)
{
	struct ibv_port_attr attr;

	return !ibv_query_port(context, (uint8_t)port, &attr) && attr.state == IBV_PORT_ACTIVE;
}

/* What a connection takes that a device may not have; NULL: it has all of that. */
static const char *lacks(const struct ibv_context *context, const struct ibv_device_attr *attr)
{
	int transport = context->device->transport_type;

	if (transport != IBV_TRANSPORT_IB && transport != IBV_TRANSPORT_IWARP)
		return "it has no reliable connections (it is neither InfiniBand, RoCE nor iWARP)";
	if (attr->max_qp_wr < (int)VERBS_SENDS || attr->max_cqe < (int)VERBS_ENTRIES)
		return "its queues are too short for one connection";
	if (attr->max_qp_rd_atom < 1 || attr->max_qp_init_rd_atom < 1)
		return "it has no RDMA reads";
	return NULL;
}

/*
 * What keeps "auto" from it besides. No iWARP but the kernel's own in software was there to be
 * tried, and its ports are TCP's: a node could not listen with tcp at the same one.
 */
static const char *not_for_auto(const struct ibv_context *context)
{
	return context->device->transport_type == IBV_TRANSPORT_IWARP
		   ? "it is iWARP, which is used when it is asked for (GVM_TRANSPORT=verbs)"
		   : NULL;
}

/* Whether a worker may open it unasked; else *why. */
static int is_usable(struct ibv_context *context, int automatic, const char **why)
{
	struct ibv_device_attr attr;

	if (ibv_query_device(context, &attr)) {
		*why = no_access;
		return 0;
	}
	*why = lacks(context, &attr);
	if (!*why && automatic)
		*why = not_for_auto(context);
	for (unsigned port = 1; !*why && port <= attr.phys_port_cnt; port++)
		if (is_active(context, port))
			return 1;
	if (!*why)
		*why = no_port;
	return 0;
}

/*
 * After a fork the parent's pinned pages must stay its own. Newer kernels see to that by
 * themselves; older ones want the pages kept out of children, which must be asked for before the
 * first is pinned.
 */
static void fork_init(void)
{
	int err = ibv_is_fork_initialized() == IBV_FORK_UNNEEDED ? 0 : ibv_fork_init();

	if (err)
		gvm_log(GVM_LOG_WARN,
			"the program had opened RDMA devices before: a fork may harm its transfers "
			"(%s)",
			strerror(err));
}

static void fork_safely(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, fork_init);
}

static int manager_there(void)
{
	struct rdma_event_channel *channel = rdma_create_event_channel();

	if (!channel)
		return 0;
	rdma_destroy_event_channel(channel);
	return 1;
}

/* The first one that can be used, opened; else NULL and *why of the last. */
static struct ibv_context *first_usable(int automatic, const char **why)
{
	struct ibv_device **list;
	struct ibv_context *context = NULL;
	int n = 0;

	fork_safely();
	list = ibv_get_device_list(&n);
	*why = n ? no_access : no_device;
	for (int i = 0; list && i < n && !context; i++) {
		context = ibv_open_device(list[i]);
		if (!context || is_usable(context, automatic, why))
			continue;
		ibv_close_device(context);
		context = NULL;
	}
	if (list)
		ibv_free_device_list(list);
	return context;
}

int verbs_probe(const char **why)
{
	struct ibv_context *context = first_usable(0, why);

	if (!context)
		return -ENODEV;
	ibv_close_device(context);
	if (manager_there())
		return 0;
	*why = no_manager;
	return -ENODEV;
}

/* By trying: who is root may lie within a container, and the limit does not bind who may lock. */
static int can_pin(struct ibv_context *context, size_t len)
{
	struct ibv_pd *pd = ibv_alloc_pd(context);
	void *at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct ibv_mr *mr = NULL;

	if (pd && at != MAP_FAILED)
		mr = ibv_reg_mr(pd, at, len, IBV_ACCESS_LOCAL_WRITE);
	if (mr)
		ibv_dereg_mr(mr);
	if (at != MAP_FAILED)
		munmap(at, len);
	if (pd)
		ibv_dealloc_pd(pd);
	return mr != NULL;
}

int verbs_suits(const char **why)
{
	static _Thread_local char text[160];
	struct ibv_context *context = first_usable(1, why);
	struct rlimit limit = { .rlim_cur = RLIM_INFINITY };
	int err = 0;

	if (!context)
		return -ENODEV;
	getrlimit(RLIMIT_MEMLOCK, &limit);
	if (limit.rlim_cur < VERBS_PINNED && !can_pin(context, VERBS_PINNED)) {
		snprintf(text, sizeof(text),
			 "this process may lock %llu KiB, RDMA may want %u MiB for each thread; "
			 "raise that (ulimit -l, LimitMEMLOCK=infinity in a unit)",
			 (unsigned long long)limit.rlim_cur >> 10, VERBS_PINNED >> 20);
		*why = text;
		err = -ENOMEM;
	} else if (!manager_there()) {
		*why = no_manager;
		err = -ENODEV;
	}
	ibv_close_device(context);
	return err;
}

/* ---- the worker's -------------------------------------------------------------------------- */

/* "[DEVICE][:PORT[:GID]]" */
static int parse(struct verbs *v, const char *args)
{
	size_t n = strcspn(args, ":");
	unsigned long value;
	char *end;

	v->gid = -1;
	v->automatic = strcmp(args, GVM_PROVIDER_AUTO) == 0;
	if (v->automatic)
		return 0;
	if (n >= sizeof(v->device))
		return -EINVAL;
	memcpy(v->device, args, n);
	v->device[n] = 0;
	if (!args[n])
		return 0;
	if (args[n + 1] < '0' || args[n + 1] > '9' || !n)
		return -EINVAL;
	value = strtoul(args + n + 1, &end, 10);
	if (value < 1 || value > 255 || (*end && *end != ':'))
		return -EINVAL;
	v->port = (unsigned)value;
	if (!*end)
		return 0;
	if (end[1] < '0' || end[1] > '9')
		return -EINVAL;
	value = strtoul(end + 1, &end, 10);
	if (value > 65535 || *end)
		return -EINVAL;
	v->gid = (int)value;
	return 0;
}

/* On-demand paging, for what peers do to memory here. */
static int pages_on_demand(struct ibv_context *context)
{
	const uint32_t both = IBV_ODP_SUPPORT_READ | IBV_ODP_SUPPORT_WRITE;
	struct ibv_device_attr_ex attr = { 0 };

	return !ibv_query_device_ex(context, NULL, &attr) &&
	       (attr.odp_caps.general_caps & IBV_ODP_SUPPORT) &&
	       (attr.odp_caps.per_transport_caps.rc_odp_caps & both) == both;
}

/* Places of a port's table that hold nothing are read as zeros from some devices. */
static int has_gid(const struct verbs *v, struct ibv_context *context, int len)
{
	static const union ibv_gid none;
	union ibv_gid gid;

	return v->gid < len && !ibv_query_gid(context, (uint8_t)v->port, v->gid, &gid) &&
	       memcmp(&gid, &none, sizeof(gid)) != 0;
}

/* What is asked of a port by whoever names one. */
static int adopt_port(struct verbs *v, struct ibv_context *context)
{
	struct ibv_port_attr port;

	if (v->port > v->attr.phys_port_cnt || ibv_query_port(context, (uint8_t)v->port, &port)) {
		gvm_log(verbs_level(v, GVM_LOG_ERROR), "%s has no port %u", v->device, v->port);
		return -ENODEV;
	}
	if (port.state != IBV_PORT_ACTIVE) {
		gvm_log(verbs_level(v, GVM_LOG_ERROR), "port %u of %s is not active", v->port,
			v->device);
		return -ENETDOWN;
	}
	if (v->gid >= 0 && !has_gid(v, context, port.gid_tbl_len)) {
		gvm_log(verbs_level(v, GVM_LOG_ERROR), "port %u of %s has no GID %d", v->port,
			v->device, v->gid);
		return -ENODEV;
	}
	v->gid_is_address = v->gid >= 0 && port.link_layer == IBV_LINK_LAYER_ETHERNET &&
			    context->device->transport_type != IBV_TRANSPORT_IWARP;
	return 0;
}

/* Whether any port of the device is active. */
static int is_up(const struct verbs *v, struct ibv_context *context)
{
	for (unsigned port = 1; port <= v->attr.phys_port_cnt; port++)
		if (is_active(context, port))
			return 1;
	gvm_log(verbs_level(v, GVM_LOG_ERROR), "no port of %s is active (rdma link shows them)",
		v->device);
	return 0;
}

/* Whoever is refused here has been told why. */
static int adopt(struct verbs *v, struct ibv_context *context)
{
	const char *missing;
	int err = 0;

	snprintf(v->device, sizeof(v->device), "%s", ibv_get_device_name(context->device));
	if (ibv_query_device(context, &v->attr)) {
		gvm_log(verbs_level(v, GVM_LOG_ERROR), "%s does not say what it can do: %s",
			v->device, strerror(errno));
		return -EIO;
	}
	missing = lacks(context, &v->attr);
	if (missing) {
		gvm_log(verbs_level(v, GVM_LOG_ERROR), "%s cannot be used: %s", v->device, missing);
		return -EOPNOTSUPP;
	}
	if (v->port)
		err = adopt_port(v, context);
	else if (!is_up(v, context))
		err = -ENETDOWN;
	if (err)
		return err;
	v->iwarp = context->device->transport_type == IBV_TRANSPORT_IWARP;
	v->siw = v->iwarp && v->attr.vendor_id == VERBS_SIW;
	/* check_ack() of rxe_comp.c, 6.1: a refusal behind some of a read's bytes is taken for a
	 * packet out of sequence, and the read ends with the status that it has, "success". */
	v->rma.hides_refusals = v->siw || (!v->iwarp && v->attr.vendor_id == VERBS_RXE);
	/* What siw has answered lies in TCP's queue as references to memory: who is to get it gets
	 * what is there when TCP sends it, registered or not. So it waits until the reader has
	 * given up, not only until it is late. */
	v->rma.grace_ms = v->siw ? (unsigned)gvm_option_number("GVM_OP_TIMEOUT_MS") + 2000 : 0;
	v->on_demand = gvm_option_number("GVM_VERBS_ODP") && pages_on_demand(context);
	v->context = context;
	return 0;
}

/* The one that is named, or the first one with an active port; one that has come back has such.
 * Whoever gets none has been told why. */
static int choose(struct verbs *v, struct ibv_device **list, int n)
{
	struct ibv_context *context;
	const char *why = n ? no_access : no_device;
	int err = -ENODEV, named = *v->device != 0;

	for (int i = 0; i < n && err; i++) {
		if (named && strcmp(v->device, ibv_get_device_name(list[i])))
			continue;
		context = ibv_open_device(list[i]);
		if (!context) {
			if (!named)
				continue;
			err = errno ? -errno : -ENODEV;
			gvm_log(verbs_level(v, GVM_LOG_ERROR), "%s cannot be opened: %s", v->device,
				strerror(-err));
			return err;
		}
		if ((named && !v->gone) || is_usable(context, v->automatic, &why))
			err = adopt(v, context);
		if (err)
			ibv_close_device(context);
		if (named)
			return err;
	}
	if (err && named)
		gvm_log(verbs_level(v, GVM_LOG_ERROR),
			"there is no RDMA device %s (rdma link shows them)", v->device);
	else if (err && why)
		gvm_log(verbs_level(v, GVM_LOG_ERROR), "no RDMA device can be used: %s", why);
	return err;
}

int verbs_device_reopen(struct verbs *v)
{
	struct ibv_device **list;
	int n = 0, err;

	list = ibv_get_device_list(&n);
	if (!list) {
		gvm_log(verbs_level(v, GVM_LOG_ERROR), "no RDMA device can be used: %s", no_device);
		return -ENODEV;
	}
	err = choose(v, list, n);
	ibv_free_device_list(list);
	return err;
}

int verbs_device_open(struct verbs *v, const char *args)
{
	int err = parse(v, args);

	if (err) {
		gvm_log(GVM_LOG_ERROR,
			"verbs:%s is not legal: it may be verbs:DEVICE[:PORT[:GID]], such as "
			"verbs:rxe0:1:1",
			args);
		*v->device = 0;
		return err;
	}
	fork_safely();
	return verbs_device_reopen(v);
}

/* ---- addresses ----------------------------------------------------------------------------- */

/* RoCE has a GID for each address of the interface. */
static socklen_t address_of(const union ibv_gid *gid, int family, struct sockaddr_storage *sa)
{
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)sa;
	struct sockaddr_in *in = (struct sockaddr_in *)sa;
	struct in6_addr a;
	int v4;

	memcpy(&a, gid->raw, sizeof(a));
	v4 = IN6_IS_ADDR_V4MAPPED(&a);
	if (v4 != (family == AF_INET) || IN6_IS_ADDR_UNSPECIFIED(&a) || IN6_IS_ADDR_LINKLOCAL(&a))
		return 0;
	memset(sa, 0, sizeof(*sa));
	sa->ss_family = (sa_family_t)family;
	if (v4) {
		memcpy(&in->sin_addr, gid->raw + 12, 4);
		return sizeof(*in);
	}
	in6->sin6_addr = a;
	return sizeof(*in6);
}

int verbs_own_address(const struct verbs *v, int family, struct sockaddr_storage *sa,
		      socklen_t *len)
{
	union ibv_gid gid;

	*len = 0;
	if (!v->gid_is_address)
		return 0; /* it is the routing table that chooses */
	if (!ibv_query_gid(v->context, (uint8_t)v->port, v->gid, &gid))
		*len = address_of(&gid, family, sa);
	return *len ? 0 : -EADDRNOTAVAIL;
}

/* ---- for gvm info -------------------------------------------------------------------------- */

struct to {
	void (*line)(void *arg, unsigned depth, const char *text);
	void *arg;
};

static void tell(const struct to *to, unsigned depth, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void tell(const struct to *to, unsigned depth, const char *fmt, ...)
{
	char text[256];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	to->line(to->arg, depth, text);
}

static const char *kind_of(uint32_t gid_type)
{
	switch (gid_type) {
	case IBV_GID_TYPE_ROCE_V2:
		return "RoCE v2";
	case IBV_GID_TYPE_ROCE_V1:
		return "RoCE v1";
	default:
		return "InfiniBand";
	}
}

static void describe_gids(const struct to *to, struct ibv_context *context, unsigned port)
{
	struct ibv_gid_entry *list = calloc(GIDS, sizeof(*list));
	char address[INET6_ADDRSTRLEN], interface[IF_NAMESIZE];
	ssize_t n = list ? ibv_query_gid_table(context, list, GIDS, 0) : 0;

	for (ssize_t i = 0; i < n; i++) {
		if (list[i].port_num != port)
			continue;
		inet_ntop(AF_INET6, list[i].gid.raw, address, sizeof(address));
		if (!list[i].ndev_ifindex || !if_indextoname(list[i].ndev_ifindex, interface))
			snprintf(interface, sizeof(interface), "-");
		tell(to, 2, "GID %u: %s, %s, interface %s", list[i].gid_index, address,
		     context->device->transport_type == IBV_TRANSPORT_IWARP
			 ? "iWARP"
			 : kind_of(list[i].gid_type),
		     interface);
	}
	free(list);
}

static void describe_port(const struct to *to, struct ibv_context *context, unsigned port)
{
	struct ibv_port_attr attr;

	if (ibv_query_port(context, (uint8_t)port, &attr)) {
		tell(to, 1, "port %u: cannot be asked", port);
		return;
	}
	tell(to, 1, "port %u: %s%s, MTU %u of %u, %s", port, ibv_port_state_str(attr.state),
	     attr.state == IBV_PORT_ACTIVE ? "" : " (cannot be used)", 128u << attr.active_mtu,
	     128u << attr.max_mtu,
	     attr.link_layer == IBV_LINK_LAYER_ETHERNET ? "Ethernet" : "InfiniBand");
	describe_gids(to, context, port);
}

static void describe_device(const struct to *to, struct ibv_device *device)
{
	struct ibv_context *context = ibv_open_device(device);
	struct ibv_device_attr attr;
	const char *missing;
	char longest[32];

	if (!context || ibv_query_device(context, &attr)) {
		tell(to, 0, "%s: cannot be opened: %s", ibv_get_device_name(device),
		     strerror(errno));
		if (context)
			ibv_close_device(context);
		return;
	}
	tell(to, 0, "%s: %s, firmware %s", ibv_get_device_name(device),
	     ibv_node_type_str(device->node_type), *attr.fw_ver ? attr.fw_ver : "-");
	missing = lacks(context, &attr);
	if (missing)
		tell(to, 1, "cannot be used: %s", missing);
	else if (not_for_auto(context))
		tell(to, 1, "not for auto: %s", not_for_auto(context));
	if (attr.max_mr_size == UINT64_MAX)
		snprintf(longest, sizeof(longest), "any length");
	else
		snprintf(longest, sizeof(longest), "%llu bytes",
			 (unsigned long long)attr.max_mr_size);
	tell(to, 1,
	     "limits: %d queue pairs of %d requests, %d completion queues of %d, %d reads at a "
	     "time, %d registrations of %s",
	     attr.max_qp, attr.max_qp_wr, attr.max_cq, attr.max_cqe, attr.max_qp_rd_atom,
	     attr.max_mr, longest);
	if (pages_on_demand(context))
		tell(to, 1, "on-demand paging%s",
		     gvm_option_number("GVM_VERBS_ODP") ? "" : " (GVM_VERBS_ODP: not used)");
	for (unsigned port = 1; port <= attr.phys_port_cnt; port++)
		describe_port(to, context, port);
	ibv_close_device(context);
}

void verbs_describe(void (*line)(void *arg, unsigned depth, const char *text), void *arg)
{
	const struct to to = { line, arg };
	struct ibv_device **list;
	int n = 0;

	fork_safely();
	list = ibv_get_device_list(&n);
	for (int i = 0; list && i < n; i++)
		describe_device(&to, list[i]);
	if (list)
		ibv_free_device_list(list);
}
