-- What all profiles have in common. Edit the addresses here; `jlb-bench generate` has them as options.
package.path = package.path .. ";?.lua"
require "Pktgen"

local profile = {
  port = "0",
  -- The ingress, or a router before it; and this end.
  next_hop = "02:00:00:00:fe:01",
  source = "02:00:00:00:fe:02",
  vip = "203.0.113.10",
  service = 80,
  -- 198.18.0.0/15 is for tests of network devices (RFC 2544).
  first_client = "198.18.0.0",
  size = 64,
  -- Per cent of the link's speed.
  rate = 100,
  seconds = 10,
}

-- Clients: from first_client to `last`, and so many ports from 1024 on. Addresses and ports both count up with each packet, so there are as
-- many flows as their least common multiple: with 16 addresses and 64,511 ports, 1,032,176.
function profile.clients(last, ports)
  local p, range = profile.port, pktgen.range
  range.dst_mac(p, "start", profile.next_hop)
  range.src_mac(p, "start", profile.source)
  for _, what in ipairs({ "start", "min", "max" }) do
    range.dst_ip(p, what, profile.vip)
    range.dst_port(p, what, profile.service)
    range.pkt_size(p, what, profile.size)
  end
  range.dst_ip(p, "inc", "0.0.0.0")
  range.dst_port(p, "inc", 0)
  range.pkt_size(p, "inc", 0)
  range.src_ip(p, "start", profile.first_client)
  range.src_ip(p, "min", profile.first_client)
  range.src_ip(p, "max", last)
  range.src_ip(p, "inc", "0.0.0.1")
  range.src_port(p, "start", 1024)
  range.src_port(p, "min", 1024)
  range.src_port(p, "max", 1023 + ports)
  range.src_port(p, "inc", 1)
  pktgen.set(p, "rate", profile.rate)
  pktgen.set_range(p, "on")
end

-- "ack", "syn" or "udp". Flags of TCP are commands, not functions, in Pktgen 23.
function profile.kind(kind)
  pktgen.range.ip_proto(profile.port, kind == "udp" and "udp" or "tcp")
  if kind ~= "udp" then
    pktgen.load(kind .. ".pkt")
  end
end

-- Sends for so many milliseconds.
function profile.send(ms)
  pktgen.start(profile.port)
  pktgen.delay(ms)
  pktgen.stop(profile.port)
end

-- One line at the end, and out.
function profile.done()
  local stats = pktgen.portStats(profile.port, "port")[tonumber(profile.port)]
  print(string.format("sent %d, received %d", stats.opackets, stats.ipackets))
  pktgen.quit()
end

return profile
