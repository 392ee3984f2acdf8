/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Parsing, the same checks in the same order as dataplane/wire. Everything is read through load(), which a native XDP
 * build defines by bpf_xdp_load_bytes; nothing here knows an skb, and no pointer into the packet is kept.
 */
#ifndef JLB_PACKET_H
#define JLB_PACKET_H

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "siphash.h"
#include "types.h"

typedef struct __sk_buff context;

INLINE long load(context *ctx, __u32 at, void *to, __u32 len)
{
	return bpf_skb_load_bytes(ctx, at, to, len);
}

INLINE __u32 length(context *ctx)
{
	return ctx->len;
}

/* Where the outermost IP header begins, behind Ethernet (the kernel has taken VLAN tags out). */
#define L3 ETH_LEN

enum content { CONTENT_PLAIN, CONTENT_CONTROL, CONTENT_BODY };

enum { TCP_FIN = 1, TCP_SYN = 2, TCP_RST = 4, TCP_ACK = 16 };

/* An inner packet, or one of a local socket. Offsets are from the frame's start. */
struct inner {
	struct tuple tuple; /* as in the packet */
	__u32 at;
	__u32 l4;
	__u32 payload;
	__u32 end;
	__u32 seq;
	__u32 ack;
	__u8 tcp_flags;
	__u8 protocol;
	__u8 v6;
	__u8 traffic_class;
	__u8 l4_header[TCP_LEN];
};

struct outer {
	struct address_key source;
	__u32 end;
	__u32 at;     /* what Geneve carries */
	__u32 option; /* body of our option */
	__u8 v6;
	__u8 traffic_class;
	__u8 content;
	__u8 checksum_fits;
};

/* Parsers give 0, or one of these. */
#define NOT_OURS (-1)
#define REFUSED(reason) ((reason) + 1)

INLINE __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* Sum of an IPv4 header of 20 bytes, as the words lie in memory. */
INLINE __u32 sum_ipv4(const __u16 *h)
{
	__u32 sum = 0;

#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += h[i];
	return sum;
}

/* The checksum of an IPv4 header of `len` bytes (20 to 60) is right. `h`: its first 20 bytes. */
INLINE bool ipv4_checksum_fits(context *ctx, __u32 at, const __u8 *h, __u32 len)
{
	__u32 sum = sum_ipv4((const __u16 *)h);

	for (__u32 i = 0; i < 10; i++) {
		__u32 word;

		if (20 + i * 4 >= len)
			break;
		if (load(ctx, at + 20 + i * 4, &word, 4))
			return false;
		sum += (word & 0xffff) + (word >> 16);
	}
	return fold(sum) == 0;
}

/*
 * An outer IP header: source, traffic class, o->at (UDP) and o->end. Two functions, since the compiler would fold what they
 * have in common into pointer arithmetic that the verifier refuses.
 */
FUNCTION int parse_outer_v4(context *ctx, const struct host *host, struct outer *o)
{
	__u8 h[IPV4_LEN] __attribute__((aligned(4)));
	const __u32 *w = (const __u32 *)h;

	if (load(ctx, L3, h, IPV4_LEN))
		return NOT_OURS;
	o->at = L3 + (h[0] & 15) * 4;
	if (h[0] >> 4 != 4 || !(host->flags & HOST_V4) || o->at < L3 + IPV4_LEN || w[4] != host->v4 ||
	    h[9] != PROTO_UDP || (h[6] & 0x3f) || h[7])
		return NOT_OURS;
	o->source.address[0] = w[3];
	o->source.address[1] = 0;
	o->source.address[2] = 0;
	o->source.address[3] = 0;
	o->source.family = 4;
	o->traffic_class = h[1];
	o->end = L3 + (h[2] << 8 | h[3]);
	o->checksum_fits = ipv4_checksum_fits(ctx, L3, h, o->at - L3);
	return 0;
}

FUNCTION int parse_outer_v6(context *ctx, const struct host *host, struct outer *o)
{
	__u8 h[IPV6_LEN] __attribute__((aligned(4)));
	const __u32 *w = (const __u32 *)h;

	if (load(ctx, L3, h, IPV6_LEN))
		return NOT_OURS;
	if (!(host->flags & HOST_V6) || w[6] != host->v6[0] || w[7] != host->v6[1] || w[8] != host->v6[2] ||
	    w[9] != host->v6[3] || h[6] != PROTO_UDP)
		return NOT_OURS;
	o->source.address[0] = w[2];
	o->source.address[1] = w[3];
	o->source.address[2] = w[4];
	o->source.address[3] = w[5];
	o->source.family = 6;
	o->traffic_class = h[0] << 4 | h[1] >> 4;
	o->at = L3 + IPV6_LEN;
	o->end = o->at + (h[4] << 8 | h[5]);
	o->checksum_fits = 1;
	return 0;
}

/*
 * Outer IP and UDP; leaves o->at behind them. What is not to our underlay address and port, or is a fragment, is the
 * kernel's business.
 */
FUNCTION int parse_ip_udp(context *ctx, const struct host *host, struct outer *o)
{
	__u8 udp[UDP_LEN];
	__u8 version;
	__u32 at;

	if (load(ctx, L3, &version, 1))
		return NOT_OURS;
	o->v6 = version >> 4 == 6;
	if (o->v6 ? parse_outer_v6(ctx, host, o) : parse_outer_v4(ctx, host, o))
		return NOT_OURS;
	o->source.pad[0] = 0;
	o->source.pad[1] = 0;
	o->source.pad[2] = 0;
	at = o->at;
	if (load(ctx, at, udp, 4) || (udp[2] << 8 | udp[3]) != host->port)
		return NOT_OURS;
	if (o->end < at)
		return REFUSED(DROP_MALFORMED);
	if (o->end > length(ctx))
		return REFUSED(DROP_TRUNCATED);
	if (!o->checksum_fits)
		return REFUSED(DROP_BAD_CHECKSUM);
	if (at + UDP_LEN > o->end || load(ctx, at, udp, UDP_LEN) || (__u32)(udp[4] << 8 | udp[5]) != o->end - at)
		return REFUSED(DROP_TRUNCATED);
	o->at = at + UDP_LEN;
	return 0;
}

/* Geneve and its options, from o->at on; leaves there what Geneve carries. */
FUNCTION int parse_geneve(context *ctx, struct outer *o)
{
	__u8 h[GENEVE_LEN];
	__u32 at = o->at, end;
	__u16 type;

	if (at + GENEVE_LEN > o->end || load(ctx, at, h, GENEVE_LEN))
		return REFUSED(DROP_TRUNCATED);
	if (h[0] >> 6)
		return REFUSED(DROP_BAD_GENEVE);
	at += GENEVE_LEN;
	end = at + (h[0] & 0x3f) * 4;
	if (end > o->end)
		return REFUSED(DROP_TRUNCATED);
	o->option = 0;
	/* 63 words of options, one word each at least. */
	for (int i = 0; i < 63; i++) {
		__u8 opt[4];
		__u32 next;

		if (at >= end)
			break;
		if (load(ctx, at, opt, 4))
			return REFUSED(DROP_BAD_GENEVE);
		next = at + 4 + (opt[3] & 0x1f) * 4;
		if (next > end)
			return REFUSED(DROP_BAD_GENEVE);
		if ((opt[0] << 8 | opt[1]) == OPTION_CLASS && opt[2] == OPTION_TYPE) {
			if (next - at - 4 != sizeof(struct control) || o->option)
				return REFUSED(DROP_BAD_GENEVE);
			o->option = at + 4;
		} else if (opt[2] & 0x80) {
			return REFUSED(DROP_UNKNOWN_CRITICAL_OPTION);
		}
		at = next;
	}
	o->at = end;
	type = h[2] << 8 | h[3];
	if (type == TYPE_IPV4 || type == TYPE_IPV6) {
		o->content = o->option ? CONTENT_CONTROL : CONTENT_PLAIN;
	} else if (type == TYPE_BODY && !o->option && (h[1] & 0x80)) {
		o->content = CONTENT_BODY;
	} else {
		return REFUSED(DROP_BAD_GENEVE);
	}
	return 0;
}

/* TCP or UDP at p->l4; the addresses are in p->tuple already. */
INLINE int parse_l4(context *ctx, struct inner *p)
{
	__u8 *h = p->l4_header;

	if (p->protocol == PROTO_TCP) {
		__u32 header;

		if (p->l4 + TCP_LEN > p->end || load(ctx, p->l4, h, TCP_LEN))
			return REFUSED(DROP_TRUNCATED);
		header = (h[12] >> 4) * 4;
		if (header < TCP_LEN)
			return REFUSED(DROP_MALFORMED);
		p->payload = p->l4 + header;
		if (p->payload > p->end)
			return REFUSED(DROP_TRUNCATED);
		p->seq = (__u32)h[4] << 24 | h[5] << 16 | h[6] << 8 | h[7];
		p->ack = (__u32)h[8] << 24 | h[9] << 16 | h[10] << 8 | h[11];
		p->tcp_flags = h[13];
	} else if (p->protocol == PROTO_UDP) {
		__u32 len;

		if (p->l4 + UDP_LEN > p->end || load(ctx, p->l4, h, UDP_LEN))
			return REFUSED(DROP_TRUNCATED);
		len = h[4] << 8 | h[5];
		if (len < UDP_LEN)
			return REFUSED(DROP_MALFORMED);
		if (p->l4 + len > p->end)
			return REFUSED(DROP_TRUNCATED);
		p->payload = p->l4 + UDP_LEN;
		p->seq = 0;
		p->ack = 0;
		p->tcp_flags = 0;
	} else {
		return REFUSED(DROP_UNSUPPORTED_PROTOCOL);
	}
	if (p->v6) {
		__builtin_memcpy(p->tuple.bytes + 32, h, 4);
		p->tuple.bytes[36] = p->protocol;
		p->tuple.bytes[37] = 6;
	} else {
		__builtin_memcpy(p->tuple.bytes + 8, h, 4);
		p->tuple.bytes[12] = p->protocol;
		p->tuple.bytes[13] = 4;
	}
	return 0;
}

INLINE int parse_inner_v4(context *ctx, struct inner *p, __u32 limit, __u8 *h)
{
	__u32 header, len;

	if (load(ctx, p->at, h, IPV4_LEN))
		return REFUSED(DROP_TRUNCATED);
	header = (h[0] & 15) * 4;
	len = h[2] << 8 | h[3];
	if (header < IPV4_LEN || len < header)
		return REFUSED(DROP_MALFORMED);
	if (p->at + len > limit)
		return REFUSED(DROP_TRUNCATED);
	if (!ipv4_checksum_fits(ctx, p->at, h, header))
		return REFUSED(DROP_BAD_CHECKSUM);
	p->end = p->at + len;
	p->traffic_class = h[1];
	__builtin_memcpy(p->tuple.bytes, h + 12, 8);
	if ((h[6] & 0x3f) || h[7])
		return REFUSED(DROP_FRAGMENT);
	p->protocol = h[9];
	p->l4 = p->at + header;
	return 0;
}

INLINE int parse_inner_v6(context *ctx, struct inner *p, __u32 limit, __u8 *h)
{
	__u32 at;
	__u8 next;

	if (p->at + IPV6_LEN > limit || load(ctx, p->at, h, IPV6_LEN))
		return REFUSED(DROP_TRUNCATED);
	p->end = p->at + IPV6_LEN + (h[4] << 8 | h[5]);
	if (p->end > limit)
		return REFUSED(DROP_TRUNCATED);
	p->traffic_class = h[0] << 4 | h[1] >> 4;
	__builtin_memcpy(p->tuple.bytes, h + 8, 32);
	at = p->at + IPV6_LEN;
	next = h[6];
	/* Hop-by-hop, routing and destination options: at most 4 (dataplane/wire/src/inner.rs). */
	for (int i = 0; i < 5; i++) {
		__u8 extension[2];

		if (next == 44)
			return REFUSED(DROP_FRAGMENT);
		if (next != 0 && next != 43 && next != 60) {
			p->protocol = next;
			p->l4 = at;
			return 0;
		}
		if (at + 2 > p->end || load(ctx, at, extension, 2))
			return REFUSED(DROP_TRUNCATED);
		next = extension[0];
		at += (extension[1] + 1) * 8;
	}
	return REFUSED(DROP_MALFORMED);
}

/* The IP packet at p->at, which ends before `limit`. After FRAGMENT and UNSUPPORTED_PROTOCOL the addresses are there. */
FUNCTION int parse_inner(context *ctx, struct inner *p, __u32 limit)
{
	__u8 h[IPV6_LEN] __attribute__((aligned(4)));
	int refused;

#pragma unroll
	for (int i = 0; i < 5; i++)
		p->tuple.longs[i] = 0;
	if (p->at >= limit || load(ctx, p->at, h, 1))
		return REFUSED(DROP_TRUNCATED);
	if (h[0] >> 4 == 4) {
		p->v6 = 0;
		if (p->at + IPV4_LEN > limit)
			return REFUSED(DROP_TRUNCATED);
		refused = parse_inner_v4(ctx, p, limit, h);
	} else if (h[0] >> 4 == 6) {
		p->v6 = 1;
		refused = parse_inner_v6(ctx, p, limit, h);
	} else {
		return REFUSED(DROP_MALFORMED);
	}
	return refused ? refused : parse_l4(ctx, p);
}

INLINE bool is_syn(const struct inner *p)
{
	return p->protocol == PROTO_TCP && (p->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN;
}

INLINE bool is_syn_ack(const struct inner *p)
{
	return p->protocol == PROTO_TCP && (p->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) == (TCP_SYN | TCP_ACK);
}

INLINE bool is_v6(const struct tuple *t)
{
	return t->bytes[37] == 6;
}

INLINE __u8 protocol_of(const struct tuple *t)
{
	return is_v6(t) ? t->bytes[36] : t->bytes[12];
}

#endif
