// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * A node of the self-test: what its engine acts through, and a program that uses its pages. Each
 * page that is given to the program is compared with what was written to it last, by whomever.
 */
#include "selftest_internal.h"

/* ---- memory, all of it counted ------------------------------------------------------------- */

void *st_alloc(struct st_world *w, size_t size)
{
	void *mem = NULL;

	if (!w->short_of_memory || st_below(w, 256) != 0) {
		mem = w->test->host->alloc(NULL, size);
		w->real_shortage |= !mem;
	}
	if (!mem) {
		w->test->no_memory++;
		return NULL;
	}
	w->blocks++;
	w->bytes += size;
	if (w->bytes > w->test->peak)
		w->test->peak = w->bytes;
	return memset(mem, 0xA5, size); /* nobody may rely on zeros */
}

void st_free(struct st_world *w, void *mem, size_t size)
{
	if (w->test->bug == SELFTEST_BUG_LEAK && !w->leaked && st_below(w, 256) == 0) {
		w->leaked = mem;
		w->leaked_size = size;
		return;
	}
	w->blocks--;
	w->bytes -= size;
	w->test->host->free(NULL, mem, size);
}

static void *env_alloc(void *user, size_t size)
{
	return st_alloc(((struct st_node *)user)->world, size);
}

static void env_free(void *user, void *mem, size_t size)
{
	st_free(((struct st_node *)user)->world, mem, size);
}

static void drop(struct st_world *w, uint8_t **bytes)
{
	if (*bytes)
		st_free(w, *bytes, ST_PAGE);
	*bytes = NULL;
}

static int keep(struct st_world *w, uint8_t **bytes, const void *from)
{
	if (!*bytes)
		*bytes = st_alloc(w, ST_PAGE);
	if (!*bytes)
		return -ENOMEM;
	if (from)
		memcpy(*bytes, from, ST_PAGE);
	else
		memset(*bytes, 0, ST_PAGE);
	return 0;
}

/* ---- contents ------------------------------------------------------------------------------ */

uint64_t st_sum(const uint8_t *bytes)
{
	uint64_t sum = ST_PAGE, word = 0;
	uint32_t at;

	for (at = 0; at < ST_PAGE; at += sizeof(word)) {
		if (bytes)
			memcpy(&word, bytes + at, sizeof(word));
		sum = (sum ^ word) * 0xff51afd7ed558ccdull;
		sum ^= sum >> 32;
	}
	return sum;
}

static void store_word(struct st_world *w, uint8_t *bytes, uint32_t at)
{
	uint64_t word = st_draw(w);

	memcpy(bytes + at, &word, sizeof(word));
}

/* The program writes: nothing but zeros, all of the page, or a few words of it. */
static void store(struct st_node *n, uint64_t page)
{
	struct st_world *w = n->world;
	uint8_t *bytes = n->copy[page].bytes;
	uint32_t how = st_below(w, 8), at;

	if (how == 0)
		memset(bytes, 0, ST_PAGE);
	else if (how == 1)
		for (at = 0; at < ST_PAGE; at += 8)
			store_word(w, bytes, at);
	else
		for (; how; how--)
			store_word(w, bytes, 8 * st_below(w, ST_PAGE / 8));
	w->page[page].sum = st_sum(bytes);
}

static void compare(struct st_node *n, uint64_t page)
{
	const struct st_copy *c = &n->copy[page];

	if (!c->bytes)
		st_fail(n->world, "node %u has page %u mapped and no copy of it", n->id,
			(unsigned)page);
	else if (st_sum(c->bytes) != n->world->page[page].sum)
		st_fail(n->world, "node %u reads of page %u what is not what was written last",
			n->id, (unsigned)page);
}

/* ---- what the engine acts through ---------------------------------------------------------- */

static void env_send(void *user, uint16_t to, const struct gvm_hdr *h, const void *payload)
{
	st_send(user, to, h, payload);
}

static uint16_t env_home(void *user, uint64_t page)
{
	return st_home_of(page);
}

static uint64_t env_nonce(void *user)
{
	return st_draw(((struct st_node *)user)->world);
}

static const void *env_copy_read(void *user, uint64_t page)
{
	static const uint8_t zeros[ST_PAGE];
	struct st_node *n = user;

	if (!n->copy[page].bytes)
		st_fail(n->world, "node %u sends of page %u what it does not have", n->id,
			(unsigned)page);
	return n->copy[page].bytes ? n->copy[page].bytes : zeros;
}

static int env_copy_write(void *user, uint64_t page, const void *bytes)
{
	struct st_node *n = user;

	if (n->copy[page].access)
		st_fail(n->world, "node %u overwrites page %u, which is mapped", n->id,
			(unsigned)page);
	return keep(n->world, &n->copy[page].bytes, bytes);
}

static void env_copy_drop(void *user, uint64_t page)
{
	struct st_node *n = user;
	struct st_copy *c = &n->copy[page];

	if (!c->bytes || c->access)
		st_fail(n->world, "node %u drops page %u, which it does not have or has mapped",
			n->id, (unsigned)page);
	drop(n->world, &c->bytes);
}

static void count_access(struct st_truth *t, uint8_t access, int by)
{
	t->readers += access == IVY_READ ? (uint32_t)by : 0;
	t->writers += access == IVY_WRITE ? (uint32_t)by : 0;
}

static void env_protect(void *user, uint64_t page, enum ivy_access access)
{
	struct st_node *n = user;
	struct st_world *w = n->world;
	struct st_truth *t = &w->page[page];
	struct st_copy *c = &n->copy[page];

	if (w->test->bug == SELFTEST_BUG_UNMAP && access < c->access && st_below(w, 64) == 0)
		return;
	count_access(t, c->access, -1);
	c->access = (uint8_t)access;
	count_access(t, c->access, 1);
	if (t->writers > 1 || (t->writers && t->readers))
		st_fail(w, "page %u has %u writers and %u readers", (unsigned)page, t->writers,
			t->readers);
	if (access)
		compare(n, page);
}

static const void *env_store_read(void *user, uint64_t page)
{
	return ((struct st_node *)user)->store[page];
}

/* An error here is a page that is lost: so there is none on purpose. */
static int env_store_write(void *user, uint64_t page, const void *bytes)
{
	struct st_node *n = user;
	struct st_world *w = n->world;
	int on_purpose = w->short_of_memory, status;

	w->short_of_memory = 0;
	status = keep(w, &n->store[page], bytes);
	w->short_of_memory = on_purpose;
	if (status != 0)
		w->page[page].may_be_lost = w->page[page].not_stored = 1;
	return status;
}

/* ---- the program --------------------------------------------------------------------------- */

static void use(struct st_node *n, uint64_t page, enum ivy_access access)
{
	if (n->copy[page].access < access)
		st_fail(n->world, "node %u has page %u without the access that it was given", n->id,
			(unsigned)page);
	else if (access == IVY_WRITE)
		store(n, page);
	else
		compare(n, page);
}

static int may_fail(const struct st_node *n, uint64_t page, int status)
{
	if (status == -EIO)
		return n->world->page[page].may_be_lost;
	return status == -EHOSTDOWN && n->peer[st_home_of(page)].link == ST_DEAD;
}

static void env_fault_done(void *user, uint64_t page, enum ivy_access access, int status)
{
	struct st_node *n = user;
	struct st_copy *c = &n->copy[page];

	if (!(c->waits & access))
		st_fail(n->world, "node %u: a fault on page %u ended that was not there", n->id,
			(unsigned)page);
	c->waits &= access == IVY_WRITE ? 0 : (uint8_t)~IVY_READ;
	if (status == 0)
		use(n, page, access);
	else if (!may_fail(n, page, status))
		st_fail(n->world, "node %u: a fault on page %u failed: %d", n->id, (unsigned)page,
			status);
}

static const struct ivy_env env = IVY_ENV(env_);

void st_node_access(struct st_node *n, uint64_t page, enum ivy_access access)
{
	struct st_world *w = n->world;
	struct st_copy *c = &n->copy[page];
	int status;

	if (c->waits & access)
		return;
	c->waits |= (uint8_t)access;
	status = ivy_fault(n->ivy, page, access);
	if (status == 1) {
		w->test->faults++;
		return;
	}
	c->waits &= (uint8_t)~access;
	if (status == 0)
		use(n, page, access);
	else if (!may_fail(n, page, status) &&
		 (status != -ENOMEM || !(w->short_of_memory || w->real_shortage)))
		st_fail(w, "node %u: ivy_fault() on page %u is %d", n->id, (unsigned)page, status);
}

void st_node_evict(struct st_node *n, uint64_t page)
{
	int has = n->copy[page].access != IVY_NONE, status = ivy_evict(n->ivy, page);

	n->world->test->evictions += status == 0 && has;
	if (status != 0 && status != -EBUSY)
		st_fail(n->world, "node %u: ivy_evict() of page %u is %d", n->id, (unsigned)page,
			status);
}

/* ---- beginning and end --------------------------------------------------------------------- */

/* Where memory is short, limits are low too. */
int st_node_start(struct st_node *n)
{
	int low = n->world->short_of_memory, status;
	struct ivy_config config = {
		.env = &env,
		.user = n,
		.region = 0x67696e74,
		.pages = ST_PAGES,
		.page_size = ST_PAGE,
		.epoch = 1,
		.self = n->id,
		.nodes = ST_NODES,
		.max_entries = 4 * ST_PAGES,
		.max_txns = ST_PAGES,
		.max_waiters = low ? ST_NODES : ST_NODES * ST_PAGES,
		.max_pages = ST_PAGES,
		.max_relays = low ? 1 : ST_PAGES,
		.max_old = low ? 2 : ST_PAGES / 2, /* a delta's base may be gone when it comes */
		/* some 600 steps: also what is only slow is now and then asked for again */
		.retry_ns = 6000,
		.round_ns = 24000,
	};

	n->world->short_of_memory = 0;
	status = ivy_new(&config, &n->ivy);
	n->world->short_of_memory = low;
	return status;
}

static void sum_up(struct selftest *t, const struct st_node *n)
{
	struct ivy_stats stats;

	ivy_stats(n->ivy, &stats);
	t->repeated += stats.repeated;
	t->invalidated += stats.invalidated;
	if (stats.refused || stats.stale)
		st_fail(n->world, "node %u has refused %u messages, and taken %u for stale", n->id,
			(unsigned)stats.refused, (unsigned)stats.stale);
}

void st_node_end(struct st_node *n)
{
	struct st_world *w = n->world;
	uint32_t i;

	if (!n->ivy)
		return;
	sum_up(w->test, n);
	ivy_free(n->ivy);
	n->ivy = NULL;
	for (i = 0; i < ST_PAGES; i++) {
		count_access(&w->page[i], n->copy[i].access, -1);
		drop(w, &n->copy[i].bytes);
		drop(w, &n->store[i]);
		n->copy[i].access = n->copy[i].waits = 0;
	}
}
