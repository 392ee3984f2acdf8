/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* SipHash (Aumasson and Bernstein, 2012) over whole 8-byte words: all that JLB hashes has such a length. */
#ifndef JLB_SIPHASH_H
#define JLB_SIPHASH_H

#include "types.h"

#define INLINE static inline __attribute__((always_inline))
/* A function of its own: verified once per set of arguments, called rather than copied. */
#define FUNCTION static __attribute__((noinline))

struct sip {
	__u64 v0, v1, v2, v3;
};

INLINE __u64 rotate(__u64 x, int bits)
{
	return (x << bits) | (x >> (64 - bits));
}

INLINE void sip_round(struct sip *s)
{
	s->v0 += s->v1;
	s->v1 = rotate(s->v1, 13) ^ s->v0;
	s->v0 = rotate(s->v0, 32);
	s->v2 += s->v3;
	s->v3 = rotate(s->v3, 16) ^ s->v2;
	s->v0 += s->v3;
	s->v3 = rotate(s->v3, 21) ^ s->v0;
	s->v2 += s->v1;
	s->v1 = rotate(s->v1, 17) ^ s->v2;
	s->v2 = rotate(s->v2, 32);
}

INLINE struct sip sip_start(const __u64 key[2])
{
	return (struct sip){
		.v0 = key[0] ^ 0x736f6d6570736575ULL,
		.v1 = key[1] ^ 0x646f72616e646f6dULL,
		.v2 = key[0] ^ 0x6c7967656e657261ULL,
		.v3 = key[1] ^ 0x7465646279746573ULL,
	};
}

/* `rounds` is a constant at every call. */
INLINE void sip_word(struct sip *s, __u64 word, int rounds)
{
	s->v3 ^= word;
#pragma unroll
	for (int i = 0; i < rounds; i++)
		sip_round(s);
	s->v0 ^= word;
}

/* SipHash-2-4 of `bytes` bytes that were given word by word. */
INLINE __u64 sip24_end(struct sip *s, __u64 bytes)
{
	sip_word(s, bytes << 56, 2);
	s->v2 ^= 0xff;
#pragma unroll
	for (int i = 0; i < 4; i++)
		sip_round(s);
	return s->v0 ^ s->v1 ^ s->v2 ^ s->v3;
}

/* SipHash-1-3 with 128 bits of output over a five-tuple, but for the last step of its first half. */
INLINE struct sip flow_sip(const __u64 key[2], const struct tuple *t)
{
	struct sip s = sip_start(key);
	bool v6 = t->bytes[37] == 6;

	s.v1 ^= 0xee;
	sip_word(&s, t->longs[0], 1);
	sip_word(&s, t->longs[1], 1);
	if (v6) {
		sip_word(&s, t->longs[2], 1);
		sip_word(&s, t->longs[3], 1);
		sip_word(&s, t->longs[4], 1);
	}
	sip_word(&s, (v6 ? 40ULL : 16ULL) << 56, 1);
	s.v2 ^= 0xee;
#pragma unroll
	for (int i = 0; i < 3; i++)
		sip_round(&s);
	return s;
}

/* The second half (bytes 8–15, little-endian) of a flow id. */
INLINE __u64 flow_hash(const __u64 key[2], const struct tuple *t)
{
	struct sip s = flow_sip(key, t);

	s.v1 ^= 0xdd;
#pragma unroll
	for (int i = 0; i < 3; i++)
		sip_round(&s);
	return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

/* The flow's partition: the first 12 bits of its id, in network order. */
INLINE __u32 flow_partition(const __u64 key[2], const struct tuple *t)
{
	struct sip s = flow_sip(key, t);
	__u64 half = s.v0 ^ s.v1 ^ s.v2 ^ s.v3;

	return (half & 0xff) << 4 | (half >> 12 & 0xf);
}

#endif
