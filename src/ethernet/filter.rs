//! The words of classic BPF, in which the kernel reads the filters of sockets (Linux `networking/filter`).

/// `BPF_LD | BPF_W | BPF_ABS`: load four octets at this place, or what one of the [ancillary](PACKET_TYPE) places holds.
pub const LOAD_WORD: u16 = 0x20;
/// `BPF_LD | BPF_H | BPF_ABS`: load two octets at this place.
pub const LOAD_HALF: u16 = 0x28;
/// `BPF_LD | BPF_B | BPF_ABS`: load one octet at this place.
pub const LOAD_BYTE: u16 = 0x30;
/// `BPF_LD | BPF_H | BPF_IND`: load two octets at this place behind the index register.
pub const LOAD_HALF_AT: u16 = 0x48;
/// `BPF_LDX | BPF_B | BPF_MSH`: load the length of the IPv4 header at this place into the index register.
pub const LOAD_LENGTH: u16 = 0xb1;
/// `BPF_JMP | BPF_JEQ | BPF_K`: go on so many words later if what was loaded is this, or so many if it is not.
pub const EQUAL: u16 = 0x15;
/// `BPF_JMP | BPF_JEQ | BPF_X`: the same with the index register instead of a number.
pub const EQUAL_X: u16 = 0x1d;
/// `BPF_MISC | BPF_TAX`: copy what was loaded into the index register.
pub const KEEP_IN_X: u16 = 0x07;
/// `BPF_JMP | BPF_JSET | BPF_K`: as `EQUAL`, if any of these bits is set.
pub const ANY_BIT: u16 = 0x45;
/// `BPF_RET | BPF_K`: let through that many octets of the frame.
pub const RETURN: u16 = 0x06;

/// `SKF_AD_OFF`: where the ancillary places begin.
const ANCILLARY: u32 = 0xffff_f000;
/// `SKF_AD_PKTTYPE`: whom the frame was for.
pub const PACKET_TYPE: u32 = ANCILLARY + 4;
/// `SKF_AD_IFINDEX`: the interface that the frame came to.
pub const INTERFACE: u32 = ANCILLARY + 8;
/// `SKF_AD_CPU`: the processor that works on the frame.
pub const PROCESSOR: u32 = ANCILLARY + 36;
/// `SKF_AD_VLAN_TAG`: the tag of the frame.
pub const VLAN_TAG: u32 = ANCILLARY + 44;
/// `SKF_AD_VLAN_TAG_PRESENT`: whether the frame came with a tag.
pub const VLAN_TAG_PRESENT: u32 = ANCILLARY + 48;
