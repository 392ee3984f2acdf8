#include "shim.h"

_Static_assert(LCORE_ID_ANY == JLB_NO_LCORE, "the value for \"no lcore\"");

int jlb_errno(void)
{
	return rte_errno;
}

unsigned int jlb_lcore_id(void)
{
	return rte_lcore_id();
}

uint16_t jlb_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t n)
{
	return rte_eth_rx_burst(port, queue, packets, n);
}

uint16_t jlb_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t n)
{
	return rte_eth_tx_burst(port, queue, packets, n);
}

struct rte_mbuf *jlb_mbuf_alloc(struct rte_mempool *pool)
{
	return rte_pktmbuf_alloc(pool);
}

int jlb_mbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **packets, unsigned int n)
{
	return rte_pktmbuf_alloc_bulk(pool, packets, n);
}

void jlb_mbuf_free(struct rte_mbuf *packet)
{
	rte_pktmbuf_free(packet);
}
