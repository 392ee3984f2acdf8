-- Plays a file again and again (-s 0:mix.pcap): Pktgen's own ranges are of one kind of packet. `jlb-bench generate` writes it.
package.path = package.path .. ";?.lua"
local profile = require "profile"

pktgen.set(profile.port, "rate", profile.rate)
pktgen.pcap(profile.port, "on")
profile.send(profile.seconds * 1000)
profile.done()
