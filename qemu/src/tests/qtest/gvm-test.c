/*
 * QTest testcase for memory-backend-gvm: made and removed, what it refuses,
 * what may be changed while it runs, query-gvm and "info gvm", memory of which
 * next to nothing is here, events of memory nodes that go and come back, and
 * resets meanwhile.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * It takes a real memory node, the program that GVM_MEMSRV names; without one
 * all of it is skipped.
 */

#include "qemu/osdep.h"
#include <glib/gstdio.h>
#include <sys/prctl.h>
#include "libqtest.h"
#if __has_include("qobject/qdict.h")
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#else
#include "qapi/qmp/qdict.h"
#include "qapi/qmp/qlist.h"
#endif
#include "qemu/units.h"

#define NODE 5 /* its id in the cluster file */

/* -- the memory node ------------------------------------------------------- */

static struct {
    char *dir, *key, *cluster, *image;
    unsigned port;
    GPid pid;
    FILE *says;
} node;

static void die_with_test(gpointer data)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
}

/* Returns when it listens: it says so itself. Port 0: any. */
static void node_start(void)
{
    g_autofree char *listen = g_strdup_printf("127.0.0.1:%u", node.port);
    const char *argv[] = { g_getenv("GVM_MEMSRV"), "--listen", listen,
                           "--key-file", node.key, "--memory", "256M",
                           "--image", node.image, NULL };
    g_autoptr(GError) err = NULL;
    char line[512];
    int fd;

    g_spawn_async_with_pipes(NULL, (char **)argv, NULL,
                             G_SPAWN_DO_NOT_REAP_CHILD, die_with_test, NULL,
                             &node.pid, NULL, NULL, &fd, &err);
    g_assert_no_error(err);
    node.says = fdopen(fd, "r");
    do {
        g_assert_nonnull(fgets(line, sizeof(line), node.says));
    } while (sscanf(line, "gvm-memsrv: listening on 127.0.0.1:%u,",
                    &node.port) != 1);
}

/* As a power cut would, without a word. */
static void node_kill(void)
{
    kill(node.pid, SIGKILL);
    g_assert_cmpint(waitpid(node.pid, NULL, 0), ==, node.pid);
    g_spawn_close_pid(node.pid);
    fclose(node.says);
}

static void put(const char *path, const char *text)
{
    g_assert_true(g_file_set_contents(path, text, -1, NULL));
    g_assert_cmpint(g_chmod(path, 0600), ==, 0);
}

static void nodes_begin(void)
{
    g_autofree char *line = NULL;
    GString *key = g_string_new(NULL);

    node.dir = g_dir_make_tmp("gvm-test.XXXXXX", NULL);
    g_assert_nonnull(node.dir);
    node.key = g_build_filename(node.dir, "key", NULL);
    node.cluster = g_build_filename(node.dir, "cluster", NULL);
    node.image = g_build_filename(node.dir, "image", NULL);
    for (int i = 0; i < 32; i++) {
        g_string_append_printf(key, "%02x", g_random_int_range(0, 256));
    }
    put(node.key, key->str);
    g_string_free(key, true);
    node_start();
    line = g_strdup_printf("%u 127.0.0.1 %u\n", NODE, node.port);
    put(node.cluster, line);
}

/* The files whose names begin so. */
static void forget(const char *prefix)
{
    GDir *dir = g_dir_open(node.dir, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(node.dir, name, NULL);

        if (g_str_has_prefix(name, prefix)) {
            g_unlink(path);
        }
    }
    g_dir_close(dir);
}

static void nodes_end(void)
{
    node_kill();
    forget("");
    g_rmdir(node.dir);
}

/* -- QEMU ------------------------------------------------------------------ */

/* One without a machine, to which backends are added. */
static QTestState *start_bare(void)
{
    return qtest_init("-machine none -nodefaults");
}

/* A PC of 32 MiB on the node, of which 1 MiB may be here. */
static QTestState *start_pc(const char *more)
{
    return qtest_initf("-machine pc,memory-backend=ram0 -m 32 -nodefaults "
                       "-object memory-backend-gvm,id=ram0,size=32M,local=1M,"
                       "cluster=%s,key-file=%s%s",
                       node.cluster, node.key, more);
}

/* A backend of 8 MiB. @more: properties as JSON, with a comma before each. */
static QDict *add(QTestState *qts, const char *more)
{
    g_autofree char *json = g_strdup_printf(
        "{ \"qom-type\": \"memory-backend-gvm\", \"id\": \"m\", "
        "\"size\": 8388608, \"cluster\": \"%s\", \"key-file\": \"%s\"%s }",
        node.cluster, node.key, more);
    QDict *rsp;

    qtest_qmp_send_raw(qts, "{ \"execute\": \"object-add\", "
                       "\"arguments\": %s }", json);
    rsp = qtest_qmp_receive(qts);
    g_assert_nonnull(rsp);
    return rsp;
}

static void succeeds(QDict *rsp)
{
    g_assert_true(qdict_haskey(rsp, "return"));
    qobject_unref(rsp);
}

/* With an error that has @words in it. */
static void fails(QDict *rsp, const char *words)
{
    g_assert_true(qdict_haskey(rsp, "error"));
    if (!strstr(qdict_get_str(qdict_get_qdict(rsp, "error"), "desc"), words)) {
        g_test_message("not '%s': %s", words,
                       qdict_get_str(qdict_get_qdict(rsp, "error"), "desc"));
        g_test_fail();
    }
    qobject_unref(rsp);
}

static QDict *set(QTestState *qts, const char *id, const char *name, int value)
{
    return qtest_qmp(qts, "{ 'execute': 'qom-set', 'arguments': { "
                     "'path': %s, 'property': %s, 'value': %d } }",
                     id, name, value);
}

static QDict *del(QTestState *qts, const char *id)
{
    return qtest_qmp(qts, "{ 'execute': 'object-del', "
                     "'arguments': { 'id': %s } }", id);
}

/* Of query-gvm, for @count backends: what it says of the first; to be freed. */
static QDict *info(QTestState *qts, size_t count)
{
    QDict *rsp = qtest_qmp(qts, "{ 'execute': 'query-gvm' }"), *first = NULL;
    QList *list;

    g_assert_true(qdict_haskey(rsp, "return"));
    list = qdict_get_qlist(rsp, "return");
    g_assert_cmpuint(qlist_size(list), ==, count);
    if (count) {
        first = qobject_to(QDict, qlist_peek(list));
        qobject_ref(first);
    }
    qobject_unref(rsp);
    return first;
}

static void node_is(QTestState *qts, const char *state)
{
    QDict *said = info(qts, 1), *its;

    its = qobject_to(QDict, qlist_peek(qdict_get_qlist(said, "nodes")));
    g_assert_cmpint(qdict_get_int(its, "node"), ==, NODE);
    g_assert_cmpstr(qdict_get_str(its, "state"), ==, state);
    qobject_unref(said);
}

/* -- the tests ------------------------------------------------------------- */

/* What is asked for is what there is, and when it is gone its name is free. */
static void test_made_and_removed(void)
{
    QTestState *qts = start_bare();

    g_assert_null(info(qts, 0));
    for (int i = 0; i < 3; i++) {
        QDict *said;

        succeeds(add(qts, ", \"region\": \"made\", \"local\": 2097152, "
                     "\"prefetch\": 7, \"unreachable\": \"stop\", "
                     "\"transport\": \"tcp\", \"mode\": \"user\""));
        said = info(qts, 1);
        g_assert_cmpstr(qdict_get_str(said, "id"), ==, "m");
        g_assert_cmpstr(qdict_get_str(said, "region"), ==, "made");
        g_assert_cmpstr(qdict_get_str(said, "transport"), ==, "tcp");
        g_assert_cmpstr(qdict_get_str(said, "mode"), ==, "user");
        g_assert_cmpstr(qdict_get_str(said, "unreachable"), ==, "stop");
        g_assert_cmpint(qdict_get_int(said, "size"), ==, 8 * MiB);
        g_assert_cmpint(qdict_get_int(said, "local"), ==, 2 * MiB);
        g_assert_cmpint(qdict_get_int(qdict_get_qdict(said, "prefetch"),
                                      "limit"), ==, 7);
        g_assert_cmpint(qdict_get_int(said, "resident"), ==, 0);
        g_assert_false(qdict_haskey(said, "shared"));
        qobject_unref(said);
        fails(add(qts, ""), "duplicate property 'm'");
        succeeds(del(qts, "m"));
        g_assert_null(info(qts, 0));
    }
    qtest_quit(qts);
}

/* One sentence for each, and nothing is left of what was refused. */
static void test_refused(void)
{
    static const struct {
        const char *properties, *words;
    } wrong[] = {
        { ", \"prealloc\": true", "cannot be preallocated" },
        { ", \"merge\": true", "cannot be merged" },
        { ", \"share\": true", "region=NAME and node=N" },
        { ", \"first\": \"on\"", "share=on, or leave out first=" },
        { ", \"share\": true, \"region\": \"r\", \"node\": 5, "
          "\"unreachable\": \"zero\"", "use unreachable=stall or sigbus" },
        { ", \"local\": 4096", "local must be from 1M" },
        { ", \"prefetch\": 257", "from 0 to 256 pages" },
        { ", \"unreachable\": \"panic\"", "panic" },
        { ", \"mode\": \"kernel\"", "use mode=user" },
        { ", \"transport\": \"pigeon\"", "transport pigeon: " },
        { ", \"region\": \"no/name\"", "a name of 1 to 63 of" },
        { ", \"region\": \"\"", "a name of 1 to 63 of" },
        { ", \"speed\": 3", "'speed' is unexpected" },
    };
    QTestState *qts = start_bare();

    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        g_test_message("%s", wrong[i].properties);
        fails(add(qts, wrong[i].properties), wrong[i].words);
        g_assert_null(info(qts, 0));
    }
    fails(qtest_qmp(qts, "{ 'execute': 'object-add', 'arguments': { "
                    "'qom-type': 'memory-backend-gvm', 'id': 'm', "
                    "'size': 65000, 'cluster': %s } }", node.cluster),
          "must be a multiple of 4096");
    fails(qtest_qmp(qts, "{ 'execute': 'object-add', 'arguments': { "
                    "'qom-type': 'memory-backend-gvm', 'id': 'm', "
                    "'size': 65536 } }"), "cluster=FILE, or GVM_CLUSTER");
    succeeds(add(qts, ""));
    qtest_quit(qts);
}

/* Budget and prefetch may be changed while it runs, and nothing else. */
static void test_changed(void)
{
    QTestState *qts = start_bare();
    QDict *said;

    succeeds(add(qts, ""));
    succeeds(set(qts, "/objects/m", "local", 3 * MiB));
    succeeds(set(qts, "/objects/m", "prefetch", 0));
    /* more than there is, and more than a pager can count, is all of it */
    succeeds(qtest_qmp(qts, "{ 'execute': 'qom-set', 'arguments': { "
                       "'path': '/objects/m', 'property': 'local', "
                       "'value': %" PRId64 " } }", (int64_t)(256 * TiB)));
    succeeds(set(qts, "/objects/m", "local", 3 * MiB));
    fails(set(qts, "/objects/m", "local", 4096), "local must be from 1M");
    fails(set(qts, "/objects/m", "prefetch", 257), "from 0 to 256 pages");
    fails(set(qts, "/objects/m", "node", 1), "cannot be changed while it runs");
    fails(set(qts, "/objects/m", "unreachable-ms", 1),
          "cannot be changed while it runs");
    fails(qtest_qmp(qts, "{ 'execute': 'qom-set', 'arguments': { "
                    "'path': '/objects/m', 'property': 'cluster', "
                    "'value': 'elsewhere' } }"),
          "cannot be changed while it runs");
    said = info(qts, 1);
    g_assert_cmpint(qdict_get_int(said, "local"), ==, 3 * MiB);
    g_assert_cmpint(qdict_get_int(qdict_get_qdict(said, "prefetch"), "limit"),
                    ==, 0);
    qobject_unref(said);
    succeeds(del(qts, "m"));
    succeeds(add(qts, ", \"local\": 281474976710656"));
    qtest_quit(qts);
}

#define CHUNK   (64 * KiB)
#define FROM    (1 * MiB)
#define UPTO    (31 * MiB)

static void fill(uint64_t addr, uint32_t *words)
{
    for (size_t i = 0; i < CHUNK / 4; i++) {
        words[i] = (uint32_t)(addr / 4 + i) * 2654435761u;
    }
}

/*
 * Memory of which a thirtieth is here is what was written to it; it cannot be
 * removed while a machine has it, nor can it be migrated or saved.
 */
static void test_used(void)
{
    QTestState *qts = start_pc("");
    uint32_t *wrote = g_malloc(CHUNK), *read = g_malloc(CHUNK);
    QDict *said;
    char *text;

    for (uint64_t addr = FROM; addr < UPTO; addr += CHUNK) {
        fill(addr, wrote);
        qtest_bufwrite(qts, addr, wrote, CHUNK);
    }
    fails(del(qts, "ram0"), "is in use");
    for (uint64_t addr = FROM; addr < UPTO; addr += CHUNK) {
        fill(addr, wrote);
        qtest_bufread(qts, addr, read, CHUNK);
        g_assert_cmpmem(read, CHUNK, wrote, CHUNK);
    }
    said = info(qts, 1);
    g_assert_cmpint(qdict_get_int(said, "fetched"), >, 20 * MiB);
    g_assert_cmpint(qdict_get_int(qdict_get_qdict(said, "write-back"),
                                  "written"), >, 20 * MiB);
    g_assert_cmpint(qdict_get_int(said, "held"), <, 4 * MiB);
    g_assert_cmpint(qdict_get_int(said, "lost"), ==, 0);
    qobject_unref(said);

    text = qtest_hmp(qts, "info gvm");
    g_assert_nonnull(strstr(text, "ram0: mode user, transport tcp"));
    g_assert_nonnull(strstr(text, "node 5 (127.0.0.1:"));
    g_free(text);
    text = qtest_hmp(qts, "savevm x");
    g_assert_nonnull(strstr(text, "Error"));
    g_free(text);
    fails(qtest_qmp(qts, "{ 'execute': 'migrate', "
                    "'arguments': { 'uri': 'tcp:127.0.0.1:1' } }"),
          "can be neither migrated nor saved");
    qtest_quit(qts);
    g_free(wrote);
    g_free(read);
}

static void about_node(QDict *event)
{
    QDict *data = qdict_get_qdict(event, "data");

    g_assert_cmpstr(qdict_get_str(data, "id"), ==, "ram0");
    g_assert_cmpint(qdict_get_int(data, "node"), ==, NODE);
    g_assert_cmpstr(qdict_get_str(data, "host"), ==, "127.0.0.1");
    g_assert_cmpint(qdict_get_int(data, "port"), ==, node.port);
}

static void status_is(QTestState *qts, const char *wanted)
{
    QDict *rsp = qtest_qmp(qts, "{ 'execute': 'query-status' }");

    g_assert_cmpstr(qdict_get_str(qdict_get_qdict(rsp, "return"), "status"),
                    ==, wanted);
    qobject_unref(rsp);
}

/*
 * A node that is killed and comes back, with a guest that does not stop for it
 * or does.
 */
static void test_events(const void *stops)
{
    QTestState *qts = start_pc(stops ? ",unreachable=stop" : "");
    QDict *event, *data;

    qtest_memset(qts, FROM, 0x5a, 8 * MiB);
    node_kill();
    event = qtest_qmp_eventwait_ref(qts, "GVM_NODE_LOST");
    about_node(event);
    data = qdict_get_qdict(event, "data");
    g_assert_cmpstr(qdict_get_str(data, "state"), ==, "away");
    g_assert_cmpstr(qdict_get_str(data, "action"), ==,
                    stops ? "stop" : "stall");
    qobject_unref(event);
    node_is(qts, "away");
    if (stops) {
        qtest_qmp_eventwait(qts, "STOP");
        status_is(qts, "io-error");
        succeeds(qtest_qmp(qts, "{ 'execute': 'cont' }"));
        qtest_qmp_eventwait(qts, "RESUME");
        qtest_qmp_eventwait(qts, "GVM_NODE_LOST");
        qtest_qmp_eventwait(qts, "STOP");
    }
    status_is(qts, stops ? "io-error" : "running");

    node_start();
    event = qtest_qmp_eventwait_ref(qts, "GVM_NODE_RECOVERED");
    about_node(event);
    qobject_unref(event);
    node_is(qts, "here");
    status_is(qts, stops ? "io-error" : "running");
    for (uint64_t addr = FROM; addr < FROM + 8 * MiB; addr += 4096) {
        g_assert_cmphex(qtest_readb(qts, addr), ==, 0x5a);
    }
    qtest_quit(qts);
}

#define RESET_CONTROL 0xcf9 /* of the PC's chipset: 6 resets the machine */

/*
 * A machine that is reset while its memory is away, by its guest or by QMP, is
 * when it is back; it runs then if it ran before.
 */
static void test_reset_later(const void *stops)
{
    QTestState *qts = start_pc(stops ? ",unreachable=stop" : "");
    const char *status = stops ? "io-error" : "running";

    qtest_memset(qts, FROM, 0x5a, 8 * MiB);
    node_kill();
    qtest_qmp_eventwait(qts, stops ? "STOP" : "GVM_NODE_LOST");
    qtest_outb(qts, RESET_CONTROL, 6);
    status_is(qts, status);
    succeeds(qtest_qmp(qts, "{ 'execute': 'system_reset' }"));
    status_is(qts, status);
    g_assert_null(qtest_qmp_event_ref(qts, "RESET"));
    node_start();
    qtest_qmp_eventwait(qts, "GVM_NODE_RECOVERED"); /* the first of the two */
    qtest_qmp_eventwait(qts, "RESET");
    status_is(qts, stops ? "prelaunch" : "running");
    succeeds(qtest_qmp(qts, "{ 'execute': 'cont' }"));
    status_is(qts, "running");
    for (uint64_t addr = FROM; addr < FROM + 8 * MiB; addr += 4096) {
        g_assert_cmphex(qtest_readb(qts, addr), ==, 0x5a);
    }
    qtest_quit(qts);
}

/* One whose memory is lost is not; if its guest wants it, it is stopped. */
static void test_reset_never(void)
{
    QTestState *qts = start_pc("");
    bool lost = false;

    qtest_memset(qts, FROM, 0x5a, 8 * MiB);
    node_kill();
    forget("image");
    node_start();
    while (!lost) {
        QDict *event = qtest_qmp_eventwait_ref(qts, "GVM_NODE_LOST");

        lost = !strcmp(qdict_get_str(qdict_get_qdict(event, "data"), "state"),
                       "lost");
        qobject_unref(event);
    }
    qtest_outb(qts, RESET_CONTROL, 6);
    qtest_qmp_eventwait(qts, "STOP");
    status_is(qts, "internal-error");
    succeeds(qtest_qmp(qts, "{ 'execute': 'system_reset' }"));
    fails(qtest_qmp(qts, "{ 'execute': 'cont' }"), "Resetting");
    status_is(qts, "internal-error");
    qtest_quit(qts);
}

/*
 * Memory that is plugged nowhere does not stop a machine when its node is away
 * or has lost it, nor keep it from being reset; when it is plugged it does.
 */
static void test_spare(void)
{
    QTestState *qts = qtest_init("-machine pc -m 32,slots=1,maxmem=64M "
                                 "-nodefaults");

    succeeds(add(qts, ", \"unreachable\": \"stop\""));
    node_kill();
    forget("image");
    qtest_qmp_eventwait(qts, "GVM_NODE_LOST");
    succeeds(qtest_qmp(qts, "{ 'execute': 'system_reset' }"));
    qtest_qmp_eventwait(qts, "RESET");
    status_is(qts, "running");
    node_start();
    qtest_qmp_eventwait(qts, "GVM_NODE_LOST"); /* for good */
    succeeds(qtest_qmp(qts, "{ 'execute': 'system_reset' }"));
    qtest_qmp_eventwait(qts, "RESET");
    status_is(qts, "running");
    succeeds(qtest_qmp(qts, "{ 'execute': 'device_add', 'arguments': { "
                       "'driver': 'pc-dimm', 'memdev': 'm' } }"));
    qtest_qmp_eventwait(qts, "STOP");
    status_is(qts, "internal-error");
    qtest_quit(qts);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    if (!g_getenv("GVM_MEMSRV")) {
        g_test_message("GVM_MEMSRV does not name a gvm-memsrv");
        return g_test_run(); /* of no tests: "1..0" */
    }
    nodes_begin();
    qtest_add_func("/gvm/made-and-removed", test_made_and_removed);
    qtest_add_func("/gvm/refused", test_refused);
    qtest_add_func("/gvm/changed", test_changed);
    qtest_add_func("/gvm/used", test_used);
    qtest_add_data_func("/gvm/events/stall", NULL, test_events);
    qtest_add_data_func("/gvm/events/stop", "", test_events);
    qtest_add_data_func("/gvm/reset/later", NULL, test_reset_later);
    qtest_add_data_func("/gvm/reset/later-stopped", "", test_reset_later);
    qtest_add_func("/gvm/reset/never", test_reset_never);
    qtest_add_func("/gvm/spare", test_spare);
    ret = g_test_run();
    nodes_end();
    return ret;
}
