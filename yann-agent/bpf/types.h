/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What lies in the maps and on the wire, as C structs. The same layouts in Rust: yann-agent/core/src/maps.rs and
 * dataplane/wire; the bits are explained in docs/protocol.md.
 *
 * Numbers in maps are in the host's byte order, on the wire in network order (be…). Member ids: 0 = nobody.
 */
#ifndef JLB_TYPES_H
#define JLB_TYPES_H

#include <linux/types.h>
#include <stdbool.h>

typedef __u16 be16;
typedef __u32 be32;
typedef __u64 be64;

#define NSEC_PER_MSEC 1000000ULL
#define NSEC_PER_SEC 1000000000ULL

/* docs/protocol.md, section 6; core/src/maps.rs. */
#define ANSWER_LIFETIME (8 * NSEC_PER_SEC)
#define UDP_REJECT_LIFETIME (4 * NSEC_PER_SEC)
/* A packet whose flow is not here makes an event: 1000 per second and CPU, and so many at once. */
#define NOT_MINE_INTERVAL NSEC_PER_MSEC
#define NOT_MINE_BURST 256
#define HEARTBEAT_LIMIT (300 * NSEC_PER_MSEC)
#define NO_SOCKET_LIMIT (3 * NSEC_PER_SEC)
#define COOKIE_LIMIT (70 * NSEC_PER_SEC)
#define EGRESS_LIMIT (300 * NSEC_PER_MSEC)
#define INGRESS_HOSTS 4
#define MAX_EGRESS 64
#define MAX_MEMBER 4095
#define MAX_WORKERS 16
#define MAX_TRIED 4
#define HOP_BUDGET 6

enum { ETH_LEN = 14, IPV4_LEN = 20, IPV6_LEN = 40, UDP_LEN = 8, TCP_LEN = 20, GENEVE_LEN = 8 };
enum { PROTO_TCP = 6, PROTO_UDP = 17 };
enum { TYPE_IPV4 = 0x0800, TYPE_IPV6 = 0x86dd, TYPE_BODY = 0x88b5 };

#define ECN_MASK 3
#define ECN_ECT1 1
#define ECN_ECT0 2
#define ECN_CE 3

/* enum drop_reason: DROP_TRUNCATED … and DROP_REASONS, made from dataplane/role/src/reason.rs by daemon/build.rs. */
#include "reasons.h"

/* The canonical five-tuple, padded: client → VIP. IPv4: 4 | 4 | 2 | 2 | 1 | 4 | 0 …; IPv6: 16 | 16 | 2 | 2 | 1 | 6 | 0 0. */
struct tuple {
	union {
		__u8 bytes[40];
		__u32 words[10];
		__u64 longs[5];
	};
};

/* ---- maps ---- */

enum { FLOW_ADMITTED = 1, FLOW_ACCEPTED = 2, FLOW_ESTABLISHED = 3 };
enum { FLOW_FORCE = 1, FLOW_COOKIES = 2 };
/* Slot of a flow whose service is gone. */
#define NO_SERVICE 0xffff

struct flow {
	__u32 incarnation;
	__u32 cookie;
	__u64 counter;
	__u64 admitted;
	__u64 last_packet;
	__u64 socket_seen;
	__u64 hash;
	__u16 head;
	__u16 second;
	__u16 asker;
	__u16 service;
	__u16 ingress[INGRESS_HOSTS];
	__u16 queue;
	__u8 state;
	__u8 flags;
	__u8 tries;
	__u8 pad[3];
};
_Static_assert(sizeof(struct flow) == 72, "as in core/src/maps.rs");

enum { ANSWER_REJECTED = 1, ANSWER_CLOSED = 2 };

struct answer_key {
	struct tuple tuple;
	__u32 incarnation;
	__u8 force;
	__u8 pad[3];
};
_Static_assert(sizeof(struct answer_key) == 48, "as in core/src/maps.rs");

struct answer {
	__u64 at;
	__u64 counter;
	__u16 ingress[INGRESS_HOSTS];
	__u16 service;
	__u8 kind;
	__u8 reason;
	__u8 pad[4];
};
_Static_assert(sizeof(struct answer) == 32, "as in core/src/maps.rs");

struct service_key {
	__u32 vip[4]; /* IPv4: the first word */
	be16 port;
	__u8 protocol;
	__u8 family;
};
_Static_assert(sizeof(struct service_key) == 20, "as in core/src/maps.rs");

/* Any other is the enum reject_reason for which this host says itself that it refuses. */
enum { ADMISSION_ACCEPT = 1, ADMISSION_REFUSE = 2 };
enum { RETURN_EGRESS = 1, RETURN_DIRECT = 2 };

struct service {
	__u32 max_connections;
	__u16 slot;
	__u8 admission;
	__u8 return_path;
};
_Static_assert(sizeof(struct service) == 8, "as in core/src/maps.rs");

struct address_key {
	__u32 address[4]; /* IPv4: the first word */
	__u8 family;
	__u8 pad[3];
};
_Static_assert(sizeof(struct address_key) == 20, "as in core/src/maps.rs");

struct vip {
	__u8 return_path;
	__u8 pad[3];
};

enum { ROLE_INGRESS = 1, ROLE_FLOWTRACKER = 2, ROLE_BACKEND = 3 };
enum { MEMBER_V4 = 1, MEMBER_V6 = 2 };

struct member {
	__u32 v6[4];
	be32 v4;
	__u8 role;
	__u8 families;
	__u8 pad[2];
};
_Static_assert(sizeof(struct member) == 24, "as in core/src/maps.rs");

struct member_at {
	__u16 id;
	__u8 role;
	__u8 pad;
};

/* What a tracker's votes are worth since one of them decided alone. A bit per worker. */
struct standing {
	__u16 shut_out;
	__u16 obeyed;
	__u8 number;
	__u8 pad[3];
};
_Static_assert(sizeof(struct standing) == 8, "core/src/maps.rs");

struct window_key {
	__u16 member;
	__u8 worker;
	__u8 pad;
};

struct window {
	__u64 highest;
	__u64 seen[16];
};
_Static_assert(sizeof(struct window) == 136, "as in core/src/maps.rs");

struct egress {
	__u64 heard;
	__u16 member;
	__u8 pad[6];
};

enum { HOST_OTHER_KEY = 1, HOST_DRAIN = 2, HOST_PREFER_V6 = 4, HOST_V4 = 8, HOST_V6 = 16 };

struct host {
	__u64 hash_key[2];
	__u64 mac_key[2];
	__u64 other_mac_key[2];
	__u32 v6[4];
	be32 v4;
	__u32 epoch;
	__u64 generation;
	__u64 digest;
	__u32 flow_capacity;
	__u16 id;
	__u16 port;
	__u16 flags;
	__u16 cpu;
	__u16 egress_hosts;
	__u8 oldest_version;
	__u8 newest_version;
	__u32 max_connections;
	__u8 pad_2[4];
};
_Static_assert(sizeof(struct host) == 112, "as in core/src/maps.rs");

/* What makes this backend's word a new one. Pinned: it outlives the daemon. */
struct word {
	__u64 boot;
	__u64 counter;
	__u64 sequence;
};

enum event_kind {
	EVENT_SYN_ACK_SEEN = 1,
	EVENT_UDP_ADMITTED,
	EVENT_REPEAT_ACCEPT,
	EVENT_CANCELLED_BUT_LIVE,
	EVENT_CLOSED,
	EVENT_REPEAT_CLOSE,
	EVENT_LEARN,
	EVENT_NOT_MINE,
};

struct event {
	__u8 kind;
	__u8 flags;
	__u16 peer;
	__u32 incarnation;
	__u64 counter;
	struct tuple tuple;
	__u32 cookie;
	__u16 head;
	__u16 second;
	__u16 asker;
	__u16 queue;
	__u16 ingress[INGRESS_HOSTS];
	__u16 service;
	__u8 pad[2];
	__u32 live; /* flows of the service, this one as it is now */
	__u8 pad_2[4];
};
_Static_assert(sizeof(struct event) == 88, "as in core/src/maps.rs");

/* ---- wire ---- */

enum kind { OPEN = 1, ACCEPT, REJECT, CANCEL, QUERY, STATE, NOT_MINE, CLOSE };
enum { FORCE = 1, INCUMBENT = 2, FINAL = 4, CUT = 8, PANIC = 0x100, KNOWN_FLAGS = 0x1ff };
enum reject_reason {
	REJECT_NONE,
	REJECT_NO_LISTENER,
	REJECT_QUEUE_FULL,
	REJECT_MAX_CONNECTIONS,
	REJECT_REFUSE,
	REJECT_TABLE_FULL,
	REJECT_AGENT_DOWN,
	REJECT_DRAIN,
	REJECT_CANCELLED,
	REJECT_EXHAUSTED,
	REJECT_NOT_SERVED,
	REJECT_BUSY,
	REJECT_UNHEALTHY,
	REJECT_OVERLOADED,
	REJECT_DOWN,
	REJECT_REASONS,
};

#define OPTION_CLASS 0xff4a
#define OPTION_TYPE 0x81

struct control {
	__u8 kind;
	__u8 version;
	__u8 hop_budget;
	__u8 reject_ttl;
	be32 epoch;
	be32 incarnation;
	be32 cookie;
	be16 ingress;
	be16 head;
	be16 second;
	be16 backend;
	be16 sender;
	be16 receiver;
	be16 flags;
	__u8 reason;
	__u8 reserved;
	be16 queue;
	be16 cpu;
	be16 tried[MAX_TRIED];
	be32 live; /* in an Open: the bar */
	be64 boot;
	be64 sequence;
	be64 word_a;
	be64 word_b;
	be64 mac;
};
_Static_assert(sizeof(struct control) == 88, "docs/protocol.md, section 2");

enum { BODY_PROBE = 1, BODY_LAST = 4 };
#define PROBE_PAYLOAD 24
enum { PROBE_ANSWER = 1, PROBE_LEAVING = 2, PROBE_OBEYS = 8 };

/* A Probe without a list of silent backends: the only body that is answered here. */
struct probe {
	__u8 kind;
	__u8 version;
	be16 flags;
	be32 epoch;
	be16 sender;
	be16 receiver;
	be16 length;
	be16 reserved;
	be64 boot;
	be64 sequence;
	be64 nonce;
	be64 generation;
	be64 digest;
	be32 heartbeat_age_ms;
	__u8 worker;
	__u8 shut_out;
	be16 silent;
	be64 mac;
};
_Static_assert(sizeof(struct probe) == 72, "docs/protocol.md, section 3");

#endif
