//! Who a certificate is for: the common name of its subject, for logs and refusals. Nothing is decided by it.
//!
//! The certificate has been verified before, so this looks for one thing only, in DER (X.690, RFC 5280 4.1), and gives up on the
//! first byte that is not as expected.

/// Names that are longer are cut (RFC 5280: `ub-common-name` is 64).
const MAX_NAME: usize = 64;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_ID: u8 = 0x06;

/// `id-at-commonName`, 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// The common name of a certificate's subject, with nothing in it that a terminal would obey.
pub(super) fn common_name(certificate: &[u8]) -> Option<String> {
    let (SEQUENCE, certificate, _) = next(certificate)? else { return None };
    let (SEQUENCE, mut rest, _) = next(certificate)? else { return None };
    // The version is there or not: `[0] EXPLICIT`.
    if let (0xa0, _, after) = next(rest)? {
        rest = after;
    }
    // Serial number, signature algorithm, issuer, validity.
    for _ in 0..4 {
        rest = next(rest)?.2;
    }
    let (SEQUENCE, mut names, _) = next(rest)? else { return None };
    let mut found = None;
    while !names.is_empty() {
        let (SET, mut pairs, after) = next(names)? else { return None };
        names = after;
        while !pairs.is_empty() {
            let (SEQUENCE, pair, after) = next(pairs)? else { return None };
            pairs = after;
            let (OBJECT_ID, id, value) = next(pair)? else { return None };
            if id == COMMON_NAME {
                found = Some(next(value)?.1);
            }
        }
    }
    let text = String::from_utf8_lossy(found?);
    Some(text.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect())
}

/// Tag, content and what follows.
fn next(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // Long form: so many bytes of length, most significant first.
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            (length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_rustls::rustls::pki_types::CertificateDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject;

    #[test]
    fn the_common_name_is_found_and_cut_certificates_have_none() {
        let dir = tempfile::tempdir().unwrap();
        let (key, cert) = (dir.path().join("key.pem"), dir.path().join("cert.pem"));
        let made = std::process::Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"])
            .args(["-subj", "/O=weft/CN=alice\u{7}/OU=x"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&cert)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let der = CertificateDer::from_pem_file(&cert).unwrap();
        assert_eq!(common_name(&der).as_deref(), Some("alice"));
        for length in 0..der.len() {
            assert_eq!(common_name(&der[..length]), None, "{length}");
        }
    }
}
