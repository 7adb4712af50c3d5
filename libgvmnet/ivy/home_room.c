/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Room in the directory. A page that some node has takes an entry for as long as it has it, so a
 * few that read much could take all there are, and everybody else would wait without end. When the
 * directory is nearly full the home takes pages back of which nothing is wanted, one after the
 * other around the directory, as sparse directories of hardware do: an owner's content is RECALLed,
 * and sharers are told to drop their copies. Who still needs it asks again.
 */
#include "ivy/internal.h"

#define SPARE 16u /* this part of it is kept free */
#define LOOKS 64u /* entries that one call looks at, at most */

/* Nothing is under way with it, and when it is home no entry says the same as this one. */
static int may_go(const struct ivy *ivy, const struct ivy_entry *e)
{
	return !(e->bits & (DIR_LOST | DIR_STALE)) && !ivy_txn_find(ivy, entry_page(e));
}

static struct ivy_entry *choose(struct ivy *ivy)
{
	uint32_t looks = ivy->dir.used < LOOKS ? ivy->dir.used : LOOKS;

	while (looks-- > 0) {
		uint32_t at = ivy->room_at < ivy->dir.used ? ivy->room_at : 0;
		struct ivy_entry *e = ivy_dir_at(ivy, at);

		ivy->room_at = at + 1;
		if (e && may_go(ivy, e))
			return e;
	}
	return NULL;
}

void ivy_room_make(struct ivy *ivy)
{
	struct ivy_entry *e;
	struct ivy_txn *t;
	uint64_t page;

	/* a home that was started anew has entries for what only its store has, too */
	if (ivy->rebuild)
		return;
	e = choose(ivy);
	t = e ? ivy_txn_get(ivy, entry_page(e), ivy_itself(ivy)) : NULL;
	if (!t)
		return;
	page = entry_page(e);
	ivy->stats.reclaimed++;
	if (e->owner == NOBODY && IVY_BUG(ROOM_EARLY)) {
		ivy_sharers_clear(ivy, e);
	} else if (e->owner == NOBODY) {
		ivy_write_nobody(ivy, t, e);
	} else {
		t->version = 0;
		ivy_recall_start(ivy, t, e, e->owner, 0);
	}
	ivy_home_advance(ivy, page);
}

void ivy_room_keep(struct ivy *ivy)
{
	uint32_t most = ivy->config.max_entries;

	/* where there is an entry for each page none is taken back: what is only at home dies with
	 * it */
	if (most < ivy->config.pages && ivy->dir.count > most - most / SPARE)
		ivy_room_make(ivy);
}
