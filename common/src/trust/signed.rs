//! Signed documents: canonical JSON, signing, and the one threshold check.
//!
//! Invariant: [`verify`] is the only way from bytes to a role's content. Canonical form: keys sorted, no white space, strings escape
//! `"` and `\` alone, integers only (the "canonical JSON" of the securesystemslib and TUF §4.2.2). The primitive is ed25519-dalek's strict
//! verification. Not here: which keys to trust.

use alloc::{
    collections::BTreeSet,
    format,
    string::{String, ToString},
    vec::Vec,
};

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::role::{Key, KeyValue};
use crate::id::Digest;

/// No document is longer.
pub const MAX_DOCUMENT: usize = 128 * 1024;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignedError {
    #[error("the document has {0} bytes, more than {MAX_DOCUMENT}")]
    TooLong(usize),
    #[error("the document is not what it should be: {0}")]
    Malformed(String),
    #[error("the {role} document has {valid} valid signatures of its keys, and {threshold} are needed")]
    Threshold { role: String, valid: usize, threshold: u32 },
}

#[derive(Serialize, Deserialize)]
struct Document {
    signed: Value,
    signatures: Vec<DocumentSignature>,
}

#[derive(Serialize, Deserialize)]
struct DocumentSignature {
    keyid: String,
    sig: String,
}

/// The public half as TUF writes it.
pub fn public_key(key: &SigningKey) -> Key {
    Key { keytype: "ed25519".into(), scheme: "ed25519".into(), keyval: KeyValue { public: hex::encode(key.verifying_key().as_bytes()) } }
}

/// TUF §4.2.1: the SHA-256 of the key's canonical form.
pub fn key_id(key: &Key) -> String {
    let value = serde_json::to_value(key).expect("a key is JSON");
    Digest::of(canonical(&value).expect("a key holds no fractions").as_bytes()).to_string()
}

/// Signs `content` and gives the whole document's bytes.
pub fn sign<T: Serialize>(content: &T, keys: &[&SigningKey]) -> Result<Vec<u8>, SignedError> {
    let malformed = |e: serde_json::Error| SignedError::Malformed(e.to_string());
    let signed = serde_json::to_value(content).map_err(malformed)?;
    let bytes = canonical(&signed)?;
    let signatures = keys
        .iter()
        .map(|key| DocumentSignature { keyid: key_id(&public_key(key)), sig: hex::encode(key.sign(bytes.as_bytes()).to_bytes()) })
        .collect();
    serde_json::to_vec(&Document { signed, signatures }).map_err(malformed)
}

/// Gives the content if at least `threshold` distinct keys of `keys` (id, key) signed it. A key counts once, under whatever
/// ids or in however many signatures it comes.
pub fn verify<'k, T: DeserializeOwned>(
    role: &str,
    bytes: &[u8],
    keys: impl IntoIterator<Item = (&'k String, &'k Key)>,
    threshold: u32,
) -> Result<T, SignedError> {
    let document = parse(bytes)?;
    let message = canonical(&document.signed)?;
    let mut signers = BTreeSet::new();
    for (id, key) in keys {
        let Some(public) = ed25519(key) else { continue };
        let signed = document.signatures.iter().filter(|s| s.keyid == *id).any(|s| is_by(&public, message.as_bytes(), &s.sig));
        if signed {
            signers.insert(public.to_bytes());
        }
    }
    if threshold == 0 || signers.len() < threshold as usize {
        return Err(SignedError::Threshold { role: role.into(), valid: signers.len(), threshold });
    }
    serde_json::from_value(document.signed).map_err(|e| SignedError::Malformed(e.to_string()))
}

/// The content without any check: for showing, and for finding out which version a root document claims before it is verified.
pub fn unverified<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, SignedError> {
    serde_json::from_value(parse(bytes)?.signed).map_err(|e| SignedError::Malformed(e.to_string()))
}

fn parse(bytes: &[u8]) -> Result<Document, SignedError> {
    if bytes.len() > MAX_DOCUMENT {
        return Err(SignedError::TooLong(bytes.len()));
    }
    serde_json::from_slice(bytes).map_err(|e| SignedError::Malformed(e.to_string()))
}

fn ed25519(key: &Key) -> Option<VerifyingKey> {
    if key.keytype != "ed25519" || key.scheme != "ed25519" {
        return None;
    }
    let mut bytes = [0; 32];
    hex::decode_to_slice(&key.keyval.public, &mut bytes).ok()?;
    VerifyingKey::from_bytes(&bytes).ok()
}

fn is_by(key: &VerifyingKey, message: &[u8], signature: &str) -> bool {
    let mut bytes = [0; 64];
    hex::decode_to_slice(signature, &mut bytes).is_ok() && key.verify_strict(message, &Signature::from_bytes(&bytes)).is_ok()
}

fn canonical(value: &Value) -> Result<String, SignedError> {
    let mut out = String::new();
    write_canonical(value, &mut out)?;
    Ok(out)
}

fn write_canonical(value: &Value, out: &mut String) -> Result<(), SignedError> {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) if number.is_f64() => return Err(SignedError::Malformed(format!("{number} is not an integer"))),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_canonical(item, out)?;
            }
            out.push(']');
        }
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by(|a, b| a.0.cmp(b.0));
            out.push('{');
            for (i, (name, item)) in sorted.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_string(name, out);
                out.push(':');
                write_canonical(item, out)?;
            }
            out.push('}');
        }
    }
    Ok(())
}

fn write_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        if c == '"' || c == '\\' {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use alloc::{collections::BTreeMap, vec};

    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn trusted(keys: &[&SigningKey]) -> BTreeMap<String, Key> {
        keys.iter().map(|k| (key_id(&public_key(k)), public_key(k))).collect()
    }

    #[test]
    fn canonical_json_sorts_and_escapes_the_least() {
        let value: Value = serde_json::from_str("{\"b\": [1, true, null], \"a\": \"x\\\"\\\\\\n\"}").unwrap();
        assert_eq!(canonical(&value).unwrap(), "{\"a\":\"x\\\"\\\\\n\",\"b\":[1,true,null]}");
        assert!(canonical(&serde_json::json!({"a": 1.5})).is_err());
    }

    #[test]
    fn thresholds_count_distinct_keys() {
        let (a, b) = (key(1), key(2));
        let content = vec![1u32, 2];
        struct Case(Vec<u8>, u32, bool);
        let twice = {
            let mut document: Value = serde_json::from_slice(&sign(&content, &[&a]).unwrap()).unwrap();
            let copy = document["signatures"][0].clone();
            document["signatures"].as_array_mut().unwrap().push(copy);
            serde_json::to_vec(&document).unwrap()
        };
        let cases = [
            Case(sign(&content, &[&a]).unwrap(), 1, true),
            Case(sign(&content, &[&a, &b]).unwrap(), 2, true),
            Case(sign(&content, &[&a]).unwrap(), 2, false),
            Case(twice, 2, false),
            Case(sign(&content, &[&key(3)]).unwrap(), 1, false),
            Case(sign(&content, &[&a]).unwrap(), 0, false),
        ];
        let keys = trusted(&[&a, &b]);
        for (i, Case(bytes, threshold, ok)) in cases.into_iter().enumerate() {
            assert_eq!(verify::<Vec<u32>>("r", &bytes, &keys, threshold).is_ok(), ok, "case {i}");
        }
    }

    #[test]
    fn one_key_under_two_ids_counts_once() {
        let a = key(1);
        let mut keys = trusted(&[&a]);
        keys.insert("alias".into(), public_key(&a));
        let mut document: Value = serde_json::from_slice(&sign(&7u32, &[&a]).unwrap()).unwrap();
        let mut copy = document["signatures"][0].clone();
        copy["keyid"] = "alias".into();
        document["signatures"].as_array_mut().unwrap().push(copy);
        let bytes = serde_json::to_vec(&document).unwrap();
        assert!(verify::<u32>("r", &bytes, &keys, 1).is_ok());
        assert!(verify::<u32>("r", &bytes, &keys, 2).is_err());
    }

    #[test]
    fn a_changed_byte_is_refused_and_an_unknown_field_survives() {
        let a = key(1);
        let bytes = sign(&serde_json::json!({"version": 1, "unknown": "kept"}), &[&a]).unwrap();
        #[derive(Deserialize)]
        struct Known {
            version: u32,
        }
        assert_eq!(verify::<Known>("r", &bytes, &trusted(&[&a]), 1).unwrap().version, 1);
        let text = String::from_utf8(bytes).unwrap().replace("kept", "lost");
        assert!(verify::<Known>("r", text.as_bytes(), &trusted(&[&a]), 1).is_err());
    }
}
