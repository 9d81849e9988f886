//! The address of a server that kvbench starts.

use std::{fmt, net::Ipv6Addr, ops::Deref};

/// An IP address or a name, as a program binds to it (`::1`); its display is how it stands in a URL (`[::1]`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host(String);

impl Host {
    /// Reads a name, an IPv4 address, or an IPv6 address with or without brackets; `None` if it is none of them.
    pub fn new(text: &str) -> Option<Self> {
        let in_brackets = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let bare = in_brackets.unwrap_or(text);
        if in_brackets.is_some() || bare.contains(':') {
            bare.parse::<Ipv6Addr>().ok()?;
        }
        let name = |c: char| c.is_alphanumeric() || "-._:".contains(c);
        (!bare.is_empty() && bare.chars().all(name)).then(|| Self(bare.to_owned()))
    }
}

impl Deref for Host {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.contains(':') { write!(f, "[{}]", self.0) } else { f.write_str(&self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_is_bare_for_programs_and_in_brackets_for_urls() {
        for (text, bare, shown) in [
            ("::1", "::1", "[::1]"),
            ("[fe80::1]", "fe80::1", "[fe80::1]"),
            ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
            ("my-box.lan", "my-box.lan", "my-box.lan"),
        ] {
            let host = Host::new(text).expect(text);
            assert_eq!((&*host, host.to_string().as_str()), (bare, shown));
        }
        for text in
            ["", "[::1", "[127.0.0.1]", "box:8000", "::1:x", "a/b", "me@box", "a b", "[]", "a?b"]
        {
            assert_eq!(Host::new(text), None, "{text}");
        }
    }
}
