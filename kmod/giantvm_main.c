// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * giantvm.ko: the coherence engine in the kernel. It tests itself when it is loaded, and is loaded
 * only if it passes; more it does not do yet (docs/kmod.md).
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include "giantvm_env.h"
#include "selftest.h"

#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/sched/signal.h>

static unsigned long long selftest_seed = 1;
module_param(selftest_seed, ullong, 0444);
MODULE_PARM_DESC(selftest_seed, "seed of the self-test; 0: drawn at random (default 1)");

static unsigned int selftest_steps = 24000;
module_param(selftest_steps, uint, 0444);
MODULE_PARM_DESC(selftest_steps, "length of the self-test in events; 0: none (default 24000)");

static char *selftest_bug = "none";
module_param(selftest_bug, charp, 0444);
MODULE_PARM_DESC(selftest_bug,
		 "a fault for the self-test to find, which then fails: flip, unmap, order, "
		 "leak (default none)");

/* Others have their turn, and who loads the module can end it. */
static int selftest_pause(void)
{
	cond_resched();
	return fatal_signal_pending(current);
}

static const struct selftest_host host = {
	.alloc = giantvm_alloc,
	.free = giantvm_free,
	.pause = selftest_pause,
};

static void report(const struct selftest *t, int status, s64 ms)
{
	if (t->error[0])
		pr_err("self-test FAILED in cluster %u: %s\n", t->rounds, t->error);
	else if (status != 0)
		pr_err("self-test did not come to its end: %d\n", status);
	else
		pr_info("self-test passed: seed %llu, %u clusters, at most %llu bytes, %lld ms\n",
			t->seed, t->rounds, t->peak, ms);
	pr_info(
	    "%llu messages, %llu pages sent, %llu faults, %llu evictions, %llu connections broken, "
	    "%llu nodes died\n",
	    t->messages, t->pages_sent, t->faults, t->evictions, t->breaks, t->deaths);
	if (status != 0)
		pr_err("to repeat it: selftest_seed=%llu selftest_steps=%u selftest_bug=%s\n",
		       t->seed, t->steps, selftest_bug_name(t->bug));
}

static int run_selftest(void)
{
	struct selftest t = { .host = &host, .seed = selftest_seed, .steps = selftest_steps };
	int bug = selftest_bug_by_name(selftest_bug), status;
	ktime_t begun = ktime_get();

	if (bug < 0) {
		pr_err("selftest_bug is \"%s\", which is none of those there are\n", selftest_bug);
		return -EINVAL;
	}
	if (selftest_steps == 0) {
		pr_info("loaded without a self-test\n");
		return 0;
	}
	t.bug = bug;
	if (t.seed == 0)
		t.seed = giantvm_nonce(NULL);
	status = selftest_run(&t);
	report(&t, status, ktime_ms_delta(ktime_get(), begun));
	return status;
}

static int __init giantvm_init(void)
{
	int status = giantvm_env_init();

	if (status != 0)
		return status;
	status = run_selftest();
	if (status != 0)
		giantvm_env_exit();
	return status;
}

static void __exit giantvm_exit(void)
{
	giantvm_env_exit();
}

module_init(giantvm_init);
module_exit(giantvm_exit);

MODULE_DESCRIPTION("gvmnet: coherent memory that several machines share");
MODULE_LICENSE("Dual BSD/GPL");
