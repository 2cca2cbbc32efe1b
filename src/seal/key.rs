//! The publisher's secret, from which all content keys are derived.

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
    fn secrets_are_not_made_twice() {
        assert_ne!(PublisherSecret::generate(), PublisherSecret::generate());
    }
}
