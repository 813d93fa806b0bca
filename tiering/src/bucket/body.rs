//! What a PUT sends: a list of buffers, cheap to clone, never copied on its way to the store.
//!
//! R2: a body is fixed before its first send; every retry and every hedge sends a clone of it.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use object_store::PutPayload;

/// The bytes of one object.
#[derive(Clone, Debug, Default)]
pub struct Body {
    parts: Arc<[Bytes]>,
    len: usize,
}

impl Body {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The buffers, in order.
    pub fn parts(&self) -> &[Bytes] {
        &self.parts
    }

    /// One buffer; copies unless there is only one part.
    pub fn to_bytes(&self) -> Bytes {
        if let [only] = &*self.parts {
            return only.clone();
        }
        let mut whole = BytesMut::with_capacity(self.len);
        self.parts.iter().for_each(|part| whole.extend_from_slice(part));
        whole.freeze()
    }

    /// Whether the body begins with `head`.
    pub fn starts_with(&self, mut head: &[u8]) -> bool {
        for part in &*self.parts {
            let n = part.len().min(head.len());
            if part[..n] != head[..n] {
                return false;
            }
            head = &head[n..];
        }
        head.is_empty()
    }

    pub(super) fn payload(&self) -> PutPayload {
        self.parts.iter().cloned().collect()
    }
}

impl From<Vec<Bytes>> for Body {
    fn from(parts: Vec<Bytes>) -> Body {
        let len = parts.iter().map(Bytes::len).sum();
        Body { parts: parts.into(), len }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Body {
        Body::from(vec![bytes])
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Body {
        Body::from(Bytes::from(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_compared_across_parts() {
        let body = Body::from(vec![Bytes::from_static(b"ab"), Bytes::new(), Bytes::from_static(b"cd")]);
        assert_eq!(body.len(), 4);
        assert!(body.starts_with(b"") && body.starts_with(b"abc") && body.starts_with(b"abcd"));
        assert!(!body.starts_with(b"abd") && !body.starts_with(b"abcde"));
        assert_eq!(body.to_bytes(), "abcd");
    }
}
