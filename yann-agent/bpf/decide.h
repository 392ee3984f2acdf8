/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Open and Cancel: the host's decision about a flow, once and for all. The same as core/src/kernel/open.rs. */
#ifndef JLB_DECIDE_H
#define JLB_DECIDE_H

#include "flows.h"
#include "members.h"
#include "outer.h"
#include "packet.h"
#include "sockets.h"

/* What one packet is about: too large for a stack of 512 bytes. One per CPU; no program interrupts another. */
struct work {
	struct outer outer;
	struct inner inner;
	struct control control;
	struct probe probe;
	struct answer_key key;
	struct flow flow;
	__u64 counter; /* of a refusal */
	__u16 queue;   /* of the listener, when the flow is admitted */
	__u16 slot;    /* of the service that refuses */
	__u8 reason;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct work);
	__uint(max_entries, 1);
} work SEC(".maps");

INLINE struct work *our_work(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&work, &zero);
}

/* What is decided under the lock is done after it. From DROPPED on: DROPPED + reason. */
enum decision { DELIVER, ANSWER, DONE, DROPPED };

#define DROP_FOR(reason) (DROPPED + (reason))

/* Understood and used: the packet ends here, and that is no drop to be counted. */
INLINE int done(void)
{
	return TC_ACT_SHOT;
}

/* A Reject made of the Open or Cancel in place, back by the way it came. */
FUNCTION int send_reject(context *ctx, const struct host *h, struct work *w)
{
	struct control *c = &w->control;
	struct word *ours = our_word();
	bool v6 = w->outer.v6;
	struct listener l = {};
	struct encapsulation e = {
		.bytes = w->outer.end - w->outer.at + 4 + sizeof(*c),
		.source_port = entropy_port(flow_hash(h->hash_key, &w->inner.tuple)),
		.option_words = (4 + sizeof(*c)) / 4,
		.geneve_flags = 0x40,
		.traffic_class = w->inner.traffic_class,
		.type = w->inner.v6 ? TYPE_IPV6 : TYPE_IPV4,
	};

	if (!ours)
		return drop(DROP_NOT_READY);
	/* There must be room for exactly our headers; members send no IP options and no Geneve options but this one. */
	if (w->outer.option != L3 + (v6 ? sizeof(struct outer_v6) : sizeof(struct outer_v4)) + 4 ||
	    w->outer.at != w->outer.option + sizeof(*c))
		return drop(DROP_MALFORMED);
	if (w->inner.protocol == PROTO_TCP)
		find_listener(ctx, &w->inner.tuple, &l);
	if (c->kind == CANCEL) {
		c->head = c->sender;
		c->second = 0;
	}
	c->kind = REJECT;
	c->hop_budget = HOP_BUDGET;
	c->epoch = bpf_htonl(h->epoch);
	c->backend = bpf_htons(h->id);
	c->receiver = c->head ? c->head : c->sender;
	c->sender = bpf_htons(h->id);
	c->flags &= bpf_htons(FORCE | CUT);
	c->reason = w->reason;
	c->reserved = 0;
	c->queue = bpf_htons(l.depth > 0xffff ? 0xffff : l.depth);
	c->cpu = bpf_htons(h->cpu);
	c->live = bpf_htonl(live_of(w->slot));
	c->boot = bpf_cpu_to_be64(ours->boot);
	c->sequence = bpf_cpu_to_be64(next_sequence(ours));
	c->word_a = bpf_cpu_to_be64(w->counter);
	c->word_b = 0;
	c->mac = control_mac(h, c, &w->inner.tuple, false);
	if (bpf_skb_store_bytes(ctx, w->outer.option, c, sizeof(*c), 0) ||
	    write_outer(ctx, h, w->outer.source.address, v6, &e))
		return drop(DROP_NO_BUFFER);
	return send(ctx);
}

/* The service that a packet from a client is for. */
INLINE const struct service *service_of(const struct tuple *flow)
{
	struct service_key key = {};

	if (is_v6(flow)) {
		__builtin_memcpy(key.vip, flow->bytes + 16, 16);
		__builtin_memcpy(&key.port, flow->bytes + 34, 2);
		key.protocol = flow->bytes[36];
		key.family = 6;
	} else {
		key.vip[0] = flow->words[1];
		__builtin_memcpy(&key.port, flow->bytes + 10, 2);
		key.protocol = flow->bytes[12];
		key.family = 4;
	}
	return bpf_map_lookup_elem(&services, &key);
}

/* Whether an Open with these flags is not to be refused for that reason, which the host gave by itself. */
INLINE bool overrides(be16 flags, __u8 reason)
{
	if (reason == REJECT_OVERLOADED)
		return flags & bpf_htons(FORCE);
	return (reason == REJECT_UNHEALTHY || reason == REJECT_DOWN) && flags & bpf_htons(PANIC);
}

/* What the host says when it is asked for the first time, in the protocol's order of reasons. */
FUNCTION __u8 ask_host(context *ctx, const struct host *h, const struct service *s, struct work *w, __u64 now)
{
	const struct tuple *flow = &w->inner.tuple;
	bool forced = w->control.flags & bpf_htons(FORCE);
	__u32 zero = 0, *all = bpf_map_lookup_elem(&live_all, &zero);
	struct listener l = {};

	if (heartbeat_age(now) > HEARTBEAT_LIMIT)
		return REJECT_AGENT_DOWN;
	if (s->admission == ADMISSION_REFUSE)
		return REJECT_REFUSE;
	if (s->admission != ADMISSION_ACCEPT && !overrides(w->control.flags, s->admission))
		return s->admission;
	if (h->flags & HOST_DRAIN)
		return REJECT_DRAIN;
	if (w->inner.protocol == PROTO_TCP ? !find_listener(ctx, flow, &l) : !find_udp(ctx, flow))
		return REJECT_NO_LISTENER;
	w->queue = l.depth > 0xffff ? 0xffff : l.depth;
	if (all && *all >= h->flow_capacity)
		return REJECT_TABLE_FULL;
	if (!forced && s->max_connections && live_of(s->slot) >= s->max_connections)
		return REJECT_MAX_CONNECTIONS;
	if (!forced && all && h->max_connections && *all >= h->max_connections)
		return REJECT_MAX_CONNECTIONS;
	if (!forced && l.depth > l.limit)
		return REJECT_QUEUE_FULL;
	if (!forced && w->control.live && live_of(s->slot) >= bpf_ntohl(w->control.live))
		return REJECT_BUSY;
	return REJECT_NONE;
}

/* A refusal is recorded before it is said, under a counter of its own. */
FUNCTION int refuse(struct work *w, __u64 now, __u16 slot, __u8 reason)
{
	struct answer a = { .at = now, .service = slot, .kind = ANSWER_REJECTED, .reason = reason };

	w->key.incarnation = bpf_ntohl(w->control.incarnation);
	w->key.force = (w->control.flags & bpf_htons(FORCE)) != 0;
	if (bpf_map_update_elem(&answers, &w->key, &a, BPF_ANY))
		return DROP_FOR(DROP_ANSWERS_FULL);
	a.counter = next_counter();
	bpf_map_update_elem(&answers, &w->key, &a, BPF_EXIST);
	count_decision(slot, reason);
	w->counter = a.counter;
	w->slot = slot;
	w->reason = reason;
	return ANSWER;
}

/* A refusal is said again, and frees votes as the first one did: what was sent for these may still be under way. */
INLINE int refuse_again(struct work *w, struct answer *a, __u64 now)
{
	a->at = now;
	w->counter = a->counter;
	w->slot = a->service;
	return ANSWER;
}

/* The flow's answers go to whoever asked last. */
INLINE void take_chain(struct flow *f, const struct control *c)
{
	f->head = bpf_ntohs(c->head);
	f->second = bpf_ntohs(c->second);
	f->asker = bpf_ntohs(c->ingress);
	f->cookie = bpf_ntohl(c->cookie);
	f->tries = 1;
#pragma unroll
	for (int i = 0; i < MAX_TRIED; i++)
		f->tries += c->tried[i] != 0;
	came_from(f, f->asker);
}

FUNCTION int admit(context *ctx, const struct host *h, struct work *w, __u64 now)
{
	const struct service *s = service_of(&w->inner.tuple);
	bool udp = w->inner.protocol == PROTO_UDP;
	struct word *ours = our_word();
	struct flow *f = &w->flow;
	__u8 reason;

	w->queue = 0;
	if (!s)
		return refuse(w, now, NO_SERVICE, REJECT_NOT_SERVED);
	reason = ask_host(ctx, h, s, w, now);
	if (reason)
		return refuse(w, now, s->slot, reason);
	if (!ours)
		return DROP_FOR(DROP_NOT_READY);
	__builtin_memset(f, 0, sizeof(*f));
	f->counter = next_counter();
	if (udp) {
		/* New for this five-tuple, and another than other backends give: they have other boot ids. */
		f->incarnation = (__u32)ours->boot + (__u32)f->counter;
		if (!f->incarnation) {
			f->counter = next_counter();
			f->incarnation = (__u32)ours->boot + (__u32)f->counter;
		}
		f->state = FLOW_ACCEPTED;
	} else {
		f->incarnation = bpf_ntohl(w->control.incarnation);
		f->state = FLOW_ADMITTED;
	}
	f->admitted = now;
	f->last_packet = now;
	f->socket_seen = now;
	f->hash = flow_hash(h->hash_key, &w->inner.tuple);
	f->service = s->slot;
	f->queue = w->queue;
	f->flags = w->control.flags & bpf_htons(FORCE) ? FLOW_FORCE : 0;
	take_chain(f, &w->control);
	if (bpf_map_update_elem(&flows, &w->inner.tuple, f, BPF_NOEXIST))
		return refuse(w, now, s->slot, REJECT_TABLE_FULL);
	add_live(s->slot, 1);
	count_decision(s->slot, REJECT_NONE);
	if (!udp)
		return DELIVER;
	tell_flow(EVENT_UDP_ADMITTED, &w->inner.tuple, f, 0);
	/* Half a datagram is of no use; the ingress sends the whole one after Accept. */
	return w->control.flags & bpf_htons(CUT) ? DONE : DELIVER;
}

/*
 * A flow of another incarnation is in the way of this one, here or at a tracker. The stack knows best: it challenges the
 * client (RFC 5961, section 4) if the connection is there. A tracker names the incarnation that it means in word b, or 0.
 */
FUNCTION int incumbent(context *ctx, struct work *w, struct flow *live, __u64 now)
{
	const struct control *c = &w->control;
	const struct tuple *flow = &w->inner.tuple;
	bool asked = c->flags & bpf_htons(INCUMBENT);
	__u32 named = asked ? (__u32)bpf_be64_to_cpu(c->word_b) : 0;
	struct answer *a;

	if (live && (named ? live->incarnation == named : live->incarnation != bpf_ntohl(c->incarnation))) {
		int refused;

		if (find_tcp(ctx, flow) == SOCKET_OPEN)
			return DELIVER;
		/* Its handshake may be under way without a socket (SYN cookies); else the sweep ends it. */
		if (live->state != FLOW_ESTABLISHED)
			return DROP_FOR(DROP_DUPLICATE_SYN);
		refused = close_flow(now, flow, live);
		return refused ? DROPPED + refused - 1 : DONE;
	}
	w->key.incarnation = named;
	w->key.force = 0;
	a = answer_of(&w->key, now);
	if (a && a->kind == ANSWER_REJECTED)
		return DROP_FOR(DROP_UNEXPECTED);
	if (a || !named) {
		tell_repeat_close(flow, named, a, c, bpf_ntohs(c->sender));
	} else {
		/* The tracker believes in a flow that was over so long ago that we forgot it. */
		struct answer forgotten = { .at = now, .service = NO_SERVICE, .kind = ANSWER_CLOSED };

		if (bpf_map_update_elem(&answers, &w->key, &forgotten, BPF_ANY))
			return DROP_FOR(DROP_ANSWERS_FULL);
		forgotten.counter = next_counter();
		bpf_map_update_elem(&answers, &w->key, &forgotten, BPF_EXIST);
		tell_repeat_close(flow, named, &forgotten, c, bpf_ntohs(c->sender));
	}
	return DONE;
}

/* Under the flow's lock. */
FUNCTION int decide_open(context *ctx, const struct host *h, struct work *w, __u64 now)
{
	struct control *c = &w->control;
	const struct tuple *flow = &w->inner.tuple;
	bool udp = w->inner.protocol == PROTO_UDP;
	__u32 incarnation = bpf_ntohl(c->incarnation);
	struct flow *live = bpf_map_lookup_elem(&flows, flow);
	struct answer *a;

	if (c->flags & bpf_htons(INCUMBENT))
		return incumbent(ctx, w, live, now);
	if (live && !udp && live->incarnation != incarnation)
		return incumbent(ctx, w, live, now);
	if (live) {
		take_chain(live, c);
		/* Again, as long as the stack has not answered it. */
		if (live->state == FLOW_ADMITTED)
			return DELIVER;
		tell_flow(EVENT_REPEAT_ACCEPT, flow, live, 0);
		return DONE;
	}
	w->key.incarnation = incarnation;
	w->key.force = 0;
	a = answer_of(&w->key, now);
	if (a && a->kind == ANSWER_CLOSED && !udp) {
		tell_repeat_close(flow, incarnation, a, c, bpf_ntohs(c->sender));
		return DONE;
	}
	w->key.force = (c->flags & bpf_htons(FORCE)) != 0;
	a = answer_of(&w->key, now);
	if (a) {
		w->reason = a->reason;
		return refuse_again(w, a, now);
	}
	return admit(ctx, h, w, now);
}

/* A tracker wants its vote back. Handing the SYN to the stack was the decision, SYN-ACK or not. Under the flow's lock. */
FUNCTION int decide_cancel(struct work *w, __u64 now)
{
	struct control *c = &w->control;
	const struct tuple *flow = &w->inner.tuple;
	bool udp = w->inner.protocol == PROTO_UDP;
	__u32 incarnation = bpf_ntohl(c->incarnation);
	struct flow *live = bpf_map_lookup_elem(&flows, flow);
	const struct service *s;
	struct answer *a;

	if (live && (udp || live->incarnation == incarnation)) {
		struct flow *f = &w->flow;

		__builtin_memcpy(f, live, sizeof(*f));
		if (c->ingress) {
			f->asker = bpf_ntohs(c->ingress);
			f->cookie = bpf_ntohl(c->cookie);
		}
		tell_flow(EVENT_CANCELLED_BUT_LIVE, flow, f, bpf_ntohs(c->sender));
		return DONE;
	}
	w->reason = REJECT_CANCELLED;
	w->key.incarnation = incarnation;
	w->key.force = 0;
	a = answer_of(&w->key, now);
	if (a && a->kind == ANSWER_CLOSED && !udp) {
		tell_repeat_close(flow, incarnation, a, c, bpf_ntohs(c->sender));
		return DONE;
	}
	w->key.force = (c->flags & bpf_htons(FORCE)) != 0;
	a = answer_of(&w->key, now);
	if (a)
		return refuse_again(w, a, now);
	s = service_of(flow);
	return refuse(w, now, s ? s->slot : NO_SERVICE, REJECT_CANCELLED);
}

/* Decides, and does it. */
FUNCTION int decide(context *ctx, const struct host *h, struct work *w, __u64 now)
{
	__u32 *lock = lock_of(&w->inner.tuple);
	int decision;

	if (!try_lock(lock))
		return drop(DROP_BUSY);
	w->key.tuple = w->inner.tuple;
	w->key.pad[0] = 0;
	w->key.pad[1] = 0;
	w->key.pad[2] = 0;
	decision = w->control.kind == OPEN ? decide_open(ctx, h, w, now) : decide_cancel(w, now);
	unlock(lock);
	if (decision == DELIVER)
		return decapsulate(ctx, &w->outer, &w->inner);
	if (decision == ANSWER)
		return send_reject(ctx, h, w);
	if (decision == DONE)
		return done();
	return drop(decision - DROPPED);
}

#endif
