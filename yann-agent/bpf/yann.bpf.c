// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The kernel half of the agent. Its reference model, which does the same for the same packet, is yann-agent/core; the
 * behaviour is written down in docs/protocol.md, section 6.
 *
 * jlb_ingress   TC ingress of each underlay interface: what comes from members
 * jlb_egress    TC egress of the same: replies of the VIPs on their way out
 * jlb_state     TCP connections that are established and that close
 * jlb_sweep     run by the daemon once a second: flows that are over without an event, answers that are too old
 *
 * Only what Linux 6.1 has is used.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#include "decide.h"
#include "flows.h"
#include "maps.h"
#include "members.h"
#include "outer.h"
#include "packet.h"
#include "sockets.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* ---- control messages ---- */

INLINE bool is_id(be16 id)
{
	return bpf_ntohs(id) <= MAX_MEMBER;
}

/* Fields that cannot be: as Control::parse in dataplane/wire. */
INLINE bool well_formed(const struct control *c)
{
	bool ended = false;

#pragma unroll
	for (int i = 0; i < MAX_TRIED; i++) {
		if (!is_id(c->tried[i]) || (ended && c->tried[i]))
			return false;
		ended |= !c->tried[i];
	}
	return !(c->flags & ~bpf_htons(KNOWN_FLAGS)) && c->reason < REJECT_REASONS && is_id(c->ingress) &&
	       is_id(c->head) && is_id(c->second) && is_id(c->backend) && is_id(c->sender) && c->sender &&
	       is_id(c->receiver) && c->receiver;
}

/* 0, or REFUSED(reason): whether that is the member's boot. If not, the user half asks it. */
FUNCTION int know(be16 id, be64 boot)
{
	__u64 known = boot_of(bpf_ntohs(id));

	if (known && known == bpf_be64_to_cpu(boot))
		return 0;
	learn(bpf_ntohs(id));
	return REFUSED(DROP_UNKNOWN_BOOT);
}

/* From the tracker that signed it, for us, of our epoch, and not heard before. */
FUNCTION int believe(const struct host *h, const struct control *c, const struct member_at *from)
{
	be16 us = bpf_htons(h->id);
	int refused;

	if (from->id != bpf_ntohs(c->sender) || from->role != ROLE_FLOWTRACKER)
		return REFUSED(DROP_NOT_A_MEMBER);
	if (c->receiver != us || (c->kind != CANCEL && c->backend != us))
		return REFUSED(DROP_NOT_ADDRESSEE);
	if (bpf_ntohl(c->epoch) != h->epoch)
		return REFUSED(DROP_WRONG_EPOCH);
	refused = know(c->sender, c->boot);
	if (refused)
		return refused;
	return accept_sequence(from->id, bpf_be64_to_cpu(c->boot), bpf_be64_to_cpu(c->sequence));
}

/* The tracker that alone decides on a flow, or 0. */
FUNCTION __u16 sole_owner(const struct host *h, const struct tuple *t)
{
	__u32 key = flow_partition(h->hash_key, t);
	__u16 *owner = bpf_map_lookup_elem(&sole, &key);

	return owner ? *owner : 0;
}

/* Two distinct trackers stored it, and they are the ones that we know; or the sole owner did. */
FUNCTION int votes(const struct host *h, const struct control *c, const struct tuple *t)
{
	__u16 owner;
	int refused;

	if (c->flags & bpf_htons(INCUMBENT))
		return 0;
	owner = sole_owner(h, t);
	if (owner) {
		be16 id = bpf_htons(owner);
		be64 boot = bpf_cpu_to_be64(boot_of(owner));

		/* Nobody else's vote counts. */
		if (c->sender != id || c->head != id || c->second != id || c->word_a != boot || c->word_b != boot)
			return REFUSED(DROP_SOLE_OWNER);
		return 0;
	}
	if (!c->head || !c->second || c->head == c->second || c->sender != c->second ||
	    !has_role(bpf_ntohs(c->head), ROLE_FLOWTRACKER))
		return REFUSED(DROP_UNEXPECTED);
	/* Nor does that of who has not pulled since. */
	if (shut_out(standing_of(bpf_ntohs(c->second)), bpf_be64_to_cpu(c->sequence) >> 56) ||
	    standing_of(bpf_ntohs(c->head)).shut_out)
		return REFUSED(DROP_SOLE_OWNER);
	refused = know(c->head, c->word_a);
	return refused ? refused : know(c->second, c->word_b);
}

/* What is answered is answered in its own version. */
INLINE bool speaks(const struct host *h, __u8 version)
{
	return h->oldest_version <= version && version <= h->newest_version;
}

FUNCTION int on_control(context *ctx, const struct host *h, struct work *w, const struct member_at *from, __u64 now)
{
	struct control *c = &w->control;
	struct inner *p = &w->inner;
	int refused;

	if (load(ctx, w->outer.option, c, sizeof(*c)))
		return drop(DROP_TRUNCATED);
	if (!speaks(h, c->version))
		return drop(DROP_WRONG_VERSION);
	if (c->kind < OPEN || c->kind > CLOSE)
		return drop(DROP_WRONG_KIND);
	if (c->kind != OPEN && c->kind != CANCEL)
		return TC_ACT_UNSPEC; /* the user half's, who checks it */
	p->at = w->outer.at;
	refused = parse_inner(ctx, p, w->outer.end);
	if (refused)
		return drop(refused - 1);
	if (p->end != w->outer.end)
		return drop(DROP_MALFORMED);
	if (!control_mac_fits(h, c, &p->tuple))
		return drop(DROP_BAD_MAC);
	if (!well_formed(c))
		return drop(DROP_MALFORMED);
	refused = believe(h, c, from);
	if (refused)
		return drop(refused - 1);
	if (decapsulated_traffic_class(w->outer.traffic_class, p->traffic_class) < 0)
		return drop(DROP_CONGESTION);
	if (c->kind == OPEN) {
		refused = votes(h, c, &p->tuple);
		if (refused)
			return drop(refused - 1);
		/* A SYN or a datagram, of this incarnation; an incumbent is one of TCP. */
		if ((p->protocol == PROTO_TCP && !is_syn(p)) || bpf_ntohl(c->incarnation) != p->seq)
			return drop(DROP_MALFORMED);
		if (p->protocol == PROTO_UDP && (c->flags & bpf_htons(INCUMBENT)))
			return drop(DROP_UNEXPECTED);
	}
	return decide(ctx, h, w, now);
}

/* ---- Probe ---- */

/* An ingress host that asks is a way out; one that leaves is none. */
INLINE void hear(const struct host *h, __u16 id, bool leaving, __u64 now)
{
	for (int i = 0; i < MAX_EGRESS; i++) {
		__u32 key = i;
		struct egress *e;

		if (i >= h->egress_hosts)
			return;
		e = bpf_map_lookup_elem(&egress_hosts, &key);
		if (e && e->member == id) {
			e->heard = leaving ? 0 : now;
			return;
		}
	}
}

FUNCTION int on_body(context *ctx, const struct host *h, struct work *w, const struct member_at *from, __u64 now)
{
	struct probe *p = &w->probe;
	struct word *ours = our_word();
	struct encapsulation e = { .bytes = sizeof(*p), .geneve_flags = 0x80, .type = TYPE_BODY };
	bool v6 = w->outer.v6;
	__u32 headers = v6 ? sizeof(struct outer_v6) : sizeof(struct outer_v4);
	struct standing s;
	__u64 age;
	__u8 head[4];

	if (w->outer.at + 4 > w->outer.end || load(ctx, w->outer.at, head, 4))
		return drop(DROP_TRUNCATED);
	if (!speaks(h, head[1]))
		return drop(DROP_WRONG_VERSION);
	if (head[0] < BODY_PROBE || head[0] > BODY_LAST)
		return drop(DROP_WRONG_KIND);
	if (head[0] != BODY_PROBE || (head[3] & PROBE_ANSWER))
		return TC_ACT_UNSPEC; /* the user half's, who checks it */
	/* A request has no list: its answer has its size. */
	if (w->outer.end - w->outer.at != sizeof(*p) || load(ctx, w->outer.at, p, sizeof(*p)) ||
	    p->length != bpf_htons(PROBE_PAYLOAD))
		return drop(DROP_MALFORMED);
	if (!probe_mac_fits(h, p))
		return drop(DROP_BAD_MAC);
	if (!p->sender || !is_id(p->sender) || !p->receiver || !is_id(p->receiver))
		return drop(DROP_MALFORMED);
	if (from->id != bpf_ntohs(p->sender))
		return drop(DROP_NOT_A_MEMBER);
	if (bpf_ntohs(p->receiver) != h->id)
		return drop(DROP_NOT_ADDRESSEE);
	if (p->silent)
		return drop(DROP_MALFORMED);
	if (!ours)
		return drop(DROP_NOT_READY);
	if (from->role == ROLE_INGRESS)
		hear(h, from->id, p->flags & bpf_htons(PROBE_LEAVING), now);
	if (w->outer.at != L3 + headers)
		return drop(DROP_MALFORMED);
	/* By the way it came, source port included. */
	if (load(ctx, L3 + headers - GENEVE_LEN - UDP_LEN, &e.source_port, 2))
		return drop(DROP_TRUNCATED);
	age = heartbeat_age(now) / NSEC_PER_MSEC;
	s = standing_of(from->id);
	p->flags = bpf_htons(PROBE_ANSWER | (s.obeyed >> (p->worker & 15) & 1 ? PROBE_OBEYS : 0));
	p->epoch = bpf_htonl(h->epoch);
	p->receiver = p->sender;
	p->sender = bpf_htons(h->id);
	p->reserved = 0;
	p->boot = bpf_cpu_to_be64(ours->boot);
	p->sequence = bpf_cpu_to_be64(next_sequence(ours));
	p->generation = bpf_cpu_to_be64(h->generation);
	p->digest = bpf_cpu_to_be64(h->digest);
	p->heartbeat_age_ms = bpf_htonl(age > 0xffffffff ? 0xffffffff : age);
	p->shut_out = shut_out(s, p->worker);
	p->mac = probe_mac(h, p, false);
	if (bpf_skb_store_bytes(ctx, w->outer.at, p, sizeof(*p), 0) ||
	    write_outer(ctx, h, w->outer.source.address, v6, &e))
		return drop(DROP_NO_BUFFER);
	return send(ctx);
}

/* ---- Data ---- */

/* A fragment: the stack puts the datagram together, and knows the flow only then. */
INLINE int on_data_fragment(context *ctx, struct work *w)
{
	struct address_key key = { .family = w->inner.v6 ? 6 : 4 };

	if (w->inner.v6)
		__builtin_memcpy(key.address, w->inner.tuple.bytes + 16, 16);
	else
		key.address[0] = w->inner.tuple.words[1];
	if (!bpf_map_lookup_elem(&vips, &key))
		return drop(DROP_INNER_NOT_VIP);
	return decapsulate(ctx, &w->outer, &w->inner);
}

FUNCTION int on_data(context *ctx, struct work *w, const struct member_at *from, __u64 now)
{
	struct inner *p = &w->inner;
	struct flow *f;
	bool opens;
	int refused;

	if (from->role != ROLE_INGRESS)
		return drop(DROP_NOT_A_MEMBER);
	p->at = w->outer.at;
	refused = parse_inner(ctx, p, w->outer.end);
	if (refused == REFUSED(DROP_FRAGMENT))
		return on_data_fragment(ctx, w);
	if (refused)
		return drop(refused - 1);
	if (!service_of(&p->tuple))
		return drop(DROP_INNER_NOT_VIP);
	if (decapsulated_traffic_class(w->outer.traffic_class, p->traffic_class) < 0)
		return drop(DROP_CONGESTION);
	opens = is_syn(p);
	f = bpf_map_lookup_elem(&flows, &p->tuple);
	if (f && (!opens || f->incarnation == p->seq)) {
		f->last_packet = now;
		came_from(f, from->id);
		return decapsulate(ctx, &w->outer, p);
	}
	if (p->protocol == PROTO_TCP) {
		enum found s = find_tcp(ctx, &p->tuple);

		if (s == SOCKET_OPEN || (s == SOCKET_TIME_WAIT && !opens))
			return decapsulate(ctx, &w->outer, p);
	}
	if (opens) {
		/* An ingress holds on to a flow that is over. */
		struct answer unnamed = {};
		struct answer *a;

		w->key.tuple = p->tuple;
		w->key.incarnation = p->seq;
		w->key.force = 0;
		w->key.pad[0] = 0;
		w->key.pad[1] = 0;
		w->key.pad[2] = 0;
		a = answer_of(&w->key, now);
		if (a && a->kind == ANSWER_CLOSED) {
			tell_repeat_close(&p->tuple, p->seq, a, 0, from->id);
		} else {
			unnamed.counter = not_mine_counter(&p->tuple, now);
			tell_repeat_close(&p->tuple, 0, &unnamed, 0, from->id);
		}
	} else if (p->protocol == PROTO_UDP || !(p->tcp_flags & TCP_RST)) {
		tell_not_mine(&p->tuple, from->id, now);
	}
	return drop(DROP_NO_FLOW);
}

SEC("classifier")
int jlb_ingress(struct __sk_buff *ctx)
{
	const struct host *h = our_host();
	struct work *w = our_work();
	struct member_at *from;
	__u64 now;
	int refused;

	if (!h || !h->id || !w)
		return TC_ACT_UNSPEC;
	refused = parse_ip_udp(ctx, h, &w->outer);
	if (refused == NOT_OURS)
		return TC_ACT_UNSPEC;
	if (!refused)
		refused = parse_geneve(ctx, &w->outer);
	if (refused)
		return drop(refused - 1);
	from = bpf_map_lookup_elem(&member_addresses, &w->outer.source);
	if (!from)
		return drop(DROP_NOT_A_MEMBER);
	now = bpf_ktime_get_ns();
	if (w->outer.content == CONTENT_PLAIN)
		return on_data(ctx, w, from, now);
	if (w->outer.content == CONTENT_CONTROL)
		return on_control(ctx, h, w, from, now);
	return on_body(ctx, h, w, from, now);
}

/* ---- the way out ---- */

/* Rendezvous hashing: depends on nothing but the flow and the host. The mix is SplitMix64's. */
INLINE __u64 score(__u64 hash, __u16 id)
{
	__u64 z = hash ^ id * 0x9e3779b97f4a7c15ULL;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

/* The egress host of the highest score among those heard lately; if none was, of the highest score of all. */
FUNCTION __u16 egress_host(const struct host *h, __u64 hash, __u64 now)
{
	__u16 best = 0;
	__u64 best_score = 0;
	bool best_heard = false;

	for (int i = 0; i < MAX_EGRESS; i++) {
		__u32 key = i;
		struct egress *e;
		__u64 s;
		bool heard;

		if (i >= h->egress_hosts)
			break;
		e = bpf_map_lookup_elem(&egress_hosts, &key);
		if (!e)
			break;
		s = score(hash, e->member);
		/* `now` was read before: another CPU may have heard it since. */
		heard = e->heard && (e->heard >= now || now - e->heard <= EGRESS_LIMIT);
		if (heard > best_heard || (heard == best_heard && s >= best_score)) {
			best = e->member;
			best_score = s;
			best_heard = heard;
		}
	}
	return best;
}

FUNCTION int encapsulate(context *ctx, const struct host *h, const struct inner *p, __u64 hash, __u64 now)
{
	const struct member *to = member(egress_host(h, hash, now));
	struct encapsulation e = {
		.bytes = p->end - p->at,
		.source_port = entropy_port(hash),
		.traffic_class = p->traffic_class,
		.type = p->v6 ? TYPE_IPV6 : TYPE_IPV4,
	};
	/* GSO packets stay whole: the segments are made later, each with a copy of these headers. */
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L4_UDP;
	bool v4, v6;

	if (!to)
		return drop(DROP_NO_NEIGHBOUR);
	v4 = (h->flags & HOST_V4) && (to->families & MEMBER_V4);
	v6 = (h->flags & HOST_V6) && (to->families & MEMBER_V6);
	if (!v4 && !v6)
		return drop(DROP_NO_NEIGHBOUR);
	v6 = v6 && (!v4 || (h->flags & HOST_PREFER_V6));
	if (e.bytes + sizeof(struct outer_v6) > 0xffff)
		return drop(DROP_TOO_BIG);
	if (v6) {
		if (bpf_skb_adjust_room(ctx, sizeof(struct outer_v6), BPF_ADJ_ROOM_MAC,
					flags | BPF_F_ADJ_ROOM_ENCAP_L3_IPV6) ||
		    write_outer(ctx, h, to->v6, true, &e))
			return drop(DROP_NO_BUFFER);
	} else {
		if (bpf_skb_adjust_room(ctx, sizeof(struct outer_v4), BPF_ADJ_ROOM_MAC,
					flags | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4) ||
		    write_outer(ctx, h, &to->v4, false, &e))
			return drop(DROP_NO_BUFFER);
	}
	/* It passes here once more, from our underlay address, which is no VIP. */
	return send(ctx);
}

/* Only its addresses are known: all fragments of one client go the same way. */
INLINE int on_reply_fragment(context *ctx, const struct host *h, struct work *w, __u64 now)
{
	struct inner *p = &w->inner;
	struct tuple *t = &w->key.tuple;
	struct address_key key = { .family = p->v6 ? 6 : 4 };
	const struct vip *vip;

	__builtin_memset(t, 0, sizeof(*t));
	if (p->v6) {
		__builtin_memcpy(key.address, p->tuple.bytes, 16);
		__builtin_memcpy(t->bytes, p->tuple.bytes + 16, 16);
		__builtin_memcpy(t->bytes + 16, p->tuple.bytes, 16);
		t->bytes[36] = PROTO_UDP;
		t->bytes[37] = 6;
	} else {
		key.address[0] = p->tuple.words[0];
		t->words[0] = p->tuple.words[1];
		t->words[1] = p->tuple.words[0];
		t->bytes[12] = PROTO_UDP;
		t->bytes[13] = 4;
	}
	vip = bpf_map_lookup_elem(&vips, &key);
	if (!vip || vip->return_path != RETURN_EGRESS)
		return TC_ACT_UNSPEC;
	return encapsulate(ctx, h, p, flow_hash(h->hash_key, t), now);
}

/* The flow that a reply belongs to: client → VIP. */
INLINE void turn_round(const struct tuple *reply, struct tuple *flow)
{
	*flow = *reply;
	if (is_v6(reply)) {
		__builtin_memcpy(flow->bytes, reply->bytes + 16, 16);
		__builtin_memcpy(flow->bytes + 16, reply->bytes, 16);
		__builtin_memcpy(flow->bytes + 32, reply->bytes + 34, 2);
		__builtin_memcpy(flow->bytes + 34, reply->bytes + 32, 2);
	} else {
		flow->words[0] = reply->words[1];
		flow->words[1] = reply->words[0];
		__builtin_memcpy(flow->bytes + 8, reply->bytes + 10, 2);
		__builtin_memcpy(flow->bytes + 10, reply->bytes + 8, 2);
	}
}

SEC("classifier")
int jlb_egress(struct __sk_buff *ctx)
{
	const struct host *h = our_host();
	struct work *w = our_work();
	const struct service *s;
	struct inner *p;
	struct tuple *flow;
	struct flow *f;
	__u64 now, hash;
	int refused;

	if (!h || !h->id || !w)
		return TC_ACT_UNSPEC;
	if (ctx->protocol != bpf_htons(TYPE_IPV4) && ctx->protocol != bpf_htons(TYPE_IPV6))
		return TC_ACT_UNSPEC;
	p = &w->inner;
	flow = &w->key.tuple;
	p->at = L3;
	refused = parse_inner(ctx, p, length(ctx));
	now = bpf_ktime_get_ns();
	if (refused == REFUSED(DROP_FRAGMENT))
		return on_reply_fragment(ctx, h, w, now);
	if (refused)
		return TC_ACT_UNSPEC;
	turn_round(&p->tuple, flow);
	s = service_of(flow);
	if (!s)
		return TC_ACT_UNSPEC;
	f = bpf_map_lookup_elem(&flows, flow);
	if (is_syn_ack(p)) {
		if (!f || p->ack != f->incarnation + 1)
			return drop(DROP_NOT_ADMITTED);
		/* When the ring is full the next SYN-ACK tells it. */
		if (f->state == FLOW_ADMITTED && tell_flow(EVENT_SYN_ACK_SEEN, flow, f, 0))
			f->state = FLOW_ACCEPTED;
	}
	if (f)
		f->last_packet = now;
	if (s->return_path != RETURN_EGRESS)
		return TC_ACT_UNSPEC;
	hash = f ? f->hash : flow_hash(h->hash_key, flow);
	return encapsulate(ctx, h, p, hash, now);
}

/* ---- the ends of flows ---- */

INLINE bool is_mapped(const struct in6_addr *a)
{
	return !a->in6_u.u6_addr32[0] && !a->in6_u.u6_addr32[1] && a->in6_u.u6_addr32[2] == bpf_htonl(0xffff);
}

/* The flow of a socket of a server. */
INLINE bool flow_of(const struct tcp_sock *tp, struct tuple *t)
{
	const struct sock_common *c = &tp->inet_conn.icsk_inet.sk.__sk_common;
	/* Not skc_num: that is 0 by the time that CLOSE is reported. */
	be16 client = c->skc_dport, vip = tp->inet_conn.icsk_inet.inet_sport;

	__builtin_memset(t, 0, sizeof(*t));
	if (c->skc_family == 10 && !is_mapped(&c->skc_v6_daddr)) {
#pragma unroll
		for (int i = 0; i < 4; i++) {
			t->words[i] = c->skc_v6_daddr.in6_u.u6_addr32[i];
			t->words[4 + i] = c->skc_v6_rcv_saddr.in6_u.u6_addr32[i];
		}
		__builtin_memcpy(t->bytes + 32, &client, 2);
		__builtin_memcpy(t->bytes + 34, &vip, 2);
		t->bytes[36] = PROTO_TCP;
		t->bytes[37] = 6;
	} else if (c->skc_family == 10 || c->skc_family == 2) {
		t->words[0] = c->skc_daddr;
		t->words[1] = c->skc_rcv_saddr;
		__builtin_memcpy(t->bytes + 8, &client, 2);
		__builtin_memcpy(t->bytes + 10, &vip, 2);
		t->bytes[12] = PROTO_TCP;
		t->bytes[13] = 4;
	} else {
		return false;
	}
	return true;
}

SEC("tp_btf/inet_sock_set_state")
int jlb_state(unsigned long long *args)
{
	struct sock *sk = (struct sock *)args[0];
	int new = args[2]; /* args[1]: the old state */
	__u32 zero = 0;
	__u32 *ours = bpf_map_lookup_elem(&namespace, &zero);
	struct tcp_sock *tp;
	struct tuple flow;
	struct flow *f;
	__u32 *lock;

	if (new != TCP_STATE_CLOSE && new != TCP_STATE_ESTABLISHED)
		return 0;
	if (!ours || sk->__sk_common.skc_net.net->ns.inum != *ours || sk->sk_protocol != PROTO_TCP)
		return 0;
	tp = (struct tcp_sock *)bpf_skc_to_tcp_sock(sk);
	if (!tp || !flow_of(tp, &flow))
		return 0;
	f = bpf_map_lookup_elem(&flows, &flow);
	if (!f)
		return 0;
	if (new == TCP_STATE_ESTABLISHED) {
		f->state = FLOW_ESTABLISHED;
		return 0;
	}
	lock = lock_of(&flow);
	if (!lock)
		return 0;
	/* A decision takes some µs. If it takes longer, the sweep closes the flow. */
	for (int i = 0; i < 1000; i++) {
		if (!try_lock(lock))
			continue;
		f = bpf_map_lookup_elem(&flows, &flow);
		if (f) {
			int refused = close_flow(bpf_ktime_get_ns(), &flow, f);

			if (refused)
				drop(refused - 1);
		}
		unlock(lock);
		return 0;
	}
	f = bpf_map_lookup_elem(&flows, &flow);
	if (f)
		f->state = FLOW_ACCEPTED;
	drop(DROP_BUSY);
	return 0;
}

/* What the daemon passes as a packet, behind an Ethernet header. */
struct sweep_request {
	__u8 ethernet[ETH_LEN];
	__u8 all; /* established connections too: at the start, since their ends may have been missed */
	__u8 pad;
	__u64 udp_idle;
};

struct sweep {
	context *ctx;
	__u64 now;
	__u64 udp_idle;
	__u64 tally[TALLIES];
	__u32 closed;
	__u8 all;
};

INLINE bool is_over(struct sweep *s, const struct tuple *flow, struct flow *f)
{
	struct listener l = {};

	if (protocol_of(flow) == PROTO_UDP) {
		if (!find_udp(s->ctx, flow))
			return true;
		f->socket_seen = s->now;
		return s->now > f->last_packet && s->now - f->last_packet >= s->udp_idle;
	}
	if (find_tcp(s->ctx, flow) == SOCKET_OPEN) {
		f->socket_seen = s->now;
		return false;
	}
	if (f->state == FLOW_ESTABLISHED)
		return true;
	if (find_listener(s->ctx, flow, &l) && l.syn_cookies)
		f->flags |= FLOW_COOKIES;
	return s->now > f->socket_seen &&
	       s->now - f->socket_seen >= (f->flags & FLOW_COOKIES ? COOKIE_LIMIT : NO_SOCKET_LIMIT);
}

struct bpf_map;

static long sweep_flow(struct bpf_map *map, const struct tuple *key, struct flow *f, struct sweep *s)
{
	struct tuple flow = *key;
	__u32 *lock;

	(void)map;
	if (protocol_of(&flow) == PROTO_UDP) {
		s->tally[TALLY_UDP]++;
	} else if (f->state == FLOW_ESTABLISHED) {
		s->tally[TALLY_ESTABLISHED]++;
		/* The kernel reports its end. */
		if (!s->all)
			return 0;
	} else {
		s->tally[f->state == FLOW_ACCEPTED ? TALLY_ACCEPTED : TALLY_ADMITTED]++;
	}
	lock = lock_of(&flow);
	if (!try_lock(lock))
		return 0;
	if (is_over(s, &flow, f)) {
		int refused = close_flow(s->now, &flow, f);

		if (refused)
			drop(refused - 1);
		else
			s->closed++;
	}
	unlock(lock);
	return 0;
}

static long sweep_answer(struct bpf_map *map, const struct answer_key *key, struct answer *a, struct sweep *s)
{
	if (s->now > a->at && s->now - a->at >= lifetime_of(key, a)) {
		struct answer_key gone = *key;

		bpf_map_delete_elem(map, &gone);
	} else {
		s->tally[a->kind == ANSWER_CLOSED ? TALLY_CLOSED : TALLY_REJECTED]++;
	}
	return 0;
}

/* Ends flows of which the kernel says nothing, forgets answers whose time is over. Gives the number of flows. */
SEC("classifier")
int jlb_sweep(struct __sk_buff *ctx)
{
	struct sweep s = { .ctx = ctx, .now = bpf_ktime_get_ns() };

	if (load(ctx, __builtin_offsetof(struct sweep_request, udp_idle), &s.udp_idle, sizeof(s.udp_idle)) ||
	    load(ctx, __builtin_offsetof(struct sweep_request, all), &s.all, sizeof(s.all)))
		return 0;
	/* Answers first: that makes room for those of the flows that end. */
	bpf_for_each_map_elem(&answers, sweep_answer, &s, 0);
	bpf_for_each_map_elem(&flows, sweep_flow, &s, 0);
#pragma unroll
	for (int i = 0; i < TALLIES; i++) {
		__u32 key = i;

		bpf_map_update_elem(&tally, &key, &s.tally[i], BPF_ANY);
	}
	return s.closed;
}
