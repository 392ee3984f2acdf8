-- TCP with ACK, of about a million flows. Unlike `jlb-bench generate`, which draws them at random, Pktgen counts through them.
package.path = package.path .. ";?.lua"
local profile = require "profile"

profile.clients("198.18.0.15", 64511)
profile.kind("ack")
profile.send(profile.seconds * 1000)
profile.done()
