/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The maps. All of them are pinned, and all are bounded; the daemon sets the sizes of flows and answers. */
#ifndef JLB_MAPS_H
#define JLB_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "types.h"

enum tally {
	TALLY_ADMITTED,
	TALLY_ACCEPTED,
	TALLY_ESTABLISHED,
	TALLY_UDP,
	TALLY_REJECTED,
	TALLY_CLOSED,
	TALLIES,
};

#define MAX_SLOTS 1024
/* Five-tuples are decided on under one of so many locks. */
#define LOCKS 4096
#define PARTITIONS 4096

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct host);
	__uint(max_entries, 1);
} host SEC(".maps");

/* Of its own, since the daemon writes it while the programs count in `word`. Nanoseconds of CLOCK_MONOTONIC. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} heartbeat SEC(".maps");

/* Inode number of the network namespace, since tracing programs see all of them. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
} namespace SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct word);
	__uint(max_entries, 1);
} word SEC(".maps");

/* Which layout the pinned maps have, so that another version does not take them over. The daemon's alone. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
} layout SEC(".maps");

/* How often the user half has started. The daemon's alone. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} starts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct tuple);
	__type(value, struct flow);
	__uint(max_entries, 262144);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct answer_key);
	__type(value, struct answer);
	__uint(max_entries, 262144);
} answers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct service_key);
	__type(value, struct service);
	__uint(max_entries, 16 * MAX_SLOTS);
} services SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct address_key);
	__type(value, struct vip);
	__uint(max_entries, 16 * MAX_SLOTS);
} vips SEC(".maps");

/* Live flows, by the slot of their service. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, MAX_SLOTS);
} live SEC(".maps");

/* Live flows of all services. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
} live_all SEC(".maps");

/* What the last sweep found: enum tally. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, TALLIES);
} tally SEC(".maps");

/* Decisions, by slot × 16 + reject reason (0: admitted). */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, MAX_SLOTS * 16);
} decisions SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct member);
	__uint(max_entries, MAX_MEMBER + 1);
} members SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct address_key);
	__type(value, struct member_at);
	__uint(max_entries, 2 * MAX_MEMBER);
} member_addresses SEC(".maps");

/* The boot id that answered our latest Probe; 0: not known. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, MAX_MEMBER + 1);
} boots SEC(".maps");

/* By partition: the tracker that alone decides there; 0: two do. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u16);
	__uint(max_entries, PARTITIONS);
} sole SEC(".maps");

/* By member id. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct standing);
	__uint(max_entries, MAX_MEMBER + 1);
} standing SEC(".maps");

/* A window with what serialises its use: two CPUs may take messages of one sender at once. */
struct locked_window {
	struct bpf_spin_lock lock;
	__u32 pad;
	__u64 boot;
	struct window window;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct window_key);
	__type(value, struct locked_window);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} windows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct egress);
	__uint(max_entries, MAX_EGRESS);
} egress_hosts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, LOCKS);
} locks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, DROP_REASONS);
} drops SEC(".maps");

/* Names of the services, by slot: a slot stays with its service, whatever place the list gives it. The daemon's alone. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u8[64]);
	__uint(max_entries, MAX_SLOTS);
} slots SEC(".maps");

/*
 * What the daemon changed on this host, as JSON, with what it replaced. Here rather than in a file, since it then ends
 * with the kernel, just as the changes themselves do. The daemon's alone.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u8[512]);
	__uint(max_entries, 1024);
} changes SEC(".maps");

/* Events that found the ring full. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} lost SEC(".maps");

/* When the next packet of a flow that is not here would be due at the rate at which they may be told. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} not_mine SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} events SEC(".maps");

#endif
