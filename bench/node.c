/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A gvm-memsrv with a key made just now, and a client's net. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <gvmnet/cluster.h>
#include <gvmnet/gvmnet.h>
#include "bench.h"

int bench_make_key(const char *path)
{
	char hex[65];
	unsigned char raw[32];
	int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
	int err = fd < 0 ? -errno : bench_read_all(fd, raw, sizeof(raw));

	if (fd >= 0)
		close(fd);
	for (unsigned i = 0; i < sizeof(raw); i++)
		sprintf(hex + 2 * i, "%02x", raw[i]);
	unlink(path);
	fd = err ? -1 : open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return err ? err : -errno;
	err = bench_write_all(fd, hex, 64);
	close(fd);
	return err;
}

int bench_node_open(struct bench_node *node, const struct bench_opts *opts, const char **why)
{
	char key[512], listen[32], size[32], map[64];
	char *argv[] = { (char *)opts->memsrv, "--listen", listen,      "--key-file", key,
			 "--memory",           size,       "--workers", "1",          NULL };
	struct gvm_net_config config = { .transport = gvm_option_text("GVM_TRANSPORT"),
					 .node = GVM_NODE_NONE,
					 .key_file = key };
	unsigned port = bench_free_port();
	int err;

	snprintf(key, sizeof(key), "%s/key", opts->scratch);
	snprintf(listen, sizeof(listen), "127.0.0.1:%u", port);
	snprintf(size, sizeof(size), "%uM", opts->pages / 256 * 2 + 64);
	snprintf(map, sizeof(map), "1 127.0.0.1 %u\n", port);
	*why = "no key";
	err = bench_make_key(key);
	if (err)
		return err;
	node->server = bench_spawn(opts, opts->server_cpu, argv);
	*why = "gvm-memsrv did not start (see its log in the scratch folder)";
	int probe = bench_connect(port);

	if (probe < 0)
		return probe;
	close(probe);
	*why = "the net cannot be opened";
	config.cluster = NULL;
	err = gvm_cluster_parse(map, strlen(map), "bench", &node->cluster, NULL);
	config.cluster = node->cluster;
	return err ? err : gvm_net_open(&config, &node->net);
}

void bench_node_close(struct bench_node *node)
{
	if (node->net)
		gvm_net_close(node->net);
	if (node->cluster)
		gvm_cluster_free(node->cluster);
	bench_kill(&node->server);
	*node = (struct bench_node){ 0 };
}
