/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the host's TCP/IP stack knows of a flow. Wildcard, dual-stack and SO_REUSEPORT listeners are found like any. */
#ifndef JLB_SOCKETS_H
#define JLB_SOCKETS_H

#include "packet.h"
#include "types.h"

/* The kernel's own structs, as far as they are read; the loader relocates the offsets to the running kernel (CO-RE). */
#define KERNEL __attribute__((preserve_access_index))

struct ns_common {
	unsigned int inum;
} KERNEL;

struct net {
	struct ns_common ns;
} KERNEL;

typedef struct {
	struct net *net;
} possible_net_t;

struct in6_addr {
	union {
		__u32 u6_addr32[4];
	} in6_u;
} KERNEL;

struct sock_common {
	be32 skc_daddr;
	be32 skc_rcv_saddr;
	be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
} KERNEL;

struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol;
	__u32 sk_ack_backlog;
	__u32 sk_max_ack_backlog;
} KERNEL;

typedef struct {
	int counter;
} atomic_t;

struct request_sock_queue {
	__u32 synflood_warned;
	atomic_t qlen;
	atomic_t young;
} KERNEL;

struct inet_sock {
	struct sock sk;
	be16 inet_sport;
} KERNEL;

struct inet_connection_sock {
	struct inet_sock icsk_inet;
	struct request_sock_queue icsk_accept_queue;
} KERNEL;

struct tcp_sock {
	struct inet_connection_sock inet_conn;
} KERNEL;

enum { TCP_STATE_ESTABLISHED = 1, TCP_STATE_TIME_WAIT = 6, TCP_STATE_CLOSE = 7, TCP_STATE_LISTEN = 10 };

enum found { SOCKET_NONE, SOCKET_LISTENING, SOCKET_TIME_WAIT, SOCKET_OPEN };

struct listener {
	__u32 depth; /* connections that nobody accepted yet, with the young requests */
	__u32 limit;
	bool syn_cookies;
};

/* Fills `t` and gives its length. With `only_listeners` the client's port is 0, which no connection has. */
INLINE __u32 socket_tuple(const struct tuple *flow, struct bpf_sock_tuple *t, bool only_listeners)
{
	if (is_v6(flow)) {
		__builtin_memcpy(t->ipv6.saddr, flow->bytes, 16);
		__builtin_memcpy(t->ipv6.daddr, flow->bytes + 16, 16);
		t->ipv6.sport = only_listeners ? 0 : *(const be16 *)(flow->bytes + 32);
		t->ipv6.dport = *(const be16 *)(flow->bytes + 34);
		return sizeof(t->ipv6);
	}
	t->ipv4.saddr = flow->words[0];
	t->ipv4.daddr = flow->words[1];
	t->ipv4.sport = only_listeners ? 0 : *(const be16 *)(flow->bytes + 8);
	t->ipv4.dport = *(const be16 *)(flow->bytes + 10);
	return sizeof(t->ipv4);
}

/* The connection's own socket, else its listener, of which `l` (may be NULL) then tells. */
INLINE enum found lookup_tcp(context *ctx, const struct tuple *flow, bool only_listeners, struct listener *l)
{
	struct bpf_sock_tuple t = {};
	__u32 len = socket_tuple(flow, &t, only_listeners);
	enum found result = SOCKET_OPEN;
	struct bpf_sock *sk;

	/* The length is a constant on each path, as the verifier wants it. */
	sk = len == sizeof(t.ipv6) ? bpf_skc_lookup_tcp(ctx, &t, sizeof(t.ipv6), BPF_F_CURRENT_NETNS, 0) :
				     bpf_skc_lookup_tcp(ctx, &t, sizeof(t.ipv4), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return SOCKET_NONE;
	if (sk->state == TCP_STATE_TIME_WAIT) {
		result = SOCKET_TIME_WAIT;
	} else if (sk->state == TCP_STATE_LISTEN) {
		result = SOCKET_LISTENING;
		if (l) {
			struct tcp_sock *tp = (struct tcp_sock *)bpf_skc_to_tcp_sock(sk);

			if (tp) {
				struct inet_connection_sock *c = &tp->inet_conn;
				int young = c->icsk_accept_queue.young.counter;
				int all = c->icsk_accept_queue.qlen.counter;

				l->depth = c->icsk_inet.sk.sk_ack_backlog + (young > 0 ? young : 0);
				l->limit = c->icsk_inet.sk.sk_max_ack_backlog;
				l->syn_cookies = c->icsk_accept_queue.synflood_warned ||
						 (all > 0 && (__u32)all >= l->limit);
			}
		}
	}
	bpf_sk_release(sk);
	return result;
}

FUNCTION enum found find_tcp(context *ctx, const struct tuple *flow)
{
	return lookup_tcp(ctx, flow, false, 0);
}

/* Who would get this flow's SYN. */
FUNCTION bool find_listener(context *ctx, const struct tuple *flow, struct listener *l)
{
	enum found result = lookup_tcp(ctx, flow, false, l);

	if (result == SOCKET_LISTENING)
		return true;
	if (result == SOCKET_NONE)
		return false;
	/* An old connection of this five-tuple hides the listener. */
	return lookup_tcp(ctx, flow, true, l) == SOCKET_LISTENING;
}

FUNCTION bool find_udp(context *ctx, const struct tuple *flow)
{
	struct bpf_sock_tuple t = {};
	__u32 len = socket_tuple(flow, &t, false);
	struct bpf_sock *sk;

	sk = len == sizeof(t.ipv6) ? bpf_sk_lookup_udp(ctx, &t, sizeof(t.ipv6), BPF_F_CURRENT_NETNS, 0) :
				     bpf_sk_lookup_udp(ctx, &t, sizeof(t.ipv4), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return false;
	bpf_sk_release(sk);
	return true;
}

#endif
