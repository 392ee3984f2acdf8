/* What DPDK offers only as macros, thread-local variables or static inline functions.
 * One call here per burst costs nothing that can be measured; one per packet does: see the crate's page. */
#ifndef JLB_DPDK_SHIM_H
#define JLB_DPDK_SHIM_H

#include <rte_alarm.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>

/* The calling thread's rte_errno, as the last failed call left it. */
int jlb_errno(void);
/* The calling thread's lcore id, or JLB_NO_LCORE. */
unsigned int jlb_lcore_id(void);
#define JLB_NO_LCORE 0xffffffffU

/* Receives at most n packets; the caller owns them. */
uint16_t jlb_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t n);
/* Sends packets; the driver owns the first (return value) of them, the caller still the others. */
uint16_t jlb_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t n);

/* A reset mbuf, or NULL when the pool is empty. */
struct rte_mbuf *jlb_mbuf_alloc(struct rte_mempool *pool);
/* n reset mbufs and 0, or none at all and a negative number. */
int jlb_mbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **packets, unsigned int n);
/* Gives one packet, with all its segments, back to its pool. */
void jlb_mbuf_free(struct rte_mbuf *packet);

#endif
