"""A VLAN interface for kernels that have none: vlan.py INTERFACE VID NAME makes NAME a device that sends with that tag.

A tap device takes the place of the kernel's 802.1Q device. VID 0 is a priority tag: it is sent, and frames without a tag
or with that one are heard.
"""

import contextlib
import fcntl
import select
import socket
import struct
import sys

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
SOL_PACKET, PACKET_AUXDATA, OUTGOING, CHECKSUM_NOT_READY, VLAN_VALID = 263, 8, 4, 0x08, 0x10

interface, vid, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
tap = open("/dev/net/tun", "r+b", buffering=0)
fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
wire.bind((interface, 3))
print("ready", flush=True)
while True:
    for ready in select.select([tap, wire], [], [])[0]:
        # A device that is down takes nothing, which is a lost frame and no more.
        with contextlib.suppress(OSError):
            if ready is tap:
                frame = tap.read(2048)
                tag = struct.pack("!HH", 0x8100, (5 << 13) | vid)
                wire.send(frame[:12] + tag + frame[12:])
                continue
            frame, extra, _, address = wire.recvmsg(2048, 256)
            heard = 0
            for level, kind, data in extra:
                if (level, kind) != (SOL_PACKET, PACKET_AUXDATA):
                    continue
                status, _, _, _, _, tci = struct.unpack("IIIHHH", data[:18])
                heard = tci & 0xFFF if status & VLAN_VALID else 0
                # A virtual cable carries datagrams without their checksum yet; 0 is none (RFC 768).
                if status & CHECKSUM_NOT_READY and frame[12:14] == b"\x08\x00" and frame[23] == 17:
                    at = 14 + (frame[14] & 0x0F) * 4 + 6
                    frame = frame[:at] + b"\0\0" + frame[at + 2 :]
            if address[2] != OUTGOING and heard == vid:
                tap.write(frame)
