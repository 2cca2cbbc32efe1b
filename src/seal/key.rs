//! The publisher's secret, from which all content keys are derived.

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use bundle::RecipientSecret;

bundle::secret! {
    /// HQ's secret that content keys are derived from. It never leaves the publisher.
    PublisherSecret
}

impl PublisherSecret {
    /// A new secret from the system's random source.
    ///
    /// # Panics
    ///
    /// If the system has no randomness to give: no secret is better than a guessable one.
    pub fn generate() -> Self {
        Self(*bundle::key::random())
    }

    /// The key with which the desk checks who proves a new sealing key. Every desk that has the secret has it.
    pub fn desk_key(&self) -> RecipientSecret {
        let mut key = Zeroizing::new([0; 32]);
        let source = Hkdf::<Sha256>::new(None, self.as_bytes());
        source.expand(b"lineside desk key", key.as_mut()).expect("32 bytes are within what HKDF-SHA256 gives");
        RecipientSecret::from_bytes(*key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        let shown = format!("{:?}", PublisherSecret::from_bytes([0xab; 32]));
        assert!(shown.starts_with("PublisherSecret(#") && !shown.contains("abab"), "{shown}");
    }

    #[test]
    fn a_desk_key_is_its_publishers_and_not_the_secret() {
        let (one, other) = (PublisherSecret::from_bytes([1; 32]), PublisherSecret::from_bytes([2; 32]));
        assert_eq!(one.desk_key(), PublisherSecret::from_bytes([1; 32]).desk_key());
        assert_ne!(one.desk_key(), other.desk_key());
        assert_ne!(one.desk_key().as_bytes(), one.as_bytes());
    }

    #[test]
    fn secrets_are_not_made_twice() {
        assert_ne!(PublisherSecret::generate(), PublisherSecret::generate());
    }
}
