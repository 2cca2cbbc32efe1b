#!/usr/bin/env python3
"""Reads a capture with scapy and says what is wrong with the DHCP messages that one machine sent.

    well_formed.py CAPTURE MAC

Every frame whose source is MAC and that carries DHCP is taken apart twice: by scapy, and option by option here, for what
scapy forgives. Prints one line a fault and how many messages there were; the exit status is 1 if there was a fault.
"""

import struct
import sys
from collections import Counter

from scapy.all import BOOTP, DHCP, IP, UDP, Ether, PcapReader

SERVER, CLIENT = 67, 68
DISCOVER, OFFER, REQUEST, ACK, NAK, INFORM = 1, 2, 3, 5, 6, 8
LISTS = {3, 6, 42, 150}


def ones(data: bytes) -> int:
    """The one's complement sum of RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def options(field: bytes):
    """Code and value in order; raises ValueError for a field that does not end as RFC 2132 §2 has it."""
    found, at = [], 0
    while True:
        if at >= len(field):
            raise ValueError("no end option")
        code = field[at]
        if code == 255:
            break
        if code == 0:
            at += 1
            continue
        if at + 1 >= len(field) or at + 2 + field[at + 1] > len(field):
            raise ValueError(f"option {code} ends outside the message")
        found.append((code, field[at + 2 : at + 2 + field[at + 1]]))
        at += 2 + field[at + 1]
    if any(field[at + 1 :]):
        raise ValueError("something other than padding after the end option")
    return found


class Fault(Exception):
    pass


def check(condition, text):
    if not condition:
        raise Fault(text)


def checksums(raw: bytes):
    head = (raw[14] & 15) * 4
    check(ones(raw[14 : 14 + head]) == 0xFFFF, "IP checksum")
    udp = raw[14 + head : 14 + struct.unpack("!H", raw[16:18])[0]]
    pseudo = raw[26:34] + b"\0\x11" + udp[4:6]
    sent = struct.unpack("!H", udp[6:8])[0]
    # On a virtual cable the kernel leaves the rest of the sum to hardware that is not there: then it holds the
    # pseudo-header's part.
    partial = ones(pseudo)
    check(ones(pseudo + udp) == 0xFFFF or sent in (0, partial), "UDP checksum")
    check(struct.unpack("!H", udp[4:6])[0] == len(udp), "UDP length")


def message(raw: bytes, asked: dict, answered: Counter):
    frame = Ether(raw)
    checksums(raw)
    ip, udp, bootp = frame[IP], frame[UDP], frame[BOOTP]
    check(DHCP in frame, "scapy finds no DHCP in it")
    check(not any(o == "error" or isinstance(o, bytes) for o in frame[DHCP].options), "scapy finds an unreadable option")
    body = bytes(udp.payload)
    check(300 <= len(body), f"{len(body)} octets are under the 300 of RFC 951")
    check(bootp.htype in (1, 6) and bootp.hlen == 6, "htype or hlen")
    fields = options(body[240:])
    codes = [code for code, _ in fields]
    check(codes[0] == 53 and codes.count(53) == 1, "option 53 is not the first, once")
    for at, code in enumerate(codes):
        check(code not in codes[:at] or codes[at - 1] == code, f"the parts of option {code} do not follow each other")
    values = {}
    for code, value in fields:
        values[code] = values.get(code, b"") + value
    kind = values[53][0]
    key = (bootp.chaddr[:6], bootp.xid)
    if bootp.op == 1:
        check(kind in (DISCOVER, REQUEST, INFORM, 7), f"a client's message of type {kind}")
        check(bootp.giaddr == "0.0.0.0" or bootp.hops == 1, "a relayed message without its hop (RFC 1542 §4.1.1)")
        return f"client {kind}"
    check(bootp.op == 2, "op")
    check(udp.sport == SERVER and udp.dport in (CLIENT, SERVER), "ports")
    check(kind in (OFFER, ACK, NAK), f"a server's message of type {kind}")
    check(len(values.get(54, b"")) == 4, "no server identifier (RFC 2131 table 3)")
    request = asked.get(key)
    check(request is not None, "an answer to nobody")
    said, largest, identifier, relay = request
    wanted = {OFFER: {DISCOVER}, ACK: {REQUEST, INFORM}, NAK: {REQUEST}}[kind]
    check(any(said[one] for one in wanted), f"type {kind} answers nothing that was asked")
    answered[key, kind] += 1
    check(answered[key, kind] <= sum(said[one] for one in wanted), "more than one answer to a message")
    check(ip.len <= max(576, largest), f"an IP datagram of {ip.len} octets is over option 57's {largest}")
    # A router's answer that is completed is as the router makes it: some leave the identifier out.
    ours = ip.src == ".".join(map(str, values[54]))
    check(values.get(61, None if ours else identifier) == identifier, "option 61 is not the client's own (RFC 6842)")
    check(82 not in codes or (codes[-1] == 82 and values[82] == relay), "option 82 is not the relay's own, last")
    for code in LISTS & values.keys():
        check(values[code] and len(values[code]) % 4 == 0, f"option {code} is no list of addresses")
    if kind == NAK:
        check(bootp.yiaddr == "0.0.0.0" and bootp.siaddr == "0.0.0.0", "an address in a NAK (RFC 2131 table 3)")
        check(not {51, 58, 59, 1, 3} & values.keys(), "parameters in a NAK (RFC 2131 table 3)")
        check(frame.dst == "ff:ff:ff:ff:ff:ff" or bootp.giaddr != "0.0.0.0", "a NAK that is no broadcast")
    elif said[INFORM] and not said[REQUEST]:
        check(bootp.yiaddr == "0.0.0.0" and 51 not in values, "a lease for a DHCPINFORM (RFC 2131 §4.3.5)")
    else:
        check(bootp.yiaddr != "0.0.0.0", "no address")
        check(len(values.get(51, b"")) == 4, "no lease time")
        lease = int.from_bytes(values[51], "big")
        t1 = int.from_bytes(values.get(58, (lease // 2).to_bytes(4, "big")), "big")
        t2 = int.from_bytes(values.get(59, (lease * 7 // 8).to_bytes(4, "big")), "big")
        check(0 < t1 < t2 < lease, f"T1 {t1}, T2 {t2} and lease {lease} are not in order (RFC 2131 §4.4.5)")
        if {1, 3} <= values.keys():
            check(codes.index(1) < codes.index(3), "the router before the mask (RFC 2132 §3.3)")
    return {OFFER: "offer", ACK: "ack", NAK: "nak"}[kind]


def main(capture: str, own: str) -> int:
    asked, answered, seen, faults = {}, Counter(), Counter(), 0
    for number, packet in enumerate(PcapReader(capture), 1):
        raw = bytes(packet.original) if hasattr(packet, "original") else bytes(packet)
        frame = Ether(raw)
        if UDP not in frame or BOOTP not in frame:
            continue
        bootp = frame[BOOTP]
        if frame.src != own and bootp.op == 1:
            said, largest, identifier, relay = asked.setdefault(
                (bootp.chaddr[:6], bootp.xid), (Counter(), 576, None, None)
            )
            try:
                values = dict(options(bytes(frame[UDP].payload)[240:]))
            except ValueError:
                continue
            said[values.get(53, b"\0")[0]] += 1
            largest = int.from_bytes(values.get(57, b"\x02\x40"), "big")
            asked[bootp.chaddr[:6], bootp.xid] = (said, largest, values.get(61), values.get(82))
        if frame.src != own:
            continue
        try:
            seen[message(raw, asked, answered)] += 1
        except (Fault, ValueError, IndexError) as fault:
            faults += 1
            print(f"frame {number}: {fault}\n  {raw.hex()}")
    print("messages:", ", ".join(f"{count} {kind}" for kind, count in sorted(seen.items())) or "none")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
