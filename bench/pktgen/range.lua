-- TCP with ACK, from all of 198.18.0.0/15 and all ports: more flows than any table holds.
package.path = package.path .. ";?.lua"
local profile = require "profile"

profile.clients("198.19.255.255", 64511)
profile.kind("ack")
profile.send(profile.seconds * 1000)
profile.done()
