//! The cryptography that is offered: TLS 1.3, hybrid post-quantum key exchange first.

use std::sync::{Arc, LazyLock, OnceLock};

use rustls::{
    NamedGroup,
    crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs},
};

/// Set once somebody demands it.
static POST_QUANTUM: OnceLock<()> = OnceLock::new();

/// From here on no handshake of this process agrees on a key that a quantum computer finds out:
/// X25519MLKEM768 is all that is offered and accepted. To be called before the first handshake.
pub fn demand_post_quantum() {
    let _ = POST_QUANTUM.set(());
}

/// Those of `all` that may be agreed on.
fn groups(
    all: Vec<&'static dyn SupportedKxGroup>,
    post_quantum: bool,
) -> Vec<&'static dyn SupportedKxGroup> {
    let may =
        |group: &&dyn SupportedKxGroup| !post_quantum || group.name() == NamedGroup::X25519MLKEM768;
    all.into_iter().filter(may).collect()
}

/// X25519MLKEM768, X25519, P-256, P-384; AES-256-GCM, AES-128-GCM, ChaCha20-Poly1305.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        use aws_lc_rs::{cipher_suite as suite, kx_group as group};
        Arc::new(CryptoProvider {
            kx_groups: groups(
                vec![group::X25519MLKEM768, group::X25519, group::SECP256R1, group::SECP384R1],
                POST_QUANTUM.get().is_some(),
            ),
            cipher_suites: vec![
                suite::TLS13_AES_256_GCM_SHA384,
                suite::TLS13_AES_128_GCM_SHA256,
                suite::TLS13_CHACHA20_POLY1305_SHA256,
            ],
            ..aws_lc_rs::default_provider()
        })
    });
    Arc::clone(&PROVIDER)
}

/// The cryptography of [`provider`], with the suites of TLS 1.2 behind its own: ECDHE with AES-GCM
/// or ChaCha20-Poly1305.
#[must_use]
pub fn classic_provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let tls13 = provider();
        let mut suites = tls13.cipher_suites.clone();
        let all = aws_lc_rs::default_provider().cipher_suites;
        suites.extend(all.into_iter().filter(|s| s.tls13().is_none()));
        Arc::new(CryptoProvider { cipher_suites: suites, ..(*tls13).clone() })
    });
    Arc::clone(&PROVIDER)
}

/// TLS 1.2 and 1.3 with the ciphers of Mozilla's *intermediate*, none without forward secrecy: for
/// servers of the web.
#[must_use]
pub fn web_provider() -> Arc<CryptoProvider> {
    let all = aws_lc_rs::default_provider();
    let kx_groups = groups(all.kx_groups, POST_QUANTUM.get().is_some());
    Arc::new(CryptoProvider { kx_groups, ..all })
}

/// The IANA name of a key exchange group.
pub(super) fn group_name(group: rustls::NamedGroup) -> &'static str {
    use rustls::NamedGroup as G;
    match group {
        G::X25519MLKEM768 => "X25519MLKEM768",
        G::X25519 => "X25519",
        G::secp256r1 => "secp256r1",
        G::secp384r1 => "secp384r1",
        _ => "other",
    }
}

/// The IANA name of a cipher suite.
pub(super) fn cipher_name(suite: rustls::CipherSuite) -> &'static str {
    use rustls::CipherSuite as C;
    match suite {
        C::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        C::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        C::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        C::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        C::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        C::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => {
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"
        }
        C::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        C::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        C::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => {
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"
        }
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn post_quantum_leaves_one_group_and_there_is_one() {
        for post_quantum in [false, true] {
            let left = groups(aws_lc_rs::default_provider().kx_groups, post_quantum);
            let hybrid = left.iter().filter(|group| group.name() == NamedGroup::X25519MLKEM768);
            assert_eq!((hybrid.count(), left.len() == 1), (1, post_quantum));
        }
    }
}
