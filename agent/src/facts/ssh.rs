//! `ssh`: the host's public keys and their SSHFP fingerprints (RFC 4255).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use direct_puppet_transport::protocol::Value;
use sha1::{Digest as _, Sha1};
use sha2::Sha256;

use super::tree::Tree;
use super::{Facts, hash, known, text};

/// Where keys are looked for; a key of a later one wins.
const DIRECTORIES: [&str; 5] = ["/etc/ssh", "/usr/local/etc/ssh", "/etc", "/usr/local/etc", "/etc/opt/ssh"];

/// Type in the key file, name of the fact, and the algorithm's number in SSHFP records.
const TYPES: [(&str, &str, u8); 4] =
    [("ssh-rsa", "rsa", 1), ("ssh-dss", "dsa", 2), ("ecdsa-sha2-nistp256", "ecdsa", 3), ("ssh-ed25519", "ed25519", 4)];

pub(super) fn ssh(tree: &Tree) -> Option<Value> {
    let mut keys = Facts::new();
    for directory in DIRECTORIES {
        for name in ["rsa", "dsa", "ecdsa", "ed25519"] {
            let file = tree.read(&format!("{directory}/ssh_host_{name}_key.pub"));
            keys.extend(file.as_deref().and_then(key));
        }
    }
    hash(keys)
}

/// Reads a public key file of OpenSSH: type, base64, comment.
fn key(line: &str) -> Option<(String, Value)> {
    let mut words = line.split_whitespace();
    let (kind, key) = (words.next()?, words.next()?);
    let (_, name, number) = TYPES.iter().find(|(known, _, _)| *known == kind)?;
    let bytes = STANDARD.decode(key).ok()?;
    let fingerprints = known([
        ("sha1", text(format!("SSHFP {number} 1 {}", hex(&Sha1::digest(&bytes))))),
        ("sha256", text(format!("SSHFP {number} 2 {}", hex(&Sha256::digest(&bytes))))),
    ]);
    let value = hash(known([("fingerprints", hash(fingerprints)), ("key", text(key)), ("type", text(kind))]))?;
    Some(((*name).to_owned(), value))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
