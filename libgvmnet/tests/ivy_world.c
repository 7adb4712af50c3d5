/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "ivy_world.h"

struct world W;
struct scenario scenario;
char violation[256];

void world_violated(const char *fmt, ...)
{
	va_list args;

	if (violation[0])
		return;
	va_start(args, fmt);
	vsnprintf(violation, sizeof(violation), fmt, args);
	va_end(args);
}

/* ---- memory -------------------------------------------------------------------------------- */

static void *take(size_t size)
{
	uint32_t class = (uint32_t)(size + 15) / 16, at;

	if (class >= CLASSES) {
		fprintf(stderr, "the world has no blocks of %zu bytes\n", size);
		abort();
	}
	at = W.free[class];
	if (at) {
		memcpy(&W.free[class], W.heap + at, sizeof(at));
		return W.heap + at;
	}
	at = W.used;
	W.used += class * 16;
	if (W.used > HEAP / 2)
		world_violated("more is under way than can be");
	if (W.used > HEAP)
		abort();
	return W.heap + at;
}

static void give(void *mem, size_t size)
{
	uint32_t class = (uint32_t)(size + 15) / 16, at = (uint32_t)((uint8_t *)mem - W.heap);

	memset(mem, 0xEE, size);
	memcpy(W.heap + at, &W.free[class], sizeof(at));
	W.free[class] = at;
}

size_t world_size(void)
{
	return offsetof(struct world, heap) + W.used;
}

/* ---- the environment of an engine ---------------------------------------------------------- */

static void *env_alloc(void *user, size_t size)
{
	return take(size);
}

static void env_free(void *user, void *mem, size_t size)
{
	give(mem, size);
}

static void env_send(void *user, uint16_t to, const struct gvm_hdr *h, const void *payload)
{
	struct world_node *n = user;
	struct packet *p, **at = &W.queue[n->id][to];

	if (n->link[to] != LINK_UP)
		world_violated("%d sends to %d, which is down", n->id, to);
	if (!W.node[to].ivy || n->view[to] < W.node[to].view[n->id])
		return; /* into a session that the other side has left */
	p = take(sizeof(*p) + h->length);
	p->next = NULL;
	p->session = n->view[to];
	p->size = (unsigned)sizeof(*p) + h->length;
	p->h = *h;
	if (h->length)
		memcpy(p->payload, payload, h->length);
	while (*at)
		at = &(*at)->next;
	*at = p;
}

static uint16_t env_home(void *user, uint64_t page)
{
	return (uint16_t)scenario.home[page];
}

static uint64_t env_nonce(void *user)
{
	struct world_node *n = user;

	return (0xA0ull + (unsigned)n->id) << 56 | ++n->nonce << 24;
}

static const void *env_copy_read(void *user, uint64_t page)
{
	struct world_node *n = user;

	if (!n->has_copy[page])
		world_violated("%d reads a copy that it does not have", n->id);
	return &n->copy[page];
}

static int env_copy_write(void *user, uint64_t page, const void *bytes)
{
	struct world_node *n = user;

	if (n->access[page])
		world_violated("%d overwrites a mapped page", n->id);
	n->copy[page] = 0;
	if (bytes)
		memcpy(&n->copy[page], bytes, PAGE_SIZE);
	n->has_copy[page] = 1;
	return 0;
}

static void env_copy_drop(void *user, uint64_t page)
{
	struct world_node *n = user;

	if (!n->has_copy[page] || n->access[page])
		world_violated("%d drops what it does not have, or has mapped", n->id);
	n->has_copy[page] = 0;
}

static void env_protect(void *user, uint64_t page, enum ivy_access access)
{
	struct world_node *n = user;

	if (access && !n->has_copy[page])
		world_violated("%d maps a copy that it does not have", n->id);
	n->access[page] = (uint8_t)access;
}

static const void *env_store_read(void *user, uint64_t page)
{
	struct world_node *n = user;

	return n->store[page] ? &n->store[page] : NULL;
}

static int env_store_write(void *user, uint64_t page, const void *bytes)
{
	struct world_node *n = user;

	n->store[page] = 0;
	if (bytes)
		memcpy(&n->store[page], bytes, PAGE_SIZE);
	return 0;
}

static void store(struct world_node *n, uint64_t page)
{
	n->copy[page] = ++W.last[page];
}

static void env_fault_done(void *user, uint64_t page, enum ivy_access access, int status)
{
	struct world_node *n = user;

	if (!n->waits[page])
		world_violated("%d: a fault ended that was not there", n->id);
	n->waits[page] = 0;
	if (status == -EIO && W.may_lose[page])
		return;
	if (status == -EHOSTDOWN && (W.home_gone[page] & 1 << n->id))
		return;
	if (status != 0)
		world_violated("%d: a fault on page %d failed: %d", n->id, (int)page, status);
	else if (n->access[page] < access)
		world_violated("%d: a fault ended without access", n->id);
	else if (access == IVY_WRITE)
		store(n, page);
}

static const struct ivy_env env = {
	.alloc = env_alloc,
	.free = env_free,
	.send = env_send,
	.home = env_home,
	.nonce = env_nonce,
	.copy_read = env_copy_read,
	.copy_write = env_copy_write,
	.copy_drop = env_copy_drop,
	.protect = env_protect,
	.store_read = env_store_read,
	.store_write = env_store_write,
	.fault_done = env_fault_done,
};

/* ---- beginnings and ends ------------------------------------------------------------------- */

static void node_start(struct world_node *n)
{
	struct ivy_config config = {
		.env = &env,
		.user = n,
		.region = 7,
		.pages = (uint64_t)scenario.pages,
		.page_size = PAGE_SIZE,
		.epoch = 1,
		.self = (uint16_t)n->id,
		.nodes = (uint16_t)scenario.nodes,
		.max_entries = 16,
		.max_txns = 16,
		.max_waiters = 64,
		.max_pages = 16,
		.max_relays = 16,
		.retry_ns = 100,
		.round_ns = 100,
	};

	if (ivy_new(&config, &n->ivy) != 0)
		abort();
}

/* Forget what is on its way in sessions before this one; ~0: all. */
static void purge(int from, int to, unsigned before)
{
	struct packet **at = &W.queue[from][to], *p;

	while ((p = *at)) {
		if (p->session >= before) {
			at = &p->next;
			continue;
		}
		*at = p->next;
		give(p, p->size);
	}
}

static void new_session(int a, int b)
{
	W.session[a][b]++;
	W.session[b][a]++;
}

/* What a page loses by the death of this node. */
static void note_death(struct world_node *n, int page)
{
	const struct ivy_page *p = ivy_page_find(n->ivy, (uint64_t)page);

	if (p && (p->want == IVY_WRITE || p->flags & WANT_MORE || p->state > PAGE_SHARED))
		W.may_lose[page] = 1;
}

static void crash(struct world_node *n)
{
	int i;

	for (i = 0; i < scenario.pages; i++) {
		note_death(n, i);
		n->access[i] = n->waits[i] = n->has_copy[i] = 0;
		n->store[i] = 0;
		if (scenario.home[i] == n->id)
			W.home_gone[i] = 0xFF;
	}
	ivy_free(n->ivy);
	n->ivy = NULL;
	n->reads = n->writes = 0;
	for (i = 0; i < scenario.nodes; i++) {
		if (i == n->id)
			continue;
		purge(i, n->id, ~0u);
		new_session(i, n->id);
	}
}

static void restart(struct world_node *n)
{
	int i;

	n->restarted = 1;
	n->reads = n->writes = 1;
	node_start(n);
	for (i = 0; i < scenario.nodes; i++) {
		n->view[i] = W.session[n->id][i];
		n->link[i] = LINK_UP;
		n->buried[i] = 0;
	}
}

/* The node has lost its home for so long that it is fenced; the home may bury it from now on. */
static void bury(struct world_node *n, struct world_node *home)
{
	int i;

	for (i = 0; i < scenario.pages; i++) {
		if (scenario.home[i] == home->id) {
			note_death(n, i);
			W.home_gone[i] |= (uint8_t)(1 << n->id);
		}
		if (scenario.home[i] == n->id)
			W.home_gone[i] |= (uint8_t)(1 << home->id);
	}
	new_session(n->id, home->id);
	n->link[home->id] = LINK_DEAD;
	n->buried[home->id] = home->buried[n->id] = 1;
	purge(home->id, n->id, ~0u);
	ivy_peer_dead(n->ivy, (uint16_t)home->id);
}

/* ---- actions ------------------------------------------------------------------------------- */

static int deliverable(int from, int to)
{
	const struct packet *p = W.queue[from][to];
	const struct world_node *n = &W.node[to];

	return p && n->ivy && n->link[from] == LINK_UP && p->session == n->view[from];
}

static void deliver(int from, int to)
{
	struct packet *p = W.queue[from][to];
	int status;

	W.queue[from][to] = p->next;
	status = ivy_receive(W.node[to].ivy, (uint16_t)from, &p->h, p->payload);
	if (status != 0)
		world_violated("%d refuses %s of %d: %d", to, gvm_coh_name(p->h.type), from,
			       status);
	give(p, p->size);
}

struct list {
	struct action *at;
	int count;
};

static void add(struct list *l, enum kind kind, int a, int b, int page)
{
	if (l->count < ACTIONS_MAX)
		l->at[l->count++] =
		    (struct action){ (uint8_t)kind, (uint8_t)a, (uint8_t)b, (uint8_t)page };
}

static int dead_to(int a, int b)
{
	return !W.node[b].ivy || W.node[b].restarted || W.node[a].buried[b];
}

/* What a may notice of b. */
static void add_notices(struct list *l, int a, int b)
{
	const struct world_node *n = &W.node[a];

	if (n->link[b] != LINK_DEAD && n->view[b] != W.session[a][b] && dead_to(a, b))
		add(l, DO_DEAD, a, b, 0);
	else if (n->link[b] == LINK_UP && n->view[b] != W.session[a][b])
		add(l, DO_LOST, a, b, 0);
	else if (n->link[b] == LINK_LOST && !dead_to(a, b))
		add(l, DO_BACK, a, b, 0);
	else if (n->link[b] == LINK_DEAD && W.node[b].ivy && !n->buried[b])
		add(l, DO_BACK, a, b, 0);
}

static void add_network(struct list *l, int faults)
{
	int a, b;

	for (a = 0; a < scenario.nodes; a++)
		for (b = 0; b < scenario.nodes; b++) {
			if (a == b)
				continue;
			if (deliverable(a, b))
				add(l, DO_DELIVER, a, b, 0);
			if (W.node[a].ivy)
				add_notices(l, a, b);
			if (faults && a < b && W.left.resets > 0 && W.node[a].ivy &&
			    W.node[b].ivy && W.node[a].link[b] == LINK_UP &&
			    W.node[b].link[a] == LINK_UP &&
			    W.node[a].view[b] == W.node[b].view[a] &&
			    W.node[a].view[b] == W.session[a][b])
				add(l, DO_RESET, a, b, 0);
		}
}

static void add_program(struct list *l, const struct world_node *n, int page)
{
	const struct ivy_page *p = ivy_page_find(n->ivy, (uint64_t)page);

	if (n->access[page] == IVY_WRITE && W.left.stores > 0)
		add(l, DO_STORE, n->id, 0, page);
	if (W.left.evicts > 0 && n->access[page] && p && !p->want)
		add(l, DO_EVICT, n->id, 0, page);
	if (n->waits[page] || n->link[scenario.home[page]] == LINK_DEAD)
		return;
	if (n->reads > 0 && n->access[page] < IVY_READ)
		add(l, DO_READ, n->id, 0, page);
	if (n->writes > 0 && n->access[page] < IVY_WRITE)
		add(l, DO_WRITE, n->id, 0, page);
}

static void add_node(struct list *l, const struct world_node *n)
{
	int page, home = scenario.home[0];

	if (!n->ivy) {
		if (W.left.restarts > 0)
			add(l, DO_RESTART, n->id, 0, 0);
		return;
	}
	for (page = 0; page < scenario.pages; page++)
		add_program(l, n, page);
	if (W.left.crashes > 0 && scenario.crash_mask >> n->id & 1)
		add(l, DO_CRASH, n->id, 0, 0);
	if (W.left.burials > 0 && n->id != home && W.node[home].ivy && n->link[home] == LINK_UP &&
	    W.node[home].link[n->id] == LINK_UP && n->view[home] == W.session[n->id][home])
		add(l, DO_BURY, n->id, home, 0);
	if (W.left.early_ticks > 0)
		add(l, DO_EARLY_TICK, n->id, 0, 0);
}

int world_quiet(void)
{
	struct action actions[ACTIONS_MAX];
	struct list l = { actions, 0 };

	add_network(&l, 0);
	return l.count == 0;
}

int world_open(void)
{
	int i;

	for (i = 0; i < scenario.nodes; i++)
		if (W.node[i].ivy &&
		    (W.node[i].ivy->open || W.node[i].ivy->txn_list || W.node[i].ivy->relays.count))
			return 1;
	return 0;
}

int world_actions(struct action *out)
{
	struct list l = { out, 0 };
	int i;

	add_network(&l, 1);
	for (i = 0; i < scenario.nodes; i++)
		add_node(&l, &W.node[i]);
	if (world_quiet() && world_open())
		add(&l, DO_TICK, 0, 0, 0);
	return l.count;
}

static void tick(struct world_node *n)
{
	W.now += 1 << 20;
	ivy_tick(n->ivy, W.now);
}

static void tick_all(void)
{
	int i;

	for (i = 0; i < scenario.nodes; i++)
		if (W.node[i].ivy)
			tick(&W.node[i]);
}

static void fault(struct world_node *n, int page, enum ivy_access access)
{
	int status;

	if (access == IVY_WRITE)
		n->writes--;
	else
		n->reads--;
	n->waits[page] = (uint8_t)access;
	status = ivy_fault(n->ivy, (uint64_t)page, access);
	if (status != 1)
		world_violated("%d: ivy_fault() is %d", n->id, status);
}

static void lose_link(struct world_node *n, int peer)
{
	n->link[peer] = LINK_LOST;
	purge(peer, n->id, W.session[n->id][peer]);
	ivy_peer_lost(n->ivy, (uint16_t)peer);
}

static void regain_link(struct world_node *n, int peer)
{
	n->link[peer] = LINK_UP;
	n->view[peer] = W.session[n->id][peer];
	purge(peer, n->id, W.session[n->id][peer]);
	ivy_peer_back(n->ivy, (uint16_t)peer);
}

static void mourn(struct world_node *n, int peer)
{
	n->link[peer] = LINK_DEAD;
	n->view[peer] = W.session[n->id][peer];
	purge(peer, n->id, W.session[n->id][peer]);
	ivy_peer_dead(n->ivy, (uint16_t)peer);
}

static void do_fault_of_nature(const struct action *a, struct world_node *n)
{
	switch (a->kind) {
	case DO_RESET:
		W.left.resets--;
		new_session(a->a, a->b);
		break;
	case DO_CRASH:
		W.left.crashes--;
		crash(n);
		break;
	case DO_RESTART:
		W.left.restarts--;
		restart(n);
		break;
	case DO_BURY:
		W.left.burials--;
		bury(n, &W.node[a->b]);
		break;
	case DO_EARLY_TICK:
		W.left.early_ticks--;
		tick(n);
		break;
	default:
		tick_all();
	}
}

void world_do(const struct action *a)
{
	struct world_node *n = &W.node[a->a];

	switch (a->kind) {
	case DO_DELIVER:
		deliver(a->a, a->b);
		break;
	case DO_READ:
	case DO_WRITE:
		fault(n, a->page, a->kind == DO_READ ? IVY_READ : IVY_WRITE);
		break;
	case DO_STORE:
		W.left.stores--;
		store(n, a->page);
		break;
	case DO_EVICT:
		W.left.evicts--;
		ivy_evict(n->ivy, a->page);
		break;
	case DO_LOST:
		lose_link(n, a->b);
		break;
	case DO_BACK:
		regain_link(n, a->b);
		break;
	case DO_DEAD:
		mourn(n, a->b);
		break;
	default:
		do_fault_of_nature(a, n);
	}
	world_check();
}

/* Time passes when nothing else can happen and there is something open. */
int world_fair_step(struct action *a)
{
	struct action actions[ACTIONS_MAX];
	int count = world_actions(actions), i, best = -1;

	for (i = 0; i < count; i++) {
		int kind = actions[i].kind;

		if (kind == DO_DELIVER || kind == DO_LOST || kind == DO_BACK || kind == DO_DEAD)
			best = best < 0 || kind != DO_DELIVER ? i : best;
		else if (kind == DO_TICK && best < 0)
			best = i;
	}
	if (best >= 0)
		*a = actions[best];
	return best >= 0;
}

/* The nodes of the scenario that share page 0 from the start read it. */
static void share(const struct scenario *s)
{
	struct action a;
	int i;

	for (i = 0; i < s->nodes; i++) {
		if (!(s->shared >> i & 1))
			continue;
		W.node[i].reads++;
		fault(&W.node[i], 0, IVY_READ);
		while (world_fair_step(&a))
			world_do(&a);
	}
}

void world_begin(const struct scenario *s)
{
	int i;

	memset(&W, 0, sizeof(W));
	violation[0] = 0;
	scenario = *s;
	W.left = *s;
	W.used = 16;
	for (i = 0; i < s->nodes; i++) {
		W.node[i].id = i;
		W.node[i].reads = s->reads[i];
		W.node[i].writes = s->writes[i];
		node_start(&W.node[i]);
	}
	share(s);
}

/* ---- what must be so ----------------------------------------------------------------------- */

void world_check(void)
{
	int page, i;

	for (page = 0; page < scenario.pages; page++) {
		int readers = 0, writers = 0;

		for (i = 0; i < scenario.nodes; i++) {
			const struct world_node *n = &W.node[i];

			if (!n->ivy || !n->access[page])
				continue;
			readers++;
			writers += n->access[page] == IVY_WRITE;
			if (n->access[page] != ivy_page_access(n->ivy, (uint64_t)page))
				world_violated("%d has another access than the engine thinks", i);
			if (n->copy[page] != W.last[page])
				world_violated("%d may read %llu of page %d, written was %llu", i,
					       (unsigned long long)n->copy[page], page,
					       (unsigned long long)W.last[page]);
		}
		if (writers && readers > 1)
			world_violated("page %d has %d writers, %d readers", page, writers,
				       readers);
	}
}

static void check_page_at_rest(int page)
{
	const struct world_node *home = &W.node[scenario.home[page]];
	struct ivy_view v;
	int i;

	ivy_home_view(home->ivy, (uint64_t)page, &v);
	if (v.busy || v.stale)
		world_violated("page %d is %s at rest", page, v.busy ? "busy" : "stale");
	if (v.owner == NOBODY && !v.lost && !W.home_gone[page] && home->store[page] != W.last[page])
		world_violated("at rest the backing copy of page %d is old", page);
	if (v.lost && !W.may_lose[page])
		world_violated("page %d is lost for no reason", page);
	for (i = 0; i < scenario.nodes; i++) {
		const struct world_node *n = &W.node[i];
		const struct ivy_page *p = n->ivy ? ivy_page_find(n->ivy, (uint64_t)page) : NULL;

		if (v.owner == i && (!p || (p->state != PAGE_OWNED && p->state != PAGE_EXCL) ||
				     p->version != v.version))
			world_violated("%d is not the owner that the home thinks", i);
		if (p && p->state != PAGE_SHARED && v.owner != i)
			world_violated("%d is an owner and the home does not know", i);
		if (p && p->state == PAGE_SHARED &&
		    (!ivy_home_has(home->ivy, (uint64_t)page, (uint16_t)i) ||
		     p->version != v.version))
			world_violated("%d shares page %d and the home does not know", i, page);
	}
}

void world_check_rest(void)
{
	int page, i;

	for (i = 0; i < scenario.nodes; i++)
		for (page = 0; page < scenario.pages; page++)
			if (W.node[i].waits[page])
				world_violated("%d waits for page %d for ever", i, page);
	for (page = 0; page < scenario.pages; page++)
		if (W.node[scenario.home[page]].ivy)
			check_page_at_rest(page);
}

/* ---- states -------------------------------------------------------------------------------- */

#define WORDS_MAX 4096

struct words {
	uint64_t at[WORDS_MAX];
	unsigned count;
};

static void put(void *to, uint64_t word)
{
	struct words *w = to;

	if (w->count == WORDS_MAX)
		abort();
	w->at[w->count++] = word;
}

/* A random id, or a version or round: the counter began with a quarter of one. */
static int is_id(uint64_t word)
{
	return word >> 56 >= 0xA0 && word >> 56 < 0xA0 + NODES_MAX;
}

static int is_count(uint64_t word)
{
	return word >> 56 >= 0x28 && word >> 56 < 0x28 + 1;
}

/* Of ids only matters which are equal: number them as they appear. */
static void rename_ids(struct words *w)
{
	uint64_t ids[256];
	unsigned known = 0, i, k;

	for (i = 0; i < w->count; i++) {
		if (!is_id(w->at[i]))
			continue;
		for (k = 0; k < known && ids[k] != w->at[i]; k++)
			;
		if (k == known && known < 256)
			ids[known++] = w->at[i];
		w->at[i] = 0xABull << 56 | k;
	}
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Of versions only matters which is greater: number them by rank. */
static void rename_counts(struct words *w)
{
	uint64_t all[512];
	unsigned n = 0, i, k, rank;

	for (i = 0; i < w->count && n < 512; i++)
		if (is_count(w->at[i]))
			all[n++] = w->at[i];
	qsort(all, n, sizeof(all[0]), compare);
	for (i = 0; i < w->count; i++) {
		if (!is_count(w->at[i]))
			continue;
		for (k = 0, rank = 0; k < n && all[k] != w->at[i]; k++)
			rank += k == 0 || all[k] != all[k - 1];
		w->at[i] = 0xACull << 56 | rank;
	}
}

static void put_packets(struct words *w)
{
	const struct packet *p;
	int a, b;

	for (a = 0; a < scenario.nodes; a++)
		for (b = 0; b < scenario.nodes; b++)
			for (p = W.queue[a][b]; p; p = p->next) {
				uint64_t bytes = 0, more = 0;

				memcpy(&bytes, p->payload, p->h.length < 8 ? p->h.length : 8);
				if (p->h.length > 8)
					memcpy(&more, p->payload + 8,
					       p->h.length < 16 ? p->h.length - 8 : 8);
				put(w, (uint64_t)a << 40 | (uint64_t)b << 32 | p->h.type << 16 |
					   p->h.flags << 8 | p->h.status);
				put(w, p->h.page << 32 | (W.session[a][b] - p->session));
				put(w, p->h.xid);
				put(w, p->h.arg);
				put(w, bytes);
				put(w, more);
			}
}

static void put_node(struct words *w, const struct world_node *n)
{
	int i;

	put(w, (uint64_t)(n->ivy != NULL) | (uint64_t)n->reads << 8 | (uint64_t)n->writes << 16 |
		   (uint64_t)n->restarted << 24);
	for (i = 0; i < scenario.nodes; i++)
		put(w, (uint64_t)n->link[i] | (uint64_t)n->buried[i] << 8 |
			   (uint64_t)(W.session[n->id][i] - n->view[i]) << 16);
	for (i = 0; i < scenario.pages; i++) {
		put(w, (uint64_t)n->access[i] | (uint64_t)n->waits[i] << 8 |
			   (uint64_t)n->has_copy[i] << 16);
		put(w, n->has_copy[i] ? n->copy[i] : 0);
		put(w, n->store[i]);
	}
	if (n->ivy)
		ivy_snapshot(n->ivy, put, w);
}

uint64_t world_hash(void)
{
	static struct words w;
	uint64_t h = 0x9e3779b97f4a7c15ull;
	unsigned i;

	w.count = 0;
	put(&w, (uint64_t)W.left.evicts | (uint64_t)W.left.stores << 8 |
		    (uint64_t)W.left.resets << 16 | (uint64_t)W.left.crashes << 24 |
		    (uint64_t)W.left.restarts << 32 | (uint64_t)W.left.burials << 40 |
		    (uint64_t)W.left.early_ticks << 48);
	for (i = 0; i < (unsigned)scenario.pages; i++)
		put(&w, W.last[i] << 16 | (uint64_t)W.may_lose[i] << 8 | W.home_gone[i]);
	for (i = 0; i < (unsigned)scenario.nodes; i++)
		put_node(&w, &W.node[i]);
	put_packets(&w);
	rename_ids(&w);
	rename_counts(&w);
	for (i = 0; i < w.count; i++) {
		h = (h ^ w.at[i]) * 0xff51afd7ed558ccdull;
		h ^= h >> 32;
	}
	return h ? h : 1;
}

/* ---- words --------------------------------------------------------------------------------- */

void world_print(const struct action *a, const char *more)
{
	static const char *const names[] = { "deliver", "read", "write", "store",     "evict",
					     "reset",   "lost", "back",  "dead",      "crash",
					     "restart", "bury", "tick",  "early tick" };

	fprintf(stderr, "  %-10s %d %d page %d %s\n", names[a->kind], a->a, a->b, a->page, more);
}
