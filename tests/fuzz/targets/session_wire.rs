//! Messages between session host and viewers, both ways.
#![no_main]

mod wire;

use libfuzzer_sys::fuzz_target;
use mirrord_protocol::session::v1::*;

fuzz_target!(|data: &[u8]| {
    decode_one_of!(data;
        InfoRequest, WatchRequest, SessionInfo, EventsRequest, EventBatch, EventRequest, Event, HistogramsRequest,
        HistogramsReply, SetModeRequest, SetModeReply, SignalRequest, SignalReply, RecordRequest, RecordReply,
        ReplayRequest, ReplayReply, RestartRequest, RestartReply, TerminalInput, TerminalOutput, StopRequest, StopReply)
});
