//! Tokens and keys: they go into one comparison or one header, and nowhere else.

use hyper::header::HeaderValue;
use subtle::ConstantTimeEq as _;

/// A secret. `Debug` shows stars, and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes the value of a variable; white space around it is no part of it.
    ///
    /// # Errors
    /// Nothing is left, or it holds what no header can carry.
    pub fn new(text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        match () {
            () if text.is_empty() => Err("expected a secret, got nothing"),
            () if !text.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Err("expected printable ASCII without blanks, got other bytes")
            }
            () => Ok(Self(text.to_owned())),
        }
    }

    /// Whether the value of an `authorization` header is `Bearer` and this. The time it takes depends on lengths alone.
    pub(super) fn is_borne_by(&self, value: &[u8]) -> bool {
        const SCHEME: &[u8] = b"bearer ";
        let Some((scheme, token)) = value.split_at_checked(SCHEME.len()) else { return false };
        scheme.eq_ignore_ascii_case(SCHEME)
            && bool::from(token.trim_ascii().ct_eq(self.0.as_bytes()))
    }

    /// As an `authorization` header, marked so that HTTP libraries do not log it.
    pub(super) fn header(&self) -> HeaderValue {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", self.0))
            .expect("`new` took printable ASCII alone");
        value.set_sensitive(true);
        value
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_opens() {
        let secret = Secret::new(" s3cret\n").unwrap();
        for (value, opens) in [
            ("Bearer s3cret", true),
            ("bearer  s3cret ", true),
            ("Bearer s3cre", false),
            ("Bearer s3crett", false),
            ("Bearer S3CRET", false),
            ("Basic s3cret", false),
            ("s3cret", false),
            ("Bearer ", false),
            ("", false),
        ] {
            assert_eq!(secret.is_borne_by(value.as_bytes()), opens, "{value}");
        }
        assert_eq!(format!("{secret:?} {:?}", secret.header()), "*** Sensitive");
    }

    #[test]
    fn what_no_header_carries_is_no_secret() {
        for text in ["", " \n", "a b", "ä", "a\nb"] {
            assert!(Secret::new(text).is_err(), "{text:?}");
        }
    }
}
