//! DNS messages as the session host reads them: questions of the program, answers of any server.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mirrord_session::network::dns_message::{failure, question, reply, truncated, udp_payload};

fuzz_target!(|data: &[u8]| {
    let asked = question(data).is_ok();
    drop(reply(data));
    let _ = udp_payload(data);
    for answer in [failure(data, 2), truncated(data)] {
        assert_eq!(answer.is_ok(), asked, "every question that was understood can be answered");
        if let Ok(answer) = answer {
            assert_eq!(answer.get(..2), data.get(..2), "an answer has the question's id");
            assert!(reply(&answer).is_ok(), "our own answer is one");
        }
    }
});
