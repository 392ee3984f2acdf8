/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Who speaks: members, MACs, boot ids, sequence windows; and our own word. */
#ifndef JLB_MEMBERS_H
#define JLB_MEMBERS_H

#include <linux/pkt_cls.h>

#include "maps.h"
#include "packet.h"

INLINE int drop(enum drop_reason why)
{
	__u32 key = why;
	__u64 *n = bpf_map_lookup_elem(&drops, &key);

	if (n)
		*n += 1;
	return TC_ACT_SHOT;
}

INLINE const struct host *our_host(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&host, &zero);
}

INLINE struct word *our_word(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&word, &zero);
}

INLINE __u64 next_counter(void)
{
	struct word *w = our_word();

	return w ? __sync_fetch_and_add(&w->counter, 1) + 1 : 0;
}

INLINE __u64 next_sequence(struct word *w)
{
	return __sync_fetch_and_add(&w->sequence, 1) + 1;
}

/* Age of the daemon's heartbeat. */
INLINE __u64 heartbeat_age(__u64 now)
{
	__u32 zero = 0;
	__u64 *at = bpf_map_lookup_elem(&heartbeat, &zero);

	if (!at || !*at)
		return ~0ULL;
	return now > *at ? now - *at : 0;
}

INLINE const struct member *member(__u16 id)
{
	__u32 key = id;
	const struct member *m;

	if (!id || id > MAX_MEMBER)
		return 0;
	m = bpf_map_lookup_elem(&members, &key);
	return m && m->role ? m : 0;
}

INLINE bool has_role(__u16 id, __u8 role)
{
	const struct member *m = member(id);

	return m && m->role == role;
}

INLINE __u64 boot_of(__u16 id)
{
	__u32 key = id;
	__u64 *boot = bpf_map_lookup_elem(&boots, &key);

	return boot ? *boot : 0;
}

/* What a tracker's votes are worth. */
INLINE struct standing standing_of(__u16 id)
{
	__u32 key = id;
	struct standing *s = bpf_map_lookup_elem(&standing, &key);

	return s ? *s : (struct standing){};
}

INLINE __u8 shut_out(struct standing s, __u8 worker)
{
	return s.shut_out >> (worker & 15) & 1 ? s.number : 0;
}

/* MAC of a control option (hop budget as 0) and the flow it is about. */
INLINE __u64 control_mac_by(const __u64 key[2], const struct control *c, const struct tuple *flow)
{
	struct sip s = sip_start(key);
	const __u64 *words = (const __u64 *)c;

	/* The hop budget is the third byte. */
	sip_word(&s, words[0] & bpf_cpu_to_be64(0xffff00ffffffffffULL), 2);
#pragma unroll
	for (int i = 1; i < 10; i++)
		sip_word(&s, words[i], 2);
#pragma unroll
	for (int i = 0; i < 5; i++)
		sip_word(&s, flow->longs[i], 2);
	return bpf_cpu_to_be64(sip24_end(&s, 120));
}

FUNCTION __u64 control_mac(const struct host *h, const struct control *c, const struct tuple *flow, bool other)
{
	return control_mac_by(other ? h->other_mac_key : h->mac_key, c, flow);
}

INLINE bool control_mac_fits(const struct host *h, const struct control *c, const struct tuple *flow)
{
	return control_mac(h, c, flow, false) == c->mac ||
	       ((h->flags & HOST_OTHER_KEY) && control_mac(h, c, flow, true) == c->mac);
}

FUNCTION __u64 probe_mac(const struct host *h, const struct probe *p, bool other)
{
	struct sip s = sip_start(other ? h->other_mac_key : h->mac_key);
	const __u64 *words = (const __u64 *)p;

#pragma unroll
	for (int i = 0; i < 8; i++)
		sip_word(&s, words[i], 2);
	return bpf_cpu_to_be64(sip24_end(&s, 64));
}

INLINE bool probe_mac_fits(const struct host *h, const struct probe *p)
{
	return probe_mac(h, p, false) == p->mac || ((h->flags & HOST_OTHER_KEY) && probe_mac(h, p, true) == p->mac);
}

/* Bits 0 to n of a word. */
INLINE __u64 bits_to(__u64 n)
{
	return (2ULL << (n & 63)) - 1;
}

/* Marks a sequence number as seen, as cluster/peers/src/window.rs does. */
INLINE bool window_accept(struct window *w, __u64 sequence)
{
	if (sequence > w->highest) {
		__u64 first = w->highest >> 6, last = sequence >> 6;
		bool far = sequence - w->highest >= 1024;

		for (int i = 0; i < 17; i++) {
			__u64 n = first + i;
			__u64 gone = ~0ULL;

			if (!far && n > last)
				break;
			if (!far && i == 0)
				gone &= ~bits_to(w->highest);
			if (!far && n == last)
				gone &= bits_to(sequence);
			w->seen[n & 15] &= ~gone;
		}
		w->highest = sequence;
	} else if (w->highest - sequence >= 1024 || w->seen[(sequence >> 6) & 15] & 1ULL << (sequence & 63)) {
		return false;
	}
	w->seen[(sequence >> 6) & 15] |= 1ULL << (sequence & 63);
	return true;
}

/* 0, or REFUSED(reason): whether `sequence` is new from that worker of a member. Its boot id is known to be right. */
FUNCTION int accept_sequence(__u16 id, __u64 boot, __u64 sequence)
{
	struct window_key key = { .member = id, .worker = sequence >> 56 };
	struct locked_window *w;
	bool fresh;

	if (sequence >> 56 >= MAX_WORKERS)
		return REFUSED(DROP_MALFORMED);
	w = bpf_map_lookup_elem(&windows, &key);
	if (!w) {
		/* All before the first one count as seen: nothing tells them from a recording. */
		struct locked_window new = { .boot = boot, .window.highest = sequence };

		__builtin_memset(new.window.seen, 0xff, sizeof(new.window.seen));
		if (!bpf_map_update_elem(&windows, &key, &new, BPF_NOEXIST))
			return 0;
		/* Another CPU was first, or the map is full. */
		w = bpf_map_lookup_elem(&windows, &key);
		if (!w)
			return REFUSED(DROP_BUSY);
	}
	bpf_spin_lock(&w->lock);
	if (w->boot != boot) {
		w->boot = boot;
		w->window.highest = sequence;
#pragma unroll
		for (int i = 0; i < 16; i++)
			w->window.seen[i] = ~0ULL;
		fresh = true;
	} else {
		fresh = window_accept(&w->window, sequence);
	}
	bpf_spin_unlock(&w->lock);
	return fresh ? 0 : REFUSED(DROP_REPLAYED);
}

/* Asks the user half to Probe a member. Lost when the ring is full: it asks every second anyway. */
FUNCTION int learn(__u16 id)
{
	struct event e = { .kind = EVENT_LEARN, .peer = id };

	return bpf_ringbuf_output(&events, &e, sizeof(e), 0);
}

#endif
