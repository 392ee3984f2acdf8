"""Sends packets that no member of a cluster would send, made by scapy: an encoder that shares nothing with ours.

Usage: hostile.py COPIES TARGET VIP CASE...     on the host that they are to come from. Each CASE is sent COPIES times.
       hostile.py replay FILE SOURCE TARGET     sends again the first control message from SOURCE to TARGET in a capture
"""

import sys

from scapy.all import IP, TCP, UDP, Raw, conf, rdpcap, send
from scapy.contrib.geneve import GENEVE, GeneveOptions

conf.verb = 0

OUR_CLASS = 0xFF4A
OUR_TYPE = 0x81
OPTION_BYTES = 88
CLIENT = "198.51.100.77"


def outer(target, source_port=50001):
    return IP(dst=target, flags="DF") / UDP(sport=source_port, dport=6081, chksum=0)


def inner(vip, source=CLIENT, flags="S"):
    return IP(src=source, dst=vip) / TCP(sport=4000, dport=80, flags=flags, seq=1)


def control(kind, version=1):
    """A control message without a valid MAC: kind, version, hop budget 6, reject TTL 3, epoch 1, and zeros."""
    body = bytes([kind, version, 6, 3, 0, 0, 0, 1]) + bytes(OPTION_BYTES - 8)
    return GeneveOptions(classid=OUR_CLASS, type=OUR_TYPE, length=OPTION_BYTES // 4, data=body)


def geneve(options=None, **fields):
    options = options or []
    # Scapy 2.5 counts the options' headers only.
    words = sum(1 + option.length for option in options)
    return GENEVE(proto=0x0800, optionlen=words, options=options, **fields)


CASES = {
    # Four of Geneve's eight bytes.
    "cut-geneve": lambda target, vip: outer(target) / Raw(bytes(4)),
    # Options longer than the packet.
    "cut-options": lambda target, vip: outer(target) / Raw(bytes([63, 0, 8, 0, 0, 0, 0, 0])),
    "geneve-version": lambda target, vip: outer(target) / geneve(version=1) / inner(vip),
    "critical-option": lambda target, vip: outer(target)
    / geneve(critical=1, options=[GeneveOptions(classid=0x0103, type=0x82, length=1, data=bytes(4))])
    / inner(vip),
    "control-version": lambda target, vip: outer(target) / geneve(critical=1, options=[control(2, version=9)]) / inner(vip),
    "control-kind": lambda target, vip: outer(target) / geneve(critical=1, options=[control(99)]) / inner(vip),
    "bad-mac": lambda target, vip: outer(target) / geneve(critical=1, options=[control(2)]) / inner(vip),
    "bad-mac-open": lambda target, vip: outer(target) / geneve(critical=1, options=[control(1)]) / inner(vip),
    # An inner packet that ends inside its IP header.
    "cut-inner": lambda target, vip: outer(target) / geneve() / Raw(bytes(inner(vip))[:12]),
    # Data and Egress, as far as their inner addresses go.
    "inner-not-vip": lambda target, vip: outer(target) / geneve() / inner("192.0.2.1", source="192.0.2.2"),
    "inner-from-vip-to-underlay": lambda target, vip: outer(target) / geneve() / inner("10.77.0.1", source=vip, flags="SA"),
    "plain-data": lambda target, vip: outer(target) / geneve() / inner(vip, flags="A"),
    # What a client may send: a VIP is no underlay address.
    "vip-6081": lambda target, vip: IP(dst=vip) / UDP(sport=4000, dport=6081) / geneve() / inner(vip),
}


def main():
    if sys.argv[1] == "replay":
        file, source, target = sys.argv[2:5]
        for packet in rdpcap(file):
            if IP in packet and UDP in packet and (packet[IP].src, packet[IP].dst) == (source, target):
                payload = bytes(packet[UDP].payload)
                # Options, and the protocol type of an inner packet: a control message.
                if packet[UDP].dport == 6081 and payload[0] & 0x3F and payload[2:4] in (b"\x08\x00", b"\x86\xdd"):
                    send(packet[IP])
                    return
        sys.exit(f"no control message from {source} to {target} in {file}")
    copies, target, vip = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    for case in sys.argv[4:]:
        packet = CASES[case](target, vip)
        for _ in range(copies):
            send(packet)


main()
