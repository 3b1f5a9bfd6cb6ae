//! What keys do: the order of Esc, questions before what cannot be taken back, a switch that stays pending until it is answered.

use crossterm::event::{KeyCode, KeyEvent};
use mirrord_protocol::session::v1::Mode;

use super::*;
use crate::ui::{fake, model::overlay::Overlay};

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

#[test]
fn a_switch_is_pending_until_the_agent_has_answered() {
    let mut model = fake::model(120, 40);
    assert_eq!(type_keys(&mut model, "Ms"), [Effect::SetMode { port: 80, mode: Mode::Steal }]);
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
    type_keys(&mut model, "Ms");
    drop(update(&mut model, Msg::Clock(fake::NOW_MS + 60_000)));
    assert!(model.session.as_ref().unwrap().switching.is_empty());
    assert_eq!(model.notices.all().last().unwrap().level, Level::Error);
}

#[test]
fn stealing_from_a_target_of_others_asks() {
    let mut model = fake::model(120, 40);
    let other = SessionInfo { id: "other".to_owned(), ..fake::info(Mode::Mirror) };
    drop(update(&mut model, Msg::Sessions(vec![fake::info(Mode::Mirror), other])));
    assert_eq!(type_keys(&mut model, "Ms"), []);
    assert!(matches!(model.overlay, Some(Overlay::Confirm(_))));
    assert_eq!(type_keys(&mut model, "\n"), [], "the safe answer is chosen at first");
    assert_eq!(type_keys(&mut model, "Msy\n"), [Effect::SetMode { port: 80, mode: Mode::Steal }]);
}

#[test]
fn no_single_key_destroys() {
    for sign in (' '..='~').chain(['\n']) {
        let mut model = fake::model(120, 40);
        let effects = type_keys(&mut model, &sign.to_string());
        let harmless = |effect: &Effect| {
            matches!(
                effect,
                Effect::Copy { .. } | Effect::Mouse(_) | Effect::TerminalSize(..) | Effect::Resend { .. }
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
