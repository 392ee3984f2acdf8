/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Writing and removing the outside of a packet. */
#ifndef JLB_OUTER_H
#define JLB_OUTER_H

#include "members.h"
#include "packet.h"

/* uapi/linux/if_ether.h keeps it behind a struct that nothing else here needs. */
#define ETH_TYPE_AT 12

/* Outer IP, UDP and the Geneve header without options: 36 or 56 bytes. */
struct outer_v4 {
	__u8 version_ihl, tos;
	be16 total;
	be16 id, fragment;
	__u8 ttl, protocol;
	be16 check;
	be32 source, destination;
	be16 source_port, port, udp_length, udp_check;
	__u8 option_words, geneve_flags;
	be16 type;
	be32 vni;
};
_Static_assert(sizeof(struct outer_v4) == 36, "docs/protocol.md, section 1");

struct outer_v6 {
	__u8 first[4];
	be16 payload;
	__u8 next, hop_limit;
	__u32 source[4], destination[4];
	be16 source_port, port, udp_length, udp_check;
	__u8 option_words, geneve_flags;
	be16 type;
	be32 vni;
};
_Static_assert(sizeof(struct outer_v6) == 56, "docs/protocol.md, section 1");

/* What an outer header says, besides addresses. */
struct encapsulation {
	__u32 bytes; /* behind the Geneve header, options included */
	be16 source_port;
	__u8 option_words;
	__u8 geneve_flags;
	__u8 traffic_class;
	__u16 type;
};

INLINE be16 entropy_port(__u64 hash)
{
	return bpf_htons(0xc000 | ((hash >> 32) & 0x3fff));
}

FUNCTION int write_outer_v4(context *ctx, const struct host *h, const __u32 *to, const struct encapsulation *e)
{
	struct outer_v4 o = {
		.version_ihl = 0x45,
		.tos = e->traffic_class,
		.total = bpf_htons(sizeof(o) + e->bytes),
		.fragment = bpf_htons(0x4000),
		.ttl = 64,
		.protocol = PROTO_UDP,
		.source = h->v4,
		.destination = to[0],
		.source_port = e->source_port,
		.port = bpf_htons(h->port),
		.udp_length = bpf_htons(UDP_LEN + GENEVE_LEN + e->bytes),
		.option_words = e->option_words,
		.geneve_flags = e->geneve_flags,
		.type = bpf_htons(e->type),
	};

	o.check = fold(sum_ipv4((const __u16 *)&o));
	return bpf_skb_store_bytes(ctx, L3, &o, sizeof(o), BPF_F_INVALIDATE_HASH);
}

FUNCTION int write_outer_v6(context *ctx, const struct host *h, const __u32 *to, const struct encapsulation *e)
{
	struct outer_v6 o = {
		.first[0] = 0x60 | e->traffic_class >> 4,
		.first[1] = e->traffic_class << 4,
		.payload = bpf_htons(UDP_LEN + GENEVE_LEN + e->bytes),
		.next = PROTO_UDP,
		.hop_limit = 64,
		.source_port = e->source_port,
		.port = bpf_htons(h->port),
		.udp_length = bpf_htons(UDP_LEN + GENEVE_LEN + e->bytes),
		.option_words = e->option_words,
		.geneve_flags = e->geneve_flags,
		.type = bpf_htons(e->type),
	};

	/* The flow label: the same entropy, for routers that hash it (RFC 6438). */
	__builtin_memcpy(o.first + 2, &o.source_port, 2);
	__builtin_memcpy(o.source, h->v6, 16);
	__builtin_memcpy(o.destination, to, 16);
	return bpf_skb_store_bytes(ctx, L3, &o, sizeof(o), BPF_F_INVALIDATE_HASH);
}

/* `to`: an address of the family, as in an address key. */
INLINE int write_outer(context *ctx, const struct host *h, const __u32 *to, bool v6,
		       const struct encapsulation *e)
{
	return v6 ? write_outer_v6(ctx, h, to, e) : write_outer_v4(ctx, h, to, e);
}

/* The kernel finds route and neighbour of the new destination, and sends. */
INLINE int send(context *ctx)
{
	return bpf_redirect_neigh(ctx->ifindex, 0, 0, 0);
}

/* The traffic class of an inner packet after decapsulation (RFC 6040, figure 4), or −1: drop. */
INLINE int decapsulated_traffic_class(__u8 outer, __u8 inner)
{
	if ((outer & ECN_MASK) == ECN_CE)
		return (inner & ECN_MASK) ? inner | ECN_CE : -1;
	if ((outer & ECN_MASK) == ECN_ECT1 && (inner & ECN_MASK) == ECN_ECT0)
		return (inner & ~ECN_MASK) | ECN_ECT1;
	return inner;
}

/* Takes the outside away: the inner packet stands behind the Ethernet header, for the host's own stack. */
INLINE int decapsulate(context *ctx, const struct outer *o, const struct inner *p)
{
	int class = decapsulated_traffic_class(o->traffic_class, p->traffic_class);
	int gone = p->at - L3;

	if (class < 0)
		return drop(DROP_CONGESTION);
	if (o->v6 != p->v6) {
		/*
		 * Changes the skb's protocol, and makes the header that is to be removed 20 bytes longer or shorter.
		 * (adjust_room learnt to change the protocol after 6.1, which must do.)
		 */
		be16 type = bpf_htons(p->v6 ? TYPE_IPV6 : TYPE_IPV4);

		if (bpf_skb_change_proto(ctx, type, 0))
			return drop(DROP_NO_BUFFER);
		gone += p->v6 ? IPV6_LEN - IPV4_LEN : IPV4_LEN - IPV6_LEN;
		if (bpf_skb_store_bytes(ctx, ETH_TYPE_AT, &type, 2, 0))
			return drop(DROP_NO_BUFFER);
	}
	if (bpf_skb_adjust_room(ctx, -gone, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return drop(DROP_NO_BUFFER);
	if (class != p->traffic_class) {
		__u8 old[4], new[4];

		if (load(ctx, L3, old, 4))
			return drop(DROP_TRUNCATED);
		__builtin_memcpy(new, old, 4);
		if (p->v6) {
			new[0] = 0x60 | class >> 4;
			new[1] = class << 4 | (old[1] & 0x0f);
		} else {
			__u16 was, is;

			new[1] = class;
			__builtin_memcpy(&was, old, 2);
			__builtin_memcpy(&is, new, 2);
			if (bpf_l3_csum_replace(ctx, L3 + 10, was, is, 2))
				return drop(DROP_TRUNCATED);
		}
		if (bpf_skb_store_bytes(ctx, L3, new, 4, BPF_F_RECOMPUTE_CSUM))
			return drop(DROP_TRUNCATED);
	}
	return TC_ACT_UNSPEC;
}

#endif
