//! What all three wires have in common: whatever is decoded can be encoded, and comes back the same.

/// Decodes `$data` as the message that its first byte chooses from the list.
#[macro_export]
macro_rules! decode_one_of {
    ($data:expr; $($message:ty),+ $(,)?) => {{
        let data: &[u8] = $data;
        let Some((choice, bytes)) = data.split_first() else { return };
        let mut number = 0_u8;
        $(
            if *choice == number {
                if let Ok(message) = <$message as prost::Message>::decode(bytes) {
                    let encoded = prost::Message::encode_to_vec(&message);
                    let again = <$message as prost::Message>::decode(encoded.as_slice());
                    // Compared as bytes: a NaN is not equal to itself.
                    assert_eq!(again.map(|message| prost::Message::encode_to_vec(&message)), Ok(encoded));
                }
                return;
            }
            number = number.wrapping_add(1);
        )+
        let _ = number;
    }};
}
