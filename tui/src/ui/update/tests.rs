//! What keys do: the order of Esc, questions before what cannot be taken back, a switch that stays pending until it is answered.

use crossterm::event::{KeyCode, KeyEvent};
use mirrord_protocol::session::v1::Mode;
use mirrord_session::cluster::ClusterConfig;

use super::*;
use crate::ui::{
    fake,
    model::{overlay::Overlay, session::Tab},
};

fn key(model: &mut Model, code: KeyCode) -> Vec<Effect> {
    let effects = update(model, Msg::Key(KeyEvent::from(code)));
    model.prepare();
    effects
}

fn type_keys(model: &mut Model, keys: &str) -> Vec<Effect> {
    keys.chars()
        .flat_map(|sign| key(model, if sign == '\n' { KeyCode::Enter } else { KeyCode::Char(sign) }))
        .collect()
}

/// `M` `s`, and what sessions there are then.
fn steal(model: &mut Model, sessions: &[SessionInfo]) -> Vec<Effect> {
    let (port, mode) = (80, Mode::Steal);
    assert_eq!(type_keys(model, "Ms"), [Effect::LookForOthers { port, mode }]);
    update(model, Msg::Others { port, mode, rows: sessions.to_vec() })
}

#[test]
fn a_switch_is_pending_until_the_agent_has_answered() {
    let mut model = fake::model(120, 40);
    assert_eq!(steal(&mut model, &[]), [Effect::SetMode { port: 80, mode: Mode::Steal }]);
    let session = model.session.as_ref().unwrap();
    assert_eq!(session.info.ports[0].mode(), Mode::Mirror, "never shown before it holds");
    assert_eq!(session.switching_to(&session.info.ports[0]), Some(Mode::Steal));
    let answer = fake::info(Mode::Steal).ports.remove(0);
    fake::say(&mut model, HostMsg::ModeSet { port: 80, mode: Mode::Steal, result: Ok(Some(answer)) });
    let session = model.session.as_ref().unwrap();
    assert_eq!((session.info.ports[0].mode(), session.switching.len()), (Mode::Steal, 0));
}

#[test]
fn a_switch_that_nobody_answers_is_given_up() {
    let mut model = fake::model(120, 40);
    steal(&mut model, &[]);
    drop(update(&mut model, Msg::Clock(fake::NOW_MS + 60_000)));
    assert!(model.session.as_ref().unwrap().switching.is_empty());
    assert_eq!(model.notices.all().last().unwrap().level, Level::Error);
}

#[test]
fn stealing_from_a_target_of_others_asks() {
    let mut model = fake::model(120, 40);
    let other = SessionInfo { id: "other".to_owned(), ..fake::info(Mode::Mirror) };
    let others = [fake::info(Mode::Mirror), other];
    assert_eq!(steal(&mut model, &others), []);
    assert!(matches!(model.overlay, Some(Overlay::Confirm(_))));
    assert_eq!(type_keys(&mut model, "\n"), [], "the safe answer is chosen at first");
    steal(&mut model, &others);
    assert_eq!(type_keys(&mut model, "y\n"), [Effect::SetMode { port: 80, mode: Mode::Steal }]);
}

#[test]
fn stealing_in_a_cluster_asks_and_says_who_counts_on_the_target() {
    let mut model = fake::model(120, 40);
    let info = SessionInfo {
        place: "dev/shop".to_owned(),
        sharing: vec!["other sessions: ann@laptop since noon steals 80".to_owned()],
        ..fake::info(Mode::Mirror)
    };
    // The same name in another namespace is another target.
    let elsewhere =
        SessionInfo { id: "other".to_owned(), place: "dev/test".to_owned(), ..fake::info(Mode::Mirror) };
    fake::say(&mut model, HostMsg::Info(Box::new(info)));
    assert_eq!(steal(&mut model, &[elsewhere]), []);
    let Some(Overlay::Confirm(asked)) = &model.overlay else { panic!("it asks") };
    assert!(asked.text.contains("in dev/shop serves others") && asked.text.contains("ann@laptop"));
    assert_eq!(type_keys(&mut model, "y\n"), [Effect::SetMode { port: 80, mode: Mode::Steal }]);
}

/// A target of the cluster, chosen on the screen of targets.
fn on_cluster_target() -> Model {
    let mut model = fake::model(120, 40);
    let cluster = ClusterConfig {
        context: Some("dev".to_owned()),
        namespace: Some("shop".to_owned()),
        ..ClusterConfig::default()
    };
    let row = TargetRow {
        reference: "deployment/api".to_owned(),
        place: "dev/shop".to_owned(),
        cluster: Some(cluster),
        ..TargetRow::default()
    };
    drop(update(&mut model, Msg::Targets { source: "cluster", found: Ok(vec![row]) }));
    type_keys(&mut model, "q");
    model
}

#[test]
fn a_launch_that_steals_in_a_cluster_asks_and_keeps_the_place() {
    let mut model = on_cluster_target();
    type_keys(&mut model, "Lnode x.js");
    key(&mut model, KeyCode::Tab);
    key(&mut model, KeyCode::Right);
    assert_eq!(type_keys(&mut model, "\n"), []);
    assert!(matches!(model.overlay, Some(Overlay::Confirm(_))));
    let effects = type_keys(&mut model, "y\n");
    let [Effect::Launch(request), Effect::SaveRecent(_)] = effects.as_slice() else { panic!("{effects:?}") };
    assert!(request.steal);
    assert_eq!(request.cluster.as_ref().unwrap().namespace.as_deref(), Some("shop"));
}

#[test]
fn a_namespace_is_chosen_by_a_part_of_its_name() {
    let mut model = on_cluster_target();
    assert_eq!(type_keys(&mut model, "n"), [Effect::AskPlaces(PlaceKind::Namespace)]);
    let names = ["default", "kube-system", "shop"].map(str::to_owned).to_vec();
    drop(update(&mut model, Msg::Places(PlaceKind::Namespace, Ok(names))));
    assert_eq!(type_keys(&mut model, "kube\n"), [Effect::LookAt(Look::Namespace("kube-system".to_owned()))]);
    assert_eq!(type_keys(&mut model, "0"), [Effect::LookAt(Look::AllNamespaces)]);
    assert_eq!(type_keys(&mut model, ":ns team-x\n"), [Effect::LookAt(Look::Namespace("team-x".to_owned()))]);
    // Who may not list namespaces types one.
    type_keys(&mut model, "n");
    drop(update(&mut model, Msg::Places(PlaceKind::Namespace, Err("you may not".to_owned()))));
    assert_eq!(type_keys(&mut model, "mine\n"), [Effect::LookAt(Look::Namespace("mine".to_owned()))]);
    // Names that come after the list was closed open nothing.
    type_keys(&mut model, "C");
    key(&mut model, KeyCode::Esc);
    drop(update(&mut model, Msg::Places(PlaceKind::Context, Ok(vec!["dev".to_owned()]))));
    assert!(model.overlay.is_none());
    assert_eq!(type_keys(&mut model, ":ctx prod\n"), [Effect::LookAt(Look::Context("prod".to_owned()))]);
}

#[test]
fn no_single_key_destroys() {
    for sign in (' '..='~').chain(['\n']) {
        let mut model = fake::model(120, 40);
        let effects = type_keys(&mut model, &sign.to_string());
        let harmless = |effect: &Effect| {
            matches!(
                effect,
                Effect::Copy { .. }
                    | Effect::AskPlaces(_)
                    | Effect::Edit { .. }
                    | Effect::Fetch { .. }
                    | Effect::Mouse(_)
                    | Effect::TerminalSize(..)
                    | Effect::Resend { .. }
            )
        };
        assert!(effects.iter().all(harmless), "{sign:?}: {effects:?}");
        assert!(!model.quit, "{sign:?}");
    }
}

#[test]
fn escape_goes_back_step_by_step() {
    let mut model = fake::model(120, 40);
    type_keys(&mut model, "/orders\n");
    type_keys(&mut model, "\n");
    let step = |model: &mut Model| {
        key(model, KeyCode::Esc);
        let session = model.session.as_ref().unwrap();
        (session.details_have_keys(), session.filter().unwrap().text.clone(), model.screen())
    };
    assert_eq!(step(&mut model), (false, "orders".to_owned(), Screen::Session));
    assert_eq!(step(&mut model), (false, String::new(), Screen::Session));
    assert_eq!(step(&mut model), (false, String::new(), Screen::Targets));
    key(&mut model, KeyCode::Esc);
    assert!(matches!(model.overlay, Some(Overlay::Chooser(_))) && !model.quit, "the session lives: it asks");
    type_keys(&mut model, "l");
    assert!(model.quit);
}

#[test]
fn a_wrong_filter_stays_open_and_a_cancelled_one_was_never_there() {
    let mut model = fake::model(120, 40);
    type_keys(&mut model, "/~c 5\n");
    let rows = model.session.as_ref().unwrap().stream().unwrap().len();
    type_keys(&mut model, "/ | ~lat x\n");
    assert!(matches!(&model.overlay, Some(Overlay::Filter { error: Some(_), .. })));
    key(&mut model, KeyCode::Esc);
    let session = model.session.as_ref().unwrap();
    assert_eq!((session.filter().unwrap().text.as_str(), session.stream().unwrap().len()), ("~c 5", rows));
}

#[test]
fn messages_of_an_earlier_connection_are_ignored() {
    let mut model = fake::model(120, 40);
    let said = HostMsg::Gone { reason: String::new() };
    let generation = model.generation - 1;
    drop(update(&mut model, Msg::Host { generation, said }));
    assert_eq!(model.session.as_ref().unwrap().link, Link::Up);
}

#[test]
fn read_only_changes_nothing_outside() {
    let mut model = fake::model(120, 40);
    model.options.read_only = true;
    assert_eq!(type_keys(&mut model, "Ms"), []);
    assert_eq!(type_keys(&mut model, "Xy\n"), []);
}

#[test]
fn a_comment_is_written_found_and_taken_away() {
    let mut model = fake::model(120, 40);
    type_keys(&mut model, "kk;slow one\n/~comment slow\n");
    let session = model.session.as_ref().unwrap();
    let rows: Vec<_> = session.stream().unwrap().seqs().collect();
    assert_eq!(rows.len(), 1);
    assert_eq!(session.store().comment(rows[0]), Some("slow one"));
    type_keys(&mut model, ";");
    key(&mut model, KeyCode::Esc);
    type_keys(&mut model, ";");
    for _ in "slow one".chars() {
        key(&mut model, KeyCode::Backspace);
    }
    type_keys(&mut model, "\n");
    assert_eq!(model.session.as_ref().unwrap().stream().unwrap().len(), 0, "without it no row passes");
}

#[test]
fn an_edited_request_is_sent_after_a_question() {
    let mut model = fake::model(120, 40);
    type_keys(&mut model, "/~m POST\n");
    let effects = type_keys(&mut model, "e");
    let [Effect::Edit { seq, text }] = effects.as_slice() else { panic!("{effects:?}") };
    let edited = |after: &str| Msg::Edited { seq: *seq, before: text.clone(), after: Ok(after.to_owned()) };
    assert_eq!(update(&mut model, edited(text)), [], "nothing was changed");
    assert_eq!(update(&mut model, edited("# nothing left\n")), []);
    // What cannot be understood is not lost.
    assert_eq!(update(&mut model, edited("POST /x\nno header\n")), []);
    key(&mut model, KeyCode::Esc);
    let again = type_keys(&mut model, "e");
    assert!(
        matches!(again.as_slice(), [Effect::Edit { text, .. }] if text.contains("no header")),
        "{again:?}"
    );
    assert_eq!(update(&mut model, edited("PUT /x\na: b\n\nnew")), [], "it asks");
    assert_eq!(type_keys(&mut model, "\n"), [], "the safe answer is chosen at first");
    update(&mut model, edited("PUT /x\na: b\n\nnew"));
    let sent = type_keys(&mut model, "y\n");
    let [Effect::Resend { edited: Some(draft), .. }] = sent.as_slice() else { panic!("{sent:?}") };
    assert_eq!((draft.method.as_str(), draft.body.as_str()), ("PUT", "new"));
    let get = update(&mut model, edited("GET /x\n"));
    assert!(matches!(get.as_slice(), [Effect::Resend { .. }]), "a GET changes nothing: {get:?}");
}

#[test]
fn the_way_goes_back_and_forward() {
    let mut model = fake::model(120, 40);
    let at = |model: &Model| (model.screen(), model.session.as_ref().unwrap().tab);
    type_keys(&mut model, "34");
    type_keys(&mut model, "[[");
    assert_eq!(at(&model), (Screen::Session, Tab::Traffic));
    type_keys(&mut model, "]");
    assert_eq!(at(&model), (Screen::Session, Tab::Files));
    type_keys(&mut model, "S-");
    assert_eq!(at(&model), (Screen::Session, Tab::Files));
    type_keys(&mut model, "-");
    assert_eq!(model.screen(), Screen::Sessions);
    type_keys(&mut model, "[");
    assert_eq!(at(&model), (Screen::Session, Tab::Files));
}

#[test]
fn pause_switches_all_ports_off_and_resume_back() {
    let mut model = fake::model(120, 40);
    assert_eq!(type_keys(&mut model, ":pause\n"), []);
    assert_eq!(type_keys(&mut model, "y\n"), [Effect::SetMode { port: 80, mode: Mode::Off }]);
    let answer = fake::info(Mode::Off).ports.remove(0);
    fake::say(&mut model, HostMsg::ModeSet { port: 80, mode: Mode::Off, result: Ok(Some(answer)) });
    assert_eq!(type_keys(&mut model, ":resume\n"), [Effect::SetMode { port: 80, mode: Mode::Mirror }]);
    assert_eq!(type_keys(&mut model, ":resume\n"), [], "once");
}

#[test]
fn a_restarted_command_is_shown_in_its_new_session() {
    let mut model = fake::model(120, 40);
    assert_eq!(type_keys(&mut model, "6Ry\n"), [Effect::Restart]);
    let effects = update(&mut model, Msg::Restarted(Ok("n3w01".to_owned())));
    assert!(matches!(&effects[..], [Effect::Attach { id, .. }, ..] if id == "n3w01"), "{effects:?}");
    let session = model.session.as_ref().unwrap();
    assert_eq!((session.tab, session.store().len()), (Tab::Process, 0));
}

#[test]
fn the_mouse_chooses_rows_tabs_and_panes() {
    use crossterm::event::{KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
    let mut model = fake::model(120, 40);
    let mut mouse = |kind, column, row| {
        drop(update(&mut model, Msg::Mouse(MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE })));
        model.prepare();
        let session = model.session.as_ref().unwrap();
        let stream = session.stream();
        (session.tab, stream.and_then(|list| list.selected()), session.in_details)
    };
    let click = MouseEventKind::Down(MouseButton::Left);
    let (_, first, _) = mouse(click, 5, 5);
    let (_, second, _) = mouse(click, 5, 6);
    assert!(second > first && first.is_some());
    assert_eq!(
        mouse(MouseEventKind::ScrollUp, 5, 6).1,
        Some(1),
        "the wheel moves the choice, up to the first row"
    );
    assert!(mouse(click, 100, 10).2, "the details have the keys");
    assert!(!mouse(click, 5, 5).2);
    assert_eq!(mouse(click, 16, 2).0, Tab::Conns);
    model.options.mouse = false;
    let off = MouseEvent { kind: click, column: 2, row: 2, modifiers: KeyModifiers::NONE };
    drop(update(&mut model, Msg::Mouse(off)));
    assert_eq!(model.session.as_ref().unwrap().tab, Tab::Conns, "a mouse that is off does nothing");
}
