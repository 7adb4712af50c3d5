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
	if (world_is_mute(n->id, h))
		return;
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

/* The page after so many stores: the k-th has written k into word k % WORDS. */
static const void *page_of(uint64_t content)
{
	static uint64_t words[WORDS];
	uint64_t k;

	memset(words, 0, sizeof(words));
	for (k = content < WORDS ? 1 : content - WORDS + 1; k <= content; k++)
		words[k % WORDS] = k;
	return words;
}

/* After how many stores it is this page; ~0: it is none. */
static uint64_t content_of(const void *bytes)
{
	uint64_t words[WORDS], most = 0;
	unsigned i;

	memcpy(words, bytes, sizeof(words));
	for (i = 0; i < WORDS; i++)
		if (words[i] > most)
			most = words[i];
	return most < 1u << 20 && memcmp(page_of(most), words, sizeof(words)) == 0 ? most : ~0ull;
}

static const void *env_copy_read(void *user, uint64_t page)
{
	struct world_node *n = user;

	if (!n->has_copy[page])
		world_violated("%d reads a copy that it does not have", n->id);
	return page_of(n->copy[page]);
}

static int env_copy_write(void *user, uint64_t page, const void *bytes)
{
	struct world_node *n = user;

	if (n->access[page])
		world_violated("%d overwrites a mapped page", n->id);
	n->copy[page] = bytes ? content_of(bytes) : 0;
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
	if (access < n->pinned[page] && n->link[scenario.home[page]] != LINK_DEAD)
		world_violated("%d loses what it has pinned", n->id);
	if (access < n->pinned[page])
		n->pinned[page] = 0;
	n->access[page] = (uint8_t)access;
}

static const void *env_store_read(void *user, uint64_t page)
{
	struct world_node *n = user;

	return n->store[page] ? page_of(n->store[page]) : NULL;
}

static int env_store_write(void *user, uint64_t page, const void *bytes)
{
	struct world_node *n = user;

	n->store[page] = bytes ? content_of(bytes) : 0;
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

static void env_reserve(void *user, uint64_t from, uint64_t upto)
{
	struct world_node *n = user;

	if (!n->high)
		n->low = from;
	n->high = upto;
}

static struct ivy_env env = IVY_ENV(env_);

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
		.max_entries = scenario.entries ? scenario.entries : 16,
		.max_txns = 16,
		.max_waiters = 64,
		.max_pages = 16,
		.max_relays = 16,
		.retry_ns = 100,
		.round_ns = 100,
		.max_old = scenario.old,
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

	if (p && p->state != PAGE_NONE && world_unsettled(scenario.home[page]))
		W.may_lose[page] = 1;
	if (p && (p->want == IVY_WRITE || p->flags & WANT_MORE || p->state > PAGE_SHARED))
		W.may_lose[page] = 1;
}

static void crash(struct world_node *n)
{
	int i;

	for (i = 0; i < scenario.pages; i++) {
		note_death(n, i);
		n->access[i] = n->waits[i] = n->has_copy[i] = n->pinned[i] = 0;
		n->store[i] = 0;
		if (scenario.home[i] == n->id && !world_rebuilds(n->id))
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

	n->restarted = !world_rebuilds(n->id);
	n->life++;
	n->reads = n->writes = !world_rebuilds(n->id);
	node_start(n);
	if (world_rebuilds(n->id) && ivy_rebuild_begin(n->ivy, n->low, n->high) != 0)
		abort();
	for (i = 0; i < scenario.nodes; i++) {
		n->view[i] = W.session[n->id][i];
		n->link[i] = LINK_UP;
		if (!world_rebuilds(n->id)) {
			n->buried[i] = 0;
		} else if (i != n->id) { /* nobody is there yet */
			n->link[i] = LINK_LOST;
			ivy_peer_lost(n->ivy, (uint16_t)i);
			if (W.node[i].ivy && !n->buried[i])
				continue;
			n->link[i] = LINK_DEAD;
			ivy_peer_dead(n->ivy, (uint16_t)i);
		}
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

/* twice: it stays, and is delivered once more before what is behind it. */
static void deliver(int from, int to, int twice)
{
	struct packet *p = W.queue[from][to];
	int status;

	if (!twice)
		W.queue[from][to] = p->next;
	status = ivy_receive(W.node[to].ivy, (uint16_t)from, &p->h, p->payload);
	if (status != 0)
		world_violated("%d refuses %s of %d: %d", to, gvm_coh_name(p->h.type), from,
			       status);
	if (!twice)
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
	if (world_rebuilds(b) && !W.node[b].ivy && W.left.restarts > 0)
		return 0; /* it may come back in time */
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
	else if (n->link[b] == LINK_LOST && !dead_to(a, b) && W.node[b].ivy)
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
			if (faults && W.left.twice > 0 && deliverable(a, b))
				add(l, DO_TWICE, a, b, 0);
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
	if (W.left.pins > 0 && n->access[page] && !n->pinned[page])
		add(l, DO_PIN, n->id, 0, page);
	if (n->pinned[page])
		add(l, DO_UNPIN, n->id, 0, page);
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
		if (W.left.restarts > 0 && (!scenario.rebuild || world_is_home(n->id)))
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
	if (W.left.burials > 0 && world_rebuilds(home) && n->link[home] == LINK_LOST)
		add(l, DO_BURY, n->id, home, 0);
	for (page = 0; page < scenario.nodes; page++)
		if (world_may_expel(n->id, page))
			add(l, DO_EXPEL, page, n->id, 0);
	if (world_may_rebuild(n->id))
		add(l, DO_REBUILT, n->id, 0, 0);
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
		    ((W.node[i].ivy->rebuild && W.node[i].ivy->rebuild->phase == REBUILD_SERVES) ||
		     W.node[i].ivy->open || W.node[i].ivy->txn_list || W.node[i].ivy->relays.count))
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
	if (!world_rebuilds(peer) || n->knows[peer] == W.node[peer].life)
		ivy_peer_back(n->ivy, (uint16_t)peer);
	else if (ivy_home_reborn(n->ivy, (uint16_t)peer) != 0)
		abort();
	n->knows[peer] = W.node[peer].life;
}

static void mourn(struct world_node *n, int peer)
{
	int page;

	for (page = 0; page < scenario.pages; page++)
		if (world_rebuilds(peer) && scenario.home[page] == peer)
			W.home_gone[page] |= (uint8_t)(1 << n->id);
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
	case DO_EXPEL:
		bury(n, &W.node[a->b]);
		break;
	case DO_REBUILT:
		world_rebuild(n);
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
		deliver(a->a, a->b, 0);
		break;
	case DO_TWICE:
		W.left.twice--;
		deliver(a->a, a->b, 1);
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
		/* it does not know yet that the home has nothing any more */
		if (world_rebuilds(scenario.home[a->page]) &&
		    (!W.node[scenario.home[a->page]].ivy ||
		     n->knows[scenario.home[a->page]] != W.node[scenario.home[a->page]].life))
			W.may_lose[a->page] = 1;
		ivy_evict(n->ivy, a->page);
		break;
	case DO_PIN:
		W.left.pins--;
		if (ivy_pin(n->ivy, a->page, n->access[a->page]) == 0)
			n->pinned[a->page] = n->access[a->page];
		break;
	case DO_UNPIN:
		n->pinned[a->page] = 0;
		ivy_unpin(n->ivy, a->page);
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

		if (kind == DO_DELIVER || kind == DO_LOST || kind == DO_BACK || kind == DO_DEAD ||
		    kind == DO_REBUILT || (kind == DO_RESTART && scenario.rebuild))
			best = best < 0 || kind != DO_DELIVER ? i : best;
		else if (kind == DO_UNPIN && (best < 0 || actions[best].kind == DO_TICK))
			best = i;
		else if (kind == DO_EXPEL && (best < 0 || actions[best].kind == DO_TICK))
			best = i;
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
	env.reserve = env_reserve;
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
	if (v.owner == NOBODY && !v.lost && (scenario.rebuild || !W.home_gone[page]) &&
	    home->store[page] != W.last[page])
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
	struct ivy_stats stats;
	int page, i;

	for (i = 0; i < scenario.nodes; i++) {
		if (!W.node[i].ivy)
			continue;
		ivy_stats(W.node[i].ivy, &stats);
		if (stats.refused)
			world_violated("%d has refused something", i);
	}

	for (i = 0; i < scenario.nodes; i++)
		for (page = 0; page < scenario.pages; page++)
			if (W.node[i].waits[page])
				world_violated("%d waits for page %d for ever", i, page);
	for (page = 0; page < scenario.pages; page++)
		if (W.node[scenario.home[page]].ivy)
			check_page_at_rest(page);
}

/* ---- words --------------------------------------------------------------------------------- */

void world_print(const struct action *a, const char *more)
{
	static const char *const names[] = { "deliver", "read",  "write", "store",      "evict",
					     "reset",   "lost",  "back",  "dead",       "crash",
					     "restart", "bury",  "tick",  "early tick", "rebuilt",
					     "pin",     "unpin", "expel", "twice" };

	fprintf(stderr, "  %-10s %d %d page %d %s\n", names[a->kind], a->a, a->b, a->page, more);
}
