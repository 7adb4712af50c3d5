/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The wire format: every byte that two gvmnet nodes exchange is laid out here and nowhere else.
 *
 * Little-endian, fixed width. Structures below are the decoded form, in host order; the encoders
 * and decoders in wire.c know the offsets (docs/wire.md has the pictures). Nothing here allocates,
 * calls the system or knows a socket, so the same files compile in the kernel.
 *
 * Decoders take a buffer and its length, check everything that can be checked without knowing the
 * receiver's state, and return 0 or -GVM_EPROTO (a positive constant negated): they never read
 * past the length that they are given.
 */
#ifndef GVM_WIRE_H
#define GVM_WIRE_H

#ifdef __KERNEL__
#include <linux/types.h>
#else
#include <stddef.h>
#include <stdint.h>
#endif

#define GVM_WIRE_MAGIC     0xA7u /* first byte of each frame */
#define GVM_WIRE_PROTO_MIN 1u    /* protocol versions that this code speaks */
#define GVM_WIRE_PROTO_MAX 1u
#define GVM_WIRE_HDR_LEN   48u        /* bytes of a frame's header */
#define GVM_WIRE_MSG_MAX   8192u      /* bytes of payload of a message (not of a fetch or a put) */
#define GVM_WIRE_XFER_MAX  (1u << 20) /* bytes one fetch or put may move */
#define GVM_WIRE_PAGE      4096u      /* bytes of a page, in frames of coherence */

#define GVM_WIRE_NODE_MAX  10240u  /* legal node ids are 0 to 10,239 */
#define GVM_WIRE_NODE_NONE 0xFFFFu /* a client that is not in the cluster file */

#define GVM_WIRE_NAME_MAX  63u /* bytes of a region's or cluster's name, without terminator */
#define GVM_WIRE_MAC_LEN   32u
#define GVM_WIRE_NONCE_LEN 32u
#define GVM_REFUSED_MAX    256u /* bytes of the sentence in REFUSED, without terminator */

/* What a frame is. Numbers are the protocol's: never reuse one. */
enum gvm_wire_type {
	/* the handshake and the connection itself (core) */
	GVM_T_HELLO = 1,     /* connecting side: who I am, what I speak, nonce */
	GVM_T_CHALLENGE = 2, /* listening side: the same, nonce */
	GVM_T_PROOF = 3,     /* connecting side: MAC over both */
	GVM_T_READY = 4,     /* listening side: MAC over both; the connection is open */
	GVM_T_REFUSED = 5,   /* either side: status and a sentence; the connection ends */
	GVM_T_PING = 6,
	GVM_T_PONG = 7,
	GVM_T_CREDIT = 8, /* nothing but the header's credits */
	GVM_T_BYE = 9, /* orderly end: no new operations, the sender will close; arg = GVM_BYE_* */

	/* one-sided operations, where the hardware has none (providers) */
	GVM_T_FETCH = 16,   /* region = memory key, page = byte offset, arg = length */
	GVM_T_FETCHED = 17, /* status; payload = the bytes, or none and GVM_F_ZERO */
	GVM_T_PUT = 18,     /* region = memory key, page = byte offset; payload = the bytes */
	GVM_T_STORED = 19,  /* status */
	/* and where there is some, how to reach the memory with it (docs/rdma.md) */
	GVM_T_MAP = 20,      /* region = memory key */
	GVM_T_MAPPED = 21,   /* status; the body is a gvm_mapped */
	GVM_T_UNMAP = 22,    /* region = memory key that is being withdrawn */
	GVM_T_UNMAPPED = 23, /* the same: nothing uses it any more */

	/* regions (a client and a memory node); replies have the request's xid */
	GVM_T_REGION_OPEN = 32,
	GVM_T_REGION_CLOSE = 33,
	GVM_T_REGION_DELETE = 34,
	GVM_T_REGION_RESIZE = 35, /* page = new size in pages, arg = slabs of it on this node */
	GVM_T_REGION_CLONE = 36,  /* snapshot: what a forked child sees */
	GVM_T_SLAB_GRANT = 37,    /* give this slab memory that I may write; answer its key */
	GVM_T_SLAB_LIST = 38,     /* which slabs of the region have memory, and their keys */
	GVM_T_DISCARD = 39,       /* these pages read as zeros from now on */
	GVM_T_REGION_LIST = 40,
	GVM_T_NODE_STAT = 41, /* the node's statistics as JSON */
	/* 43 to 62: coherence, in wire/coherence.h */
	GVM_T_REPLY = 63, /* the answer to any of them: status, body */

	GVM_T_USER = 64, /* 64 to 255: the application's own messages */
};

#define GVM_BYE_REST 1u /* the connecting side will be back; the listening side: I know */

/* Header flags. Bits not named must be zero. */
#define GVM_F_ZERO 0x0001u /* the pages are all zeros and are not in the payload */
#define GVM_F_MORE 0x0002u /* a list goes on: ask again from where this ended */
#define GVM_F_ALL  0x0003u

/* Status codes on the wire; gvm_wire_errno() and gvm_wire_status() translate. */
enum gvm_wire_status {
	GVM_ST_OK = 0,
	GVM_ST_PROTO = 1,    /* malformed or out of turn            EPROTO */
	GVM_ST_AUTH = 2,     /* the key is not the same             EACCES */
	GVM_ST_VERSION = 3,  /* no protocol version in common       EPROTONOSUPPORT */
	GVM_ST_CLUSTER = 4,  /* another cluster, node or map        EXDEV */
	GVM_ST_BUSY = 5,     /* held by another client              EBUSY */
	GVM_ST_NOENT = 6,    /* no such region, generation or key   ENOENT */
	GVM_ST_EXIST = 7,    /* exists already                      EEXIST */
	GVM_ST_RANGE = 8,    /* outside the region or the memory    ERANGE */
	GVM_ST_ACCESS = 9,   /* this client may not do that         EPERM */
	GVM_ST_NOSPACE = 10, /* memory, quota or image disk is full ENOSPC */
	GVM_ST_NOMEM = 11,   /* the node could not allocate         ENOMEM */
	GVM_ST_INVAL = 12,   /* an argument makes no sense          EINVAL */
	GVM_ST_NOTSUP = 13,  /* not offered by this node            EOPNOTSUPP */
	GVM_ST_DRAIN = 14,   /* the node is going away              ESHUTDOWN */
	GVM_ST_IO = 15,      /* the data is damaged or gone         EIO */
	GVM_ST_EPOCH = 16,   /* another cluster map                 ESTALE */
	GVM_ST_LIMIT = 17,   /* too many connections, requests, regions  EUSERS */
	GVM_ST_MAX
};

/* The header that begins each frame: 48 bytes on the wire, offsets in wire.c. */
struct gvm_hdr {
	uint8_t type;     /* enum gvm_wire_type */
	uint16_t flags;   /* GVM_F_* */
	uint16_t status;  /* enum gvm_wire_status */
	uint16_t credits; /* messages that the receiver of this frame may send in addition */
	uint32_t length;  /* bytes of payload that follow */
	uint32_t epoch;   /* of the sender's cluster map */
	uint64_t xid;     /* names a request and its answer, per connection */
	uint64_t region;  /* region id, or memory key */
	uint64_t page;    /* page index, or byte offset */
	uint64_t arg;     /* by type */
};

#define GVM_EPROTO 71 /* Linux's EPROTO, so that this header needs no errno.h */

/* Write the 48 bytes of h at buf. h must be well formed (the caller made it). */
void gvm_hdr_encode(uint8_t *buf, const struct gvm_hdr *h);
/*
 * Read a header from the 48 bytes at buf. -GVM_EPROTO: bad magic, unknown type, a flag or status
 * that is undefined or that the type does not have (requests have no status, only FETCHED has ZERO,
 * only REPLY has MORE; the application's types have all), or a length that the type does not allow
 * (message > GVM_WIRE_MSG_MAX, transfer > GVM_WIRE_XFER_MAX, FETCH or STORED with a payload, a
 * body of fixed length that has another, FETCHED with neither bytes nor ZERO, ...).
 */
int gvm_hdr_decode(const uint8_t *buf, struct gvm_hdr *h);

/* -errno of a wire status, and back (either sign). A number not in the table is EPROTO, an errno
 * not in it IO. */
int gvm_wire_errno(unsigned status);
unsigned gvm_wire_status(int err);
/* Short English name of a frame type or status ("FETCH", "busy"), never NULL. */
const char *gvm_wire_type_name(unsigned type);
const char *gvm_wire_status_name(unsigned status);

/* Bodies. Each has _LEN where it is fixed, an encoder that returns the bytes written, and a
 * decoder. */

/* HELLO and CHALLENGE: 136 bytes. */
struct gvm_hello {
	uint64_t magic;                /* GVM_HELLO_MAGIC */
	uint16_t proto_min, proto_max; /* CHALLENGE: both the chosen one */
	uint16_t node;                 /* sender's id or GVM_WIRE_NODE_NONE */
	uint16_t to_node;     /* whom the sender believes to speak to, or GVM_WIRE_NODE_NONE */
	uint32_t features;    /* GVM_FEAT_* */
	uint16_t credits;     /* messages that the receiver may send before it hears of more */
	uint16_t max_fetch;   /* one-sided operations that the receiver may have under way */
	uint64_t incarnation; /* drawn at each start of the sender; never 0 */
	uint64_t map_digest;  /* of the sender's cluster map; 0: has none */
	uint8_t nonce[GVM_WIRE_NONCE_LEN];
	char cluster[GVM_WIRE_NAME_MAX + 1]; /* cluster's name, zero-padded; empty: has no map */
};
#define GVM_HELLO_LEN   136u
#define GVM_HELLO_MAGIC 0x31544e4d56475f5fULL
#define GVM_FEAT_KEY    0x1u /* I have a pre-shared key and demand the proof */

size_t gvm_hello_encode(uint8_t *buf, const struct gvm_hello *m);
int gvm_hello_decode(const uint8_t *buf, size_t len, struct gvm_hello *m);

/* MAPPED: 32 bytes with status 0, else none. Byte b of the memory is at base + b. */
struct gvm_mapped {
	uint64_t rkey;   /* the device's key */
	uint64_t base;   /* where the memory begins, as the device has it */
	uint64_t len;    /* bytes, not 0; base + len does not overflow */
	uint32_t access; /* 1: may be read, 2: written; not 0 */
};
#define GVM_MAPPED_LEN 32u

/*
 * The header of a cell: 16 bytes, behind which comes a piece of the stream of frames, where frames
 * travel in messages of the hardware (docs/rdma.md).
 */
struct gvm_cell {
	uint8_t flags;     /* GVM_CELL_* */
	uint16_t credits;  /* cells that the receiver of this one may send in addition */
	uint16_t returned; /* credits of the sender's that it gives up */
	uint64_t provider; /* the provider's, or 0 */
};
#define GVM_CELL_LEN    16u
#define GVM_CELL_MAGIC  0xA8u
#define GVM_CELL_RECALL 1u /* the receiver of this one is to give up what it does not need */

/*
 * What two nodes tell each other over a TCP connection of their own before they use libfabric: each
 * of these once in each direction, the connecting side first. A proof and a name end with a proof of
 * the key over all that was said on the connection before it. Later, in either direction, at an
 * orderly end: 16 bytes.
 */
struct gvm_ofi_hello {
	uint64_t magic;    /* GVM_OFI_HELLO_MAGIC */
	uint32_t features; /* GVM_FEAT_KEY; others are ignored */
	uint32_t reserved;
	uint8_t nonce[32]; /* fresh random bytes */
	char provider[40]; /* libfabric's name of it, zero-padded */
	uint8_t
	    machine[16]; /* of a provider that reaches its own machine only: which; else zeros */
};
/* 216 zeros are its end: a side of an earlier version reads as much before it sees which it is. */
#define GVM_OFI_HELLO_LEN   320u
#define GVM_OFI_HELLO_MAGIC 0x3449464f4d564711ULL
struct gvm_ofi_proof {
	uint64_t magic;  /* GVM_OFI_PROOF_MAGIC */
	uint32_t status; /* 0, or GVM_ST_AUTH: the receiver's proof is refused */
	uint32_t reserved;
	uint8_t mac[32];
};
#define GVM_OFI_PROOF_LEN   48u
#define GVM_OFI_PROOF_MAGIC 0x5049464f4d564711ULL
struct gvm_ofi_name {
	uint64_t magic;    /* GVM_OFI_NAME_MAGIC */
	uint64_t id;       /* what cells to the sender have in provider; not 0, and drawn at random */
	uint32_t name_len; /* 1 to 240 */
	uint32_t reserved;
	uint8_t name[240]; /* the sender's address, as the provider has it; zero-padded */
	uint8_t mac[32];
};
#define GVM_OFI_NAME_LEN   296u
#define GVM_OFI_NAME_MAGIC 0x4e49464f4d564711ULL
struct gvm_ofi_end {
	uint64_t magic; /* GVM_OFI_END_MAGIC */
	uint64_t cells; /* that the sender has sent: wait for them */
};
#define GVM_OFI_END_LEN   16u
#define GVM_OFI_END_MAGIC 0x3249464f4d564711ULL

/* REGION_OPEN: 104 bytes. Header: region = the region's id. */
struct gvm_region_open {
	char name[GVM_WIRE_NAME_MAX + 1]; /* [A-Za-z0-9._-], not empty, zero-padded */
	uint64_t pages;       /* size of the region in pages; 0 with no CREATE: as it is */
	uint64_t generation;  /* 0: any; else the region must have this one */
	uint64_t share_slabs; /* slabs that the client's map places on this node */
	uint32_t slab_pages;  /* pages of a slab, a power of two */
	uint32_t page_size;   /* bytes; 4096 */
	uint32_t flags;       /* GVM_RO_* */
	/* how long the region stays held, or alive, after the last session; SHARED: within which
	 * the member gives up its pages when it does not hear of the node any more */
	uint32_t linger_ms;
};
#define GVM_REGION_OPEN_LEN 104u
#define GVM_RO_CREATE       0x1u /* make it if it is not there */
#define GVM_RO_EXCL         0x2u /* with CREATE: refuse if it is there */
#define GVM_RO_EPHEMERAL    0x4u /* delete it when its client has gone */
#define GVM_RO_READONLY     0x8u
#define GVM_RO_SHARED       0x10u /* coherent, for any number of clients; also of one that is */
#define GVM_RO_ALL          0x1Fu

/* The reply's body to REGION_OPEN and REGION_CLONE: 48 bytes. */
struct gvm_region_opened {
	uint64_t generation; /* drawn when the region was made; proves that data survived */
	uint64_t pages;
	uint64_t slabs_used;  /* slabs that have memory on this node */
	uint64_t incarnation; /* of the memory node */
	uint32_t slab_pages;
	uint32_t page_size;
	uint32_t flags; /* GVM_RO_CREATE: it was made by this request */
	uint32_t reserved;
};
#define GVM_REGION_OPENED_LEN 48u

/* REGION_CLONE. Header: region = source's id; body: 80 bytes. */
struct gvm_region_clone {
	char name[GVM_WIRE_NAME_MAX + 1]; /* the clone's; its id goes with it */
	uint64_t id;
	uint32_t flags; /* GVM_RO_EPHEMERAL */
	uint32_t linger_ms;
};
#define GVM_REGION_CLONE_LEN 80u

/*
 * REGION_CLOSE, REGION_DELETE: the header's region says it all. REGION_RESIZE: page = the new size
 * in pages (not 0), arg = how many slabs of it the client's map places on this node. Their replies
 * have no body. NODE_STAT: the reply's body is JSON text.
 *
 * REGION_OPEN, REGION_DELETE, REGION_LIST and NODE_STAT may come at any time. The others want the
 * region to be open on the same connection, else the answer is NOENT: a node that has lost a region
 * can so never take a grant for the beginning of a new one. DELETE wants that nobody but this
 * client holds it. DISCARD takes a slab's storage and key away, and the slab from the list, only
 * where one run covers all of the slab that lies in the region: a client that finds a slab missing
 * from the list without having discarded it whole knows that its data is lost.
 */

/*
 * SLAB_LIST. Header: region, page = first slab index, arg = most entries wanted. The reply has
 * entries of 16 bytes, ascending, GVM_F_MORE when there are further ones. SLAB_GRANT: page = slab
 * index; the reply has one entry.
 */
struct gvm_slab_entry {
	uint64_t slab; /* index in the region; bit 63: key gives read access only */
	uint64_t key;  /* memory key for fetch and put; never 0 */
};
#define GVM_SLAB_ENTRY_LEN 16u
#define GVM_SLAB_READONLY  (1ULL << 63)

/* DISCARD. Header: region; body: up to GVM_DISCARD_MAX runs of 16 bytes. */
struct gvm_page_run {
	uint64_t page;
	uint64_t count; /* pages, not 0; page + count does not overflow */
};
#define GVM_PAGE_RUN_LEN 16u
#define GVM_DISCARD_MAX  (GVM_WIRE_MSG_MAX / GVM_PAGE_RUN_LEN)

/* REGION_LIST. Header: page = skip so many. The reply: entries of 112 bytes, GVM_F_MORE. */
struct gvm_region_entry {
	char name[GVM_WIRE_NAME_MAX + 1];
	uint64_t id;
	uint64_t pages;
	uint64_t slabs_used;
	uint64_t generation;
	uint64_t holder; /* 0: nobody; else stands for the client that holds it, on this node, until
			  * its end; not the incarnation, which is a secret */
	uint32_t flags;  /* GVM_RO_EPHEMERAL */
	uint32_t sessions; /* connections of its holder */
};
#define GVM_REGION_ENTRY_LEN 112u

/*
 * The reply's body where its status is GVM_ST_NOSPACE, if the node knows what is full: 4 bytes, so
 * that its client's log can say where more room is to be had. Without a body, or with a number that
 * is not known, it is any of them.
 */
enum gvm_full {
	GVM_FULL_UNKNOWN = 0,
	GVM_FULL_MEMORY = 1, /* what the node offers is promised, or used */
	GVM_FULL_QUOTA = 2,  /* one region may not have more */
	GVM_FULL_DISK = 3,   /* the disk of its image */
};
#define GVM_FULL_LEN 4u

size_t gvm_mapped_encode(uint8_t *buf, const struct gvm_mapped *m);
int gvm_mapped_decode(const uint8_t *buf, size_t len, struct gvm_mapped *m);
size_t gvm_cell_encode(uint8_t *buf, const struct gvm_cell *m);
int gvm_cell_decode(const uint8_t *buf, size_t len, struct gvm_cell *m);
size_t gvm_ofi_hello_encode(uint8_t *buf, const struct gvm_ofi_hello *m);
int gvm_ofi_hello_decode(const uint8_t *buf, size_t len, struct gvm_ofi_hello *m);
size_t gvm_ofi_proof_encode(uint8_t *buf, const struct gvm_ofi_proof *m);
int gvm_ofi_proof_decode(const uint8_t *buf, size_t len, struct gvm_ofi_proof *m);
size_t gvm_ofi_name_encode(uint8_t *buf, const struct gvm_ofi_name *m);
int gvm_ofi_name_decode(const uint8_t *buf, size_t len, struct gvm_ofi_name *m);
size_t gvm_ofi_end_encode(uint8_t *buf, const struct gvm_ofi_end *m);
int gvm_ofi_end_decode(const uint8_t *buf, size_t len, struct gvm_ofi_end *m);
size_t gvm_region_open_encode(uint8_t *buf, const struct gvm_region_open *m);
int gvm_region_open_decode(const uint8_t *buf, size_t len, struct gvm_region_open *m);
size_t gvm_region_opened_encode(uint8_t *buf, const struct gvm_region_opened *m);
int gvm_region_opened_decode(const uint8_t *buf, size_t len, struct gvm_region_opened *m);
size_t gvm_region_clone_encode(uint8_t *buf, const struct gvm_region_clone *m);
int gvm_region_clone_decode(const uint8_t *buf, size_t len, struct gvm_region_clone *m);
size_t gvm_slab_entry_encode(uint8_t *buf, const struct gvm_slab_entry *m);
int gvm_slab_entry_decode(const uint8_t *buf, size_t len, struct gvm_slab_entry *m);
size_t gvm_page_run_encode(uint8_t *buf, const struct gvm_page_run *m);
int gvm_page_run_decode(const uint8_t *buf, size_t len, struct gvm_page_run *m);
size_t gvm_region_entry_encode(uint8_t *buf, const struct gvm_region_entry *m);
int gvm_region_entry_decode(const uint8_t *buf, size_t len, struct gvm_region_entry *m);

size_t gvm_full_encode(uint8_t *buf, enum gvm_full full);
enum gvm_full gvm_full_decode(const uint8_t *buf, size_t len);

/* Is name (zero-padded, in GVM_WIRE_NAME_MAX + 1 bytes) a legal region or cluster name? */
int gvm_wire_name_ok(const char *name);

#endif
