//! A session without an owner, as the terminal UI starts it: its command has a terminal of the host's, viewers come and go, and
//! everything that they can do works against a real target.
//!
//! The library finds folders and program in the environment, so the viewer is this test program again, with the environment of the
//! test's world.

use std::{process::Command, time::Duration};

use mirrord_protocol::session::v1::{self as wire, session_client::SessionClient};
use mirrord_session::{
    config::{Config, Mode, PortSpec},
    spec::SessionSpec,
    starter,
};
use mirrord_tests::{World, finish, for_every_user, program};
use tokio::time::{sleep, timeout};
use tonic::{Streaming, transport::Channel};

type Client = SessionClient<Channel>;

const LIMIT: Duration = Duration::from_secs(20);
const TARGET: &str = "MIRRORD_TEST_TARGET";
const TOOL: &str = "MIRRORD_TEST_TOOL";

#[test]
fn a_viewer_can_do_everything() {
    for_every_user(|user| {
        let world = World::new(user);
        let tool = world.install(env!("CARGO_BIN_EXE_e2e-tool"));
        let log = world.home().join("pod.log").to_string_lossy().into_owned();
        let target = world.pod("target", &[], &[&tool, "clerk", "80", "pod", &log]);
        target.wait_listening(80);
        let this = std::env::current_exe().expect("this program has a path");
        let this = world.install(&this.to_string_lossy());
        let mut viewer = world.other(&this);
        viewer.args(["--exact", "viewer", "--ignored", "--nocapture"]);
        viewer.env("MIRRORD_TUI_BIN", program()).env(TARGET, target.target()).env(TOOL, &tool);
        let ended = finish(&mut viewer);
        ended.expect_code(0);
        assert!(world.sessions().is_empty(), "it is gone");
    });
}

/// The other half of the test above.
#[tokio::test]
#[ignore = "runs as a program of its own"]
async fn viewer() {
    let text = |name: &str| std::env::var(name).expect("the test sets it");
    let mut config = Config::default();
    config.incoming.ports = vec![PortSpec { remote: 80, local: 8080, mode: Mode::Steal }];
    let script = "stty size; read line; echo \"got $line\"; exec \"$0\" clerk 8080 own own.log";
    let command = ["sh", "-c", script, &text(TOOL)].map(Into::into).to_vec();
    let target = text(TARGET);
    let mut spec = SessionSpec::for_caller(target.parse().unwrap(), config, command).unwrap();
    (spec.owned, spec.process_group, spec.terminal) = (false, None, Some((97, 23)));
    let started = starter::start_session(&spec).await.expect("start the session");
    let mut client = started.client;
    let mut child = started.child;

    let (input_tx, input_rx) = tokio::sync::mpsc::channel(4);
    let input = tokio_stream::wrappers::ReceiverStream::new(input_rx);
    let mut terminal = client.terminal(input).await.unwrap().into_inner();
    printed(&mut terminal, "23 97").await;
    input_tx.send(wire::TerminalInput { data: "hello\n".into(), ..Default::default() }).await.unwrap();
    printed(&mut terminal, "got hello").await;
    printed(&mut terminal, "listening").await;

    wait_port(&mut client, |port| port.mode() == wire::Mode::Steal).await;
    ask_target(&target);
    let request = last_request(&mut client).await;
    assert_eq!(request.1, 200);
    let again = wire::ReplayRequest { seq: request.0, ..wire::ReplayRequest::default() };
    let again = client.replay(again).await.unwrap().into_inner();
    assert!(again.status == 200 && again.seq > request.0, "{again:?}");

    let recording = std::env::current_dir().unwrap().join("session.jsonl");
    let path = recording.to_string_lossy().into_owned();
    client.record(wire::RecordRequest { path: path.into(), stop: false }).await.unwrap();
    let stop = wire::RecordRequest { stop: true, ..wire::RecordRequest::default() };
    let rows = client.record(stop).await.unwrap().into_inner().events;
    let read = mirrord_session::recording::load(&recording).unwrap();
    assert!(rows > 0 && read.lost == 0 && read.events.iter().any(|event| event.seq == again.seq));

    let mode = wire::SetModeRequest { port: 80, mode: wire::Mode::Mirror.into() };
    let port = client.set_mode(mode).await.unwrap().into_inner().port.unwrap();
    assert_eq!(port.mode(), wire::Mode::Mirror);

    // Viewers go, and the session stays; another one finds it by the beginning of its id.
    drop((client, terminal, input_tx));
    let mut client = mirrord_session::registry::connect(&spec.id[..3]).await.expect("find the session");
    let info = client.info(wire::InfoRequest {}).await.unwrap().into_inner();
    assert!(info.state() == wire::State::Running && info.has_terminal);
    client.stop(wire::StopRequest { kill: false }).await.unwrap();
    drop(client);
    let status = timeout(LIMIT, child.wait()).await.expect("the host ends").unwrap();
    assert!(status.success(), "{status}");
}

async fn printed(terminal: &mut Streaming<wire::TerminalOutput>, wanted: &str) {
    let mut text = String::new();
    let found = timeout(LIMIT, async {
        while !text.contains(wanted) {
            let output = terminal.message().await.unwrap().expect("the terminal is open");
            text.push_str(&String::from_utf8_lossy(&output.data));
        }
    });
    assert!(found.await.is_ok(), "`{wanted}` is printed");
}

async fn wait_port(client: &mut Client, condition: impl Fn(&wire::Port) -> bool) {
    let found = timeout(LIMIT, async {
        loop {
            let info = client.info(wire::InfoRequest {}).await.unwrap().into_inner();
            if info.ports.iter().any(&condition) {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(found.await.is_ok(), "the port comes to that");
}

/// One customer's request to the target, from the node.
fn ask_target(target: &str) {
    let name = target.trim_start_matches("local/");
    let mut dial = Command::new(program());
    let command = "exec 3<>/dev/tcp/127.0.0.1/80; printf 'GET /1 HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n' >&3; cat <&3";
    dial.args(["local", "exec", name, "--", "bash", "-c", command]);
    let output = dial.output().expect("ask the target");
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("HTTP/1.1 200"), "{output:?}");
}

/// Number and status of the last request that has ended.
async fn last_request(client: &mut Client) -> (u64, u32) {
    let kinds = vec![wire::Kind::Request.into()];
    let mut events = client
        .events(wire::EventsRequest { kinds, follow: true, from_seq: 0, bodies: false })
        .await
        .unwrap()
        .into_inner();
    let found = timeout(LIMIT, async {
        loop {
            let batch = events.message().await.unwrap().expect("the session goes on");
            let ended = batch.events.iter().rfind(|event| !event.pending);
            if let Some(event) = ended
                && let Some(wire::event::Detail::Request(request)) = &event.detail
            {
                return (event.seq, request.status);
            }
        }
    });
    found.await.expect("a request is seen")
}
