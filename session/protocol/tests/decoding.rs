//! Any bytes may arrive on the wires: decoding never panics, and what was understood is the same after a round trip. The fuzz
//! targets in `tests/fuzz` hold the same for longer.

use mirrord_protocol::{agent::v1 as agent, layer::v1 as layer, session::v1 as session};
use proptest::prelude::*;
use prost::Message;

/// Decodes, encodes and decodes again; compared as bytes, because a NaN is not equal to itself.
fn comes_back<M: Message + Default>(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(message) = M::decode(bytes) {
        let encoded = message.encode_to_vec();
        let again = M::decode(encoded.as_slice()).map(|message| message.encode_to_vec());
        prop_assert_eq!(again, Ok(encoded));
    }
    Ok(())
}

/// Bytes that look like fields more often than noise does: a small tag, then a number or a length and so many bytes.
fn fields() -> impl Strategy<Value = Vec<u8>> {
    let number = (1..40_u8, any::<u64>()).prop_map(|(tag, value)| {
        let mut bytes = Vec::new();
        prost::encoding::encode_varint(u64::from(tag) << 3, &mut bytes);
        prost::encoding::encode_varint(value, &mut bytes);
        bytes
    });
    let leaf = prop_oneof![number, prop::collection::vec(any::<u8>(), 0..20)];
    leaf.prop_recursive(4, 64, 6, |inner| {
        (1..40_u8, prop::collection::vec(inner, 0..6)).prop_map(|(tag, parts)| {
            let content = parts.concat();
            let mut bytes = Vec::new();
            prost::encoding::encode_varint(u64::from(tag) << 3 | 2, &mut bytes);
            prost::encoding::encode_varint(content.len() as u64, &mut bytes);
            bytes.extend(content);
            bytes
        })
    })
}

proptest! {
    #[test]
    fn anything_may_arrive(parts in prop::collection::vec(fields(), 0..8)) {
        let bytes = parts.concat();
        comes_back::<agent::FileRequest>(&bytes)?;
        comes_back::<agent::FileReply>(&bytes)?;
        comes_back::<agent::SubscriptionReply>(&bytes)?;
        comes_back::<agent::MirrorBatch>(&bytes)?;
        comes_back::<agent::AcceptDown>(&bytes)?;
        comes_back::<agent::DialUp>(&bytes)?;
        comes_back::<agent::HelloReply>(&bytes)?;
        comes_back::<session::SessionInfo>(&bytes)?;
        comes_back::<session::EventBatch>(&bytes)?;
        comes_back::<session::HistogramsReply>(&bytes)?;
        comes_back::<session::ReplayRequest>(&bytes)?;
        comes_back::<layer::FromLayer>(&bytes)?;
        comes_back::<layer::ToLayer>(&bytes)?;
    }
}
