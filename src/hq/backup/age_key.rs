//! The recovery key as age writes its keys. Both are X25519; age names them in Bech32 (BIP 173).

use anyhow::anyhow;
use zeroize::Zeroizing;

use bundle::RecipientPublic;

const LETTERS: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";

/// The recipient to whom a backup is encrypted.
pub(super) fn recipient(key: &RecipientPublic) -> anyhow::Result<age::x25519::Recipient> {
    bech32("age", key.as_bytes()).parse().map_err(|error| anyhow!("the recovery key is no age key: {error}"))
}

/// The identity that opens it.
pub(super) fn identity(secret: &[u8; 32]) -> anyhow::Result<age::x25519::Identity> {
    let text = Zeroizing::new(bech32("age-secret-key-", secret).to_uppercase());
    text.parse().map_err(|error| anyhow!("the recovery key is no age key: {error}"))
}

/// BIP 173 for 32 bytes.
fn bech32(name: &str, bytes: &[u8; 32]) -> Zeroizing<String> {
    let mut words: Vec<u8> = Vec::with_capacity(52);
    let (mut held, mut bits) = (0u32, 0u32);
    for byte in bytes {
        held = (held << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            words.extend(u8::try_from((held >> bits) & 31));
        }
        held &= (1 << bits) - 1;
    }
    if bits > 0 {
        words.extend(u8::try_from((held << (5 - bits)) & 31));
    }
    let high = name.bytes().map(|byte| byte >> 5);
    let low = name.bytes().map(|byte| byte & 31);
    let covered = high.chain(std::iter::once(0)).chain(low).chain(words.iter().copied()).chain([0; 6]);
    let checksum = covered.fold(1u32, step) ^ 1;
    words.extend((0..6u32).rev().filter_map(|at| u8::try_from((checksum >> (5 * at)) & 31).ok()));
    let letters = words.iter().filter_map(|word| LETTERS.get(usize::from(*word)));
    Zeroizing::new(format!("{name}1{}", letters.map(|letter| char::from(*letter)).collect::<String>()))
}

/// One step of the checksum.
fn step(checksum: u32, value: u8) -> u32 {
    const GENERATOR: [u32; 5] = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];
    let top = checksum >> 25;
    let shifted = ((checksum & 0x01ff_ffff) << 5) ^ u32::from(value);
    GENERATOR.iter().zip(0..).filter(|(_, bit)| (top >> bit) & 1 == 1).fold(shifted, |sum, (word, _)| sum ^ word)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use bundle::RecipientSecret;

    #[test]
    fn what_is_encrypted_to_a_recovery_key_opens_with_it_alone() {
        let (ours, other) = (RecipientSecret::generate(), RecipientSecret::generate());
        let sealed = age::encrypt(&recipient(&ours.public()).unwrap(), b"backup").unwrap();
        assert_eq!(age::decrypt(&identity(ours.as_bytes()).unwrap(), &sealed).unwrap(), b"backup");
        assert!(age::decrypt(&identity(other.as_bytes()).unwrap(), &sealed).is_err());
        assert_eq!(
            identity(ours.as_bytes()).unwrap().to_public().to_string(),
            *bech32("age", ours.public().as_bytes())
        );
    }
}
