/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The net: who this process is. Checks the configuration, reads the key, draws the incarnation and
 * chooses the provider from the one table of them. Immutable after gvm_net_open, so any thread may
 * read it.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include "core/core.h"
#include "core/module.h"

/* ---- providers ----------------------------------------------------------------------------- */

/* All names that GVM_TRANSPORT may have; those without ops are modules. */
static const struct {
	const char *name;
	const struct gvm_provider_ops *ops;
	const char *what;
} providers[] = {
	{ "tcp", &gvm_provider_tcp, NULL },
	{ "loop", &gvm_provider_loop, NULL },
	{ "verbs", NULL, "RDMA over InfiniBand, RoCE and iWARP" },
	{ "ofi", NULL, "libfabric" },
};
#define PROVIDERS (sizeof(providers) / sizeof(providers[0]))

/* Its table; a module is opened for it. NULL: *why says why there is none. */
static const struct gvm_provider_ops *ops_of(size_t i, const char **why)
{
	const struct gvm_module *module;

	if (providers[i].ops)
		return providers[i].ops;
	module = gvm_module_get(providers[i].name, why);
	return module ? module->ops : NULL;
}

static const struct gvm_provider_ops *describe_provider(size_t i, struct gvm_provider_info *info)
{
	const struct gvm_provider_ops *ops = ops_of(i, &info->why);

	info->name = providers[i].name;
	info->what = ops ? ops->what : providers[i].what;
	info->usable = -EPROTONOSUPPORT;
	if (ops) {
		info->why = "";
		info->usable = ops->probe(&info->why);
		if (info->usable == 0 || !info->why)
			info->why = "";
	}
	return ops;
}

size_t gvm_providers(struct gvm_provider_info *info, size_t n)
{
	size_t i;

	for (i = 0; i < n && i < PROVIDERS; i++)
		describe_provider(i, &info[i]);
	return PROVIDERS;
}

int gvm_provider_describe(const char *name,
			  void (*line)(void *arg, unsigned depth, const char *text), void *arg)
{
	const struct gvm_module *module;
	const char *why;
	size_t i;

	for (i = 0; i < PROVIDERS && strcmp(name, providers[i].name); i++)
		;
	if (i == PROVIDERS)
		return -ENOENT;
	module = providers[i].ops ? NULL : gvm_module_get(name, &why);
	if (module && module->describe)
		module->describe(line, arg);
	return 0;
}

/* A module that could be asked for is opened for it. */
static void list_usable(char *list, size_t room)
{
	struct gvm_provider_info info;
	size_t i, at = 0;

	list[0] = 0;
	for (i = 0; i < PROVIDERS; i++) {
		int n;

		describe_provider(i, &info);
		if (info.usable != 0)
			continue;
		n = snprintf(list + at, room - at, "%s%s", at ? ", " : "", info.name);
		if (n < 0 || (size_t)n >= room - at)
			return;
		at += (size_t)n;
	}
}

static int refuse_transport(const char *transport, const char *why)
{
	char usable[64];

	list_usable(usable, sizeof(usable));
	gvm_log(GVM_LOG_ERROR, "transport %s: %s; usable here: %s", transport, why, usable);
	return -EPROTONOSUPPORT;
}

static int find_provider(const char *name, size_t *i)
{
	for (*i = 0; *i < PROVIDERS; ++*i)
		if (strcmp(name, providers[*i].name) == 0)
			return 0;
	return refuse_transport(name, "there is no such transport");
}

static int refuse_argument(const char *name, const char *args)
{
	gvm_log(GVM_LOG_ERROR, "transport %s:%s: %s takes no argument", name, args, name);
	return -EINVAL;
}

/* "name" or "name:args", which is cut in two. */
static int add_provider(struct gvm_net *net, char *word)
{
	struct gvm_net_provider *p = &net->providers[net->provider_count];
	struct gvm_provider_info info;
	size_t len = strcspn(word, ":"), i;
	int err;

	if (net->provider_count == GVM_NET_PROVIDERS)
		return refuse_transport(word, "one too many");
	p->args = word + len + (word[len] == ':');
	word[len] = 0;
	err = find_provider(word, &i);
	if (err)
		return err;
	if (*p->args && providers[i].ops) /* only modules have a use for one */
		return refuse_argument(word, p->args);
	p->ops = describe_provider(i, &info);
	if (info.usable != 0)
		return refuse_transport(info.name, info.why);
	for (unsigned k = 0; k < net->provider_count; k++)
		if (net->providers[k].ops == p->ops)
			return refuse_transport(word, "named twice");
	net->provider_count++;
	return 0;
}

const char *gvm_net_rdma_folder = "/sys/class/infiniband";

static int has_something(const char *path)
{
	DIR *folder = opendir(path);
	struct dirent *entry;

	if (!folder)
		return 0;
	while ((entry = readdir(folder)) && entry->d_name[0] == '.')
		;
	closedir(folder);
	return entry != NULL;
}

/*
 * What is to be tried before tcp. Nothing of it is loaded where there is no device: most machines.
 * (ofi is nobody's choice but the user's: docs/rdma.md says why.)
 */
static const struct gvm_provider_ops *better_than_tcp(void)
{
	const struct gvm_module *module;
	const char *why = "there is no RDMA device";
	int err = -ENODEV;

	if (has_something(gvm_net_rdma_folder)) {
		module = gvm_module_get("verbs", &why);
		if (module && module->suits)
			err = module->suits(&why);
		if (!err)
			return module->ops;
		/* What somebody can mend is worth a line, not what the machine is. */
		gvm_log(err == -ENOMEM ? GVM_LOG_WARN : GVM_LOG_INFO,
			"transport auto: tcp alone, without verbs: %s", why);
	}
	return NULL;
}

/* The best first; what cannot be used here is passed over. */
static void choose_by_itself(struct gvm_net *net)
{
	const struct gvm_provider_ops *better = better_than_tcp();

	net->automatic = 1;
	if (better)
		net->providers[net->provider_count++] =
		    (struct gvm_net_provider){ better, GVM_PROVIDER_AUTO };
	net->providers[net->provider_count++] = (struct gvm_net_provider){ &gvm_provider_tcp, "" };
}

/* What is in force, for people: "verbs+tcp". The names were found in a text of this size. */
static void name_transport(struct gvm_net *net)
{
	size_t at = 0;

	for (unsigned i = 0; i < net->provider_count; i++)
		at += (size_t)snprintf(net->transport + at, sizeof(net->transport) - at, "%s%s",
				       i ? "+" : "", net->providers[i].ops->name);
}

/* The name of a provider, several with "+" between them, the best first, or "auto". */
static int choose_providers(struct gvm_net *net, const char *transport)
{
	char *word, *rest = net->transport_words;
	int err = 0;

	if (!transport)
		transport = gvm_option_text("GVM_TRANSPORT");
	if (strlen(transport) >= sizeof(net->transport_words)) {
		gvm_log(GVM_LOG_ERROR, "transport %.16s...: longer than %zu characters", transport,
			sizeof(net->transport_words) - 1);
		return -EINVAL;
	}
	strcpy(net->transport_words, transport);
	if (strcmp(transport, "auto") == 0)
		choose_by_itself(net);
	else
		while (!err && (word = strsep(&rest, "+")))
			err = add_provider(net, word);
	if (!err)
		name_transport(net);
	return err;
}

/* ---- the key ------------------------------------------------------------------------------- */

static int check_key_file(const char *path, int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode)) {
		gvm_log(GVM_LOG_ERROR,
			"key file %s is not a regular file; make one: "
			"openssl rand -hex 32 > FILE; chmod 600 FILE",
			path);
		return -EACCES;
	}
	if (st.st_mode & (S_IRWXG | S_IRWXO)) {
		gvm_log(GVM_LOG_ERROR,
			"key file %s is open to others than its owner (mode %04o); "
			"close it: chmod 600 %s",
			path, (unsigned)st.st_mode & 07777u, path);
		return -EACCES;
	}
	return 0;
}

/* The file's bytes without one newline at the end; not more than GVM_KEY_MAX. */
static int take_key(struct gvm_net *net, const char *path, int fd)
{
	uint8_t buf[GVM_KEY_MAX + 1];
	size_t len = 0;
	ssize_t n;
	int err = 0;

	while (len < sizeof(buf) && (n = read(fd, buf + len, sizeof(buf) - len)) != 0) {
		if (n < 0 && errno != EINTR) {
			err = -errno;
			gvm_log(GVM_LOG_ERROR, "key file %s cannot be read: %s", path,
				strerror(-err));
			goto wipe;
		}
		len += n > 0 ? (size_t)n : 0;
	}
	if (len > GVM_KEY_MAX) {
		gvm_log(GVM_LOG_ERROR, "key file %s is too long: at most %u bytes", path,
			GVM_KEY_MAX);
		err = -EACCES;
		goto wipe;
	}
	if (len > 0 && buf[len - 1] == '\n')
		len--;
	if (len > 0 && buf[len - 1] == '\r')
		len--;
	if (len < GVM_KEY_MIN) {
		gvm_log(GVM_LOG_ERROR,
			"key file %s has %zu bytes, a key needs at least %u; make one: "
			"openssl rand -hex 32 > %s; chmod 600 %s",
			path, len, GVM_KEY_MIN, path, path);
		err = -EACCES;
		goto wipe;
	}
	net->key = malloc(len);
	if (!net->key) {
		err = -ENOMEM;
		goto wipe;
	}
	memcpy(net->key, buf, len);
	net->key_len = len;
wipe:
	OPENSSL_cleanse(buf, sizeof(buf));
	return err;
}

static int read_key(struct gvm_net *net, const char *path)
{
	int fd, err;

	if (!path)
		path = gvm_option_text("GVM_KEY_FILE");
	if (!path || !*path)
		return 0;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0) {
		err = -errno;
		if (err == -ENOENT)
			gvm_log(GVM_LOG_ERROR,
				"key file %s does not exist; make one: "
				"openssl rand -hex 32 > %s; chmod 600 %s",
				path, path, path);
		else
			gvm_log(GVM_LOG_ERROR, "key file %s cannot be opened: %s", path,
				strerror(-err));
		return err;
	}
	err = check_key_file(path, fd);
	if (!err)
		err = take_key(net, path, fd);
	close(fd);
	return err;
}

/* ---- open and close ------------------------------------------------------------------------ */

void gvm_random(void *buf, size_t len)
{
	uint8_t *at = buf;

	while (len > 0) {
		ssize_t n = getrandom(at, len, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			gvm_log(GVM_LOG_ERROR, "getrandom: %s; keys cannot be drawn",
				strerror(errno));
			abort();
		}
		at += n;
		len -= (size_t)n;
	}
}

static int check_config(const struct gvm_net_config *config)
{
	if (config->node != GVM_NODE_NONE && config->node >= GVM_MAX_NODES) {
		gvm_log(GVM_LOG_ERROR, "node id %u is not legal: 0 to %u", config->node,
			GVM_MAX_NODES - 1);
		return -EINVAL;
	}
	if (config->node != GVM_NODE_NONE && config->cluster &&
	    !gvm_cluster_node(config->cluster, config->node)) {
		gvm_log(GVM_LOG_ERROR, "node id %u is not in the cluster file", config->node);
		return -EINVAL;
	}
	return 0;
}

static void adopt_cluster(struct gvm_net *net, const struct gvm_cluster *cluster)
{
	net->cluster = cluster;
	if (!cluster)
		return;
	net->map_digest = gvm_cluster_digest(cluster);
	net->epoch = gvm_cluster_epoch(cluster);
	snprintf(net->cluster_name, sizeof(net->cluster_name), "%s", gvm_cluster_name(cluster));
}

static void draw_incarnation(struct gvm_net *net)
{
	do
		gvm_random(&net->incarnation, sizeof(net->incarnation));
	while (net->incarnation == 0);
}

/* The table of offered memory, and what views of regions share, may have been in any state when the
 * process forked: new ones. */
int gvm_net_renew(struct gvm_net *net)
{
	int err = gvm_mem_table_init(&net->mem);

	if (err)
		return err;
	draw_incarnation(net);
	atomic_store(&net->workers, 0);
	pthread_mutex_init(&net->views_lock, NULL);
	net->views = NULL;
	return 0;
}

int gvm_net_open(const struct gvm_net_config *config, struct gvm_net **out)
{
	struct gvm_net *net;
	int err = check_config(config);

	if (err)
		return err;
	gvm_crypto_init();
	net = aligned_alloc(_Alignof(struct gvm_net), sizeof(*net));
	if (!net)
		return -ENOMEM;
	memset(net, 0, sizeof(*net));
	net->node = (uint16_t)config->node;
	net->insecure = config->insecure;
	pthread_mutex_init(&net->views_lock, NULL);
	adopt_cluster(net, config->cluster);
	draw_incarnation(net);
	err = choose_providers(net, config->transport);
	if (err)
		goto free_net;
	err = read_key(net, config->key_file);
	if (err)
		goto free_net;
	err = gvm_mem_table_init(&net->mem);
	if (err)
		goto free_key;
	*out = net;
	return 0;
free_key:
	OPENSSL_cleanse(net->key, net->key_len);
	free(net->key);
free_net:
	pthread_mutex_destroy(&net->views_lock);
	free(net);
	return err;
}

void gvm_net_close(struct gvm_net *net)
{
	if (!net)
		return;
	if (atomic_load(&net->workers) > 0)
		gvm_log(GVM_LOG_ERROR, "gvm_net_close: %d workers are still open",
			atomic_load(&net->workers));
	gvm_mem_table_fini(&net->mem);
	pthread_mutex_destroy(&net->views_lock);
	if (net->key)
		OPENSSL_cleanse(net->key, net->key_len);
	free(net->key);
	free(net);
}

uint64_t gvm_net_incarnation(const struct gvm_net *net)
{
	return net->incarnation;
}

const struct gvm_cluster *gvm_net_cluster(const struct gvm_net *net)
{
	return net->cluster;
}

unsigned gvm_net_node(const struct gvm_net *net)
{
	return net->node;
}

int gvm_net_pins(const struct gvm_net *net)
{
	int pins = 0;

	for (unsigned i = 0; i < net->provider_count; i++)
		pins |= net->providers[i].ops->pins;
	return pins;
}

const char *gvm_net_transport(const struct gvm_net *net)
{
	return net->transport;
}
