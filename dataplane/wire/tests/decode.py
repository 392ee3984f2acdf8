"""Decodes a capture of JLB packets with scapy, by docs/protocol.md and not by our code, and checks every MAC with a
SipHash-2-4 written from the paper."""
import struct
import sys

from scapy.all import IP, TCP, UDP, IPv6, conf, rdpcap
from scapy.contrib.geneve import GENEVE, GeneveOptions

conf.verb = 0
KEY = bytes(range(16))
MASK = (1 << 64) - 1


def rotl(x, b):
    return ((x << b) | (x >> (64 - b))) & MASK


def siphash24(key, data):
    k0, k1 = struct.unpack("<QQ", key)
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def rounds(n):
        for _ in range(n):
            v[0] = (v[0] + v[1]) & MASK
            v[1] = rotl(v[1], 13) ^ v[0]
            v[0] = rotl(v[0], 32)
            v[2] = (v[2] + v[3]) & MASK
            v[3] = rotl(v[3], 16) ^ v[2]
            v[0] = (v[0] + v[3]) & MASK
            v[3] = rotl(v[3], 21) ^ v[0]
            v[2] = (v[2] + v[1]) & MASK
            v[1] = rotl(v[1], 17) ^ v[2]
            v[2] = rotl(v[2], 32)

    tail = len(data) & 7
    words = [data[i : i + 8] for i in range(0, len(data) - tail, 8)]
    words.append(data[len(data) - tail :].ljust(7, b"\0") + bytes([len(data) & 0xFF]))
    for word in words:
        m = struct.unpack("<Q", word)[0]
        v[3] ^= m
        rounds(2)
        v[0] ^= m
    v[2] ^= 0xFF
    rounds(4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def canonical(inner):
    version = 6 if IPv6 in inner else 4
    l3 = inner[IPv6] if version == 6 else inner[IP]
    l4 = inner[TCP] if TCP in inner else inner[UDP]
    raw = bytes(l3)
    addresses = raw[8:40] if version == 6 else raw[12:20]
    number = 6 if TCP in inner else 17
    return (addresses + struct.pack(">HHBBH", l4.sport, l4.dport, number, version, 0)).ljust(40, b"\0")


def check_control(body, inner):
    assert len(body) == 88, len(body)
    kind, version, hops, ttl, epoch, incarnation, cookie = struct.unpack(">BBBBIII", body[:16])
    ids = struct.unpack(">6H", body[16:28])
    flags, reason, zero, queue, cpu = struct.unpack(">HBBHH", body[28:36])
    tried = struct.unpack(">4H", body[36:44])
    boot, sequence, word_a, word_b, mac = struct.unpack(">5Q", body[48:88])
    assert 1 <= kind <= 8 and (version, hops, ttl, epoch) == (1, 6, 3, 7)
    assert (incarnation, cookie) == (0xDEADBEEF, 0x12345678)
    assert ids == (1, 21, 22, 33, 22, 33), ids
    assert (flags, reason, zero, queue, cpu) == (9, 2 if kind == 3 else 0, 0, 5, 0x8000)
    assert tried == (31, 32, 0, 0) and struct.unpack(">I", body[44:48]) == (7,)
    assert (boot, sequence) == (0x1122334455667788, 2 << 56 | 77)
    assert (word_a, word_b) == (0xAAAAAAAA00000001, 0xBBBBBBBB00000002)
    signed = body[:2] + b"\0" + body[3:80]
    assert siphash24(KEY, signed + canonical(inner)) == mac, "MAC"


def check_body(raw):
    kind, version, _flags, epoch, sender, receiver, length, zero = struct.unpack(">BBHIHHHH", raw[:16])
    assert 1 <= kind <= 4 and (version, epoch, sender, receiver, zero) == (1, 7, 21, 33, 0)
    assert len(raw) == 40 + length + 8, (len(raw), length)
    assert struct.unpack(">QQQ", raw[16:40]) == (0x1122334455667788, 78, 0x0102030405060708)
    assert siphash24(KEY, raw[:-8]) == struct.unpack(">Q", raw[-8:])[0], "MAC"


def main():
    assert siphash24(KEY, bytes(range(15))) == 0xA129CA6149BE45E5, "the paper's test vector"
    packets = rdpcap(sys.argv[1])
    for packet in packets:
        udp = packet[UDP]
        assert udp.dport == 6081 and udp.chksum == 0 and udp.sport >= 0xC000
        geneve = GENEVE(bytes(udp.payload))
        assert geneve.version == 0 and geneve.vni == 0
        if geneve.proto == 0x88B5:
            assert geneve.oam == 1 and geneve.optionlen == 0
            check_body(bytes(geneve.payload))
            continue
        inner = geneve.payload
        if geneve.optionlen:
            assert geneve.critical == 1 and geneve.optionlen == 23
            option = geneve.options[0] if isinstance(geneve.options, list) else geneve.options
            assert isinstance(option, GeneveOptions) and (option.classid, option.type) == (0xFF4A, 0x81)
            check_control(bytes(option.data), inner)
        assert IP in inner or IPv6 in inner
    print(f"{len(packets)} packets agree")


main()
