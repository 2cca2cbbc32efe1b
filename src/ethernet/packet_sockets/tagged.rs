//! Which VLANs' devices ask for addresses at this port (IEEE 802.1Q). They are not served: the interface's own IP does not hear
//! them. But people who wonder why their phones are not served should hear that they are in another VLAN.
//!
//! The kernel takes the tag off before a socket of one protocol sees the frame. So this socket hears all protocols, and its
//! filter lets through requests to the server's port with a tag, and nothing else.

use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd as _;

use nix::libc;
use nix::sys::socket::{ControlMessageOwned, LinkAddr, MsgFlags, recvmsg};
use socket2::{SockFilter, Socket};

use super::{PacketSockets, Purpose};
use crate::filter::{
    ANY_BIT, EQUAL, LOAD_BYTE, LOAD_HALF, LOAD_HALF_AT, LOAD_LENGTH, LOAD_WORD, RETURN, VLAN_TAG, VLAN_TAG_PRESENT,
};

/// `PACKET_AUXDATA`: the kernel says beside each frame which tag it had.
const AUXDATA: libc::c_int = 8;
/// `PACKET_IGNORE_OUTGOING`: what this machine sends does not come by this socket.
const IGNORE_OUTGOING: libc::c_int = 23;
/// `TP_STATUS_VLAN_VALID`: the frame came with a tag.
const TAG_VALID: u32 = 1 << 4;
/// The bits of a tag that are the VLAN's number.
const VLAN_ID: u16 = 0x0fff;
/// The room for what the kernel says beside a frame.
const CONTROL_BYTES: usize = 128;

/// Opens the socket on the interface of `link`, for requests to this port. Not blocking.
///
/// # Errors
///
/// As [`PacketSockets::take`], or if the kernel does not say which tag a frame had.
pub fn open(sockets: &mut PacketSockets, link: &LinkAddr, server_port: u16) -> io::Result<Socket> {
    let filter = vec![
        SockFilter::new(LOAD_WORD, 0, 0, VLAN_TAG_PRESENT),
        SockFilter::new(EQUAL, 10, 0, 0),
        SockFilter::new(LOAD_WORD, 0, 0, VLAN_TAG),
        SockFilter::new(ANY_BIT, 0, 8, VLAN_ID.into()),
        SockFilter::new(LOAD_HALF, 0, 0, 12),
        SockFilter::new(EQUAL, 0, 6, 0x0800),
        SockFilter::new(LOAD_BYTE, 0, 0, 23),
        SockFilter::new(EQUAL, 0, 4, 17),
        SockFilter::new(LOAD_LENGTH, 0, 0, 14),
        SockFilter::new(LOAD_HALF_AT, 0, 0, 16),
        SockFilter::new(EQUAL, 0, 1, server_port.into()),
        SockFilter::new(RETURN, 0, 0, 0xffff),
        SockFilter::new(RETURN, 0, 0, 0),
    ];
    let socket = sockets.take(Purpose::Tagged, link, Some(filter))?;
    switch_on(&socket, AUXDATA)?;
    // A kernel before 4.20 shows what we send as well, which has no tag.
    let _ = switch_on(&socket, IGNORE_OUTGOING);
    Ok(socket)
}

/// The next frame: its VLAN, and how many octets of it were read.
///
/// # Errors
///
/// `WouldBlock` if there is none, or whatever the interface says.
pub fn hear(socket: &impl std::os::fd::AsFd, frame: &mut [u8]) -> io::Result<(Option<u16>, usize)> {
    let mut control = vec![0; CONTROL_BYTES];
    let mut parts = [IoSliceMut::new(frame)];
    let message = recvmsg::<()>(socket.as_fd().as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
    let vlan = message.cmsgs()?.find_map(|one| match one {
        ControlMessageOwned::Unknown(said) if said.cmsg_header.cmsg_type == AUXDATA => vlan_of(&said.data_bytes),
        _ => None,
    });
    Ok((vlan, message.bytes))
}

/// The VLAN that a `tpacket_auxdata` names: a status first, the tag in its seventeenth and eighteenth octet.
fn vlan_of(auxdata: &[u8]) -> Option<u16> {
    let status = u32::from_ne_bytes(auxdata.get(..4)?.try_into().ok()?);
    let tag = u16::from_ne_bytes(auxdata.get(16..18)?.try_into().ok()?);
    (status & TAG_VALID != 0).then_some(tag & VLAN_ID).filter(|vlan| *vlan != 0)
}

fn switch_on(socket: &Socket, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    let size = libc::socklen_t::try_from(size_of_val(&on)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open, and the kernel reads one `int`, which lives until the call returns.
    #[expect(unsafe_code, reason = "no package of ours has these options, and this is the whole call")]
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, (&raw const on).cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vlan_of_a_tag_is_read_and_what_is_cut_or_has_none_names_none() {
        let auxdata = |status: u32, tag: u16| {
            [&status.to_ne_bytes()[..], &[0; 12], &tag.to_ne_bytes(), &0x8100_u16.to_ne_bytes()].concat()
        };
        // Priority 5, VLAN 20.
        assert_eq!(vlan_of(&auxdata(TAG_VALID | 1, 5 << 13 | 20)), Some(20));
        assert_eq!(vlan_of(&auxdata(TAG_VALID, 5 << 13)), None, "a tag that gives a priority only");
        assert_eq!(vlan_of(&auxdata(1, 20)), None);
        for length in 0..18 {
            assert_eq!(vlan_of(auxdata(TAG_VALID, 20).get(..length).unwrap_or_default()), None, "{length}");
        }
    }
}
