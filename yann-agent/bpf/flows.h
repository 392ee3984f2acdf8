/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Live flows, remembered answers, the lock that makes a decision one, and what the user half is told. */
#ifndef JLB_FLOWS_H
#define JLB_FLOWS_H

#include "maps.h"
#include "members.h"
#include "packet.h"

INLINE __u32 *lock_of(const struct tuple *flow)
{
	__u64 mixed = 0;
	__u32 key;

	/* Only spreads the locks; who aims at one makes nobody wait but himself and a few. */
#pragma unroll
	for (int i = 0; i < 5; i++)
		mixed = (mixed ^ flow->longs[i]) * 0x9e3779b97f4a7c15ULL;
	key = (mixed >> 40) % LOCKS;
	return bpf_map_lookup_elem(&locks, &key);
}

/* False: somebody decides on this flow (or one with its lock) right now, on another CPU. */
INLINE bool try_lock(__u32 *lock)
{
	return lock && __sync_val_compare_and_swap(lock, 0, 1) == 0;
}

INLINE void unlock(__u32 *lock)
{
	__sync_val_compare_and_swap(lock, 1, 0);
}

INLINE void add_live(__u16 slot, int n)
{
	__u32 key = slot, zero = 0;
	__u32 *of_service = bpf_map_lookup_elem(&live, &key);
	__u32 *all = bpf_map_lookup_elem(&live_all, &zero);

	if (of_service)
		__sync_fetch_and_add(of_service, n);
	if (all)
		__sync_fetch_and_add(all, n);
}

INLINE __u32 live_of(__u16 slot)
{
	__u32 key = slot;
	__u32 *n = bpf_map_lookup_elem(&live, &key);

	return n ? *n : 0;
}

INLINE void count_decision(__u16 slot, __u8 reason)
{
	__u32 key = slot * 16 + (reason & 15);
	__u64 *n = bpf_map_lookup_elem(&decisions, &key);

	if (n)
		*n += 1;
}

/* A record to be filled and submitted, all 0; NULL when the ring is full. */
INLINE struct event *new_event(__u8 kind, const struct tuple *flow)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e) {
		__u32 zero = 0;
		__u64 *n = bpf_map_lookup_elem(&lost, &zero);

		if (n)
			*n += 1;
		return 0;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->kind = kind;
	e->tuple = *flow;
	return e;
}

INLINE void copy_ingress(__u16 *to, const __u16 *from)
{
#pragma unroll
	for (int i = 0; i < INGRESS_HOSTS; i++)
		to[i] = from[i];
}

INLINE void fill_flow(struct event *e, const struct flow *f)
{
	e->flags = f->flags & FLOW_FORCE;
	e->incarnation = f->incarnation;
	e->counter = f->counter;
	e->cookie = f->cookie;
	e->head = f->head;
	e->second = f->second;
	e->asker = f->asker;
	e->queue = f->queue;
	e->service = f->service;
	e->live = live_of(f->service);
	copy_ingress(e->ingress, f->ingress);
}

/* False: the ring is full. */
FUNCTION bool tell_flow(__u8 kind, const struct tuple *flow, const struct flow *f, __u16 peer)
{
	struct event *e = new_event(kind, flow);

	if (!e)
		return false;
	fill_flow(e, f);
	e->peer = peer;
	bpf_ringbuf_submit(e, 0);
	return true;
}

/*
 * Publish a Close again: to all that know the flow, and to `peer`. `c`: the message that asked, or NULL. `a` may be NULL:
 * nothing is known but the five-tuple. (With a counter and no incarnation: then nothing of it is here, should no Close be known.)
 */
FUNCTION int tell_repeat_close(const struct tuple *flow, __u32 incarnation, const struct answer *a,
			       const struct control *c, __u16 peer)
{
	struct event *e = new_event(EVENT_REPEAT_CLOSE, flow);

	if (!e)
		return 0;
	e->incarnation = incarnation;
	e->peer = peer;
	if (c) {
		e->cookie = bpf_ntohl(c->cookie);
		e->head = bpf_ntohs(c->head);
		e->second = bpf_ntohs(c->second);
		e->asker = bpf_ntohs(c->ingress);
	}
	if (a) {
		e->counter = a->counter;
		e->service = a->service;
		copy_ingress(e->ingress, a->ingress);
	}
	bpf_ringbuf_submit(e, 0);
	return 0;
}

/* Whether one more packet of a flow that is not here may be told. */
INLINE bool may_say_not_mine(__u64 now)
{
	__u32 zero = 0;
	__u64 *due = bpf_map_lookup_elem(&not_mine, &zero);

	if (!due)
		return false;
	if (*due < now)
		*due = now;
	if (*due - now >= NOT_MINE_BURST * NOT_MINE_INTERVAL)
		return false;
	*due += NOT_MINE_INTERVAL;
	return true;
}

/*
 * The counter with which it may be said that a five-tuple has no flow here, or 0. Drawn under the lock, with a look: no
 * flow that was admitted with a lower one is still on its way into the map.
 */
FUNCTION __u64 not_mine_counter(const struct tuple *flow, __u64 now)
{
	__u32 *lock = lock_of(flow);
	__u64 counter = 0;

	if (!try_lock(lock))
		return 0;
	if (!bpf_map_lookup_elem(&flows, flow) && may_say_not_mine(now))
		counter = next_counter();
	unlock(lock);
	return counter;
}

/* Tell the ingress that it is mistaken. */
FUNCTION int tell_not_mine(const struct tuple *flow, __u16 ingress, __u64 now)
{
	__u64 counter = not_mine_counter(flow, now);
	struct event *e;

	if (!counter)
		return 0;
	e = new_event(EVENT_NOT_MINE, flow);
	if (!e)
		return 0;
	e->peer = ingress;
	e->counter = counter;
	bpf_ringbuf_submit(e, 0);
	return 0;
}

INLINE void leave_to_sweep(struct flow *f, __u64 now)
{
	if (f->state != FLOW_ESTABLISHED)
		return;
	f->state = FLOW_ACCEPTED;
	f->socket_seen = now;
}

/*
 * A flow is over: it moves to the remembered answers, and its Close is told. Under the flow's lock. When the answers or the
 * ring are full it stays, for a sweep to end it. 0, or REFUSED(reason).
 */
FUNCTION int close_flow(__u64 now, const struct tuple *flow, struct flow *f)
{
	struct answer_key key = { .tuple = *flow, .incarnation = f->incarnation };
	struct answer a = { .at = now, .service = f->service, .kind = ANSWER_CLOSED };
	struct event *e = new_event(EVENT_CLOSED, flow);

	if (!e) {
		leave_to_sweep(f, now);
		return REFUSED(DROP_BUSY);
	}
	copy_ingress(a.ingress, f->ingress);
	if (bpf_map_update_elem(&answers, &key, &a, BPF_ANY)) {
		bpf_ringbuf_discard(e, 0);
		leave_to_sweep(f, now);
		return REFUSED(DROP_ANSWERS_FULL);
	}
	a.counter = next_counter();
	bpf_map_update_elem(&answers, &key, &a, BPF_EXIST);
	add_live(f->service, -1);
	fill_flow(e, f);
	e->counter = a.counter;
	bpf_ringbuf_submit(e, 0);
	bpf_map_delete_elem(&flows, flow);
	return 0;
}

/* From the last time that it was said. */
INLINE __u64 lifetime_of(const struct answer_key *key, const struct answer *a)
{
	/* The next datagram of a refused flow looks just alike. */
	return a->kind == ANSWER_REJECTED && protocol_of(&key->tuple) == PROTO_UDP ? UDP_REJECT_LIFETIME :
										      ANSWER_LIFETIME;
}

/* The remembered answer, while it stands. */
FUNCTION struct answer *answer_of(const struct answer_key *key, __u64 now)
{
	struct answer *a = bpf_map_lookup_elem(&answers, key);

	return a && (now <= a->at || now - a->at < lifetime_of(key, a)) ? a : 0;
}

/* Remembers an ingress host of the flow: newest first, the oldest goes. */
INLINE void came_from(struct flow *f, __u16 id)
{
	__u16 first = f->ingress[0], second = f->ingress[1], third = f->ingress[2];

	if (!id || first == id)
		return;
	f->ingress[0] = id;
	f->ingress[1] = first;
	if (second == id)
		return;
	f->ingress[2] = second;
	if (third == id)
		return;
	f->ingress[3] = third;
}

#endif
