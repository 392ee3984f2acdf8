-- A flood of SYNs, from all of 198.18.0.0/15 and all ports.
package.path = package.path .. ";?.lua"
local profile = require "profile"

profile.clients("198.19.255.255", 64511)
profile.kind("syn")
profile.send(profile.seconds * 1000)
profile.done()
