//! What phones get in the benchmark: configurations of which a quarter is the phone's own and does not compress, and
//! images.

use std::fmt::Write as _;

/// A small generator of numbers (SplitMix64): the same files in every run.
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Letters and digits, 6 bits each: zstd finds nothing but the missing two.
    pub fn text(&mut self, bytes: usize) -> String {
        const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut text = String::with_capacity(bytes);
        while text.len() < bytes {
            let mut number = self.next();
            for _ in 0..10.min(bytes - text.len()) {
                text.push(char::from(LETTERS[(number & 63) as usize]));
                number >>= 6;
            }
        }
        text
    }

    pub fn bytes(&mut self, bytes: usize) -> Vec<u8> {
        let mut all = Vec::with_capacity(bytes + 8);
        while all.len() < bytes {
            all.extend_from_slice(&self.next().to_le_bytes());
        }
        all.truncate(bytes);
        all
    }
}

/// Bytes of one configuration.
pub const CONFIG_BYTES: usize = 8192;

/// `model.toml` of the phones measured; `images` are theirs.
pub fn model_toml(images: &[&str]) -> String {
    let images: Vec<String> = images.iter().map(|image| format!("\"{image}\"")).collect();
    format!(
        "models = [\"bench\"]\nfirmware = [{}]\n[[file]]\nname = \"SEP{{{{ phone.mac_upper }}}}.cnf.xml\"\n\
         template = \"SEP.cnf.xml.j2\"\nscope = \"device\"\n",
        images.join(", ")
    )
}

/// Bytes of a configuration that no other phone has.
const OWN_BYTES: usize = 2048;

/// A configuration: markup as all phones of a model have it, and what is the phone's own.
pub fn template() -> String {
    let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<device>\n  <own>{{ own }}</own>\n".to_owned();
    let mut numbers = Numbers::new(3);
    let end = "</device>\n";
    let markup = CONFIG_BYTES - OWN_BYTES + "{{ own }}".len() - end.len();
    while text.len() < markup {
        let (name, value) = (numbers.text(12), numbers.next() % 1000);
        let line = format!("  <{name}Enabled>{value}</{name}Enabled>\n");
        let room = markup - text.len();
        text.push_str(if line.len() <= room { &line } else { "          \n" });
        text.truncate(markup);
    }
    text + end
}

/// Lines of `phones.csv` for `count` phones of `site`, addresses counting up from `first`.
pub fn phones(csv: &mut String, site: &str, first: u64, count: u64, numbers: &mut Numbers) {
    for number in first..first + count {
        writeln!(csv, "{},{site},bench,,{}", mac(number), numbers.text(OWN_BYTES)).unwrap();
    }
}

pub fn mac(number: u64) -> String {
    let bytes = number.to_be_bytes();
    format!("00:1b:54:{:02x}:{:02x}:{:02x}", bytes[5], bytes[6], bytes[7])
}

/// The configuration's name and content, for peers.
pub fn config(line: &str) -> (String, String) {
    let fields: Vec<&str> = line.split(',').collect();
    (format!("SEP{}.cnf.xml", fields[0].replace(':', "").to_uppercase()), template().replace("{{ own }}", fields[4]))
}
