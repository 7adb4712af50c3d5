/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The options: one table, from which the command line, the environment, "gvm info" and the manual
 * pages all take their names, defaults, ranges and help. The command line beats the environment,
 * the environment the default. Values are set before threads start; reading is for any thread and
 * neither locks nor allocates.
 */
#include <gvmnet/gvmnet.h>

#include <ctype.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

extern char **environ;

#define K      (1ull << 10)
#define M      (1ull << 20)
#define G      (1ull << 30)
#define DAY_MS (24ull * 3600 * 1000)

#define TEXT(env, flag, fallback, help)                                                            \
	{                                                                                          \
		env, flag, "text", fallback, help, NULL, 0, 0                                      \
	}
#define NUMBER(env, flag, type, fallback, min, max, help)                                          \
	{                                                                                          \
		env, flag, type, fallback, help, NULL, min, max                                    \
	}
#define CHOICE(env, flag, fallback, choices, help)                                                 \
	{                                                                                          \
		env, flag, "choice", fallback, help, choices, 0, 0                                 \
	}

static const struct gvm_option table[] = {
	/* the transport and who this is */
	{ "GVM_TRANSPORT", "--transport", "provider", "auto",
	  "Which provider carries the bytes; several with + between them: the first that "
	  "connects; auto: verbs, where an InfiniBand or RoCE device suits, then tcp. "
	  "verbs:DEVICE[:PORT[:GID]]: that device; ofi:NAME: that provider of libfabric.",
	  "auto|tcp|verbs|ofi|loop", 0, 0 },
	TEXT("GVM_CLUSTER", "--cluster", "",
	     "The cluster file: a line \"ID HOST PORT\" for each node, see cluster.conf(5)."),
	{ "GVM_NODE", "--node", "node", "none",
	  "This process's id in the cluster file; a client needs none.", NULL, 0,
	  GVM_MAX_NODES - 1 },
	TEXT("GVM_KEY_FILE", "--key-file", "",
	     "File with the pre-shared key, not readable by others; without one only loopback is "
	     "listened on."),
	{ "GVM_INSECURE", "--insecure", "bool", "0",
	  "Listen beyond loopback although there is no key.", NULL, 0, 1 },
	{ "GVM_MODULE_PATH", NULL, "folder", "",
	  "Folder of the providers that are modules (gvmnet-verbs.so); empty: the one that belongs "
	  "to "
	  "the library.",
	  NULL, 0, 0 },
	NUMBER("GVM_VERBS_TCLASS", NULL, "count", "0", 0, 255,
	       "Traffic class (TOS) of the verbs provider's connections; 0: as the system has it."),
	CHOICE(
	    "GVM_VERBS_MTU", NULL, "0", "0|256|512|1024|2048|4096",
	    "Most bytes of a packet of the verbs provider's connections, on whichever side it is "
	    "set; 0: as many as their path takes."),
	{ "GVM_VERBS_SL", NULL, "count", "auto",
	  "Service level of what the verbs provider sends, on RoCE the VLAN priority (0 to 7); "
	  "auto: "
	  "as the system has it.",
	  "auto", 0, 15 },
	{ "GVM_VERBS_ODP", NULL, "bool", "1",
	  "Let devices that can reach memory that is not pinned (on-demand paging).", NULL, 0, 1 },
	CHOICE("GVM_LOG", "--log", "warn", "error|warn|info|debug",
	       "The most detailed kind of line that is logged."),

	/* connections and operations */
	NUMBER("GVM_OP_TIMEOUT_MS", NULL, "ms", "10000", 1, DAY_MS,
	       "Deadline of an operation that names none."),
	NUMBER("GVM_CONNECT_MS", NULL, "ms", "5000", 1, DAY_MS,
	       "How long one attempt to connect may take."),
	NUMBER("GVM_HANDSHAKE_MS", NULL, "ms", "5000", 1, DAY_MS,
	       "How long a new connection may take to prove its key."),
	NUMBER("GVM_KEEPALIVE_MS", NULL, "ms", "10000", 10, DAY_MS,
	       "A peer that is silent for half as long is asked whether it is there; for so long, "
	       "it is lost."),
	NUMBER("GVM_BACKOFF_MIN_MS", NULL, "ms", "10", 1, 60000,
	       "Bound of the random pause before the first new attempt; it doubles from there."),
	NUMBER("GVM_BACKOFF_MAX_MS", NULL, "ms", "2000", 1, DAY_MS,
	       "The most that the bound of the pause between attempts grows to."),
	NUMBER("GVM_SPIN_US", NULL, "count", "20", 0, 1000000,
	       "Microseconds that a worker polls before it sleeps."),
	{ "GVM_POLL_CPUS", NULL, "cpus", "",
	  "CPUs that polling threads are pinned to in turn, such as 0,2-5; empty: not pinned.",
	  NULL, 0, 0 },
	NUMBER("GVM_OP_WINDOW", NULL, "count", "256", 1, 4096,
	       "One-sided operations that may be under way per connection."),
	NUMBER("GVM_CREDITS", NULL, "count", "64", 4, 4096,
	       "Messages that a peer may send before it must wait for this side."),
	NUMBER("GVM_MAX_CONNS", NULL, "count", "16384", 1, 1000000,
	       "Connections that one worker accepts."),
	{ "GVM_CONNECTIONS", NULL, "count", "auto",
	  "Connections that one worker makes at a time; for one more the one that was used least "
	  "recently is closed. 0: no limit; auto: a sixteenth of the limit of open files, 64 to "
	  "4096.",
	  "auto", 0, 1000000 },

	/* the pager */
	NUMBER("GVM_LOCAL", "--local", "bytes", "1G", M, 1ull << 48,
	       "How much of the paged memory may be on this machine at a time."),
	NUMBER("GVM_PAGER_THREADS", NULL, "count", "0", 0, 256,
	       "Threads that serve page faults; 0: as many as fit the machine."),
	NUMBER("GVM_PREFETCH", "--prefetch", "count", "128", 0, 256,
	       "Most pages that are fetched ahead of a fault; 0: none."),
	CHOICE(
	    "GVM_UNREACHABLE", "--unreachable", "stall", "stall|sigbus|zero",
	    "What an access does whose memory node does not answer: wait, SIGBUS, or read zeros."),
	NUMBER("GVM_UNREACHABLE_MS", NULL, "ms", "5000", 1, DAY_MS,
	       "How long a memory node may be away before sigbus and zero answer for it."),
	{ "GVM_SLAB", NULL, "bytes", "16M",
	  "Size of the slabs of new regions; of paged memory that is smaller, as much as that.",
	  "power of two", 64 * K, 64 * M },
	/* shared regions */
	NUMBER(
	    "GVM_DSM_FENCE_MS", NULL, "ms", "5000", 100, DAY_MS,
	    "A member of a shared region that does not hear of a page's home for so long gives its "
	    "pages up; the home waits twice as long before it takes a member for dead."),
	NUMBER("GVM_DSM_RETRY_MS", NULL, "ms", "1000", 1, DAY_MS,
	       "After so long what was asked of another member of a shared region is asked again."),
	NUMBER("GVM_DSM_ROUND_MS", NULL, "ms", "2000", 1, DAY_MS,
	       "After so long a home tells those that hold a page itself, who did not answer."),
	NUMBER("GVM_DSM_OLD_PAGES", NULL, "pages", "256", 0, 1 << 20,
	       "Older contents of pages that a member of a shared region keeps, of 4 KiB each, so "
	       "that a page can be sent as what has changed of it."),
	NUMBER("GVM_DSM_WAIT_MS", NULL, "ms", "0", 0, DAY_MS,
	       "An access to a page of a shared region that another member does not give for so "
	       "long raises SIGBUS; 0: it waits."),
	NUMBER("GVM_DSM_QUEUE", NULL, "bytes", "64M", 64 * K, 1ull << 40,
	       "What may wait for a member of a shared region that does not take it; beyond, its "
	       "connection is ended."),
	NUMBER("GVM_DSM_OPEN_MS", NULL, "ms", "30000", 1, DAY_MS,
	       "How long the opening of a shared region waits for its homes."),
	NUMBER("GVM_DSM_CLOSE_MS", NULL, "ms", "30000", 1, DAY_MS,
	       "How long the closing of a shared region waits until its homes have all pages."),
	CHOICE("GVM_MODE", "--mode", "auto", "auto|kernel|user",
	       "Whether memory is paged by a kernel module or by userfaultfd; the module has no "
	       "device yet, so auto is user, and kernel is refused."),

	/* gvm run */
	TEXT("GVM_CONNECT", "--connect", "",
	     "HOST:PORT of the one memory node there is, in place of a cluster file."),
	NUMBER("GVM_RUN_MIN", "--min", "bytes", "2M", 4 * K, 1ull << 48,
	       "Mappings of at least this size are taken over by gvm run."),
	TEXT("GVM_RUN_MATCH", "--match", "",
	     "Patterns (a,b) of names of files or memfds whose shared mappings are taken over, "
	     "whatever "
	     "their size; empty: memfds and unlinked files in tmpfs, from --min on."),
	{ "GVM_RUN_SHARED_ANON", "--shared-anonymous", "bool", "0",
	  "Take over shared anonymous mappings, too; a forked child then has none of them.", NULL,
	  0, 1 },
	TEXT(
	    "GVM_RUN_SHARED", "--shared", "",
	    "Patterns (a,b) of names of POSIX shared memory objects that programs on several nodes "
	    "share, coherently; private memory is paged only if --local is given, too."),
	NUMBER("GVM_RUN_SHARED_LOCAL", "--shared-local", "bytes", "0", 0, 1ull << 48,
	       "How much of each shared object may be local, 64K at least; 0: all of it."),
	{ "GVM_RUN_PRIVATE", NULL, "bool", "1",
	  "Page private memory; set by gvm run, 0 with --shared and without --local.", NULL, 0, 1 },
	NUMBER("GVM_RUN_MALLOC", "--malloc", "bytes", "2M", 0, 1ull << 48,
	       "Blocks from malloc of at least this size are taken over; 0: none."),
	{ "GVM_RUN_LOAD", "--load", "bool", "0",
	  "Take over mapped files that hold data, too: it is read in, and never written to the "
	  "file.",
	  NULL, 0, 1 },
	{ "GVM_RUN_REPORT", "--report", "bool", "1", "Say at the end of the program what happened.",
	  NULL, 0, 1 },
	{ "GVM_RUN_VERBOSE", "--verbose", "bool", "0", "Say of each mapping that it is taken over.",
	  NULL, 0, 1 },
	NUMBER("GVM_RUN_PID", NULL, "count", "0", 0, 1ull << 32,
	       "Set by gvm run: the process that the program is."),
	TEXT("GVM_PRELOAD", NULL, "",
	     "The preload library; empty: the one that belongs to the gvm program."),
	TEXT("GVM_CONTROL", NULL, "",
	     "Folder in which a paged process has the socket that gvm set asks, or off; empty: the "
	     "one "
	     "where gvm set looks."),
	TEXT("GVM_STATS_FILE", "--stats-file", "",
	     "Where gvm run writes statistics as JSON each second: a file, a folder (\"dir/\") for "
	     "a file "
	     "per process, or off; empty: a folder where gvm top looks."),
};
#define OPTIONS (sizeof(table) / sizeof(table[0]))

static char *set_values[OPTIONS]; /* by gvm_option_set; ours to free */

const struct gvm_option *gvm_options(size_t *count)
{
	*count = OPTIONS;
	return table;
}

/* ---- values -------------------------------------------------------------------------------- */

static int is_type(const struct gvm_option *o, const char *type)
{
	return strcmp(o->type, type) == 0;
}

/* Digits only: no sign, no space, no second base. */
static int parse_count(const char *text, uint64_t *value)
{
	uint64_t v = 0;

	if (!*text)
		return -EINVAL;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return -EINVAL;
		if (__builtin_mul_overflow(v, 10, &v) ||
		    __builtin_add_overflow(v, (uint64_t)(*text - '0'), &v))
			return -ERANGE;
	}
	*value = v;
	return 0;
}

/* The factor of "", "K", "M", "G", "T", each also with "iB"; 0 for anything else. */
static uint64_t byte_unit(const char *text)
{
	static const char letters[] = "KMGT";
	const char *at;

	if (!*text)
		return 1;
	at = strchr(letters, toupper((unsigned char)*text));
	if (!at || (text[1] && strcmp(text + 1, "iB") != 0))
		return 0;
	return 1ull << (10 * (at - letters + 1));
}

/* Up to nine digits behind the point: value / scale. */
static int parse_fraction(const char **text, uint64_t *value, uint64_t *scale)
{
	const char *p = *text + 1;

	*value = 0;
	*scale = 1;
	for (; *p >= '0' && *p <= '9'; p++) {
		if (*scale == 1000000000)
			return -EINVAL;
		*value = *value * 10 + (uint64_t)(*p - '0');
		*scale *= 10;
	}
	*text = p;
	return *scale > 1 ? 0 : -EINVAL;
}

int gvm_parse_bytes(const char *text, uint64_t *bytes)
{
	uint64_t whole = 0, part = 0, scale = 1, unit;
	unsigned __int128 total;
	const char *p = text;

	for (; *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(whole, 10, &whole) ||
		    __builtin_add_overflow(whole, (uint64_t)(*p - '0'), &whole))
			return -ERANGE;
	if (p == text || (*p == '.' && parse_fraction(&p, &part, &scale) < 0))
		return -EINVAL;
	unit = byte_unit(p);
	if (unit == 0 || (unit == 1 && scale > 1))
		return -EINVAL;
	total = (unsigned __int128)whole * unit + (unsigned __int128)part * unit / scale;
	if (total > UINT64_MAX)
		return -ERANGE;
	*bytes = (uint64_t)total;
	return 0;
}

static int parse_bool(const char *text, uint64_t *value)
{
	static const char *const words[2][4] = { { "0", "no", "off", "false" },
						 { "1", "yes", "on", "true" } };
	unsigned v, i;

	for (v = 0; v < 2; v++)
		for (i = 0; i < 4; i++)
			if (strcmp(text, words[v][i]) == 0) {
				*value = v;
				return 0;
			}
	return -EINVAL;
}

/* "0,2-5": calls out as many CPUs as i asks for and leaves the i-th in *cpu; counts them. */
static int parse_cpus(const char *text, unsigned i, unsigned *cpu, unsigned *count)
{
	unsigned n = 0;

	while (*text) {
		unsigned long first, last;
		char *end;

		if (!isdigit((unsigned char)*text))
			return -EINVAL;
		first = last = strtoul(text, &end, 10);
		if (*end == '-') {
			if (!isdigit((unsigned char)end[1]))
				return -EINVAL;
			last = strtoul(end + 1, &end, 10);
		}
		if (last < first || last >= CPU_SETSIZE)
			return -ERANGE;
		if (i >= n && i - n <= last - first)
			*cpu = (unsigned)(first + (i - n));
		n += (unsigned)(last - first + 1);
		if (*end == ',' && end[1])
			end++;
		else if (*end)
			return -EINVAL;
		text = end;
	}
	*count = n;
	return 0;
}

/* Is word, of len bytes, one of "a|b|c"? */
static int among(const char *choices, const char *word, size_t len)
{
	while (len > 0) {
		size_t n = strcspn(choices, "|");

		if (n == len && memcmp(choices, word, n) == 0)
			return 1;
		if (!choices[n])
			return 0;
		choices += n + 1;
	}
	return 0;
}

/* "auto"; or others, each with ":arguments" or not, and "+" between them. */
static int parse_providers(const char *choices, const char *text)
{
	if (strcmp(text, "auto") == 0)
		return 0;
	for (;; text++) {
		size_t len = strcspn(text, ":+");

		if (!among(choices, text, len) || (len == 4 && memcmp(text, "auto", 4) == 0))
			return -EINVAL;
		text += strcspn(text, "+");
		if (!*text)
			return 0;
	}
}

static int parse_ranged(const struct gvm_option *o, const char *text, uint64_t *value)
{
	int err = is_type(o, "bytes") ? gvm_parse_bytes(text, value) : parse_count(text, value);

	if (err < 0)
		return err;
	if (*value < o->min || *value > o->max)
		return -ERANGE;
	/* For bytes, choices can only say that a power of two is wanted. */
	return is_type(o, "bytes") && o->choices && (*value & (*value - 1)) ? -EDOM : 0;
}

/* Check text and turn it into a number; 0 for types that are none. */
static int parse_value(const struct gvm_option *o, const char *text, uint64_t *value)
{
	unsigned cpu, count;

	*value = 0;
	if (is_type(o, "text") || is_type(o, "folder"))
		return 0;
	if (is_type(o, "choice"))
		return among(o->choices, text, strlen(text)) ? 0 : -EINVAL;
	if (is_type(o, "provider"))
		return parse_providers(o->choices, text);
	if (is_type(o, "bool"))
		return parse_bool(text, value);
	if (is_type(o, "cpus"))
		return parse_cpus(text, 0, &cpu, &count);
	if (is_type(o, "node") && strcmp(text, "none") == 0) {
		*value = GVM_NODE_NONE;
		return 0;
	}
	if (is_type(o, "count") && o->choices && strcmp(text, o->choices) == 0) {
		*value = GVM_OPTION_AUTO;
		return 0;
	}
	return parse_ranged(o, text, value);
}

/* "64K", as it may be given; bytes if it is no multiple. */
static const char *short_size(uint64_t bytes, char *buf, size_t size)
{
	static const char units[] = "KMGT";
	const char *unit = NULL;

	for (const char *u = units; *u && bytes && bytes % 1024 == 0; u++) {
		bytes /= 1024;
		unit = u;
	}
	snprintf(buf, size, "%llu%.1s", (unsigned long long)bytes, unit ? unit : "");
	return buf;
}

/* What would be legal, for the sentence that refuses a value. */
static const char *legal_values(const struct gvm_option *o, char *buf, size_t size)
{
	char least[32], most[32];

	if (is_type(o, "choice"))
		snprintf(buf, size, "one of %s", o->choices);
	else if (is_type(o, "provider"))
		/* without the last, "loop", which is for tests within one process */
		snprintf(
		    buf, size,
		    "one of %.*s, optionally followed by \":arguments\", or several with \"+\" "
		    "between them",
		    (int)(strrchr(o->choices, '|') - o->choices), o->choices);
	else if (is_type(o, "bool"))
		snprintf(buf, size, "0 or 1");
	else if (is_type(o, "cpus"))
		snprintf(buf, size, "CPU numbers below %d such as 0,2-5", CPU_SETSIZE);
	else if (is_type(o, "bytes"))
		snprintf(buf, size, "%s of bytes such as 256M, from %s to %s",
			 o->choices ? "a power of two" : "a number",
			 short_size(o->min, least, sizeof(least)),
			 short_size(o->max, most, sizeof(most)));
	else
		snprintf(buf, size, "%sa whole number%s from %llu to %llu",
			 is_type(o, "node")                  ? "\"none\" or "
			 : is_type(o, "count") && o->choices ? "\"auto\" or "
							     : "",
			 is_type(o, "ms") ? " of milliseconds" : "", (unsigned long long)o->min,
			 (unsigned long long)o->max);
	return buf;
}

static int check(const struct gvm_option *o, const char *name, const char *text)
{
	char legal[160];
	uint64_t value;

	if (parse_value(o, text, &value) == 0)
		return 0;
	gvm_log(GVM_LOG_ERROR, "%s: \"%s\" is not legal here; it may be %s", name, text,
		legal_values(o, legal, sizeof(legal)));
	return -EINVAL;
}

/* ---- what is in force ---------------------------------------------------------------------- */

/* The entry whose environment name is the first len bytes of env. */
static const struct gvm_option *find(const char *env, size_t len)
{
	size_t i;

	for (i = 0; i < OPTIONS; i++)
		if (strncmp(table[i].env, env, len) == 0 && table[i].env[len] == 0)
			return &table[i];
	return NULL;
}

/* An empty variable is one that is not set. */
static const char *from_environment(const struct gvm_option *o)
{
	/* Code is loaded from a folder: whoever calls a set-id program may not choose it. */
	const char *text = is_type(o, "folder") ? secure_getenv(o->env) : getenv(o->env);

	return text && *text ? text : NULL;
}

static const char *in_force(const struct gvm_option *o, uint64_t *value)
{
	const char *text = set_values[o - table];

	if (!text)
		text = from_environment(o);
	if (text && parse_value(o, text, value) == 0)
		return text;
	parse_value(o, o->fallback, value);
	return o->fallback;
}

const char *gvm_option_text(const char *env)
{
	const struct gvm_option *o = find(env, strlen(env));
	uint64_t value;

	return o ? in_force(o, &value) : NULL;
}

uint64_t gvm_option_number(const char *env)
{
	const struct gvm_option *o = find(env, strlen(env));
	uint64_t value = 0;

	if (o)
		in_force(o, &value);
	return value;
}

int gvm_option_cpu(unsigned i)
{
	const char *text = gvm_option_text("GVM_POLL_CPUS");
	unsigned cpu = 0, count = 0;

	if (parse_cpus(text, 0, &cpu, &count) < 0 || count == 0)
		return -1;
	parse_cpus(text, i % count, &cpu, &count);
	return (int)cpu;
}

/* ---- setting ------------------------------------------------------------------------------- */

static void set_log_level(const char *text)
{
	static const char *const names[] = { "error", "warn", "info", "debug" };
	int i;

	for (i = 0; i < 4; i++)
		if (strcmp(text, names[i]) == 0)
			gvm_log_set_level((enum gvm_log_level)i);
}

static int set(const struct gvm_option *o, const char *name, const char *text)
{
	int err = check(o, name, text);
	char *copy;

	if (err < 0)
		return err;
	copy = strdup(text);
	if (!copy)
		return -ENOMEM;
	free(set_values[o - table]);
	set_values[o - table] = copy;
	if (strcmp(o->env, "GVM_LOG") == 0)
		set_log_level(text);
	return 0;
}

int gvm_option_set_as(const char *env, const char *name, const char *value)
{
	const struct gvm_option *o = find(env, strlen(env));

	return o ? set(o, name, value) : -ENOENT;
}

int gvm_option_set(const char *env, const char *value)
{
	return gvm_option_set_as(env, env, value);
}

/* The option that arg names ("--name" or "--name=value"), *value behind the '=' or NULL. */
static const struct gvm_option *option_of_arg(const char *arg, const char **value)
{
	size_t i, len = strcspn(arg, "=");

	for (i = 0; i < OPTIONS; i++) {
		const char *flag = table[i].flag;

		if (!flag || strncmp(flag, arg, len) != 0 || flag[len])
			continue;
		*value = arg[len] ? arg + len + 1 : NULL;
		return &table[i];
	}
	return NULL;
}

int gvm_options_parse(int *argc, char **argv)
{
	int in, out, err;

	for (in = out = 1; in < *argc && strcmp(argv[in], "--") != 0; in++) {
		const char *value;
		const struct gvm_option *o = option_of_arg(argv[in], &value);

		if (!o) {
			argv[out++] = argv[in];
			continue;
		}
		if (!value && is_type(o, "bool"))
			value = "1";
		else if (!value && in + 1 < *argc)
			value = argv[++in];
		if (!value) {
			gvm_log(GVM_LOG_ERROR, "%s needs a value", o->flag);
			return -EINVAL;
		}
		err = set(o, o->flag, value);
		if (err < 0)
			return err;
	}
	while (in < *argc)
		argv[out++] = argv[in++];
	argv[out] = NULL;
	*argc = out;
	return 0;
}

int gvm_options_check(void)
{
	int err = 0;
	size_t i;
	char **e;

	for (i = 0; i < OPTIONS; i++) {
		const char *text = from_environment(&table[i]);

		if (text && check(&table[i], table[i].env, text) < 0)
			err = -EINVAL;
	}
	for (e = environ; e && *e; e++) {
		int len = (int)strcspn(*e, "=");

		if (strncmp(*e, "GVM_", 4) == 0 && !find(*e, (size_t)len))
			gvm_log(GVM_LOG_WARN,
				"%.*s is set in the environment, but there is no such option "
				"(\"gvm info\" lists them)",
				len, *e);
	}
	return err;
}
